//! What crosses between the host and registry plugins, in the words of `wit/`: connectors make it and the registry layer
//! reads it, with no other type in between. Nothing of it is believed yet.

pub use super::registry::{
    exports::witgate::registry::registry::News,
    witgate::registry::types::{self, Change, Endpoint, Failure, State},
};

/// An endpoint of which there is nothing to say but its address.
#[cfg(test)]
pub fn plain(id: impl Into<String>, address: impl Into<String>) -> Endpoint {
    Endpoint {
        id: id.into(),
        address: address.into(),
        weight: 1,
        priority: 0,
        state: State::Ready,
        hostname: None,
        zone: None,
        labels: Vec::new(),
    }
}

//! What crosses between the host and registry plugins, in the words of `wit/`: connectors make it and the registry layer
//! reads it, with no other type in between. Nothing of it is believed yet.

pub use super::registry::{
    exports::witgate::plugin::registry::News,
    witgate::plugin::{
        etcd, memory,
        types::{Change, Endpoint, Failure},
    },
};

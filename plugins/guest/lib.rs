//! What several of the shipped plugins need, free of components and bindings, so that it is tested natively; all but
//! the client for HTTP, which is there for those that ask for the feature `http`.
//!
//! Nothing here is needed to write a plugin: the interface is the WIT text alone.

pub mod announce;
pub mod bytes;
pub mod claims;
pub mod entries;
pub mod escape;
pub mod fuse;
#[cfg(feature = "http")]
pub mod http;
pub mod json;
pub mod lists;
pub mod pace;
pub mod pause;
#[cfg(feature = "http")]
pub mod poll;
pub mod rpcx;
#[cfg(feature = "http")]
pub mod servers;
pub mod settings;
/// Which addresses can be an endpoint: the gateway's own rule, from its own file.
#[path = "../../gateway/registry/usable.rs"]
pub mod usable;
pub mod weighted;

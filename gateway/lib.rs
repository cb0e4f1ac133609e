//! Witgate: a service-discovery gateway that is extended with WebAssembly components.
//!
//! The order of the modules is the architecture: a module uses only modules above it.
//! `docs/architecture.md` tells the whole story.

pub mod admin;
pub mod bindings;
pub mod catalog;
pub mod client;
pub mod config;
pub mod connector;
pub mod http;
pub mod plugin;
pub mod registry;
pub mod resilience;
pub mod run;
pub mod selector;
pub mod server;
pub mod tcp;
pub mod telemetry;
pub mod upstream;

//! Witgate: a service-discovery gateway that is extended with WebAssembly components.
//!
//! The order of the modules is the architecture: a module uses only modules above it.
//! `docs/architecture.md` tells the whole story.

pub mod backoff;
pub mod files;
pub mod syntax;
pub mod upstream;
pub mod resilience;
pub mod telemetry;
pub mod document;
pub mod bindings;
pub mod registry;
pub mod tls;
pub mod net;
pub mod connector;
pub mod config;
pub mod selector;
pub mod catalog;
pub mod client;
pub mod otlp;
pub mod check;
pub mod plugin;
pub mod dispatch;
pub mod server;
pub mod http;
pub mod tcp;
pub mod rpcx;
pub mod worker;
pub mod admin;
pub mod run;

//! Plugins
#![allow(dead_code)]
mod engine;
mod faults;
mod limits;
mod load;
mod runtime;
mod selector;
mod shipped;

#[cfg(test)]
#[path = "../../tests/support/guest.rs"]
mod testing;

//! The whole way from text to what runs.

mod accepted;
mod expected;
mod fuzz;
mod heads;
mod order;
mod restart;

use std::path::Path;

use super::{Config, Problems};

/// What a text makes of the gateway, as if it stood in a folder without other files.
fn parse(text: &str) -> Result<Config, Problems> {
    super::parse(text, Path::new("witgate.toml"))
}

/// What a text makes of the gateway after a listener and two upstreams, `a` and `b`.
fn running(text: &str) -> Config {
    let before = "
        [[listener]]
        address = \"127.0.0.1:8080\"
        [upstream.a]
        service = \"a\"
        registry = \"memory\"
        [upstream.b]
        service = \"b\"
        registry = \"memory\"
    ";
    parse(&format!("{before}\n{text}")).unwrap_or_else(|problems| panic!("{problems}"))
}

//! The access log of a listener.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A line for each request, call or connection of a listener, when it is over. With neither `file` nor `socket` it goes to
/// standard output.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct AccessLog {
    /// `text` or `json`. Default: `text`.
    pub format: String,
    /// A file that is appended to. It is opened anew on SIGUSR1, after it was moved away. Default: none.
    pub file: Option<String>,
    /// A Unix socket that somebody listens at, for a stream or for datagrams. Default: none.
    pub socket: Option<String>,
    /// Of the requests that go well, the share that has a line, from 0 to 1. Whatever fails has one. Default: 1.
    pub sample: f64,
    /// Names of parameters of queries whose values are left out, like `access_token`; `*` leaves out all. Default: none.
    pub hide_query: Vec<String>,
    /// Headers whose values are left out: `user-agent`, `x-forwarded-for`. Default: none.
    pub hide_headers: Vec<String>,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self {
            format: "text".into(),
            file: None,
            socket: None,
            sample: 1.0,
            hide_query: Vec::new(),
            hide_headers: Vec::new(),
        }
    }
}

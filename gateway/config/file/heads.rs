//! What a route writes into heads, and where it sends clients.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::OneOrMore;

/// Headers that are removed, then set, then added.
///
/// Those of the connection, of where a message ends and of who sent it are the gateway's and cannot be written.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct HeaderChanges {
    /// Headers and their one value, whatever was there. Default: none.
    pub set: BTreeMap<String, String>,
    /// Headers that come in addition to what is there, with a value or several. Default: none.
    pub add: BTreeMap<String, OneOrMore>,
    /// Names of headers that are taken away. Default: none.
    pub remove: Vec<String>,
}

/// Sends clients elsewhere, with the same path and query.
///
/// A request that is there already is not sent there again: the next route that matches has it.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Redirect {
    /// `https` or `http`. Default: that of the request.
    pub scheme: Option<String>,
    /// A host name without port. Default: that of the request.
    pub host: Option<String>,
    /// Default: the usual one of the scheme.
    pub port: Option<u64>,
    /// 301, 302, 303, 307 or 308. Default: 308.
    pub status: Option<u64>,
}

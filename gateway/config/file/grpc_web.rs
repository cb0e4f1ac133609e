//! Calls of gRPC from pages in browsers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Translates gRPC-Web (`application/grpc-web`, `application/grpc-web-text`) to gRPC, and tells browsers which pages of
/// other origins may use it (CORS).
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct GrpcWeb {
    /// Origins as browsers write them: `https://app.example.com`, with a port where it is not the usual one. Required.
    pub allow_origins: Vec<String>,
    /// Headers that pages may send, besides those that gRPC-Web needs: `authorization`. Default: none.
    pub allow_headers: Vec<String>,
    /// Headers of answers that pages may read, besides `grpc-status`, `grpc-message` and `grpc-status-details-bin`.
    /// Default: none.
    pub expose_headers: Vec<String>,
    /// Seconds that a browser need not ask again, 0 to 86400. Default: 7200.
    pub max_age_secs: u64,
    /// Pages may send cookies and client certificates. Default: false.
    pub allow_credentials: bool,
}

impl Default for GrpcWeb {
    fn default() -> Self {
        Self {
            allow_origins: Vec::new(),
            allow_headers: Vec::new(),
            expose_headers: Vec::new(),
            // No browser takes more than a day, and Chrome no more than this.
            max_age_secs: 7_200,
            allow_credentials: false,
        }
    }
}

//! TLS: certificates that are shown, and those that are believed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a listener ends TLS. The files are followed: a renewed certificate takes effect for the next connection.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["certificates"]))]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct ListenerTls {
    /// The certificates that clients are shown, by the name that they ask for; whoever asks for no name of theirs
    /// gets the first. At least one. Required.
    pub certificates: Option<Vec<Certificate>>,
    /// The certificates (PEM) of the authorities whose clients are believed. Default: clients are asked for none.
    pub client_ca_file: Option<String>,
    /// `required`: only clients with a certificate are served. `optional`: those without are, too. Default:
    /// `required`, with `client_ca_file`.
    pub client_certificate: Option<String>,
    /// Keys of session tickets, each a line of 64 hexadecimal digits, the newest last; so that sessions can be taken
    /// up at another gateway, and after a restart. Default: keys of this process alone.
    pub ticket_keys_file: Option<String>,
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["cert_file", "key_file"]))]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Certificate {
    /// The certificate (PEM), with those of its issuers behind it. Required.
    pub cert_file: Option<String>,
    /// Its key (PEM). Required.
    pub key_file: Option<String>,
}

/// TLS to instances. The files are followed.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct UpstreamTls {
    /// The certificates (PEM) of the authorities that are believed. Default: those of the system.
    pub ca_file: Option<String>,
    /// The gateway's own certificate (PEM), for instances that ask for one. Default: none.
    pub cert_file: Option<String>,
    /// The key (PEM) of `cert_file`. Required with it.
    pub key_file: Option<String>,
    /// The name that is asked for, and that the certificate of an instance must have. Default: the host name of each
    /// instance if it is a fully qualified one, else its address.
    pub server_name: Option<String>,
}

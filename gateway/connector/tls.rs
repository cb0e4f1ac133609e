//! TLS towards a registry, for every connector that speaks it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::{Examiner, Way};

/// TLS towards a registry. The files are read each time a connection is made.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("required" = ["ca_file"]))]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tls {
    /// The certificates (PEM) of the authorities that are believed. Required.
    pub ca_file: Option<String>,
    /// The gateway's own certificate (PEM), if the registry asks for one. Default: none.
    pub cert_file: Option<String>,
    /// The key (PEM) of `cert_file`. Required with it.
    pub key_file: Option<String>,
    /// The name that the registry's certificate must have. Default: the host of the endpoint.
    pub server_name: Option<String>,
}

/// TLS towards a registry. Files are read each time a connection is made, so renewed certificates count.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientTls {
    pub ca_file: PathBuf,
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The name the certificate must have, if not the host of the endpoint.
    pub server_name: Option<String>,
}

pub(crate) fn grant(tls: &Tls, examiner: &mut Examiner<'_>, way: &Way) -> Option<ClientTls> {
    let ca_file = examiner
        .required(way, "ca_file", &tls.ca_file)
        .and_then(|path| examiner.path(&way.key("ca_file"), path));
    let cert = tls.cert_file.as_ref().map(|path| examiner.path(&way.key("cert_file"), path));
    let key = tls.key_file.as_ref().map(|path| examiner.path(&way.key("key_file"), path));
    let certificate = match (cert, key) {
        (Some(cert), Some(key)) => cert.zip(key),
        (None, None) => None,
        (Some(_), None) => examiner.together(way, "cert_file", "key_file"),
        (None, Some(_)) => examiner.together(way, "key_file", "cert_file"),
    };
    if let Some(name) = &tls.server_name {
        examiner.text(&way.key("server_name"), name);
    }
    Some(ClientTls { ca_file: ca_file?, certificate, server_name: tls.server_name.clone() })
}

/// Whether it is what a server of a registry is written as.
pub(super) fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let port_good = port.parse::<u16>().is_ok_and(|port| port != 0);
    let host_good = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)),
    };
    port_good && host_good
}

//! What a configuration says of TLS, after its checks.

use std::path::PathBuf;

use rustls::pki_types;

use crate::document::Secret;

/// Files with a certificate, its chain behind it, and with its key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PairFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// How a listener ends TLS.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerSettings {
    /// At least one. The first is shown to clients that ask for no name of any.
    pub certificates: Vec<PairFiles>,
    /// None: clients are not asked for certificates.
    pub clients: Option<ClientRule>,
    /// The keys of session tickets, for several gateways and for restarts. None: keys of this process alone.
    pub ticket_keys: Option<PathBuf>,
}

/// Which certificates of clients are believed, and whether there must be one.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientRule {
    pub ca_file: PathBuf,
    pub required: bool,
}

/// Who is believed to say who an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Authorities {
    /// Those of the system.
    System,
    File(PathBuf),
    /// Those of this text in PEM, which stands in a file of another kind.
    Given {
        within: PathBuf,
        pem: String,
    },
}

/// What the gateway shows, and the key to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Certificate {
    Files(PairFiles),
    /// In PEM, both of which stand in a file of another kind.
    Given {
        within: PathBuf,
        certificate: String,
        key: Secret,
    },
}

impl From<PairFiles> for Certificate {
    fn from(files: PairFiles) -> Self {
        Self::Files(files)
    }
}

/// How endpoints are spoken to by TLS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientSettings {
    pub authorities: Authorities,
    /// What the gateway shows if it is asked.
    pub certificate: Option<Certificate>,
    /// The name that is asked for and checked. None: that of each endpoint.
    pub server_name: Option<ServerName>,
}

/// A host name or an address, as it can stand in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerName(pub(super) pki_types::ServerName<'static>);

impl ServerName {
    /// None if it is neither.
    pub fn new(text: &str) -> Option<Self> {
        pki_types::ServerName::try_from(text.to_owned()).ok().map(Self)
    }
}

//! One policy towards endpoints: whom the gateway believes, and who it is itself.

use std::{io, net::IpAddr, path::PathBuf, sync::Arc};

use arc_swap::ArcSwapOption;
use rustls::{
    AlertDescription, ClientConfig, Error, RootCertStore,
    client::Resumption,
    pki_types::{DnsName, ServerName},
    sign::SingleCertAndKey,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    certificate::{self, FileError},
    files::{Contents, Files, Running},
    identity::Validity,
    pair::Pair,
    provider::{VERSIONS, provider},
    settings::{Authorities, Certificate, ClientSettings, PairFiles},
};

/// As a client and a server agree on a protocol.
pub(super) const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Names of endpoints whose sessions are remembered.
const SESSIONS: usize = 1024;

/// What is to be spoken over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
    /// One of these two, whichever is agreed on.
    Either,
    /// Nothing that TLS is told of.
    Any,
}

impl Protocol {
    /// As both sides name what they speak, the better first.
    pub(super) fn names(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http1 => &[HTTP1],
            Self::Http2 => &[HTTP2],
            Self::Either => &[HTTP2, HTTP1],
            Self::Any => &[],
        }
    }
}

/// Why hands were not shaken.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("the files of the TLS policy cannot be used")]
    NoPolicy,
    #[error("the endpoint does not believe the gateway's certificate: {0}")]
    NotBelieved(io::Error),
    #[error("no TLS: {0}")]
    Failed(#[from] io::Error),
    #[error("it does not speak HTTP/2")]
    NotHttp2,
}

impl HandshakeError {
    /// Whether this says something about the gateway, and nothing about the endpoint.
    pub fn is_own(&self) -> bool {
        matches!(self, Self::NoPolicy | Self::NotBelieved(_))
    }
}

/// Shared by all upstreams with the same settings, and by all workers, so that sessions resume.
pub struct Client {
    server_name: Option<ServerName<'static>>,
    /// None while the files cannot be used.
    configs: Arc<ArcSwapOption<Configs>>,
    _running: Option<Running>,
}

struct Configs {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    any: Arc<ClientConfig>,
    either: Arc<ClientConfig>,
}

impl PartialEq for Client {
    /// Whether it is the same one.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl Client {
    /// Reads the files, and follows them from now on. Those that cannot be used are waited for.
    pub(super) fn open(settings: ClientSettings, files: &Files) -> Self {
        let server_name = settings.server_name.clone().map(|name| name.0);
        let paths = paths(&settings);
        let contents = Contents::read(&paths);
        let built = contents.and_then(|contents| Ok((build(&settings, &contents)?, contents)));
        let (configs, validity, contents) = match built {
            Ok(((configs, validity), contents)) => (Some(Arc::new(configs)), validity, Some(contents)),
            Err(error) => {
                tracing::error!(%error, "No TLS to endpoints until these files can be used");
                (None, None, None)
            }
        };
        let configs = Arc::new(ArcSwapOption::new(configs));
        let current = configs.clone();
        let take = move |contents: &Contents| {
            let (configs, validity) = build(&settings, contents)?;
            current.store(Some(Arc::new(configs)));
            Ok(validity)
        };
        let running = (!paths.is_empty()).then(|| files.follow(paths, contents.as_ref(), validity, take));
        Self { server_name, configs, _running: running }
    }

    /// The name of an endpoint that is asked for and checked, if it is the endpoint's own and not the policy's: what
    /// it is called by its registry, as far as that is a fully qualified name.
    pub fn own_name<'n>(&self, hostname: Option<&'n str>) -> Option<&'n str> {
        let hostname = hostname.filter(|_| self.server_name.is_none())?;
        let name = hostname.strip_suffix('.').unwrap_or(hostname);
        let qualified = name.contains('.') && name.parse::<IpAddr>().is_err();
        (qualified && DnsName::try_from_str(name).is_ok()).then_some(name)
    }

    /// Shakes hands with an endpoint at this address, which goes by this name if it has one of its own. Has no time
    /// limit of its own.
    pub async fn connect<S>(
        &self,
        stream: S,
        address: IpAddr,
        own_name: Option<&str>,
        protocol: Protocol,
    ) -> Result<TlsStream<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let configs = self.configs.load_full().ok_or(HandshakeError::NoPolicy)?;
        let config = match protocol {
            Protocol::Http1 => &configs.http1,
            Protocol::Http2 => &configs.http2,
            Protocol::Either => &configs.either,
            Protocol::Any => &configs.any,
        };
        let own_name = own_name.and_then(|name| ServerName::try_from(name.to_owned()).ok());
        let name = self.server_name.clone().or(own_name).unwrap_or_else(|| address.into());
        let stream = TlsConnector::from(config.clone()).connect(name, stream).await.map_err(failed)?;
        // Who has not heard of the extension speaks HTTP/1.1.
        if protocol == Protocol::Http2 && stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            return Err(HandshakeError::NotHttp2);
        }
        Ok(stream)
    }
}

fn failed(error: io::Error) -> HandshakeError {
    use AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked,
        CertificateUnknown, UnknownCA, UnsupportedCertificate,
    };
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(Error::AlertReceived(
            AccessDenied
            | BadCertificate
            | CertificateExpired
            | CertificateRequired
            | CertificateRevoked
            | CertificateUnknown
            | UnknownCA
            | UnsupportedCertificate,
        )) => HandshakeError::NotBelieved(error),
        Some(
            Error::NoApplicationProtocol | Error::AlertReceived(AlertDescription::NoApplicationProtocol),
        ) => HandshakeError::NotHttp2,
        _ => HandshakeError::Failed(error),
    }
}

/// The files of a policy: the authorities, the certificate, the key.
fn paths(settings: &ClientSettings) -> Vec<PathBuf> {
    let certificate = match &settings.certificate {
        Some(Certificate::Files(pair)) => vec![&pair.certificate, &pair.key],
        Some(Certificate::Given { .. }) | None => Vec::new(),
    };
    let ca = match &settings.authorities {
        Authorities::System | Authorities::Given { .. } => None,
        Authorities::File(path) => Some(path),
    };
    // That of the gateway first, which is the one that ends.
    certificate.into_iter().chain(ca).cloned().collect()
}

fn build(settings: &ClientSettings, contents: &Contents) -> Result<(Configs, Option<Validity>), FileError> {
    let mut contents = contents.0.iter();
    let pair = match &settings.certificate {
        Some(Certificate::Files(files)) => {
            let (certificate, key) = (contents.next(), contents.next());
            let content = |content: Option<&Vec<u8>>| content.cloned().unwrap_or_default();
            Some(Pair::of(files, &content(certificate), &content(key))?)
        }
        Some(Certificate::Given { within, certificate, key }) => {
            let files = PairFiles { certificate: within.clone(), key: within.clone() };
            Some(Pair::of(&files, certificate.as_bytes(), key.0.as_bytes())?)
        }
        None => None,
    };
    let roots = match &settings.authorities {
        Authorities::System => system()?,
        Authorities::Given { within, pem } => certificate::authorities(within, pem.as_bytes())?,
        Authorities::File(path) => {
            certificate::authorities(path, contents.next().map(Vec::as_slice).unwrap_or_default())?
        }
    };
    let validity = pair.as_ref().map(|pair| pair.identity.validity);
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(FileError::Unsupported)?
        .with_root_certificates(roots);
    let config = match pair {
        Some(pair) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair.certified))),
        None => builder.with_no_client_auth(),
    };
    let speaking = |protocols: &[&[u8]]| {
        let mut config = config.clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Arc::new(config)
    };
    let [http1, http2, either, any] =
        [Protocol::Http1, Protocol::Http2, Protocol::Either, Protocol::Any].map(|of| speaking(of.names()));
    let configs = Configs { http1, http2, either, any };
    Ok((configs, validity))
}

/// Whom the system believes, at the moment of the call.
fn system() -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(FileError::NoSystem) } else { Ok(roots) }
}

/// Whether the files of a policy can be used.
pub(crate) fn check(settings: &ClientSettings) -> Result<(), FileError> {
    build(settings, &Contents::read(&paths(settings))?).map(drop)
}

//! How one listener ends TLS.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use rustls::{
    HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    pki_types::CertificateDer,
    server::{
        NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier,
    },
};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    certificate::{self, FileError},
    client::{HTTP2, Protocol},
    files::{Contents, Files, Running},
    identity::{Identity, Validity, forwarded},
    names::Names,
    pair::Pair,
    provider::{VERSIONS, provider},
    settings::{ClientRule, PairFiles, ServerSettings},
    tickets::{ROTATE, Secrets, Tickets},
};

/// Ends TLS for one listener, on all workers.
pub struct Server {
    policy: Arc<Policy>,
    _running: Vec<Running>,
}

struct Policy {
    clients: Option<ClientRule>,
    /// What clients may choose from, the best first.
    protocols: Vec<Vec<u8>>,
    names: Arc<Names>,
    /// Lasts while certificates are renewed, and with it all sessions.
    config: ArcSwap<ServerConfig>,
    /// Held by whoever changes something.
    parts: Mutex<Parts>,
}

struct Parts {
    secrets: Secrets,
    tickets: Arc<Tickets>,
}

/// What was agreed with a client.
#[derive(Debug)]
pub struct Accepted {
    /// It speaks HTTP/2.
    pub http2: bool,
    /// It took up a session.
    pub resumed: bool,
    /// The name that it asked for.
    pub name: Option<String>,
    /// What its certificate says, for `X-Forwarded-Client-Cert`; none without one.
    pub client: Option<String>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("names", &self.policy.names).finish_non_exhaustive()
    }
}

impl Server {
    /// For clients that speak this. Reads the files, and follows them from now on; must be called on the control runtime.
    pub(crate) fn open(
        settings: &ServerSettings,
        protocol: Protocol,
        files: &Files,
    ) -> Result<Self, FileError> {
        let read = |files: &PairFiles| {
            let contents = Contents::read(&files.paths().map(PathBuf::from))?;
            Ok((pair(files, &contents)?, contents))
        };
        let pairs: Vec<(Pair, Contents)> =
            settings.certificates.iter().map(read).collect::<Result<_, FileError>>()?;
        let (pairs, contents): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let validities: Vec<Validity> = pairs.iter().map(|pair| pair.identity.validity).collect();
        let names = Arc::new(Names::new(pairs));
        let keys = settings.ticket_keys.as_ref().map(|path| Contents::read(std::slice::from_ref(path)));
        let keys = keys.transpose()?;
        let secrets = match settings.ticket_keys.as_ref().zip(keys.as_ref()) {
            Some((path, keys)) => read_keys(path, keys)?,
            None => Secrets::own(),
        };
        let ca = settings.clients.as_ref().map(|rule| Contents::read(std::slice::from_ref(&rule.ca_file)));
        let ca = ca.transpose()?;
        let protocols = protocol.names();
        let protocols: Vec<_> = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let (config, tickets) = build(settings.clients.as_ref(), ca.as_ref(), &protocols, &names, &secrets)?;
        let policy = Arc::new(Policy {
            clients: settings.clients.clone(),
            protocols,
            names,
            config: ArcSwap::from_pointee(config),
            parts: Mutex::new(Parts { secrets, tickets }),
        });
        let mut running = Vec::new();
        for (place, pair_files) in settings.certificates.iter().enumerate() {
            let (policy, pair_files) = (policy.clone(), pair_files.clone());
            let paths = pair_files.paths().map(PathBuf::from).to_vec();
            let take = move |contents: &Contents| policy.renew(place, &pair_files, contents).map(Some);
            running.push(files.follow(paths, contents.get(place), validities.get(place).copied(), take));
        }
        if let Some(rule) = &settings.clients {
            let policy = policy.clone();
            let take = move |contents: &Contents| policy.believe(contents).map(|()| None);
            running.push(files.follow(vec![rule.ca_file.clone()], ca.as_ref(), None, take));
        }
        match settings.ticket_keys.clone() {
            Some(path) => {
                let (policy, own) = (policy.clone(), path.clone());
                let take = move |contents: &Contents| {
                    policy.seal_with(read_keys(&own, contents)?);
                    Ok(None)
                };
                running.push(files.follow(vec![path], keys.as_ref(), None, take));
            }
            None => running.push(Running::spawn(rotate(policy.clone()))),
        }
        Ok(Self { policy, _running: running })
    }

    /// Shakes hands. Has no time limit of its own; dropping the future closes the connection.
    pub async fn accept<S>(&self, stream: S) -> io::Result<(TlsStream<S>, Accepted)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.policy.config.load_full();
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let session = stream.get_ref().1;
        let accepted = Accepted {
            http2: session.alpn_protocol() == Some(HTTP2),
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            name: session.server_name().map(str::to_owned),
            client: self.client(session)?,
        };
        Ok((stream, accepted))
    }

    /// What the certificate of a client says. One that took up a session has shown it before, and it may have ended
    /// since.
    fn client(&self, session: &ServerConnection) -> io::Result<Option<String>> {
        let Some(own) = session.peer_certificates().and_then(|chain| chain.first()) else { return Ok(None) };
        let identity = match Identity::of(own) {
            Ok(identity) => identity,
            // It was believed. What it says cannot be read, so that only its digest tells who it is.
            Err(_) => Identity::unknown(),
        };
        if identity.validity.is_over(SystemTime::now()) {
            let expired = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
            return Err(io::Error::new(io::ErrorKind::InvalidData, expired));
        }
        let by = self.policy.names.uri(session.server_name());
        Ok(Some(forwarded(own, &identity, by.as_deref())))
    }
}

impl Policy {
    /// Shows another certificate from now on. Sessions go on.
    fn renew(&self, place: usize, files: &PairFiles, contents: &Contents) -> Result<Validity, FileError> {
        let pair = pair(files, contents)?;
        let validity = pair.identity.validity;
        let _one_at_a_time = self.lock();
        self.names.replace(place, pair);
        Ok(validity)
    }

    /// Believes other authorities of clients from now on. No session goes on.
    fn believe(&self, ca: &Contents) -> Result<(), FileError> {
        let mut parts = self.lock();
        let (config, tickets) =
            build(self.clients.as_ref(), Some(ca), &self.protocols, &self.names, &parts.secrets)?;
        parts.tickets = tickets;
        self.config.store(Arc::new(config));
        Ok(())
    }

    fn seal_with(&self, secrets: Secrets) {
        let mut parts = self.lock();
        parts.tickets.set(&secrets);
        parts.secrets = secrets;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn rotate(policy: Arc<Policy>) {
    loop {
        tokio::time::sleep(ROTATE).await;
        let rotated = policy.lock().secrets.rotated();
        policy.seal_with(rotated);
    }
}

fn pair(files: &PairFiles, contents: &Contents) -> Result<Pair, FileError> {
    match &contents.0[..] {
        [certificate, key] => Pair::of(files, certificate, key),
        _ => Err(FileError::NoCertificate(files.certificate.clone())),
    }
}

fn read_keys(path: &Path, contents: &Contents) -> Result<Secrets, FileError> {
    Secrets::read(path, contents.0.first().map(Vec::as_slice).unwrap_or_default())
}

/// A session is for one rule about clients and its authorities: it is worth as much as what was proved when it began.
fn build(
    rule: Option<&ClientRule>,
    ca: Option<&Contents>,
    protocols: &[Vec<u8>],
    names: &Arc<Names>,
    secrets: &Secrets,
) -> Result<(ServerConfig, Arc<Tickets>), FileError> {
    let mut policy = Sha256::new();
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(FileError::Unsupported)?;
    let builder = match rule.zip(ca.and_then(|ca| ca.0.first())) {
        Some((rule, pem)) => {
            policy.update([u8::from(rule.required)]);
            let roots = certificate::authorities(&rule.ca_file, pem)?;
            for authority in certificate::chain(&rule.ca_file, pem)? {
                policy.update(CertificateDer::as_ref(&authority));
            }
            builder.with_client_cert_verifier(verifier(rule, roots)?)
        }
        None => builder.with_no_client_auth(),
    };
    let tickets = Arc::new(Tickets::new(secrets, policy.finalize().into()));
    let mut config = builder.with_cert_resolver(names.clone());
    config.alpn_protocols = protocols.to_vec();
    config.ticketer = tickets.clone();
    // Tickets do it, without a lock that all workers take.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok((config, tickets))
}

fn verifier(rule: &ClientRule, roots: RootCertStore) -> Result<Arc<dyn ClientCertVerifier>, FileError> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    let builder = if rule.required { builder } else { builder.allow_unauthenticated() };
    let unfit = |error: VerifierBuilderError| FileError::Unfit {
        path: rule.ca_file.clone(),
        error: error.to_string(),
    };
    builder.build().map_err(unfit)
}

/// Whether the authorities of clients can be used.
pub(crate) fn check_clients(ca_file: &Path) -> Result<(), FileError> {
    let rule = ClientRule { ca_file: ca_file.into(), required: true };
    let roots = certificate::authorities(ca_file, &certificate::read(ca_file)?)?;
    verifier(&rule, roots).map(drop)
}

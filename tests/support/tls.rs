//! Both sides of TLS: a client that speaks it, a server that remembers what it was asked, and the tools of OpenSSL.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use rustls::{
    ClientConfig, HandshakeKind, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::certs::Pair;

pub fn roots(ca: &Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_file_iter(ca).unwrap().map(Result::unwrap));
    roots
}

fn chain(pair: &Pair) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_file_iter(&pair.certificate).unwrap().map(Result::unwrap).collect();
    (chain, PrivateKeyDer::from_pem_file(&pair.key).unwrap())
}

/// What a client believes and shows. Sessions are taken up by those who share it.
pub fn client(ca: &Path, pair: Option<&Pair>, protocols: &[&str]) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder().with_root_certificates(roots(ca));
    let mut config = match pair.map(chain) {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

pub async fn connect(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
) -> io::Result<client::TlsStream<TcpStream>> {
    connect_over(config, TcpStream::connect(address).await?, name).await
}

/// The same over what is a connection already.
pub async fn connect_over<S: AsyncRead + AsyncWrite + Unpin>(
    config: &Arc<ClientConfig>,
    stream: S,
    name: &str,
) -> io::Result<client::TlsStream<S>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(config.clone()).connect(name, stream).await
}

/// The first message of a client that asks for this name.
pub fn hello(name: &str) -> Vec<u8> {
    let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut message = Vec::new();
    client.write_tls(&mut message).unwrap();
    message
}

/// Sends a request on a connection of its own and reads all that comes.
pub async fn ask(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    name: &str,
    request: &str,
) -> io::Result<String> {
    let mut stream = connect(config, address, name).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// A request that ends its connection.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n")
}

/// A connection as its server saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Greeted {
    pub name: Option<String>,
    pub protocol: Option<String>,
    pub resumed: bool,
    /// The client showed a certificate.
    pub client: bool,
}

/// A server with TLS that answers every request of HTTP/1 with the name that it was asked for. Stops when it is
/// dropped.
pub struct TlsOrigin {
    pub address: SocketAddr,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    greeted: Arc<Mutex<Vec<Greeted>>>,
    task: JoinHandle<()>,
}

impl Drop for TlsOrigin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a server shows, and of whose clients it wants certificates.
pub fn server(pair: &Pair, clients: Option<&Path>, protocols: &[&str]) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder();
    let builder = match clients {
        Some(ca) => builder
            .with_client_cert_verifier(WebPkiClientVerifier::builder(roots(ca).into()).build().unwrap()),
        None => builder.with_no_client_auth(),
    };
    let (chain, key) = chain(pair);
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

impl TlsOrigin {
    /// Answers each request with the text of its head behind the name.
    pub async fn start(config: Arc<ServerConfig>) -> Self {
        Self::serving(config, |mut stream, greeted| async move {
            while let Some(head) = read_head(&mut stream).await {
                let body = format!("{}\n{head}", greeted.name.as_deref().unwrap_or("-"));
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        })
        .await
    }

    pub async fn serving<F: Future<Output = ()> + Send + 'static>(
        config: Arc<ServerConfig>,
        serve: impl Fn(server::TlsStream<TcpStream>, Greeted) -> F + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let greeted = Arc::<Mutex<Vec<Greeted>>>::default();
        let config = Arc::new(Mutex::new(config));
        let (current, seen, serve) = (config.clone(), greeted.clone(), Arc::new(serve));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let config = current.lock().unwrap().clone();
                let (acceptor, seen, serve) = (TlsAcceptor::from(config), seen.clone(), serve.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let session = stream.get_ref().1;
                    let protocol = session.alpn_protocol();
                    let greeted = Greeted {
                        name: session.server_name().map(str::to_owned),
                        protocol: protocol.map(|protocol| String::from_utf8(protocol.to_vec()).unwrap()),
                        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
                        client: session.peer_certificates().is_some(),
                    };
                    seen.lock().unwrap().push(greeted.clone());
                    serve(stream, greeted).await;
                });
            }
        });
        Self { address, config, greeted, task }
    }

    /// Shakes hands by this from the next connection on.
    pub fn exchange(&self, config: Arc<ServerConfig>) {
        *self.config.lock().unwrap() = config;
    }

    pub fn greeted(&self) -> Vec<Greeted> {
        self.greeted.lock().unwrap().clone()
    }
}

/// Whether a certificate has this in it as text, such as the name of its owner.
pub fn mentions(certificate: &CertificateDer<'_>, name: &str) -> bool {
    certificate.windows(name.len()).any(|bytes| bytes == name.as_bytes())
}

/// The head of the next request; none at the end.
pub async fn read_head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// `openssl s_client` to that address, which sends `input` and ends when the other side does.
pub async fn s_client(address: SocketAddr, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string(), "-ign_eof"]).args(arguments);
    run(command, input).await
}

pub async fn curl(arguments: &[&str]) -> Output {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "30"]).args(arguments);
    run(command, "").await
}

async fn run(mut command: Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    tokio::task::spawn_blocking(move || {
        use std::io::Write as _;
        // Who has ended already reads nothing.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output().unwrap()
    })
    .await
    .unwrap()
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

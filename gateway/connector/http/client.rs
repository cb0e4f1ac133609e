//! The client behind the grant: one per registry, with connections that all its plugin's instances share.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::{
    client::legacy::{
        self,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until, timeout},
};
use tower_service::Service;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::{
    Grant,
    credential::Current,
    dial::{DialError, dial},
    login::{Granted, LoginError, Logins, Session},
};
use crate::{
    connector::lock,
    net,
    registry::Ceiling,
    tls::{self, Protocol},
};

/// To one address, and to shake hands there.
const CONNECT: Duration = Duration::from_secs(5);

/// From the request to the head of its answer, and from one part of the answer to the next.
const PATIENCE: Duration = Duration::from_secs(60);
/// A registry that tells of changes by answers that it holds back does so for ten minutes at most.
const LONGEST_PATIENCE: Duration = Duration::from_secs(900);

/// Requests to one registry at once, and per second in the long run: a gateway that starts asks for all its services.
const AT_ONCE: f64 = 50.0;
const PER_SECOND: f64 = 200.0;

/// A connection that nobody uses is closed after so long; most servers close theirs later.
const IDLE: Duration = Duration::from_secs(30);

/// For a login, all of it, and bytes of its answer.
const LOGIN: Duration = Duration::from_secs(10);
const LOGIN_BYTES: usize = 64 << 10;

/// One registry as its table names it.
pub(super) struct Client {
    granted: Grant,
    credential: Option<Current>,
    logins: Option<Logins>,
    inner: legacy::Client<Dial, WasiBody>,
    pace: Mutex<Ceiling>,
}

impl Client {
    /// Contacts nobody yet.
    pub fn new(granted: Grant, tls: Option<Arc<tls::Client>>) -> Self {
        let credential = granted.credential.clone().map(Current::new);
        let logins = granted.login.clone().map(|login| Logins::new(login, &granted.urls));
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(Dial { tls });
        let pace = Mutex::new(Ceiling::new(PER_SECOND, AT_ONCE, std::time::Instant::now()));
        Self { granted, credential, logins, inner, pace }
    }

    pub fn granted(&self) -> &Grant {
        &self.granted
    }

    /// Whether the table grants this request. What would have its own headers sent back is granted to nobody, nor is the
    /// login.
    pub fn allows(&self, request: &Request<WasiBody>) -> bool {
        let echoes = matches!(*request.method(), Method::TRACE | Method::CONNECT);
        let hidden =
            self.logins.as_ref().is_some_and(|logins| logins.hides(request.uri(), &self.granted.urls));
        !echoes && !hidden && self.covering(request.uri()).is_some()
    }

    /// The number of the granted URL that a request is for.
    fn covering(&self, uri: &Uri) -> Option<usize> {
        self.granted.urls.iter().position(|prefix| prefix.covers(uri))
    }

    /// Sends what is allowed. Redirects are answers like any other.
    pub async fn send(
        &self,
        mut request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Response<WasiBody>, Error> {
        let pause = lock(&self.pace).take(std::time::Instant::now());
        tokio::time::sleep(pause).await;
        if let Some(logins) = &self.logins {
            return self.send_as_user(logins, request, options).await;
        }
        if let Some(credential) = &self.credential {
            credential.add_to(request.headers_mut()).await;
        }
        let answer = self.ask(request, options).await?;
        if let Some(credential) = self.credential.as_ref().filter(|_| is_refused(&answer)) {
            credential.refused();
        }
        Ok(answer)
    }

    /// The same with a token, and once more with another one if the first is refused. A request with a body is not sent
    /// again, since its body is gone.
    async fn send_as_user(
        &self,
        logins: &Logins,
        request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Response<WasiBody>, Error> {
        let number = self.covering(request.uri()).unwrap_or_default();
        let Some(session) = logins.session(number) else { return Err(Error::HttpRequestDenied) };
        let (mut head, body) = request.into_parts();
        let again = body.is_end_stream().then(|| head.clone());
        let token = match session.token(self.log_in(logins, session)).await {
            Ok(token) => token,
            Err(error) => return without_token(&error),
        };
        logins.add(&token, &mut head.uri, &mut head.headers);
        let answer = self.ask(Request::from_parts(head, body), options).await?;
        if !is_refused(&answer) || !session.refused(&token) {
            return Ok(answer);
        }
        let Some(mut head) = again else { return Ok(answer) };
        match session.token(self.log_in(logins, session)).await {
            Ok(token) => logins.add(&token, &mut head.uri, &mut head.headers),
            Err(error) => return without_token(&error),
        }
        self.ask(Request::from_parts(head, whole(Bytes::new())), options).await
    }

    async fn log_in(&self, logins: &Logins, session: &Session) -> Result<Granted, LoginError> {
        let asking = async {
            let request = logins.request(session).await;
            let answer = self.inner.request(request).await.map_err(|error| text(told(&error)))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), LOGIN_BYTES).collect().await;
            let body = body.map_err(|_| "its answer broke off, or is too long".to_owned())?;
            Ok((status, body.to_bytes()))
        };
        let answer = timeout(LOGIN, asking).await;
        logins.heard(session, answer.unwrap_or_else(|_| Err(format!("no answer within {LOGIN:?}"))))
    }

    async fn ask(
        &self,
        request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Response<WasiBody>, Error> {
        let until_head = patience(options.first_byte_timeout);
        let answer = timeout(until_head, self.inner.request(request)).await;
        let answer = answer.map_err(|_| Error::HttpResponseTimeout)?.map_err(|error| told(&error))?;
        let patience = patience(options.between_bytes_timeout);
        Ok(answer.map(|body| Awaited { body, patience, until: None }.boxed_unsync()))
    }
}

fn is_refused(answer: &Response<WasiBody>) -> bool {
    matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// What a plugin hears when there is no token: that the registry refused the gateway, as it would have without one, or
/// that it does not answer.
fn without_token(error: &LoginError) -> Result<Response<WasiBody>, Error> {
    match error {
        LoginError::Refused { status, .. } => {
            let mut answer = Response::new(whole(Bytes::from(error.to_string())));
            *answer.status_mut() = *status;
            Ok(answer)
        }
        LoginError::Failed { .. } => Err(Error::InternalError(Some(error.to_string()))),
    }
}

fn whole(body: Bytes) -> WasiBody {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

fn text(error: Error) -> String {
    match error {
        Error::InternalError(Some(text)) => text,
        Error::ConnectionRefused => "connection refused".to_owned(),
        Error::ConnectionTimeout => "no connection in time".to_owned(),
        other => format!("{other:?}"),
    }
}

fn patience(asked: Option<Duration>) -> Duration {
    asked.unwrap_or(PATIENCE).min(LONGEST_PATIENCE)
}

/// In the words of WASI. The operator reads the text, if there is one.
fn told(error: &legacy::Error) -> Error {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(dial) = cause.downcast_ref::<DialError>() {
            return dial.told();
        }
        if let Some(hyper) = cause.downcast_ref::<hyper::Error>() {
            return broken(hyper);
        }
        source = cause.source();
    }
    Error::InternalError(Some(error.to_string()))
}

/// What the protocol or the connection came to.
pub(super) fn broken(error: &hyper::Error) -> Error {
    match error {
        error if error.is_incomplete_message() || error.is_closed() || error.is_canceled() => {
            Error::HttpResponseIncomplete
        }
        error if error.is_timeout() => Error::ConnectionReadTimeout,
        error if error.is_parse() => Error::HttpProtocolError,
        error => {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            match cause {
                Some(cause) => Error::InternalError(Some(format!("{error}: {cause}"))),
                None => Error::ConnectionTerminated,
            }
        }
    }
}

impl DialError {
    fn told(&self) -> Error {
        match self {
            Self::Unresolved(_, error) => Error::DnsError { rcode: Some(error.to_string()), info_code: None },
            Self::TimedOut(_) => Error::ConnectionTimeout,
            Self::Failed(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Error::ConnectionRefused
            }
            error => Error::InternalError(Some(error.to_string())),
        }
    }
}

/// Makes connections for the client.
#[derive(Clone)]
struct Dial {
    tls: Option<Arc<tls::Client>>,
}

type Dialing = Pin<Box<dyn Future<Output = Result<TokioIo<Wire>, DialError>> + Send>>;

impl Service<Uri> for Dial {
    type Response = TokioIo<Wire>;
    type Error = DialError;
    type Future = Dialing;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Dialing {
        let tls = self.tls.clone().filter(|_| uri.scheme_str() == Some("https"));
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        Box::pin(async move {
            let wire = dial((&host, port), tls.as_deref(), Protocol::Http1, |_| CONNECT).await?;
            Ok(TokioIo::new(Wire(wire)))
        })
    }
}

/// A connection, with TLS or without.
struct Wire(Box<dyn net::Wire>);

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// The body of an answer, which fails when the next part of it does not come in time.
struct Awaited {
    body: Incoming,
    patience: Duration,
    /// There while it is waited for.
    until: Option<Pin<Box<Sleep>>>,
}

impl Body for Awaited {
    type Data = bytes::Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.until = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| broken(&error))));
        }
        let due = Instant::now() + self.patience;
        let until = self.until.get_or_insert_with(|| Box::pin(sleep_until(due)));
        ready!(until.as_mut().poll(context));
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        task::JoinSet,
    };

    use super::*;
    use crate::{
        connector::http::{Credential, credential::Kind, urls::Prefix},
        document::Secret,
    };

    /// A client of a server that answers each connection by these bytes, and leaves it open.
    async fn client(answer: &'static [u8]) -> (Arc<Client>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                open.spawn(async move {
                    let mut request = [0; 1024];
                    while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                        let _ = stream.write_all(answer).await;
                    }
                });
            }
        });
        let urls = vec![Prefix::parse(&url).unwrap()];
        (Arc::new(Client::new(Grant { urls, credential: None, login: None, tls: None }, None)), url)
    }

    #[tokio::test]
    async fn a_token_that_was_refused_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let granted = Grant {
            urls: vec![Prefix::parse(&url).unwrap()],
            credential: Some(Credential {
                kind: Kind::Bearer,
                file: Some(file.clone()),
                secret: Secret(String::new()),
            }),
            login: None,
            tls: None,
        };
        let client = Client::new(granted, None);
        for (token, status) in [("one", 401), ("two", 403), ("three", 200)] {
            std::fs::write(&file, token).unwrap();
            let serving = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let length = stream.read(&mut request).await.unwrap();
                let answer =
                    format!("HTTP/1.1 {status} Some\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
                String::from_utf8_lossy(&request[..length]).into_owned()
            };
            let (answer, said) =
                tokio::join!(client.send(request(Method::GET, &url), RequestOptions::default()), serving);
            assert_eq!(answer.unwrap().status(), status);
            assert!(said.contains(&format!("authorization: Bearer {token}\r\n")), "{said}");
        }
    }

    fn request(method: Method, url: &str) -> Request<WasiBody> {
        let body = Empty::new().map_err(|never: std::convert::Infallible| match never {}).boxed_unsync();
        Request::builder().method(method).uri(url).body(body).unwrap()
    }

    fn short() -> RequestOptions {
        let limit = Some(Duration::from_millis(100));
        RequestOptions {
            first_byte_timeout: limit,
            between_bytes_timeout: limit,
            ..RequestOptions::default()
        }
    }

    #[tokio::test]
    async fn a_silent_server_fails_in_time_before_the_answer_and_within_it() {
        let (silent, url) = client(b"").await;
        let failed = silent.send(request(Method::GET, &url), short()).await.err();
        assert!(matches!(failed, Some(Error::HttpResponseTimeout)), "{failed:?}");

        let (half, url) = client(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
        let answer = half.send(request(Method::GET, &url), short()).await.unwrap();
        let failed = answer.into_body().collect().await.err();
        assert!(matches!(failed, Some(Error::ConnectionReadTimeout)), "{failed:?}");
    }

    #[tokio::test]
    async fn a_method_that_sends_its_headers_back_is_granted_to_nobody() {
        let (client, url) = client(b"").await;
        for (method, allowed) in [(Method::GET, true), (Method::POST, true), (Method::TRACE, false)] {
            assert_eq!(client.allows(&request(method.clone(), &url)), allowed, "{method}");
        }
    }

    #[tokio::test]
    async fn a_thousand_services_do_not_ask_at_once() {
        let (client, url) = client(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let start = Instant::now();
        let mut asked = JoinSet::new();
        for _ in 0..150 {
            let (client, request) = (client.clone(), request(Method::GET, &url));
            asked.spawn(async move { client.send(request, RequestOptions::default()).await.is_ok() });
        }
        assert!(asked.join_all().await.into_iter().all(|good| good));
        assert!(start.elapsed() >= Duration::from_millis(450), "{:?}", start.elapsed());
    }
}

//! One question to one endpoint.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{
    Request,
    header::{ACCEPT, ACCEPT_ENCODING, CONNECTION, HOST, USER_AGENT},
};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    client::conn::http1::{self, SendRequest},
    ext::on_informational,
};
use hyper_util::rt::TokioIo;
use memchr::memmem;
use tokio::{io::AsyncWriteExt as _, sync::Notify};

use super::grpc;
use crate::{
    client::{self, DialError},
    config::{HttpProbe, Probe, Scheme},
    net::{ProxyVersion, Wire},
    tls::{self, Protocol},
};

/// The part of a body that is looked at, and the longest head.
const LONGEST: usize = 64 * 1024;

/// Interim answers before the answer. One or two are usual.
const INTERIM_MOST: u32 = 16;

/// Why an endpoint did not pass.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    #[error("the answer is no HTTP")]
    NotHttp,
    #[error("the head of the answer is too large")]
    HeadTooLarge,
    #[error("more than {INTERIM_MOST} interim answers")]
    OnlyInterim,
    #[error("the connection failed: {0}")]
    Broken(hyper::Error),
    #[error("status {0}")]
    Status(u16),
    #[error("the answer has no {0:?}")]
    Lacks(String),
    #[error("the body of the answer broke off: {0}")]
    Body(hyper::Error),
    #[error("no answer by HTTP/2: {0}")]
    NotHttp2(h2::Error),
    #[error("the answer is none of gRPC's health service")]
    NotGrpc,
    #[error("the health service answered with grpc-status {0}")]
    Call(String),
    #[error("the health service says status {0}, which is not SERVING")]
    NotServing(u64),
}

impl ProbeError {
    /// Whether the gateway ran out of something, so that this says nothing about the endpoint.
    pub(super) fn is_own(&self) -> bool {
        matches!(self, Self::Dial(error) if error.is_own())
    }

    fn of_head(error: hyper::Error) -> Self {
        if error.is_parse_too_large() {
            Self::HeadTooLarge
        } else if error.is_parse() || error.is_incomplete_message() {
            Self::NotHttp
        } else {
            Self::Broken(error)
        }
    }
}

/// An endpoint, the name that it goes by, and how it is spoken to.
#[derive(Clone, Copy)]
pub(super) struct To<'t> {
    pub address: SocketAddr,
    pub hostname: Option<&'t str>,
    /// If with TLS.
    pub tls: Option<&'t tls::Client>,
    /// If it is told first that nobody but the gateway asks.
    pub proxy_protocol: Option<ProxyVersion>,
}

impl To<'_> {
    /// By which its URIs begin.
    pub(super) fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::Https } else { Scheme::Http }
    }

    async fn connect(&self, limit: Duration, protocol: Protocol) -> Result<Box<dyn Wire>, DialError> {
        let address = self.address;
        let mut tcp = client::connect(address, limit).await?;
        if let Some(version) = self.proxy_protocol {
            let sent = tcp.write_all(&version.own_header()).await;
            sent.map_err(|error| DialError::Failed { address, error: Arc::new(error) })?;
        }
        let Some(tls) = self.tls else { return Ok(Box::new(tcp)) };
        let shaken = tls.connect(tcp, address.ip(), tls.own_name(self.hostname), protocol).await;
        let stream = shaken.map_err(|error| DialError::Tls { address, error: Arc::new(error) })?;
        Ok(Box::new(stream))
    }
}

/// Asks once. Waits at most for the time given; dropping the future closes the connection.
pub(super) async fn probe(probe: &Probe, to: To<'_>, limit: Duration) -> Result<(), ProbeError> {
    let asked = async {
        match probe {
            Probe::Tcp => to.connect(limit, Protocol::Either).await.map(drop).map_err(ProbeError::from),
            Probe::Http(http) => ask(http, to.connect(limit, Protocol::Http1).await?, to.address).await,
            Probe::Grpc(service) => grpc::ask(service, to.connect(limit, Protocol::Http2).await?, to).await,
        }
    };
    tokio::time::timeout(limit, asked).await.unwrap_or(Err(ProbeError::TimedOut(limit)))
}

/// Asks over a connection, which is closed after that, however much of an answer is left.
async fn ask(http: &HttpProbe, stream: Box<dyn Wire>, address: SocketAddr) -> Result<(), ProbeError> {
    let mut request = request(http, address)?;
    let flood = Arc::new(Notify::new());
    on_informational(&mut request, {
        let (flood, seen) = (flood.clone(), AtomicU32::new(0));
        move |_| {
            if seen.fetch_add(1, Relaxed) == INTERIM_MOST {
                flood.notify_one();
            }
        }
    });
    let (sender, driver) = http1::Builder::new()
        .max_buf_size(LONGEST)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(ProbeError::Broken)?;
    let judged = judged(http, sender, request);
    tokio::pin!(judged, driver);
    let mut open = true;
    loop {
        tokio::select! {
            judged = &mut judged => return judged,
            () = flood.notified() => return Err(ProbeError::OnlyInterim),
            // What was wrong with the connection is told by the answer, parts of which may still be waiting.
            _ = &mut driver, if open => open = false,
        }
    }
}

fn request(http: &HttpProbe, address: SocketAddr) -> Result<Request<Empty<Bytes>>, http::Error> {
    let host = http.host.as_deref().map_or_else(|| address.to_string(), str::to_owned);
    Request::get(&*http.path)
        .header(HOST, host)
        .header(USER_AGENT, "witgate-check")
        .header(ACCEPT, "*/*")
        // In another coding the text would not be found.
        .header(ACCEPT_ENCODING, "identity")
        .header(CONNECTION, "close")
        .body(Empty::new())
}

/// Sends the request and reads as much of the answer as is needed to judge it.
async fn judged(
    http: &HttpProbe,
    mut sender: SendRequest<Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
) -> Result<(), ProbeError> {
    let (head, mut body) = sender.send_request(request).await.map_err(ProbeError::of_head)?.into_parts();
    let status = head.status.as_u16();
    if !http.status.contains(&status) {
        return Err(ProbeError::Status(status));
    }
    if let Some((name, value)) = &http.header
        && !head.headers.get_all(&**name).iter().any(|sent| sent.as_bytes() == value.as_bytes())
    {
        return Err(ProbeError::Lacks(format!("{name}: {value}")));
    }
    let Some(text) = &http.body else { return Ok(()) };
    let finder = memmem::Finder::new(text.as_bytes());
    let mut seen = Vec::new();
    let mut searched = 0;
    loop {
        // What is looked for may be there long before the end, which some servers never reach.
        if finder.find(&seen[searched..]).is_some() {
            return Ok(());
        }
        // Only the end of what was searched can be the beginning of the text.
        searched = (seen.len() + 1).saturating_sub(text.len());
        let room = LONGEST - seen.len();
        let frame = match body.frame().await {
            Some(frame) if room > 0 => frame.map_err(ProbeError::Body)?,
            _ => return Err(ProbeError::Lacks(text.to_string())),
        };
        if let Ok(data) = frame.into_data() {
            seen.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    fn to(address: SocketAddr) -> To<'static> {
        To { address, hostname: None, tls: None, proxy_protocol: None }
    }

    /// Reads the head of a request.
    async fn head(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while memmem::find(&head, b"\r\n\r\n").is_none() {
            stream.read_buf(&mut head).await.unwrap();
        }
        String::from_utf8(head).unwrap()
    }

    /// What comes of asking a server that behaves so once it has read the request. It ends with the question.
    async fn asked_of<S: Future<Output = ()> + Send>(
        http: HttpProbe,
        limit: Duration,
        serve: impl FnOnce(TcpStream) -> S + Send + 'static,
    ) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            head(&mut stream).await;
            serve(stream).await;
            std::future::pending::<()>().await;
        };
        let http = Probe::Http(http);
        tokio::select! {
            asked = probe(&http, to(address), limit) => asked.map_err(|error| error.to_string()),
            () = server => unreachable!(),
        }
    }

    fn body(text: &str) -> HttpProbe {
        HttpProbe { body: Some(text.into()), ..http() }
    }

    /// A server that sends this again and again for as long as anybody reads.
    async fn repeats(mut stream: TcpStream, first: &str, piece: &str) {
        let mut sent = stream.write_all(first.as_bytes()).await;
        while sent.is_ok() {
            sent = stream.write_all(piece.as_bytes()).await;
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    /// What comes of asking a server that answers so.
    async fn asked(http: HttpProbe, answer: &'static [u8]) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = head(&mut stream).await;
            stream.write_all(answer).await.unwrap();
            head
        });
        let limit = Duration::from_secs(10);
        let result = probe(&Probe::Http(http), to(address), limit).await.map_err(|error| error.to_string());
        let head = server.await.unwrap();
        assert!(head.starts_with("GET /health HTTP/1.1\r\nhost: orders.local\r\n"), "{head}");
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
        result
    }

    fn http() -> HttpProbe {
        HttpProbe { path: "/health".into(), host: Some("orders.local".into()), ..HttpProbe::default() }
    }

    #[tokio::test]
    async fn the_status_decides() {
        assert_eq!(asked(http(), b"HTTP/1.1 204 No Content\r\n\r\n").await, Ok(()));
        assert_eq!(asked(http(), b"HTTP/1.0 500 No\r\n\r\n").await, Err("status 500".into()));
        let teapot = HttpProbe { status: 418..=418, ..http() };
        assert_eq!(asked(teapot, b"HTTP/1.1 418 Yes\r\n\r\n").await, Ok(()));
    }

    #[tokio::test]
    async fn another_service_at_the_address_does_not_pass() {
        let by_body = HttpProbe { body: Some("orders".into()), ..http() };
        let right = b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\nservice=orders";
        assert_eq!(asked(by_body.clone(), right).await, Ok(()));
        let wrong = b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\nservice=users";
        assert_eq!(asked(by_body, wrong).await, Err("the answer has no \"orders\"".into()));

        let by_header = HttpProbe { header: Some(("X-Service".into(), "orders".into())), ..http() };
        assert_eq!(asked(by_header.clone(), b"HTTP/1.1 200 OK\r\nx-service:  orders\r\n\r\n").await, Ok(()));
        let lacking = asked(by_header, b"HTTP/1.1 200 OK\r\nx-service: users\r\n\r\n").await;
        assert_eq!(lacking, Err("the answer has no \"X-Service: orders\"".into()));
    }

    #[tokio::test]
    async fn what_is_no_http_does_not_pass() {
        let not_http = Err("the answer is no HTTP".to_owned());
        assert_eq!(asked(http(), b"SSH-2.0-OpenSSH_9.6\r\n").await, not_http);
        assert_eq!(asked(http(), b"nonsense\r\n\r\n").await, not_http);
        assert_eq!(asked(http(), b"").await, not_http);
    }

    #[tokio::test]
    async fn an_answer_ends_where_it_says_even_if_the_connection_stays_open() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = HttpProbe { body: Some("orders".into()), ..http() };
        let asked = async { probe(&Probe::Http(asked), to(address), Duration::from_secs(60)).await };
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nusers").await.unwrap();
            stream
        };
        let (answer, _open) = tokio::join!(asked, server);
        assert!(matches!(answer, Err(ProbeError::Lacks(what)) if what == "orders"));
    }

    #[tokio::test]
    async fn a_body_in_chunks_is_put_together_before_it_is_searched() {
        let chunked = |body: &str| {
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}").leak().as_bytes()
        };
        let apart = chunked("4;x=orders\r\nmy o\r\n1\r\nr\r\n4\r\nders\r\n0\r\n\r\n");
        assert_eq!(asked(body("my orders"), apart).await, Ok(()));
        // Neither extensions nor trailers are the body.
        let beside = chunked("4;orders\r\nuser\r\n0\r\nx-is: orders\r\n\r\n");
        assert_eq!(asked(body("orders"), beside).await, Err("the answer has no \"orders\"".into()));
        // Nor is what stands between chunks.
        let sizes = chunked("a\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n");
        assert_eq!(asked(body("90123"), sizes).await, Ok(()));
        for garbage in
            ["zz\r\norders\r\n", "6\r\nordersXX\r\n", "fffffffffffffffff\r\norders", "-6\r\norders\r\n"]
        {
            let outcome = asked(body("orders!"), chunked(garbage)).await;
            assert!(
                outcome.as_ref().is_err_and(|error| error.contains("broke off")),
                "{garbage:?}: {outcome:?}"
            );
        }
    }

    #[tokio::test]
    async fn the_text_is_looked_for_in_the_body_alone() {
        let lacks = Err("the answer has no \"orders\"".to_owned());
        let in_head = b"HTTP/1.1 200 orders\r\nx-service: orders\r\ncontent-length: 2\r\n\r\nok";
        assert_eq!(asked(body("orders"), in_head).await, lacks);
        let behind = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokorders";
        assert_eq!(asked(body("orders"), behind).await, lacks);
        let none = b"HTTP/1.1 204 No Content\r\n\r\norders";
        assert_eq!(asked(body("orders"), none).await, lacks);
        let interim = b"HTTP/1.1 103 Early Hints\r\nlink: orders\r\n\r\nHTTP/1.1 200 OK\r\n\r\nok";
        assert_eq!(asked(body("orders"), interim).await, lacks);
        let until_the_end = b"HTTP/1.1 200 OK\r\n\r\nmy orders";
        assert_eq!(asked(body("orders"), until_the_end).await, Ok(()));
    }

    #[tokio::test]
    async fn interim_answers_are_not_the_answer() {
        let good = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nx: y\r\n\r\nHTTP/1.1 200 OK\r\n\r\norders";
        assert_eq!(asked(body("orders"), good).await, Ok(()));
        let bad = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\n\r\n";
        assert_eq!(asked(http(), bad).await, Err("status 503".into()));
        let flood =
            asked_of(http(), LONG, |stream| repeats(stream, "", "HTTP/1.1 102 Processing\r\n\r\n")).await;
        assert_eq!(flood, Err("more than 16 interim answers".into()));
    }

    #[tokio::test]
    async fn bytes_beyond_ascii_are_part_of_a_value() {
        let latin = b"HTTP/1.1 200 OK\r\nserver: caf\xe9\r\nx-service: orders\r\n\r\n";
        assert_eq!(asked(http(), latin).await, Ok(()));
        let by_header = HttpProbe { header: Some(("x-service".into(), "größe".into())), ..http() };
        let utf8 = "HTTP/1.1 200 \u{fc}\r\nx-service: users\r\nX-Service: größe \r\n\r\n".as_bytes();
        assert_eq!(asked(by_header, utf8).await, Ok(()), "one of several lines");
    }

    #[tokio::test]
    async fn what_never_ends_is_given_up() {
        let headers =
            asked_of(http(), LONG, |stream| repeats(stream, "HTTP/1.1 200 OK\r\n", "x: y\r\n")).await;
        assert_eq!(headers, Err("the head of the answer is too large".into()));
        let line =
            asked_of(http(), LONG, |stream| repeats(stream, "HTTP/1.1 200 OK\r\nx: ", "yyyyyyyyyyyyyyyy"))
                .await;
        assert_eq!(line, Err("the head of the answer is too large".into()));
        let lacks = Err("the answer has no \"orders\"".to_owned());
        let endless = asked_of(body("orders"), LONG, |stream| {
            repeats(stream, "HTTP/1.1 200 OK\r\n\r\n", "users users ")
        })
        .await;
        assert_eq!(endless, lacks);
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunks =
            asked_of(body("orders"), LONG, move |stream| repeats(stream, chunked, "1\r\no\r\n")).await;
        assert_eq!(chunks, lacks);
        let passed = asked_of(http(), LONG, move |stream| repeats(stream, chunked, "1\r\no\r\n")).await;
        assert_eq!(passed, Ok(()), "the body is not read where nothing is looked for");
    }

    #[tokio::test]
    async fn the_time_limit_is_for_all_of_it() {
        let drop_by_drop = |first: &'static str, piece: &'static str| {
            asked_of(body("orders"), Duration::from_millis(200), move |mut stream| async move {
                let mut sent = stream.write_all(first.as_bytes()).await;
                while sent.is_ok() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    sent = stream.write_all(piece.as_bytes()).await;
                }
            })
        };
        let late = Err("no answer within 200ms".to_owned());
        assert_eq!(drop_by_drop("HTTP/1.1 200 OK\r\nx: ", "y").await, late);
        assert_eq!(drop_by_drop("HTTP/1.1 200 OK\r\n\r\n", "u").await, late);
        assert_eq!(drop_by_drop("", "HTTP/1.1 100 Continue\r\n").await, late);
    }

    #[tokio::test]
    async fn silence_does_not_pass() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limit = Duration::from_millis(20);
        assert!(matches!(
            probe(&Probe::Http(http()), to(address), limit).await,
            Err(ProbeError::TimedOut(_))
        ));
        assert!(probe(&Probe::Tcp, to(address), limit).await.is_ok(), "the kernel takes connections");
    }
}

//! One question to one endpoint.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::config::{HttpProbe, Probe};

/// The longest answer that is looked at.
const LONGEST: usize = 64 * 1024;

/// Why an endpoint did not pass.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the answer is no HTTP")]
    NotHttp,
    #[error("status {0}")]
    Status(u16),
    #[error("the answer has no {0:?}")]
    Lacks(String),
}

/// Asks once. Waits at most for the time given; dropping the future closes the connection.
pub(super) async fn probe(probe: &Probe, address: SocketAddr, limit: Duration) -> Result<(), ProbeError> {
    let asked = async {
        let stream = TcpStream::connect(address).await?;
        match probe {
            Probe::Tcp => Ok(()),
            Probe::Http(http) => ask(http, stream, address).await,
        }
    };
    tokio::time::timeout(limit, asked).await.unwrap_or(Err(ProbeError::TimedOut(limit)))
}

async fn ask(http: &HttpProbe, mut stream: TcpStream, address: SocketAddr) -> Result<(), ProbeError> {
    let host = http.host.as_deref().map_or_else(|| address.to_string(), str::to_owned);
    let head = format!(
        "GET {} HTTP/1.1\r\nhost: {host}\r\nuser-agent: witgate-check\r\naccept: */*\r\nconnection: close\r\n\r\n",
        http.path
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        // What is asked for may be there long before the end, which some servers never reach.
        match judge(http, &answer)? {
            Verdict::Passed => return Ok(()),
            Verdict::Lacks(what) => {
                let room = (LONGEST - answer.len()) as u64;
                if is_whole(&answer)
                    || room == 0
                    || (&mut stream).take(room).read_buf(&mut answer).await? == 0
                {
                    let nothing = !answer.starts_with(b"HTTP/1.");
                    return Err(if nothing { ProbeError::NotHttp } else { ProbeError::Lacks(what) });
                }
            }
        }
    }
}

/// Whether nothing more comes, even if the connection stays open: not every server closes it when asked to.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = find(answer, b"\r\n\r\n") else { return false };
    let head = std::str::from_utf8(&answer[..end]).unwrap_or_default();
    let mut fields = head.split("\r\n").filter_map(|line| line.split_once(':'));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|(_, value)| value.trim().parse::<usize>().ok());
    length.is_some_and(|length| answer.len() - end - 4 >= length)
}

enum Verdict {
    Passed,
    /// Not yet, and what is missing.
    Lacks(String),
}

/// Judges as much of an answer as is there.
fn judge(http: &HttpProbe, answer: &[u8]) -> Result<Verdict, ProbeError> {
    let Some(end) = find(answer, b"\r\n\r\n") else { return Ok(Verdict::Lacks("end of its head".into())) };
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| ProbeError::NotHttp)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(status).ok_or(ProbeError::NotHttp)?;
    if !http.status.contains(&status) {
        return Err(ProbeError::Status(status));
    }
    if let Some((name, value)) = &http.header {
        let has = |line: &str| {
            line.split_once(':').is_some_and(|(n, v)| n.eq_ignore_ascii_case(name) && v.trim() == &**value)
        };
        if !lines.any(has) {
            return Err(ProbeError::Lacks(format!("{name}: {value}")));
        }
    }
    match &http.body {
        Some(text) if find(&answer[end + 4..], text.as_bytes()).is_none() => {
            Ok(Verdict::Lacks(text.to_string()))
        }
        _ => Ok(Verdict::Passed),
    }
}

fn status(line: &str) -> Option<u16> {
    line.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() {
        return Some(0);
    }
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What comes of asking a server that answers so.
    async fn asked(http: HttpProbe, answer: &'static [u8]) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while find(&head, b"\r\n\r\n").is_none() {
                stream.read_buf(&mut head).await.unwrap();
            }
            stream.write_all(answer).await.unwrap();
            String::from_utf8(head).unwrap()
        });
        let limit = Duration::from_secs(10);
        let result = probe(&Probe::Http(http), address, limit).await.map_err(|error| error.to_string());
        let head = server.await.unwrap();
        assert!(head.starts_with("GET /health HTTP/1.1\r\nhost: orders.local\r\n"), "{head}");
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
        let asked = async { probe(&Probe::Http(asked), address, Duration::from_secs(60)).await };
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nusers").await.unwrap();
            stream
        };
        let (answer, _open) = tokio::join!(asked, server);
        assert!(matches!(answer, Err(ProbeError::Lacks(what)) if what == "orders"));
    }

    #[tokio::test]
    async fn silence_does_not_pass() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limit = Duration::from_millis(20);
        assert!(matches!(probe(&Probe::Http(http()), address, limit).await, Err(ProbeError::TimedOut(_))));
        assert!(probe(&Probe::Tcp, address, limit).await.is_ok(), "the kernel takes connections");
    }
}

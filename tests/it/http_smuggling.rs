//! Requests that two readers could understand in two ways are refused, and nothing of them reaches an endpoint.

use crate::{
    http_harness::{Gateway, Setup},
    support::{client::Client, origin::Origin},
};

/// A request that must never arrive, behind one that is refused.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: test\r\n\r\n";

/// Sends `shape` after a proper request on the same connection, in one piece and byte by byte.
async fn refused(shape: &str, status: u16, reason: &str) {
    for piece in [usize::MAX, 1] {
        let origin = Origin::start("proper").await;
        let gateway = Gateway::start(Setup::to(&[&origin]));
        let mut client = gateway.client().await;
        assert_eq!(client.get("/first").await.text(), "proper");

        send_in_pieces(&mut client, &format!("{shape}{SMUGGLED}"), piece).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.reason()), (status, Some(reason)), "{shape:?}: {}", answer.head);
        assert_eq!(answer.header("connection"), Some("close"), "{shape:?}");
        client.closed().await;
        assert_eq!(origin.seen().len(), 1, "{shape:?} let something through");
    }
}

async fn send_in_pieces(client: &mut Client, text: &str, piece: usize) {
    for bytes in text.as_bytes().chunks(piece.min(text.len())) {
        // The gateway may have closed already: what is refused needs no end.
        if tokio::io::AsyncWriteExt::write_all(&mut client.stream, bytes).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn two_lengths_are_refused() {
    let reason = "bad-request-both-lengths";
    refused(
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        reason,
    )
    .await;
    refused(
        "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        400,
        reason,
    )
    .await;
}

#[tokio::test]
async fn unclear_content_lengths_are_refused() {
    for lines in [
        "content-length: 5\r\ncontent-length: 6",
        "content-length: 5\r\ncontent-length: 5",
        "content-length: 5, 5",
        "content-length: +5",
        "content-length: 0x5",
        "content-length: ",
        "content-length: 99999999999999999999",
    ] {
        let shape = format!("POST / HTTP/1.1\r\nhost: a\r\n{lines}\r\n\r\nhello");
        refused(&shape, 400, "bad-request-content-length").await;
    }
}

#[tokio::test]
async fn transfer_encodings_other_than_chunked_are_refused() {
    for lines in [
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked, gzip",
        "transfer-encoding: chunked, chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding: identity",
        "transfer-encoding: xchunked",
        "transfer-encoding:",
    ] {
        let shape = format!("POST / HTTP/1.1\r\nhost: a\r\n{lines}\r\n\r\n0\r\n\r\n");
        refused(&shape, 400, "bad-request-transfer-encoding").await;
    }
    let shape = "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    refused(shape, 400, "bad-request-transfer-encoding").await;
}

#[tokio::test]
async fn unclear_hosts_are_refused() {
    for lines in [
        "x: y",
        "host: a\r\nhost: b",
        "host: a\r\nhost: a",
        "host:",
        "host: a b",
        "host: a/b",
        "host: a,b",
        "host: u@a",
        "host: :80",
        "host: .",
        "host: a:b",
        "host: a:65536",
        "host: a:80:80",
        "host: [::1",
        "host: ::1",
        "host: [::1]x",
        "host: [12345::]",
        "host: [fe80::1%25eth0]",
        "host: a%2",
        "host: a%zz",
        "host: caf\u{e9}",
        "host: a\"b",
        "host: a?b",
        "host: a#b",
        "host: a\\b",
    ] {
        refused(&format!("GET / HTTP/1.1\r\n{lines}\r\n\r\n"), 400, "bad-request-host").await;
    }
}

#[tokio::test]
async fn malformed_header_lines_are_refused() {
    for lines in [
        "x-a : b",
        "x-a: b\r\n folded",
        "x-a: b\r\n\tfolded",
        " x-a: b",
        "x-a: b\rx-b: c",
        "x-a: b\nx-b: c",
        "x-a",
        ": b",
        "x\u{0}a: b",
        "x-a: b\u{0}c",
        "transfer-encoding\u{b}: chunked",
        "x-a: \u{c}b",
        "content-length:\u{c}5",
    ] {
        refused(&format!("GET / HTTP/1.1\r\nhost: a\r\n{lines}\r\n\r\n"), 400, "bad-request-header").await;
    }
}

#[tokio::test]
async fn malformed_request_lines_are_refused() {
    for line in [
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET /\tHTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/11",
        "GET /",
        "G(T / HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /\rhost HTTP/1.1",
    ] {
        refused(&format!("{line}\r\nhost: a\r\n\r\n"), 400, "bad-request-line").await;
    }
}

#[tokio::test]
async fn other_versions_are_refused() {
    for line in ["GET / HTTP/2.0", "GET / HTTP/1.2", "GET / HTTP/0.9"] {
        refused(&format!("{line}\r\nhost: a\r\n\r\n"), 505, "version-not-supported").await;
    }
    refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "version-not-supported").await;
}

/// Much of this the parser would refuse as well, without a reason and uncounted.
#[tokio::test]
async fn invalid_targets_are_refused() {
    for target in [
        "a",
        "a:80",
        "[::1]:80",
        "*",
        "?a",
        "http:",
        "http://",
        "http:///a",
        "http://:80/",
        "http://a:x@b/",
        "http://a@b/",
        "http://b:x/",
        "http://b:65536/",
        "http://[::1/",
        "http://[::1%25a]/",
        "http://b%63/",
        "ftp://b/",
        "/<",
        "/a>b",
        "/a#b",
        "/?\"",
        "/`",
        "/caf\u{e9}",
        "/?\u{e9}",
        "/%zz",
        "/%2",
    ] {
        refused(&format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n"), 400, "bad-request-target").await;
    }
}

#[tokio::test]
async fn what_is_refused_is_counted_once() {
    let gateway = Gateway::start(Setup::to(&[]));
    let shapes = [
        "GET /< HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET b:80 HTTP/1.1\r\nhost: a\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nhost: [\r\n\r\n",
    ];
    for (before, shape) in (0..).zip(shapes) {
        assert_eq!(gateway.metrics.unrouted.counts().statuses[3], before);
        let mut client = gateway.client().await;
        client.send(shape).await;
        assert_eq!(client.answer().await.status, 400);
        client.closed().await;
    }
    assert_eq!(gateway.metrics.unrouted.counts().statuses[3], 3);
}

#[tokio::test]
async fn connect_is_refused() {
    refused("CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n", 501, "connect-not-supported").await;
}

#[tokio::test]
async fn badly_framed_chunks_end_the_connection() {
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX0\r\n\r\n",
        "-5\r\n\r\n",
        "fffffffffffffffff\r\n",
    ] {
        let origin = Origin::start("proper").await;
        let gateway = Gateway::start(Setup::to(&[&origin]));
        let mut client = gateway.client().await;
        let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        client.send(format!("{head}{body}{SMUGGLED}")).await;
        let rest = client.rest().await;
        assert!(!rest.contains("200 OK"), "{body:?}: {rest}");
        assert!(origin.seen().is_empty(), "{body:?} let something through");
    }
}

#[tokio::test]
async fn answers_before_a_refusal_come_in_order() {
    let origin = Origin::start("proper").await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    let post = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
    let chunked =
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nt: v\r\n\r\n";
    client.send(format!("{post}{chunked}GET / HTTP/1.1\r\n\r\n{SMUGGLED}")).await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(client.answer().await.reason(), Some("bad-request-host"));
    client.closed().await;
    assert_eq!(origin.seen().iter().map(|seen| seen.body.as_slice()).collect::<Vec<_>>(), [b"abc", b"abc"]);
}

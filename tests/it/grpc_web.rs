//! Calls of gRPC-Web, which become ones of gRPC, and what pages of other origins may do with them.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use h2::{Reason, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use hyper::body::Bytes;
use tokio::{io::AsyncReadExt, net::TcpStream, sync::Semaphore};
use witgate::{config::GrpcWeb, upstream::Figures};

use crate::{
    http_harness::{Gateway, Setup, route},
    support::{
        client::{self, Client, until},
        http2::{self, Http2, in_time, read, to},
        http2_origin::{Call, Http2Origin},
        origin::{self, Origin, Reply},
    },
};

/// Of the page that may use the route.
const PAGE: &str = "https://app.test";

const WEB: &str = "application/grpc-web";
const TEXT: &str = "application/grpc-web-text";

/// `message`, as one of gRPC, and the same as text.
const MESSAGE: &[u8] = b"\0\0\0\0\x07message";
const MESSAGE_TEXT: &[u8] = b"AAAAAAdtZXNzYWdl";

fn web() -> GrpcWeb {
    GrpcWeb {
        allow_origins: vec!["http://localhost:8080".into(), PAGE.into()],
        allow_headers: vec!["authorization".parse().unwrap()],
        expose_headers: vec!["x-shop".parse().unwrap()],
        max_age: Duration::from_secs(600),
        allow_credentials: false,
    }
}

fn setup(addresses: &[SocketAddr]) -> Setup {
    Setup::to_addresses(addresses).with(|setup| setup.routes[0].grpc_web = Some(web()))
}

fn figures(gateway: &Gateway) -> Figures {
    gateway.upstream("main").reader.snapshot().iter().next().unwrap().stats().figures()
}

/// An answer by whichever version.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.get_all(name).iter();
        let first = all.next();
        assert!(all.next().is_none(), "{name} several times in {:?}", self.headers);
        first.map(|value| value.to_str().unwrap())
    }

    /// The messages, each with its first byte.
    fn messages(&self) -> Vec<(u8, String)> {
        let text = self.header("content-type").unwrap().starts_with(TEXT);
        messages(&if text { from_text(&self.body) } else { self.body.clone() })
    }

    /// The status that is told at the end, in the last message.
    fn last(&self) -> String {
        let (kind, last) = self.messages().pop().unwrap();
        assert_eq!(kind, 0x80, "{last}");
        last
    }
}

impl From<client::Answer> for Answer {
    fn from(answer: client::Answer) -> Self {
        assert!(answer.trailers.is_empty());
        let lines = answer.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        let lines = lines.map(|(name, value)| {
            (name.parse::<HeaderName>().unwrap(), value.trim().parse::<HeaderValue>().unwrap())
        });
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value);
        }
        Self { status: answer.status, headers, body: answer.body }
    }
}

impl From<http2::Answer> for Answer {
    fn from(answer: http2::Answer) -> Self {
        assert!(answer.trailers.is_none());
        Self { status: answer.status, headers: answer.headers, body: answer.body }
    }
}

fn messages(mut body: &[u8]) -> Vec<(u8, String)> {
    let mut messages = Vec::new();
    while let [kind, a, b, c, d, rest @ ..] = body {
        let (message, after) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        messages.push((*kind, String::from_utf8(message.to_vec()).unwrap()));
        body = after;
    }
    assert!(body.is_empty(), "{body:?}");
    messages
}

/// Base64, padded wherever its sender liked.
fn from_text(text: &[u8]) -> Vec<u8> {
    let digit = |byte: &u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        b'=' => 0,
        other => panic!("{other}"),
    };
    let group = |group: &[u8]| {
        let bits = group.iter().fold(0, |bits, byte| bits << 6 | u32::from(digit(byte)));
        let padding = group.iter().filter(|byte| **byte == b'=').count();
        bits.to_be_bytes()[1..4 - padding].to_vec()
    };
    assert!(text.len().is_multiple_of(4), "{}", text.escape_ascii());
    text.chunks(4).flat_map(group).collect()
}

/// Sends a call by both versions of HTTP. What both answer to it is the same.
async fn call(gateway: &Gateway, path: &str, headers: &[(&str, &str)], body: &[u8]) -> [Answer; 2] {
    let mut client = gateway.client().await;
    let mut head = format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n", body.len());
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    client.send([head.as_bytes(), b"\r\n", body].concat()).await;
    let first = client.answer().await.into();

    let mut client = Http2::connect(gateway.address).await;
    let mut request = to(Method::POST, path);
    request.headers_mut().insert("content-length", body.len().into());
    for (name, value) in headers {
        request.headers_mut().append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    let (response, mut stream) = client.send(request, false).await;
    stream.send_data(body.to_vec().into(), true).unwrap();
    [first, http2::answer(response).await.unwrap().into()]
}

fn begin(reply: &mut SendResponse<Bytes>) -> SendStream<Bytes> {
    let head = Response::builder()
        .header("content-type", "application/grpc+proto")
        .header("x-shop", "1")
        .header("trailer", "grpc-status")
        .header("access-control-allow-origin", "*")
        .header("vary", "accept-encoding");
    reply.send_response(head.body(()).unwrap(), false).unwrap()
}

fn lines(lines: &[(&'static str, &str)]) -> HeaderMap {
    lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
}

/// Answers with the body that was sent, and with this status.
async fn echo(mut call: Call, status: &str) {
    let Ok((body, _)) = read(call.request.into_body()).await else { return };
    let mut stream = begin(&mut call.reply);
    stream.send_data(body.into(), false).unwrap();
    let trailers = lines(&[("grpc-status", status), ("grpc-message", "so%20it%20went"), ("x-sum", "7")]);
    stream.send_trailers(trailers).unwrap();
}

#[tokio::test]
async fn a_call_is_one_of_grpc_to_the_endpoint_and_of_grpc_web_to_the_client() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let note = heads.clone();
    let origin = Http2Origin::start(move |call: Call| {
        note.lock().unwrap().push(call.request.headers().clone());
        echo(call, "0")
    })
    .await;
    let gateway = Gateway::start(setup(&[origin.address]));
    for (sent, accept, expected, body) in [
        (WEB, "*/*", WEB, MESSAGE),
        ("application/grpc-web+proto", "*/*", "application/grpc-web+proto", MESSAGE),
        (TEXT, TEXT, TEXT, MESSAGE_TEXT),
        ("application/grpc-web-text+proto", "*/*", "application/grpc-web-text+proto", MESSAGE_TEXT),
        (WEB, TEXT, TEXT, MESSAGE),
        (TEXT, WEB, WEB, MESSAGE_TEXT),
    ] {
        let headers = [("content-type", sent), ("accept", accept), ("x-grpc-web", "1"), ("origin", PAGE)];
        for got in call(&gateway, "/shop.Orders/Get", &headers, body).await {
            assert_eq!((got.status, got.header("content-type")), (200, Some(expected)), "{sent} {accept}");
            let trailers = "grpc-status:0\r\ngrpc-message:so%20it%20went\r\nx-sum:7\r\n".to_owned();
            assert_eq!(got.messages(), [(0, "message".to_owned()), (0x80, trailers)], "{sent} {accept}");
            assert_eq!((got.header("content-length"), got.header("trailer")), (None, None));
            assert_eq!(got.header("x-shop"), Some("1"));
        }
        let seen = std::mem::take(&mut *heads.lock().unwrap());
        for seen in &seen {
            let plain = if sent.ends_with("+proto") { "application/grpc+proto" } else { "application/grpc" };
            assert!(seen["content-type"] == plain && seen["te"] == "trailers", "{seen:?}");
            assert!(seen.get("content-length").is_none_or(|length| length == "12"), "{seen:?}");
        }
        assert_eq!(seen.len(), 2, "by HTTP/2, each of them");
    }
    until("it is over", || figures(&gateway).in_flight == 0).await;
    assert_eq!(figures(&gateway).failures, 0);
}

#[tokio::test]
async fn text_may_be_cut_anywhere_and_padded_in_the_middle() {
    let origin = Http2Origin::start(|call| echo(call, "0")).await;
    let gateway = Gateway::start(setup(&[origin.address]));
    let text = b"AAAAAAc=bQ==ZXNzYWdl";
    let head = format!("POST /a.B/C HTTP/1.1\r\nhost: test\r\ncontent-type: {TEXT}\r\n");
    for cut in [1, 2, 3, 5, 7, text.len()] {
        let mut client = gateway.client().await;
        client.send(format!("{head}transfer-encoding: chunked\r\n\r\n")).await;
        for piece in text.chunks(cut) {
            client.send(format!("{:x}\r\n{}\r\n", piece.len(), str::from_utf8(piece).unwrap())).await;
            tokio::task::yield_now().await;
        }
        client.send("0\r\n\r\n").await;
        let got: Answer = client.answer().await.into();
        assert_eq!(got.messages()[0], (0, "message".to_owned()), "by {cut}");

        let mut client = Http2::connect(gateway.address).await;
        let mut request = to(Method::POST, "/a.B/C");
        request.headers_mut().insert("content-type", TEXT.parse().unwrap());
        let (response, mut stream) = client.send(request, false).await;
        for piece in text.chunks(cut) {
            stream.send_data(piece.to_vec().into(), false).unwrap();
            tokio::task::yield_now().await;
        }
        stream.send_data(Bytes::new(), true).unwrap();
        let got: Answer = http2::answer(response).await.unwrap().into();
        assert_eq!(got.messages()[0], (0, "message".to_owned()), "by {cut}");
    }
}

#[tokio::test]
async fn what_is_no_base64_is_the_clients_fault() {
    let origin = Http2Origin::start(|call| echo(call, "0")).await;
    let gateway = Gateway::start(setup(&[origin.address]));
    for body in [&b"AAAAAAdtZXN*YWdl"[..], b"AAAAAAdtZXNzYW", b"A", b"AAAAAAdtZXNzYWdl\r\n"] {
        for got in call(&gateway, "/a.B/C", &[("content-type", TEXT)], body).await {
            assert_eq!((got.status, got.header("grpc-status")), (200, Some("13")), "{}", body.escape_ascii());
            let reason = (got.header("x-witgate-reason"), got.header("content-type"));
            assert_eq!(reason, (Some("request-body-not-base64"), Some(TEXT)));
        }
    }
    assert_eq!(figures(&gateway).failures, 0);
    assert_eq!(gateway.upstream("main").metrics.counts().statuses[3], 8, "4xx, each of them");
}

#[tokio::test]
async fn messages_of_a_stream_come_one_by_one() {
    let next = Arc::new(Semaphore::new(0));
    let wait = next.clone();
    let origin = Http2Origin::start(move |mut call: Call| {
        let wait = wait.clone();
        async move {
            let mut stream = begin(&mut call.reply);
            for number in 0..3 {
                let message = [&[0, 0, 0, 0, 1][..], &[b'0' + number]].concat();
                stream.send_data(message.into(), false).unwrap();
                wait.acquire().await.unwrap().forget();
            }
            stream.send_trailers(lines(&[("grpc-status", "0")])).unwrap();
        }
    })
    .await;
    let gateway = Gateway::start(setup(&[origin.address]));
    for kind in [WEB, TEXT] {
        let body = if kind == TEXT { MESSAGE_TEXT } else { MESSAGE };
        let expected = |number: u8| {
            let message = [&[0, 0, 0, 0, 1][..], &[b'0' + number]].concat();
            move |got: &[u8]| if kind == TEXT { from_text(got) == message } else { got == message }
        };

        let mut client = gateway.client().await;
        let head = format!("POST /a.B/C HTTP/1.1\r\nhost: test\r\ncontent-type: {kind}\r\n");
        let head = format!("{head}content-length: {}\r\n\r\n", body.len());
        client.send([head.as_bytes(), body].concat()).await;
        let Client { stream, buffer } = &mut client;
        in_time(origin::read_head(stream, buffer)).await.unwrap();
        for number in 0..3 {
            // The next is sent when this has come.
            let chunk = in_time(chunk(stream, buffer)).await;
            assert!(expected(number)(&chunk), "{}", chunk.escape_ascii());
            next.add_permits(1);
        }
        let last = in_time(chunk(stream, buffer)).await;
        let last = if kind == TEXT { from_text(&last) } else { last };
        assert_eq!(messages(&last), [(0x80, "grpc-status:0\r\n".to_owned())]);

        let mut client = Http2::connect(gateway.address).await;
        let mut request = to(Method::POST, "/a.B/C");
        request.headers_mut().insert("content-type", kind.parse().unwrap());
        let (response, mut stream) = client.send(request, false).await;
        stream.send_data(body.into(), true).unwrap();
        let mut answer = http2::head(response).await.into_body();
        for number in 0..3 {
            let message = in_time(answer.data()).await.unwrap().unwrap();
            assert!(expected(number)(&message), "{}", message.escape_ascii());
            next.add_permits(1);
        }
        let last = in_time(answer.data()).await.unwrap().unwrap();
        let last = if kind == TEXT { from_text(&last) } else { last.to_vec() };
        assert_eq!(messages(&last), [(0x80, "grpc-status:0\r\n".to_owned())]);
        assert!(in_time(answer.data()).await.is_none());
    }
}

async fn chunk(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Vec<u8> {
    loop {
        if let Some(at) = buffer.windows(2).position(|two| two == b"\r\n") {
            let length = usize::from_str_radix(str::from_utf8(&buffer[..at]).unwrap(), 16).unwrap();
            if buffer.len() >= at + length + 4 {
                let chunk = buffer[at + 2..at + 2 + length].to_vec();
                buffer.drain(..at + length + 4);
                return chunk;
            }
        }
        assert!(stream.read_buf(buffer).await.unwrap() > 0, "the connection ended");
    }
}

/// Answers as the path says.
async fn ends(mut call: Call) {
    let path = call.path();
    let _ = read(call.request.into_body()).await;
    match &*path {
        "/alone" => {
            let head = Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", "14")
                .header("grpc-message", "not%20there");
            call.reply.send_response(head.body(()).unwrap(), true).unwrap();
        }
        "/no-status" => {
            begin(&mut call.reply).send_data(MESSAGE.into(), true).unwrap();
        }
        "/empty" => {
            let head = Response::builder().header("content-type", "application/grpc");
            call.reply.send_response(head.body(()).unwrap(), true).unwrap();
        }
        "/no-call" => {
            let head = Response::builder().status(404).header("content-type", "text/html");
            let mut stream = call.reply.send_response(head.body(()).unwrap(), false).unwrap();
            stream.send_data("<html>".into(), true).unwrap();
        }
        status => {
            let mut stream = begin(&mut call.reply);
            stream.send_data(MESSAGE.into(), false).unwrap();
            stream.send_trailers(lines(&[("grpc-status", &status[1..])])).unwrap();
        }
    }
}

#[tokio::test]
async fn how_a_call_went_is_told_in_the_head_or_in_a_last_message() {
    let origin = Http2Origin::start(ends).await;
    let gateway = Gateway::start(setup(&[origin.address]));
    let headers = [("content-type", WEB), ("accept", TEXT)];
    // As the endpoint tells it.
    for got in call(&gateway, "/alone", &headers, MESSAGE).await {
        assert_eq!((got.status, got.header("content-type")), (200, Some(TEXT)));
        assert_eq!(
            (got.header("grpc-status"), got.header("grpc-message")),
            (Some("14"), Some("not%20there"))
        );
        assert!(got.body.is_empty());
    }
    // What the endpoint does not tell.
    for path in ["/no-status", "/empty"] {
        for got in call(&gateway, path, &headers, MESSAGE).await {
            assert_eq!(
                got.last(),
                "grpc-status:13\r\ngrpc-message:the answer ended without a status\r\n",
                "{path}"
            );
            assert_eq!(got.messages().len(), if path == "/empty" { 1 } else { 2 });
        }
    }
    for got in call(&gateway, "/no-call", &headers, MESSAGE).await {
        assert_eq!((got.status, got.header("content-type")), (200, Some(TEXT)));
        assert_eq!((got.header("grpc-status"), &*got.body), (Some("12"), &[][..]));
        assert!(got.header("grpc-message").unwrap().contains("404"));
    }
}

#[tokio::test]
async fn what_a_call_says_of_an_endpoint_is_known_at_its_end() {
    for (status, fails) in [("/0", false), ("/5", false), ("/14", true), ("/13", true), ("/alone", true)] {
        let origin = Http2Origin::start(ends).await;
        let gateway =
            Gateway::start(setup(&[origin.address]).with(|setup| setup.upstream().retries.most = 0));
        for got in call(&gateway, status, &[("content-type", WEB)], MESSAGE).await {
            if status != "/alone" {
                assert_eq!(got.last(), format!("grpc-status:{}\r\n", &status[1..]));
            }
        }
        until("it is over", || figures(&gateway).in_flight == 0).await;
        assert_eq!(figures(&gateway).failures, if fails { 2 } else { 0 }, "{status}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_with_a_status() {
    let go_on = Arc::new(Semaphore::new(0));
    let wait = go_on.clone();
    let origin = Http2Origin::start(move |mut call: Call| {
        let wait = wait.clone();
        async move {
            let mut stream = begin(&mut call.reply);
            stream.send_data(MESSAGE.into(), false).unwrap();
            wait.acquire().await.unwrap().forget();
            stream.send_reset(Reason::ENHANCE_YOUR_CALM);
        }
    })
    .await;
    let gateway = Gateway::start(setup(&[origin.address]));
    let mut client = Http2::connect(gateway.address).await;
    let mut request = to(Method::POST, "/a.B/C");
    request.headers_mut().insert("content-type", WEB.parse().unwrap());
    let (response, mut stream) = client.send(request, false).await;
    stream.send_data(MESSAGE.into(), true).unwrap();
    let mut answer = http2::head(response).await.into_body();
    assert_eq!(in_time(answer.data()).await.unwrap().unwrap(), MESSAGE);
    go_on.add_permits(1);
    let last = in_time(answer.data()).await.unwrap().unwrap();
    assert!(messages(&last)[0].1.starts_with("grpc-status:8\r\n"), "{}", last.escape_ascii());
    assert!(in_time(answer.data()).await.is_none());
    until("it is over", || figures(&gateway).in_flight == 0).await;
    assert_eq!(figures(&gateway).failures, 1);
}

#[tokio::test]
async fn a_failure_of_the_gateway_is_one_that_pages_understand() {
    let closed = { Origin::start("gone").await.address };
    let gateway = Gateway::start(setup(&[closed]).with(|setup| {
        let mut limited = route("/shop.Large", "main");
        (limited.max_body, limited.grpc_web) = (Some(3), Some(web()));
        setup.routes.push(limited);
        setup.routes[0].matches.path = "/shop.Orders".into();
    }));
    let headers = [("content-type", TEXT), ("origin", PAGE)];
    for (path, code, reason) in
        [("/shop.Orders/Get", "14", "connect-failed"), ("/shop.Large/Put", "8", "request-body-too-large")]
    {
        for got in call(&gateway, path, &headers, MESSAGE_TEXT).await {
            assert_eq!((got.status, got.header("content-type")), (200, Some(TEXT)));
            assert_eq!(
                (got.header("grpc-status"), got.header("x-witgate-reason")),
                (Some(code), Some(reason))
            );
            assert!(got.header("grpc-message").unwrap().starts_with(&format!("{reason}: ")));
            assert_eq!((got.header("access-control-allow-origin"), &*got.body), (Some(PAGE), &[][..]));
        }
    }
}

#[tokio::test]
async fn a_rate_that_is_exceeded_is_told_to_the_page() {
    let origin = Http2Origin::start(|call| echo(call, "0")).await;
    let gateway = Gateway::start(setup(&[origin.address]).with(|setup| {
        let rate = witgate::resilience::Rate { requests: 1, per: Duration::from_secs(1000), burst: 1 };
        let x_route = ("x-route".parse().unwrap(), "1".parse().unwrap());
        setup.routes[0].heads.response.set = vec![x_route];
        setup.routes[0].rate =
            Some(witgate::config::RouteRate { rate, by: witgate::config::RateBy::Route, max_keys: 8 });
    }));
    let [first, second] = call(&gateway, "/a.B/C", &[("content-type", WEB), ("origin", PAGE)], MESSAGE).await;
    assert!(first.last().starts_with("grpc-status:0\r\n"));
    assert_eq!((second.status, second.header("grpc-status")), (200, Some("8")));
    assert_eq!(second.header("access-control-allow-origin"), Some(PAGE));
    assert_eq!((first.header("x-route"), second.header("x-route")), (Some("1"), Some("1")));
    // Whether it may be sent is another question.
    let mut client = Http2::connect(gateway.address).await;
    assert_eq!(client.request(preflight(Method::OPTIONS, PAGE, "POST")).await.status, 204);
}

#[tokio::test]
async fn a_deadline_is_obeyed_and_passed_on() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let note = told.clone();
    let origin = Http2Origin::start(move |mut call: Call| {
        note.lock().unwrap().push(call.request.headers()["grpc-timeout"].to_str().unwrap().to_owned());
        async move {
            if call.path() == "/streams" {
                let mut stream = begin(&mut call.reply);
                stream.send_data(MESSAGE.into(), false).unwrap();
                let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            } else {
                let _ = std::future::poll_fn(|cx| call.reply.poll_reset(cx)).await;
            }
        }
    })
    .await;
    let gateway = Gateway::start(setup(&[origin.address]));
    let headers = [("content-type", TEXT), ("grpc-timeout", "300m")];
    for got in call(&gateway, "/hangs", &headers, MESSAGE_TEXT).await {
        assert_eq!((got.status, got.header("grpc-status")), (200, Some("4")));
    }
    for got in call(&gateway, "/streams", &headers, MESSAGE_TEXT).await {
        let messages = got.messages();
        assert_eq!(messages[0], (0, "message".to_owned()));
        assert!(got.last().starts_with("grpc-status:4\r\n"), "{messages:?}");
    }
    let told = told.lock().unwrap();
    assert!(told.len() == 4 && told.iter().all(|told| told != "300m"), "{told:?}: less is left");
}

#[tokio::test]
async fn a_call_that_is_tried_again_is_sent_as_a_whole() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let origin = Http2Origin::start(move |mut call: Call| {
        let again = count.fetch_add(1, SeqCst) % 2 == 1;
        async move {
            if again {
                return echo(call, "0").await;
            }
            let mut body = call.request.into_body();
            let _ = body.data().await;
            call.reply.send_reset(Reason::REFUSED_STREAM);
        }
    })
    .await;
    let gateway = Gateway::start(setup(&[origin.address]));
    for (kind, body) in [(TEXT, MESSAGE_TEXT), (WEB, MESSAGE)] {
        for got in call(&gateway, "/a.B/C", &[("content-type", kind)], body).await {
            assert_eq!(got.messages()[0], (0, "message".to_owned()), "{kind}");
        }
    }
    assert_eq!(calls.load(SeqCst), 8);
}

fn preflight(method: Method, page: &str, asks: &str) -> http::Request<()> {
    let mut request = to(method, "/shop.Orders/Get");
    let headers = [
        ("origin", page),
        ("access-control-request-method", asks),
        ("access-control-request-headers", "content-type,x-grpc-web"),
    ];
    for (name, value) in headers {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn a_browser_that_asks_is_told_what_a_listed_page_may_send() {
    let origin = Origin::replying(|_| Reply::text("asked")).await;
    let gateway = Gateway::start(setup(&[origin.address]).with(|setup| {
        let mut cookies = route("/cookies", "main");
        cookies.grpc_web = Some(GrpcWeb { allow_credentials: true, ..web() });
        setup.routes.insert(0, cookies);
    }));
    let mut old = gateway.client().await;
    let head = "OPTIONS /shop.Orders/Get HTTP/1.1\r\nhost: test\r\norigin: https://app.test\r\n";
    old.send(format!("{head}access-control-request-method: POST\r\n\r\n")).await;
    let mut client = Http2::connect(gateway.address).await;
    let new = client.request(preflight(Method::OPTIONS, PAGE, "POST")).await.into();
    for got in [old.answer().await.into(), new] {
        let got: Answer = got;
        assert_eq!((got.status, got.header("access-control-allow-origin")), (204, Some(PAGE)));
        assert_eq!(got.header("access-control-allow-methods"), Some("POST"));
        let allowed = "content-type, x-grpc-web, x-user-agent, grpc-timeout, authorization";
        assert_eq!(got.header("access-control-allow-headers"), Some(allowed));
        assert_eq!((got.header("access-control-max-age"), got.header("vary")), (Some("600"), Some("origin")));
        assert_eq!(got.header("access-control-allow-credentials"), None);
    }
    let mut request = preflight(Method::OPTIONS, PAGE, "POST");
    *request.uri_mut() = "http://test/cookies".parse().unwrap();
    assert_eq!(client.request(request).await.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(origin.seen().len(), 0);
    for page in ["https://app.test:444", "http://app.test", "https://app.test.evil.test", "null"] {
        let got = client.request(preflight(Method::OPTIONS, page, "POST")).await;
        assert_eq!((got.status, got.reason()), (403, Some("origin-not-listed")), "{page}");
        assert_eq!(got.header("access-control-allow-origin"), None);
    }
    assert_eq!(origin.seen().len(), 0);
    // What is about no call is the endpoint's.
    let mut other = preflight(Method::OPTIONS, "https://other.test", "POST");
    other.headers_mut().insert("access-control-request-headers", "content-type".parse().unwrap());
    let put = preflight(Method::OPTIONS, PAGE, "PUT");
    for request in [other, put, preflight(Method::GET, PAGE, "POST")] {
        let got = client.request(request).await;
        assert_eq!((got.text(), got.header("access-control-allow-origin")), ("asked", None));
    }
}

#[tokio::test]
async fn only_a_listed_page_is_told_that_it_may_read_the_answer() {
    let origin = Http2Origin::start(|call| echo(call, "0")).await;
    let gateway = Gateway::start(setup(&[origin.address]));
    let exposed = "grpc-status, grpc-message, grpc-status-details-bin, x-shop";
    for (page, may) in [
        (Some(PAGE), true),
        (Some("http://localhost:8080"), true),
        (Some("https://evil.test"), false),
        (None, false),
    ] {
        let mut headers = vec![("content-type", WEB)];
        headers.extend(page.map(|page| ("origin", page)));
        for got in call(&gateway, "/a.B/C", &headers, MESSAGE).await {
            assert_eq!(got.messages()[0].1, "message", "it is translated for everybody");
            assert_eq!(got.header("access-control-allow-origin"), page.filter(|_| may));
            assert_eq!(got.header("access-control-expose-headers"), may.then_some(exposed));
            let vary: Vec<_> = got.headers.get_all("vary").iter().collect();
            assert_eq!(vary, ["accept-encoding", "origin"]);
        }
    }
}

#[tokio::test]
async fn without_the_setting_it_is_a_request_like_any_other() {
    let origin = Origin::replying(|_| Reply::text("as it is")).await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    for got in call(&gateway, "/a.B/C", &[("content-type", TEXT), ("origin", PAGE)], MESSAGE_TEXT).await {
        assert_eq!((got.status, &*got.body), (200, &b"as it is"[..]));
        assert_eq!(got.header("vary"), None);
    }
    for seen in origin.seen() {
        assert_eq!((seen.header("content-type"), &*seen.body), (Some(TEXT), MESSAGE_TEXT));
    }
    // Nor with it is one that is no call.
    let gateway = Gateway::start(setup(&[origin.address]));
    for got in call(&gateway, "/a", &[("content-type", "application/json"), ("origin", PAGE)], b"{}").await {
        assert_eq!((got.status, &*got.body, got.header("vary")), (200, &b"as it is"[..], None));
    }
}

#[tokio::test]
async fn text_that_goes_wrong_after_the_head_of_the_answer_ends_it_with_a_status() {
    let origin = Http2Origin::start(|mut call: Call| async move {
        let mut stream = begin(&mut call.reply);
        stream.send_data(MESSAGE.into(), false).unwrap();
        assert!(
            read(call.request.into_body()).await.is_err(),
            "the endpoint does not get a part for the whole"
        );
    })
    .await;
    let gateway = Gateway::start(setup(&[origin.address]));
    let mut client = Http2::connect(gateway.address).await;
    let mut request = to(Method::POST, "/a.B/C");
    request.headers_mut().insert("content-type", TEXT.parse().unwrap());
    let (response, mut stream) = client.send(request, false).await;
    stream.send_data("AAAA".into(), false).unwrap();
    let mut answer = http2::head(response).await.into_body();
    assert_eq!(from_text(&in_time(answer.data()).await.unwrap().unwrap()), MESSAGE);
    stream.send_data("AA".into(), true).unwrap();
    let last = from_text(&in_time(answer.data()).await.unwrap().unwrap());
    assert!(messages(&last)[0].1.starts_with("grpc-status:13\r\n"), "{}", last.escape_ascii());
    assert!(in_time(answer.data()).await.is_none());
    until("it is over", || figures(&gateway).in_flight == 0).await;
    assert_eq!(figures(&gateway).failures, 0);
}

//! What the end of a stream or of a connection of HTTP/2 says of a request that was on it, with endpoints by hand.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::{Method, Request};
use hyper::body::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};
use witgate::{config::Protocol, resilience::Cause, telemetry::UpstreamCounts};

use crate::{
    http_harness::{Gateway, Setup, put},
    support::{
        client::until,
        http2::{Frames, Http2, PREFACE, answer, frame, get, head, in_time, read, to},
        http2_origin::{Call, Http2Origin},
        origin::Origin,
    },
};

/// Types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;
const WINDOW: u8 = 8;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `:status: 200` as HPACK has it.
const OK: u8 = 0x88;

/// `:status: 503`, as it is not in the table.
const UNAVAILABLE: [u8; 5] = [8, 3, b'5', b'0', b'3'];

/// The last stream that is taken, and no error.
const NONE_TAKEN: [u8; 8] = [0; 8];

/// One connection to an endpoint.
struct Endpoint(Frames);

impl Endpoint {
    async fn accept(stream: TcpStream) -> Self {
        Self::with(stream, &[]).await
    }

    async fn with(mut stream: TcpStream, settings: &[u8]) -> Self {
        stream.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
        let mut endpoint = Self(Frames(stream));
        endpoint.send(SETTINGS, 0, 0, settings).await;
        endpoint
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        // The gateway may have gone.
        let _ = self.0.0.write_all(&frame(kind, flags, stream, payload)).await;
    }

    /// The stream of the next request, once all of that is there. None: the gateway has closed.
    async fn request(&mut self) -> Option<u32> {
        loop {
            let (kind, flags, stream, _) = self.0.next().await?;
            if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                return Some(stream);
            }
        }
    }

    async fn answer(&mut self, stream: u32) {
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, &[OK]).await;
    }
}

/// Everything goes there over HTTP/2.
fn gateway(origin: &Origin) -> Gateway {
    Gateway::start(Setup::to(&[origin]).with(|setup| {
        setup.workers = 1;
        setup.upstream().protocol = Protocol::Http2;
    }))
}

fn counts(gateway: &Gateway) -> UpstreamCounts {
    gateway.upstream("main").metrics.counts()
}

/// How often a request was sent anew, and how often it was tried again because of a connection that ended.
fn again(gateway: &Gateway) -> [u64; 2] {
    [Cause::Stale, Cause::Reset].map(|cause| counts(gateway).retries[cause as usize])
}

fn call() -> Request<()> {
    let mut request = to(Method::POST, "/");
    request.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    request
}

#[tokio::test]
async fn a_request_that_an_endpoint_says_it_has_not_taken_goes_out_over_the_next_connections() {
    // Two connections leave before they have taken anything.
    let origin = Origin::connected(|stream, connection, _| async move {
        let mut endpoint = Endpoint::accept(stream).await;
        while let Some(stream) = endpoint.request().await {
            if connection < 2 {
                return endpoint.send(GO_AWAY, 0, 0, &NONE_TAKEN).await;
            }
            endpoint.answer(stream).await;
        }
    })
    .await;
    let gateway = gateway(&origin);
    let answer = Http2::connect(gateway.address).await.post("/", "body").await;
    assert_eq!((answer.status, answer.reason()), (200, None));
    assert_eq!((origin.connections(), again(&gateway)), (3, [2, 0]));
    assert_eq!(counts(&gateway).failures, [0; 4]);
}

/// The first connection answers one request, and the next with what is against the protocol; others answer all.
async fn breaking(requests: &Arc<AtomicUsize>) -> Origin {
    let count = requests.clone();
    Origin::connected(move |stream, connection, _| {
        let count = count.clone();
        async move {
            let mut endpoint = Endpoint::accept(stream).await;
            while let Some(stream) = endpoint.request().await {
                match (connection, count.fetch_add(1, SeqCst)) {
                    (0, 1) => endpoint.send(DATA, 0, 0, b"of no stream").await,
                    _ => endpoint.answer(stream).await,
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_connection_that_breaks_under_a_request_proves_nothing_and_is_the_endpoints_fault() {
    let requests = Arc::<AtomicUsize>::default();
    let origin = breaking(&requests).await;
    let gateway = gateway(&origin);
    let mut client = Http2::connect(gateway.address).await;
    assert_eq!(client.get("/").await.status, 200);
    let answer = client.post("/", "body").await;
    assert_eq!((answer.status, answer.reason()), (502, Some("upstream-reset")));
    assert_eq!((requests.load(SeqCst), origin.connections(), again(&gateway)), (2, 1, [0, 0]));
    assert_eq!(counts(&gateway).failures, [0, 0, 1, 0]);

    // It is no connection that died while it was idle: what may be repeated is tried again.
    let origin = breaking(&Arc::default()).await;
    let gateway = self::gateway(&origin);
    let mut client = Http2::connect(gateway.address).await;
    assert_eq!([client.get("/").await.status, client.get("/").await.status], [200; 2]);
    assert_eq!((origin.connections(), again(&gateway)), (2, [0, 1]));
    assert_eq!(counts(&gateway).failures, [0, 0, 1, 0]);
}

#[tokio::test]
async fn a_stream_that_is_reset_ends_its_request_and_nothing_else() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let origin = Origin::connected(move |stream, _, _| {
        let count = count.clone();
        async move {
            let mut endpoint = Endpoint::accept(stream).await;
            while let Some(stream) = endpoint.request().await {
                match count.fetch_add(1, SeqCst) {
                    // CANCEL, after whatever it has done.
                    0 => endpoint.send(RESET, 0, stream, &[0, 0, 0, 8]).await,
                    _ => endpoint.answer(stream).await,
                }
            }
        }
    })
    .await;
    let gateway = gateway(&origin);
    let mut client = Http2::connect(gateway.address).await;
    let answer = client.post("/", "body").await;
    assert_eq!((answer.status, answer.reason()), (502, Some("upstream-reset")));
    assert_eq!((requests.load(SeqCst), counts(&gateway).failures), (1, [0, 0, 1, 0]));
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(origin.connections(), 1, "others go on over it");
}

#[tokio::test]
async fn a_call_whose_answer_breaks_in_another_way_than_by_a_reset_is_told_so_in_trailers() {
    for leaves in [true, false] {
        let origin = Origin::connected(move |stream, _, _| async move {
            let mut endpoint = Endpoint::accept(stream).await;
            while let Some(stream) = endpoint.request().await {
                if leaves {
                    endpoint.send(HEADERS, END_HEADERS, stream, &[OK]).await;
                    endpoint.send(DATA, 0, stream, b"half").await;
                    // ENHANCE_YOUR_CALM, and it has taken nothing.
                    endpoint.send(GO_AWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11]).await;
                } else {
                    // A head behind the body, and it is not the end.
                    endpoint.send(HEADERS, END_HEADERS, stream, &[OK]).await;
                    endpoint.send(DATA, 0, stream, b"half").await;
                    endpoint.send(HEADERS, END_HEADERS, stream, &[OK]).await;
                }
            }
        })
        .await;
        let gateway = gateway(&origin);
        let mut client = Http2::connect(gateway.address).await;
        let (response, mut stream) = client.send(call(), false).await;
        stream.send_data(Bytes::from("message"), true).unwrap();
        let answer = answer(response).await.unwrap();
        let status = answer.trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
        assert_eq!(status.map(|status| status.as_bytes()), Some(b"14".as_slice()), "{leaves}");
        assert_eq!(counts(&gateway).failures, [0, 0, 1, 0], "{leaves}");
    }
}

#[tokio::test]
async fn an_answer_that_pauses_does_so_though_others_on_its_connection_go_on() {
    let origin = Http2Origin::start(|mut call: Call| async move {
        let pauses = call.path() == "/pauses";
        let mut stream = call.reply.send_response(http::Response::new(()), false).unwrap();
        while stream.send_data(Bytes::from("x"), false).is_ok() {
            match pauses {
                true => std::future::pending().await,
                false => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to_addresses(&[origin.address]).with(|setup| {
        setup.workers = 1;
        setup.upstream().protocol = Protocol::Http2;
        setup.upstream().timeouts.idle = Some(Duration::from_millis(200));
    }));
    let mut client = Http2::connect(gateway.address).await;
    let (busy, _) = client.send(get("/goes-on"), true).await;
    let busy = tokio::spawn(read(head(busy).await.into_body()));
    let (pauses, _) = client.send(get("/pauses"), true).await;
    assert!(in_time(read(head(pauses).await.into_body())).await.is_err());
    assert!(!busy.is_finished());
    assert_eq!((origin.connections(), counts(&gateway).failures), (1, [0, 1, 0, 0]));
    busy.abort();
}

#[tokio::test]
async fn what_an_endpoint_has_not_taken_goes_out_over_a_new_connection_and_not_one_that_is_as_old() {
    let both = Arc::new(tokio::sync::Barrier::new(2));
    let origin = Origin::connected(move |stream, connection, _| {
        let both = both.clone();
        async move {
            // SETTINGS_MAX_CONCURRENT_STREAMS is 1.
            let mut endpoint = Endpoint::with(stream, &[0, 3, 0, 0, 0, 1]).await;
            while let Some(stream) = endpoint.request().await {
                match (connection, stream) {
                    (0 | 1, 1) => {
                        both.wait().await;
                    }
                    // It leaves.
                    (0 | 1, _) => return endpoint.send(GO_AWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]).await,
                    _ => {}
                }
                endpoint.answer(stream).await;
            }
        }
    })
    .await;
    let gateway = gateway(&origin);
    let (mut one, mut other) = (Http2::connect(gateway.address).await, Http2::connect(gateway.address).await);
    let (first, second) = tokio::join!(one.get("/"), other.get("/"));
    assert_eq!((first.status, second.status, origin.connections()), (200, 200, 2));
    assert_eq!(one.post("/", "body").await.status, 200);
    assert_eq!((origin.connections(), again(&gateway)), (3, [1, 0]));
}

#[tokio::test]
async fn a_connection_that_has_ended_gets_no_request() {
    let ended = Arc::new(Notify::new());
    let tell = ended.clone();
    let origin = Origin::connected(move |stream, connection, _| {
        let tell = tell.clone();
        async move {
            let mut endpoint = Endpoint::accept(stream).await;
            while let Some(stream) = endpoint.request().await {
                endpoint.answer(stream).await;
                if connection == 0 {
                    endpoint.0.0.shutdown().await.unwrap();
                    while endpoint.0.next().await.is_some() {}
                    return tell.notify_one();
                }
            }
        }
    })
    .await;
    let gateway = gateway(&origin);
    let mut client = Http2::connect(gateway.address).await;
    assert_eq!(client.get("/").await.status, 200);
    in_time(ended.notified()).await;
    assert_eq!(client.post("/", "body").await.status, 200);
    assert_eq!((origin.connections(), again(&gateway)), (2, [0, 0]));
}

/// When an endpoint that has refused an upload early takes more of it: never, before the rest comes, or after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Never,
    Before,
    After,
}

/// The upload goes on at another endpoint, and so many bytes of it are still to come. The first does not get them, nor does it
/// take its part for the whole.
async fn upload_goes_on_elsewhere(more: usize, takes: Takes) {
    let (came, go, seen) = (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, may_take, has_seen) = (came.clone(), go.clone(), seen.clone());
    let first = Origin::connected(move |stream, _, _| {
        let (tell, may_take, has_seen) = (tell.clone(), may_take.clone(), has_seen.clone());
        async move {
            // SETTINGS_INITIAL_WINDOW_SIZE.
            let window = if takes == Takes::Never { 200 } else { 2 };
            let mut endpoint = Endpoint::with(stream, &[0, 4, 0, 0, 0, window]).await;
            let (_, _, stream, _) = endpoint.0.find(DATA..=DATA).await.unwrap();
            tell.notify_one();
            may_take.notified().await;
            endpoint.send(HEADERS, END_HEADERS | END_STREAM, stream, &UNAVAILABLE).await;
            if takes != Takes::Never {
                may_take.notified().await;
                endpoint.send(WINDOW, 0, stream, &[0, 1, 0, 0]).await;
            }
            loop {
                let (kind, flags, ..) = endpoint.0.next().await.unwrap();
                assert!(kind != DATA || flags & END_STREAM == 0, "it is not the whole");
                if kind == RESET {
                    return has_seen.notify_one();
                }
            }
        }
    })
    .await;
    let begun = Arc::new(Notify::new());
    let tell = begun.clone();
    let second = Http2Origin::start(move |mut call: Call| {
        let tell = tell.clone();
        async move {
            tell.notify_one();
            let (body, _) = read(call.request.into_body()).await.unwrap();
            let mut stream = call.reply.send_response(http::Response::new(()), false).unwrap();
            stream.send_data(body.len().to_string().into(), true).unwrap();
        }
    })
    .await;
    let mut gateway = Gateway::start(Setup::to(&[&first]).in_turns().with(|setup| {
        setup.workers = 1;
        setup.upstream().protocol = Protocol::Http2;
    }));
    let mut client = gateway.client().await;
    client.send("PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    in_time(came.notified()).await;
    gateway.offer("main", vec![put(second.address)]);
    let upstream = gateway.upstream("main");
    until("the worker has the list", || {
        upstream.progress.iter().all(|of| !of.is_behind(upstream.reader.snapshot().generation()))
    })
    .await;
    go.notify_one();
    in_time(begun.notified()).await;
    if takes == Takes::Before {
        go.notify_one();
    }
    if takes != Takes::After {
        in_time(seen.notified()).await;
    }
    client.send(format!("{more:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(more))).await;
    assert_eq!(client.answer().await.text(), (4 + more).to_string());
    if takes == Takes::After {
        go.notify_one();
        in_time(seen.notified()).await;
    }
}

#[tokio::test]
async fn an_upload_that_goes_on_elsewhere_ends_where_it_began_and_is_not_shared() {
    upload_goes_on_elsewhere(4, Takes::Never).await;
    upload_goes_on_elsewhere(4, Takes::Before).await;
}

#[tokio::test]
async fn an_upload_that_went_elsewhere_and_is_not_kept_is_whole_to_nobody_else() {
    upload_goes_on_elsewhere(1 << 20, Takes::After).await;
}

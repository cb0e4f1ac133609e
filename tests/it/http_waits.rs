//! Every wait of a request has a limit, and whoever was waited for has the fault.

use std::{
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};
use witgate::{config, upstream::Figures};

use crate::{
    http_harness::{Gateway, Setup},
    support::{
        client::{Answer, Client, LONG, until},
        origin::{Origin, Reply, read_head, read_request},
    },
};

const SHORT: Duration = Duration::from_millis(200);

/// A limit is met late by an eighth of itself, and by as much as a busy machine takes.
fn in_time(began: Instant, limit: Duration) {
    let took = began.elapsed();
    assert!(took >= limit, "{took:?} is before the limit of {limit:?}");
    assert!(took < limit * 5 / 4 + Duration::from_secs(1), "{took:?} is long after the limit of {limit:?}");
}

fn figures(gateway: &Gateway) -> Figures {
    let snapshot = gateway.upstream("main").reader.snapshot();
    snapshot.iter().next().unwrap().stats().figures()
}

/// What the only endpoint is thought of: failures, and requests under way.
async fn judged(gateway: &Gateway, failures: u64) {
    until("the request is over", || figures(gateway).in_flight == 0).await;
    assert_eq!(figures(gateway).failures, failures);
    let told: u64 = gateway.upstream("main").metrics.counts().failures.iter().sum();
    assert_eq!(told, failures, "what its health is told");
}

/// The same, and whose fault it was that requests did not come to their end.
async fn judged_as(gateway: &Gateway, failures: u64, cut: [u64; 3]) {
    let metrics = gateway.upstream("main").metrics.clone();
    until("it is counted", || metrics.counts().cut == cut).await;
    judged(gateway, failures).await;
}

fn reads(answer: &Answer) -> (u16, Option<&str>) {
    (answer.status, answer.reason())
}

/// An origin that reads the head of every request and then does this.
async fn after_head<F, R>(then: F) -> Origin
where
    F: Fn(TcpStream, Vec<u8>) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let then = Arc::new(then);
    Origin::connected(move |mut stream, _, _| {
        let then = then.clone();
        async move {
            let mut buffer = Vec::new();
            if read_head(&mut stream, &mut buffer).await.is_some() {
                then(stream, buffer).await;
            }
        }
    })
    .await
}

/// A request whose body does not come.
const HALF: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n12345";

#[tokio::test]
async fn an_upload_that_stalls_is_answered_with_408_and_is_the_clients_fault() {
    let origin = Origin::start("never").await;
    let setup = Setup::to(&[&origin]).with(|setup| setup.listener.body_timeout = SHORT);
    let gateway = Gateway::start(setup);
    for request in [
        HALF,
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n",
        &HALF[..HALF.len() - 5],
    ] {
        let mut client = gateway.client().await;
        let began = Instant::now();
        client.send(request).await;
        let answer = client.answer().await;
        assert_eq!(reads(&answer), (408, Some("request-body-timeout")));
        assert_eq!(answer.header("connection"), Some("close"));
        in_time(began, SHORT);
        client.closed().await;
    }
    judged(&gateway, 0).await;
}

#[tokio::test]
async fn an_upload_that_trickles_does_not_stall() {
    let origin = Origin::start("got it").await;
    let setup = Setup::to(&[&origin]).with(|setup| {
        setup.listener.body_timeout = SHORT;
        setup.upstream().timeouts.response = Some(SHORT);
    });
    let gateway = Gateway::start(setup);
    let mut client = gateway.client().await;
    client.send(HALF).await;
    for byte in b"67890" {
        // What is tested is that time passes.
        tokio::time::sleep(SHORT / 2).await;
        client.send([*byte]).await;
    }
    assert_eq!(client.answer().await.text(), "got it");
}

#[tokio::test]
async fn stalled_uploads_eject_nobody() {
    let origin = Origin::start("well").await;
    let setup = Setup::to(&[&origin]).with(|setup| setup.listener.body_timeout = SHORT);
    let gateway = Gateway::start(setup);
    let mut clients = Vec::new();
    for _ in 0..24 {
        let mut client = gateway.client().await;
        client.send(HALF).await;
        clients.push(client);
    }
    for mut client in clients {
        assert_eq!(client.answer().await.status, 408);
    }
    assert_eq!(gateway.client().await.get("/").await.text(), "well");
    judged(&gateway, 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_or_sends_no_chunk_is_no_fault_of_the_endpoint() {
    let origin = Origin::start("well").await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    for _ in 0..6 {
        let mut client = gateway.client().await;
        client.send(HALF).await;
        until("it is under way", || figures(&gateway).in_flight > 0).await;
        drop(client);
        until("it is over", || figures(&gateway).in_flight == 0).await;
    }
    for _ in 0..6 {
        let mut client = gateway.client().await;
        client
            .send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\nwhat")
            .await;
        assert_eq!(reads(&client.answer().await), (400, Some("request-aborted")));
    }
    judged(&gateway, 0).await;
    let counts = gateway.upstream("main").metrics.counts();
    assert_eq!((counts.cut[1], counts.cut[2]), (0, 0));
    assert_eq!(counts.cut[0] + counts.statuses[3], 12, "each is counted once: {counts:?}");
}

#[tokio::test]
async fn an_endpoint_that_takes_nothing_of_a_request_fails() {
    let origin = after_head(|stream, _| async move {
        let _open = stream;
        pending().await
    })
    .await;
    let setup = Setup::to(&[&origin]).with(|setup| {
        setup.upstream().timeouts.write = SHORT;
        setup.upstream().timeouts.response = None;
    });
    let gateway = Gateway::start(setup);
    let mut client = gateway.client().await;
    let (mut reader, mut writer) = tokio::io::split(client.stream);
    let sending = tokio::spawn(async move {
        let _ = writer.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n").await;
        while writer.write_all(&[b'x'; 65536]).await.is_ok() {}
    });
    let mut answer = vec![0; 12];
    tokio::time::timeout(LONG, reader.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"HTTP/1.1 504");
    sending.abort();
    client = gateway.client().await;
    drop(client);
    judged(&gateway, 1).await;
}

#[tokio::test]
async fn the_time_for_an_answer_counts_from_the_last_byte_of_the_request() {
    let origin = Origin::replying(|_| Reply::Hang).await;
    let setup = Setup::to(&[&origin]).with(|setup| setup.upstream().timeouts.response = Some(SHORT * 2));
    let gateway = Gateway::start(setup);
    let mut client = gateway.client().await;
    client.send(HALF).await;
    tokio::time::sleep(SHORT * 3).await;
    let began = Instant::now();
    client.send("67890").await;
    assert_eq!(reads(&client.answer().await), (504, Some("response-timeout")));
    in_time(began, SHORT * 2);
    judged(&gateway, 1).await;
}

#[tokio::test]
async fn a_route_has_times_of_its_own() {
    let origin = Origin::replying(|_| Reply::Hang).await;
    let setup = Setup::to(&[&origin]).with(|setup| {
        setup.upstream().timeouts.response = None;
        setup.routes[0].timeouts.response = Some(Some(SHORT));
    });
    let gateway = Gateway::start(setup);
    let began = Instant::now();
    assert_eq!(gateway.client().await.get("/").await.reason(), Some("response-timeout"));
    in_time(began, SHORT);
}

#[tokio::test]
async fn an_answer_that_stalls_is_cut_for_the_client_and_fails_the_endpoint() {
    let origin = after_head(|mut stream, _| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345").await;
        pending().await
    })
    .await;
    let setup = Setup::to(&[&origin]).with(|setup| setup.upstream().timeouts.idle = Some(SHORT));
    let gateway = Gateway::start(setup);
    let mut client = gateway.client().await;
    let began = Instant::now();
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(client.try_answer(false).await.is_none());
    in_time(began, SHORT);
    judged(&gateway, 1).await;
    let counts = gateway.upstream("main").metrics.counts();
    assert_eq!((counts.cut, counts.failures), ([0, 1, 0], [0, 1, 0, 0]));
}

#[tokio::test]
async fn a_client_that_takes_nothing_for_a_while_makes_no_endpoint_slow() {
    const LONG_ANSWER: usize = 30 << 20;
    let origin = after_head(|mut stream, _| async move {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LONG_ANSWER}\r\n\r\n");
        let _ = stream.write_all(head.as_bytes()).await;
        // The gateway waits for more when the client stops.
        tokio::time::sleep(SHORT / 4).await;
        let _ = stream.write_all(&vec![b'x'; LONG_ANSWER]).await;
        pending().await
    })
    .await;
    let setup = Setup::to(&[&origin]).with(|setup| setup.upstream().timeouts.idle = Some(SHORT));
    let gateway = Gateway::start(setup);
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    tokio::time::sleep(SHORT * 4).await;
    assert_eq!(client.answer().await.body.len(), LONG_ANSWER);
    judged(&gateway, 0).await;
}

#[tokio::test]
async fn an_answer_that_pauses_goes_on_by_default() {
    let go_on = Arc::new(Notify::new());
    let going = go_on.clone();
    let origin = after_head(move |mut stream, _| {
        let going = going.clone();
        async move {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345").await;
            going.notified().await;
            let _ = stream.write_all(b"67890").await;
            pending().await
        }
    })
    .await;
    let setup = Setup::to(&[&origin]).with(|setup| {
        setup.upstream().timeouts.response = Some(SHORT);
        setup.listener.idle_timeout = SHORT;
        setup.listener.body_timeout = SHORT;
    });
    let gateway = Gateway::start(setup);
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    tokio::time::sleep(SHORT * 3).await;
    go_on.notify_one();
    assert_eq!(client.answer().await.text(), "1234567890");
}

#[tokio::test]
async fn the_whole_of_a_request_has_a_limit_before_and_after_the_head_of_its_answer() {
    let silent = Origin::replying(|_| Reply::Hang).await;
    let endless = after_head(|mut stream, _| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        while stream.write_all(b"1\r\nx\r\n").await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    })
    .await;
    for (origin, before) in [(&silent, true), (&endless, false)] {
        let setup = Setup::to(&[origin]).with(|setup| {
            setup.upstream().timeouts.request = Some(SHORT * 2);
            setup.upstream().timeouts.response = None;
        });
        let gateway = Gateway::start(setup);
        let mut client = gateway.client().await;
        let began = Instant::now();
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let answer = client.try_answer(false).await;
        in_time(began, SHORT * 2);
        assert_eq!(answer.as_ref().map(reads), before.then_some((504, Some("request-timeout"))));
        judged(&gateway, 1).await;
    }
}

#[tokio::test]
async fn the_time_for_the_first_head_counts_from_when_the_client_came() {
    const LIMIT: Duration = Duration::from_secs(1);
    let origin = Origin::start("never").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.listener.header_timeout = LIMIT));
    let (mut client, began) = (gateway.client().await, Instant::now());
    // What is tested is that time passes.
    tokio::time::sleep(LIMIT * 9 / 10).await;
    client.send("GET / HTTP/1.1\r\n").await;
    assert_eq!(reads(&client.answer().await), (408, Some("head-timeout")));
    let took = began.elapsed();
    assert!((LIMIT..LIMIT * 17 / 10).contains(&took), "{took:?}");
}

#[tokio::test]
async fn the_time_for_everything_is_the_clients_fault_while_it_is_its_turn() {
    let limit = |setup: &mut Setup| {
        setup.workers = 1;
        setup.upstream().timeouts.request = Some(SHORT * 2);
    };
    // It does not send.
    let origin = Origin::start("never").await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(limit));
    let mut client = gateway.client().await;
    client.send(HALF).await;
    assert_eq!(reads(&client.answer().await), (504, Some("request-timeout")));
    judged(&gateway, 0).await;

    // It does not read.
    let endless = after_head(|mut stream, _| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
        while stream.write_all(&chunk).await.is_ok() {}
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&endless]).with(limit));
    let mut client = gateway.client().await;
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    // What is tested is that time passes. Nobody looks while there is no room for more.
    tokio::time::sleep(SHORT * 4).await;
    assert!(client.try_answer(false).await.is_none());
    judged_as(&gateway, 0, [1, 0, 0]).await;

    // It is the endpoint's turn: it is not connected yet, or has not answered.
    let silent = Origin::replying(|_| Reply::Hang).await;
    let gateway = Gateway::start(Setup::to(&[&silent]).with(limit));
    assert_eq!(reads(&gateway.client().await.get("/").await), (504, Some("request-timeout")));
    judged(&gateway, 1).await;
    let gateway = Gateway::start(Setup::to(&[&silent]).with(limit).with(|setup| {
        // Its settings do not come.
        setup.upstream().protocol = config::Protocol::Http2;
    }));
    assert_eq!(reads(&gateway.client().await.get("/").await), (504, Some("request-timeout")));
    judged(&gateway, 1).await;
}

#[tokio::test]
async fn each_try_has_its_own_time_for_the_head_of_an_answer() {
    let late = after_head(|stream, _| async move {
        tokio::time::sleep(SHORT * 3).await;
        drop(stream);
    })
    .await;
    let slow = after_head(|mut stream, _| async move {
        tokio::time::sleep(SHORT * 3).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    })
    .await;
    let setup = Setup::to(&[&late, &slow]).in_turns();
    let gateway = Gateway::start(setup.with(|setup| setup.upstream().timeouts.response = Some(SHORT * 4)));
    for _ in 0..2 {
        assert_eq!(gateway.client().await.get("/").await.text(), "ok");
    }
    let [connect, timeout, reset, gateway_error] = gateway.upstream("main").metrics.counts().failures;
    assert_eq!((connect, timeout, gateway_error), (0, 0, 0));
    assert!((1..=2).contains(&reset), "{reset}");
}

#[tokio::test]
async fn an_endpoint_that_answers_early_and_closes_has_answered() {
    let origin = after_head(|mut stream, _| async move {
        let _ =
            stream.write_all(b"HTTP/1.1 413 No\r\ncontent-length: 5\r\nconnection: close\r\n\r\nlarge").await;
        // Closed with bytes unread: what is sent next is answered with a reset.
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    for _ in 0..20 {
        let mut client = gateway.client().await;
        client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10000000\r\n\r\n").await;
        let (stream, chunk) = (&mut client.stream, [b'x'; 65536]);
        let sending = async {
            loop {
                stream.writable().await.unwrap();
                match stream.try_write(&chunk) {
                    Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return,
                    _ => {}
                }
                let mut head = [0; 12];
                if matches!(stream.peek(&mut head).await, Ok(len) if len > 0) {
                    return;
                }
            }
        };
        tokio::time::timeout(LONG, sending).await.unwrap();
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text()), (413, "large"));
    }
    judged(&gateway, 0).await;
}

#[tokio::test]
async fn the_rest_of_an_upload_is_not_waited_for_long_after_its_answer() {
    let origin = Origin::connected(|mut stream, connection, seen| async move {
        let mut buffer = Vec::new();
        let Some(head) = read_head(&mut stream, &mut buffer).await else { return };
        seen.lock().unwrap().push(crate::support::origin::Seen {
            connection,
            head,
            body: Vec::new(),
            trailers: Vec::new(),
        });
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        // Reads on until the gateway ends it.
        let mut sink = [0; 1024];
        while stream.read(&mut sink).await.is_ok_and(|len| len > 0) {}
        seen.lock().unwrap().clear();
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    client.send(HALF).await;
    assert_eq!(client.answer().await.text(), "ok");
    until("the connection to the endpoint is gone", || origin.seen().is_empty()).await;
    judged(&gateway, 0).await;
}

#[tokio::test]
async fn an_endpoint_that_answers_early_and_reads_no_more_keeps_no_connection() {
    let origin = Origin::connected(|mut stream, _, _| async move {
        let mut buffer = Vec::new();
        while let Some(head) = read_head(&mut stream, &mut buffer).await {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            if head.starts_with("POST") {
                pending().await
            }
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.workers = 1));
    let tasks = || gateway.metrics.tasks()[0].1;
    let mut first = gateway.client().await;
    assert_eq!(first.get("/").await.text(), "ok");
    // With the connection that the upload is going to take.
    let before = tasks();
    let (mut reader, mut writer) = gateway.client().await.stream.into_split();
    let sending = tokio::spawn(async move {
        let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n";
        let _ = writer.write_all(head).await;
        while writer.write_all(&[b'x'; 65536]).await.is_ok() {}
    });
    let mut answer = vec![0; 12];
    tokio::time::timeout(LONG, reader.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"HTTP/1.1 200");
    until("the connection to the endpoint is gone", || tasks() < before).await;
    sending.abort();
    judged(&gateway, 0).await;
}

#[tokio::test]
async fn a_post_that_meets_a_connection_which_has_closed_goes_out_on_another() {
    let closing = Arc::new(Notify::new());
    let close = closing.clone();
    let origin = Origin::connected(move |mut stream, connection, seen| {
        let close = close.clone();
        async move {
            let mut buffer = Vec::new();
            while let Some(request) = read_request(&mut stream, &mut buffer, connection).await {
                let last = request.path() == "/last";
                seen.lock().unwrap().push(request);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                if last {
                    close.notified().await;
                    return;
                }
            }
        }
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]).with(|setup| setup.workers = 1));
    for _ in 0..50 {
        let mut client = gateway.client().await;
        assert_eq!(client.get("/last").await.text(), "ok");
        tokio::time::sleep(Duration::from_millis(25)).await;
        closing.notify_one();
        // Sent in the moment that the endpoint closes: never is it told of a failure, unless the two crossed.
        tokio::task::yield_now().await;
        client.send("POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody").await;
        assert_eq!(client.answer().await.text(), "ok");
    }
}

#[tokio::test]
async fn interim_answers_are_dropped_and_counted() {
    let origin = Origin::replying(|_| {
        Reply::raw(
            "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
             HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        )
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    let mut client = gateway.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "ok");
    }
    assert_eq!(gateway.upstream("main").metrics.counts().interim, 6);
}

#[tokio::test]
async fn answers_that_break_off_count_like_failures_in_a_row() {
    let origin = Origin::replying(|_| {
        Reply::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this".to_vec())
    })
    .await;
    let gateway = Gateway::start(Setup::to(&[&origin]));
    for _ in 0..5 {
        let mut client = gateway.client().await;
        client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(client.try_answer(false).await.is_none());
    }
    judged(&gateway, 5).await;
    assert_eq!(figures(&gateway).consecutive_failures, 5);
}

#[tokio::test]
async fn fast_errors_attract_no_traffic() {
    let failing = Origin::replying(|_| Reply::status(500)).await;
    let slow = Origin::replying(|_| Reply::text("slow")).await;
    for selector in ["p2c-ewma", "least-request"] {
        let gateway = Gateway::start(Setup::to(&[&failing, &slow]).with(|setup| {
            setup.workers = 1;
            setup.upstream().selector.plugin = selector.into();
        }));
        let (failed, answered) = (failing.seen().len(), slow.seen().len());
        let mut client: Client = gateway.client().await;
        for _ in 0..400 {
            client.get("/").await;
        }
        let (failed, answered) = (failing.seen().len() - failed, slow.seen().len() - answered);
        assert!(failed * 4 < answered, "{selector}: {failed} requests failed, {answered} were answered");
    }
}

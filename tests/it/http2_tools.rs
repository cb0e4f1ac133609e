//! Clients of HTTP/2 that others wrote: curl, and nghttp and h2load of nghttp2. `./dev test` installs them.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use http::HeaderMap;
use tokio::sync::Notify;
use witgate::config::Protocol;

use crate::{
    http_harness::{Gateway, Setup},
    support::{
        client::until,
        http2::in_time,
        http2_origin::{Call, Http2Origin},
        origin::{Origin, Reply},
    },
};

/// What a program says on its standard output. Each has a limit of its own, after which it ends.
async fn output(program: &'static str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let output = output.unwrap_or_else(|error| {
        panic!("{program}: {error}: install Debian's packages curl and nghttp2-client, as `./dev test` does")
    });
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

async fn curl(arguments: &[&str]) -> String {
    const ALWAYS: [&str; 5] = ["-s", "-S", "--http2-prior-knowledge", "--max-time", "60"];
    output("curl", &[&ALWAYS, arguments].concat()).await
}

/// Every request is answered as it should be.
async fn h2load(gateway: &Gateway, arguments: &[&str]) {
    const ALWAYS: [&str; 8] = ["-n", "2000", "-c", "4", "-T", "60", "-N", "60"];
    let url = format!("http://{}/", gateway.address);
    let said = output("h2load", &[&ALWAYS, arguments, &[&url]].concat()).await;
    for line in ["2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout", "status codes: 2000 2xx"] {
        assert!(said.contains(line), "{said}");
    }
}

fn gateway(origin: &Http2Origin) -> Gateway {
    Gateway::start(
        Setup::to_addresses(&[origin.address]).with(|setup| setup.upstream().protocol = Protocol::Http2),
    )
}

fn failures(gateway: &Gateway) -> u64 {
    gateway.upstream("main").reader.snapshot().iter().map(|member| member.stats().figures().failures).sum()
}

/// A file of so many bytes that are not all the same.
fn large(folder: &Path) -> (String, Vec<u8>) {
    let bytes: Vec<u8> = (0..1 << 20).map(|_| fastrand::u8(..)).collect();
    let file = folder.join("large");
    std::fs::write(&file, &bytes).unwrap();
    (file.display().to_string(), bytes)
}

#[tokio::test]
async fn curl_gets_and_posts_to_endpoints_of_both_kinds() {
    let (one, two) = (
        Origin::replying(|request| Reply::Bytes(with_head(&request.body))).await,
        Http2Origin::start(Call::echo).await,
    );
    let folder = tempfile::tempdir().unwrap();
    let (file, bytes) = large(folder.path());
    let received = folder.path().join("received").display().to_string();
    for gateway in [Gateway::start(Setup::to(&[&one])), gateway(&two)] {
        let url = format!("http://{}/", gateway.address);
        let told = ["-o", &received, "-w", "%{http_version} %{http_code} %{size_download}", &url];
        assert_eq!(curl(&told).await, "2 200 0");
        // With its length, and without.
        for header in ["x-none: 1", "content-length:"] {
            let data = format!("@{file}");
            let post = ["--data-binary", &data, "-H", header];
            assert_eq!(curl(&[&post[..], &told].concat()).await, "2 200 1048576");
            assert!(std::fs::read(&received).unwrap() == bytes, "it is what was sent");
        }
    }
}

fn with_head(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn curl_and_nghttp_see_trailers() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-end\r\n\r\n2\r\nok\r\n0\r\nx-end: 1\r\n\r\n";
    let one = Origin::replying(|_| Reply::raw(chunked)).await;
    let two = Http2Origin::start(|mut call: Call| async move {
        let mut stream = call.reply.send_response(http::Response::new(()), false).unwrap();
        stream.send_data("ok".into(), false).unwrap();
        let trailers = HeaderMap::from_iter([("x-end".parse().unwrap(), "1".parse().unwrap())]);
        stream.send_trailers(trailers).unwrap();
    })
    .await;
    for gateway in [Gateway::start(Setup::to(&[&one])), gateway(&two)] {
        let url = format!("http://{}/", gateway.address);
        let said = curl(&["-i", &url]).await;
        assert!(said.starts_with("HTTP/2 200 ") && said.ends_with("\r\n\r\nokx-end: 1\r\n"), "{said:?}");
        let said = output("nghttp", &["-v", "-t", "60", "--no-verify-peer", &url]).await;
        let (head, rest) = said.split_once("recv DATA frame").unwrap_or_else(|| panic!("{said}"));
        assert!(head.contains(":status: 200") && rest.contains("x-end: 1"), "{said}");
    }
}

#[tokio::test]
async fn h2load_has_all_its_answers() {
    let one = Origin::start("ok").await;
    h2load(&Gateway::start(Setup::to(&[&one])), &["-m", "50"]).await;
    let two = Http2Origin::start(|call: Call| call.answer("ok")).await;
    let gateway = gateway(&two);
    h2load(&gateway, &["-m", "50"]).await;
    // Each with a body that has to wait for room.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("body");
    std::fs::write(&file, vec![b'x'; 100_000]).unwrap();
    h2load(&gateway, &["-m", "10", "-d", file.to_str().unwrap()]).await;
    assert_eq!(failures(&gateway), 0);
}

#[tokio::test]
async fn h2load_has_all_its_answers_from_an_endpoint_that_takes_one_request_at_a_time() {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1);
    let origin = Http2Origin::with(builder, |call: Call| call.answer("ok")).await;
    let gateway = gateway(&origin);
    h2load(&gateway, &["-m", "50"]).await;
    assert_eq!((origin.most_at_once(), failures(&gateway)), (1, 0));
}

#[tokio::test]
async fn h2load_has_all_its_answers_from_an_endpoint_that_leaves_its_connections() {
    let origin = Http2Origin::start(|call: Call| async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        call.answer("ok").await;
    })
    .await;
    let gateway = gateway(&origin);
    // None of them may be sent twice.
    let mut load = std::pin::pin!(h2load(&gateway, &["-m", "10", "-H", ":method: POST"]));
    loop {
        tokio::select! {
            () = &mut load => break,
            () = tokio::time::sleep(Duration::from_millis(20)) => origin.leave(),
        }
    }
    assert!(origin.connections() > 8, "{}", origin.connections());
    assert_eq!(failures(&gateway), 0);
}

#[tokio::test]
async fn nghttp_is_told_when_the_gateway_leaves_and_has_its_answer() {
    let go = Arc::new(Notify::new());
    let wait = go.clone();
    let origin = Http2Origin::start(move |call: Call| {
        let wait = wait.clone();
        async move {
            wait.notified().await;
            call.answer("whole").await;
        }
    })
    .await;
    let mut gateway = gateway(&origin);
    let url = format!("http://{}/", gateway.address);
    let mut command = Command::new("nghttp");
    let mut nghttp = command.args(["-v", "-t", "60", &url]).stdout(Stdio::piped()).spawn().unwrap();
    let (lines, mut said) = tokio::sync::mpsc::unbounded_channel();
    let stdout = BufReader::new(nghttp.stdout.take().unwrap());
    let reading = std::thread::spawn(move || {
        stdout.lines().map_while(Result::ok).all(|line| lines.send(line).is_ok());
    });
    until("it is at the endpoint", || origin.most_at_once() == 1).await;
    gateway.close(Duration::from_secs(60));
    let mut all = String::new();
    while let Some(line) = in_time(said.recv()).await {
        if line.contains("recv GOAWAY frame") {
            go.notify_one();
        }
        all.push_str(&line);
        all.push('\n');
    }
    reading.join().unwrap();
    assert!(nghttp.wait().unwrap().success(), "{all}");
    assert!(all.contains("error_code=NO_ERROR(0x00)"), "{all}");
    assert!(all.contains(":status: 200") && all.contains("whole"), "{all}");
}

//! `witgate demo`: the gateway, the embedded registry and three sample backends in one process.
//!
//! The backends are as separate as they can be here: each has a thread and a port of its own, and registers itself
//! over the admin API as any service would, with a heartbeat.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Response, header};
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};

use super::{StartError, Started, listeners::Listeners};
use crate::{
    backoff::Lasting,
    config,
    server::{self, Lineup, Listener, Server, Workers},
    telemetry::ProcessMetrics,
};

const BACKENDS: [&str; 3] = ["hello-1", "hello-2", "hello-3"];

/// A registration lives so long without a heartbeat.
const TTL: Duration = Duration::from_secs(15);

/// Runs the demo until SIGTERM or SIGINT. Its state is in a temporary folder that goes with it.
pub fn demo(listen: SocketAddr, admin: SocketAddr, plugins: &Path) -> Result<(), StartError> {
    let state = std::env::temp_dir().join(format!("witgate-demo-{}", std::process::id()));
    std::fs::create_dir_all(&state).map_err(|source| StartError::Folder { folder: state.clone(), source })?;
    let text = format!(
        r#"
[[listener]]
address = "{listen}"

[admin]
address = "{admin}"

[state]
directory = {state:?}

[plugins]
directory = {plugins:?}

[upstream.hello]
service = "hello"
registry = "memory"
selector = "round-robin"

[[route]]
path = "/hello"
upstream = "hello"

[[route]]
path = "/svc/{{service}}"
registry = "memory"
"#
    );
    // Paths are relative to where the command was given.
    let here = std::env::current_dir().unwrap_or_default().join("demo.toml");
    let config = config::parse(&text, &here)?;
    let plugins = config.plugins.directory.clone();
    // Ends them when it is dropped.
    let mut backends = Vec::new();
    let outcome = super::start(
        move || Ok(config),
        None,
        |started| {
            backends = BACKENDS.into_iter().map(start_backend).collect::<Result<_, _>>()?;
            let known = backends.iter().map(|backend| (backend.name, backend.address)).collect();
            tokio::spawn(live(known, started, plugins));
            Ok(())
        },
    );
    drop(backends);
    // What is left in the temporary folder harms nobody.
    let _ = std::fs::remove_dir_all(&state);
    outcome
}

/// Dropped, it ends.
struct Backend {
    name: &'static str,
    address: SocketAddr,
    _serving: watch::Sender<Lineup>,
}

/// On a thread of its own.
fn start_backend(name: &'static str) -> Result<Backend, StartError> {
    let free_port = "workers = 1\n[[listener]]\naddress = \"127.0.0.1:0\"\n";
    let listeners = Listeners::new(Arc::default(), Arc::new(ProcessMetrics::new(1)), Vec::new());
    let bound = listeners.prepare(&config::parse(free_port, Path::new("backend.toml"))?)?;
    let address = bound.first().map_or(SocketAddr::from(([127, 0, 0, 1], 0)), Listener::address);
    let (serving, followed) = watch::channel(Lineup::of(bound));
    let run = move |index, ()| {
        let followed = followed.clone();
        async move {
            let answer = move |_: server::Arrival| std::future::ready(hello(name, address));
            let answers = move |_: &Listener, _: &Rc<server::ConnInfo>| answer;
            server::serve(Server::new(index, Rc::default(), answers, None), followed).await;
        }
    };
    Workers::start(vec![()], run).map_err(StartError::Threads)?;
    Ok(Backend { name, address, _serving: serving })
}

fn hello(name: &str, address: SocketAddr) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("hello from {name} ({address})\n")));
    let text = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

/// Registers the backends, introduces them, and renews them for ever.
async fn live(backends: Vec<(&'static str, SocketAddr)>, started: Started, plugins: PathBuf) {
    let Some(admin) = started.admin else { return };
    let mut introduction = Some(introduction(&started, &plugins));
    let mut failing = Lasting::default();
    loop {
        for (name, address) in &backends {
            if let Err(error) = register(admin, name, *address).await
                && let Some(lasts) = failing.met(&error.to_string())
            {
                tracing::warn!(backend = name, %error, for_seconds = lasts.for_seconds, times = lasts.times,
                    "Sample backend not registered");
            }
        }
        if let Some(text) = introduction.take() {
            super::say(&text);
        }
        tokio::time::sleep(TTL / 3).await;
    }
}

/// Registers one backend as any service would; the same again is its heartbeat.
async fn register(admin: SocketAddr, name: &str, address: SocketAddr) -> std::io::Result<()> {
    let body = format!(r#"{{"address":"{address}","ttl_seconds":{}}}"#, TTL.as_secs());
    let request = format!(
        "PUT /api/v1/services/hello/{name} HTTP/1.1\r\nhost: {admin}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    send(admin, &request).await
}

async fn send(admin: SocketAddr, request: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(admin).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(4_096).read_to_string(&mut answer).await?;
    match answer.starts_with("HTTP/1.1 2") {
        true => Ok(()),
        false => Err(std::io::Error::other(answer.lines().next().unwrap_or("no answer").to_owned())),
    }
}

/// Says what there is to try.
fn introduction(started: &Started, plugins: &Path) -> String {
    let gateway = started.listeners.first().map(ToString::to_string).unwrap_or_default();
    let admin = started.admin.map(|address| address.to_string()).unwrap_or_default();
    let plugins = plugins.display();
    format!(
        r#"
Three backends have registered themselves as "hello". Try:

  curl http://{gateway}/hello        # a configured route; repeat it to meet all three
  curl http://{gateway}/svc/hello    # found by its name, no configuration for the service

Register a service of your own and reach it as /svc/mine. A repeated PUT is its heartbeat:

  curl -X PUT http://{admin}/api/v1/services/mine/1 -d '{{"address":"127.0.0.1:9000","ttl_seconds":30}}'

Look inside, in a browser or by the same API:

  http://{admin}/
  curl http://{admin}/api/v1/upstreams
  curl http://{admin}/api/v1/plugins

Change the balancing: drop a selector component into {plugins}
as round-robin.wasm, and the next picks are its own. docs/plugins.md shows how to write one.

Stop with Ctrl-C.
"#
    )
}

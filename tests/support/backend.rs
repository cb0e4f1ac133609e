//! Backends that answer with their name, and with as much more as they are asked for.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinHandle};

/// The header of a request that asks for an answer of so many bytes in place of the name.
pub const WANTED: &str = "x-wanted";

/// The headers of an answer that say who made it, and how many bytes it has received.
pub const NAME: &str = "x-backend";
pub const RECEIVED: &str = "x-received";

/// A backend on a free port. Gone when dropped; answers on their way break off.
pub struct Backend {
    pub address: SocketAddr,
    requests: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Backend {
    pub async fn start(name: &str) -> Self {
        Self::at(name, "127.0.0.1:0").await
    }

    /// At every address of the machine, which are many on loopback.
    pub async fn everywhere(name: &str) -> Self {
        Self::at(name, "0.0.0.0:0").await
    }

    /// The same with IPv6.
    pub async fn everywhere_v6(name: &str) -> Self {
        Self::at(name, "[::]:0").await
    }

    async fn at(name: &str, address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let (name, counted) = (Bytes::from(name.to_owned()), requests.clone());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (name, counted) = (name.clone(), counted.clone());
                let answer = service_fn(move |request| {
                    counted.fetch_add(1, Relaxed);
                    answer(name.clone(), request)
                });
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        Self { address, requests, task }
    }

    /// Several, named `b0`, `b1` ...
    pub async fn several(count: usize) -> Vec<Self> {
        let mut backends = Vec::new();
        for number in 0..count {
            backends.push(Self::start(&format!("b{number}")).await);
        }
        backends
    }

    /// Requests answered so far.
    pub fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }
}

async fn answer(name: Bytes, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let wanted = request.headers().get(WANTED).map(|wanted| wanted.to_str().unwrap().parse().unwrap());
    let received = request.into_body().collect().await?.to_bytes().len();
    let answer = Response::builder().header(NAME, &*name).header(RECEIVED, received);
    Ok(answer.body(Full::new(wanted.map_or(name, |wanted| vec![b'x'; wanted].into()))).unwrap())
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

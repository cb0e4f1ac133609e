//! An endpoint that speaks HTTP/2, and does with each request what a test says.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use h2::{
    RecvStream,
    server::{Builder, SendResponse},
};
use http::{HeaderMap, Request, Response};
use hyper::body::Bytes;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::http2::read;

/// One request, and the way back.
pub struct Call {
    pub request: Request<RecvStream>,
    pub reply: SendResponse<Bytes>,
    /// Which connection it came over, from 0, and which request of that it is.
    pub connection: usize,
    pub number: usize,
}

impl Call {
    pub fn path(&self) -> String {
        self.request.uri().path().to_owned()
    }

    /// Answers with this, after the whole of the request.
    pub async fn answer(mut self, body: impl Into<Bytes>) {
        let _ = read(self.request.into_body()).await;
        let Ok(mut stream) = self.reply.send_response(Response::new(()), false) else { return };
        let _ = stream.send_data(body.into(), true);
    }

    /// Answers with what was sent, and with trailers.
    pub async fn echo(mut self) {
        let Ok((body, trailers)) = read(self.request.into_body()).await else { return };
        let Ok(mut stream) = self.reply.send_response(Response::new(()), false) else { return };
        let mut sent = HeaderMap::new();
        sent.insert("x-length", body.len().into());
        sent.extend(trailers.unwrap_or_default());
        let _ = stream.send_data(body.into(), false);
        let _ = stream.send_trailers(sent);
    }
}

/// Stops when it is dropped.
pub struct Http2Origin {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// Requests under way at once on one connection, at most so far.
    most: Arc<AtomicUsize>,
    full: Arc<AtomicBool>,
    leave: watch::Sender<usize>,
    task: JoinHandle<()>,
}

impl Drop for Http2Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Http2Origin {
    pub async fn start<F, R>(handle: F) -> Self
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        Self::with(Builder::new(), handle).await
    }

    pub async fn with<F, R>(builder: Builder, handle: F) -> Self
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (full, (leave, left)) = (Arc::<AtomicBool>::default(), watch::channel(0));
        let (count, greatest, handle) = (connections.clone(), most.clone(), Arc::new(handle));
        let closes = full.clone();
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (builder, handle, greatest) = (builder.clone(), handle.clone(), greatest.clone());
                let (connection, mut left) = (count.fetch_add(1, SeqCst), left.clone());
                left.mark_unchanged();
                if closes.load(SeqCst) {
                    continue;
                }
                open.spawn(async move {
                    let Ok(mut serving) = builder.handshake::<_, Bytes>(stream).await else { return };
                    let (mut calls, mut number) = (JoinSet::new(), 0);
                    let mut leaving = false;
                    loop {
                        tokio::select! {
                            accepted = serving.accept() => {
                                let Some(Ok((request, reply))) = accepted else { break };
                                calls.spawn(handle(Call { request, reply, connection, number }));
                                number += 1;
                                greatest.fetch_max(calls.len(), SeqCst);
                            }
                            Some(_) = calls.join_next() => {}
                            Ok(()) = left.changed(), if !leaving => {
                                leaving = true;
                                serving.graceful_shutdown();
                            }
                        }
                    }
                    calls.join_all().await;
                });
            }
        });
        Self { address, connections, most, full, leave, task }
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    pub fn most_at_once(&self) -> usize {
        self.most.load(SeqCst)
    }

    /// Closes whatever connects from now on.
    pub fn fill(&self) {
        self.full.store(true, SeqCst);
    }

    /// Says on all connections that are open that it takes no more requests there, and ends what runs.
    pub fn leave(&self) {
        self.leave.send_modify(|left| *left += 1);
    }
}

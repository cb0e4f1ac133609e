//! The connections of the admin API.

use std::{convert::Infallible, future::Future, pin::pin, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::timeout,
};

use super::Admin;
use crate::server::pause_after;

/// Connections at once; more wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 256;

/// How long a client may take to send a request's head, and stay silent between requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long answers on their way have to end.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

pub(super) async fn serve(listener: TcpListener, admin: Arc<Admin>, shutdown: impl Future<Output = ()>) {
    let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let closing = watch::Sender::new(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, permit) = tokio::select! {
            accepted = accept(&listener, &permits) => accepted,
            () = &mut shutdown => break,
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(stream, permit, admin.clone(), closing.subscribe()));
    }
    drop(listener);
    closing.send_replace(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(LAST_ANSWERS, ended).await.is_err() {
        tracing::debug!("Admin connections closed before their answer ended");
    }
}

/// The next connection. An error is the kernel's or the client's, and passes.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed, so there is always a permit.
    let permit = permits.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(error) => pause_after(&error).await,
        }
    }
}

async fn connection(
    stream: TcpStream,
    _permit: Option<OwnedSemaphorePermit>,
    admin: Arc<Admin>,
    mut closing: watch::Receiver<bool>,
) {
    let service = service_fn(|request| async { Ok::<_, Infallible>(admin.answer(request).await) });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closed(&mut closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(listener = "admin", %error, "Connection failed");
    }
}

async fn closed(closing: &mut watch::Receiver<bool>) {
    // An error says that the listener is gone, which is the same.
    let _ = closing.wait_for(|closing| *closing).await;
}

//! The connections of the admin API.

use std::{
    convert::Infallible, future::Future, io, net::SocketAddr, pin::pin, sync::Arc, thread, time::Duration,
};

use hyper::{body::Body as _, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::{Notify, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Access, Admin, Parts, Scope,
    answer::Rejection,
    io::Io,
    roster::{Place, Roster},
};
use crate::{
    net::{self, Wire},
    server::AcceptErrors,
    tls,
};

/// How long a client may take to send a request's head, and stay silent between requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest head of a request, in bytes, and what is read at once of its body.
const LONGEST_HEAD: usize = 64 * 1024;

/// How long who has connected and said nothing may take to begin once the listener closes. Browsers connect before they
/// have anything to ask, and whoever hands over waits for all.
const FIRST_WORDS: Duration = Duration::from_millis(200);

/// How long answers on their way have to end.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// A listener, and what may be done there.
pub struct Listening {
    pub listener: std::net::TcpListener,
    /// None: clients speak without TLS.
    pub tls: Option<Arc<tls::Server>>,
    pub scope: Scope,
    pub access: Access,
}

/// Answers on these listeners while the door is open, on a thread of its own: health is answered whatever else keeps
/// the gateway busy.
pub fn start(listenings: Vec<Listening>, parts: Arc<Parts>) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let serve = async move {
        let mut served = JoinSet::new();
        for Listening { listener, tls, scope, access } in listenings {
            let listener = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
            match listener {
                Ok(listener) => {
                    let door = parts.door.clone();
                    let admin = Admin::new(&listener, tls.is_some(), parts.clone(), scope, access);
                    let admin = Arc::new(admin);
                    served.spawn(async move {
                        door.while_open(|shut| serve(&listener, tls.clone(), admin.clone(), shut.wait()))
                            .await;
                    });
                }
                Err(error) => tracing::error!(%error, "Admin listener failed"),
            }
        }
        while served.join_next().await.is_some() {}
    };
    thread::Builder::new().name("admin".into()).spawn(move || runtime.block_on(serve))?;
    Ok(())
}

pub(super) async fn serve(
    listener: &TcpListener,
    tls: Option<Arc<tls::Server>>,
    admin: Arc<Admin>,
    shutdown: impl Future<Output = ()>,
) {
    admin.feeds.open();
    admin.waiting.open();
    let roster = Arc::new(Roster::default());
    let closing = watch::Sender::new(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let mut errors = AcceptErrors::of("admin");
    loop {
        let (stream, peer) = tokio::select! {
            accepted = accept(listener, &mut errors) => accepted,
            () = &mut shutdown => break,
        };
        while connections.try_join_next().is_some() {}
        if let Err(error) = net::prepare(&stream) {
            tracing::debug!(listener = "admin", client = %peer, %error, "Client was gone before it was served");
            continue;
        }
        // Nobody is kept waiting in the kernel's queue, where health could not be told from the rest.
        let Some(place) = roster.enter() else { continue };
        connections.spawn(connection(
            stream,
            tls.clone(),
            peer,
            place,
            roster.clone(),
            admin.clone(),
            closing.subscribe(),
        ));
    }
    closing.send_replace(true);
    admin.feeds.end();
    admin.waiting.end();
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(LAST_ANSWERS, ended).await.is_err() {
        tracing::debug!("Admin connections closed before their answer ended");
    }
}

/// The next connection. An error is the kernel's or the client's, and passes.
async fn accept(listener: &TcpListener, errors: &mut AcceptErrors) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => {
                errors.accepted();
                return accepted;
            }
            Err(error) => errors.pause_after(&error).await,
        }
    }
}

async fn connection(
    stream: TcpStream,
    tls: Option<Arc<tls::Server>>,
    peer: SocketAddr,
    place: Place,
    roster: Arc<Roster>,
    admin: Arc<Admin>,
    mut closing: watch::Receiver<bool>,
) {
    let client = &place.client;
    let stream = tokio::select! {
        // Who has just come has its first answer, also when the listener closes.
        opened = open(stream, tls, peer, closing.clone()) => match opened {
            Some(stream) => stream,
            None => return,
        },
        () = client.told_to_leave() => return,
    };
    let begun = Notify::new();
    let service = service_fn(|request| {
        let (admin, roster) = (&admin, &roster);
        begun.notify_one();
        async move {
            let answer = match client.asked() {
                true => admin.clone().answer(request, peer, client).await,
                false => Rejection::Busy.into_response(),
            };
            let bytes = answer.body().size_hint().exact().unwrap_or_default();
            roster.answer(client, usize::try_from(bytes).unwrap_or(usize::MAX));
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(Io::new(stream, client.clone())), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closed(&mut closing) => {
            // Who has said nothing yet would be closed without an answer, whatever is on its way.
            tokio::select! {
                // Whatever has arrived by then counts.
                biased;
                ended = connection.as_mut() => ended,
                () = begun.notified() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
                () = sleep(FIRST_WORDS) => return,
            }
        }
        () = client.told_to_leave() => {
            tracing::debug!(listener = "admin", client = %peer, "Connection closed to make room");
            return;
        }
    };
    if let Err(error) = ended {
        tracing::debug!(listener = "admin", client = %peer, %error, "Connection failed");
    }
}

/// With TLS: shakes hands. None: that failed, or the listener closed before it began.
async fn open(
    stream: TcpStream,
    tls: Option<Arc<tls::Server>>,
    peer: SocketAddr,
    mut closing: watch::Receiver<bool>,
) -> Option<Box<dyn Wire>> {
    let Some(tls) = tls else { return Some(Box::new(stream)) };
    let shake_hands = async {
        let too_late = async {
            closed(&mut closing).await;
            sleep(FIRST_WORDS).await;
        };
        let mut first = [0];
        tokio::select! {
            biased;
            // What is wrong with it is met again when it is read.
            _ = stream.peek(&mut first) => {}
            () = too_late => return None,
        }
        Some(tls.accept(stream).await)
    };
    match timeout(HEAD_TIMEOUT, shake_hands).await {
        Ok(None) => None,
        Ok(Some(Ok((stream, _)))) => Some(Box::new(stream)),
        Ok(Some(Err(error))) => {
            let reason = tls::reason(&error).as_str();
            tracing::debug!(listener = "admin", client = %peer, reason, %error, "Handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(listener = "admin", client = %peer, "Handshake did not end in time");
            None
        }
    }
}

async fn closed(closing: &mut watch::Receiver<bool>) {
    // An error says that the listener is gone, which is the same.
    let _ = closing.wait_for(|closing| *closing).await;
}

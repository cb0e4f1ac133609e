//! A stream that goes on as bytes of another protocol (RFC 8441), once the answer that agrees to it is sent.
//!
//! What is sent to the client is in a task of the library's own, and that task alone hears of a client that breaks off:
//! to whoever reads it looks like the end of a client that has no more to say. So this watches how the task ends, and
//! ends it where the client is to see that the other side has broken off.

use std::{
    cell::Cell,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use http::header;
use hyper::{
    Response, StatusCode,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    task::JoinSet,
};

use super::{Streams, state::Open};
use crate::server::{info::Takeover, upgraded};

/// What a request has whose stream may go on as a tunnel.
pub(super) struct Switch {
    pub upgrade: OnUpgrade,
    pub streams: Streams,
}

/// The bytes of a stream. Dropping it ends the stream.
pub struct Tunnel {
    io: TokioIo<Upgraded>,
    sending: Rc<Sending>,
}

/// The way to the client, as long as there is something to send, and what the tunnel is counted by.
pub(super) struct Sending {
    open: Open,
    /// The tunnel has no more to send.
    shut: Cell<bool>,
    ended: Notify,
}

impl Switch {
    /// Makes of an answer that switches protocols one of HTTP/2, and of the stream behind it a tunnel.
    pub(super) fn take_over<B>(self, open: Open, response: &mut Response<B>, takeover: Takeover) {
        *response.status_mut() = StatusCode::OK;
        for name in
            [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_ACCEPT, header::CONTENT_LENGTH]
        {
            response.headers_mut().remove(name);
        }
        let Self { upgrade, streams } = self;
        let sending = Rc::new(Sending { open, shut: Cell::new(false), ended: Notify::new() });
        streams.state.sends_next(&sending);
        let tunnel = sending.clone();
        let carrying = streams.tasks.borrow_mut().spawn_local(async move {
            // It fails where the client is gone.
            if let Ok(upgraded) = upgrade.await {
                let tunnel = Tunnel { io: TokioIo::new(upgraded), sending: tunnel };
                takeover(upgraded::Upgraded::Stream(tunnel), Vec::new()).await;
            }
        });
        sending.open.carries(carrying);
    }
}

impl Sending {
    /// Runs the library's task.
    pub(super) fn run(self: Rc<Self>, tasks: &mut JoinSet<()>, task: impl Future<Output = ()> + 'static) {
        let sending = self.clone();
        let handle = tasks.spawn_local(async move {
            task.await;
            sending.ended.notify_one();
        });
        self.open.is_sent_by(handle);
    }
}

impl Tunnel {
    pub(in crate::server) fn reset(&self) {
        self.sending.open.stop_sending();
    }

    pub(in crate::server) fn is_reset(&self) -> impl Future<Output = ()> + use<> {
        let sending = self.sending.clone();
        async move {
            loop {
                sending.ended.notified().await;
                if !sending.shut.get() {
                    return;
                }
            }
        }
    }

    /// Remembers whose turn it is, by what came of giving the client something.
    fn gives<T>(&self, given: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match given {
            Poll::Pending => self.sending.open.is_blocked(),
            Poll::Ready(_) => self.sending.open.waits(),
        }
        given
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // What was written before is still on its way, and it is the client's turn.
        self.sending.open.is_blocked();
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if read.is_ready() {
            self.sending.open.moves();
        }
        read
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(bytes)) = wrote {
            self.sending.open.sends(bytes);
        }
        self.gives(wrote)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.gives(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sending.shut.set(true);
        let shut = Pin::new(&mut self.io).poll_shutdown(cx);
        self.gives(shut)
    }
}

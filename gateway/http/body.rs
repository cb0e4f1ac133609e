//! Bodies on their way through. Frames are handed on as they come; a slow reader on one side slows the other.

use std::{
    cell::Cell,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};

use crate::{
    client::{Connection, Pool},
    config,
    upstream::InFlight,
};

/// A body for a client.
pub(super) enum Body {
    Empty,
    Text(&'static str),
    Passing(Passing),
}

/// The body of an endpoint's answer, with what is to be settled when it is through.
pub(super) struct Passing {
    incoming: Incoming,
    settle: Option<Settle>,
}

/// What is given back at the end of an answer. Dropped before the end it closes the connection. Holds neither the
/// upstream nor the endpoint: a stream may go on for hours after both are gone.
pub(super) struct Settle {
    pub connection: Connection<Sending>,
    pub pool: Rc<Pool<Sending>>,
    pub address: SocketAddr,
    pub keep: config::Pool,
    pub in_flight: InFlight,
}

impl Body {
    pub(super) fn text(text: &'static str) -> Self {
        Self::Text(text)
    }

    /// The body of an answer.
    pub(super) fn passing(incoming: Incoming, settle: Settle) -> Self {
        if incoming.is_end_stream() {
            settle.settle();
            return Self::Empty;
        }
        Self::Passing(Passing { incoming, settle: Some(settle) })
    }
}

impl Settle {
    /// The answer is complete: the request is over, and its connection is free for the next.
    fn settle(self) {
        let Self { mut connection, pool, address, keep, in_flight } = self;
        drop(in_flight);
        if connection.sender.is_ready() {
            pool.put(address, connection, keep.max_idle, keep.idle_timeout);
        } else if !connection.sender.is_closed() {
            // The endpoint answered before it had the whole request: the rest is still being sent.
            tokio::task::spawn_local(async move {
                if connection.sender.ready().await.is_ok() {
                    pool.put(address, connection, keep.max_idle, keep.idle_timeout);
                }
            });
        }
    }
}

impl Passing {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        let failed = matches!(frame, Some(Err(_)));
        if failed {
            self.settle = None;
        } else if (frame.is_none() || self.incoming.is_end_stream())
            && let Some(settle) = self.settle.take()
        {
            settle.settle();
        }
        Poll::Ready(frame)
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            body @ Self::Text(_) => match std::mem::replace(body, Self::Empty) {
                Self::Text(text) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(text.as_bytes()))))),
                _ => Poll::Ready(None),
            },
            Self::Passing(passing) => passing.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Text(_) => false,
            Self::Passing(passing) => passing.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Text(text) => SizeHint::with_exact(text.len() as u64),
            Self::Passing(passing) => passing.incoming.size_hint(),
        }
    }
}

/// A body for an endpoint.
pub(super) enum Sending {
    Empty,
    Passing { incoming: Incoming, upload: Rc<Upload> },
}

/// How far the body of a request has come.
#[derive(Default)]
pub(super) struct Upload {
    frames: Cell<u64>,
}

impl Sending {
    /// The body, and what tells of its progress if there is one.
    pub(super) fn new(incoming: Incoming) -> (Self, Option<Rc<Upload>>) {
        if incoming.is_end_stream() {
            return (Self::Empty, None);
        }
        let upload = Rc::<Upload>::default();
        (Self::Passing { incoming, upload: upload.clone() }, Some(upload))
    }
}

impl Upload {
    /// Grows with every frame, the end included.
    pub(super) fn frames(&self) -> u64 {
        self.frames.get()
    }
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Passing { incoming, upload } => {
                let frame = std::task::ready!(Pin::new(incoming).poll_frame(cx));
                upload.frames.set(upload.frames.get() + 1);
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Passing { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Passing { incoming, .. } => incoming.size_hint(),
        }
    }
}

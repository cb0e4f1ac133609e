//! A client's connection: its calls, each on its way alone, and their answers in the order in which they come.

use std::{
    cell::Cell,
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{task::JoinSet, time::Instant};

use super::{
    Worker,
    call::Caller,
    frame::Frame,
    link::{Link, LinkError},
};
use crate::{
    net::{Standstill, Watched},
    server::{Carried, ConnInfo},
};

/// Calls of one client at once; more wait in the kernel's queue.
const CALLS_MOST: usize = 1024;

/// With so many bytes in the calls of a client that are under way, no more are read.
const CALLS_LONGEST: usize = 16 << 20;

/// With so much that a client has not taken yet, no more of its calls are read, in bytes.
const OUT_MOST: usize = 256 * 1024;

/// With so much that a client has not taken yet it is closed, in bytes: answers that are on their way cannot be held back, since
/// others share the connections that they come over.
const OUT_LONGEST: usize = 64 << 20;

/// Why a connection is closed in the middle of something.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the client sent an answer")]
    Answer,
    #[error("a call's task panicked")]
    Panicked,
    #[error("the client took too long")]
    Late,
    #[error("the client does not take its answers, {0} bytes of them by now")]
    Full(usize),
}

struct Connection {
    caller: Rc<Caller>,
    info: Rc<ConnInfo>,
    link: Link,
    /// What the client has not taken yet.
    out: BytesMut,
    /// Each with the number that the client has given it, and its length. Dropping them gives them up.
    calls: JoinSet<(u64, usize, Option<Frame>)>,
    /// The bytes of all of them.
    held: usize,
    /// Nothing more comes.
    closed: bool,
    waits: Rc<Waits>,
}

/// What the watch sees of it. What else may take too long is seen by the server.
struct Waits {
    info: Rc<ConnInfo>,
    /// How long a client may pause in the middle of a frame.
    limit: Duration,
    /// A frame has begun to come.
    reading: Cell<bool>,
    late: Cell<bool>,
    standstill: Standstill<()>,
}

/// Serves one connection until it has ended. Dropping it ends it, and all of its calls.
pub async fn serve(worker: Rc<Worker>, client: Carried) {
    let Carried { stream, early, info, listener, access_log, .. } = client;
    let watch = worker.watch.clone();
    let waits = Rc::new(Waits {
        info: info.clone(),
        limit: listener.body_timeout,
        reading: Cell::default(),
        late: Cell::default(),
        standstill: Standstill::default(),
    });
    let place = watch.enter(waits.clone());
    place.wait(Some(listener.body_timeout));
    let caller = Caller { worker, listener, access_log, peer: info.peer() };
    let mut connection = Connection {
        caller: Rc::new(caller),
        info: info.clone(),
        link: Link::new(stream, &early),
        out: BytesMut::new(),
        calls: JoinSet::new(),
        held: 0,
        closed: false,
        waits,
    };
    if let Err(error) = poll_fn(|cx| connection.poll(cx)).await {
        tracing::debug!(client = %info.peer(), %error, "Connection closed");
    }
}

impl Connection {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            if self.waits.late.get() {
                return Poll::Ready(Err(Broken::Late));
            }
            while let Poll::Ready(Some(ended)) = self.calls.poll_join_next(cx) {
                let Ok((number, length, answer)) = ended else { return Poll::Ready(Err(Broken::Panicked)) };
                self.held -= length;
                if let Some(answer) = answer {
                    answer.put(number, &mut self.out);
                }
            }
            let wrote = self.link.poll_write(cx, &mut self.out).map_err(LinkError::from)?;
            if self.out.len() > OUT_LONGEST {
                return Poll::Ready(Err(Broken::Full(self.out.len())));
            }
            if self.calls.is_empty() && wrote.is_ready() && self.is_over() {
                // It closes in any case.
                let _ = ready!(self.link.poll_shutdown(cx));
                return Poll::Ready(Ok(()));
            }
            let takes_more = !self.closed
                && self.calls.len() < CALLS_MOST
                && self.held < CALLS_LONGEST
                && self.out.len() < OUT_MOST;
            self.waits.reading.set(false);
            if !takes_more {
                return Poll::Pending;
            }
            match self.link.poll_frame(cx)? {
                Poll::Ready(Some(frame)) => self.came(frame)?,
                Poll::Ready(None) => self.closed = true,
                Poll::Pending => {
                    self.waits.reading.set(self.link.has_begun());
                    return Poll::Pending;
                }
            }
        }
    }

    /// Whether nothing more is to come of a connection whose calls have all been answered.
    fn is_over(&self) -> bool {
        self.closed || (self.info.is_to_finish() && !self.link.has_begun())
    }

    fn came(&mut self, frame: Frame) -> Result<(), Broken> {
        if frame.is_response() {
            return Err(Broken::Answer);
        }
        let number = frame.number();
        if frame.is_heartbeat() {
            frame.echo().put(number, &mut self.out);
            return Ok(());
        }
        let (caller, length) = (self.caller.clone(), frame.size());
        self.held += length;
        self.calls.spawn_local(async move { (number, length, caller.answer(frame).await) });
        Ok(())
    }
}

impl Watched for Waits {
    fn look(&self, now: Instant) -> bool {
        if !self.reading.get() {
            self.standstill.over();
        } else if self.standstill.lasts(now, (), self.info.meter.read()) >= self.limit {
            self.late.set(true);
            self.info.wake();
        }
        true
    }
}

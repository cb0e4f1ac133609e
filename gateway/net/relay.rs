//! Bytes from each of two streams to the other, until both have closed.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Stream;

/// How much is read at once.
const PIECE: usize = 64 * 1024;

/// Where bytes are while they are passed on, for all connections of a worker: what the other side takes at once takes no
/// memory of a connection's own.
#[derive(Clone)]
pub struct Scratch(Rc<RefCell<Box<[u8]>>>);

impl Default for Scratch {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(vec![0; PIECE].into())))
    }
}

/// Which of two streams broke.
#[derive(Debug)]
pub enum Broken {
    Client(io::Error),
    Endpoint(io::Error),
}

/// Passes bytes on until both sides have closed. When one side closes, the other is told and may go on. When one breaks, the
/// other is reset, so that it cannot take what it has got for whole. Dropping it closes both.
///
/// `early` was read of the client before. `half_closed` is told while one side has closed and the other goes on.
pub async fn relay(
    mut client: Stream,
    early: Vec<u8>,
    mut endpoint: Stream,
    scratch: &Scratch,
    half_closed: &Cell<bool>,
) -> Result<(), Broken> {
    let (mut up, mut down) = (Way { rest: early, ..Way::default() }, Way::default());
    let broken = poll_fn(|cx| {
        let first = up.poll(&mut client, &mut endpoint, down.is_closed(), scratch, cx);
        if let Poll::Ready(Err(broken)) = first {
            return Poll::Ready(Some(broken.at(Broken::Client, Broken::Endpoint)));
        }
        let second = down.poll(&mut endpoint, &mut client, up.is_closed(), scratch, cx);
        if let Poll::Ready(Err(broken)) = second {
            return Poll::Ready(Some(broken.at(Broken::Endpoint, Broken::Client)));
        }
        half_closed.set(first.is_ready() != second.is_ready());
        if first.is_ready() && second.is_ready() { Poll::Ready(None) } else { Poll::Pending }
    })
    .await;
    let Some(broken) = broken else { return Ok(()) };
    // It ends in any case.
    let _ = match &broken {
        Broken::Client(_) => endpoint.reset_on_close(),
        Broken::Endpoint(_) => client.reset_on_close(),
    };
    Err(broken)
}

/// One direction.
#[derive(Default)]
struct Way {
    /// What has been read and not been taken, from `taken` on.
    rest: Vec<u8>,
    taken: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Open,
    /// All has been read, and the other side is to be told.
    Closing,
    Closed,
}

/// Which end of a direction broke.
enum End {
    From(io::Error),
    To(io::Error),
}

impl End {
    fn at(self, from: impl FnOnce(io::Error) -> Broken, to: impl FnOnce(io::Error) -> Broken) -> Broken {
        match self {
            Self::From(error) => from(error),
            Self::To(error) => to(error),
        }
    }
}

impl Way {
    fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Ready when all has been passed on, the end too. `last` if nothing comes back any more: both are dropped then.
    fn poll(
        &mut self,
        from: &mut Stream,
        to: &mut Stream,
        last: bool,
        scratch: &Scratch,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), End>> {
        loop {
            while self.taken < self.rest.len() {
                let wrote = ready!(Pin::new(&mut *to).poll_write(cx, &self.rest[self.taken..]));
                self.taken += taken(wrote)?;
            }
            // Connections that wait for something hold nothing.
            (self.rest, self.taken) = (Vec::new(), 0);
            match self.state {
                State::Open => {}
                State::Closing => {
                    if !(last && to.ends_when_dropped()) {
                        ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(End::To)?;
                    }
                    self.state = State::Closed;
                    return Poll::Ready(Ok(()));
                }
                State::Closed => return Poll::Ready(Ok(())),
            }
            let mut scratch = scratch.0.borrow_mut();
            let mut piece = ReadBuf::new(&mut scratch);
            let Poll::Ready(read) = Pin::new(&mut *from).poll_read(cx, &mut piece) else {
                // TLS may have kept something back.
                let _ = Pin::new(&mut *to).poll_flush(cx).map_err(End::To)?;
                return Poll::Pending;
            };
            read.map_err(End::From)?;
            let piece = piece.filled();
            if piece.is_empty() {
                self.state = State::Closing;
                continue;
            }
            match Pin::new(&mut *to).poll_write(cx, piece) {
                Poll::Ready(wrote) => self.rest.extend_from_slice(&piece[taken(wrote)?..]),
                Poll::Pending => self.rest.extend_from_slice(piece),
            }
        }
    }
}

fn taken(wrote: io::Result<usize>) -> Result<usize, End> {
    match wrote {
        Ok(0) => Err(End::To(io::ErrorKind::WriteZero.into())),
        wrote => wrote.map_err(End::To),
    }
}

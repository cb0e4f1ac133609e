//! Stands between a stream and the HTTP parser, and lets only whole, unambiguous request heads through, one at a time.
//!
//! In the place of a head that is refused the parser gets a harmless placeholder, so that the refusal is answered like
//! any other request. Nothing after it is read. Bytes that may go at once stay where they were read and are not copied.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::state::{Phase, State};
use crate::{
    net::Stream,
    server::{
        Refusal,
        framing::{Framing, Step},
    },
};

/// What the parser gets in the place of a refused head.
const PLACEHOLDER: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\n\r\n";

pub(super) struct HeadFilter {
    stream: Rc<RefCell<Stream>>,
    state: Rc<State>,
    framing: Framing,
    /// Read and not handed on.
    held: Vec<u8>,
    /// How many of the held bytes may go.
    cleared: usize,
    /// What follows is no body, whatever it is.
    broken: bool,
}

/// What became of some bytes: so many mean nothing, those up to another place may go, and then what.
struct Validated {
    skip: usize,
    pass: usize,
    end: End,
}

enum End {
    /// Nothing special; what is left belongs to what comes next.
    Open,
    Refuse(Refusal),
    Broken,
    /// These are bytes of HTTP/2.
    Preface,
}

enum Read {
    /// The client has closed its side.
    End,
    /// There are bytes for the parser.
    Passed,
    /// Whatever came is held.
    Held,
}

impl HeadFilter {
    pub(super) fn new(stream: Rc<RefCell<Stream>>, state: Rc<State>, longest_head: usize) -> Self {
        Self {
            stream,
            state,
            framing: Framing::new(longest_head),
            held: Vec::new(),
            cleared: 0,
            broken: false,
        }
    }

    /// What was read and not handed on.
    pub(super) fn into_held(self) -> Vec<u8> {
        self.held
    }

    /// Whether bytes are there that wait for their turn.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Puts the placeholder behind what may go already; all else that was read is forgotten.
    pub(super) fn refuse(&mut self, refusal: Refusal) {
        self.held.truncate(self.cleared);
        self.held.extend_from_slice(PLACEHOLDER);
        self.cleared = self.held.len();
        self.state.refuse(refusal);
    }

    fn validate(&mut self, bytes: &[u8]) -> Validated {
        let (mut skip, mut at) = (0, 0);
        let mut end = End::Open;
        while at < bytes.len() && self.state.may_read() {
            let between = self.framing.between_requests();
            match self.framing.step(&bytes[at..]) {
                // Line ends before a head: the parser would keep them.
                Step::Body(len) if between => {
                    at += len;
                    skip = at;
                }
                Step::Body(len) => {
                    at += len;
                    if self.framing.between_requests() {
                        self.state.came_whole();
                        break;
                    }
                }
                Step::Head { len, .. } => {
                    at += len;
                    self.state.passes(self.framing.between_requests());
                }
                Step::Partial => {
                    if bytes[at..] != *b"\r" {
                        self.state.begins();
                    }
                    break;
                }
                Step::Preface => {
                    end = End::Preface;
                    break;
                }
                Step::Refuse(refusal) => {
                    end = End::Refuse(refusal);
                    break;
                }
                Step::Broken => {
                    end = End::Broken;
                    break;
                }
            }
        }
        Validated { skip, pass: at, end }
    }

    /// Hands on what may go. Says whether there was any.
    fn release(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let len = self.cleared.min(buf.remaining());
        buf.put_slice(&self.held[..len]);
        self.held.drain(..len);
        self.cleared -= len;
        len > 0
    }

    /// Looks again at what is held: there is more of it, or its turn has come.
    fn examine(&mut self) {
        let mut held = std::mem::take(&mut self.held);
        let Validated { skip, pass, end } = self.validate(&held);
        held.drain(..skip);
        self.held = held;
        self.cleared = pass - skip;
        self.settle(end);
    }

    fn settle(&mut self, end: End) {
        match end {
            End::Open => {}
            End::Refuse(refusal) => self.refuse(refusal),
            // What came before it is good, and has to arrive: a head is answered.
            End::Broken => self.broken = true,
            End::Preface => self.state.turns_to_http2(),
        }
    }

    /// Reads once more from the stream. The bytes stay in `buf` if all of them may go; what may not is held.
    fn read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<Read>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, buf))?;
        let new = &buf.filled()[before..];
        if new.is_empty() {
            return Poll::Ready(Ok(Read::End));
        }
        let Validated { skip, pass, end } = match self.held.is_empty() {
            true => self.validate(new),
            false => Validated { skip: 0, pass: 0, end: End::Open },
        };
        // What means nothing cannot be taken out of the middle.
        let stays = if skip == 0 { pass } else { 0 };
        self.held.extend_from_slice(&new[skip + stays..]);
        self.cleared = pass - skip - stays;
        buf.set_filled(before + stays);
        self.settle(end);
        Poll::Ready(Ok(if stays > 0 { Read::Passed } else { Read::Held }))
    }
}

impl AsyncRead for HeadFilter {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let filter = self.get_mut();
        loop {
            if filter.cleared > 0 && filter.release(buf) {
                return Poll::Ready(Ok(()));
            }
            if !filter.state.may_read() {
                // The connection's task polls again when that has changed.
                filter.state.hold_back(Some(filter.holds()));
                return Poll::Pending;
            }
            filter.state.hold_back(None);
            if filter.state.is_late(Phase::Head) {
                filter.refuse(Refusal::HeadTimeout);
                continue;
            }
            if filter.holds() {
                filter.examine();
                if filter.cleared > 0 {
                    continue;
                }
            }
            if filter.broken {
                let text = "chunked body not framed as one";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
            }
            match ready!(filter.read(cx, buf))? {
                Read::End | Read::Passed => return Poll::Ready(Ok(())),
                Read::Held => {}
            }
        }
    }
}

/// What the parser writes before a request has come out of it is its own answer to a head that it does not understand,
/// without a reason and counted nowhere. It is dropped, and the head refused like any other.
impl AsyncWrite for HeadFilter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.state.is_unclaimed() {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.state.is_unclaimed() {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        Pin::new(&mut *self.stream.borrow_mut()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stream = self.stream.borrow_mut();
        // The parser has no more to say, and the stream is dropped next, or told by whoever listens to the rest.
        if self.state.is_unclaimed() || stream.ends_when_dropped() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut *stream).poll_shutdown(cx)
    }
}

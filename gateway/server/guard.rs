//! Stands between a socket and the HTTP parser, and lets only whole, unambiguous request heads through.
//!
//! In the place of a head that is refused the parser gets a harmless stand-in, so that answers stay in order and the
//! refusal is answered like any other request. Nothing after it is read. A head that is whole is looked at where it
//! was read and not copied.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    Link, Refusal,
    framing::{Framing, Step},
    link::{Directive, Upgrade},
};
use crate::net::Stream;

/// What the parser gets in the place of a refused head.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\n\r\n";

/// Bytes that are held while it is not known whether they are HTTP.
const HELD_MOST: usize = 16 * 1024;

pub(super) struct Guard {
    stream: Stream,
    framing: Framing,
    link: Rc<Link>,
    /// Read and not handed on.
    held: Vec<u8>,
    /// How many of the held bytes may go.
    cleared: usize,
}

/// What became of some bytes: so many may go, and then what.
struct Vouched {
    pass: usize,
    end: End,
}

enum End {
    /// Nothing special; held bytes are the beginning of a head.
    Open,
    Refuse(Refusal),
    Broken,
}

impl Guard {
    pub(super) fn new(stream: TcpStream, link: Rc<Link>, max_head: usize) -> Self {
        Self {
            stream: Stream::new(stream),
            framing: Framing::new(max_head),
            link,
            held: Vec::new(),
            cleared: 0,
        }
    }

    /// The stream, and what was read of it and not handed on.
    pub(super) fn into_inner(self) -> (Stream, Vec<u8>) {
        (self.stream, self.held)
    }

    /// Whether the client may be in the middle of sending something.
    pub(super) fn cut_short(&self) -> bool {
        self.link.was_refused() || !self.framing.between_requests()
    }

    fn vouch(&mut self, bytes: &[u8]) -> Vouched {
        let mut pass = 0;
        while pass < bytes.len() && self.link.upgrade() == Upgrade::No {
            match self.framing.step(&bytes[pass..]) {
                Step::Body(len) => pass += len,
                Step::Head { len, upgrade } => {
                    pass += len;
                    self.link.vouch(upgrade);
                }
                Step::Partial => {
                    if self.link.partial.get().is_none() {
                        self.link.partial.set(Some(tokio::time::Instant::now()));
                    }
                    break;
                }
                Step::Refuse(refusal) => return Vouched { pass, end: End::Refuse(refusal) },
                Step::Broken => return Vouched { pass, end: End::Broken },
            }
        }
        Vouched { pass, end: End::Open }
    }

    /// Puts the stand-in behind what may go already; all else that was read is forgotten.
    fn refuse(&mut self, refusal: Refusal) {
        self.held.truncate(self.cleared);
        self.held.extend_from_slice(STAND_IN);
        self.cleared = self.held.len();
        self.link.refuse(refusal);
    }

    /// Hands on what may go. Says whether there was any.
    fn release(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let len = self.cleared.min(buf.remaining());
        buf.put_slice(&self.held[..len]);
        self.held.drain(..len);
        self.cleared -= len;
        len > 0
    }

    /// Looks again at what is held: there is more of it, or it is known now whether it is HTTP.
    fn examine(&mut self) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        let Vouched { pass, end } = self.vouch(&held);
        self.held = held;
        self.cleared = pass;
        self.settle(end)
    }

    fn settle(&mut self, end: End) -> io::Result<()> {
        match end {
            End::Open => Ok(()),
            End::Refuse(refusal) => {
                self.refuse(refusal);
                Ok(())
            }
            End::Broken => Err(io::Error::new(io::ErrorKind::InvalidData, "chunked body not framed as one")),
        }
    }

    /// Reads once more from the socket. The bytes stay in `buf` if all of them may go; what may not is held.
    fn read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<Read>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let new = &buf.filled()[before..];
        if new.is_empty() {
            return Poll::Ready(Ok(Read::End));
        }
        if self.link.upgrade() == Upgrade::Yes {
            return Poll::Ready(Ok(Read::Passed));
        }
        let Vouched { pass, end } =
            if self.held.is_empty() { self.vouch(new) } else { Vouched { pass: 0, end: End::Open } };
        self.held.extend_from_slice(&new[pass..]);
        buf.set_filled(before + pass);
        self.settle(end)?;
        Poll::Ready(Ok(if pass > 0 { Read::Passed } else { Read::Held }))
    }
}

enum Read {
    End,
    Passed,
    Held,
}

impl AsyncRead for Guard {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let guard = self.get_mut();
        guard.link.acted();
        loop {
            if guard.cleared > 0 && guard.release(buf) {
                return Poll::Ready(Ok(()));
            }
            if guard.link.was_refused() {
                return Poll::Pending;
            }
            if guard.link.order.get() == Directive::HeadTimeout {
                guard.refuse(Refusal::HeadTimeout);
                continue;
            }
            match guard.link.upgrade() {
                Upgrade::No if !guard.held.is_empty() => {
                    guard.examine()?;
                    if guard.cleared > 0 {
                        continue;
                    }
                }
                // The answer wakes this task.
                Upgrade::Asked if guard.held.len() >= HELD_MOST => return Poll::Pending,
                Upgrade::Yes if !guard.held.is_empty() => {
                    guard.cleared = guard.held.len();
                    continue;
                }
                _ => {}
            }
            match ready!(guard.read(cx, buf))? {
                Read::End | Read::Passed => return Poll::Ready(Ok(())),
                Read::Held => {}
            }
        }
    }
}

impl AsyncWrite for Guard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.link.acted();
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.link.acted();
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

//! A connection that carries frames, on either side of the gateway.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::frame::{Frame, FrameError};
use crate::net::Stream;

/// The longest frame that is taken, without its header, in bytes. It is held as a whole: it shares connections with others.
const FRAME_MOST: usize = 16 << 20;

/// How much is read at once.
const PIECE: usize = 16 * 1024;

/// A buffer that has grown beyond this for a long frame is given back when all of it is written, in bytes.
const KEPT_MOST: usize = 256 * 1024;

/// Why nothing more can be read.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

pub struct Link {
    stream: Stream,
    read: BytesMut,
    /// What was written may wait in TLS.
    unflushed: bool,
}

impl Link {
    /// `early` was read of the stream before.
    pub fn new(stream: Stream, early: &[u8]) -> Self {
        Self { stream, read: BytesMut::from(early), unflushed: false }
    }

    /// Whether a frame has begun to come.
    pub fn has_begun(&self) -> bool {
        !self.read.is_empty()
    }

    /// The next frame. None: the peer has closed, and has sent all of the one before.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, LinkError>> {
        loop {
            if let Some(frame) = Frame::take(&mut self.read, FRAME_MOST)? {
                return Poll::Ready(Ok(Some(frame)));
            }
            self.read.reserve(PIECE);
            let came = ready!(pin!(self.stream.read_buf(&mut self.read)).poll(cx))?;
            if came == 0 {
                let cut_off = || io::Error::from(io::ErrorKind::UnexpectedEof);
                return Poll::Ready(if self.has_begun() { Err(cut_off().into()) } else { Ok(None) });
            }
        }
    }

    /// Ready when all of this is with the kernel.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<io::Result<()>> {
        while !out.is_empty() {
            let wrote = ready!(Pin::new(&mut self.stream).poll_write(cx, out))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            out.advance(wrote);
            self.unflushed = true;
        }
        if out.capacity() > KEPT_MOST {
            *out = BytesMut::new();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the peer that nothing more comes.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

//! TCP as both sides of the gateway use it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Up to so many bytes, copying them together costs less than handing the kernel a list.
const SMALL: usize = 1024;

/// A TCP stream that sends short messages in one piece, and leaves longer ones where they are.
pub struct Stream {
    socket: TcpStream,
    /// Where pieces are put together.
    piece: Vec<u8>,
}

impl Stream {
    pub fn new(socket: TcpStream) -> Self {
        Self { socket, piece: Vec::new() }
    }

    pub fn into_inner(self) -> TcpStream {
        self.socket
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { socket, piece } = &mut *self;
        let socket = Pin::new(socket);
        match bufs {
            [buf] => socket.poll_write(cx, buf),
            _ if together(bufs, piece) => socket.poll_write(cx, piece),
            _ => socket.poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Puts pieces together unless they are too long for that.
fn together(bufs: &[IoSlice<'_>], piece: &mut Vec<u8>) -> bool {
    if bufs.iter().map(|buf| buf.len()).sum::<usize>() > SMALL {
        return false;
    }
    piece.clear();
    bufs.iter().for_each(|buf| piece.extend_from_slice(buf));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_put_together_in_order_while_they_are_short() {
        let (head, body) = ([1; SMALL - 2], [2; 2]);
        let mut piece = vec![7; 3];
        assert!(together(&[IoSlice::new(&head), IoSlice::new(&body)], &mut piece));
        assert_eq!(piece, [&head[..], &body[..]].concat());
        assert!(!together(&[IoSlice::new(&head), IoSlice::new(&[3; 3])], &mut piece));
        assert!(together(&[], &mut piece) && piece.is_empty());
    }
}

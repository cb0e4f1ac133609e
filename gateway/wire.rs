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
pub struct Stream(pub TcpStream);

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.0);
        if let [buf] = bufs {
            return stream.poll_write(cx, buf);
        }
        let mut small = [0; SMALL];
        match together(bufs, &mut small) {
            Some(message) => stream.poll_write(cx, message),
            None => stream.poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The pieces in one, if there is room.
fn together<'a>(bufs: &[IoSlice<'_>], small: &'a mut [u8; SMALL]) -> Option<&'a [u8]> {
    let mut len = 0;
    for buf in bufs {
        small.get_mut(len..len + buf.len())?.copy_from_slice(buf);
        len += buf.len();
    }
    small.get(..len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_put_together_in_order_while_there_is_room() {
        let (head, body) = ([1; SMALL - 2], [2; 2]);
        let mut small = [0; SMALL];
        let message = together(&[IoSlice::new(&head), IoSlice::new(&body)], &mut small).unwrap();
        assert_eq!(message, [&head[..], &body[..]].concat());
        assert_eq!(together(&[IoSlice::new(&head), IoSlice::new(&[3; 3])], &mut small), None);
        assert_eq!(together(&[], &mut small), Some(&[][..]));
    }
}

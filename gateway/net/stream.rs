//! TCP as both sides of the gateway use it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvFlags, recv},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use super::Meter;

/// Up to so many bytes, copying them together costs less than handing the kernel a list.
const SMALL: usize = 1024;

/// A stream that sends short messages in one piece, leaves longer ones where they are, and counts both ways.
pub struct Stream {
    socket: TcpStream,
    meter: Rc<Meter>,
    /// Where pieces are put together.
    piece: Vec<u8>,
    /// The runtime was told that nothing is there to be read, though something may be.
    hidden: bool,
}

impl Stream {
    pub fn new(socket: TcpStream) -> Self {
        Self { socket, meter: Rc::default(), piece: Vec::new(), hidden: false }
    }

    pub fn meter(&self) -> &Rc<Meter> {
        &self.meter
    }

    /// Has closing reset the connection, so that the peer cannot take what it has got for whole.
    pub fn reset_on_close(&self) -> io::Result<()> {
        socket2::SockRef::from(&self.socket).set_linger(Some(std::time::Duration::ZERO))
    }

    /// Ready as soon as the peer has closed its sending side or reset the connection, also when bytes that it sent
    /// before are still unread. Reads nothing.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if ready!(self.socket.poll_read_ready(cx)).is_err() || self.is_closed() {
                return Poll::Ready(());
            }
            // There are bytes, and nothing else. The runtime wakes for what comes next only when it believes that
            // there is nothing now.
            self.hidden = true;
            let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = self.socket.try_io(Interest::READABLE, nothing);
        }
    }

    /// Asks the kernel, without waiting.
    fn is_closed(&self) -> bool {
        let mut asked = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        match poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(_) => asked[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR),
            Err(_) => false,
        }
    }

    /// Reads what the runtime may not know of.
    fn read_hidden(&mut self, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match recv(&self.socket, buf.initialize_unfilled(), RecvFlags::DONTWAIT) {
            Ok((_, len)) => {
                buf.advance(len);
                Poll::Ready(Ok(()))
            }
            Err(rustix::io::Errno::AGAIN) => {
                self.hidden = false;
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    fn count(&self, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &wrote {
            Poll::Ready(Ok(len)) => self.meter.count_written(*len),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.meter.block(),
        }
        wrote
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if !self.hidden || self.read_hidden(buf)?.is_pending() {
            ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        }
        self.meter.count_read(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.count(wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { socket, piece, .. } = &mut *self;
        let socket = Pin::new(socket);
        let wrote = match bufs {
            [buf] => socket.poll_write(cx, buf),
            _ if together(bufs, piece) => socket.poll_write(cx, piece),
            _ => socket.poll_write_vectored(cx, bufs),
        };
        self.count(wrote)
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
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    async fn pair() -> (TcpStream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (peer, Stream::new(listener.accept().await.unwrap().0))
    }

    async fn closed(stream: &mut Stream) {
        std::future::poll_fn(|cx| stream.poll_closed(cx)).await;
    }

    #[tokio::test]
    async fn a_close_is_seen_behind_bytes_that_nobody_reads() {
        for reset in [false, true] {
            let (mut peer, mut stream) = pair().await;
            for text in ["one", "two"] {
                peer.write_all(text.as_bytes()).await.unwrap();
                let waited = tokio::time::timeout(Duration::from_millis(20), closed(&mut stream));
                assert!(waited.await.is_err(), "nothing has closed");
            }
            if reset {
                socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(peer);
            closed(&mut stream).await;
        }
    }

    #[tokio::test]
    async fn bytes_that_were_there_while_a_close_was_waited_for_are_read_and_counted() {
        let (mut peer, mut stream) = pair().await;
        let mut buf = [0; 3];
        for round in 1..4 {
            peer.write_all(b"abc").await.unwrap();
            let waited = tokio::time::timeout(Duration::from_millis(20), closed(&mut stream));
            assert!(waited.await.is_err());
            stream.read_exact(&mut buf).await.unwrap();
            assert_eq!((&buf, stream.meter().read()), (b"abc", 3 * round));
        }
        stream.write_all(b"abc").await.unwrap();
        assert_eq!(stream.meter().written(), 3);
        peer.read_exact(&mut buf).await.unwrap();
        drop(peer);
        assert!(matches!(stream.read(&mut buf).await, Ok(0)));
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_blocks() {
        let (mut peer, mut stream) = pair().await;
        let chunk = vec![0; 1 << 20];
        let writing = async { while stream.write_all(&chunk).await.is_ok() {} };
        assert!(tokio::time::timeout(Duration::from_millis(100), writing).await.is_err());
        assert!(stream.meter().is_blocked());
        let reading = tokio::spawn(async move {
            let mut sink = vec![0; 1 << 20];
            while peer.read(&mut sink).await.is_ok_and(|len| len > 0) {}
        });
        stream.write_all(b"x").await.unwrap();
        assert!(!stream.meter().is_blocked());
        drop(stream);
        reading.await.unwrap();
    }

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

//! TCP as both sides of the gateway use it, with or without TLS above it.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    net::Shutdown,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker, ready},
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
pub struct Tcp {
    socket: Rc<RefCell<TcpStream>>,
    meter: Rc<Meter>,
    /// Where pieces are put together.
    piece: Vec<u8>,
    /// The runtime was told that nothing is there to be read, though something may be.
    hidden: bool,
    reader: Reader,
}

/// Knows whether there is any use in asking the runtime if something is to be read. Whoever reads is woken for much
/// else, and HTTP parsers then try once more, several times for each message.
#[derive(Default)]
struct Reader(Option<(Arc<Wakeup>, Waker)>);

/// Wakes who reads, and remembers it.
struct Wakeup {
    reader: Waker,
    /// Something may have come since the runtime said that nothing was there.
    due: AtomicBool,
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.due.store(true, SeqCst);
        self.reader.wake_by_ref();
    }
}

impl Reader {
    /// Asks, if there is any use in it. All that registers with the runtime for reading goes through this: it
    /// remembers the last waker only.
    fn ask<T>(&mut self, cx: &Context<'_>, ask: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let (wakeup, waker) = match &mut self.0 {
            Some(known) if known.0.reader.will_wake(cx.waker()) => known,
            other => {
                let wakeup = Arc::new(Wakeup { reader: cx.waker().clone(), due: AtomicBool::new(true) });
                other.insert((wakeup.clone(), wakeup.into()))
            }
        };
        if !wakeup.due.load(SeqCst) {
            return Poll::Pending;
        }
        // Before asking: what comes meanwhile sets it again.
        wakeup.due.store(false, SeqCst);
        let answer = ask(&mut Context::from_waker(waker));
        if answer.is_ready() {
            wakeup.due.store(true, SeqCst);
        }
        answer
    }
}

impl Tcp {
    pub fn new(socket: TcpStream) -> Self {
        let socket = Rc::new(RefCell::new(socket));
        Self { socket, meter: Rc::default(), piece: Vec::new(), hidden: false, reader: Reader::default() }
    }

    /// What tells of the socket while the stream is elsewhere.
    pub fn sight(&self) -> Sight {
        Sight(self.socket.clone())
    }

    pub fn meter(&self) -> &Rc<Meter> {
        &self.meter
    }

    /// Has closing reset the connection, so that the peer cannot take what it has got for whole.
    pub fn reset_on_close(&self) -> io::Result<()> {
        socket2::SockRef::from(&*self.socket.borrow()).set_linger(Some(std::time::Duration::ZERO))
    }

    /// Ready as soon as the peer has closed its sending side or reset the connection, also when bytes that it sent
    /// before are still unread. Reads nothing.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { socket, hidden, reader, .. } = self;
        let socket = socket.borrow();
        reader.ask(cx, |cx| {
            loop {
                if ready!(socket.poll_read_ready(cx)).is_err() || shows(&socket, PollFlags::RDHUP) {
                    return Poll::Ready(());
                }
                // There are bytes, and nothing else. The runtime wakes for what comes next only when it believes that
                // there is nothing now.
                *hidden = true;
                forget(&socket, Interest::READABLE);
            }
        })
    }

    /// Whether bytes may be there that reading would give at once, and of which nothing wakes.
    pub fn may_have_bytes(&self) -> bool {
        self.hidden
    }

    /// Reads what came and leaves it there for whoever reads next. Nothing: the peer has closed its sending side.
    ///
    /// Is ready at once as long as anything is there, whether it was looked at before or not.
    pub fn poll_peek(&mut self, cx: &Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.hidden || self.read_hidden(buf, RecvFlags::PEEK)?.is_pending() {
            let Self { socket, reader, .. } = self;
            ready!(reader.ask(cx, |cx| socket.borrow().poll_peek(cx, buf)))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what the runtime may not know of.
    fn read_hidden(&mut self, buf: &mut ReadBuf<'_>, how: RecvFlags) -> Poll<io::Result<()>> {
        let how = how | RecvFlags::DONTWAIT;
        match recv(&*self.socket.borrow(), buf.initialize_unfilled(), how) {
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

impl AsyncRead for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if !self.hidden || self.read_hidden(buf, RecvFlags::empty())?.is_pending() {
            let Self { socket, reader, .. } = &mut *self;
            ready!(reader.ask(cx, |cx| Pin::new(&mut *socket.borrow_mut()).poll_read(cx, buf)))?;
        }
        self.meter.count_read(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut *self.socket.borrow_mut()).poll_write(cx, buf);
        self.count(wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { socket, piece, .. } = &mut *self;
        let mut socket = socket.borrow_mut();
        let whole = bufs.iter().map(|buf| buf.len()).sum();
        let wrote = match bufs {
            [buf] => Pin::new(&mut *socket).poll_write(cx, buf),
            _ if whole <= SMALL => {
                piece.clear();
                bufs.iter().for_each(|buf| piece.extend_from_slice(buf));
                Pin::new(&mut *socket).poll_write(cx, piece)
            }
            _ => write_pieces(&socket, cx, bufs, whole),
        };
        drop(socket);
        self.count(wrote)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(socket2::SockRef::from(&*self.socket.borrow()).shutdown(Shutdown::Write))
    }
}

/// What a socket shows of itself while its stream is in other hands.
pub struct Sight(Rc<RefCell<TcpStream>>);

impl Sight {
    /// Whether the peer has closed, or has sent what nobody waits for. Asks the kernel, without waiting.
    pub fn stirs(&self) -> bool {
        shows(&self.0.borrow(), PollFlags::RDHUP | PollFlags::IN)
    }
}

/// Whether any of these, or an end, is to be seen on the socket now.
fn shows(socket: &TcpStream, what: PollFlags) -> bool {
    let mut asked = [PollFd::new(socket, what)];
    match poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(_) => asked[0].revents().intersects(what | PollFlags::HUP | PollFlags::ERR),
        Err(_) => false,
    }
}

/// Has the runtime believe that the socket is not ready until the kernel says so again.
fn forget(socket: &TcpStream, what: Interest) {
    let _ = socket.try_io(what, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
}

/// Writes from several places at once. The kernel that took less than all has no more room: it is not asked once more
/// to say so, as the runtime would.
fn write_pieces(
    socket: &TcpStream,
    cx: &mut Context<'_>,
    bufs: &[IoSlice<'_>],
    whole: usize,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_write_ready(cx))?;
        match socket.try_write_vectored(bufs) {
            Ok(len) => {
                if 0 < len && len < whole {
                    forget(socket, Interest::WRITABLE);
                }
                return Poll::Ready(Ok(len));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    async fn pair() -> (TcpStream, Tcp) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (peer, Tcp::new(listener.accept().await.unwrap().0))
    }

    async fn closed(stream: &mut Tcp) {
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
    async fn what_was_looked_at_is_still_to_be_read() {
        let (mut peer, mut stream) = pair().await;
        for hidden in [false, true] {
            peer.write_all(b"abc").await.unwrap();
            if hidden {
                let waited = tokio::time::timeout(Duration::from_millis(20), closed(&mut stream));
                assert!(waited.await.is_err());
            }
            let mut buf = [0; 8];
            for _ in 0..2 {
                let mut peeked = ReadBuf::new(&mut buf);
                std::future::poll_fn(|cx| stream.poll_peek(cx, &mut peeked)).await.unwrap();
                assert_eq!(peeked.filled(), b"abc");
            }
            let before = stream.meter().read();
            assert_eq!(stream.read(&mut buf[..2]).await.unwrap(), 2);
            assert!(stream.sight().stirs(), "the rest is there");
            assert_eq!(stream.read(&mut buf).await.unwrap(), 1);
            assert_eq!(stream.meter().read() - before, 3);
        }
        let mut buf = [0; 8];
        let mut peeked = ReadBuf::new(&mut buf);
        let nothing = tokio::time::timeout(
            Duration::from_millis(20),
            std::future::poll_fn(|cx| stream.poll_peek(cx, &mut peeked)),
        );
        assert!(nothing.await.is_err());
        drop(peer);
        std::future::poll_fn(|cx| stream.poll_peek(cx, &mut peeked)).await.unwrap();
        assert!(peeked.filled().is_empty());
    }

    #[tokio::test]
    async fn who_reads_is_woken_wherever_it_is_and_whatever_it_waited_for() {
        let (mut peer, mut stream) = pair().await;
        let mut buf = [0; 3];
        for round in 0..20 {
            // Each asks from a task of its own, now for bytes, now for the end.
            let asked = tokio::time::timeout(Duration::from_millis(2), async {
                tokio::select! {
                    _ = stream.read(&mut buf) => panic!("nothing has come"),
                    () = std::future::pending() => {}
                }
            });
            assert!(asked.await.is_err());
            if round % 2 == 0 {
                let waited = tokio::time::timeout(Duration::from_millis(2), closed(&mut stream));
                assert!(waited.await.is_err());
            }
            let local = tokio::task::LocalSet::new();
            let reading = local.run_until(async {
                let reading = tokio::task::spawn_local(async move {
                    stream.read_exact(&mut buf).await.unwrap();
                    stream
                });
                peer.write_all(b"abc").await.unwrap();
                reading.await.unwrap()
            });
            stream = tokio::time::timeout(Duration::from_secs(5), reading).await.expect("it is woken");
        }
        drop(peer);
        tokio::time::timeout(Duration::from_secs(5), closed(&mut stream)).await.expect("the end is seen");
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

    #[tokio::test]
    async fn pieces_arrive_in_order_short_or_long() {
        for lengths in [[1, 2, 3], [SMALL, 1, 0], [100_000, 70_000, 1]] {
            let (mut peer, mut stream) = pair().await;
            let pieces: Vec<Vec<u8>> = (1..).zip(lengths).map(|(byte, len)| vec![byte; len]).collect();
            let whole = pieces.concat();
            let reading = async {
                let mut got = vec![0; whole.len()];
                peer.read_exact(&mut got).await.unwrap();
                got
            };
            let writing = async {
                let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
                let mut left = &mut slices[..];
                while !left.is_empty() {
                    let len = stream.write_vectored(left).await.unwrap();
                    IoSlice::advance_slices(&mut left, len);
                }
            };
            assert!(tokio::join!(reading, writing).0 == whole);
            assert_eq!(stream.meter().written(), whole.len() as u64);
        }
    }

    #[tokio::test]
    async fn a_stream_in_other_hands_shows_what_stirs() {
        let (mut peer, stream) = pair().await;
        let sight = stream.sight();
        assert!(!sight.stirs());
        peer.write_all(b"x").await.unwrap();
        assert!(sight.stirs());
        let (peer, stream) = pair().await;
        let sight = stream.sight();
        drop(peer);
        assert!(sight.stirs());
    }
}

//! The bytes of one connection: noted as they are read, and not waited for without end.

use std::{
    future::Future,
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::roster::Client;
use crate::net::Wire;

/// A client that does not read has so long to take at least so many bytes of its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const LEAST_PROGRESS: usize = 16 * 1024;

pub(super) struct Io {
    stream: Box<dyn Wire>,
    client: Arc<Client>,
    /// While the kernel takes no more: until when the client has to go on.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Taken since that wait began.
    progress: usize,
    /// Something was written, and not all of it taken yet.
    writing: bool,
}

impl Io {
    pub(super) fn new(stream: Box<dyn Wire>, client: Arc<Client>) -> Self {
        Self { stream, client, stalled: None, progress: 0, writing: false }
    }

    fn wrote(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match wrote {
            Poll::Ready(Ok(bytes)) => {
                self.client.read(bytes);
                self.writing = true;
                self.progress = self.progress.saturating_add(bytes);
                if self.progress >= LEAST_PROGRESS {
                    self.stalled = None;
                }
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(error) => Poll::Ready(error),
            Poll::Pending => {
                if self.stalled.is_none() {
                    self.progress = 0;
                }
                let until = || Box::pin(sleep_until(Instant::now() + WRITE_TIMEOUT));
                match self.stalled.get_or_insert_with(until).as_mut().poll(cx) {
                    Poll::Ready(()) => {
                        let text = format!("the client did not read its answer within {WRITE_TIMEOUT:?}");
                        Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, text)))
                    }
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if let Poll::Ready(Ok(())) = flushed {
            // It has taken all there was: what is left of a wait must not shorten the next one.
            self.stalled = None;
            if std::mem::take(&mut self.writing) {
                self.client.has_read();
            }
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
    };

    use bytes::Bytes;
    use hyper::{server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::{sleep, timeout},
    };

    use super::*;
    use crate::admin::{
        answer::events,
        feeds::Feeds,
        path::Resource,
        roster::{MOST_CONNECTIONS, Place, Roster},
    };

    /// Bytes of each document, and of what the wire holds.
    const DOCUMENT: usize = 64 * 1024;
    const WIRE: usize = 1024;

    /// A client that follows a document which is another one each second.
    async fn viewer(roster: &Arc<Roster>) -> (DuplexStream, Arc<Client>) {
        let (mut wire, stream) = duplex(WIRE);
        let feeds = Arc::new(Feeds::default());
        let made = AtomicUsize::new(0);
        let make = move || {
            let digit = b'0' + u8::try_from(made.fetch_add(1, Relaxed) % 10).unwrap();
            std::future::ready(Some(Bytes::from(vec![digit; DOCUMENT])))
        };
        let place = feeds.enter().unwrap();
        let feed = Mutex::new(feeds.start(Resource::Overview, place, &"0".into(), make));
        let place = roster.enter().unwrap();
        let (client, roster) = (place.client.clone(), roster.clone());
        let io = TokioIo::new(Io::new(Box::new(stream), client.clone()));
        tokio::spawn(async move {
            let service = service_fn(|_| {
                let feed = feed.lock().unwrap().take().unwrap();
                roster.answer(&place.client, 0);
                async { Ok::<_, Infallible>(events(feed)) }
            });
            let _ = http1::Builder::new().serve_connection(io, service).await;
            drop(feeds);
        });
        wire.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        (wire, client)
    }

    /// Reads so many bytes a second; says after how many seconds the answer ended, of `most`.
    async fn read(wire: &mut DuplexStream, speed: usize, most: u32) -> Option<u32> {
        for second in 0..most {
            let mut left = speed;
            while left > 0 {
                let mut buffer = vec![0; left];
                // A feed that has less than that goes on with the next second.
                let read = timeout(Duration::from_secs(1), wire.read(&mut buffer)).await;
                match read.map(Result::unwrap) {
                    Ok(0) => return Some(second),
                    Ok(count) => left -= count,
                    Err(_) => break,
                }
            }
            sleep(Duration::from_secs(1)).await;
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_viewer_that_takes_little_of_a_feed_is_left_and_one_that_keeps_up_is_not() {
        let roster = Arc::new(Roster::default());
        let (mut slow, _) = viewer(&roster).await;
        let ended = read(&mut slow, LEAST_PROGRESS / 20, 60).await;
        assert!(ended.is_some_and(|seconds| seconds <= 15), "{ended:?}");
        let (mut quick, _) = viewer(&roster).await;
        assert_eq!(read(&mut quick, 2 * DOCUMENT, 60).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_viewer_that_reads_does_not_go_before_those_who_say_nothing() {
        let roster = Arc::new(Roster::default());
        let (mut wire, client) = viewer(&roster).await;
        assert_eq!(read(&mut wire, 2 * DOCUMENT, 3).await, None);
        let silent: Vec<Place> = (1..MOST_CONNECTIONS).map(|_| roster.enter().unwrap()).collect();
        assert_eq!(read(&mut wire, 2 * DOCUMENT, 3).await, None);
        let _new = roster.enter().unwrap();
        assert!(!silent[0].client.asked(), "it has owed for the longest");
        assert!(client.asked());
    }
}

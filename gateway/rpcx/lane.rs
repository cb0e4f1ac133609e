//! A connection to an endpoint, which calls share. Each has a number of its own on it, whatever its client has called it.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::BytesMut;
use rustc_hash::FxHashMap;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{
    frame::Frame,
    link::{Link, LinkError},
};
use crate::net::{Standstill, Stream, Watch, Watched};

/// With so much that the endpoint has not taken yet, calls wait for room, in bytes.
const OUT_MOST: usize = 256 * 1024;

/// How long a lane may wait.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the endpoint to take something.
    pub write: Duration,
    /// For another call.
    pub idle: Duration,
}

/// Why a lane carries nothing any more.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LaneError {
    #[error("the endpoint closed the connection")]
    Closed,
    #[error("the endpoint took nothing for too long")]
    Stuck,
    #[error("{0}")]
    Broken(Arc<LinkError>),
    #[error("the gateway failed")]
    Failed,
}

/// What became of a call that was lost with its lane.
#[derive(Debug)]
pub struct Lost {
    pub error: LaneError,
    /// Nothing of it had been written.
    pub unsent: bool,
    /// The lane was idle before the call, and ended without another word: it may have died before.
    pub stale: bool,
}

pub struct Lane {
    state: RefCell<State>,
    /// The task that reads and writes.
    driver: RefCell<Option<Waker>>,
    /// The endpoint has taken something, or the lane has ended.
    room: Notify,
    patience: Patience,
    standstill: Standstill<Wait>,
    ended: Cell<bool>,
}

#[derive(Default)]
struct State {
    out: BytesMut,
    /// Bytes that were ever to be written.
    queued: u64,
    /// Frames that came.
    came: u64,
    last: u64,
    waiting: FxHashMap<u64, Waiting>,
    error: Option<LaneError>,
}

struct Waiting {
    /// Where it begins in all that was ever to be written.
    from: u64,
    /// How many frames had come before it, if it was alone then on a lane that had carried others.
    alone_since: Option<u64>,
    answer: oneshot::Sender<Result<Frame, Lost>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Room,
    Call,
}

/// A call that was sent. Dropping it gives it up: an answer that comes later is nobody's.
pub struct Sent {
    lane: Rc<Lane>,
    number: u64,
    answer: oneshot::Receiver<Result<Frame, Lost>>,
}

impl Lane {
    /// What carries calls, and the task that has to run for it. It ends when the lane does.
    pub fn new(
        stream: Stream,
        patience: Patience,
        watch: &Rc<Watch>,
    ) -> (Rc<Self>, impl Future<Output = ()> + use<>) {
        let lane = Rc::new(Self {
            state: RefCell::default(),
            driver: RefCell::default(),
            room: Notify::new(),
            patience,
            standstill: Standstill::default(),
            ended: Cell::default(),
        });
        let (driven, watch) = (lane.clone(), watch.clone());
        let drive = async move {
            let end = End(driven.clone());
            let place = watch.enter(driven.clone());
            place.wait(Some(patience.write.min(patience.idle)));
            let mut link = Link::new(stream, &[]);
            let error = poll_fn(|cx| driven.poll(cx, &mut link)).await;
            driven.end(error);
            drop(end);
        };
        (lane, drive)
    }

    /// Whether it carries nothing any more.
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Calls that wait for an answer.
    pub fn calls(&self) -> usize {
        self.state.borrow().waiting.len()
    }

    /// Waits until there is room for another call, or there is nothing to wait for any more.
    pub async fn has_room(&self) {
        while self.state.borrow().out.len() > OUT_MOST && !self.has_ended() {
            self.room.notified().await;
        }
    }

    /// Sends a call, at once or as soon as the endpoint takes it. None: the lane has ended, and nothing was sent.
    pub fn send(self: &Rc<Self>, call: &Frame) -> Option<Sent> {
        let number = self.put(call)?;
        let mut state = self.state.borrow_mut();
        let State { queued, came, waiting, .. } = &mut *state;
        let (sender, answer) = oneshot::channel();
        let is_alone = number > 1 && waiting.is_empty();
        let (from, alone_since) = (*queued - call.size() as u64, is_alone.then_some(*came));
        waiting.insert(number, Waiting { from, alone_since, answer: sender });
        drop(state);
        Some(Sent { lane: self.clone(), number, answer })
    }

    /// Sends a call that has no answer. Says whether the lane takes it.
    pub fn tell(&self, call: &Frame) -> bool {
        self.put(call).is_some()
    }

    fn put(&self, call: &Frame) -> Option<u64> {
        if self.has_ended() {
            return None;
        }
        let mut state = self.state.borrow_mut();
        let State { out, queued, last, .. } = &mut *state;
        *last += 1;
        *queued += call.size() as u64;
        call.put(*last, out);
        let number = *last;
        drop(state);
        self.wake();
        Some(number)
    }

    fn wake(&self) {
        if let Some(driver) = &*self.driver.borrow() {
            driver.wake_by_ref();
        }
    }

    fn poll(&self, cx: &mut Context<'_>, link: &mut Link) -> Poll<LaneError> {
        let mut driver = self.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|driver| driver.will_wake(cx.waker())) {
            *driver = Some(cx.waker().clone());
        }
        drop(driver);
        let mut state = self.state.borrow_mut();
        if let Some(error) = state.error.take() {
            return Poll::Ready(error);
        }
        let before = state.out.len();
        let wrote = link.poll_write(cx, &mut state.out);
        let has_room = before > OUT_MOST && state.out.len() <= OUT_MOST;
        drop(state);
        if has_room {
            self.room.notify_waiters();
        }
        // What can be read comes first: the endpoint may have said something before it closed.
        loop {
            match link.poll_frame(cx) {
                Poll::Ready(Ok(Some(frame))) => self.came(frame),
                Poll::Ready(Ok(None)) => return Poll::Ready(LaneError::Closed),
                Poll::Ready(Err(error)) => return Poll::Ready(LaneError::Broken(Arc::new(error))),
                Poll::Pending => break,
            }
        }
        match wrote {
            Poll::Ready(Err(error)) => Poll::Ready(LaneError::Broken(Arc::new(error.into()))),
            _ => Poll::Pending,
        }
    }

    /// What is no answer to a call is nobody's: calls that a server makes have no client here.
    fn came(&self, frame: Frame) {
        let mut state = self.state.borrow_mut();
        state.came += 1;
        if frame.is_response()
            && !frame.is_heartbeat()
            && let Some(waiting) = state.waiting.remove(&frame.number())
        {
            // It may have been given up just now.
            let _ = waiting.answer.send(Ok(frame));
        }
    }

    fn end(&self, error: LaneError) {
        if self.ended.replace(true) {
            return;
        }
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let written = state.queued - state.out.len() as u64;
        let is_quiet = matches!(&error, LaneError::Closed)
            || matches!(&error, LaneError::Broken(error) if matches!(&**error, LinkError::Io(error) if is_reset(error)));
        for (_, Waiting { from, alone_since, answer }) in state.waiting.drain() {
            let stale = is_quiet && alone_since == Some(state.came);
            let _ = answer.send(Err(Lost { error: error.clone(), unsent: written <= from, stale }));
        }
        self.room.notify_waiters();
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// Nobody waits for a lane whose task has ended, also not after a panic.
struct End(Rc<Lane>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.end(LaneError::Failed);
    }
}

impl Watched for Lane {
    fn look(&self, now: Instant) -> bool {
        let mut state = self.state.borrow_mut();
        let written = state.queued - state.out.len() as u64;
        let (wait, progress, limit) = match (state.out.is_empty(), state.waiting.is_empty()) {
            (false, _) => (Wait::Room, written, self.patience.write),
            (true, true) => (Wait::Call, state.queued, self.patience.idle),
            (true, false) => {
                self.standstill.over();
                return !self.has_ended();
            }
        };
        if self.standstill.lasts(now, wait, progress) >= limit {
            state.error = Some(if wait == Wait::Room { LaneError::Stuck } else { LaneError::Closed });
            drop(state);
            self.wake();
            return false;
        }
        !self.has_ended()
    }
}

impl Sent {
    /// The answer, with the number that the call has on the lane.
    pub async fn answer(mut self) -> Result<Frame, Lost> {
        let lost = Lost { error: LaneError::Failed, unsent: false, stale: false };
        (&mut self.answer).await.unwrap_or(Err(lost))
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.lane.state.borrow_mut().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        pin::Pin,
    };

    use super::*;
    use crate::net::Tcp;

    const PATIENCE: Patience = Patience { write: Duration::from_secs(10), idle: Duration::from_secs(60) };

    /// More than a connection on this machine holds.
    const LONG: usize = 16 << 20;

    struct Driven {
        lane: Rc<Lane>,
        drive: Pin<Box<dyn Future<Output = ()>>>,
        /// Does nothing by itself.
        endpoint: TcpStream,
    }

    impl Driven {
        async fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (lane, drive) = Lane::new(Tcp::new(stream).into(), PATIENCE, &Rc::default());
            Self { lane, drive: Box::pin(drive), endpoint: listener.accept().unwrap().0 }
        }

        /// Writes what the endpoint takes by now.
        async fn write(&mut self) {
            let drive = &mut self.drive;
            let ended = poll_fn(|cx| Poll::Ready(drive.as_mut().poll(cx).is_ready())).await;
            assert!(!ended);
        }

        fn left(&self) -> usize {
            self.lane.state.borrow().out.len()
        }
    }

    fn reset(endpoint: TcpStream) {
        socket2::SockRef::from(&endpoint).set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn frame(flags: u8, number: u64, payload: usize) -> BytesMut {
        let mut frame = BytesMut::from([8, 0, flags, 0x30].as_slice());
        frame.extend(number.to_be_bytes());
        frame.extend((16 + payload as u32).to_be_bytes());
        frame.extend([0; 12]);
        frame.extend((payload as u32).to_be_bytes());
        frame.extend(std::iter::repeat_n(0, payload));
        frame
    }

    fn call(payload: usize) -> Frame {
        Frame::take(&mut frame(0, 1, payload), LONG + 100).unwrap().unwrap()
    }

    #[tokio::test]
    async fn an_answer_that_can_be_read_wins_over_an_error_of_writing() {
        let mut driven = Driven::new().await;
        let answered = driven.lane.send(&call(1)).unwrap();
        driven.write().await;
        let stuck = driven.lane.send(&call(LONG)).unwrap();
        driven.write().await;
        // Both are there before anybody looks.
        driven.endpoint.write_all(&frame(0x80, 1, 1)).unwrap();
        reset(driven.endpoint);
        driven.drive.await;
        assert!(answered.answer().await.is_ok());
        assert!(stuck.answer().await.is_err());
    }

    #[tokio::test]
    async fn only_a_call_of_which_nothing_was_written_is_unsent() {
        let mut driven = Driven::new().await;
        let begun = driven.lane.send(&call(LONG)).unwrap();
        driven.write().await;
        let behind = driven.lane.send(&call(1)).unwrap();
        reset(driven.endpoint);
        driven.drive.await;
        assert_eq!(
            [begun.answer().await.unwrap_err().unsent, behind.answer().await.unwrap_err().unsent],
            [false, true]
        );
    }

    #[tokio::test]
    async fn an_endpoint_that_takes_something_is_not_stuck() {
        let mut driven = Driven::new().await;
        let _call = driven.lane.send(&call(LONG)).unwrap();
        driven.write().await;
        let (start, left) = (Instant::now(), driven.left());
        assert!(driven.lane.look(start));
        while driven.left() == left {
            assert_ne!(driven.endpoint.read(&mut [0; 1 << 16]).unwrap(), 0);
            tokio::task::yield_now().await;
            driven.write().await;
        }
        assert!(driven.lane.look(start + PATIENCE.write));
        assert!(!driven.lane.look(start + 2 * PATIENCE.write));
    }
}

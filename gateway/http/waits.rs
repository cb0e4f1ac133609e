//! What one request waits for, and how long it may.
//!
//! The worker's watch looks at every request a few times per limit. Whatever has waited too long is told to the
//! request, which is woken to make of it an answer, or the end of one.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use tokio::time::Instant;

use super::grpc;
use crate::{
    client::Connection,
    config,
    net::{Meter, Place, Standstill, Watch, Watched},
    server::{ConnInfo, OpenStream},
    telemetry::Fault,
    upstream::Stats,
};

/// What a request can wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// More of the request's body, from the client.
    Upload,
    /// The endpoint, to take more of the request.
    Room,
    /// The head of the answer; everything is sent.
    Head,
    /// More of the answer's body, from the endpoint.
    Answer,
    /// The end of it all, while it waited for the client.
    WholeOfClient,
    /// The same, while it waited for the endpoint.
    WholeOfEndpoint,
    /// The head of the answer, of one try.
    Try,
    /// The end of it all, after the endpoint has left the list.
    Leave,
    /// Whatever it was: the gateway closes.
    Closing,
}

impl Wait {
    /// Whose fault it is that it took too long.
    pub fn fault(self) -> Fault {
        match self {
            Self::Upload | Self::WholeOfClient => Fault::Client,
            Self::Room | Self::Head | Self::Answer | Self::WholeOfEndpoint | Self::Try => Fault::Endpoint,
            Self::Leave | Self::Closing => Fault::Local,
        }
    }
}

/// How long a request may wait. None: for ever.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    pub upload: Option<Duration>,
    pub room: Option<Duration>,
    pub head: Option<Duration>,
    pub answer: Option<Duration>,
    pub whole: Option<Duration>,
    /// Of each try, until the head of its answer.
    pub per_try: Option<Duration>,
    /// After so long the first try may get one beside it.
    pub backup: Option<Duration>,
    /// Counts from when the endpoint has left.
    pub leave: Option<Duration>,
    /// That of the whole is the deadline that the client of a call has told.
    pub told: bool,
    /// The client gave so little time that its end is no fault of an endpoint.
    pub impatient: bool,
}

impl Limits {
    pub(super) fn new(listener: &config::Listener, timeouts: &config::Timeouts) -> Self {
        Self {
            per_try: None,
            backup: None,
            upload: Some(listener.body_timeout),
            room: Some(timeouts.write),
            head: timeouts.response,
            answer: timeouts.idle,
            whole: timeouts.request,
            leave: None,
            told: false,
            impatient: false,
        }
    }

    /// Of a call of gRPC, whose client may say how long it waits for the end. Its answer may be a stream, which may be quiet
    /// from its beginning.
    pub(super) fn call(&mut self, timeout: Option<Duration>) {
        self.head = None;
        let Some(timeout) = timeout.filter(|timeout| self.whole.is_none_or(|whole| *timeout < whole)) else {
            return;
        };
        self.whole = Some(timeout);
        self.told = true;
        self.impatient = timeout < grpc::SHORT;
    }

    fn of(&self, wait: Wait) -> Option<Duration> {
        match wait {
            Wait::Upload => self.upload,
            Wait::Room => self.room,
            Wait::Head => self.head,
            Wait::Answer => self.answer,
            Wait::WholeOfClient | Wait::WholeOfEndpoint => self.whole,
            Wait::Try => self.per_try,
            Wait::Leave => self.leave,
            Wait::Closing => None,
        }
    }

    fn shortest(&self) -> Option<Duration> {
        [self.upload, self.room, self.head, self.answer, self.whole, self.per_try, self.backup, self.leave]
            .into_iter()
            .flatten()
            .min()
    }
}

/// By what the request came, and its answer goes.
pub(super) enum Inbound {
    Connection(Rc<ConnInfo>),
    Stream(OpenStream),
}

impl Inbound {
    /// Ends it, so that the client cannot take what it has got for whole.
    fn reset(&self) {
        match self {
            Self::Connection(connection) => connection.abort(),
            Self::Stream(stream) => stream.reset(),
        }
    }
}

/// Where the body of a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Upload {
    /// There is none, or it is on its way to the endpoint as a whole.
    #[default]
    Over,
    /// The client has sent all that was asked for.
    Moving,
    /// More of it is waited for.
    Wanted,
}

/// Where the answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Answer {
    /// Nothing was sent that it could answer.
    #[default]
    Unasked,
    /// Its head is to come.
    Head,
    /// The client takes what there is of it.
    Moving,
    /// The client waits for more of it.
    Wanted,
}

/// The waits of one request. Dropped, they are used for another.
pub(super) struct Waits {
    state: Rc<State>,
    place: Option<Place>,
    unused: Rc<Unused>,
}

/// Waits of requests that are over, with their places at the watch, kept by a worker.
#[derive(Default)]
pub(super) struct Unused(RefCell<Vec<(Rc<State>, Place)>>);

/// So many are kept: more requests at once are rare.
const UNUSED_MOST: usize = 1024;

#[derive(Default)]
struct State {
    /// Counts the requests that have used this.
    serial: Cell<u64>,
    limits: Cell<Limits>,
    began: Cell<Option<Instant>>,
    /// When the try began that has been under way for the longest, or its turn to wait for the endpoint.
    tried: Cell<Option<Instant>>,
    /// That try has taken too long.
    late: Cell<bool>,
    /// It has taken so long that there may be one beside it.
    backup_due: Cell<bool>,
    /// Its endpoint has left, and its time is over.
    left: Cell<bool>,
    upload: Cell<Upload>,
    frames: Cell<u64>,
    answer: Cell<Answer>,
    /// Of the answer that came.
    pieces: Cell<u64>,
    /// Of the connection to the endpoint.
    meter: RefCell<Option<Rc<Meter>>>,
    /// Of the client's connection.
    client: RefCell<Option<Rc<Meter>>>,
    /// What ends an answer of which the client takes nothing, if that may have to be.
    inbound: RefCell<Option<Inbound>>,
    /// Of the endpoint, if it may have to be left.
    endpoint: RefCell<Option<Arc<Stats>>>,
    expired: Cell<Option<Wait>>,
    waker: RefCell<Option<Waker>>,
    standstill: Standstill<(u64, Wait)>,
}

impl Unused {
    /// For a request that began then, over a connection with this meter.
    pub(super) fn take(
        self: &Rc<Self>,
        watch: &Rc<Watch>,
        began: std::time::Instant,
        client: &Rc<Meter>,
    ) -> Waits {
        let (state, place) = self.0.borrow_mut().pop().unwrap_or_else(|| {
            let state = Rc::<State>::default();
            (state.clone(), watch.enter(state))
        });
        state.serial.set(state.serial.get().wrapping_add(1));
        state.began.set(Some(began.into()));
        state.tried.set(Some(began.into()));
        state.client.replace(Some(client.clone()));
        Waits { state, place: Some(place), unused: self.clone() }
    }
}

impl Waits {
    /// These limits count from now on, that of the whole from the beginning.
    pub(super) fn limit(&self, limits: Limits) {
        self.state.limits.set(limits);
        if let Some(place) = &self.place {
            place.wait(limits.shortest());
        }
    }

    /// What ends an answer whose time is over and of which the client takes nothing.
    pub(super) fn end_by(&self, inbound: Inbound) {
        self.state.inbound.replace(Some(inbound));
    }

    /// The request is sent to an endpoint, over this.
    pub(super) fn sent<B>(&self, connection: &Connection<B>, endpoint: &Arc<Stats>) {
        self.state.answer.set(Answer::Head);
        if self.state.limits.get().leave.is_some() {
            self.state.endpoint.replace(Some(endpoint.clone()));
        }
        // That a connection moves says nothing of one of those who share it.
        let own = !connection.is_shared();
        self.state.meter.replace(own.then(|| connection.meter().clone()));
    }

    /// It was not, or not with success: what was said of that try does not count any more. The one that counts now
    /// began then.
    pub(super) fn again(&self, begun: std::time::Instant) {
        let state = &self.state;
        state.answer.set(Answer::Unasked);
        state.meter.replace(None);
        state.tried.set(Some(begun.into()));
        state.late.set(false);
        state.left.set(false);
        state.endpoint.replace(None);
        state.standstill.over();
    }

    /// Whether the time of the try is over.
    pub(super) fn is_late(&self) -> bool {
        self.state.late.get()
    }

    /// Whether the endpoint of the try has left, and its time is over.
    pub(super) fn has_left(&self) -> bool {
        self.state.left.get()
    }

    /// Whether it is time for a try beside the first. Says so once.
    pub(super) fn is_backup_due(&self) -> bool {
        let due = self.state.backup_due.take();
        if due {
            self.state.limits.set(Limits { backup: None, ..self.state.limits.get() });
        }
        due
    }

    /// The head of the answer is there; its body is handed on.
    pub(super) fn answering(&self) {
        let state = &self.state;
        state.answer.set(Answer::Moving);
        // It came in the moment in which its time was over, and was looked at first.
        let over = matches!(state.expired.get(), Some(Wait::Upload | Wait::Room | Wait::Head));
        if over && let Some(place) = &self.place {
            state.expired.set(None);
            state.standstill.over();
            place.wait(state.limits.get().shortest());
        }
    }

    /// More of the answer is waited for, or no longer.
    pub(super) fn answer_wanted(&self, wanted: bool) {
        let state = &self.state;
        state.answer.set(if wanted { Answer::Wanted } else { Answer::Moving });
        if !wanted {
            state.pieces.set(state.pieces.get().wrapping_add(1));
        }
    }

    /// What is told to the body of the request, which tells how far it is.
    pub(super) fn upload(&self) -> UploadWaits {
        self.state.upload.set(Upload::Moving);
        UploadWaits { state: self.state.clone(), serial: self.state.serial.get() }
    }

    /// The end of the answer's time has been heard: the client gets what comes of it.
    pub(super) fn heard(&self) {
        self.state.inbound.take();
    }

    /// What has waited too long, if anything.
    pub(super) fn expired(&self) -> Option<Wait> {
        self.state.expired.get()
    }

    /// What was waited for when the deadline of a call passed, if it has: the client and the endpoint, who know it, look at
    /// the clock themselves, and end the call before the watch does.
    pub(super) fn overdue(&self) -> Option<Wait> {
        let (began, limits) = (self.state.began.get()?, self.state.limits.get());
        let whole = limits.whole.filter(|_| limits.told)?;
        let passed = Instant::now().saturating_duration_since(began) + grpc::AHEAD >= whole;
        passed.then(|| self.state.whole(&limits))
    }

    /// Remembers whom to wake.
    pub(super) fn remember(&self, cx: &Context<'_>) {
        let mut waker = self.state.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let state = &self.state;
        state.began.set(None);
        state.upload.set(Upload::Over);
        state.reset();
        let mut unused = self.unused.0.borrow_mut();
        if let Some(place) = self.place.take()
            && unused.len() < UNUSED_MOST
        {
            unused.push((state.clone(), place));
        }
    }
}

/// Through this the body of a request tells how far it is. It may outlive the request: then it tells nobody.
pub(super) struct UploadWaits {
    state: Rc<State>,
    serial: u64,
}

impl UploadWaits {
    pub(super) fn set(&self, upload: Upload) {
        let state = &self.state;
        if state.serial.get() == self.serial && state.began.get().is_some() {
            if upload != Upload::Wanted {
                state.frames.set(state.frames.get().wrapping_add(1));
            }
            state.upload.set(upload);
        }
    }
}

impl State {
    fn reset(&self) {
        self.answer.set(Answer::Unasked);
        self.frames.set(0);
        self.expired.set(None);
        self.late.set(false);
        self.backup_due.set(false);
        self.left.set(false);
        self.meter.replace(None);
        self.client.replace(None);
        self.inbound.replace(None);
        self.endpoint.replace(None);
        self.standstill.over();
    }

    /// What is waited for now, and a count that tells of progress.
    fn waiting(&self) -> Option<(Wait, u64)> {
        let meter = self.meter.borrow();
        let (blocked, read, written) =
            meter.as_ref().map_or((false, 0, 0), |meter| (meter.is_blocked(), meter.read(), meter.written()));
        match (self.answer.get(), self.upload.get()) {
            // How long connecting may take is told to the connection.
            (Answer::Unasked, _) => None,
            (Answer::Head, Upload::Wanted) => Some((Wait::Upload, self.frames.get())),
            (Answer::Head, _) if blocked => Some((Wait::Room, written)),
            (Answer::Head, Upload::Over) => Some((Wait::Head, 0)),
            // It has been taken from the client and is on its way to the endpoint.
            (Answer::Head, Upload::Moving) => Some((Wait::Room, written.wrapping_add(self.frames.get()))),
            (Answer::Moving, _) => None,
            // What it waited for may be there: nobody looks while the client takes nothing.
            (Answer::Wanted, _) if self.is_client_blocked() => None,
            (Answer::Wanted, _) => Some((Wait::Answer, read.wrapping_add(self.pieces.get()))),
        }
    }

    fn is_client_blocked(&self) -> bool {
        self.client.borrow().as_ref().is_some_and(|meter| meter.is_blocked())
    }

    fn is_for_client(&self) -> bool {
        match self.answer.get() {
            Answer::Unasked => false,
            Answer::Wanted => self.is_client_blocked(),
            Answer::Head => self.upload.get() == Upload::Wanted,
            Answer::Moving => true,
        }
    }

    /// Whose fault it is that the time for everything is over.
    fn whole(&self, limits: &Limits) -> Wait {
        let client = limits.impatient || self.is_for_client();
        if client { Wait::WholeOfClient } else { Wait::WholeOfEndpoint }
    }

    /// Whether the endpoint has left, and longer ago than is allowed.
    fn is_to_leave(&self, limits: &Limits, now: Instant) -> bool {
        let endpoint = self.endpoint.borrow();
        let gone = endpoint.as_ref().and_then(|endpoint| endpoint.gone_for(now.into_std()));
        gone.zip(limits.leave).is_some_and(|(gone, limit)| gone >= limit)
    }

    /// Tells the request. Says whether to look once more whether it has heard it.
    fn expire(&self, wait: Wait) -> bool {
        self.expired.set(Some(wait));
        self.wake();
        self.inbound.borrow().is_some() && matches!(self.answer.get(), Answer::Moving | Answer::Wanted)
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Looks at the time of one try.
    fn look_at_try(&self, now: Instant, limits: &Limits) {
        let Some(tried) =
            self.tried.get().filter(|_| matches!(self.answer.get(), Answer::Unasked | Answer::Head))
        else {
            return;
        };
        let lasts = now.saturating_duration_since(tried);
        if !self.backup_due.get() && limits.backup.is_some_and(|after| lasts >= after) {
            self.backup_due.set(true);
            self.wake();
        }
        if self.upload.get() == Upload::Wanted {
            // It is the client's turn.
            self.tried.set(Some(now));
        } else if !self.late.get() && limits.per_try.is_some_and(|limit| lasts >= limit) {
            self.late.set(true);
            self.wake();
        }
    }
}

impl Watched for State {
    fn look(&self, now: Instant) -> bool {
        let Some(began) = self.began.get() else { return false };
        if self.expired.get().is_some() {
            // Nobody has heard, because nobody asks for more of the answer: the client takes nothing of it.
            if let Some(inbound) = self.inbound.take() {
                inbound.reset();
            }
            return false;
        }
        if self.client.borrow().as_ref().is_some_and(|meter| meter.is_ending()) {
            return self.expire(Wait::Closing);
        }
        let limits = self.limits.get();
        if limits.whole.is_some_and(|limit| now.saturating_duration_since(began) >= limit) {
            return self.expire(self.whole(&limits));
        }
        if limits.per_try.is_some() || limits.backup.is_some() {
            self.look_at_try(now, &limits);
        }
        if limits.leave.is_some() && self.is_to_leave(&limits, now) {
            if self.answer.get() != Answer::Head {
                return self.expire(Wait::Leave);
            }
            // It may be answered by another.
            self.left.set(true);
            self.wake();
        }
        let Some((wait, progress)) = self.waiting() else {
            self.standstill.over();
            return true;
        };
        let lasts = self.standstill.lasts(now, (self.serial.get(), wait), progress);
        if limits.of(wait).is_some_and(|limit| lasts >= limit) { self.expire(wait) } else { true }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::Pin, task::Poll};

    use tokio::{
        io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::net::Tcp;

    /// The waits of one request, and the connection that it came by.
    fn waits() -> (Waits, Rc<Meter>) {
        let client = Rc::<Meter>::default();
        let (watch, unused) = (Rc::<Watch>::default(), Rc::<Unused>::default());
        (unused.take(&watch, std::time::Instant::now(), &client), client)
    }

    async fn pair() -> (TcpStream, Tcp) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener.accept().await.unwrap().0, Tcp::new(stream))
    }

    /// Writes until there is no room.
    async fn fill(stream: &mut Tcp) {
        let piece = vec![0; 1 << 20];
        poll_fn(|cx| {
            while Pin::new(&mut *stream).poll_write(cx, &piece).is_ready() {}
            Poll::Ready(())
        })
        .await;
        assert!(stream.meter().is_blocked());
    }

    /// The table of turns: where the answer is and where the body, whether the endpoint and the client take what there
    /// is for them; what is waited for, and whose fault it is if the time for everything is over meanwhile.
    #[tokio::test]
    async fn whose_turn_it_is_is_waited_for() {
        use Wait::{WholeOfClient as Client, WholeOfEndpoint as Endpoint};
        let ((waits, _), (_peer, mut full)) = (waits(), pair().await);
        fill(&mut full).await;
        let (full, free) = (full.meter().clone(), Rc::<Meter>::default());
        for (answer, upload, endpoint, client, wait, whole) in [
            (Answer::Unasked, Upload::Over, &free, &free, None, Endpoint),
            (Answer::Unasked, Upload::Wanted, &free, &free, None, Endpoint),
            (Answer::Head, Upload::Over, &free, &free, Some(Wait::Head), Endpoint),
            (Answer::Head, Upload::Over, &full, &free, Some(Wait::Room), Endpoint),
            (Answer::Head, Upload::Moving, &free, &free, Some(Wait::Room), Endpoint),
            (Answer::Head, Upload::Moving, &full, &free, Some(Wait::Room), Endpoint),
            (Answer::Head, Upload::Wanted, &free, &free, Some(Wait::Upload), Client),
            (Answer::Head, Upload::Wanted, &full, &free, Some(Wait::Upload), Client),
            (Answer::Moving, Upload::Over, &free, &free, None, Client),
            (Answer::Moving, Upload::Wanted, &free, &full, None, Client),
            (Answer::Wanted, Upload::Over, &free, &free, Some(Wait::Answer), Endpoint),
            (Answer::Wanted, Upload::Wanted, &full, &free, Some(Wait::Answer), Endpoint),
            (Answer::Wanted, Upload::Over, &free, &full, None, Client),
        ] {
            let state = &waits.state;
            state.answer.set(answer);
            state.upload.set(upload);
            state.meter.replace(Some(endpoint.clone()));
            state.client.replace(Some(client.clone()));
            let row = (answer, upload, endpoint.is_blocked(), client.is_blocked());
            assert_eq!(state.waiting().map(|(wait, _)| wait), wait, "{row:?}");
            assert_eq!(state.whole(&Limits::default()), whole, "{row:?}");
            let impatient = Limits { impatient: true, ..Limits::default() };
            assert_eq!(state.whole(&impatient), Client, "it was given no time: {row:?}");
        }
    }

    #[tokio::test]
    async fn what_moves_is_progress_of_the_wait_for_it() {
        let ((waits, _), (mut peer, mut stream)) = (waits(), pair().await);
        let (state, upload) = (&waits.state, waits.upload());
        state.meter.replace(Some(stream.meter().clone()));
        let progress = || state.waiting().unwrap().1;

        state.answer.set(Answer::Head);
        let mut seen = vec![progress()];
        upload.set(Upload::Moving);
        seen.push(progress());
        stream.write_all(b"x").await.unwrap();
        seen.push(progress());
        assert!(seen.is_sorted_by(|before, after| before < after), "pieces and bytes of an upload: {seen:?}");

        upload.set(Upload::Wanted);
        let before = progress();
        upload.set(Upload::Wanted);
        assert_eq!(progress(), before, "that more is wanted is nothing that has come");
        upload.set(Upload::Moving);
        upload.set(Upload::Wanted);
        assert!(progress() > before, "a piece has come");

        upload.set(Upload::Over);
        fill(&mut stream).await;
        let before = progress();
        let mut taken = vec![0; 1 << 20];
        let (read, wrote) = tokio::join!(peer.read_exact(&mut taken), stream.write_all(b"x"));
        read.unwrap();
        wrote.unwrap();
        fill(&mut stream).await;
        assert!(progress() > before, "an endpoint that takes something is not stuck");

        waits.answer_wanted(true);
        let before = progress();
        peer.write_all(b"x").await.unwrap();
        stream.read_u8().await.unwrap();
        let read = progress();
        assert!(read > before, "a byte of an answer has come");
        waits.answer_wanted(false);
        waits.answer_wanted(true);
        assert!(
            progress() > read,
            "a piece of an answer has come, maybe over a connection that others share"
        );
    }

    #[test]
    fn another_try_inherits_no_time_from_the_one_before() {
        let second = Duration::from_secs(1);
        let (waits, _client) = waits();
        let (state, began) = (&waits.state, std::time::Instant::now());
        let endpoint = Arc::new(Stats::new());
        let limits = Limits {
            head: Some(3 * second),
            per_try: Some(second),
            leave: Some(second),
            ..Limits::default()
        };
        waits.limit(limits);
        endpoint.set_left(true, began);
        state.answer.set(Answer::Head);
        state.endpoint.replace(Some(endpoint));
        let look = |at: std::time::Instant| state.look(at.into());
        assert!(look(began) && look(began + 2 * second));
        assert!(waits.is_late() && waits.has_left());

        let again = began + 2 * second;
        waits.again(again);
        assert!(!waits.is_late() && !waits.has_left());
        assert_eq!(state.waiting(), None, "it is being connected");
        assert!(look(again + second / 2), "the endpoint that has left is no matter any more");
        assert!(!waits.is_late() && !waits.has_left());
        // Connected before anybody looked.
        waits.again(again);
        state.answer.set(Answer::Head);
        assert!(look(again) && look(again + second / 2));
        waits.again(again + second / 2);
        state.answer.set(Answer::Head);
        waits.limit(Limits { per_try: None, leave: None, ..limits });
        assert!(look(again + 3 * second), "its head has as long as any");
        assert!(!look(again + 6 * second));
        assert_eq!(waits.expired(), Some(Wait::Head));
    }

    #[test]
    fn a_deadline_counts_if_it_is_the_first_to_pass_and_only_then_explains_an_end() {
        let second = Duration::from_secs(1);
        let whole = |own, told| {
            let mut limits = Limits { whole: own, head: Some(second), ..Limits::default() };
            limits.call(told);
            (limits.head, limits.whole, limits.told, limits.impatient)
        };
        assert_eq!(whole(Some(second), None), (None, Some(second), false, false));
        assert_eq!(whole(Some(second), Some(2 * second)), (None, Some(second), false, false));
        assert_eq!(whole(Some(3 * second), Some(2 * second)), (None, Some(2 * second), true, false));
        assert_eq!(whole(None, Some(second / 2)), (None, Some(second / 2), true, true));

        let (waits, _client) = waits();
        waits.state.answer.set(Answer::Head);
        for (told, whole, overdue) in [
            (true, Duration::ZERO, Some(Wait::WholeOfEndpoint)),
            (true, 60 * second, None),
            (false, Duration::ZERO, None),
        ] {
            waits.limit(Limits { whole: Some(whole), told, ..Limits::default() });
            assert_eq!(waits.overdue(), overdue, "{told} {whole:?}");
        }
    }

    #[test]
    fn a_body_that_outlives_its_request_says_nothing_of_the_next() {
        let (watch, unused) = (Rc::<Watch>::default(), Rc::<Unused>::default());
        let take = || unused.take(&watch, std::time::Instant::now(), &Rc::default());
        let first = take();
        let upload = first.upload();
        drop(first);
        let second = take();
        assert!(Rc::ptr_eq(&upload.state, &second.state), "it is used again");
        upload.set(Upload::Wanted);
        assert_eq!(second.state.upload.get(), Upload::Over);
        second.upload().set(Upload::Wanted);
        assert_eq!(second.state.upload.get(), Upload::Wanted);
    }

    #[test]
    fn a_head_that_comes_in_the_moment_in_which_its_time_is_over_is_there() {
        let (watch, unused) = (Rc::<Watch>::default(), Rc::<Unused>::default());
        let waits = unused.take(&watch, std::time::Instant::now(), &Rc::default());
        let limit = Some(Duration::from_secs(1));
        let over = |limits: Limits| {
            waits.state.expired.set(None);
            waits.state.standstill.over();
            waits.limit(limits);
            waits.state.answer.set(Answer::Head);
            let now = Instant::now();
            let looks = [0, 1, 2].map(|seconds| waits.state.look(now + Duration::from_secs(seconds)));
            assert!(!looks[2], "it is not looked at any more");
            let before = waits.expired();
            waits.answering();
            (before, waits.expired())
        };
        assert_eq!(over(Limits { head: limit, ..Limits::default() }), (Some(Wait::Head), None));
        let upload = waits.upload();
        assert_eq!(over(Limits { room: limit, ..Limits::default() }), (Some(Wait::Room), None));
        upload.set(Upload::Wanted);
        assert_eq!(over(Limits { upload: limit, ..Limits::default() }), (Some(Wait::Upload), None));
        upload.set(Upload::Over);
        let whole = Some(Wait::WholeOfEndpoint);
        assert_eq!(
            over(Limits { whole: limit, ..Limits::default() }),
            (whole, whole),
            "that is over whatever comes"
        );
    }
}

//! Answers that go on: the same document again whenever it is another one, as server-sent events.
//!
//! A document is made at most once a second for everybody who follows it together, and by nobody while no one does.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::Frame;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::path::Resource;

/// Viewers at once, of all documents together.
pub(super) const MOST_VIEWERS: usize = 64;

/// How often a document is made while somebody follows it.
const PACE: Duration = Duration::from_secs(1);

/// So often it is sent though it is the same, which says that the gateway is there.
const SAME_AGAIN: u32 = 5;

/// A viewer that takes nothing while it is sent so many is left.
const MOST_MISSED: u32 = 10;

/// What is followed, and by whom.
pub(super) struct Feeds {
    places: Arc<Semaphore>,
    /// The listener serves nobody, and a feed that began now would keep it from ending.
    closed: AtomicBool,
    followed: Mutex<HashMap<Resource, Followed>>,
    /// One for each document that is followed.
    tasks: Mutex<JoinSet<()>>,
}

struct Followed {
    latest: Bytes,
    viewers: Vec<Viewer>,
}

struct Viewer {
    events: mpsc::Sender<Bytes>,
    /// Events that it had no room for since it took the last one.
    missed: u32,
    left: Arc<AtomicBool>,
}

/// The body of an answer that goes on. Dropping it gives up the place.
pub(super) struct Feed {
    events: mpsc::Receiver<Bytes>,
    /// It has taken nothing for too long, and gets nothing more.
    left: Arc<AtomicBool>,
    _place: OwnedSemaphorePermit,
}

/// A place for one viewer.
pub(super) struct Place(OwnedSemaphorePermit);

impl Default for Feeds {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MOST_VIEWERS)),
            closed: AtomicBool::new(false),
            followed: Mutex::default(),
            tasks: Mutex::default(),
        }
    }
}

impl Feeds {
    /// The listener serves, again or for the first time.
    pub(super) fn open(&self) {
        self.closed.store(false, Relaxed);
    }

    /// A place, if one is left.
    pub(super) fn enter(&self) -> Option<Place> {
        if self.closed.load(Relaxed) {
            return None;
        }
        self.places.clone().try_acquire_owned().ok().map(Place)
    }

    /// Follows what others follow already; the place back if nobody does.
    pub(super) fn join(&self, resource: &Resource, place: Place) -> Result<Feed, Place> {
        match self.followed().get_mut(resource) {
            Some(followed) => Ok(followed.add(place)),
            None => Err(place),
        }
    }

    /// Begins to follow: `first` is the document as it is, and `make` makes it again, or says that it is no more.
    /// None where all were ended meanwhile.
    pub(super) fn start<F>(
        self: &Arc<Self>,
        resource: Resource,
        place: Place,
        first: &Bytes,
        make: impl Fn() -> F + Send + 'static,
    ) -> Option<Feed>
    where
        F: Future<Output = Option<Bytes>> + Send + 'static,
    {
        let mut all = self.followed();
        if self.closed.load(Relaxed) {
            return None;
        }
        // Another one may have been faster.
        if let Some(followed) = all.get_mut(&resource) {
            return Some(followed.add(place));
        }
        let mut followed = Followed { latest: event(first), viewers: Vec::new() };
        let feed = followed.add(place);
        all.insert(resource.clone(), followed);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(repeat(Arc::downgrade(self), resource, make));
        Some(feed)
    }

    /// Ends all of them, and lets none begin until [`Self::open`].
    pub(super) fn end(&self) {
        let mut all = self.followed();
        self.closed.store(true, Relaxed);
        all.clear();
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }

    /// Tells the viewers, if there is something to tell; says whether any are left.
    fn tell(&self, resource: &Resource, event: Option<Bytes>) -> bool {
        let mut all = self.followed();
        let Some(followed) = all.get_mut(resource) else { return false };
        match event {
            Some(event) => followed.tell(event),
            None => followed.viewers.retain(|viewer| !viewer.events.is_closed()),
        }
        let is_watched = !followed.viewers.is_empty();
        if !is_watched {
            all.remove(resource);
        }
        is_watched
    }

    fn followed(&self) -> MutexGuard<'_, HashMap<Resource, Followed>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Followed {
    fn add(&mut self, place: Place) -> Feed {
        // One to be read, and one that comes meanwhile.
        let (events, taken) = mpsc::channel(2);
        // There is room for the first.
        let _ = events.try_send(self.latest.clone());
        let left = Arc::new(AtomicBool::new(false));
        self.viewers.push(Viewer { events, missed: 0, left: left.clone() });
        Feed { events: taken, left, _place: place.0 }
    }

    fn tell(&mut self, event: Bytes) {
        self.viewers.retain_mut(|viewer| match viewer.events.try_send(event.clone()) {
            Ok(()) => {
                viewer.missed = 0;
                true
            }
            Err(mpsc::error::TrySendError::Full(_)) => {
                viewer.missed += 1;
                let stays = viewer.missed < MOST_MISSED;
                viewer.left.store(!stays, Relaxed);
                stays
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
        self.latest = event;
    }
}

/// Makes a document again and again, until nobody follows it or there is none.
async fn repeat<F: Future<Output = Option<Bytes>>>(
    feeds: Weak<Feeds>,
    resource: Resource,
    make: impl Fn() -> F,
) {
    let mut clock = interval(PACE);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clock.tick().await;
    let (mut before, mut same) = (Bytes::new(), 0);
    loop {
        clock.tick().await;
        let made = make().await;
        let Some(feeds) = feeds.upgrade() else { return };
        let Some(document) = made else {
            feeds.followed().remove(&resource);
            return;
        };
        same = if document == before { same + 1 } else { 0 };
        let is_due = same % SAME_AGAIN == 0;
        if !feeds.tell(&resource, is_due.then(|| event(&document))) {
            return;
        }
        before = document;
    }
}

/// A document of one line as a server-sent event.
fn event(document: &Bytes) -> Bytes {
    [b"data: ", document.trim_ascii_end(), b"\n\n"].concat().into()
}

impl hyper::body::Body for Feed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // What waits for it would hold its place for as long as it takes to read that.
        if self.left.load(Relaxed) {
            return Poll::Ready(None);
        }
        self.events.poll_recv(cx).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use http_body_util::BodyExt;
    use tokio::time::advance;

    use super::*;

    /// Counts how often it is made.
    fn counting(made: &Arc<AtomicU32>) -> impl Fn() -> std::future::Ready<Option<Bytes>> + Send + 'static {
        let made = made.clone();
        move || {
            let number = made.fetch_add(1, Relaxed);
            std::future::ready(Some(format!("{number}\n").into()))
        }
    }

    fn follow(feeds: &Arc<Feeds>, made: &Arc<AtomicU32>) -> Feed {
        let place = feeds.enter().unwrap();
        feeds.start(Resource::Upstreams, place, &"first\n".into(), counting(made)).unwrap()
    }

    async fn next(feed: &mut Feed) -> Option<String> {
        let frame = feed.frame().await?.unwrap();
        Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_document_is_made_once_a_second_for_all_viewers_and_by_nobody_without_one() {
        let (feeds, made) = (Arc::new(Feeds::default()), Arc::default());
        let mut viewers: Vec<Feed> = (0..3).map(|_| follow(&feeds, &made)).collect();
        for viewer in &mut viewers {
            assert_eq!(next(viewer).await.unwrap(), "data: first\n\n");
        }
        for number in 0..4 {
            for viewer in &mut viewers {
                assert_eq!(next(viewer).await.unwrap(), format!("data: {number}\n\n"));
            }
        }
        assert_eq!(made.load(Relaxed), 4);
        drop(viewers);
        for _ in 0..20 {
            advance(PACE).await;
            tokio::task::yield_now().await;
        }
        assert!(made.load(Relaxed) <= 5, "{made:?}");
        assert_eq!(feeds.places.available_permits(), MOST_VIEWERS);
    }

    #[tokio::test(start_paused = true)]
    async fn what_stays_the_same_is_sent_now_and_then() {
        let feeds = Arc::new(Feeds::default());
        let made = Arc::new(AtomicU32::new(0));
        let counted = made.clone();
        let same = move || {
            counted.fetch_add(1, Relaxed);
            std::future::ready(Some(Bytes::from("same\n")))
        };
        let place = feeds.enter().unwrap();
        let mut feed = feeds.start(Resource::Upstreams, place, &"same\n".into(), same).unwrap();
        for _ in 0..3 {
            assert_eq!(next(&mut feed).await.unwrap(), "data: same\n\n");
        }
        assert_eq!(made.load(Relaxed), 1 + SAME_AGAIN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_viewer_that_takes_nothing_is_left_and_others_go_on() {
        let (feeds, made) = (Arc::new(Feeds::default()), Arc::default());
        let (mut slow, mut quick) = (follow(&feeds, &made), follow(&feeds, &made));
        for _ in 0..MOST_MISSED + 5 {
            next(&mut quick).await.unwrap();
        }
        assert_eq!(next(&mut slow).await, None, "not even what waited for it");
        assert!(next(&mut quick).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_few_and_feeds_end_with_the_document_or_the_listener() {
        let feeds = Arc::new(Feeds::default());
        let places: Vec<Place> = (0..MOST_VIEWERS).map(|_| feeds.enter().unwrap()).collect();
        assert!(feeds.enter().is_none());
        drop(places);
        let gone = || std::future::ready(None);
        let place = feeds.enter().unwrap();
        let mut feed = feeds.start(Resource::Plugins, place, &"first\n".into(), gone).unwrap();
        assert!(next(&mut feed).await.is_some());
        assert_eq!(next(&mut feed).await, None, "there is no such document any more");
        let mut feed = follow(&feeds, &Arc::default());
        assert!(next(&mut feed).await.is_some());
        feeds.end();
        assert_eq!(next(&mut feed).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn none_begins_while_the_listener_serves_nobody() {
        let feeds = Arc::new(Feeds::default());
        let _other = follow(&feeds, &Arc::default());
        // Its document was being made when the listener closed.
        let place = feeds.enter().unwrap();
        feeds.end();
        assert!(feeds.enter().is_none());
        let made = Arc::default();
        assert!(feeds.start(Resource::Upstreams, place, &"first\n".into(), counting(&made)).is_none());
        feeds.open();
        assert!(next(&mut follow(&feeds, &made)).await.is_some());
    }
}

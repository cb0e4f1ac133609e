//! Who is woken when a connection can move on.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
};

/// Stands between a connection and the task that waits for it: the task changes with every request, and wakes that it
/// causes itself while it drives the connection need not reach it.
pub(super) struct Relay {
    shared: Arc<Shared>,
    waker: Waker,
}

struct Shared {
    /// The connection was woken and has not been driven since.
    stirred: AtomicBool,
    /// Whether the listener is to be told.
    listening: AtomicBool,
    listener: Mutex<Option<Waker>>,
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.stirred.store(true, SeqCst);
        if self.listening.load(SeqCst)
            && let Some(waker) = &*self.listener.lock().unwrap_or_else(PoisonError::into_inner)
        {
            waker.wake_by_ref();
        }
    }
}

impl Relay {
    pub fn new() -> Self {
        let shared = Arc::new(Shared {
            stirred: AtomicBool::new(true),
            listening: AtomicBool::new(false),
            listener: Mutex::new(None),
        });
        Self { waker: shared.clone().into(), shared }
    }

    /// Polls in the name of the relay, which has nothing to tell any more after that.
    pub fn poll<T>(&self, poll: impl FnOnce(&mut Context<'_>) -> T) -> T {
        self.shared.stirred.store(false, SeqCst);
        poll(&mut Context::from_waker(&self.waker))
    }

    /// Whether there was a wake since the last poll.
    pub fn stirred(&self) -> bool {
        self.shared.stirred.load(SeqCst)
    }

    pub fn stir(&self) {
        self.shared.stirred.store(true, SeqCst);
    }

    /// Keeps wakes in mind and tells nobody.
    pub fn hush(&self) {
        self.shared.listening.store(false, SeqCst);
    }

    /// From now on wakes reach the task, one that is kept in mind at once.
    pub fn listen(&self, waker: &Waker) {
        match &mut *self.listener() {
            Some(listener) => listener.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        self.shared.listening.store(true, SeqCst);
        if self.stirred() {
            waker.wake_by_ref();
        }
    }

    /// Lets go of the task, which may be over long before the connection is used again.
    pub fn forget(&self) {
        self.hush();
        *self.listener() = None;
    }

    fn listener(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        self.shared.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells a wake during a poll, which must be passed on, from one between polls, which need not.
pub(super) struct Flag {
    raised: Arc<Raised>,
    waker: Waker,
}

struct Raised(AtomicBool);

impl Wake for Raised {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

impl Flag {
    pub fn new() -> Self {
        let raised = Arc::new(Raised(AtomicBool::new(false)));
        Self { waker: raised.clone().into(), raised }
    }

    /// Polls something that is polled again soon. If it asks for that itself, its task has had its share for now.
    pub fn poll<T>(&self, cx: &Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        self.raised.0.store(false, SeqCst);
        let polled = poll(&mut Context::from_waker(&self.waker));
        if polled.is_pending() && self.raised.0.load(SeqCst) {
            cx.waker().wake_by_ref();
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn only_a_listener_is_woken_and_a_wake_before_it_listens_is_not_lost() {
        let count = Arc::<Count>::default();
        let waker = Waker::from(count.clone());
        let told = || count.0.load(SeqCst);
        let relay = Relay::new();
        relay.poll(|_| ());
        relay.listen(&waker);
        assert_eq!(told(), 0);

        relay.waker.wake_by_ref();
        assert_eq!(told(), 1);

        relay.hush();
        relay.poll(|_| ());
        relay.waker.wake_by_ref();
        assert!(relay.stirred());
        assert_eq!(told(), 1);

        relay.listen(&waker);
        assert_eq!(told(), 2);

        relay.forget();
        relay.waker.wake_by_ref();
        assert_eq!(told(), 2);
    }

    #[test]
    fn a_poll_that_asks_to_be_polled_again_wakes_the_task_and_a_later_wake_does_not() {
        let count = Arc::<Count>::default();
        let waker = Waker::from(count.clone());
        let cx = Context::from_waker(&waker);
        let flag = Flag::new();
        let _: Poll<()> = flag.poll(&cx, |cx| {
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        assert_eq!(count.0.load(SeqCst), 1);

        flag.waker.wake_by_ref();
        let _: Poll<()> = flag.poll(&cx, |_| Poll::Pending);
        assert_eq!(count.0.load(SeqCst), 1);
    }
}

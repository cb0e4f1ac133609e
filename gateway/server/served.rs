//! A listener on one worker, from its first client until the last has left.

use std::{
    cell::RefCell,
    future::{Future, pending},
    rc::Rc,
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{
    Listener,
    connection::Surroundings,
    orders::Order,
    tasks::{Tasks, supervised},
};
use crate::config::Shutdown;

/// How long a client that has begun to connect may take to end that. One round trip.
const HANDSHAKE: Duration = Duration::from_millis(100);

/// How long the queue of a listener that is gone may stay, when permits are short.
const QUEUE: Duration = Duration::from_secs(5);

/// What a worker serves. Never leaves its thread.
pub(super) struct Served {
    /// As it is for clients that come now.
    listener: RefCell<Listener>,
    pub surroundings: Rc<Surroundings>,
    pub tasks: Rc<Tasks>,
    ending: watch::Sender<Option<Ending>>,
}

/// When what ends, once a listener is gone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    /// No more clients may begin to connect, and answers say that their connection closes.
    pub gone: Instant,
    /// Whoever has begun to connect is in the queue.
    pub nobody_comes: Instant,
    /// Whoever still waits there is reset.
    queue: Instant,
    /// What has no request under way closes.
    finish: Instant,
    /// Everything closes.
    end: Instant,
}

impl Ending {
    fn from(gone: Instant, times: Shutdown, handed_over: bool) -> Self {
        let after = |time: Duration| gone + time.min(times.drain);
        let finish = times.delay.max(HANDSHAKE);
        // The queue is another process' then, and who waits here has left it.
        let queue = if handed_over { times.drain } else { finish.min(QUEUE) };
        Self {
            gone,
            nobody_comes: after(HANDSHAKE),
            queue: after(queue),
            finish: after(finish),
            end: after(times.drain),
        }
    }

    /// Whoever wants an end first has it.
    fn or(self, other: Self) -> Self {
        if other.end < self.end { Self { gone: self.gone, ..other } } else { self }
    }
}

impl Served {
    pub(super) fn new(listener: Listener, surroundings: Surroundings) -> Rc<Self> {
        let (surroundings, listener) = (Rc::new(surroundings), RefCell::new(listener));
        Rc::new(Self { listener, surroundings, tasks: Rc::default(), ending: watch::Sender::new(None) })
    }

    pub(super) fn is(&self, listener: &Listener) -> bool {
        self.listener.borrow().is(listener)
    }

    /// As it is now.
    pub(super) fn listener(&self) -> Listener {
        self.listener.borrow().clone()
    }

    /// Has these settings for clients that come from now on. Permits count over all of them.
    pub(super) fn change(&self, listener: &Listener) {
        listener.capacity().allow(listener.settings.max_connections);
        self.listener.replace(listener.clone());
    }

    /// It is gone; `handed_over` if another process serves who comes now. May be said again, with less time.
    pub(super) fn end(&self, times: Shutdown, handed_over: bool) {
        if !self.ends() {
            self.order(Order::Leave);
        }
        let new = Ending::from(Instant::now(), times, handed_over);
        self.ending.send_modify(|ending| *ending = Some(ending.map_or(new, |ending| ending.or(new))));
    }

    /// Whether it is gone.
    pub(super) fn ends(&self) -> bool {
        self.ending.borrow().is_some()
    }

    pub(super) fn order(&self, order: Order) {
        self.surroundings.drain.order(order);
    }

    /// Waits for a moment of the end, which may not have been decided yet, and may be moved up.
    pub(super) async fn reached(&self, moment: impl Fn(&Ending) -> Instant) {
        let mut ending = self.ending.subscribe();
        loop {
            let due = ending.borrow_and_update().as_ref().map(&moment);
            let changed = ending.changed();
            // An error would say that there is no sender: it is in here.
            let _ = match due {
                Some(due) => match timeout_at(due, changed).await {
                    Ok(changed) => changed,
                    Err(_) => return,
                },
                None => changed.await,
            };
        }
    }

    /// Runs what accepts, and ends with the last connection after the listener is gone. `refuse_new` is called when it
    /// is, and then dropped.
    pub(super) async fn live<F: Future<Output = ()> + 'static>(
        &self,
        accept: impl Fn() -> F + 'static,
        refuse_new: impl FnOnce(),
    ) {
        // Dropped, they take their tasks with them.
        let (mut accepting, mut background) = (JoinSet::new(), JoinSet::new());
        accepting.spawn_local(supervised("accept", accept));
        let tasks = self.tasks.clone();
        background.spawn_local(supervised("connections", move || {
            let tasks = tasks.clone();
            async move { tasks.watch().await }
        }));
        self.reached(|ending| ending.gone).await;
        refuse_new();
        tokio::select! {
            _ = accepting.join_next() => {}
            () = self.reached(|ending| ending.queue) => accepting.shutdown().await,
        }
        let steps = async {
            self.reached(|ending| ending.finish).await;
            self.order(Order::Finish);
            self.reached(|ending| ending.end).await;
            if self.tasks.len() > 0 {
                tracing::info!(connections = self.tasks.len(), "Ending connections that did not finish");
            }
            self.order(Order::End);
            pending().await
        };
        tokio::select! {
            () = self.tasks.emptied() => {}
            () = steps => {}
        }
    }
}

//! The connections of one worker: watched by one timer for all, and told when to close.
//!
//! A connection costs no timer of its own and a request none at all here: times are looked at a few times per
//! timeout, so a connection closes up to a quarter of its timeout late.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use rustc_hash::FxHashMap;
use tokio::{sync::Notify, time::Instant};

use super::{Link, link::Directive};
use crate::config;

#[derive(Default)]
pub(super) struct Roster {
    entries: RefCell<FxHashMap<u64, Entry>>,
    next: Cell<u64>,
    draining: Cell<bool>,
    entered: Notify,
    left: Notify,
}

struct Entry {
    link: Rc<Link>,
    header_timeout: Duration,
    idle_timeout: Duration,
    /// The activity that was seen last, and when it was seen first.
    seen: (u64, Instant),
}

/// A place on the roster. Dropping it says that the connection is gone.
pub(super) struct Place {
    roster: Rc<Roster>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.roster.entries.borrow_mut().remove(&self.id);
        self.roster.left.notify_one();
    }
}

impl Roster {
    pub(super) fn enter(self: &Rc<Self>, link: &Rc<Link>, settings: &config::Listener) -> Place {
        let id = self.next.get();
        self.next.set(id + 1);
        if self.draining.get() {
            link.give(Directive::Finish);
        }
        let entry = Entry {
            link: link.clone(),
            header_timeout: settings.header_timeout,
            idle_timeout: settings.idle_timeout,
            seen: (0, link.accepted),
        };
        let mut entries = self.entries.borrow_mut();
        if entries.is_empty() {
            self.entered.notify_one();
        }
        entries.insert(id, entry);
        Place { roster: self.clone(), id }
    }

    /// Watches the connections for ever. While there are none it sleeps.
    pub(super) async fn watch(&self, every: Duration) {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            while self.entries.borrow().is_empty() {
                self.entered.notified().await;
            }
            let now = ticks.tick().await;
            self.entries.borrow_mut().values_mut().for_each(|entry| entry.look(now));
        }
    }

    /// Asks every connection to finish what it is doing, those to come included.
    pub(super) fn finish(&self) {
        self.draining.set(true);
        self.order(Directive::Finish);
    }

    /// Waits until every connection has finished, until the deadline at most, then ends the rest.
    pub(super) async fn drain(&self, deadline: Instant) {
        if tokio::time::timeout_at(deadline, self.emptied()).await.is_err() {
            tracing::info!(
                connections = self.entries.borrow().len(),
                "Ending connections that did not finish"
            );
            self.order(Directive::End);
            self.emptied().await;
        }
    }

    async fn emptied(&self) {
        while !self.entries.borrow().is_empty() {
            self.left.notified().await;
        }
    }

    fn order(&self, order: Directive) {
        self.entries.borrow().values().for_each(|entry| entry.link.give(order));
    }
}

impl Entry {
    fn look(&mut self, now: Instant) {
        let link = &*self.link;
        let activity = link.activity.get();
        if self.seen.0 != activity {
            self.seen = (activity, now);
        }
        if link.order.get() != Directive::Serve || link.answering() {
            return;
        }
        let waited = |since: Instant| now.saturating_duration_since(since);
        if let Some(since) = link.partial.get() {
            if waited(since) >= self.header_timeout {
                link.give(Directive::HeadTimeout);
            }
        } else if link.fresh() && waited(link.accepted) >= self.header_timeout
            || waited(self.seen.1) >= self.idle_timeout
        {
            link.give(Directive::Finish);
        }
    }
}

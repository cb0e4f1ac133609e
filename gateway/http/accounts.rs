//! Where the requests of a route are counted, by the upstream that they go to. On one worker.

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
    sync::Arc,
};

use rustc_hash::FxHashMap;

use crate::{
    dispatch::Target,
    telemetry::{Account, AllTimes},
};

/// The accounts of one route.
pub(super) struct Accounts {
    route: Arc<str>,
    times: Arc<AllTimes>,
    /// By where the upstream is in memory, which stays its own while it is held here, be it gone.
    known: RefCell<FxHashMap<*const Target, Known>>,
}

/// An upstream as this worker has it, and the account of the requests to it.
type Known = (Weak<Target>, Rc<Account>);

impl Accounts {
    pub(super) fn new(route: Arc<str>, times: Arc<AllTimes>) -> Self {
        Self { route, times, known: RefCell::default() }
    }

    /// That of the requests to this upstream.
    pub(super) fn of(&self, target: &Rc<Target>) -> Rc<Account> {
        let mut known = self.known.borrow_mut();
        if let Some((_, account)) = known.get(&Rc::as_ptr(target)) {
            return account.clone();
        }
        // Those of upstreams that are gone go when another one comes.
        known.retain(|_, (of, _)| of.strong_count() > 0);
        let times = Some(self.times.of(&self.route, target.upstream.name()));
        let account = Rc::new(Account { times, ..(*target.account).clone() });
        known.insert(Rc::as_ptr(target), (Rc::downgrade(target), account.clone()));
        account
    }
}

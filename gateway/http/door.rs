//! A listener, as the connections see it that came by it: what it is called in routes, and which routes those are.

use std::{
    cell::{OnceCell, Ref, RefCell},
    rc::Rc,
    sync::Arc,
};

use super::{route::Routes, worker::Worker};
use crate::dispatch::Target;

/// Lives on one worker.
pub(super) struct Door {
    /// Changes with the routes: a request finds its way over a connection from before that.
    name: RefCell<Arc<str>>,
    /// The routes that there were when the listener was removed. They go on for what comes over its connections.
    last: OnceCell<Rc<Routes<Rc<Target>>>>,
}

impl Door {
    pub(super) fn new(name: Arc<str>) -> Self {
        Self { name: RefCell::new(name), last: OnceCell::new() }
    }

    pub(super) fn name(&self) -> Ref<'_, str> {
        Ref::map(self.name.borrow(), |name| &**name)
    }

    /// The routes of who comes by here.
    pub(super) fn routes(&self, worker: &Worker) -> Rc<Routes<Rc<Target>>> {
        self.last.get().cloned().unwrap_or_else(|| worker.routes())
    }

    pub(super) fn rename(&self, name: &Arc<str>) {
        self.name.replace(name.clone());
    }

    /// The listener is gone, and these were its routes.
    pub(super) fn close(&self, routes: &Rc<Routes<Rc<Target>>>) {
        // It is gone once.
        let _ = self.last.set(routes.clone());
    }

    pub(super) fn is_closed(&self) -> bool {
        self.last.get().is_some()
    }
}

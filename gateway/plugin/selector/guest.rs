//! One instance of a selector plugin, its calls, and what the host tells it meanwhile.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use wasmtime::Store;

use super::{BRIEF, WasmSelector, pick_time::Turn, slow::Work};
use crate::{
    bindings::selector::{
        SelectorPlugin,
        witgate::selector::{
            load::{self, Statistics},
            types,
        },
    },
    plugin::{
        engine::{self, Clock, Deadline, HasDeadline},
        faults,
        limits::Limits,
        runtime::{HasRuntime, Runtime, Who},
    },
    selector::{Fault, Place, Selector as _, UpdateError},
    upstream::{Slot, Snapshot},
};

thread_local! {
    /// The list of the call that runs now on this thread, and only while it runs. Not with the instance, which may go
    /// to another thread, while this may not.
    static LIST: RefCell<Option<Rc<Arc<Snapshot>>>> = const { RefCell::new(None) };
}

/// What the host keeps beside an instance.
pub(super) struct Data {
    runtime: Runtime,
    limits: Limits,
    deadline: Deadline,
    clock: Arc<Clock>,
}

/// One instance.
pub(super) struct Guest {
    pub selector: Arc<WasmSelector>,
    plugin: SelectorPlugin,
    store: Store<Data>,
    pub poisoned: Option<Fault>,
    pub picks: Turn,
}

impl Guest {
    pub fn new(selector: Arc<WasmSelector>, who: Who, place: Place) -> Result<Self, UpdateError> {
        let limits = &selector.limits;
        let data = Data {
            runtime: Runtime::new(who),
            limits: Limits::new(limits.memory_bytes, limits.table_elements, &selector.memory),
            deadline: Deadline::default(),
            clock: selector.clock.clone(),
        };
        let mut store = Store::new(selector.plugin.engine(), data);
        store.limiter(|data| &mut data.limits);
        engine::end_loops(&mut store);
        let work = Work::Instantiate;
        selector.bound(work, place).start(&mut store);
        let made = selector.plugin.instantiate(&mut store);
        match ended(&selector, &mut store, work, place, &None, made) {
            Ok(plugin) => Ok(Self { selector, plugin, store, poisoned: None, picks: Turn::default() }),
            Err((error, _)) => Err(error),
        }
    }

    /// One call into the plugin.
    pub fn call<R>(
        &mut self,
        work: Work<'_>,
        place: Place,
        upstream: &Option<Arc<str>>,
        snapshot: Option<Rc<Arc<Snapshot>>>,
        call: impl FnOnce(&SelectorPlugin, &mut Store<Data>) -> wasmtime::Result<R>,
    ) -> Result<R, UpdateError> {
        if let Some(fault) = &self.poisoned {
            return Err(fault.clone().into());
        }
        let store = &mut self.store;
        store.data_mut().runtime.who().serves(upstream);
        LIST.set(snapshot);
        self.selector.bound(work, place).start(store);
        let result = call(&self.plugin, store);
        // A list that is held keeps its slots from being used again.
        LIST.take();
        ended(&self.selector, store, work, place, upstream, result).map_err(|(error, fault)| {
            self.poisoned = Some(fault);
            error
        })
    }
}

/// Counts and remembers what is to be known of a call that has ended. With the error comes what whoever uses the
/// instance from now on is told.
fn ended<R>(
    selector: &WasmSelector,
    store: &mut Store<Data>,
    work: Work<'_>,
    place: Place,
    upstream: &Option<Arc<str>>,
    result: wasmtime::Result<R>,
) -> Result<R, (UpdateError, Fault)> {
    store.data_mut().deadline.end();
    let data = store.data();
    match result {
        Ok(result) => {
            if place == Place::Beside && data.deadline.used() > BRIEF {
                selector.slow.note(work, upstream);
            }
            Ok(result)
        }
        Err(_) if selector.is_brief(work, place) && data.deadline.passed().is_some() => {
            selector.slow.note(work, upstream);
            let name = work.name();
            let text = format!("its instance was given up: {name} takes longer than requests may wait");
            Err((UpdateError::TakesLong, Fault(text.into())))
        }
        Err(error) => {
            let fault = data.fault(work.name(), &error);
            selector.count_fault(&fault);
            Err((fault.clone().into(), fault))
        }
    }
}

impl Data {
    fn fault(&self, call: &str, error: &wasmtime::Error) -> Fault {
        Fault(faults::describe(call, error, Some(&self.deadline), &self.limits, self.runtime.lines()))
    }
}

impl HasRuntime for Data {
    fn runtime(&mut self) -> &mut Runtime {
        &mut self.runtime
    }
}

impl HasDeadline for Data {
    fn deadline(&mut self) -> &mut Deadline {
        &mut self.deadline
    }

    fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }
}

impl types::Host for Data {}

impl load::Host for Data {
    fn get(&mut self, slot: types::Slot) -> Statistics {
        LIST.with_borrow(|list| self.statistics(list.as_ref(), slot))
    }

    fn both(&mut self, first: types::Slot, second: types::Slot) -> (Statistics, Statistics) {
        LIST.with_borrow(|list| {
            (self.statistics(list.as_ref(), first), self.statistics(list.as_ref(), second))
        })
    }

    fn connect_time(&mut self, slot: types::Slot) -> u64 {
        LIST.with_borrow(|list| {
            let member = list.as_ref().and_then(|list| list.get(Slot(slot)));
            member.map_or(0, |member| member.stats().connect_time_us())
        })
    }
}

impl Data {
    fn statistics(&self, list: Option<&Rc<Arc<Snapshot>>>, slot: types::Slot) -> Statistics {
        let member = list.and_then(|list| list.get(Slot(slot)));
        let Some(stats) = member.map(|member| member.stats()) else {
            return Statistics { in_flight: 0, latency: 0, success: 1.0, idle: u64::MAX };
        };
        Statistics {
            in_flight: stats.in_flight(),
            latency: stats.latency_ns(),
            success: stats.success() as f32,
            idle: stats.idle(self.clock.now()),
        }
    }
}

//! What a selector plugin keeps of one upstream, inside the instance of its worker or in one of its own.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Instant};

use wasmtime::{Store, component::ResourceAny};

use super::{
    guest::{Data, Guest},
    slow::Work,
};
use crate::{
    bindings::selector::{
        SelectorPlugin,
        exports::witgate::selector::selector::{Candidate, CandidateChange, Created, Request},
    },
    selector::{Balancer, CreateError, Fault, Key, KeyError, Needs, PickRequest, Place, UpdateError},
    upstream::{Change, Member, Slot, Snapshot},
};

pub(super) fn create<H: Home>(
    mut home: H,
    place: Place,
    upstream: Option<Arc<str>>,
    settings: &str,
) -> Result<(WasmBalancer<H>, Needs), CreateError> {
    let create = |plugin: &SelectorPlugin, store: &mut Store<Data>| {
        plugin.witgate_selector_selector().call_create(store, settings)
    };
    let created = home.with(|guest| guest.call(Work::Create(settings), place, &upstream, None, create))?;
    let Created { balancer, hash_on, attributes } = created.map_err(CreateError::Refused)?;
    // Made before the needs are read, so that it is dropped properly when they are wrong.
    let balancer = WasmBalancer { home, balancer, upstream };
    let needs = needs(hash_on, &attributes).map_err(|error| CreateError::Refused(error.to_string()))?;
    Ok((balancer, needs))
}

fn needs(hash_on: Option<String>, attributes: &[String]) -> Result<Needs, KeyError> {
    Ok(Needs {
        hash_on: hash_on.map(|key| key.parse::<Key>()).transpose()?,
        attributes: attributes.iter().map(|key| key.parse()).collect::<Result<_, _>>()?,
    })
}

/// Where a balancer is.
pub(super) trait Home {
    /// Uses the instance.
    fn with<R>(&mut self, call: impl FnOnce(&mut Guest) -> Result<R, UpdateError>) -> Result<R, UpdateError>;

    /// The balancer is done with.
    fn leave(&mut self, balancer: ResourceAny, upstream: &Option<Arc<str>>);
}

/// The instance that a worker has for all upstreams.
#[derive(Clone)]
pub(super) struct Shared(pub Rc<RefCell<Guest>>);

impl Home for Shared {
    fn with<R>(&mut self, call: impl FnOnce(&mut Guest) -> Result<R, UpdateError>) -> Result<R, UpdateError> {
        call(&mut self.0.borrow_mut())
    }

    fn leave(&mut self, balancer: ResourceAny, upstream: &Option<Arc<str>>) {
        let drop = |_: &SelectorPlugin, store: &mut Store<Data>| balancer.resource_drop(store);
        // A fault is counted, and there is nobody left to tell.
        let _ = self.0.borrow_mut().call(Work::Drop, Place::Worker, upstream, None, drop);
    }
}

/// An instance that is there for one balancer. None only while that is dropped.
pub(super) struct Alone(pub Option<Box<Guest>>);

impl Home for Alone {
    fn with<R>(&mut self, call: impl FnOnce(&mut Guest) -> Result<R, UpdateError>) -> Result<R, UpdateError> {
        match &mut self.0 {
            Some(guest) => call(guest),
            None => Err(Fault("its instance is gone".into()).into()),
        }
    }

    /// The plugin is not asked: nothing of it is left. Much memory is not given back in a moment.
    fn leave(&mut self, _: ResourceAny, _: &Option<Arc<str>>) {
        if let Some(guest) = self.0.take() {
            let beside = guest.selector.beside.clone();
            beside.run(move || drop(guest));
        }
    }
}

/// The state of one upstream inside an instance.
pub(super) struct WasmBalancer<H: Home> {
    home: H,
    balancer: ResourceAny,
    /// For log lines.
    upstream: Option<Arc<str>>,
}

impl<H: Home> Balancer for WasmBalancer<H> {
    fn update(
        &mut self,
        place: Place,
        reset: bool,
        changes: &[Change],
        snapshot: &Rc<Arc<Snapshot>>,
    ) -> Result<(), UpdateError> {
        let work = match place {
            Place::Worker if !reset => Work::Changes(changes.len()),
            // Beside requests what is no reset is mostly the rest of a long list.
            _ => Work::List(changes.len()),
        };
        let changes = candidate_changes(reset, changes);
        let Self { home, balancer, upstream } = self;
        home.with(|guest| {
            guest.call(work, place, upstream, Some(snapshot.clone()), |plugin, store| {
                plugin.witgate_selector_selector().balancer().call_update(store, *balancer, &changes)
            })
        })
    }

    fn pick(
        &mut self,
        request: &PickRequest<'_>,
        snapshot: &Rc<Arc<Snapshot>>,
    ) -> Result<Option<Slot>, Fault> {
        let (tried, attributes) = (request.tried, request.attributes);
        let request = Request {
            hash: request.hash,
            attempt: request.attempt,
            tried: (!tried.is_empty()).then(|| tried.iter().map(|slot| slot.0).collect()),
            attributes: (!attributes.is_empty())
                .then(|| attributes.iter().map(|value| value.map(str::to_owned)).collect()),
        };
        let Self { home, balancer, upstream } = self;
        let picked = home.with(|guest| {
            let began = guest.picks.is_next().then(Instant::now);
            let pick = |plugin: &SelectorPlugin, store: &mut Store<Data>| {
                plugin.witgate_selector_selector().balancer().call_pick(store, *balancer, &request)
            };
            let picked = guest.call(Work::Pick, Place::Worker, upstream, Some(snapshot.clone()), pick);
            if let Some(began) = began {
                guest.selector.picks.note(began.elapsed());
            }
            picked
        });
        match picked {
            Ok(slot) => Ok(slot.map(Slot)),
            Err(UpdateError::Fault(fault)) => Err(fault),
            Err(error @ UpdateError::TakesLong) => Err(Fault(error.to_string().into())),
        }
    }
}

impl<H: Home> Drop for WasmBalancer<H> {
    fn drop(&mut self) {
        self.home.leave(self.balancer, &self.upstream);
    }
}

fn candidate_changes(reset: bool, changes: &[Change]) -> Vec<CandidateChange> {
    if !reset {
        return changes.iter().map(candidate_change).collect();
    }
    let all = changes.iter().filter_map(|change| match change {
        Change::Put(member) => Some(candidate(member)),
        Change::Remove(_) => None,
    });
    vec![CandidateChange::Reset(all.collect())]
}

fn candidate_change(change: &Change) -> CandidateChange {
    match change {
        Change::Put(member) => CandidateChange::Put(candidate(member)),
        Change::Remove(slot) => CandidateChange::Remove(slot.0),
    }
}

fn candidate(member: &Arc<Member>) -> Candidate {
    Candidate {
        slot: member.slot().0,
        weight: member.weight().get(),
        key: member.address().to_string(),
        zone: member.facts().zone.as_deref().map(str::to_owned),
        labels: member.facts().labels.as_slice().to_vec(),
    }
}

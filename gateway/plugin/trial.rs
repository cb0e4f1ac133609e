//! Tests a version of a plugin with the settings and lists of everything that will use it.
//!
//! Under the same limits as in use, on the thread of the plugins: a version that fails here never meets a request.

use std::{
    rc::Rc,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use super::{
    instance::{Instance, RegistryPlugin},
    selector::WasmSelector,
    uses::{RegistryUse, SelectorUse},
};
use crate::{
    connector::Lent,
    selector::{Balancer, CreateError, Fault, Made, PickRequest, Place, Selector, UpdateError},
    upstream::{Change, Endpoint, Facts, Offer, Publisher, Snapshot, UpstreamName, Weight},
};

/// As many changes as a worker gives in one update.
const SLICE: usize = 512;
const PICKS: u32 = 16;

/// How long a registry plugin may take to check settings; it may wait in that time, but has no reason to.
const CHECK: Duration = Duration::from_secs(10);

/// Why a version did not pass, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failed {
    /// The upstream or registry; none when nothing uses the plugin.
    pub used_by: Option<String>,
    pub text: String,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.used_by {
            Some(used_by) => write!(f, "{used_by}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// What a trial came to.
#[derive(Debug, Default)]
pub(super) struct Tried {
    pub failed: Vec<Failed>,
    /// Why a selector that nothing uses made no balancer without settings. It is none the worse for it: settings may
    /// be what it lacks, and whoever will use it has some.
    pub unsettled: Option<String>,
}

/// Makes a balancer for each use, gives it the current list, and picks a few times. All failures are told.
pub(super) fn selector(selector: &Arc<WasmSelector>, uses: &[SelectorUse]) -> Tried {
    let worker = selector.clone().on_worker();
    let failed = |used_by: Option<String>, text: String| Failed { used_by, text };
    if uses.is_empty() {
        let made = match worker.create("{}") {
            Ok(made) => made,
            Err(error) => return Tried { failed: Vec::new(), unsettled: Some(error.to_string()) },
        };
        let served = serve(made, &ANY_LIST);
        let failed = served.err().map(|error| failed(None, error.to_string()));
        return Tried { failed: failed.into_iter().collect(), unsettled: None };
    }
    let serve = |one: &SelectorUse| {
        let list = one.reader.as_ref().map(|reader| reader.snapshot()).filter(|list| !list.is_empty());
        let list = list.as_ref().unwrap_or(&ANY_LIST);
        let made = worker.create_for(Place::Beside, Some(&one.upstream), &one.settings);
        let error = made.and_then(|made| serve(made, list).map_err(CreateError::from)).err()?;
        Some(failed(Some(format!("upstream {}", one.upstream)), error.to_string()))
    };
    Tried { failed: uses.iter().filter_map(serve).collect(), unsettled: None }
}

fn serve((mut balancer, needs): Made, list: &Arc<Snapshot>) -> Result<(), UpdateError> {
    let list = Rc::new(list.clone());
    let changes: Vec<Change> = list.iter().cloned().map(Change::Put).collect();
    for (number, slice) in changes.chunks(SLICE).enumerate() {
        balancer.update(Place::Beside, number == 0, slice, &list)?;
    }
    let attributes = vec![None; needs.attributes.len()];
    for attempt in 0..PICKS {
        let hash = needs.hash_on.as_ref().map(|_| u64::from(attempt).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let request = PickRequest { hash, attempt: attempt % 2, tried: &[], attributes: &attributes };
        pick(&mut *balancer, &request, &list)?;
    }
    Ok(())
}

fn pick(
    balancer: &mut dyn Balancer,
    request: &PickRequest<'_>,
    list: &Rc<Arc<Snapshot>>,
) -> Result<(), Fault> {
    match balancer.pick(request, list)? {
        Some(slot) if list.get(slot).is_none() => {
            Err(Fault(format!("picked slot {}, which was not offered", slot.0).into()))
        }
        _ => Ok(()),
    }
}

/// Checks the settings of each use, with no connector granted: a check must touch none.
pub(super) async fn registry(plugin: &Arc<RegistryPlugin>, uses: &[RegistryUse], lent: &Lent) -> Vec<Failed> {
    let mut failures = Vec::new();
    if uses.is_empty()
        && let Err(failure) = instance(plugin, "", lent).await
    {
        failures.push(Failed { used_by: None, text: failure });
    }
    for one in uses {
        if let Err(text) = check(plugin, one, lent).await {
            failures.push(Failed { used_by: Some(format!("registry {}", one.registry)), text });
        }
    }
    failures
}

async fn check(plugin: &Arc<RegistryPlugin>, one: &RegistryUse, lent: &Lent) -> Result<(), String> {
    let mut instance = instance(plugin, &one.registry, lent).await?;
    match tokio::time::timeout(CHECK, instance.check(&one.settings)).await {
        Ok(Ok(result)) => result,
        Ok(Err(failure)) => Err(failure.to_string()),
        Err(_) => Err(format!("no answer to check within {CHECK:?}")),
    }
}

async fn instance(plugin: &Arc<RegistryPlugin>, registry: &str, lent: &Lent) -> Result<Instance, String> {
    let nothing = lent.nothing(&plugin.name, registry);
    Instance::new(plugin.clone(), nothing).await.map_err(|failure| failure.to_string())
}

/// Three endpoints, for upstreams that have none yet.
static ANY_LIST: LazyLock<Arc<Snapshot>> = LazyLock::new(|| {
    let (mut publisher, reader) = Publisher::new(UpstreamName::new("test"));
    let endpoint = |port| Endpoint {
        address: ([192, 0, 2, 1], port).into(),
        weight: Weight::ONE,
        facts: Facts::default(),
    };
    publisher.publish((1..=3).map(|port| Offer::Put(endpoint(port))).collect(), Instant::now());
    reader.snapshot()
});

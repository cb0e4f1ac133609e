//! Lists on disk, with whatever in them: read, taken up, and written again. The checksum is not part of it, since it stops
//! what was damaged by chance.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use tokio::sync::watch;
use witgate::upstream::{Owner, Plan, Policies, Saved, SourceName, UpstreamName};

/// An owner wants to be made where there is a clock.
static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime can be made")
});

/// As it is after it was written and read.
fn again(saved: &Saved) -> Saved {
    let text = saved.write().expect("what was read can be written");
    Saved::read(text.get()).expect("what was written can be read")
}

fuzz_target!(|data: &[u8]| {
    let Ok(saved) = str::from_utf8(data).map_err(drop).and_then(|text| Saved::read(text).map_err(drop))
    else {
        return;
    };
    // Once through, because a file may hold what nobody writes: periods without end, reasons that do not exist.
    let saved = again(&saved);
    assert_eq!(again(&saved), saved);

    let _clock = RUNTIME.enter();
    let source = |registry: &str| SourceName { registry: registry.into(), service: "orders".into() };
    let plan = Plan {
        name: UpstreamName::new("orders"),
        sources: vec![source("main"), source("other")],
        labels: Vec::new(),
        list: None,
        known: Some(saved),
        policies: watch::channel(Arc::new(Policies::default())).1,
    };
    let owner = Owner::new(plan);
    let (list, status) = (owner.reader().snapshot(), owner.status().borrow().clone());
    assert!(list.is_empty() || status.has_list());
});

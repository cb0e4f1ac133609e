//! What a pick costs: every shipped selector at 10, 1,000 and 10,000 endpoints, beside the native round robin.

#![expect(clippy::expect_used, reason = "a benchmark that cannot start says why")]

use std::{hint::black_box, rc::Rc, sync::Arc, time::Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use witgate::{
    config::Config,
    connector::{Lent, Memory},
    plugin::{Plugins, SelectorUse, Uses},
    selector::{Balancer, PickRequest, Place, RoundRobin},
    upstream::{Change, Endpoint, Facts, Offer, Publisher, Snapshot, UpstreamName, Weight},
};

/// As in the gateway: a call into a component allocates.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Name and settings.
const SELECTORS: [(&str, &str); 7] = [
    ("round-robin", "{}"),
    ("random", "{}"),
    ("least-request", "{}"),
    ("p2c-ewma", "{}"),
    ("consistent-hash", r#"{"key":"client-ip"}"#),
    ("closest", r#"{"latitude":0,"longitude":0}"#),
    ("latency-weighted", "{}"),
];

const SIZES: [u32; 3] = [10, 1_000, 10_000];

fn snapshot(endpoints: u32) -> Rc<Arc<Snapshot>> {
    let (mut publisher, reader) = Publisher::new(UpstreamName::new("bench"));
    let endpoint = |number: u32| Endpoint {
        address: ([10, 0, (number >> 8) as u8, number as u8], 8080).into(),
        weight: Weight::ONE,
        facts: Facts::default(),
    };
    publisher.publish((0..endpoints).map(|number| Offer::Put(endpoint(number))).collect(), Instant::now());
    Rc::new(reader.snapshot())
}

fn plugins() -> Plugins {
    let folder = std::env::temp_dir().join("witgate-bench");
    let (memory, _) = Memory::open(folder.join("memory.json"));
    let plugins = Plugins::start(&Config::empty(folder), Arc::new(Lent::new(memory))).expect("an engine");
    let uses = SELECTORS.map(|(name, settings)| {
        let upstream = UpstreamName::new("bench");
        (name.to_owned(), vec![SelectorUse { upstream, settings: settings.into(), reader: None }])
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(plugins.set_uses(Uses { selectors: uses.into(), ..Uses::default() }));
    plugins
}

fn balancer(plugins: &Plugins, name: &str, settings: &str, list: &Rc<Arc<Snapshot>>) -> Box<dyn Balancer> {
    let selector = plugins.selector(name).borrow().clone().expect("a shipped selector");
    let (mut balancer, _) = selector.on_worker().create(settings).expect("a balancer");
    let all: Vec<Change> = list.iter().cloned().map(Change::Put).collect();
    for (number, slice) in all.chunks(512).enumerate() {
        balancer.update(Place::Beside, number == 0, slice, list).expect("an update");
    }
    balancer
}

fn pick(criterion: &mut Criterion) {
    let plugins = plugins();
    for size in SIZES {
        let mut group = criterion.benchmark_group("pick");
        let list = snapshot(size);
        let mut native = RoundRobin::new();
        group.bench_function(BenchmarkId::new("native round robin", size), |bencher| {
            bencher.iter(|| native.pick(black_box(&list), &[]).map(|member| member.slot()));
        });
        for (name, settings) in SELECTORS {
            let mut balancer = balancer(&plugins, name, settings, &list);
            let mut hash = 0u64;
            group.bench_function(BenchmarkId::new(name, size), |bencher| {
                bencher.iter(|| {
                    hash = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    let request = PickRequest { hash: Some(hash), attempt: 0, tried: &[], attributes: &[] };
                    balancer.pick(black_box(&request), &list).expect("a pick")
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, pick);
criterion_main!(benches);

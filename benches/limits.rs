//! What a request pays where its upstream has a breaker or limits, or its route a rate; alone, and beside another worker
//! that does the same all the time.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use witgate::resilience::{Bounds, Breaker, BreakerPolicy, Gate, Rate, RateTable};

/// Measures `request`, alone and while another thread does it, too.
fn measure(criterion: &mut Criterion, name: &str, request: impl Fn(u32) + Sync) {
    let mut group = criterion.benchmark_group("limits");
    for workers in [1, 2] {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            if workers == 2 {
                let other = || (0..).take_while(|_| !stop.load(Relaxed)).for_each(&request);
                scope.spawn(other);
            }
            let mut number = 0u32;
            group.bench_function(BenchmarkId::new(name, workers), |bencher| {
                bencher.iter(|| {
                    number = number.wrapping_add(1);
                    request(black_box(number));
                });
            });
            stop.store(true, Relaxed);
        });
    }
    group.finish();
}

fn limits(criterion: &mut Criterion) {
    let gate = Arc::new(Gate::new(Bounds { min: 1000, max: 1000 }, 2));
    measure(criterion, "max_in_flight", |_| drop(gate.enter()));

    let adaptive = Arc::new(Gate::new(Bounds { min: 10, max: 1000 }, 2));
    measure(criterion, "adaptive", |_| {
        if let Some(permit) = adaptive.enter() {
            permit.learn(false);
        }
    });

    let (breaker, policy) = (Arc::new(Breaker::new(Instant::now())), BreakerPolicy::default());
    let now = Instant::now();
    measure(criterion, "breaker", |_| {
        if !breaker.refuses(&policy, now) {
            breaker.begin(now).ended(true, now);
        }
    });

    let table = RateTable::new(10_000);
    let rate = Rate { requests: u32::MAX, per: Duration::from_secs(1), burst: u32::MAX };
    measure(criterion, "rate of 5,000 clients", |number| {
        let client = IpAddr::V4(Ipv4Addr::from(number % 5_000));
        let _ = black_box(table.take(rate, client, now));
    });
}

criterion_group!(benches, limits);
criterion_main!(benches);

//! This rule beside go-zero's, under the same traffic: what `docs/reliability.md` says of both is computed here.
//!
//! Time is that of the simulation. Requests come evenly and are answered as their endpoint is; the figures that the rules go
//! by are kept as each side keeps them: go-zero in its picker, the gateway in its statistics.

use std::{cmp::Reverse, collections::BinaryHeap, fmt::Write as _};

use fastrand::Rng;

use crate::{choice::Choice, witgate::selector::load::Statistics};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
/// The time constant of both.
const DECAY: f64 = 10e9;
const REQUESTS_PER_SECOND: u64 = 1_000;
const SECONDS: u64 = 60;

/// How an endpoint answers.
#[derive(Clone, Copy)]
struct Endpoint {
    latency: u64,
    /// The share of its answers that are errors.
    failing: f64,
    /// When it joins.
    joins: u64,
}

const GOOD: Endpoint = Endpoint { latency: 10 * MS, failing: 0.0, joins: 0 };

/// A rule with all that it keeps of endpoints.
trait Rule {
    /// The list has become longer.
    fn joined(&mut self, endpoints: usize, now: u64);
    fn pick(&mut self, now: u64) -> usize;
    fn done(&mut self, endpoint: usize, started: u64, now: u64, ok: bool);
}

/// How much an average counts beside a sample after so long.
fn keep(passed: u64) -> f64 {
    (-(passed as f64) / DECAY).exp()
}

/// go-zero's balancer, as its source has it (zrpc/internal/balancer/p2c).
struct GoZero {
    random: Rng,
    made: u64,
    endpoints: Vec<Kept>,
}

/// What go-zero keeps of an endpoint.
#[derive(Clone, Copy)]
struct Kept {
    lag: u64,
    in_flight: i64,
    /// Of a thousand.
    success: u64,
    last: u64,
    picked: u64,
}

impl Kept {
    const NEW: Kept = Kept { lag: 0, in_flight: 0, success: 1_000, last: 0, picked: 0 };

    fn load(&self) -> i64 {
        ((self.lag + 1) as f64).sqrt() as i64 * (self.in_flight + 1)
    }

    fn is_healthy(&self) -> bool {
        self.success > 500
    }
}

impl Rule for GoZero {
    /// A change of the list makes a new picker, which knows nothing and hears nothing of what began before.
    fn joined(&mut self, endpoints: usize, now: u64) {
        self.made = now;
        self.endpoints = vec![Kept::NEW; endpoints];
    }

    fn pick(&mut self, now: u64) -> usize {
        let count = self.endpoints.len();
        let (mut a, mut b) = (0, 1);
        for _ in 0..3 {
            a = self.random.usize(..count);
            b = self.random.usize(..count - 1);
            b += usize::from(b >= a);
            if self.endpoints[a].is_healthy() && self.endpoints[b].is_healthy() {
                break;
            }
        }
        if self.endpoints[a].load() > self.endpoints[b].load() {
            std::mem::swap(&mut a, &mut b);
        }
        let chosen = if now - self.endpoints[b].picked > SECOND { b } else { a };
        self.endpoints[chosen].picked = now;
        self.endpoints[chosen].in_flight += 1;
        chosen
    }

    fn done(&mut self, endpoint: usize, started: u64, now: u64, ok: bool) {
        if started < self.made {
            return;
        }
        let kept = &mut self.endpoints[endpoint];
        kept.in_flight -= 1;
        let weight = if kept.lag == 0 { 0.0 } else { keep(now - kept.last) };
        kept.last = now;
        let average = |old: u64, new: u64| (old as f64 * weight + new as f64 * (1.0 - weight)) as u64;
        kept.lag = average(kept.lag, now - started);
        kept.success = average(kept.success, if ok { 1_000 } else { 0 });
    }
}

/// This rule, with the statistics of the gateway.
struct Ours {
    choice: Choice,
    endpoints: Vec<Known>,
}

/// What the gateway keeps of an endpoint.
#[derive(Clone, Copy)]
struct Known {
    latency: f64,
    success: f64,
    in_flight: u32,
    last: Option<u64>,
    picked: Option<u64>,
}

/// What a failure counts as in the gateway's statistics.
const FAILURE: u64 = 5 * SECOND;

impl Rule for Ours {
    fn joined(&mut self, endpoints: usize, _: u64) {
        for slot in self.endpoints.len()..endpoints {
            self.choice.candidates.put(slot as u32, 1);
            self.endpoints.push(Known { latency: 0.0, success: 1.0, in_flight: 0, last: None, picked: None });
        }
    }

    fn pick(&mut self, now: u64) -> usize {
        let statistics = |slot: u32| {
            let known = self.endpoints[slot as usize];
            Statistics {
                in_flight: known.in_flight,
                latency: known.latency as u64,
                success: known.success as f32,
                idle: known.picked.map_or(u64::MAX, |picked| now - picked),
            }
        };
        let picked = self.choice.pick(&[], |a, b| (statistics(a), statistics(b)));
        let chosen = picked.map_or(0, |slot| slot as usize);
        self.endpoints[chosen].picked = Some(now);
        self.endpoints[chosen].in_flight += 1;
        chosen
    }

    fn done(&mut self, endpoint: usize, started: u64, now: u64, ok: bool) {
        let known = &mut self.endpoints[endpoint];
        known.in_flight -= 1;
        let weight = known.last.map_or(0.0, |last| keep(now - last));
        known.last = Some(now);
        let took = if ok { now - started } else { (now - started).max(FAILURE) };
        known.latency = known.latency * weight + took as f64 * (1.0 - weight);
        known.success = known.success * weight + if ok { 1.0 - weight } else { 0.0 };
    }
}

/// What came of a run.
struct Outcome {
    /// Of the requests that began while the last endpoint was there, the share that it got.
    last: f64,
    failed: f64,
    /// In milliseconds.
    p99: u64,
}

fn run(endpoints: &[Endpoint], rule: &mut dyn Rule) -> Outcome {
    let mut random = Rng::with_seed(7);
    let mut under_way = BinaryHeap::new();
    let (mut known, mut failed, mut took) = (0, 0, Vec::new());
    let (mut to_last, mut since_last) = (0, 0);
    let requests = REQUESTS_PER_SECOND * SECONDS;
    for number in 0..requests {
        let now = number * SECOND / REQUESTS_PER_SECOND;
        while let Some(Reverse((at, endpoint, started, ok))) = under_way.peek().copied() {
            if at > now {
                break;
            }
            under_way.pop();
            rule.done(endpoint, started, at, ok);
        }
        let there = endpoints.iter().filter(|endpoint| endpoint.joins <= now).count();
        if there > known {
            known = there;
            rule.joined(there, now);
        }
        let chosen = rule.pick(now);
        let Endpoint { latency, failing, .. } = endpoints[chosen];
        let ok = random.f64() >= failing;
        under_way.push(Reverse((now + latency, chosen, now, ok)));
        failed += u64::from(!ok);
        took.push(latency);
        if there == endpoints.len() {
            since_last += 1;
            to_last += u64::from(chosen == endpoints.len() - 1);
        }
    }
    took.sort_unstable();
    Outcome {
        last: to_last as f64 / since_last as f64,
        failed: failed as f64 / requests as f64,
        p99: took[took.len() * 99 / 100] / MS,
    }
}

fn both(endpoints: &[Endpoint]) -> [Outcome; 2] {
    let mut go_zero = GoZero { random: Rng::with_seed(3), made: 0, endpoints: Vec::new() };
    let mut ours = Ours { choice: Choice::new(Rng::with_seed(3)), endpoints: Vec::new() };
    [run(endpoints, &mut go_zero), run(endpoints, &mut ours)]
}

/// Three good ones and a last one.
fn beside(last: Endpoint) -> [Endpoint; 4] {
    [GOOD, GOOD, GOOD, last]
}

fn cases() -> [(&'static str, [Endpoint; 4]); 6] {
    [
        ("as good as the others", beside(GOOD)),
        ("ten times slower", beside(Endpoint { latency: 100 * MS, ..GOOD })),
        ("fails at once, always", beside(Endpoint { latency: MS, failing: 1.0, ..GOOD })),
        ("fails as slowly as the others answer, half of the time", beside(Endpoint { failing: 0.5, ..GOOD })),
        ("hangs for 5 s, then fails", beside(Endpoint { latency: 5 * SECOND, failing: 1.0, ..GOOD })),
        (
            "joins after 30 s and takes 2 s",
            beside(Endpoint { latency: 2 * SECOND, joins: 30 * SECOND, ..GOOD }),
        ),
    ]
}

/// The table as it stands in the documents.
fn table() -> String {
    let mut text = String::from(
        "| the fourth instance | requests it gets: go-zero | ours | failed: go-zero | ours | p99: go-zero | ours |\n\
         |---|---:|---:|---:|---:|---:|---:|\n",
    );
    for (name, endpoints) in cases() {
        let [go_zero, ours] = both(&endpoints);
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {} ms | {} ms |",
            percent(go_zero.last),
            percent(ours.last),
            percent(go_zero.failed),
            percent(ours.failed),
            go_zero.p99,
            ours.p99
        );
    }
    text
}

#[test]
fn the_documents_say_what_comes_of_both_rules() {
    let (table, document) = (table(), include_str!("../../docs/reliability.md"));
    assert!(document.contains(&table), "docs/reliability.md lacks this:\n{table}");
}

#[test]
fn where_nothing_fails_both_rules_share_alike() {
    for (name, endpoints) in &cases()[..2] {
        let [go_zero, ours] = both(endpoints);
        assert!((go_zero.last - ours.last).abs() < 0.03, "{name}: {} and {}", go_zero.last, ours.last);
    }
}

#[test]
fn one_that_fails_gets_less_than_its_share_whatever_it_does() {
    for (name, endpoints) in &cases()[2..5] {
        let [_, ours] = both(endpoints);
        assert!(ours.last < 0.05, "{name}: {}", ours.last);
    }
}

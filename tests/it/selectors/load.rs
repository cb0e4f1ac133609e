//! Selectors that look at the endpoints: least request and P2C with EWMA.

use tokio::task::LocalSet;
use witgate::upstream::InFlight;

use super::*;

/// How an endpoint has answered so far.
#[derive(Debug, Clone, Copy)]
pub struct Behaviour {
    pub latency_ms: u64,
    pub success: f64,
}

/// Writes statistics, as requests at moments far apart would.
pub struct Times(Instant);

impl Times {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Makes the endpoint's averages exactly these.
    pub fn behave(&mut self, member: &Member, Behaviour { latency_ms, success }: Behaviour) {
        let latency = Duration::from_millis(latency_ms);
        // Long enough for the samples before to count for nothing.
        self.0 += Duration::from_secs(1_000);
        member.stats().record(self.0, latency, true);
        // After a time t the samples before have the weight exp(-t / 10 s).
        if success < 1.0 {
            self.0 += Duration::from_secs_f64(-10.0 * success.ln());
            member.stats().record(self.0, latency, false);
        }
    }
}

/// Picks, and keeps each request in flight.
fn hold(process: &Process, requests: usize) -> Vec<(SocketAddr, InFlight)> {
    let send = || {
        let member = process.pick();
        (member.address(), member.begin(Instant::now()))
    };
    (0..requests).map(|_| send()).collect()
}

fn in_flight(process: &Process) -> Vec<u32> {
    process.reader.snapshot().iter().map(|member| member.stats().in_flight()).collect()
}

#[tokio::test]
async fn least_request_fills_up_evenly_when_it_looks_at_all() {
    let test = async {
        let process = Process::start("least-request", r#"{"choices":10}"#, &[1; 10]).await;
        let mut held = Vec::new();
        for _ in 0..200 {
            held.extend(hold(&process, 1));
            let loads = in_flight(&process);
            assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{loads:?}");
        }
        // Whoever is done first gets the next ones.
        held.retain(|(picked, _)| *picked != address(4));
        assert!(hold(&process, 20).iter().all(|(picked, _)| *picked == address(4)));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn least_request_counts_load_for_its_weight() {
    let test = async {
        let process = Process::start("least-request", r#"{"choices":3}"#, &[1, 2, 4]).await;
        let _held = hold(&process, 70);
        assert_eq!(in_flight(&process), [10, 20, 40]);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn least_request_takes_the_less_loaded_of_two() {
    let test = async {
        let process = Process::start("least-request", "{}", &[1; 5]).await;
        let busy = |number| (0..number).map(move |_| number);
        let _held: Vec<_> =
            (0..5).flat_map(busy).map(|number| process.member(number).begin(Instant::now())).collect();
        assert_eq!(in_flight(&process), [0, 1, 2, 3, 4]);
        let picks = 20_000;
        let counts = process.count(picks);
        // Of the ten pairs, the endpoint with `number` in flight is the better one in `4 - number`.
        for number in 0..5 {
            let share = *counts.get(&address(number)).unwrap_or(&0) as f64 / picks as f64;
            assert!((share - f64::from(4 - number) / 10.0).abs() < slack(picks), "{counts:?}");
        }
        assert!(!counts.contains_key(&address(4)), "the busiest wins against nobody");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn least_request_uses_an_idle_upstream_by_weight() {
    let test = async {
        let process = Process::start("least-request", "{}", &[3, 1]).await;
        let picks = 20_000;
        let share = process.count(picks)[&address(0)] as f64 / picks as f64;
        assert!((share - 0.75).abs() < slack(picks), "{share}");
    };
    LocalSet::new().run_until(test).await;
}

/// So that none of them is due because it was idle for a second.
fn touch(process: &Process) {
    process.reader.snapshot().iter().for_each(|member| drop(member.begin(Instant::now())));
}

/// The share of picks that an endpoint gets while nothing is in flight.
fn share(process: &Process, number: u32, picks: usize) -> f64 {
    let hit = || {
        touch(process);
        process.pick().address() == address(number)
    };
    (0..picks).filter(|_| hit()).count() as f64 / picks as f64
}

#[tokio::test]
async fn p2c_orders_endpoints_as_go_zero_does() {
    let test = async {
        let process = Process::start("p2c-ewma", "{}", &[1, 1]).await;
        let mut times = Times::start();
        for _ in 0..200 {
            let latency_ms = [0, 1].map(|_| fastrand::u64(1..1_000));
            let busy = [0, 1].map(|_| fastrand::u32(0..20));
            let mut held = Vec::new();
            for (number, (latency_ms, busy)) in (0..).zip(latency_ms.into_iter().zip(busy)) {
                let member = process.member(number);
                times.behave(&member, Behaviour { latency_ms, success: 1.0 });
                held.extend((0..busy).map(|_| member.begin(Instant::now())));
            }
            // go-zero: load = sqrt(lag + 1) * (inflight + 1).
            let load = |n: usize| (latency_ms[n] as f64 * 1e6 + 1.0).sqrt() * f64::from(busy[n] + 1);
            let (a, b) = (load(0), load(1));
            // Nearer than that is a matter of rounding.
            if (a - b).abs() > a * 1e-6 {
                touch(&process);
                let expected = address(if a < b { 0 } else { 1 });
                assert_eq!(process.pick().address(), expected, "{latency_ms:?} {busy:?}");
            }
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn p2c_gives_less_to_the_slow_and_the_failing() {
    let test = async {
        let process = Process::start("p2c-ewma", "{}", &[1; 5]).await;
        let mut times = Times::start();
        let behaviours = [(10, 1.0), (10, 1.0), (10, 1.0), (100, 1.0), (5, 0.2)];
        for (number, (latency_ms, success)) in (0..).zip(behaviours) {
            times.behave(&process.member(number), Behaviour { latency_ms, success });
        }
        let fair = 1.0 / 5.0;
        for number in 0..3 {
            assert!(share(&process, number, 5_000) > fair, "{number}");
        }
        assert!(share(&process, 3, 5_000) < fair / 4.0, "slow");
        assert!(share(&process, 4, 5_000) < fair / 4.0, "failing, however fast");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn p2c_forgets_nobody() {
    let test = async {
        let process = Process::start("p2c-ewma", "{}", &[1; 4]).await;
        let mut times = Times::start();
        for (number, (latency_ms, success)) in (0..).zip([(5, 1.0), (5, 1.0), (5_000, 1.0), (5, 0.01)]) {
            times.behave(&process.member(number), Behaviour { latency_ms, success });
        }
        touch(&process);
        let mut counts = BTreeMap::<_, usize>::new();
        // Each that is idle for a second is asked how it is now, the slow and the failing, too.
        let started = Instant::now();
        while (0..4).any(|number| counts.get(&address(number)).is_none_or(|count| *count < 2)) {
            // Many at once, so that a second is many picks on a slow machine, too.
            for _ in 0..20 {
                let member = process.pick();
                drop(member.begin(Instant::now()));
                *counts.entry(member.address()).or_default() += 1;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{counts:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(counts[&address(2)] * 5 < counts[&address(0)], "{counts:?}");
        assert!(counts[&address(3)] * 5 < counts[&address(0)], "{counts:?}");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn p2c_does_not_send_everything_to_a_newcomer() {
    let test = async {
        let mut process = Process::start("p2c-ewma", "{}", &[1; 3]).await;
        let mut times = Times::start();
        (0..3).for_each(|n| times.behave(&process.member(n), Behaviour { latency_ms: 5, success: 1.0 }));
        touch(&process);
        process.publish(vec![put(3, 1)]).await;

        // It does not answer, and the others do at once. In go-zero it would get every request that it is drawn for,
        // half of all.
        let mut held = Vec::new();
        let picks = 2_000;
        for _ in 0..picks {
            let member = process.pick();
            let request = member.begin(Instant::now());
            if member.address() == address(3) {
                held.push(request);
            }
        }
        assert!(!held.is_empty(), "it gets some");
        assert!(held.len() < picks / 20, "{} of {picks}", held.len());

        // With nothing in flight and no sample it is one of four.
        held.clear();
        let picks = 20_000;
        let share = share(&process, 3, picks);
        assert!((share - 0.25).abs() < slack(picks), "{share}");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn p2c_shares_among_equals_by_weight() {
    let test = async {
        let process = Process::start("p2c-ewma", "{}", &[1; 4]).await;
        let mut times = Times::start();
        (0..4).for_each(|n| times.behave(&process.member(n), Behaviour { latency_ms: 5, success: 1.0 }));
        for number in 0..4 {
            let share = share(&process, number, 20_000);
            assert!((share - 0.25).abs() < slack(20_000), "{number}: {share}");
        }
        let heavy = Process::start("p2c-ewma", "{}", &[3, 1]).await;
        (0..2).for_each(|n| times.behave(&heavy.member(n), Behaviour { latency_ms: 5, success: 1.0 }));
        let share = share(&heavy, 0, 20_000);
        assert!((share - 0.75).abs() < slack(20_000), "{share}");
    };
    LocalSet::new().run_until(test).await;
}

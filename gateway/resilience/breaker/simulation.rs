//! This breaker beside those of go-zero and rpcx, as their sources say that they behave, in outages of half a minute. What
//! comes of it is a table in docs/reliability.md.

use std::{
    collections::BinaryHeap,
    fmt::Write,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{BUCKET, BUCKETS, Breaker, BreakerPolicy, Bucket, History, Started, Verdict};

/// A request every so often.
const EVERY: Duration = Duration::from_millis(10);
const BEGINS: Duration = Duration::from_secs(20);
const ENDS: Duration = Duration::from_secs(50);
const OVER: Duration = Duration::from_secs(80);
/// What a good answer takes.
const USUAL: Duration = Duration::from_millis(20);

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Good,
    Failed,
    NoConnection,
}

/// What becomes of a request of this number, and how long that takes.
type Outage = fn(u64) -> (Fate, Duration);

/// Who decides, and is told.
trait Contestant {
    type Sent: Ord;
    fn send(&mut self, at: Duration) -> Option<Self::Sent>;
    fn ended(&mut self, sent: Self::Sent, at: Duration, fate: Fate);
}

struct Ours {
    epoch: Instant,
    breaker: Arc<Breaker>,
    policy: BreakerPolicy,
    sent: Vec<Option<Started>>,
}

impl Contestant for Ours {
    /// Its place among those that were sent.
    type Sent = usize;

    fn send(&mut self, at: Duration) -> Option<usize> {
        let now = self.epoch + at;
        if self.breaker.refuses(&self.policy, now) {
            return None;
        }
        self.sent.push(Some(self.breaker.begin(now)));
        Some(self.sent.len() - 1)
    }

    fn ended(&mut self, sent: usize, at: Duration, fate: Fate) {
        if let Some(mut started) = self.sent[sent].take() {
            started.ended(fate == Fate::Good, self.epoch + at);
        }
    }
}

/// The same formula; a request counts when it has ended.
#[derive(Default)]
struct GoZero {
    buckets: Vec<Bucket>,
    let_through: Duration,
}

impl GoZero {
    fn bucket(&mut self, at: Duration) -> &mut Bucket {
        let number = (at.as_millis() / BUCKET.as_millis()) as usize;
        self.buckets.resize(self.buckets.len().max(BUCKETS + number + 1), Bucket::default());
        &mut self.buckets[BUCKETS + number]
    }
}

impl Contestant for GoZero {
    type Sent = ();

    fn send(&mut self, at: Duration) -> Option<()> {
        self.bucket(at);
        let newest = BUCKETS + (at.as_millis() / BUCKET.as_millis()) as usize;
        let window: [Bucket; BUCKETS] = self.buckets[newest + 1 - BUCKETS..=newest].try_into().unwrap();
        let since = at - self.let_through;
        match History::new(&window, None).verdict(&BreakerPolicy::default(), since, fastrand::f64()) {
            Verdict::Refused => {
                self.bucket(at).refused += 1;
                return None;
            }
            Verdict::Let | Verdict::Probe => self.let_through = at,
            Verdict::Closed => {}
        }
        Some(())
    }

    fn ended(&mut self, (): (), at: Duration, fate: Fate) {
        match fate {
            Fate::Good => self.bucket(at).accepted += 1,
            Fate::Failed | Fate::NoConnection => self.bucket(at).failed += 1,
        }
    }
}

/// Five connections in a row that could not be made, for half a minute since the last. Nothing else is told to it, no success
/// either.
#[derive(Default)]
struct Rpcx {
    failures: u32,
    last: Duration,
}

impl Contestant for Rpcx {
    type Sent = ();

    fn send(&mut self, at: Duration) -> Option<()> {
        if at - self.last > Duration::from_secs(30) {
            self.failures = 0;
        }
        (self.failures < 5).then_some(())
    }

    fn ended(&mut self, (): (), at: Duration, fate: Fate) {
        if fate == Fate::NoConnection {
            self.failures += 1;
            self.last = at;
        }
    }
}

/// What is to be seen of an outage.
struct Seen {
    /// Since its beginning.
    opened: Option<Duration>,
    /// Requests that it got while it lasted, of a hundred.
    sent: f64,
    /// The last that was refused, since its end.
    closed: Option<Duration>,
}

fn simulate<C: Contestant>(mut contestant: C, outage: Outage) -> Seen {
    let mut under_way = BinaryHeap::new();
    let mut seen = Seen { opened: None, sent: 0.0, closed: None };
    let (mut at, mut number, mut during) = (Duration::ZERO, 0, 0.0);
    while at < OVER {
        while let Some(std::cmp::Reverse((end, _, _))) = under_way.peek()
            && *end <= at
        {
            let Some(std::cmp::Reverse((end, fate, sent))) = under_way.pop() else { break };
            contestant.ended(sent, end, fate);
        }
        let in_outage = (BEGINS..ENDS).contains(&at);
        let sent = contestant.send(at);
        during += f64::from(u8::from(in_outage));
        match sent {
            Some(sent) => {
                let (fate, takes) = if in_outage { outage(number) } else { (Fate::Good, USUAL) };
                under_way.push(std::cmp::Reverse((at + takes, fate, sent)));
                seen.sent += f64::from(u8::from(in_outage));
            }
            None if at >= ENDS => seen.closed = Some(at - ENDS),
            None => seen.opened = seen.opened.or(Some(at.saturating_sub(BEGINS))),
        }
        number += 1;
        at += EVERY;
    }
    seen.sent = 100.0 * seen.sent / during;
    seen
}

fn row(outage: &str, who: &str, seen: &Seen) -> String {
    let seconds = |time: Option<Duration>, none: &str| {
        time.map_or_else(|| none.to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
    };
    let opened = seconds(seen.opened, "never");
    let closed = seen.opened.map(|_| seconds(seen.closed, "")).unwrap_or_default();
    format!("| {outage} | {who} | {opened} | {:.0} % | {closed} |\n", seen.sent)
}

#[test]
fn the_table_is_what_comes_of_it() {
    fastrand::seed(1);
    let outages: [(&str, Outage); 4] = [
        ("connections are refused", |_| (Fate::NoConnection, Duration::from_millis(1))),
        ("500 at once", |_| (Fate::Failed, Duration::from_millis(1))),
        ("every second request fails", |number| match number % 2 {
            0 => (Fate::Failed, USUAL),
            _ => (Fate::Good, USUAL),
        }),
        ("everything hangs, time-out after 15 s", |_| (Fate::Failed, Duration::from_secs(15))),
    ];
    let mut table = String::from(
        "| outage | breaker | opens after | requests that still get through | refuses after the end for |\n\
         |---|---|---:|---:|---:|\n",
    );
    let mut ours = Vec::new();
    for (name, outage) in outages {
        let epoch = Instant::now();
        let (breaker, policy) = (Arc::new(Breaker::new(epoch)), BreakerPolicy::default());
        let witgate = simulate(Ours { epoch, breaker, policy, sent: Vec::new() }, outage);
        table.push_str(&row(name, "Witgate", &witgate));
        table.push_str(&row("", "go-zero", &simulate(GoZero::default(), outage)));
        table.push_str(&row("", "rpcx", &simulate(Rpcx::default(), outage)));
        ours.push(witgate);
    }
    let document = fs::read_to_string("docs/reliability.md").unwrap();
    let (before, rest) = document.split_once("<!-- breakers -->\n").unwrap();
    let (known, after) = rest.split_once("<!-- end -->\n").unwrap();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let mut new = before.to_owned();
        let _ = write!(new, "<!-- breakers -->\n{table}<!-- end -->\n{after}");
        fs::write("docs/reliability.md", new).unwrap();
    } else {
        assert_eq!(known, table, "UPDATE_EXPECT=1 writes it anew");
    }
    // Whatever the outage, it is noticed long before its first time-out, and forgotten with the window.
    let window = BUCKET * (BUCKETS as u32 + 2);
    assert!(ours.iter().all(|seen| seen.opened.is_some_and(|opened| opened < window)), "{table}");
    assert!(ours.iter().all(|seen| seen.closed.is_none_or(|closed| closed < window)), "{table}");
}

//! The modes beside those of rpcx, as its source has them (client/xclient_call.go), where one of four endpoints fails. What
//! comes of it is a table in docs/reliability.md.

use std::{collections::BTreeSet, fmt::Write, fs, time::Duration};

use fastrand::Rng;
use http::StatusCode;

use super::{BackupAfter, Event, History, Mode, Next, RetryPolicy};

const ENDPOINTS: usize = 4;
const CALLS: u32 = 20_000;
/// Both try three times more, as rpcx does unless it is told otherwise, and begin a second try beside the first when rpcx
/// would.
const MORE: u32 = 3;
const BACKUP: u64 = 10;
/// What a good answer takes, in milliseconds, and how long a client waits.
const USUAL: u64 = 8;
const PATIENCE: u64 = 1_000;
/// How long a try may take with us. rpcx has no such limit.
const TRY: u64 = 100;

/// How the first of the endpoints fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Refuses,
    /// It closes the connection after it has done what it was asked for.
    Resets,
    Hangs,
    /// Of rpcx: it answers with an error.
    Says503,
}

/// What a try comes to, and after how many milliseconds; never: it hangs.
fn outcome(fault: Fault, endpoint: usize) -> Option<(u64, Event)> {
    let answered = |status| Event::Answered(status);
    match fault {
        _ if endpoint > 0 => Some((USUAL, answered(StatusCode::OK))),
        Fault::Refuses => Some((0, Event::NotConnected)),
        Fault::Resets => Some((USUAL / 2, Event::Reset)),
        Fault::Hangs => None,
        Fault::Says503 => Some((1, answered(StatusCode::SERVICE_UNAVAILABLE))),
    }
}

/// Whether an endpoint did what it was asked for.
fn is_done(fault: Fault, endpoint: usize) -> bool {
    endpoint > 0 || matches!(fault, Fault::Resets | Fault::Hangs)
}

/// What became of calls.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Figures {
    failed: u32,
    /// More than one endpoint, or one more than once, did what the call asked for.
    twice: u32,
    /// All that they took, in milliseconds.
    took: u64,
}

impl Figures {
    fn add(&mut self, ok: bool, done: u32, took: u64) {
        self.failed += u32::from(!ok);
        self.twice += u32::from(done > 1);
        self.took += took;
    }

    fn share(count: u32) -> String {
        format!("{:.1} %", f64::from(count) * 100.0 / f64::from(CALLS))
    }
}

fn rpcx(mode: Mode, fault: Fault) -> Figures {
    let mut random = Rng::with_seed(7);
    let mut figures = Figures::default();
    for _ in 0..CALLS {
        let first = random.usize(..ENDPOINTS);
        let (ok, done, took) = match mode {
            Mode::Failbackup => rpcx_backup(fault, first, random.usize(..ENDPOINTS)),
            _ => {
                let mut endpoint = first;
                let (mut done, mut took, mut ok) = (0, 0, false);
                for _ in 0..=if mode == Mode::Failfast { 0 } else { MORE } {
                    done += u32::from(is_done(fault, endpoint));
                    let Some((after, event)) = outcome(fault, endpoint) else {
                        // The deadline of the call ends it, and nothing comes after that.
                        took = PATIENCE;
                        break;
                    };
                    took += after;
                    if let Event::Answered(status) = event {
                        ok = status.is_success();
                        break;
                    }
                    if mode == Mode::Failover {
                        // The one that failed may be chosen again.
                        endpoint = random.usize(..ENDPOINTS);
                    }
                }
                (ok, done, took)
            }
        };
        figures.add(ok, done, took);
    }
    figures
}

/// The first of two to end has the last word, whatever it says; and before the second begins, the only one.
fn rpcx_backup(fault: Fault, first: usize, second: usize) -> (bool, u32, u64) {
    let done = |endpoint| u32::from(is_done(fault, endpoint));
    let good = |event| matches!(event, Event::Answered(status) if status.is_success());
    let one = outcome(fault, first).filter(|(_, event)| *event != Event::NotConnected);
    if let Some((after, event)) = one.filter(|(after, _)| *after < BACKUP) {
        return (good(event), done(first), after);
    }
    let other = outcome(fault, second).map(|(after, event)| (after + BACKUP, event));
    let both = done(first) + done(second);
    match one.into_iter().chain(other).min_by_key(|(after, _)| *after) {
        Some((after, event)) => (good(event), both, after),
        None => (false, both, PATIENCE),
    }
}

/// A try that is under way.
struct Try {
    endpoint: usize,
    ends: u64,
    event: Event,
}

fn ours(mode: Mode, fault: Fault, repeatable: bool) -> Figures {
    let backup_after = BackupAfter::Time(Duration::from_millis(BACKUP));
    let policy = RetryPolicy { mode, most: MORE, backup_after, ..RetryPolicy::default() };
    let mut random = Rng::with_seed(7);
    let (mut figures, mut calls, mut spent) = (Figures::default(), 0, 0);
    for _ in 0..CALLS {
        calls += 1;
        // The budget: a share of the requests, and a few.
        let mut spend = || {
            let left = f64::from(spent) < f64::from(calls) * policy.budget + f64::from(policy.budget_min);
            spent += u32::from(left);
            left
        };
        let (ok, done, took) = call(&policy, fault, repeatable, &mut random, &mut spend);
        figures.add(ok, done, took);
    }
    figures
}

fn call(
    policy: &RetryPolicy,
    fault: Fault,
    repeatable: bool,
    random: &mut Rng,
    spend: &mut impl FnMut() -> bool,
) -> (bool, u32, u64) {
    let mut history = History::new(repeatable, repeatable);
    let (mut tried, mut done, mut now) = (BTreeSet::new(), 0, 0);
    let begin = |endpoint, now, done: &mut u32| {
        *done += u32::from(is_done(fault, endpoint));
        let (after, event) = outcome(fault, endpoint).unwrap_or((TRY, Event::TimedOut));
        Try { endpoint, ends: now + after, event }
    };
    let mut backup = Some(BACKUP).filter(|_| policy.mode == Mode::Failbackup && repeatable);
    let mut under_way = vec![begin(random.usize(..ENDPOINTS), now, &mut done)];
    loop {
        let next =
            under_way.iter().enumerate().min_by_key(|(_, of)| of.ends).map(|(place, of)| (of.ends, place));
        let due = backup.filter(|due| next.is_none_or(|(ends, _)| *due < ends));
        let (event, last) = match (due, next) {
            (Some(due), _) => {
                (backup, now) = (None, due);
                (Event::BackupDue, under_way[0].endpoint)
            }
            (None, Some((ends, place))) => {
                now = ends;
                let ended = under_way.remove(place);
                (ended.event, ended.endpoint)
            }
            (None, None) => return (false, done, now),
        };
        match history.step(policy, event, &mut *spend) {
            Next::Retry(_) | Next::Backup => {
                tried.insert(last);
                let others: Vec<usize> =
                    (0..ENDPOINTS).filter(|endpoint| !tried.contains(endpoint)).collect();
                let endpoint = match (policy.mode, &others[..]) {
                    (Mode::Failtry, _) | (_, []) => last,
                    (_, others) => others[random.usize(..others.len())],
                };
                under_way.push(begin(endpoint, now, &mut done));
            }
            Next::End => return (event == Event::Answered(StatusCode::OK), done, now),
            Next::Refused if event != Event::BackupDue => return (false, done, now),
            Next::Refused | Next::Wait | Next::Resend => {}
        }
    }
}

#[test]
fn the_table_of_modes_is_what_comes_of_them() {
    let mut table = "| of four instances one | mode | failed: rpcx | ours, GET | ours, POST | done twice: rpcx | ours, GET | ours, POST | takes: rpcx | ours, GET |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n".to_owned();
    for (fault, what) in [
        (Fault::Refuses, "refuses connections"),
        (Fault::Resets, "does it and breaks off"),
        (Fault::Hangs, "hangs"),
        (Fault::Says503, "answers 503"),
    ] {
        let mut what = what;
        for mode in Mode::ALL {
            let (theirs, get, post) = (rpcx(mode, fault), ours(mode, fault, true), ours(mode, fault, false));
            let mean = |figures: &Figures| format!("{:.0} ms", figures.took as f64 / f64::from(CALLS));
            let cells = [
                Figures::share(theirs.failed),
                Figures::share(get.failed),
                Figures::share(post.failed),
                Figures::share(theirs.twice),
                Figures::share(get.twice),
                Figures::share(post.twice),
                mean(&theirs),
                mean(&get),
            ];
            let _ = writeln!(table, "| {what} | `{}` | {} |", mode.as_str(), cells.join(" | "));
            what = "";
            assert_eq!(post.twice, 0, "{fault:?} {mode:?}: what must not be repeated was done twice");
            if (mode, fault) == (Mode::Failover, Fault::Refuses) {
                assert_eq!((get.failed, post.failed), (0, 0), "what was not sent goes elsewhere");
            }
        }
    }
    let document = fs::read_to_string("docs/reliability.md").unwrap();
    let (before, rest) = document.split_once("<!-- modes -->\n").unwrap();
    let (known, after) = rest.split_once("<!-- end -->\n").unwrap();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write("docs/reliability.md", format!("{before}<!-- modes -->\n{table}<!-- end -->\n{after}"))
            .unwrap();
    } else {
        assert_eq!(known, table, "UPDATE_EXPECT=1 writes it anew");
    }
}

//! The tries of one call: begun, waited for, judged, and followed by others as the policy says.

use std::{
    future::{Future, pending, poll_fn},
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use http::StatusCode;
use tokio::time::{sleep_until, timeout_at};

use super::{
    Route,
    call::Caller,
    frame::Frame,
    lane::{LaneError, Lost},
    link::LinkError,
};
use crate::{
    client::Transport,
    config::Timeouts,
    dispatch::{self, Choice, Held, Leaving, Opened, Picked, Target},
    http::{RequestError, Wait, call_counts_as, is_success, told},
    resilience::{BackupAfter, Cause, Event, History, Mode, Next, RetryPolicy, Tried},
    telemetry::{Fault, Record, access::Entry},
    upstream::{Evidence, Member},
};

/// All tries of one call.
pub struct Tries<'a> {
    caller: &'a Caller,
    call: &'a Frame,
    target: &'a Target,
    timeouts: Timeouts,
    policy: RetryPolicy,
    /// When the end of it all is waited for no more.
    whole: Until,
    backup_after: Option<Duration>,
    history: History,
    tried: Tried<Arc<Member>>,
    /// Of the call, if it is logged.
    entry: Option<&'a mut Entry>,
}

/// Until when something is waited for, and what that is called. None: for ever.
type Until = Option<(Instant, Wait)>;

/// One try that is under way.
struct Running<'a> {
    member: Arc<Member>,
    begun: Instant,
    ends: Pin<Box<dyn Future<Output = Ended> + 'a>>,
}

struct Ended {
    opened: Opened,
    /// It was begun beside the first.
    backup: bool,
    outcome: Result<Option<Frame>, Failed>,
}

struct Failed {
    error: RequestError,
    event: Event,
    /// Its end says nothing of the endpoint.
    stale: bool,
}

impl<'a> Tries<'a> {
    pub fn new(
        caller: &'a Caller,
        call: &'a Frame,
        target: &'a Target,
        route: &Route,
        record: &'a mut Record,
    ) -> Self {
        let started = record.started;
        let upstream = &target.upstream;
        let policy = route.retries.map_or(upstream.config.retries, |own| own.over(&upstream.config.retries));
        let timeouts = route.timeouts.over(&upstream.config.timeouts);
        let may_repeat = route.repeatable && !call.is_one_way();
        let backup_after = match policy.backup_after {
            _ if policy.mode != Mode::Failbackup || !may_repeat => None,
            BackupAfter::Time(after) => Some(after),
            BackupAfter::P95 => upstream.latencies.get(),
        };
        Self {
            caller,
            call,
            target,
            timeouts,
            policy,
            whole: timeouts.request.map(|limit| (started + limit, Wait::WholeOfEndpoint)),
            backup_after,
            history: History::new(may_repeat, backup_after.is_some()),
            tried: Tried::default(),
            entry: record.entry.as_deref_mut(),
        }
    }

    /// Resolves to the answer, or to the failure that no other try can mend. None: the call has none.
    pub async fn run(
        &mut self,
        first: Picked,
        at: Instant,
        held: &Held,
    ) -> Result<Option<Frame>, RequestError> {
        let mut backup = self.backup_after.map(|after| at + after);
        let mut running = vec![self.begin(Opened::begin(first, at), false)];
        loop {
            let ended = tokio::select! {
                biased;
                ended = any(&mut running) => ended,
                () = due(backup) => {
                    backup = None;
                    running.extend(self.hedge(&running));
                    continue;
                }
            };
            let Ended { mut opened, backup: beside, outcome } = ended;
            let at = Instant::now();
            self.learn(&mut opened, &outcome, beside, at);
            let event =
                outcome.as_ref().map_or_else(|failed| failed.event, |_| Event::Answered(StatusCode::OK));
            let next = self.step(event, at);
            let failed = match outcome {
                Ok(answer) => {
                    self.won(beside, &mut running, held, at);
                    return Ok(answer);
                }
                Err(failed) => failed,
            };
            let again = match next {
                Next::Wait => {
                    self.tried.add(opened.member.slot(), opened.member);
                    continue;
                }
                Next::Resend => {
                    self.target.upstream.metrics.retried(self.index(), Cause::Stale);
                    Some(Opened { begun: at, ..opened })
                }
                Next::Retry(cause) => {
                    let member = opened.member.clone();
                    drop(opened);
                    self.other(cause, member, at).inspect(|_| {
                        self.target.upstream.metrics.retried(self.index(), cause);
                        held.tried();
                    })
                }
                Next::End | Next::Refused | Next::Backup => None,
            };
            match again {
                Some(opened) => running.push(self.begin(opened, beside && next == Next::Resend)),
                None => return Err(failed.error),
            }
        }
    }

    fn index(&self) -> usize {
        self.caller.worker.index
    }

    /// What comes of an event.
    fn step(&mut self, event: Event, at: Instant) -> Next {
        let (upstream, policy) = (&self.target.upstream, &self.policy);
        let next = self.history.step(policy, event, || upstream.spend_retry(policy, at));
        if next == Next::Refused {
            upstream.metrics.refused(self.caller.worker.index);
        }
        next
    }

    /// An endpoint for a try after one on that member. None: there is no better one than before.
    fn other(&mut self, cause: Cause, member: Arc<Member>, at: Instant) -> Option<Opened> {
        self.tried.add(member.slot(), member.clone());
        let choice = self.choice();
        let same = (self.policy.mode == Mode::Failtry).then(|| self.target.view.offered(&member)).flatten();
        let picked = match same.and_then(|same| choice.pick_only(same, at)) {
            Some(picked) => picked,
            None => {
                let picked = choice.pick(at).ok()?;
                // Whoever refuses connections goes on to, for a moment.
                if cause == Cause::Connect && self.tried.contains(picked.member.slot()) {
                    return None;
                }
                picked
            }
        };
        Some(Opened::begin(picked, at))
    }

    fn choice(&self) -> Choice<'_> {
        let Self { target, caller, history, tried, .. } = self;
        Choice { target, facts: caller.facts(), attempt: history.number(), tried: tried.slots() }
    }

    /// A second try beside the first, on another endpoint, if there is one.
    fn hedge(&mut self, running: &[Running<'a>]) -> Option<Running<'a>> {
        let at = Instant::now();
        let first = running.first()?.member.clone();
        self.tried.add(first.slot(), first);
        let picked = self.choice().pick(at).ok()?;
        if self.tried.contains(picked.member.slot()) || self.step(Event::BackupDue, at) != Next::Backup {
            return None;
        }
        self.target.upstream.metrics.hedged(self.index());
        Some(self.begin(Opened::begin(picked, at), true))
    }

    /// A try has the answer; one beside it is given up.
    fn won(&self, beside: bool, running: &mut Vec<Running<'a>>, held: &Held, at: Instant) {
        let metrics = &self.target.upstream.metrics;
        if beside {
            metrics.hedge_won(self.index());
        }
        if let Some(loser) = running.pop() {
            metrics.hedge_cancelled(self.index());
            if beside {
                // It would have taken longer than that.
                self.note_latency(loser.begun, at);
            }
            drop(loser);
            held.tried();
        }
    }

    /// How long a first try took, or has taken so far, where somebody wants to know.
    fn note_latency(&self, begun: Instant, at: Instant) {
        if self.policy.mode == Mode::Failbackup && self.policy.backup_after == BackupAfter::P95 {
            self.target.upstream.latencies.record(at, at.saturating_duration_since(begun));
        }
    }

    fn begin(&mut self, opened: Opened, backup: bool) -> Running<'a> {
        if let Some(entry) = &mut self.entry {
            entry.tries(opened.member.address());
        }
        let &mut Self { caller, call, target, timeouts, whole, .. } = self;
        let limits = Limits { timeouts, per_try: self.policy.per_try, whole };
        let (member, begun) = (opened.member.clone(), opened.begun);
        let ends = Box::pin(async move {
            let outcome = exchange(caller, call, target, limits, &opened).await;
            Ended { opened, backup, outcome }
        });
        Running { member, begun, ends }
    }

    /// The endpoint's statistics and its upstream's health learn of a try that ended just now.
    fn learn(&self, opened: &mut Opened, outcome: &Result<Option<Frame>, Failed>, beside: bool, at: Instant) {
        let (success, evidence) = match outcome {
            Ok(Some(answer)) => {
                let counted = call_counts_as(answer.is_error());
                (is_success(counted), told(counted))
            }
            Ok(None) => return,
            Err(failed) if failed.stale || failed.error.fault() != Fault::Endpoint => return,
            Err(failed) => match failed.error {
                RequestError::Dial(_) => (false, Evidence::ConnectFailed),
                RequestError::Expired(_) => (false, Evidence::TimedOut),
                _ => (false, Evidence::Broke),
            },
        };
        let (stats, took) = (opened.member.stats(), at.saturating_duration_since(opened.begun));
        stats.record(at, took, success);
        if success {
            stats.confirm();
            if !beside {
                self.note_latency(opened.begun, at);
            }
        }
        self.target.upstream.metrics.learned(self.index(), evidence);
        self.target.evidence.send(opened.member.address(), stats, evidence, opened.trial.take());
    }
}

struct Limits {
    timeouts: Timeouts,
    per_try: Option<Duration>,
    whole: Until,
}

/// Sends a call to an endpoint, and waits for the answer.
async fn exchange(
    caller: &Caller,
    call: &Frame,
    target: &Target,
    limits: Limits,
    opened: &Opened,
) -> Result<Option<Frame>, Failed> {
    let Limits { timeouts, per_try, whole } = limits;
    let (worker, upstream) = (&caller.worker, &target.upstream);
    let until = sooner(whole, per_try.map(|limit| (opened.begun + limit, Wait::Try)));
    let reached = within(until, async {
        let to = Transport::to(&opened.member, upstream.tls.as_ref());
        let lane = worker.lanes.get(to, call.token(), opened.in_flight.stats(), &upstream.config).await?;
        lane.has_room().await;
        Ok(lane)
    });
    let not_connected = |error| Failed { error, event: Event::NotConnected, stale: false };
    let lane = match reached.await {
        Ok(reached) => reached.map_err(|error| not_connected(RequestError::Dial(error)))?,
        // Nothing has been sent.
        Err(wait @ Wait::Try) => return Err(not_connected(RequestError::Expired(wait))),
        Err(wait) => return Err(expired(wait)),
    };
    let gone = || {
        let error = RequestError::Reset(LaneError::Closed.to_string());
        Failed { error, event: Event::Unsent, stale: true }
    };
    if call.is_one_way() {
        return if lane.tell(call) { Ok(None) } else { Err(gone()) };
    }
    let sent = lane.send(call).ok_or_else(gone)?;
    let until = sooner(until, timeouts.response.map(|limit| (Instant::now() + limit, Wait::Head)));
    let leave = upstream.config.leave;
    let leaving = leave.map(|limit| Leaving::watch(&worker.watch, opened.in_flight.stats().clone(), limit));
    let answered = within(until, async {
        tokio::select! {
            answer = sent.answer() => answer.map_err(lost),
            () = dispatch::over(leaving) => {
                target.account.left();
                Err(expired(Wait::Leave))
            }
        }
    });
    answered.await.map_err(expired)?.map(Some)
}

/// Something took too long.
fn expired(wait: Wait) -> Failed {
    let event = if matches!(wait, Wait::Try | Wait::Leave) { Event::TimedOut } else { Event::Over };
    Failed { error: RequestError::Expired(wait), event, stale: false }
}

/// The connection of a call has ended before its answer.
fn lost(lost: Lost) -> Failed {
    let Lost { error, unsent, stale } = lost;
    let event = match (unsent, stale) {
        (true, _) => Event::Unsent,
        (false, true) => Event::Stale,
        (false, false) => Event::Reset,
    };
    let is_bad = |error: &Arc<LinkError>| matches!(**error, LinkError::Frame(_));
    let error = match error {
        LaneError::Stuck => RequestError::Expired(Wait::Room),
        LaneError::Broken(error) if is_bad(&error) => RequestError::BadAnswer(error.to_string()),
        error => RequestError::Reset(error.to_string()),
    };
    Failed { error, event, stale: unsent || stale }
}

fn sooner(first: Until, second: Until) -> Until {
    [first, second].into_iter().flatten().min_by_key(|(at, _)| *at)
}

/// What comes of it, or what it has waited for too long.
async fn within<T>(until: Until, work: impl Future<Output = T>) -> Result<T, Wait> {
    match until {
        None => Ok(work.await),
        Some((at, wait)) => timeout_at(at.into(), work).await.map_err(|_| wait),
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => pending().await,
    }
}

/// Waits until one of them has ended, and takes it out.
async fn any(running: &mut Vec<Running<'_>>) -> Ended {
    poll_fn(|cx| {
        for place in 0..running.len() {
            if let Poll::Ready(ended) = running[place].ends.as_mut().poll(cx) {
                running.remove(place);
                return Poll::Ready(ended);
            }
        }
        Poll::Pending
    })
    .await
}

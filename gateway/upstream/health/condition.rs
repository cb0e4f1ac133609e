//! What is known against one endpoint.

use std::time::{Duration, Instant};

use super::{Evidence, Policy};

/// A new endpoint that refuses, and one that still fails its checks, is looked at again so soon. The ejected are asked
/// every second, so that a check has the first word.
const SOON: Duration = Duration::from_secs(2);

/// A request that tries an endpoint has its outcome by then. Were it forgotten before that the endpoint is half-open,
/// everybody would go there beside it.
const LONGEST_TRY: Duration = Duration::from_secs(300);

/// Why an endpoint is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is new and does not take connections yet.
    Starting,
    /// Requests found no connection.
    Connections,
    /// Requests failed.
    Failures,
    /// It failed its checks.
    Checks,
    /// It failed the checks of its registry.
    Unwell,
}

impl Reason {
    pub const ALL: [Self; 5] =
        [Self::Starting, Self::Connections, Self::Failures, Self::Checks, Self::Unwell];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Connections => "connections",
            Self::Failures => "failures",
            Self::Checks => "checks",
            Self::Unwell => "unwell",
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Out {
    until: Instant,
    reason: Reason,
}

/// What is known against one endpoint, to be kept over a restart: with durations in place of moments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConditionState {
    pub no_connection: u32,
    pub failures: u32,
    pub checks_failed: u32,
    pub checks_passed: u32,
    pub failed_by_check: bool,
    /// For how long it has not answered.
    pub silent: Option<Duration>,
    /// Why it is out, and for how long yet.
    pub out: Option<(Reason, Duration)>,
    pub doubted: bool,
    pub spared: bool,
    pub times: u32,
    /// How long ago it came back.
    pub came_back: Option<Duration>,
    pub probation: bool,
}

impl ConditionState {
    /// Takes in that so much time has passed in which nobody asked the endpoint: that is no silence of its own.
    pub fn age(&mut self, by: Duration) {
        self.out = self.out.map(|(reason, left)| (reason, left.saturating_sub(by)));
        self.came_back = self.came_back.map(|ago| ago.saturating_add(by));
    }
}

/// The record of an endpoint that failed at least once.
#[derive(Debug, Clone, Default)]
pub(super) struct Condition {
    /// In a row, from requests.
    no_connection: u32,
    failures: u32,
    /// In a row, from checks.
    checks_failed: u32,
    checks_passed: u32,
    failed_by_check: bool,
    /// Since when it has not answered.
    silent_since: Option<Instant>,
    out: Option<Out>,
    /// Its companions refuse, and of itself nobody knows anything.
    doubted: bool,
    /// It would be out, if not too many were.
    spared: bool,
    /// How often it was taken out, as far as that is not forgotten.
    times: u32,
    came_back: Option<Instant>,
    /// It came back by time alone, and nobody knows whether it answers: the next failure takes it out again.
    probation: bool,
}

impl Condition {
    pub(super) fn state(&self, now: Instant) -> ConditionState {
        let ago = |at: Instant| now.saturating_duration_since(at);
        ConditionState {
            no_connection: self.no_connection,
            failures: self.failures,
            checks_failed: self.checks_failed,
            checks_passed: self.checks_passed,
            failed_by_check: self.failed_by_check,
            silent: self.silent_since.map(ago),
            out: self.out.map(|out| (out.reason, out.until.saturating_duration_since(now))),
            doubted: self.doubted,
            spared: self.spared,
            times: self.times,
            came_back: self.came_back.map(ago),
            probation: self.probation,
        }
    }

    /// A condition as it was.
    pub(super) fn restored(state: ConditionState, now: Instant) -> Self {
        let before = |ago: Duration| now.checked_sub(ago).unwrap_or(now);
        Self {
            no_connection: state.no_connection,
            failures: state.failures,
            checks_failed: state.checks_failed,
            checks_passed: state.checks_passed,
            failed_by_check: state.failed_by_check,
            silent_since: state.silent.map(before),
            // No pause is as long as a damaged file may say.
            out: state.out.and_then(|(reason, left)| Some(Out { until: now.checked_add(left)?, reason })),
            doubted: state.doubted,
            spared: state.spared,
            times: state.times,
            came_back: state.came_back.map(before),
            probation: state.probation,
        }
    }

    pub(super) fn reason(&self) -> Option<Reason> {
        let by_check = self.failed_by_check.then_some(Reason::Checks);
        by_check.or(self.out.map(|out| out.reason))
    }

    /// Whether failing requests took it out, and nobody has asked it since.
    pub(super) fn is_guess(&self) -> bool {
        !self.failed_by_check
            && self.out.is_some_and(|out| matches!(out.reason, Reason::Connections | Reason::Failures))
    }

    /// Whether it has not taken a connection since it joined, as far as anybody knows.
    pub(super) fn is_starting(&self) -> bool {
        self.out.is_some_and(|out| out.reason == Reason::Starting)
    }

    /// Whether it is in, and the next answer or failure decides.
    pub(super) fn is_half_open(&self) -> bool {
        self.probation && !self.is_unhealthy()
    }

    /// Whether it is out only because nobody knows anything of it.
    pub(super) fn is_doubted(&self) -> bool {
        self.doubted && self.is_starting()
    }

    /// Those that joined together with it refuse connections: it is asked before it gets requests.
    pub(super) fn doubt(&mut self, policy: &Policy, now: Instant) {
        self.doubted = true;
        self.out = Some(Out { until: now + policy.grace, reason: Reason::Starting });
    }

    pub(super) fn is_unhealthy(&self) -> bool {
        self.reason().is_some() || self.spared
    }

    /// Whether it has been silent for so long that nobody need wait for it.
    pub(super) fn is_gone(&self, policy: &Policy, now: Instant) -> bool {
        let again = self.failures.max(self.checks_failed) > 1;
        again
            && self
                .silent_since
                .is_some_and(|since| now.saturating_duration_since(since) >= policy.gone_after)
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_clean(&self, policy: &Policy, now: Instant) -> bool {
        let remembered = if self.probation { policy.eject_most.max(LONGEST_TRY) } else { policy.eject_most };
        let forgiven = |at: Instant| now.saturating_duration_since(at) >= remembered;
        !self.is_unhealthy()
            && (self.failures, self.checks_failed) == (0, 0)
            && self.came_back.is_none_or(forgiven)
    }

    /// A request told something. `new` says that the endpoint has only just joined, `room` that one more may be
    /// taken out.
    pub(super) fn told(&mut self, evidence: Evidence, new: bool, room: bool, policy: &Policy, now: Instant) {
        if evidence == Evidence::Answered {
            self.answered(now);
            return;
        }
        self.doubted = false;
        let refused = evidence == Evidence::ConnectFailed;
        self.failures = self.failures.saturating_add(1);
        self.no_connection = if refused { self.no_connection.saturating_add(1) } else { 0 };
        // A gateway error is an answer.
        if evidence != Evidence::GatewayError {
            self.silent_since.get_or_insert(now);
        }
        if self.out.is_some() {
            return;
        }
        let reason = match refused {
            true if new => Reason::Starting,
            true if self.no_connection >= policy.connect_failures || self.probation => Reason::Connections,
            _ if self.failures >= policy.failures || self.probation => Reason::Failures,
            _ => return,
        };
        if reason == Reason::Starting {
            self.out = Some(Out { until: now + SOON, reason });
            return;
        }
        self.spared = !room;
        if room {
            self.eject(reason, policy, now);
        }
    }

    /// A check passed or failed.
    pub(super) fn checked(&mut self, passed: bool, new: bool, policy: &Policy, now: Instant) {
        if !passed {
            self.checks_passed = 0;
            self.checks_failed = self.checks_failed.saturating_add(1);
            self.silent_since.get_or_insert(now);
            self.doubted = false;
            self.failed_by_check |= self.checks_failed >= policy.fall;
            return;
        }
        self.checks_failed = 0;
        self.checks_passed = self.checks_passed.saturating_add(1);
        self.silent_since = None;
        let starting = new || self.out.is_some_and(|out| out.reason == Reason::Starting);
        if !starting && self.checks_passed < policy.rise {
            return;
        }
        self.failed_by_check = false;
        let by_requests = self.is_guess() || self.spared;
        if policy.traffic_decides && by_requests {
            return;
        }
        // A check says that it takes connections, not that it answers requests.
        if self.out.is_some_and(|out| matches!(out.reason, Reason::Connections | Reason::Starting)) {
            self.come_back(now);
        }
        if self.no_connection > 0 && !policy.traffic_decides {
            (self.no_connection, self.failures, self.spared) = (0, 0, false);
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) {
        let Some(out) = self.out.filter(|out| out.until <= now) else { return };
        if self.checks_failed > 0 {
            self.out = Some(Out { until: now + SOON, ..out });
            return;
        }
        self.come_back(now);
        self.probation = out.reason != Reason::Starting;
    }

    fn answered(&mut self, now: Instant) {
        (self.no_connection, self.failures) = (0, 0);
        (self.silent_since, self.spared, self.probation) = (None, false, false);
        if self.out.is_some() {
            self.come_back(now);
        }
    }

    fn eject(&mut self, reason: Reason, policy: &Policy, now: Instant) {
        self.out = Some(Out { until: now + policy.pause(self.times), reason });
        self.times = self.times.saturating_add(1);
        self.probation = false;
    }

    fn come_back(&mut self, now: Instant) {
        if self.out.take().is_some_and(|out| out.reason != Reason::Starting) {
            self.came_back = Some(now);
        }
        (self.no_connection, self.failures) = (0, 0);
    }
}

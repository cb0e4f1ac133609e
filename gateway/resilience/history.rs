//! What happens to one request, and what is done next: the one place where that is decided.

use http::StatusCode;

use super::{Cause, Mode, RetryPolicy};

/// So many connections that an endpoint leaves are borne with by one try.
const LEFT_MOST: u32 = 3;

/// What has happened to one request so far.
#[derive(Debug)]
pub struct History {
    /// Whether it may be sent again after an endpoint may have processed it.
    repeatable: bool,
    /// Whether it may be sent twice at once.
    hedgeable: bool,
    /// What it was is not there any more.
    lost: bool,
    /// Tries that began after one had ended.
    retries: u32,
    /// Those and the one beside the first.
    further: u32,
    /// Tries that have neither an answer nor an end.
    running: u32,
    /// How often the latest try was sent anew over another connection.
    resent: u32,
    /// A second try was begun beside the first, or cannot be.
    hedged: bool,
    /// It has its answer.
    over: bool,
}

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A try got no connection.
    NotConnected,
    /// It is proved that an endpoint has not processed a try: nothing of it was sent over a connection that ended, or it was
    /// refused.
    Unsent,
    /// The same, because the endpoint takes no more requests over that connection, which says nothing of the next.
    Left,
    /// A try's connection had been idle before, and ended before a byte of an answer.
    Stale,
    /// A try's connection ended before the head of an answer.
    Reset,
    /// The time of a try was over.
    TimedOut,
    /// A try failed in a way that no other is going to mend.
    Failed,
    /// A try has the head of an answer.
    Answered(StatusCode),
    /// A call of gRPC ended with this status before anything of its answer. Whoever names it as a cause says that such a
    /// call may be sent again, whatever it asks for.
    Declined(Cause),
    /// The only try takes so long that there may be one beside it.
    BackupDue,
    /// Nothing of any try is waited for any more.
    Over,
}

/// What is done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Wait for what is under way, if anything is.
    Wait,
    /// The same try once more, over a new connection.
    Resend,
    /// Another try, because of this. The policy says where.
    Retry(Cause),
    /// A second try beside the first.
    Backup,
    /// There could be another try, but the budget is empty. Unless it was one beside the first, this is the end.
    Refused,
    /// The client gets what there is: the answer that came now, or the last one, or why there is none.
    End,
}

impl History {
    /// Of a request whose first try begins.
    pub fn new(repeatable: bool, hedgeable: bool) -> Self {
        Self {
            repeatable,
            hedgeable,
            lost: false,
            retries: 0,
            further: 0,
            running: 1,
            resent: 0,
            hedged: false,
            over: false,
        }
    }

    /// The request cannot be sent again, unless it is given back unsent.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    /// Whether it may be sent again after an endpoint may have processed it.
    pub fn may_repeat(&self) -> bool {
        self.repeatable && !self.lost
    }

    /// The number of the latest try: 0 for the first.
    pub fn number(&self) -> u32 {
        self.further
    }

    /// What comes of an event. `spend` takes a retry from the budget, if one is left, and is asked for each that is sent
    /// although an endpoint may have processed the request.
    pub fn step(&mut self, policy: &RetryPolicy, event: Event, spend: impl FnOnce() -> bool) -> Next {
        if self.over {
            return Next::Wait;
        }
        match event {
            Event::BackupDue => return self.hedge(policy, spend),
            Event::Over => return self.end(),
            Event::Unsent | Event::Left | Event::Stale if self.may_resend(policy, event) => {
                self.resent += 1;
                return Next::Resend;
            }
            _ => self.running = self.running.saturating_sub(1),
        }
        match event {
            // It is what is wanted.
            Event::Answered(_) | Event::Declined(_)
                if !cause(event).is_some_and(|cause| policy.on.contains(cause)) =>
            {
                self.end()
            }
            // The other one may do better.
            _ if self.running > 0 => Next::Wait,
            _ => self.retry(policy, event, spend),
        }
    }

    /// An idle connection that is dead says nothing of its endpoint: the request goes there all the same, once, outside
    /// of every count; and a few times if it is connections that the endpoint leaves.
    fn may_resend(&self, policy: &RetryPolicy, event: Event) -> bool {
        match event {
            Event::Left => self.resent < LEFT_MOST,
            Event::Unsent => self.resent == 0,
            _ => self.resent == 0 && self.may_repeat() && policy.retries() > 0,
        }
    }

    fn retry(&mut self, policy: &RetryPolicy, event: Event, spend: impl FnOnce() -> bool) -> Next {
        let Some(cause) = cause(event).filter(|cause| policy.on.contains(*cause)) else { return self.end() };
        if self.retries >= policy.retries() {
            return self.end();
        }
        if !matches!(event, Event::NotConnected | Event::Unsent | Event::Left) {
            if self.lost || !(self.repeatable || matches!(event, Event::Declined(_))) {
                return self.end();
            }
            if !spend() {
                self.over = true;
                return Next::Refused;
            }
        }
        self.retries += 1;
        self.further += 1;
        self.running = 1;
        self.resent = 0;
        Next::Retry(cause)
    }

    fn hedge(&mut self, policy: &RetryPolicy, spend: impl FnOnce() -> bool) -> Next {
        let hedged = std::mem::replace(&mut self.hedged, true);
        if hedged
            || policy.mode != Mode::Failbackup
            || self.running != 1
            || !(self.hedgeable && self.may_repeat())
        {
            return Next::Wait;
        }
        if !spend() {
            return Next::Refused;
        }
        self.running += 1;
        self.further += 1;
        Next::Backup
    }

    fn end(&mut self) -> Next {
        self.over = true;
        Next::End
    }
}

fn cause(event: Event) -> Option<Cause> {
    match event {
        Event::NotConnected | Event::Unsent | Event::Left => Some(Cause::Connect),
        Event::Stale | Event::Reset => Some(Cause::Reset),
        Event::TimedOut => Some(Cause::Timeout),
        Event::Answered(status) => Cause::of(status),
        Event::Declined(cause) => Some(cause),
        Event::Failed | Event::BackupDue | Event::Over => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};

    use super::{super::Causes, *};

    fn status(code: u16) -> Event {
        Event::Answered(StatusCode::from_u16(code).unwrap())
    }

    fn policy(mode: Mode, most: u32) -> RetryPolicy {
        RetryPolicy { mode, most, ..RetryPolicy::default() }
    }

    /// What comes of one event, the first of a request.
    fn first(policy: &RetryPolicy, repeatable: bool, event: Event) -> Next {
        History::new(repeatable, repeatable).step(policy, event, || true)
    }

    /// The table of what may be tried again, with the defaults.
    #[test]
    fn what_may_have_been_processed_is_tried_again_only_where_it_may_be_repeated() {
        use Next::{End, Resend, Retry};
        for (event, repeatable, not) in [
            (Event::NotConnected, Retry(Cause::Connect), Retry(Cause::Connect)),
            (Event::Unsent, Resend, Resend),
            (Event::Left, Resend, Resend),
            (Event::Stale, Resend, End),
            (Event::Reset, Retry(Cause::Reset), End),
            (Event::TimedOut, Retry(Cause::Timeout), End),
            (Event::Failed, End, End),
            (Event::Over, End, End),
            (status(200), End, End),
            (status(404), End, End),
            (status(408), End, End),
            (status(429), End, End),
            (status(500), End, End),
            (status(502), Retry(Cause::Status502), End),
            (status(503), Retry(Cause::Status503), End),
            (status(504), End, End),
            (Event::Declined(Cause::Unavailable), Retry(Cause::Unavailable), Retry(Cause::Unavailable)),
            (Event::Declined(Cause::Internal), End, End),
        ] {
            let policy = RetryPolicy::default();
            assert_eq!(
                (first(&policy, true, event), first(&policy, false, event)),
                (repeatable, not),
                "{event:?}"
            );
        }
    }

    #[test]
    fn failfast_tries_nothing_again_but_what_was_proved_unsent() {
        let policy = policy(Mode::Failfast, 3);
        for event in [
            Event::NotConnected,
            Event::Stale,
            Event::Reset,
            Event::TimedOut,
            status(503),
            Event::Declined(Cause::Unavailable),
        ] {
            assert_eq!(first(&policy, true, event), Next::End, "{event:?}");
        }
        assert_eq!(first(&policy, false, Event::Unsent), Next::Resend);
    }

    #[test]
    fn connections_that_are_left_are_borne_with_a_few_times() {
        let mut history = History::new(false, false);
        let policy = policy(Mode::Failover, 1);
        let next: Vec<Next> = (0..9).map(|_| history.step(&policy, Event::Left, || false)).collect();
        let (resend, retry) = (Next::Resend, Next::Retry(Cause::Connect));
        assert_eq!(next[..8], [resend, resend, resend, retry, resend, resend, resend, Next::End]);
        let mut history = History::new(false, false);
        assert_eq!(history.step(&policy, Event::Left, || false), Next::Resend);
        assert_eq!(history.step(&policy, Event::Unsent, || false), retry, "what is refused is refused");
    }

    #[test]
    fn a_body_that_is_gone_is_not_sent_again() {
        let policy = RetryPolicy::default();
        let lost = |event| {
            let mut history = History::new(true, true);
            history.lose();
            history.step(&policy, event, || true)
        };
        assert_eq!(lost(Event::Reset), Next::End);
        assert_eq!(lost(Event::Stale), Next::End);
        assert_eq!(lost(Event::Declined(Cause::Unavailable)), Next::End);
        assert_eq!(lost(Event::NotConnected), Next::Retry(Cause::Connect));
    }

    #[test]
    fn an_empty_budget_ends_it_but_for_what_was_not_sent() {
        let policy = RetryPolicy::default();
        let step = |event| History::new(true, true).step(&policy, event, || false);
        assert_eq!(step(status(503)), Next::Refused);
        assert_eq!(step(Event::Declined(Cause::Unavailable)), Next::Refused);
        assert_eq!(step(Event::NotConnected), Next::Retry(Cause::Connect));
        assert_eq!(step(Event::Stale), Next::Resend);
    }

    #[test]
    fn a_second_try_beside_the_first_waits_for_the_other_and_may_be_tried_again() {
        let policy = policy(Mode::Failbackup, 1);
        let mut history = History::new(true, true);
        let mut step = |event| history.step(&policy, event, || true);
        assert_eq!(step(Event::BackupDue), Next::Backup);
        assert_eq!(step(Event::BackupDue), Next::Wait);
        assert_eq!(step(status(503)), Next::Wait);
        assert_eq!(step(Event::Reset), Next::Retry(Cause::Reset));
        assert_eq!(step(Event::BackupDue), Next::Wait, "one beside another is enough");
        assert_eq!(step(status(503)), Next::End);
    }

    #[test]
    fn the_first_good_answer_wins_and_the_other_is_nobodys() {
        let policy = policy(Mode::Failbackup, 1);
        let mut history = History::new(true, true);
        assert_eq!(history.step(&policy, Event::BackupDue, || true), Next::Backup);
        assert_eq!(history.step(&policy, status(200), || true), Next::End);
        assert_eq!(history.step(&policy, status(200), || true), Next::Wait);
    }

    fn policies() -> impl Strategy<Value = RetryPolicy> {
        (select(&Mode::ALL[..]), 0..4_u32, any::<[bool; 13]>()).prop_map(|(mode, most, on)| {
            let named = Cause::ALL.into_iter().zip(on).filter(|(_, named)| *named);
            let on: Causes = named.map(|(cause, _)| cause).collect();
            RetryPolicy { on, ..policy(mode, most) }
        })
    }

    fn events() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::NotConnected),
            Just(Event::Unsent),
            Just(Event::Left),
            Just(Event::Stale),
            Just(Event::Reset),
            Just(Event::TimedOut),
            Just(Event::Failed),
            Just(Event::BackupDue),
            select(&[200_u16, 404, 408, 429, 500, 502, 503, 504][..]).prop_map(status),
            select(&Cause::CALLS[..]).prop_map(|(cause, _)| Event::Declined(cause)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Whatever happens in whatever order: a request that must not be repeated is processed once at most, retries stay
        /// within the policy and the budget, there is one answer, and it comes.
        #[test]
        fn no_sequence_of_events_breaks_a_promise(
            policy in policies(),
            repeatable: bool,
            hedgeable: bool,
            loses in prop::option::of(0..8_usize),
            budget in 0..3_u32,
            events in prop::collection::vec(events(), 1..40),
        ) {
            let mut history = History::new(repeatable, repeatable && hedgeable);
            let (mut lost, mut spent, mut retries, mut backups) = (false, 0, 0, 0);
            let (mut running, mut processed, mut ends) = (1_u32, false, 0);
            for (index, event) in events.into_iter().enumerate() {
                if Some(index) == loses {
                    history.lose();
                    lost = true;
                }
                let of_a_try = event != Event::BackupDue;
                if of_a_try && running == 0 {
                    continue;
                }
                let before = spent;
                let next = history.step(&policy, event, || {
                    let left = spent < budget;
                    spent += u32::from(left);
                    left
                });
                if ends > 0 {
                    prop_assert_eq!(next, Next::Wait, "there was an answer");
                    continue;
                }
                if of_a_try {
                    running -= 1;
                }
                let unsent = matches!(event, Event::NotConnected | Event::Unsent | Event::Left);
                processed |= !unsent;
                match next {
                    Next::Resend | Next::Retry(_) => running += 1,
                    Next::Backup => {
                        running += 1;
                        backups += 1;
                        prop_assert!(repeatable && hedgeable && !lost);
                        prop_assert!(policy.mode == Mode::Failbackup && spent == before + 1);
                    }
                    Next::End => ends += 1,
                    Next::Refused if of_a_try => ends += 1,
                    Next::Refused | Next::Wait => {}
                }
                if let Next::Retry(cause) = next {
                    retries += 1;
                    prop_assert!(policy.on.contains(cause));
                    prop_assert_eq!(spent, before + u32::from(!unsent), "what may be processed is in the budget");
                }
                if matches!(next, Next::Resend | Next::Retry(_)) && !unsent {
                    let named = matches!(event, Event::Declined(_));
                    prop_assert!((repeatable || named) && !lost, "sent twice");
                }
                if matches!(event, Event::Answered(code) if matches!(code.as_u16(), 200 | 404 | 408 | 429)) {
                    prop_assert_eq!(next, Next::End);
                }
                prop_assert!(running > 0 || ends == 1, "nobody waits for anything, and there is no answer");
                prop_assert!(running <= 2 && spent <= budget && backups <= 1);
                prop_assert!(retries <= policy.retries());
                prop_assert!(!(processed && running > 1) || repeatable);
            }
        }

        /// A request goes to endpoints a bounded number of times, whatever they do.
        #[test]
        fn tries_are_bounded(policy in policies(), events in prop::collection::vec(events(), 60..80)) {
            let mut history = History::new(true, true);
            let mut sent = 1;
            for event in events {
                if matches!(
                    history.step(&policy, event, || true),
                    Next::Resend | Next::Retry(_) | Next::Backup
                ) {
                    sent += 1;
                }
            }
            // Each, and a few times more over another connection, and the one beside the first.
            prop_assert!(sent <= (1 + LEFT_MOST) * (policy.retries() + 1) + 1);
        }
    }
}

//! How an upstream and a registry stand, in one word, and why.

use std::time::Duration;

use serde::Serialize;

/// Worst first. What nobody knows is never `ok`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// Requests fail.
    Failing,
    /// Nothing was ever heard.
    Unknown,
    /// Requests succeed, and somebody should look.
    Degraded,
    Ok,
}

/// What decides how an upstream stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// Endpoints that are well and get requests.
    pub routable: usize,
    /// All that are in the list.
    pub total: usize,
    pub ejected: usize,
    /// There is a list, be it from disk.
    pub has_list: bool,
    pub panic: bool,
    pub drained: bool,
    pub breaker_open: bool,
    pub unsaved: bool,
    /// Removals that are not believed.
    pub held: usize,
    /// Lately, 0 to 1.
    pub success: Option<f64>,
    /// What is wrong with its sources.
    pub sources: Vec<String>,
}

/// Below this share of successes an upstream fails, and below the next it is not well.
const FAILING: f64 = 0.5;
const DEGRADED: f64 = 0.99;

/// How it stands, and each reason, the worst first.
pub(super) fn judge(facts: &Facts) -> (State, Vec<String>) {
    let mut reasons = Vec::new();
    let mut say = |state: State, reason: String| reasons.push((state, reason));
    if !facts.has_list {
        say(State::Unknown, "no list was ever heard".into());
    } else if facts.drained {
        say(State::Failing, "drained: all instances have weight 0".into());
    } else if facts.total == 0 {
        say(State::Failing, "it has no instances".into());
    } else if facts.routable == 0 {
        say(State::Failing, "no endpoint is well".into());
    }
    if facts.panic {
        say(State::Failing, "so few are well that all get requests".into());
    }
    if facts.breaker_open {
        say(State::Failing, "the breaker refuses requests".into());
    }
    if let Some(success) = facts.success.filter(|success| *success < DEGRADED) {
        let state = if success < FAILING { State::Failing } else { State::Degraded };
        say(state, format!("{} of requests fail", percent(1.0 - success)));
    }
    if facts.ejected > 0 {
        say(State::Degraded, format!("{} taken out", count(facts.ejected, "endpoint")));
    }
    for source in &facts.sources {
        say(State::Degraded, source.clone());
    }
    if facts.held > 0 {
        say(State::Degraded, format!("{} held back", count(facts.held, "removal")));
    }
    if facts.unsaved {
        say(State::Degraded, "the list cannot be saved".into());
    }
    // Stable: of equal ones the order above counts.
    reasons.sort_by_key(|(state, _)| *state);
    let state = reasons.first().map_or(State::Ok, |(state, _)| *state);
    (state, reasons.into_iter().map(|(_, reason)| reason).collect())
}

pub(super) fn count(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// `41 s`, `12 min`, `3 h`, `2 d`.
pub(super) fn period(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        few if few < 10.0 => format!("{few:.1} %"),
        many => format!("{many:.0} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Facts {
        Facts { routable: 3, total: 3, has_list: true, success: Some(1.0), ..Facts::default() }
    }

    fn check(facts: Facts, state: State, reasons: &[&str]) {
        assert_eq!(judge(&facts), (state, reasons.iter().map(|reason| reason.to_string()).collect()));
    }

    #[test]
    fn the_worst_fact_decides_and_all_are_told() {
        check(well(), State::Ok, &[]);
        check(Facts { success: None, ..well() }, State::Ok, &[]);
        check(Facts { ejected: 1, ..well() }, State::Degraded, &["1 endpoint taken out"]);
        check(
            Facts { ejected: 2, routable: 0, sources: vec!["main is silent".into()], ..well() },
            State::Failing,
            &["no endpoint is well", "2 endpoints taken out", "main is silent"],
        );
        check(Facts { routable: 0, total: 0, ..well() }, State::Failing, &["it has no instances"]);
        check(Facts { success: Some(0.4), ..well() }, State::Failing, &["60 % of requests fail"]);
        check(Facts { success: Some(0.98), ..well() }, State::Degraded, &["2.0 % of requests fail"]);
        check(Facts { held: 2, ..well() }, State::Degraded, &["2 removals held back"]);
    }

    #[test]
    fn what_nobody_knows_is_not_well() {
        let facts = Facts { sources: vec!["main is silent".into()], ..Facts::default() };
        check(facts, State::Unknown, &["no list was ever heard", "main is silent"]);
        let drained = Facts { routable: 0, drained: true, ..well() };
        check(drained, State::Failing, &["drained: all instances have weight 0"]);
    }

    #[test]
    fn periods_are_short() {
        for (seconds, text) in [(0, "0 s"), (119, "119 s"), (185, "3 min"), (7_200, "2 h"), (172_800, "2 d")]
        {
            assert_eq!(period(Duration::from_secs(seconds)), text);
        }
    }
}

//! How all of it stands, in one line.

use serde::Serialize;

use super::state::{State, count};

#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Verdict {
    pub state: State,
    pub text: String,
}

/// Services named in the line; the rest is counted.
const NAMED: usize = 3;

/// `services` are their names and states, the worst first; `complaints` what is wrong with anything else.
pub(super) fn verdict(readiness: &str, services: &[(&str, State)], complaints: Vec<String>) -> Verdict {
    let those = |state| services.iter().filter(move |(_, of)| *of == state).map(|(name, _)| *name);
    let (failing, unknown) = (those(State::Failing).count(), those(State::Unknown).count());
    let (served, all) = (services.len() - failing - unknown, services.len());
    let mut parts = Vec::new();
    match readiness {
        "starting" => parts.push("the gateway is starting".to_owned()),
        "draining" => parts.push("the gateway is shutting down".to_owned()),
        _ => {}
    }
    match all {
        // They are not looked for yet.
        0 if readiness == "starting" => {}
        // None is configured, or nobody has asked for one by its name.
        0 => parts.push("no services are known".into()),
        1 if served == 1 => parts.push("the one service is served".into()),
        _ if served == all => parts.push(format!("all {all} services served")),
        _ => parts.push(format!("{served} of {} served", count(all, "service"))),
    }
    for (state, word) in [(State::Failing, "failing"), (State::Unknown, "unknown")] {
        let names: Vec<&str> = those(state).take(NAMED).collect();
        let more = those(state).count() - names.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        if !names.is_empty() {
            parts.push(format!("{word}: {}{more}", names.join(", ")));
        }
    }
    let worst = services.iter().map(|(_, state)| *state).min();
    let state = match (worst, complaints.is_empty()) {
        (Some(State::Failing), _) => State::Failing,
        _ if readiness == "starting" => State::Unknown,
        (None, true) => State::Unknown,
        (Some(State::Unknown), true) if unknown == all => State::Unknown,
        (Some(State::Ok), true) if readiness == "ready" => State::Ok,
        _ => State::Degraded,
    };
    parts.extend(complaints);
    Verdict { state, text: parts.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(services: &[(&str, State)], complaints: &[&str], state: State, text: &str) {
        let complaints = complaints.iter().map(|text| text.to_string()).collect();
        let expected = Verdict { state, text: text.into() };
        assert_eq!(verdict("ready", services, complaints), expected);
    }

    #[test]
    fn who_starts_does_not_say_that_there_are_no_services() {
        let text = |readiness| verdict(readiness, &[], Vec::new()).text;
        assert_eq!(text("starting"), "the gateway is starting");
        assert_eq!(text("ready"), "no services are known");
    }

    #[test]
    fn the_line_says_what_serves_and_what_is_wrong() {
        use State::{Degraded, Failing, Ok, Unknown};
        check(&[("a", Ok), ("b", Ok)], &[], Ok, "all 2 services served");
        check(&[("a", Degraded), ("b", Ok)], &[], Degraded, "all 2 services served");
        let silent = "etcd main silent for 3 min, lists frozen";
        check(
            &[("a", Ok), ("b", Ok)],
            &[silent],
            Degraded,
            "all 2 services served; etcd main silent for 3 min, lists frozen",
        );
        let five = [("a", Failing), ("b", Failing), ("c", Failing), ("d", Failing), ("e", Unknown)];
        check(&five, &[], Failing, "0 of 5 services served; failing: a, b, c and 1 more; unknown: e");
        check(&[("a", Unknown), ("b", Ok)], &[], Degraded, "1 of 2 services served; unknown: a");
        check(&[("a", Ok)], &[], Ok, "the one service is served");
    }

    #[test]
    fn what_nobody_knows_is_not_well() {
        let check = |readiness, services: &[(&str, State)], state| {
            assert_eq!(verdict(readiness, services, Vec::new()).state, state);
        };
        check("ready", &[], State::Unknown);
        check("ready", &[("a", State::Unknown)], State::Unknown);
        check("starting", &[("a", State::Ok)], State::Unknown);
        check("draining", &[("a", State::Ok)], State::Degraded);
    }
}

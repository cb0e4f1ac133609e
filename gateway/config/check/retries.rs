//! How requests are tried again.

use std::time::Duration;

use super::Checker;
use crate::{
    config::{file, running::RouteRetries},
    document::{NumberOr, Way, similar},
    resilience::{BackupAfter, Cause, Causes, Mode},
};

const MOST: u64 = 10;

/// More is kept for no request: every one that is under way may hold so much.
const LONGEST_REPLAY: u64 = 16 << 20;

/// What stands for the percentile in the place of a number.
const P95: &str = "p95";

impl Checker<'_> {
    /// What is written of retries; the rest is left to whoever is asked next.
    pub(super) fn retries(&mut self, way: &Way, retries: Option<&file::Tries>) -> RouteRetries {
        match retries {
            None => RouteRetries::default(),
            Some(NumberOr::Number(most)) => {
                let (mode, most) = (Some(Mode::Failover), Some(self.count(way, *most, 0..=MOST) as u32));
                RouteRetries { mode, most, ..RouteRetries::default() }
            }
            Some(NumberOr::Table(table)) => self.retries_in_full(way, table),
        }
    }

    fn retries_in_full(&mut self, way: &Way, table: &file::Retries) -> RouteRetries {
        let file::Retries { mode, most, on, budget, budget_min, per_try_ms, backup_after_ms, replay_bytes } =
            table;
        let mut count = |key, number: &Option<u64>, most| {
            number.map(|number| self.count(&way.key(key), number, 0..=most))
        };
        let most = count("most", most, MOST);
        let budget_min = count("budget_min", budget_min, 1_000_000);
        let replay_bytes = count("replay_bytes", replay_bytes, LONGEST_REPLAY);
        RouteRetries {
            mode: mode.as_ref().and_then(|mode| self.mode(&way.key("mode"), mode)),
            most: most.map(|most| most as u32),
            on: on.as_ref().map(|on| self.causes(&way.key("on"), on)),
            budget: budget.map(|share| self.share_of(&way.key("budget"), share)),
            budget_min: budget_min.map(|least| least as u32),
            per_try: per_try_ms.map(|limit| self.limit_ms(&way.key("per_try_ms"), limit)),
            backup_after: backup_after_ms
                .as_ref()
                .and_then(|after| self.backup_after(&way.key("backup_after_ms"), after)),
            replay_bytes,
        }
    }

    fn mode(&mut self, way: &Way, name: &str) -> Option<Mode> {
        let mode = Mode::ALL.into_iter().find(|mode| mode.as_str() == name);
        if mode.is_none() {
            let hint = similar::hint(name, Mode::ALL.map(Mode::as_str));
            self.wrong(way, format!("there is no mode {name:?}")).hint_if_any(hint);
        }
        mode
    }

    fn causes(&mut self, way: &Way, names: &[String]) -> Causes {
        names.iter().enumerate().filter_map(|(index, name)| self.cause(&way.index(index), name)).collect()
    }

    fn cause(&mut self, way: &Way, name: &str) -> Option<Cause> {
        let mut named = Cause::ALL.into_iter().filter(|cause| *cause != Cause::Stale);
        let cause = named.clone().find(|cause| cause.as_str() == name);
        if cause.is_none() {
            let message = format!("{name:?} is nothing after which a request is tried again");
            let hint = match name {
                "408" | "429" => Some("whoever asks for less is not asked again at once".into()),
                number if let Some(call) = number.parse().ok().and_then(Cause::of_call) => {
                    Some(format!("that status of gRPC is written {:?}", call.as_str()))
                }
                _ => similar::hint(name, named.by_ref().map(Cause::as_str)),
            };
            self.wrong(way, message).hint_if_any(hint);
        }
        cause
    }

    fn backup_after(&mut self, way: &Way, after: &file::BackupAfter) -> Option<BackupAfter> {
        match after {
            file::BackupAfter::Milliseconds(0) => Some(BackupAfter::Time(Duration::ZERO)),
            file::BackupAfter::Milliseconds(time) => Some(BackupAfter::Time(self.duration_ms(way, *time))),
            file::BackupAfter::Percentile(text) if text == P95 => Some(BackupAfter::P95),
            file::BackupAfter::Percentile(text) => {
                self.wrong(way, format!("{text:?} is no time"))
                    .hint(format!("write milliseconds, or {P95:?}"));
                None
            }
        }
    }
}

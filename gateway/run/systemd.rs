//! What systemd is told, where it runs the gateway with a socket for that (`Type=notify`); elsewhere nothing.

use std::{sync::Arc, time::Duration};

use sd_notify::NotifyState;

use crate::{
    config::Shutdown,
    telemetry::{ProcessMetrics, Readiness},
};

/// What the end takes beside the times of the configuration.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// It starts, and says what that takes.
pub(super) fn starting() {
    tell(&[NotifyState::Status("Starting: plugins are compiled, lists are fetched")]);
}

/// It serves.
pub(super) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("Serving")]);
}

/// It does what it was asked for, until [`reloaded`].
pub(super) fn reloading() {
    // Without the time systemd would take it for an answer to something else.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now, NotifyState::Status("Reloading")]),
        Err(error) => tracing::debug!(%error, "Systemd is not told of a reload"),
    }
}

/// That is done, with this outcome, and it serves on.
pub(super) fn reloaded(outcome: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&in_one_line(outcome))]);
}

/// Another process is the one that counts.
pub(super) fn handed_over(pid: u32) {
    // A sign of life, too: the other one begins to give them half of the time later.
    let served = NotifyState::Status("Serving");
    tell(&[NotifyState::Watchdog, NotifyState::MainPid(pid), NotifyState::Ready, served]);
}

/// It ends, which may take that long.
pub(super) fn stopping(shutdown: Shutdown) {
    let longest = (shutdown.delay + shutdown.drain + LAST_WORDS).as_micros();
    tell(&[
        NotifyState::Stopping,
        NotifyState::ExtendTimeoutUsec(u32::try_from(longest).unwrap_or(u32::MAX)),
        NotifyState::Status("Stopping: clients finish"),
    ]);
}

/// Says that the gateway lives as long as all its workers come round to something new, as often as systemd wants it.
pub(super) async fn watchdog(metrics: Arc<ProcessMetrics>, readiness: Readiness) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    loop {
        tokio::time::sleep(limit / 2).await;
        // Workers end one after the other when all of it does.
        if metrics.workers_answer().await || readiness.is_draining() {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "Systemd was not told");
    }
}

/// A line end would begin another assignment.
fn in_one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line_whatever_it_says() {
        assert_eq!(in_one_line("only a restart\n  MAINPID=1\r\n"), "only a restart MAINPID=1");
    }
}

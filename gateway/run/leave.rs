//! How the gateway ends: clients finish what they have begun.

use std::time::Duration;

use tokio::sync::watch;

use super::signals::Signals;
use crate::{config, server::Workers, worker::Serving};

/// How long it is waited until workers have heard that they are to leave.
const HEARD: Duration = Duration::from_secs(1);

/// Waits the delay, closes the listeners, and waits until the workers have ended or somebody asks again.
pub(super) async fn drain(
    shutdown: config::Shutdown,
    signals: &mut Signals,
    serving: watch::Sender<Serving>,
    workers: Workers,
) {
    let config::Shutdown { delay, drain } = shutdown;
    tracing::info!(?delay, ?drain, "Shutting down");
    serving.send_modify(|serving| serving.lineup.leaving = true);
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        () = signals.stop() => {}
    }
    serving.send_modify(|serving| serving.lineup.close(drain));
    // Nothing else will come.
    drop(serving);
    let ended = tokio::task::spawn_blocking(move || workers.join());
    tokio::select! {
        _ = ended => {}
        () = signals.stop() => tracing::warn!("Asked again, not waiting for open connections"),
    }
}

/// Has the workers let their clients finish where a new process has taken over: when this returns each has heard of it, and
/// says with every answer that its connection closes. One that is busy for longer hears of it later.
pub(super) async fn hand_over(shutdown: config::Shutdown, serving: &watch::Sender<Serving>, workers: usize) {
    let mut heard = None;
    serving.send_modify(|serving| heard = Some(serving.lineup.hand_over(shutdown.drain)));
    let Some(heard) = heard else { return };
    let all = heard.acquire_many(u32::try_from(workers).unwrap_or(u32::MAX));
    let _ = tokio::time::timeout(HEARD, all).await;
}

/// Waits until the workers have ended after [`hand_over`], or somebody asks twice.
pub(super) async fn to_successor(signals: &mut Signals, serving: watch::Sender<Serving>, workers: Workers) {
    // Nothing else will come.
    drop(serving);
    let ended = tokio::task::spawn_blocking(move || workers.join());
    let asked_twice = async {
        // The first may be for both processes.
        signals.stop().await;
        signals.stop().await;
    };
    tokio::select! {
        _ = ended => {}
        () = asked_twice => tracing::warn!("Asked again, not waiting for open connections"),
    }
}

//! How the gateway ends: clients finish what they have begun.

use tokio::sync::watch;

use super::signals::Signals;
use crate::{config, server::Workers, worker::Serving};

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

/// Lets clients finish where a new process has taken over.
pub(super) async fn to_successor(
    shutdown: config::Shutdown,
    signals: &mut Signals,
    serving: watch::Sender<Serving>,
    workers: Workers,
) {
    serving.send_modify(|serving| serving.lineup.hand_over(shutdown.drain));
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

//! What signals ask of the gateway.

use std::{io, sync::Weak};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::telemetry::access::AccessLogs;

/// Opens access logs anew with each SIGUSR1, as whoever has moved them away asks for.
pub(super) async fn reopen_logs(logs: Weak<AccessLogs>) {
    let Ok(mut asked) = signal(SignalKind::user_defined1()) else { return };
    while asked.recv().await.is_some() {
        if let Some(logs) = logs.upgrade() {
            logs.reopen();
        }
    }
}

/// SIGUSR1 does nothing before there are logs, and SIGUSR2 nothing where no file is followed. Their default is to end
/// the process.
pub(super) fn ignore() -> io::Result<()> {
    for kind in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
        // Who takes a signal once takes it for the life of the process.
        drop(signal(kind)?);
    }
    Ok(())
}

/// What asks the process to stop.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// What comes of `phase`; none if it is time to stop before.
    pub(super) async fn unless_stopped<T>(&mut self, phase: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = phase => Some(done),
            () = self.stop() => None,
        }
    }

    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

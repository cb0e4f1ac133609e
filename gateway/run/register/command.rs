//! The command beside which its service is announced, and the signals that are meant for it.

use std::{
    ffi::OsString,
    future::poll_fn,
    io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{self, Child, ExitStatus},
    task::Poll,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{
    signal::unix::{self, SignalKind, signal},
    time::timeout,
};

/// How long a command may take to end that was told to because it is of no use.
const ENDING: Duration = Duration::from_secs(10);

/// What a shell says of a command that a signal has ended: this and the number of the signal.
const BY_SIGNAL: u8 = 128;

/// What happened to the command, or is wanted of it.
pub(super) enum Event {
    /// With its exit code.
    Ended(u8),
    /// Somebody asks for the end.
    Stop(Signal),
}

/// A command and its signals; or signals alone. Dropped, the command is killed.
pub(super) struct Command {
    child: Option<Child>,
    ended: unix::Signal,
    signals: Vec<(Signal, unix::Signal)>,
}

impl Command {
    /// From now on no signal that can be handed on ends this process.
    pub fn none() -> io::Result<Self> {
        let of = |one: Signal| Ok((one, signal(SignalKind::from_raw(one.as_raw()))?));
        let signals = [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP, Signal::USR1, Signal::USR2];
        let signals = signals.into_iter().map(of).collect::<io::Result<_>>()?;
        Ok(Self { child: None, ended: signal(SignalKind::child())?, signals })
    }

    /// In a process group of its own, so that what a terminal sends comes here first.
    pub fn start(&mut self, program: &OsString, arguments: &[OsString]) -> io::Result<()> {
        let mut command = process::Command::new(program);
        self.child = Some(command.args(arguments).process_group(0).spawn()?);
        Ok(())
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Waits until it has ended or is to end. All other signals are handed on. Nothing is lost when this is dropped.
    pub async fn next(&mut self) -> Event {
        loop {
            // Looked at before the signal is waited for: many ends may come as one signal.
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                return Event::Ended(code(status));
            }
            let Self { ended, signals, .. } = &mut *self;
            let signal = tokio::select! {
                _ = ended.recv() => continue,
                signal = first(signals) => signal,
            };
            match signal {
                Signal::TERM | Signal::INT | Signal::QUIT => return Event::Stop(signal),
                // For somebody without a command the terminal is gone.
                Signal::HUP if self.child.is_none() => return Event::Stop(signal),
                other => self.hand_on(other),
            }
        }
    }

    /// Waits until a signal asks for the end, for one whose command has ended.
    pub async fn stopped(&mut self) {
        loop {
            match first(&mut self.signals).await {
                Signal::TERM | Signal::INT | Signal::QUIT => return,
                Signal::HUP if self.child.is_none() => return,
                _ => {}
            }
        }
    }

    /// Hands a signal on, and whatever signals follow, and waits for the end: the exit code, 0 without a command.
    pub async fn stop(&mut self, signal: Signal) -> u8 {
        if self.child.is_none() {
            return 0;
        }
        self.hand_on(signal);
        loop {
            match self.next().await {
                Event::Ended(code) => return code,
                Event::Stop(signal) => self.hand_on(signal),
            }
        }
    }

    /// Ends a command that is of no use, whether it wants or not.
    pub async fn end(&mut self) {
        let _ = timeout(ENDING, self.stop(Signal::TERM)).await;
    }

    fn hand_on(&mut self, signal: Signal) {
        // A process that nobody has waited for keeps its number, so that nobody else gets the signal.
        if !self.is_running() {
            return;
        }
        let pid = self.child.as_ref().and_then(|child| Pid::from_raw(child.id().try_into().ok()?));
        let Some(pid) = pid else { return };
        let sent = match signal {
            // A terminal sends these to all who work for the command, too.
            Signal::INT | Signal::QUIT => kill_process_group(pid, signal),
            _ => kill_process(pid, signal),
        };
        if let Err(error) = sent {
            tracing::warn!(?signal, %error, "Signal not handed on");
        }
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // One that has ended already is no mistake.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits for whichever comes first.
async fn first(signals: &mut [(Signal, unix::Signal)]) -> Signal {
    poll_fn(|context| {
        let came = |(name, signal): &mut (Signal, unix::Signal)| {
            signal.poll_recv(context).is_ready().then_some(*name)
        };
        signals.iter_mut().find_map(came).map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

fn code(status: ExitStatus) -> u8 {
    let by_signal = || status.signal().map(|signal| i32::from(BY_SIGNAL) + signal);
    let code = status.code().or_else(by_signal);
    code.and_then(|code| code.try_into().ok()).unwrap_or(u8::MAX)
}

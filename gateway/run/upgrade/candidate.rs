//! A new process, as the old one sees it, until it has taken over or come to nothing.

use std::{
    io::{self, ErrorKind},
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    process::{Child, ExitStatus, Stdio},
    time::Duration,
};

use tokio::time::{sleep, timeout};

use super::{Program, SocketOf, ToPredecessor, ToSuccessor, VARIABLE, VERSION, channel, channel::Channel};

/// How long a process that said it is ready may take to accept.
const TAKING_OVER: Duration = Duration::from_secs(10);

/// How long a process may take to end once it says nothing any more, and how often it is looked whether it has.
const ENDING: Duration = Duration::from_secs(1);
const LOOK_WHETHER_ENDED: Duration = Duration::from_millis(10);

/// Systemd's variable for the process that is to show that it works. The new process is another one.
const WATCHDOG: &str = "WATCHDOG_PID";

/// Why no new process took over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeError {
    #[error("this is process 1 of its container, which ends with it: exchange the container")]
    First,
    #[error("cannot start {program}: {error}")]
    Start { program: PathBuf, error: io::Error },
    #[error("the new process ended ({0}); it has said why")]
    Ended(ExitStatus),
    #[error("the new process was not ready within {0:?} (upgrade.timeout_ms)")]
    NotReady(Duration),
    #[error("the new process did not accept within {0:?}")]
    NotServing(Duration),
    #[error("cannot speak with the new process: {0}")]
    Channel(io::Error),
    #[error("cannot pass on what is registered: {0}")]
    Registry(String),
}

/// What a new process gets.
pub(super) struct Passed {
    pub sockets: Vec<(SocketOf, OwnedFd)>,
    pub upstreams: Vec<String>,
    pub registry: Vec<u8>,
}

/// It is killed when this is dropped before it has taken over.
#[derive(Debug)]
pub(super) struct Candidate {
    child: Child,
    channel: Channel,
    established: bool,
}

impl Candidate {
    /// Starts the program and waits until it could take over. Also says the numbers of the sockets that it takes.
    pub(super) async fn start(
        program: &Program,
        passed: Passed,
        limit: Duration,
    ) -> Result<(Self, Vec<usize>), UpgradeError> {
        if std::process::id() == 1 {
            return Err(UpgradeError::First);
        }
        let start = |error| UpgradeError::Start { program: program.path().to_owned(), error };
        let (channel, theirs) = Channel::pair().map_err(start)?;
        let mut command = program.command();
        command.env(VARIABLE, std::process::id().to_string()).env_remove(WATCHDOG).stdin(Stdio::from(theirs));
        let child = command.spawn().map_err(start)?;
        // The other end is in there.
        drop(command);
        let mut candidate = Self { child, channel, established: false };
        let ready = timeout(limit, candidate.prepare(passed)).await;
        match ready.unwrap_or(Err(UpgradeError::NotReady(limit))) {
            Ok(taken) => Ok((candidate, taken)),
            Err(error) => Err(candidate.reason(error).await),
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    async fn prepare(&self, passed: Passed) -> Result<Vec<usize>, UpgradeError> {
        let Passed { sockets, upstreams, registry } = passed;
        self.send_with(&ToSuccessor::Registry { version: VERSION }, &registry).await?;
        for name in upstreams {
            self.send(&ToSuccessor::Upstream(name), None).await?;
        }
        for (number, (of, socket)) in sockets.into_iter().enumerate() {
            self.send(&ToSuccessor::Socket { number, of }, Some(socket)).await?;
        }
        self.send(&ToSuccessor::Complete, None).await?;
        match self.receive().await? {
            ToPredecessor::Ready { taken } => Ok(taken),
            ToPredecessor::Serving => Err(unexpected()),
        }
    }

    /// Has it accept, with what is registered now, and waits until it does.
    pub(super) async fn take_over(&mut self, registry: &[u8]) -> Result<(), UpgradeError> {
        let serves = async {
            self.send_with(&ToSuccessor::TakeOver, registry).await?;
            match self.receive().await? {
                ToPredecessor::Serving => Ok(()),
                ToPredecessor::Ready { .. } => Err(unexpected()),
            }
        };
        let served = timeout(TAKING_OVER, serves).await.unwrap_or(Err(UpgradeError::NotServing(TAKING_OVER)));
        match served {
            Ok(()) => {
                self.established = true;
                Ok(())
            }
            Err(error) => Err(self.reason(error).await),
        }
    }

    async fn send_with(&self, message: &ToSuccessor, text: &[u8]) -> Result<(), UpgradeError> {
        let file = channel::file_of(text).map_err(UpgradeError::Channel)?;
        self.send(message, Some(file)).await
    }

    async fn send(&self, message: &ToSuccessor, descriptor: Option<OwnedFd>) -> Result<(), UpgradeError> {
        let descriptor = descriptor.as_ref().map(|descriptor| descriptor.as_fd());
        self.channel.send(message, descriptor).await.map_err(UpgradeError::Channel)
    }

    async fn receive(&self) -> Result<ToPredecessor, UpgradeError> {
        Ok(self.channel.receive().await.map_err(UpgradeError::Channel)?.0)
    }

    /// Why nothing came of it: that it ended, if it did.
    async fn reason(&mut self, error: UpgradeError) -> UpgradeError {
        if !matches!(error, UpgradeError::Channel(_)) {
            return error;
        }
        let ended = async {
            loop {
                if let Ok(Some(status)) = self.child.try_wait() {
                    return status;
                }
                sleep(LOOK_WHETHER_ENDED).await;
            }
        };
        timeout(ENDING, ended).await.map_or(error, UpgradeError::Ended)
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        if !self.established {
            // One that has ended already is no mistake. A process that is killed is gone at once.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn unexpected() -> UpgradeError {
    UpgradeError::Channel(io::Error::new(ErrorKind::InvalidData, "it said something out of turn"))
}

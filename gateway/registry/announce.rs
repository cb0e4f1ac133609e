//! The task that keeps one instance announced: it owns the timer, and announces again what was lost.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{self, Instant},
};

use super::{BoxFuture, Failure};
use crate::backoff::{Backoff, Lasting};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Whoever asks to be called again at once is not.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// How long a withdrawal may take, and with it the heartbeat that it waits for: a call into a plugin that is cancelled
/// ends its instance, which would forget what to withdraw. What is not withdrawn ends with its lease.
const WITHDRAWAL: Duration = Duration::from_secs(5);

/// What is announced outlives no more heartbeats than these. Plugins ask for three in its time to live, that of mDNS for
/// twelve.
const HEARTBEATS: u32 = 12;

/// A registry in which one instance is announced.
pub trait Registrar: Send + 'static {
    /// Announces the instance. What was announced before is forgotten.
    fn register(&mut self) -> BoxFuture<'_, Result<(), Failure>>;

    /// Keeps it announced, and says when to do so again. After [`Failure::Plugin`] it is to be registered anew.
    fn renew(&mut self) -> BoxFuture<'_, Result<Duration, Failure>>;

    fn withdraw(&mut self) -> BoxFuture<'_, Result<(), Failure>>;

    /// Waits until another version of what is behind this is in force than the one that registered last.
    fn changed(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

/// How an announcement fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Not announced yet.
    Starting,
    Announced,
    /// Tried again after a pause.
    Failing(Failure),
}

/// An instance that is announced for as long as this lives. Dropping it withdraws nothing.
pub struct Registration {
    registry: Arc<str>,
    service: String,
    standing: watch::Receiver<Standing>,
    withdraw: oneshot::Sender<()>,
    /// Tells at its end whether nothing is announced any more, for all that is known.
    task: JoinHandle<bool>,
}

impl Registration {
    /// The names are for the log. Must be called on a runtime.
    pub fn start(registry: Arc<str>, service: String, registrar: impl Registrar) -> Self {
        let (tell, standing) = watch::channel(Standing::Starting);
        let (withdraw, withdrawn) = oneshot::channel();
        let announcer = Announcer {
            registry: registry.clone(),
            service: service.clone(),
            registrar,
            tell,
            failing: Lasting::default(),
            heartbeat: None,
            left: None,
        };
        let task = tokio::spawn(announcer.run(withdrawn));
        Self { registry, service, standing, withdraw, task }
    }

    /// Tells how the announcement fares, now and whenever that changes.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Takes the announcement back, and says whether nothing is announced any more, which is not so either where that may
    /// have been done by what cannot withdraw it. Waits for the registry, five seconds at most, whatever it is asked
    /// meanwhile.
    pub async fn withdraw(mut self) -> bool {
        let (unused, _) = oneshot::channel();
        // The task is gone only if it panicked, and that has been reported.
        let _ = std::mem::replace(&mut self.withdraw, unused).send(());
        match time::timeout(WITHDRAWAL, &mut self.task).await {
            Ok(withdrawn) => withdrawn.unwrap_or(false),
            Err(_) => {
                let (registry, service) = (&self.registry, &self.service);
                tracing::warn!(%registry, service, waited = ?WITHDRAWAL, "Withdrawal took too long");
                false
            }
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Announcer<R> {
    registry: Arc<str>,
    service: String,
    registrar: R,
    tell: watch::Sender<Standing>,
    failing: Lasting,
    /// Between the last two.
    heartbeat: Option<Duration>,
    /// When the last announcement was lost that may be in the registry although nothing here can withdraw it: that of an
    /// instance of a plugin that has ended, or one whose answer did not arrive.
    left: Option<Instant>,
}

impl<R: Registrar> Announcer<R> {
    async fn run(mut self, mut withdrawn: oneshot::Receiver<()>) -> bool {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let failure = match self.announce(&mut backoff, &mut withdrawn).await {
                Ok(withdrawn) => return withdrawn,
                Err(failure) => failure,
            };
            // A registry that says no has nothing.
            if !matches!(failure, Failure::Denied(_) | Failure::Invalid(_)) {
                self.left = Some(Instant::now());
            }
            self.failed(failure);
            tokio::select! {
                () = time::sleep(backoff.pause()) => {}
                // Another version may be the cure.
                () = self.registrar.changed() => backoff.reset(),
                _ = &mut withdrawn => return self.nothing_is_left(),
            }
        }
    }

    /// Announces, and keeps the announcement alive until it is withdrawn or has to be made anew. Says whether the
    /// withdrawal was done.
    async fn announce(
        &mut self,
        backoff: &mut Backoff,
        withdrawn: &mut oneshot::Receiver<()>,
    ) -> Result<bool, Failure> {
        self.registrar.register().await?;
        loop {
            let pause = match self.registrar.renew().await {
                Ok(next) => {
                    backoff.works();
                    self.heartbeat = Some(next);
                    self.announced();
                    next.max(SHORTEST_INTERVAL)
                }
                Err(failure @ Failure::Plugin(_)) => return Err(failure),
                Err(failure) => {
                    self.failed(failure);
                    backoff.pause()
                }
            };
            tokio::select! {
                () = time::sleep(pause) => {}
                _ = &mut *withdrawn => return Ok(self.withdraw().await),
            }
        }
    }

    async fn withdraw(&mut self) -> bool {
        let withdrawal = self.registrar.withdraw().await;
        if let Err(error) = &withdrawal {
            let (registry, service) = (&self.registry, &self.service);
            tracing::warn!(%registry, service, %error, "Withdrawal failed");
        }
        withdrawal.is_ok() && self.nothing_is_left()
    }

    /// If something may be, it is told how long.
    fn nothing_is_left(&self) -> bool {
        let Some(since) = self.left else { return true };
        let lives = self.heartbeat.map(|heartbeat| heartbeat.saturating_mul(HEARTBEATS));
        if lives.is_some_and(|lives| since.elapsed() > lives) {
            return true;
        }
        let (registry, service) = (&self.registry, &self.service);
        let for_seconds = lives.map(|lives| lives.saturating_sub(since.elapsed()).as_secs() + 1);
        tracing::warn!(%registry, service, for_seconds, "Not withdrawn: it may be announced until its time to live ends");
        false
    }

    fn announced(&mut self) {
        let (registry, service) = (&self.registry, &self.service);
        if let Some(lasted) = self.failing.over() {
            tracing::info!(%registry, service, for_seconds = lasted.for_seconds, "Announced again");
        }
        self.tell.send_replace(Standing::Announced);
    }

    fn failed(&mut self, failure: Failure) {
        let (registry, service) = (&self.registry, &self.service);
        if let Some(lasts) = self.failing.met(&failure.to_string()) {
            tracing::warn!(%registry, service, error = %failure, for_seconds = lasts.for_seconds,
                times = lasts.times, "Announcement failed, trying again");
        }
        self.tell.send_replace(Standing::Failing(failure));
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    /// Does what it is told to, one thing for each call.
    struct Scripted(mpsc::UnboundedReceiver<Result<(), Failure>>);

    impl Scripted {
        async fn next(&mut self) -> Result<(), Failure> {
            match self.0.recv().await {
                Some(step) => step,
                None => std::future::pending().await,
            }
        }
    }

    impl Registrar for Scripted {
        fn register(&mut self) -> BoxFuture<'_, Result<(), Failure>> {
            Box::pin(self.next())
        }

        fn renew(&mut self) -> BoxFuture<'_, Result<Duration, Failure>> {
            Box::pin(async { self.next().await.map(|()| Duration::from_secs(5)) })
        }

        fn withdraw(&mut self) -> BoxFuture<'_, Result<(), Failure>> {
            Box::pin(self.next())
        }
    }

    fn script(steps: Vec<Result<(), Failure>>) -> Registration {
        let (tell, told) = mpsc::unbounded_channel();
        for step in steps {
            tell.send(step).unwrap();
        }
        Registration::start("main".into(), "orders".into(), Scripted(told))
    }

    fn trap() -> Result<(), Failure> {
        Err(Failure::Plugin("trap".into()))
    }

    fn lost() -> Result<(), Failure> {
        Err(Failure::Unavailable("no answer".into()))
    }

    /// Steps, the last standing that comes of them, and whether it counts as withdrawn then.
    #[tokio::test(start_paused = true)]
    async fn what_may_still_be_announced_does_not_count_as_withdrawn() {
        let denied = || Err(Failure::Denied("no".into()));
        for (steps, announced, withdrawn) in [
            (vec![Ok(()), Ok(()), Ok(())], true, true),
            (vec![Ok(()), Ok(()), lost()], true, false),
            (vec![Ok(()), trap()], false, false),
            (vec![lost()], false, false),
            (vec![denied()], false, true),
            // The next has taken its place, in the registry or beside it.
            (vec![lost(), Ok(()), Ok(()), Ok(())], true, false),
        ] {
            let text = format!("{steps:?}");
            let registration = script(steps);
            let mut standing = registration.standing();
            let reached = |standing: &Standing| match announced {
                true => *standing == Standing::Announced,
                false => matches!(standing, Standing::Failing(_)),
            };
            standing.wait_for(reached).await.unwrap();
            assert_eq!(registration.withdraw().await, withdrawn, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_left_is_gone_when_its_time_to_live_is_over() {
        // Lost at once, announced again within a second, and renewed every five.
        for (seconds, gone) in [(58, false), (62, true)] {
            let mut steps = vec![Ok(()), trap()];
            // The register, a renewal for each heartbeat, and the withdrawal.
            steps.extend((0..15).map(|_| Ok(())));
            let registration = script(steps);
            time::sleep(Duration::from_secs(seconds)).await;
            assert_eq!(registration.withdraw().await, gone, "{seconds}");
        }
    }
}

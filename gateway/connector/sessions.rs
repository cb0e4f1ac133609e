//! One session with a registry for everything that follows it, and how another one comes to take its place.
//!
//! A session is with one server; the next is with the next. Who asks gets the session in use, however many ask.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::lock;
use crate::{
    backoff::{Backoff, Lasting, Report},
    registry::Failure,
};

/// Pauses between attempts to connect, however many ask: each of them has its own pauses beside.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// That a session is not to be used any more.
#[derive(Clone, Default)]
pub(super) struct Ended(Arc<AtomicBool>);

impl Ended {
    /// What is asked next takes another session. Those who use this one may go on.
    pub fn set(&self) {
        self.0.store(true, Relaxed);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }
}

pub(super) trait Session {
    fn ended(&self) -> &Ended;
}

/// Gives out the session that works, and makes another when it does not.
pub(super) struct Sessions<S> {
    endpoints: Vec<String>,
    /// Held by those who use it, so that an unused connection closes.
    current: Mutex<Weak<S>>,
    attempts: tokio::sync::Mutex<Attempts>,
}

struct Attempts {
    /// The endpoint to try first.
    first: usize,
    /// Whether the last session has ended for a reason, and not because nobody needed it.
    ended: Ended,
    failed: Option<(Instant, Failure)>,
    backoff: Backoff,
    /// When the next attempt may be made.
    due: Instant,
    connected: Lasting,
}

impl<S: Session> Sessions<S> {
    /// Contacts nobody yet.
    pub fn new(endpoints: Vec<String>) -> Self {
        // Many gateways start at once after an outage; not all of them with the first member.
        let first = fastrand::usize(..endpoints.len().max(1));
        let attempts = Attempts {
            first,
            ended: Ended::default(),
            failed: None,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            due: Instant::now(),
            connected: Lasting::default(),
        };
        Self { endpoints, current: Mutex::default(), attempts: tokio::sync::Mutex::new(attempts) }
    }

    /// The session in use, or a new one.
    ///
    /// Many may ask at once; one connects, and all get its session or its failure. Soon after a failure, and after a
    /// session that ended soon, that one waits first. `connected` hears of the endpoint of a new session, when that is
    /// worth a line in the log.
    pub async fn get<F>(
        &self,
        connect: impl Fn(String) -> F,
        connected: impl FnOnce(&str, Report),
    ) -> Result<Arc<S>, Failure>
    where
        F: Future<Output = Result<S, Failure>>,
    {
        if let Some(session) = self.current() {
            return Ok(session);
        }
        let asked = Instant::now();
        let mut attempts = self.attempts.lock().await;
        if let Some(session) = self.current() {
            return Ok(session);
        }
        if let Some((when, failure)) = &attempts.failed
            && *when >= asked
        {
            return Err(failure.clone());
        }
        if std::mem::take(&mut attempts.ended).is_set() {
            attempts.pause();
        }
        tokio::time::sleep_until(attempts.due).await;
        match self.connect(&mut attempts.first, connect).await {
            Ok((endpoint, session)) => {
                let session = Arc::new(session);
                *lock(&self.current) = Arc::downgrade(&session);
                attempts.failed = None;
                attempts.ended = session.ended().clone();
                attempts.backoff.works();
                if let Some(report) = attempts.connected.happened(&endpoint) {
                    connected(&endpoint, report);
                }
                Ok(session)
            }
            Err(failure) => {
                attempts.pause();
                attempts.failed = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    fn current(&self) -> Option<Arc<S>> {
        lock(&self.current).upgrade().filter(|session| !session.ended().is_set())
    }

    /// Tries each endpoint once, and begins with the next one the next time.
    async fn connect<F>(
        &self,
        first: &mut usize,
        connect: impl Fn(String) -> F,
    ) -> Result<(String, S), Failure>
    where
        F: Future<Output = Result<S, Failure>>,
    {
        let mut unavailable = Vec::new();
        for _ in 0..self.endpoints.len() {
            let endpoint = self.endpoints[*first % self.endpoints.len()].clone();
            *first = first.wrapping_add(1);
            match connect(endpoint.clone()).await {
                Ok(session) => return Ok((endpoint, session)),
                Err(Failure::Unavailable(text)) => unavailable.push(text),
                // The others would say the same.
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::Unavailable(unavailable.join("; ")))
    }
}

impl Attempts {
    fn pause(&mut self) {
        self.due = Instant::now() + self.backoff.pause();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    struct With(String, Ended);

    impl Session for With {
        fn ended(&self) -> &Ended {
            &self.1
        }
    }

    fn sessions() -> Sessions<With> {
        Sessions::new(vec!["a:1".to_owned(), "b:1".to_owned()])
    }

    async fn good(endpoint: String) -> Result<With, Failure> {
        Ok(With(endpoint, Ended::default()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_shared_until_it_ends_and_the_next_is_with_the_next() {
        let sessions = sessions();
        let one = sessions.get(good, |_, _| {}).await.unwrap();
        assert!(Arc::ptr_eq(&one, &sessions.get(good, |_, _| panic!("it is the same")).await.unwrap()));
        one.ended().set();
        let since = Instant::now();
        let other = sessions.get(good, |_, _| {}).await.unwrap();
        assert_ne!(one.0, other.0);
        assert!(since.elapsed() >= FIRST_PAUSE / 2, "it was tried again at once");
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_once_share_one_failure_of_all_endpoints() {
        let (sessions, attempts) = (sessions(), AtomicUsize::new(0));
        let bad = |endpoint: String| {
            attempts.fetch_add(1, Relaxed);
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Err(Failure::Unavailable(format!("no {endpoint}")))
            }
        };
        let ask = async || sessions.get(bad, |_, _| {}).await.err();
        let (one, other, third) = tokio::join!(ask(), ask(), ask());
        assert!(one == other && other == third);
        let Some(Failure::Unavailable(text)) = one else { panic!("{one:?}") };
        assert!(text.contains("no a:1") && text.contains("no b:1"), "{text}");
        assert_eq!(attempts.load(Relaxed), 2);
    }

    #[tokio::test]
    async fn what_every_endpoint_would_say_is_asked_of_one() {
        let denied = |_| async { Err(Failure::Denied("no".into())) };
        assert_eq!(sessions().get(denied, |_, _| {}).await.err(), Some(Failure::Denied("no".into())));
    }
}

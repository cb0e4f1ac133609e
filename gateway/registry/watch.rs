//! The task that drives one source: follows its registry for ever, and turns every failure into "nothing changed".

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    Failure, Intake, Registry,
    claims::{ClaimReader, Suspect},
    pace::Ceiling,
};
use crate::{
    backoff::{Backoff, Lasting},
    telemetry::text::shown,
    upstream::Event,
};

/// Pauses between attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const GREATEST_PAUSE: Duration = Duration::from_secs(10);

/// News per second that a plugin may bring in the long run, and at once. Beyond it is asked later.
const NEWS_PER_SECOND: f64 = 500.0;
const NEWS_AT_ONCE: f64 = 1_000.0;

/// A source being watched. Dropping it ends the watch and the plugin's instance; the list stays as it is.
#[derive(Debug)]
pub struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Follows `service` in `registry` and tells `events` about it, as the source with this number.
///
/// Never gives up: after a failure it pauses, longer each time, and follows again. Ends when nobody listens.
pub fn watch(
    source: usize,
    registry: Arc<dyn Registry>,
    service: Arc<str>,
    intake: Intake,
    events: mpsc::Sender<Event>,
) -> Watch {
    let intake = match registry.resolver() {
        Some(resolver) => Intake { resolver, ..intake },
        None => intake,
    };
    let task = Task {
        source,
        registry,
        reader: ClaimReader::new(service.clone(), intake),
        service,
        events,
        backoff: Backoff::new(FIRST_PAUSE, GREATEST_PAUSE),
        failing: Lasting::default(),
        ceiling: Ceiling::new(NEWS_PER_SECOND, NEWS_AT_ONCE, Instant::now()),
    };
    Watch(tokio::spawn(task.run()))
}

struct Task {
    source: usize,
    registry: Arc<dyn Registry>,
    service: Arc<str>,
    events: mpsc::Sender<Event>,
    reader: ClaimReader,
    backoff: Backoff,
    failing: Lasting,
    ceiling: Ceiling,
}

/// Why following ended.
enum End {
    /// Another version of the plugin is in force.
    Changed,
    Failed(Failure),
}

/// The kind of failure of a registry that answers what is not to be believed.
const SUSPECT: &str = "suspect";

/// Nobody listens any more.
struct Closed;

impl Task {
    async fn run(mut self) {
        loop {
            match self.follow().await {
                Err(Closed) => return,
                Ok(End::Changed) => self.backoff.reset(),
                Ok(End::Failed(failure)) => {
                    let pause = self.backoff.pause();
                    if self.failed(failure.kind(), shown(&failure).to_string()).await.is_err() {
                        return;
                    }
                    // A new version of the plugin is worth an attempt at once: it may be the cure.
                    let registry = self.registry.clone();
                    let waited = self.beside_names(async {
                        tokio::select! {
                            () = tokio::time::sleep(pause) => false,
                            () = registry.changed() => true,
                        }
                    });
                    match waited.await {
                        Ok(false) => {}
                        Ok(true) => self.backoff.reset(),
                        Err(Closed) => return,
                    }
                }
            }
        }
    }

    async fn follow(&mut self) -> Result<End, Closed> {
        let registry = self.registry.clone();
        let service = self.service.clone();
        let followed = self.beside_names(async {
            tokio::select! {
                // In this order: a change is one from what `follow` has begun to use.
                biased;
                followed = registry.follow(&service) => Some(followed),
                () = registry.changed() => None,
            }
        });
        let mut subscription = match followed.await? {
            None => return Ok(End::Changed),
            Some(Ok(subscription)) => subscription,
            Some(Err(failure)) => return Ok(End::Failed(failure)),
        };
        loop {
            let next = self.beside_names(async {
                tokio::select! {
                    news = subscription.next() => Some(news),
                    () = registry.changed() => None,
                }
            });
            match next.await? {
                None => return Ok(End::Changed),
                Some(Err(failure)) => return Ok(End::Failed(failure)),
                Some(Ok(news)) => match self.reader.read(news).await {
                    Ok(news) => {
                        self.works();
                        self.send(Event::News { source: self.source, news }).await?;
                        self.tell_left_out().await?;
                    }
                    Err(Suspect(reason)) => {
                        self.failed(SUSPECT, shown(&reason).to_string()).await?;
                        let pause = self.backoff.pause();
                        let pause = async {
                            tokio::select! {
                                () = tokio::time::sleep(pause) => false,
                                () = registry.changed() => true,
                            }
                        };
                        if self.beside_names(pause).await? {
                            return Ok(End::Changed);
                        }
                    }
                },
            }
            let pause = self.ceiling.take(Instant::now());
            self.beside_names(tokio::time::sleep(pause)).await?;
        }
    }

    /// Waits for the registry, and tells meanwhile what names come to: they go on whatever the registry does.
    ///
    /// The future is not dropped for a name: a call into a plugin that is cancelled ends its instance.
    async fn beside_names<T>(&mut self, registry: impl Future<Output = T>) -> Result<T, Closed> {
        let mut registry = pin!(registry);
        loop {
            let events = self.events.clone();
            let changes = tokio::select! {
                out = &mut registry => return Ok(out),
                () = events.closed() => return Err(Closed),
                changes = self.reader.resolved() => changes,
            };
            if !changes.is_empty() {
                self.send(Event::Resolved { source: self.source, changes }).await?;
            }
            self.tell_left_out().await?;
        }
    }

    /// Nothing changes in the list, and the owner hears why.
    async fn failed(&mut self, kind: &'static str, text: String) -> Result<(), Closed> {
        if let Some(lasts) = self.failing.met(&text) {
            let (for_seconds, times) = (lasts.for_seconds, lasts.times);
            let service = &self.service;
            match kind {
                SUSPECT => tracing::warn!(%service, reason = text, for_seconds, times,
                    "Registry's answer is suspect, list kept"),
                _ => tracing::warn!(%service, error = text, for_seconds, times, "Registry failed, list kept"),
            }
        }
        self.send(Event::Failed { source: self.source, kind, text }).await
    }

    fn works(&mut self) {
        self.backoff.works();
        if let Some(lasted) = self.failing.over() {
            tracing::info!(service = %self.service, for_seconds = lasted.for_seconds, "Registry answers again");
        }
    }

    async fn tell_left_out(&mut self) -> Result<(), Closed> {
        match self.reader.left_out() {
            Some(left_out) => self.send(Event::LeftOut { source: self.source, left_out }).await,
            None => Ok(()),
        }
    }

    async fn send(&self, event: Event) -> Result<(), Closed> {
        self.events.send(event).await.map_err(|_| Closed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use tokio::sync::{Mutex, mpsc};

    use super::*;
    use crate::{
        bindings::wit,
        registry::{BoxFuture, OwnAddresses, Subscription, resolve::fake::FakeNames},
        upstream::{Claim, ClaimChange, News},
    };

    /// A registry whose answers the test pushes. Dropping the sender ends a subscription with a failure.
    struct Pushed(Arc<Mutex<mpsc::Receiver<Result<wit::News, Failure>>>>);

    impl Registry for Pushed {
        fn follow<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Box<dyn Subscription>, Failure>> {
            Box::pin(async { Ok(Box::new(Pushed(self.0.clone())) as Box<dyn Subscription>) })
        }
    }

    impl Subscription for Pushed {
        fn next(&mut self) -> BoxFuture<'_, Result<wit::News, Failure>> {
            Box::pin(async {
                let next = self.0.lock().await.recv().await;
                next.unwrap_or_else(|| Err(Failure::Unavailable("gone".into())))
            })
        }
    }

    fn start() -> (mpsc::Sender<Result<wit::News, Failure>>, mpsc::Receiver<Event>, Watch) {
        start_with(Intake::default())
    }

    fn start_with(
        intake: Intake,
    ) -> (mpsc::Sender<Result<wit::News, Failure>>, mpsc::Receiver<Event>, Watch) {
        let (push, pushed) = mpsc::channel(16);
        let (events, told) = mpsc::channel(16);
        let registry = Arc::new(Pushed(Arc::new(Mutex::new(pushed))));
        let watch = watch(3, registry, "orders".into(), intake, events);
        (push, told, watch)
    }

    /// One endpoint, at `db.example`, which is 10.0.0.1.
    async fn start_with_a_name()
    -> (FakeNames, mpsc::Sender<Result<wit::News, Failure>>, mpsc::Receiver<Event>, Watch) {
        let names = FakeNames::default();
        names.set("db.example", &["10.0.0.1"]);
        let intake = Intake { resolver: names.resolver(), own: OwnAddresses::default() };
        let (push, mut told, watch) = start_with(intake);
        push.send(Ok(one("db.example:80"))).await.unwrap();
        assert!(matches!(told.recv().await, Some(Event::News { .. })));
        (names, push, told, watch)
    }

    fn one(address: &str) -> wit::News {
        let endpoint = wit::plain("1", address);
        wit::News::Complete(vec![endpoint])
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_and_followed_by_another_attempt() {
        let (push, mut told, _watch) = start();
        push.send(Ok(one("10.0.0.1:80"))).await.unwrap();
        assert!(matches!(told.recv().await, Some(Event::News { source: 3, news: News::Complete(_) })));
        push.send(Err(Failure::Denied("bad password".into()))).await.unwrap();
        assert!(matches!(told.recv().await, Some(Event::Failed { source: 3, kind: "denied", .. })));
        push.send(Ok(one("10.0.0.2:80"))).await.unwrap();
        assert!(matches!(told.recv().await, Some(Event::News { source: 3, .. })));
    }

    /// Waits until an event says that the endpoint is there.
    async fn until_moved_to(told: &mut mpsc::Receiver<Event>, address: &str) {
        let address = address.parse().unwrap();
        loop {
            let Some(event) = told.recv().await else { panic!("the watch has ended") };
            let Event::Resolved { source: 3, changes } = event else { continue };
            if changes
                .iter()
                .any(|change| matches!(change, ClaimChange::Put(claim) if claim.addresses == [address]))
            {
                return;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_moved_is_noticed_whatever_the_registry_does() {
        let (names, push, mut told, _watch) = start_with_a_name().await;

        // It is quiet.
        names.set("db.example", &["10.0.0.2"]);
        let limit = Duration::from_secs(35);
        tokio::time::timeout(limit, until_moved_to(&mut told, "10.0.0.2:80"))
            .await
            .expect("while it is quiet");

        // It has news all the time.
        let lively = tokio::spawn({
            let push = push.clone();
            async move {
                while push.send(Ok(one("db.example:80"))).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        });
        let address = "10.0.0.3:80";
        names.set("db.example", &["10.0.0.3"]);
        let moved = async {
            loop {
                let at = |claim: &Claim| claim.addresses == [address.parse().unwrap()];
                match told.recv().await {
                    Some(Event::News { news: News::Complete(claims), .. }) if claims.iter().all(at) => return,
                    Some(Event::Resolved { .. }) => return,
                    Some(_) => {}
                    None => panic!("the watch has ended"),
                }
            }
        };
        tokio::time::timeout(limit, moved).await.expect("while it has news");
        lively.abort();

        // It cannot be read, so that the watch waits most of the time.
        drop(push);
        names.set("db.example", &["10.0.0.4"]);
        tokio::time::timeout(limit, until_moved_to(&mut told, "10.0.0.4:80")).await.expect("while it fails");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_nobody_answers_for_keeps_its_address() {
        let (names, _push, mut told, _watch) = start_with_a_name().await;
        names.silence("db.example");
        let changed = tokio::time::timeout(Duration::from_secs(600), async {
            loop {
                match told.recv().await {
                    Some(Event::LeftOut { left_out, .. }) => assert_eq!(left_out.count, 0, "{left_out:?}"),
                    other => return format!("{other:?}"),
                }
            }
        });
        assert!(changed.await.is_err());
        names.set("db.example", &["10.0.0.2"]);
        let limit = Duration::from_secs(35);
        tokio::time::timeout(limit, until_moved_to(&mut told, "10.0.0.2:80"))
            .await
            .expect("it is answered for again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_keeps_failing_is_asked_less_and_less_often() {
        let (push, mut told, _watch) = start();
        drop(push);
        let start = tokio::time::Instant::now();
        for _ in 0..20 {
            told.recv().await.unwrap();
        }
        let passed = start.elapsed();
        assert!(passed > GREATEST_PAUSE * 5 && passed < GREATEST_PAUSE * 20, "{passed:?}");
    }

    /// A registry whose list can be had and which fails after it, for ever.
    #[tokio::test(start_paused = true)]
    async fn a_registry_that_fails_after_each_list_is_asked_less_and_less_often() {
        struct Short(bool);
        impl Registry for Short {
            fn follow<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Box<dyn Subscription>, Failure>> {
                Box::pin(async { Ok(Box::new(Short(true)) as Box<dyn Subscription>) })
            }
        }
        impl Subscription for Short {
            fn next(&mut self) -> BoxFuture<'_, Result<wit::News, Failure>> {
                let first = std::mem::take(&mut self.0);
                Box::pin(async move {
                    if first { Ok(one("10.0.0.1:80")) } else { Err(Failure::Other("".into())) }
                })
            }
        }
        let (events, mut told) = mpsc::channel(16);
        let _watch = watch(0, Arc::new(Short(true)), "orders".into(), Intake::default(), events);
        let start = tokio::time::Instant::now();
        for _ in 0..2 * 20 {
            told.recv().await.unwrap();
        }
        assert!(start.elapsed() > GREATEST_PAUSE * 5, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn news_without_end_are_slowed() {
        struct Storm;
        impl Registry for Storm {
            fn follow<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Box<dyn Subscription>, Failure>> {
                Box::pin(async { Ok(Box::new(Storm) as Box<dyn Subscription>) })
            }
        }
        impl Subscription for Storm {
            fn next(&mut self) -> BoxFuture<'_, Result<wit::News, Failure>> {
                Box::pin(async { Ok(wit::News::Unchanged) })
            }
        }
        let (events, mut told) = mpsc::channel(16);
        let _watch = watch(0, Arc::new(Storm), "orders".into(), Intake::default(), events);
        let start = Instant::now();
        for _ in 0..(NEWS_AT_ONCE as usize + 100) {
            told.recv().await.unwrap();
        }
        assert!(start.elapsed() >= Duration::from_millis(150), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_plugin_that_hangs_where_it_begins_is_exchanged() {
        /// Hangs until it is another version.
        #[derive(Default)]
        struct Hanging(AtomicBool, tokio::sync::Notify);
        impl Registry for Hanging {
            fn follow<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Box<dyn Subscription>, Failure>> {
                Box::pin(async {
                    if !self.0.load(Relaxed) {
                        std::future::pending::<()>().await;
                    }
                    Err(Failure::Unavailable("the other version".into()))
                })
            }
            fn changed(&self) -> BoxFuture<'_, ()> {
                Box::pin(self.1.notified())
            }
        }
        let registry = Arc::new(Hanging::default());
        let (events, mut told) = mpsc::channel(16);
        let _watch = watch(0, registry.clone(), "orders".into(), Intake::default(), events);
        tokio::task::yield_now().await;
        registry.0.store(true, Relaxed);
        registry.1.notify_one();
        let told = tokio::time::timeout(Duration::from_secs(60), told.recv()).await;
        assert!(matches!(told, Ok(Some(Event::Failed { kind: "unavailable", .. }))));
    }

    /// A registry that is suspect for ever is asked ever less often, on the subscription that there is, and what it
    /// says in between counts.
    #[tokio::test(start_paused = true)]
    async fn a_suspect_answer_is_told_as_a_failure_and_the_subscription_goes_on() {
        let (push, mut told, _watch) = start();
        push.send(Ok(one("10.0.0.1:80"))).await.unwrap();
        assert!(matches!(told.recv().await, Some(Event::News { .. })));
        let began = tokio::time::Instant::now();
        for _ in 0..20 {
            push.send(Ok(wit::News::Suspect("cut by missing rights".into()))).await.unwrap();
            match told.recv().await {
                Some(Event::Failed { source: 3, kind: "suspect", text }) => {
                    assert_eq!(text, "cut by missing rights")
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(began.elapsed() > GREATEST_PAUSE * 5, "{:?}", began.elapsed());
        push.send(Ok(wit::News::Unchanged)).await.unwrap();
        assert!(matches!(told.recv().await, Some(Event::News { news: News::Unchanged, .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_watch_ends_it() {
        let (_push, mut told, watch) = start();
        drop(watch);
        assert!(told.recv().await.is_none());
    }
}

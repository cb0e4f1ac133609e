//! The task that drives one source: follows its registry for ever, and turns every failure into "nothing changed".

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinHandle};

use super::{Backoff, Failure, Registry, claims::ClaimReader, pace::Ceiling};
use crate::{
    telemetry::text::shown,
    upstream::{Event, News},
};

/// Pauses between attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const GREATEST_PAUSE: Duration = Duration::from_secs(10);

/// News per second that a plugin may bring in the long run, and at once. Beyond it is asked later.
const NEWS_PER_SECOND: f64 = 500.0;
const NEWS_AT_ONCE: f64 = 1_000.0;

/// How often names in a list are resolved again.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);

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
    events: mpsc::Sender<Event>,
) -> Watch {
    let task = Task {
        source,
        registry,
        service,
        events,
        reader: ClaimReader::default(),
        backoff: Backoff::new(FIRST_PAUSE, GREATEST_PAUSE),
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
    ceiling: Ceiling,
}

/// Why following ended.
enum End {
    /// Another version of the plugin is in force.
    Changed,
    Failed(Failure),
    /// Nobody listens any more.
    Closed,
}

impl Task {
    async fn run(mut self) {
        loop {
            match self.follow().await {
                End::Closed => return,
                End::Changed => self.backoff.reset(),
                End::Failed(failure) => {
                    let pause = self.backoff.pause();
                    tracing::warn!(service = %self.service, error = %failure, ?pause, "Registry failed, list kept");
                    let (kind, text) = (failure.kind(), shown(&failure).to_string());
                    if self.events.send(Event::Failed { source: self.source, kind, text }).await.is_err() {
                        return;
                    }
                    // A new version of the plugin is worth an attempt at once: it may be the cure.
                    let registry = self.registry.clone();
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = registry.changed() => self.backoff.reset(),
                    }
                }
            }
        }
    }

    async fn follow(&mut self) -> End {
        let registry = self.registry.clone();
        let service = self.service.clone();
        let mut subscription = tokio::select! {
            // In this order: a change is one from what `follow` has begun to use.
            biased;
            followed = registry.follow(&service) => match followed {
                Ok(subscription) => subscription,
                Err(failure) => return End::Failed(failure),
            },
            () = registry.changed() => return End::Changed,
            () = self.events.closed() => return End::Closed,
        };
        loop {
            let news = {
                // `next` is not cancelled for anything that lets the subscription live: a cancelled call ends the
                // instance.
                let mut next = subscription.next();
                loop {
                    tokio::select! {
                        news = &mut next => break news,
                        () = registry.changed() => return End::Changed,
                        () = self.events.closed() => return End::Closed,
                        () = tokio::time::sleep(RESOLVE_EVERY), if self.reader.has_names() => {
                            if let Some(news) = self.reader.resolve_again().await
                                && self.tell(news).await.is_err()
                            {
                                return End::Closed;
                            }
                        }
                    }
                }
            };
            match news {
                Ok(news) => {
                    self.backoff.reset();
                    let news = self.reader.read(news).await;
                    if self.tell(news).await.is_err() {
                        return End::Closed;
                    }
                }
                Err(failure) => return End::Failed(failure),
            }
            tokio::time::sleep(self.ceiling.take(Instant::now())).await;
        }
    }

    async fn tell(&self, news: News) -> Result<(), ()> {
        self.events.send(Event::News { source: self.source, news }).await.map_err(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use tokio::sync::{Mutex, mpsc};

    use super::*;
    use crate::registry::{BoxFuture, RawEndpoint, RawNews, Subscription};

    /// A registry whose answers the test pushes. Dropping the sender ends a subscription with a failure.
    struct Pushed(Arc<Mutex<mpsc::Receiver<Result<RawNews, Failure>>>>);

    impl Registry for Pushed {
        fn follow<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Box<dyn Subscription>, Failure>> {
            Box::pin(async { Ok(Box::new(Pushed(self.0.clone())) as Box<dyn Subscription>) })
        }
    }

    impl Subscription for Pushed {
        fn next(&mut self) -> BoxFuture<'_, Result<RawNews, Failure>> {
            Box::pin(async {
                let next = self.0.lock().await.recv().await;
                next.unwrap_or_else(|| Err(Failure::Unavailable("gone".into())))
            })
        }
    }

    fn start() -> (mpsc::Sender<Result<RawNews, Failure>>, mpsc::Receiver<Event>, Watch) {
        let (push, pushed) = mpsc::channel(16);
        let (events, told) = mpsc::channel(16);
        let watch = watch(3, Arc::new(Pushed(Arc::new(Mutex::new(pushed)))), "orders".into(), events);
        (push, told, watch)
    }

    fn one(address: &str) -> RawNews {
        let endpoint = RawEndpoint { id: "1".into(), address: address.into(), weight: 1, labels: vec![] };
        RawNews::Complete(vec![endpoint])
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

    #[tokio::test]
    async fn news_without_end_are_slowed() {
        struct Storm;
        impl Registry for Storm {
            fn follow<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Box<dyn Subscription>, Failure>> {
                Box::pin(async { Ok(Box::new(Storm) as Box<dyn Subscription>) })
            }
        }
        impl Subscription for Storm {
            fn next(&mut self) -> BoxFuture<'_, Result<RawNews, Failure>> {
                Box::pin(async { Ok(RawNews::Unchanged) })
            }
        }
        let (events, mut told) = mpsc::channel(16);
        let _watch = watch(0, Arc::new(Storm), "orders".into(), events);
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
        let _watch = watch(0, registry.clone(), "orders".into(), events);
        tokio::task::yield_now().await;
        registry.0.store(true, Relaxed);
        registry.1.notify_one();
        let told = tokio::time::timeout(Duration::from_secs(60), told.recv()).await;
        assert!(matches!(told, Ok(Some(Event::Failed { kind: "unavailable", .. }))));
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_watch_ends_it() {
        let (_push, mut told, watch) = start();
        drop(watch);
        assert!(told.recv().await.is_none());
    }
}

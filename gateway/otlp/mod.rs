//! The export of traces to a collector, by OTLP over gRPC or HTTP. Runs on the control plane.
//!
//! What is exported never holds up anything: traces come out of a bounded queue, one batch is on its way at a time, and
//! one that the collector does not take in time is lost and counted.

mod batch;
mod messages;
mod send;
mod spans;

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use self::{
    batch::Batch,
    messages::Resource,
    send::{Collector, SendError},
};
use crate::{
    backoff::{Backoff, Lasting},
    config::Tracing,
    telemetry::{
        text::shown,
        trace::{self, Loss, Trace, Tracer},
    },
    tls,
};

/// How long traces are gathered when there are few, so that not each is sent alone.
const GATHERED: Duration = Duration::from_millis(200);

/// A batch that is not taken is sent again after pauses that grow between these, and lost when it is so old.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const OLDEST: Duration = Duration::from_secs(30);

/// How long the end of the process waits for the last batch.
const LAST: Duration = Duration::from_secs(1);

/// Who takes the traces of the configuration in force.
pub struct Exporters {
    files: Arc<tls::Files>,
    /// The last that was asked for, and what it was made of.
    current: Mutex<Option<(Arc<Tracing>, Weak<Tracer>)>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    ending: watch::Sender<bool>,
}

impl Exporters {
    pub fn new(files: Arc<tls::Files>) -> Self {
        Self { files, current: Mutex::default(), tasks: Mutex::default(), ending: watch::Sender::new(false) }
    }

    /// What requests are traced with; the one that there is, if these are its settings. It exports until it is dropped.
    /// Must be called on the control runtime.
    pub fn open(&self, settings: &Arc<Tracing>) -> Arc<Tracer> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, tracer)) = &*current
            && known == settings
            && let Some(tracer) = tracer.upgrade()
        {
            return tracer;
        }
        let (tracer, traces) = Tracer::new(settings.sample, settings.continue_from.clone());
        let tls = settings.tls.as_ref().map(|tls| self.files.client(tls));
        let exporter = Exporter {
            collector: Collector::new(settings.clone(), tls),
            resource: resource(settings),
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            failing: Lasting::default(),
            rejecting: Lasting::default(),
            endpoint: settings.endpoint.to_string(),
        };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(tokio::spawn(exporter.run(traces, self.ending.subscribe())));
        let tracer = Arc::new(tracer);
        *current = Some((settings.clone(), Arc::downgrade(&tracer)));
        tracer
    }

    /// Has everything sent that was recorded, and waits for that, a second at most.
    pub async fn close(&self) {
        self.ending.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async {
            for task in tasks {
                let _ = task.await;
            }
        };
        let _ = timeout(LAST, all).await;
    }
}

/// Who sends the spans.
fn resource(settings: &Tracing) -> Resource {
    let mut attributes = spans::Attributes::default();
    attributes.text("service.name", &*settings.service);
    attributes.text("service.version", env!("CARGO_PKG_VERSION"));
    attributes.text("service.instance.id", &*settings.instance);
    Resource { attributes: attributes.0 }
}

/// Whether it is time to end, or nobody is left who would say so.
fn is_over(ending: &watch::Receiver<bool>) -> bool {
    *ending.borrow() || ending.has_changed().is_err()
}

struct Exporter {
    collector: Collector,
    resource: Resource,
    backoff: Backoff,
    failing: Lasting,
    rejecting: Lasting,
    endpoint: String,
}

impl Exporter {
    /// Exports until nobody records anything any more, or it is to end and has sent what there was.
    async fn run(mut self, mut traces: mpsc::Receiver<Box<Trace>>, mut ending: watch::Receiver<bool>) {
        loop {
            let ends = is_over(&ending);
            if ends {
                // Whoever records now is too late.
                traces.close();
            }
            let first = tokio::select! {
                biased;
                first = traces.recv() => first,
                _ = ending.changed(), if !ends => continue,
            };
            let Some(first) = first else { return };
            let mut batch = Batch::default();
            batch.add(&first);
            batch.fill(&mut traces);
            if !batch.is_full() && !ends {
                tokio::select! {
                    () = sleep(GATHERED) => {}
                    _ = ending.changed() => {}
                }
                batch.fill(&mut traces);
            }
            self.export(batch, &mut ending).await;
        }
    }

    /// Sends a batch until it is taken, refused, or too old, and waits as long as the collector wants before the next.
    async fn export(&mut self, batch: Batch, ending: &mut watch::Receiver<bool>) {
        let (bytes, count) = batch.encode(&self.resource);
        let until = Instant::now() + OLDEST;
        loop {
            let (why, after) = match self.collector.send(&bytes).await {
                Ok((rejected, why)) => {
                    let rejected = rejected.min(count);
                    trace::exported(count - rejected);
                    trace::lost(rejected, Loss::Refused);
                    self.works();
                    if rejected > 0 {
                        self.rejects(rejected, &why);
                    }
                    return;
                }
                Err(SendError::Refused(why)) => {
                    trace::lost(count, Loss::Refused);
                    return self.fails(&why);
                }
                Err(SendError::Later { why, after }) => (why, after),
            };
            self.fails(&why);
            let pause = self.backoff.pause().max(after.unwrap_or_default());
            let is_old = pause > until.saturating_duration_since(Instant::now());
            if is_old || is_over(ending) {
                trace::lost(count, Loss::Unavailable);
            }
            if is_over(ending) {
                return;
            }
            // The next batch waits as well: a collector that says when it wants to be asked is not asked before.
            tokio::select! {
                () = sleep(pause) => {}
                _ = ending.changed() => {}
            }
            if is_old {
                return;
            }
        }
    }

    fn works(&mut self) {
        self.backoff.works();
        if let Some(lasted) = self.failing.over() {
            tracing::info!(collector = %self.endpoint, for_seconds = lasted.for_seconds, "Traces are taken again");
        }
    }

    fn fails(&mut self, why: &str) {
        let error = shown(why).to_string();
        if let Some(lasts) = self.failing.met(&error) {
            tracing::warn!(collector = %self.endpoint, error, for_seconds = lasts.for_seconds,
                "Traces are not taken, requests go on");
        }
    }

    /// A batch was taken without so many of its spans, which is over with it.
    fn rejects(&mut self, spans: usize, why: &str) {
        let error = shown(why).to_string();
        if let Some(again) = self.rejecting.happened(&error) {
            tracing::warn!(collector = %self.endpoint, spans, error, times = again.times,
                "Spans are rejected, the others of their batch are taken");
        }
    }
}

//! Workers: threads that share nothing on the way of a request.

use std::{future::Future, io, rc::Rc, sync::mpsc, thread, time::Duration};

use hyper::{
    Response,
    body::{Body, Bytes},
};
use tokio::runtime::{self, LocalOptions};

use super::{Arrival, Link, Listening, Shutdown, accept::accept, roster::Roster};

/// Threads that each run one future with a runtime of their own.
pub struct Workers(Vec<thread::JoinHandle<()>>);

impl Workers {
    /// Starts one thread per input. `run` is called on it, where
    /// `spawn_local` works: nothing it makes has to be `Send`.
    pub fn start<I, R, F>(inputs: Vec<I>, run: R) -> io::Result<Self>
    where
        I: Send + 'static,
        R: Fn(usize, I) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + 'static,
    {
        let start = |(index, input): (usize, I)| {
            let run = run.clone();
            let (report, failure) = mpsc::channel();
            let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                // A runtime for what is not `Send` stays on the thread that made it.
                let mut runtime = runtime::Builder::new_current_thread();
                match runtime.enable_all().build_local(LocalOptions::default()) {
                    Ok(runtime) => {
                        drop(report);
                        runtime.block_on(async { run(index, input).await });
                    }
                    Err(error) => drop(report.send(error)),
                }
            })?;
            // Ends without a word when there is a runtime.
            failure.recv().map_or(Ok(thread), Err)
        };
        inputs.into_iter().enumerate().map(start).collect::<io::Result<_>>().map(Self)
    }

    /// Waits until all of them have ended. Says whether none of them panicked.
    pub fn join(self) -> bool {
        let ended: Vec<bool> = self.0.into_iter().map(|thread| thread.join().is_ok()).collect();
        ended.into_iter().all(|fine| fine)
    }
}

/// Serves the listeners of one worker until the order to close, and then what is open within the bound given with
/// it. Must be called where `spawn_local` works, as in `Workers`.
///
/// `answers` is called once per listener, what it returns once per connection, and what that returns once per request.
/// Futures of answers are moved about, so they are `Unpin`: small, or in a box.
///
/// A panic while a request is answered ends that connection and nothing else.
pub async fn serve<M, A, C, F, B>(
    listenings: Vec<Listening>,
    answers: M,
    mut shutdown: Shutdown,
) -> io::Result<()>
where
    M: Fn(&Listening) -> A,
    A: Fn(&Link) -> C + 'static,
    C: Fn(Arrival) -> F + 'static,
    F: Future<Output = Response<B>> + Unpin + 'static,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let roster = Rc::new(Roster::default());
    let every = tick(&listenings);
    let mut accepting = Vec::new();
    for listening in listenings {
        let answer = answers(&listening);
        let accepts = accept(listening.register()?, roster.clone(), answer);
        accepting.push(tokio::task::spawn_local(accepts));
    }
    let watching = tokio::task::spawn_local({
        let roster = roster.clone();
        async move { roster.watch(every).await }
    });
    let deadline = shutdown.ordered().await;
    roster.finish();
    for task in accepting {
        task.abort();
        let _ = task.await;
    }
    roster.drain(deadline).await;
    watching.abort();
    Ok(())
}

/// How often times are looked at.
fn tick(listenings: &[Listening]) -> Duration {
    let times = |l: &Listening| l.settings.header_timeout.min(l.settings.idle_timeout) / 4;
    let shortest = listenings.iter().map(times).min().unwrap_or(Duration::MAX);
    shortest.clamp(Duration::from_millis(5), Duration::from_secs(1))
}

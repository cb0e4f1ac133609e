//! Workers: threads that share nothing on the way of a request.

use std::{future::Future, io, rc::Rc, sync::mpsc, thread};

use hyper::{
    Response,
    body::{Body, Bytes},
};
use tokio::{
    runtime::{self, LocalOptions},
    task::JoinSet,
    time::timeout_at,
};

use super::{
    Arrival, Carries, ConnInfo, Listening, Shutdown,
    accept::accept,
    connection::Surroundings,
    drain::Drain,
    linger::Lingering,
    orders::Order,
    tasks::{Tasks, supervised},
};
use crate::net::Watch;

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
/// it. Must be called where `spawn_local` works, as in `Workers`. What has waited too long is found by `watch`, which
/// runs as long as this does.
///
/// `answers` is called once per listener, what it returns once per connection, and what that returns once per request.
/// Futures of answers are moved about, so they are `Unpin`: small, or in a box. `carries` has the connections of listeners
/// that are for TCP, if there are any.
///
/// A panic while a request is answered ends that connection and nothing else.
pub async fn serve<M, A, C, F, B>(
    listenings: Vec<Listening>,
    answers: M,
    carries: Option<Rc<dyn Carries>>,
    mut shutdown: Shutdown,
    watch: Rc<Watch>,
) -> io::Result<()>
where
    M: Fn(&Listening) -> A,
    A: Fn(&Rc<ConnInfo>) -> C + 'static,
    C: Fn(Arrival) -> F + 'static,
    F: Future<Output = Response<B>> + Unpin + 'static,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (tasks, drain) = (Rc::<Tasks>::default(), Rc::<Drain>::default());
    let lingering = Lingering::default();
    let surroundings =
        Rc::new(Surroundings { watch: watch.clone(), drain: drain.clone(), carries, lingering });
    // Dropped, they take their tasks with them.
    let (mut accepting, mut background) = (JoinSet::new(), JoinSet::new());
    for listening in listenings {
        let answers = Rc::new(answers(&listening));
        let listening = Rc::new(listening.register()?);
        let (surroundings, tasks) = (surroundings.clone(), tasks.clone());
        let accept = move || accept(listening.clone(), surroundings.clone(), tasks.clone(), answers.clone());
        accepting.spawn_local(supervised("accept", accept));
    }
    background.spawn_local(supervised("watch", move || {
        let watch = watch.clone();
        async move { watch.run().await }
    }));
    let connections = tasks.clone();
    background.spawn_local(supervised("connections", move || {
        let connections = connections.clone();
        async move { connections.watch().await }
    }));
    shutdown.announced().await;
    drain.order(Order::Leave);
    let deadline = shutdown.ordered().await;
    drain.order(Order::Finish);
    accepting.shutdown().await;
    if timeout_at(deadline, tasks.emptied()).await.is_err() {
        tracing::info!(connections = tasks.len(), "Ending connections that did not finish");
        drain.order(Order::End);
        tasks.emptied().await;
    }
    Ok(())
}

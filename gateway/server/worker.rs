//! Workers: threads that share nothing on the way of a request.

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    rc::{Rc, Weak},
    sync::mpsc,
    thread,
    time::Duration,
};

use hyper::{
    Response,
    body::{Body, Bytes},
};
use tokio::{
    runtime::{self, LocalOptions},
    sync::{Notify, watch},
    task::JoinSet,
};

use super::{
    Arrival, Carries, ConnInfo, Lineup, Listener,
    accept::accept,
    connection::Surroundings,
    linger::Lingering,
    listen::Open,
    orders::Order,
    served::Served,
    tasks::{Tasks, supervised},
};
use crate::{config::Shutdown, net::Watch};

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

/// What one worker serves. Must be made and used where `spawn_local` works, as in `Workers`. Dropped, it takes
/// everything with it.
pub struct Server {
    index: usize,
    watch: Rc<Watch>,
    carries: Option<Rc<dyn Carries>>,
    lingering: Rc<Lingering>,
    /// Serves one listener on a socket until it is gone, and with it the last connection.
    live: Box<Live>,
    served: RefCell<Vec<Weak<Served>>>,
    lives: Rc<Tasks>,
    closed: Notify,
    _background: JoinSet<()>,
}

type Live = dyn Fn(Rc<Served>, Open) -> Pin<Box<dyn Future<Output = ()>>>;

impl Server {
    /// Serves nothing yet. What has waited too long is found by `watch`, which runs as long as this is there.
    ///
    /// `answers` is called once per connection, with the listener as it was when the client came, and what it returns
    /// once per request. Futures of answers are moved about, so they are `Unpin`: small, or in a box. `carries` has the
    /// connections of listeners that are for TCP, if there are any.
    ///
    /// A panic while a request is answered ends that connection and nothing else.
    pub fn new<A, C, F, B>(
        index: usize,
        watch: Rc<Watch>,
        answers: A,
        carries: Option<Rc<dyn Carries>>,
    ) -> Self
    where
        A: Fn(&Listener, &Rc<ConnInfo>) -> C + 'static,
        C: Fn(Arrival) -> F + 'static,
        F: Future<Output = Response<B>> + Unpin + 'static,
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let answers = Rc::new(answers);
        let live = move |served: Rc<Served>, open: Open| -> Pin<Box<dyn Future<Output = ()>>> {
            let (open, served, answers) = (Rc::new(open), served.clone(), answers.clone());
            let (socket, own) = (open.clone(), served.clone());
            let accept = move || accept(open.clone(), served.clone(), answers.clone());
            Box::pin(async move { own.live(accept, move || socket.refuse_new()).await })
        };
        let lives = Rc::<Tasks>::default();
        let mut background = JoinSet::new();
        let (watching, living) = (watch.clone(), lives.clone());
        background.spawn_local(supervised("watch", move || {
            let watch = watching.clone();
            async move { watch.run().await }
        }));
        background.spawn_local(supervised("listeners", move || {
            let lives = living.clone();
            async move { lives.watch().await }
        }));
        Self {
            index,
            watch,
            carries,
            lingering: Rc::default(),
            live: Box::new(live),
            served: RefCell::default(),
            lives,
            closed: Notify::new(),
            _background: background,
        }
    }

    /// Serves these listeners: those that are new begin, those that are there have other settings for clients that
    /// come from now on, and those that are not among them any more end.
    pub fn follow(&self, lineup: &Lineup) {
        let mut served = self.served.borrow_mut();
        served.retain(|served| served.strong_count() > 0);
        let known: Vec<_> = served.iter().filter_map(Weak::upgrade).collect();
        for served in &known {
            match lineup.listeners.iter().find(|listener| served.is(listener)) {
                Some(listener) => served.change(listener),
                None => served.end(lineup.ending, lineup.heard.is_some()),
            }
        }
        for listener in &lineup.listeners {
            if !known.iter().any(|served| served.is(listener)) {
                served.extend(self.begin(listener.clone()).as_ref().map(Rc::downgrade));
            }
        }
        if lineup.leaving {
            served.iter().filter_map(Weak::upgrade).for_each(|served| served.order(Order::Leave));
        }
        if let Some(heard) = &lineup.heard {
            heard.add_permits(1);
        }
    }

    fn begin(&self, listener: Listener) -> Option<Rc<Served>> {
        let open = match listener.open(self.index)? {
            Ok(open) => open,
            Err(error) => {
                let listener = &*listener.settings.name;
                tracing::error!(worker = self.index, listener, %error, "Worker cannot accept");
                return None;
            }
        };
        let (watch, carries, lingering) = (self.watch.clone(), self.carries.clone(), self.lingering.clone());
        let served = Served::new(listener, Surroundings { watch, drain: Rc::default(), carries, lingering });
        self.lives.spawn((self.live)(served.clone(), open));
        Some(served)
    }

    /// Nothing else will be served; what is not told to end yet ends at once.
    pub fn close(&self) {
        let at_once = Shutdown { delay: Duration::ZERO, drain: Duration::ZERO };
        for served in self.served.borrow().iter().filter_map(Weak::upgrade).filter(|served| !served.ends()) {
            served.end(at_once, false);
        }
        self.closed.notify_one();
    }

    /// Waits until it is closed, and all connections have ended.
    pub async fn ended(&self) {
        self.closed.notified().await;
        self.lives.emptied().await;
    }
}

/// Has a worker serve what it is told to, until nobody tells it anything any more and all connections have ended.
pub async fn serve(server: Server, mut lineups: watch::Receiver<Lineup>) {
    lineups.mark_changed();
    while lineups.changed().await.is_ok() {
        server.follow(&lineups.borrow_and_update());
    }
    server.close();
    server.ended().await;
}

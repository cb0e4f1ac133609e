//! The lanes of one worker to all endpoints: who gets which, and when another one is made.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use super::lane::{Lane, Patience};
use crate::{
    client::{self, DialError, Transport, Ways},
    config,
    net::{self, Watch},
    upstream::Stats,
};

/// With so many calls on each lane another one is made, if there may be more.
const CALLS_COMFORTABLE: usize = 64;

#[derive(Default)]
pub struct Lanes {
    watch: Rc<Watch>,
    endpoints: RefCell<FxHashMap<SocketAddr, Ways<Rc<Endpoint>>>>,
}

/// The lanes to one endpoint, spoken to in one way.
#[derive(Default)]
struct Endpoint {
    lanes: RefCell<Vec<Rc<Lane>>>,
    dialing: Cell<bool>,
    waiting: RefCell<Vec<Waiting>>,
}

/// Whoever waits for a lane that is being made.
type Waiting = oneshot::Sender<Result<Rc<Lane>, DialError>>;

impl Lanes {
    pub fn new(watch: Rc<Watch>) -> Self {
        Self { watch, ..Self::default() }
    }

    /// A lane to an endpoint: the one with the fewest calls, or a new one while there is none. Whoever waits for a new one
    /// shares it.
    pub async fn get(
        &self,
        to: Transport<'_>,
        stats: &Arc<Stats>,
        upstream: &config::Upstream,
    ) -> Result<Rc<Lane>, DialError> {
        let endpoint = self.endpoint(to);
        let lane = endpoint.quietest();
        let is_busy = lane.as_ref().is_none_or(|lane| lane.calls() >= CALLS_COMFORTABLE);
        let has_most = endpoint.lanes.borrow().len() >= upstream.pool.max_http2_connections;
        if is_busy && !has_most && !endpoint.dialing.replace(true) {
            let timeouts = upstream.timeouts;
            let patience = Patience { write: timeouts.write, idle: upstream.pool.idle_timeout };
            let (endpoint, watch, stats) = (endpoint.clone(), self.watch.clone(), stats.clone());
            let opening = client::open(to, timeouts.connect);
            tokio::task::spawn_local(net::guarded("connection to an endpoint of rpcx", async move {
                let dialing = Dialing(endpoint);
                let began = Instant::now();
                let (lane, drive) = match opening.await {
                    Ok(stream) => Lane::new(stream, patience, &watch),
                    Err(error) => return dialing.0.tell(&Err(error)),
                };
                stats.connected(Instant::now(), began.elapsed());
                dialing.0.lanes.borrow_mut().push(lane.clone());
                dialing.0.tell(&Ok(lane));
                drop(dialing);
                drive.await;
            }));
        }
        if let Some(lane) = lane {
            return Ok(lane);
        }
        let (sender, made) = oneshot::channel();
        endpoint.waiting.borrow_mut().push(sender);
        made.await.unwrap_or_else(|_| Err(gone(to.address, upstream.timeouts.connect)))
    }

    fn endpoint(&self, to: Transport<'_>) -> Rc<Endpoint> {
        let mut endpoints = self.endpoints.borrow_mut();
        let is_new = !endpoints.contains_key(&to.address);
        if is_new {
            // Those that nobody uses any more go when others come.
            endpoints.retain(|_, ways| ways.retain(|endpoint| endpoint.is_used()));
        }
        endpoints.entry(to.address).or_default().get_or_make(to, Rc::default).clone()
    }
}

/// One is being made. Dropping it says that it is not any more, and lets go who waits, also after a panic.
struct Dialing(Rc<Endpoint>);

impl Drop for Dialing {
    fn drop(&mut self) {
        self.0.dialing.set(false);
        self.0.waiting.borrow_mut().clear();
    }
}

impl Endpoint {
    fn quietest(&self) -> Option<Rc<Lane>> {
        let mut lanes = self.lanes.borrow_mut();
        lanes.retain(|lane| !lane.has_ended());
        lanes.iter().min_by_key(|lane| lane.calls()).cloned()
    }

    fn is_used(&self) -> bool {
        self.dialing.get() || self.quietest().is_some()
    }

    fn tell(&self, made: &Result<Rc<Lane>, DialError>) {
        for waiting in self.waiting.take() {
            // It may have been given up.
            let _ = waiting.send(made.clone());
        }
    }
}

fn gone(address: SocketAddr, limit: Duration) -> DialError {
    DialError::Busy { address, limit }
}

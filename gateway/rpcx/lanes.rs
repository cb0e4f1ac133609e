//! The lanes of one worker to all endpoints: who gets which, and when another one is made.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Instant,
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

/// Tokens whose calls have lanes to one endpoint, on one worker.
const TOKENS_MOST: usize = 1024;

#[derive(Default)]
pub struct Lanes {
    watch: Rc<Watch>,
    endpoints: RefCell<FxHashMap<SocketAddr, Ways<Tokens>>>,
}

/// By the token of calls, empty for those without one: a server closes the connection of a wrong token, and whatever else is on
/// it is lost.
type Tokens = FxHashMap<Box<[u8]>, Rc<Endpoint>>;

/// The lanes to one endpoint, spoken to in one way, of calls with one token.
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

    /// A lane to an endpoint for calls with this token: the one with the fewest calls, or a new one while there is none.
    /// Whoever waits for a new one shares it.
    pub async fn get(
        &self,
        to: Transport<'_>,
        token: &[u8],
        stats: &Arc<Stats>,
        upstream: &config::Upstream,
    ) -> Result<Rc<Lane>, DialError> {
        let busy = || DialError::Busy { address: to.address, limit: upstream.timeouts.connect };
        let endpoint = self.endpoint(to, token).ok_or_else(busy)?;
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
                    Ok(stream) => {
                        stream.meter().count(stats.opened());
                        Lane::new(stream, patience, &watch)
                    }
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
        made.await.unwrap_or_else(|_| Err(busy()))
    }

    /// None: there are as many tokens as there may be.
    fn endpoint(&self, to: Transport<'_>, token: &[u8]) -> Option<Rc<Endpoint>> {
        let mut endpoints = self.endpoints.borrow_mut();
        if !endpoints.contains_key(&to.address) {
            // Those that nobody uses any more go when others come.
            endpoints.retain(|_, ways| {
                ways.retain(|tokens| {
                    forget_unused(tokens);
                    !tokens.is_empty()
                })
            });
        }
        let tokens = endpoints.entry(to.address).or_default().get_or_make(to, Tokens::default);
        if let Some(endpoint) = tokens.get(token) {
            return Some(endpoint.clone());
        }
        forget_unused(tokens);
        if tokens.len() >= TOKENS_MOST {
            return None;
        }
        Some(tokens.entry(token.into()).or_default().clone())
    }
}

fn forget_unused(tokens: &mut Tokens) {
    tokens.retain(|_, endpoint| endpoint.is_used());
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

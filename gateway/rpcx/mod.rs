//! The path of calls of rpcx, each of which goes its own way, to whatever endpoint is best for it, over connections that calls
//! share.
//!
//! `connection` is what a client has, `call` the path of one call, step by step, and `lane` a connection to an endpoint. What
//! goes wrong is told as an error of rpcx, with the reasons that requests of HTTP get.

mod call;
mod connection;
pub mod frame;
mod lane;
mod lanes;
mod link;
mod route;
mod tries;

use std::{cell::RefCell, future::Future, pin::Pin, rc::Rc};

use self::{lanes::Lanes, route::Routes};
use crate::{
    catalog::Table,
    config,
    dispatch::{Target, Targets},
    net::Watch,
    server::{Carried, Carries},
    telemetry::{Account, ProcessMetrics},
};

type Route = route::Route<Rc<Target>>;

/// What one worker needs to pass calls on. Never leaves its thread.
pub struct Worker {
    index: usize,
    targets: Rc<Targets>,
    watch: Rc<Watch>,
    routes: RefCell<Routes<Rc<Target>>>,
    lanes: Lanes,
    /// Where calls are counted that reach no upstream.
    unrouted: Rc<Account>,
}

impl Worker {
    pub fn new(index: usize, targets: Rc<Targets>, watch: Rc<Watch>, metrics: &ProcessMetrics) -> Self {
        let unrouted = Rc::new(Account { metrics: metrics.unrouted.clone(), worker: index, times: None });
        let (routes, lanes) = (RefCell::new(Routes::empty()), Lanes::new(watch.clone()));
        Self { index, targets, watch, routes, lanes, unrouted }
    }

    /// Exchanges the routes for those of a table whose upstreams have been taken over.
    pub fn install(&self, table: &Table) {
        self.routes.replace(Routes::new(&table.config.rpcx_routes, |name| self.targets.get(name)));
    }
}

impl Carries for Worker {
    fn want_name(&self, _: &config::Listener) -> bool {
        false
    }

    fn carry(self: Rc<Self>, client: Carried) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(connection::serve(self, client))
    }
}

//! One worker: what its connections are served with, and how it keeps up with what is to be served.

use std::{future::Future, pin::Pin, rc::Rc, sync::Arc};

use tokio::sync::watch;

use crate::{
    catalog::{Catalog, Table},
    config::{self, ListenerProtocol},
    dispatch::Targets,
    http, net, rpcx,
    server::{self, Carried, Carries, Lineup, Server},
    tcp,
    telemetry::ProcessMetrics,
};

/// What workers serve: one value, so that a listener and its routes change together.
#[derive(Clone)]
pub struct Serving {
    pub table: Arc<Table>,
    pub lineup: Lineup,
}

/// Serves what it is told to, until nobody tells it anything any more and all connections have ended. What of a catalog
/// is found by name is served beside it.
///
/// One call per worker, on the worker's own thread.
pub async fn run(
    index: usize,
    serving: watch::Receiver<Serving>,
    catalog: Catalog,
    metrics: Arc<ProcessMetrics>,
) {
    metrics.worker(index, tokio::runtime::Handle::current());
    let watch = Rc::<net::Watch>::default();
    let targets = Rc::new(Targets::new(index, catalog));
    let worker = Rc::new(Worker {
        http: Rc::new(http::Worker::new(index, targets.clone(), watch.clone(), &metrics)),
        tcp: Rc::new(tcp::Worker::new(index, targets.clone(), watch.clone())),
        rpcx: Rc::new(rpcx::Worker::new(index, targets.clone(), watch, &metrics)),
        targets,
    });
    let server = Rc::new(worker.http.server(worker.clone()));
    let follower = server.clone();
    let follow = move || follow(worker.clone(), follower.clone(), serving.clone());
    let following = tokio::task::spawn_local(server::supervised("tables", follow));
    server.ended().await;
    following.abort();
}

struct Worker {
    targets: Rc<Targets>,
    http: Rc<http::Worker>,
    tcp: Rc<tcp::Worker>,
    rpcx: Rc<rpcx::Worker>,
}

impl Worker {
    /// Takes over what a table says of upstreams, and then of routes to them.
    async fn install(&self, table: &Table, lineup: &Lineup) {
        self.targets.install(table).await;
        self.http.install(table, lineup);
        self.tcp.install(table);
        self.rpcx.install(table);
    }

    /// What has the connections of a listener.
    fn carrier(&self, listener: &config::Listener) -> Rc<dyn Carries> {
        match listener.protocol {
            ListenerProtocol::Rpcx => self.rpcx.clone(),
            ListenerProtocol::Http | ListenerProtocol::Tcp => self.tcp.clone(),
        }
    }
}

impl Carries for Worker {
    fn want_name(&self, listener: &config::Listener) -> bool {
        self.carrier(listener).want_name(listener)
    }

    fn carry(self: Rc<Self>, client: Carried) -> Pin<Box<dyn Future<Output = ()>>> {
        self.carrier(&client.listener).carry(client)
    }
}

/// Takes over every new table and its listeners, and lets go what is gone.
async fn follow(worker: Rc<Worker>, server: Rc<Server>, mut serving: watch::Receiver<Serving>) {
    let mut open = true;
    serving.mark_changed();
    loop {
        tokio::select! {
            changed = serving.changed(), if open => {
                if changed.is_err() {
                    open = false;
                    server.close();
                    continue;
                }
                let Serving { table, lineup } = serving.borrow_and_update().clone();
                worker.install(&table, &lineup).await;
                server.follow(&lineup);
            }
            () = worker.targets.may_have_changed() => {}
        }
        worker.targets.renew().await;
    }
}

//! One worker: what its connections are served with, and how it keeps up with what is to be served.

use std::{future::Future, io, pin::Pin, rc::Rc, sync::Arc};

use tokio::sync::watch;

use crate::{
    catalog::{Catalog, Table},
    config::{self, ListenerProtocol},
    dispatch::Targets,
    http, net, rpcx,
    server::{self, Carried, Carries, Listening, Shutdown},
    tcp,
    telemetry::ProcessMetrics,
};

/// Serves listeners with the routes and upstreams of a catalog, until the order to close and then until all
/// connections have ended or the bound given with it is over.
///
/// One call per worker, on the worker's own thread.
pub async fn run(
    index: usize,
    listenings: Vec<Listening>,
    catalog: Catalog,
    metrics: Arc<ProcessMetrics>,
    shutdown: Shutdown,
) -> io::Result<()> {
    metrics.worker(index, tokio::runtime::Handle::current());
    let (table, tables) = (catalog.table(), catalog.tables());
    let watch = Rc::<net::Watch>::default();
    let targets = Rc::new(Targets::new(index, catalog));
    let worker = Rc::new(Worker {
        http: Rc::new(http::Worker::new(index, targets.clone(), watch.clone(), &metrics)),
        tcp: Rc::new(tcp::Worker::new(index, targets.clone(), watch.clone())),
        rpcx: Rc::new(rpcx::Worker::new(index, targets.clone(), watch, &metrics)),
        targets,
    });
    worker.install(&table).await;
    let follower = worker.clone();
    let follow = move || follow(follower.clone(), tables.clone());
    let following = tokio::task::spawn_local(server::supervised("tables", follow));
    let served = worker.http.clone().serve(listenings, worker.clone(), shutdown).await;
    following.abort();
    served
}

struct Worker {
    targets: Rc<Targets>,
    http: Rc<http::Worker>,
    tcp: Rc<tcp::Worker>,
    rpcx: Rc<rpcx::Worker>,
}

impl Worker {
    /// Takes over what a table says of upstreams, and then of routes to them.
    async fn install(&self, table: &Table) {
        self.targets.install(table).await;
        self.http.install(table);
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

/// Takes over every new table, and lets go what is gone.
async fn follow(worker: Rc<Worker>, mut tables: watch::Receiver<Arc<Table>>) {
    loop {
        tokio::select! {
            changed = tables.changed() => {
                if changed.is_err() {
                    return;
                }
                let table = tables.borrow_and_update().clone();
                worker.install(&table).await;
            }
            () = worker.targets.may_have_changed() => {}
        }
        worker.targets.renew().await;
    }
}

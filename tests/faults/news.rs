//! How soon requests go by what a registry that pushes its news has been told.

use std::{
    future::Future,
    net::SocketAddr,
    time::{Duration, Instant},
};

use etcd_client::Client;

use crate::{
    report::Outcome,
    support::{
        backend::Backend,
        etcd::Etcd,
        fault_table::Registry,
        gateway::{Gateway, PATIENCE},
        service::{self, Service},
        session::Session,
    },
};

/// Instances that come, one after the other. Of so many, one may take longer than the bound.
const CHANGES: usize = 100;

/// From the moment at which the registry has taken an instance to the first request that goes there. The registry tells
/// of it within that time, too.
const SOON: Duration = Duration::from_millis(20);

/// The instance of `orders` that comes and goes.
const ID: &str = "new";

trait Writer {
    fn register(&mut self, address: SocketAddr) -> impl Future<Output = ()> + Send;
    fn withdraw(&mut self) -> impl Future<Output = ()> + Send;
}

struct Other<R>(R);

impl<R: Registry> Writer for Other<R> {
    async fn register(&mut self, address: SocketAddr) {
        self.0.register(ID, address).await;
    }

    async fn withdraw(&mut self) {
        self.0.withdraw(ID).await;
    }
}

impl Writer for Client {
    async fn register(&mut self, address: SocketAddr) {
        service::register(self, ID, address).await;
    }

    async fn withdraw(&mut self) {
        service::withdraw(self, ID).await;
    }
}

pub async fn of_etcd() -> Outcome {
    let etcd = Etcd::start().await;
    let service = Service::start(etcd.client().await, &etcd.toml(None)).await;
    measure(service, etcd.client().await, Duration::ZERO).await
}

/// `pause` is between two changes: some adapters bound how often they ask.
pub async fn of<R: Registry>(pause: Duration) -> Outcome {
    let mut registry = R::start().await;
    let backends = Backend::several(2).await;
    for (number, backend) in backends.iter().enumerate() {
        registry.register(&format!("b{number}"), backend.address).await;
    }
    let upstream = "[upstream.orders]\nservice = \"orders\"\nregistry = \"main\"\nselector = \"round-robin\"\n\n\
                    [[route]]\npath = \"/\"\nupstream = \"orders\"\n";
    let service = Service::with(backends, &format!("{}\n{upstream}", registry.toml())).await;
    measure(service, Other(registry), pause).await
}

async fn measure(service: Service, mut writer: impl Writer, pause: Duration) -> Outcome {
    let backend = Backend::start("new").await;
    let mut times = Vec::with_capacity(CHANGES);
    for _ in 0..CHANGES {
        writer.register(backend.address).await;
        times.push(first_request(&service.gateway).await);
        tokio::time::sleep(pause).await;
        writer.withdraw().await;
        service::endpoints(&service.gateway, service.backends.len()).await;
        tokio::time::sleep(pause).await;
    }
    times.sort();
    let (half, most) = (times[CHANGES / 2], times[CHANGES - 2]);
    eprintln!("news: half of {CHANGES} within {half:.1?}, all but one within {most:.1?}");
    assert!(most <= SOON, "all but one of {CHANGES} within {SOON:?}: {times:.1?}");
    Outcome::without_failure(service.traffic.stop().await, most)
}

/// How long until the new instance answers, which is every third request once it is in the list.
async fn first_request(gateway: &Gateway) -> Duration {
    let (since, mut session) = (Instant::now(), Session::new(gateway.address()));
    while session.get("/").await.text() != ID {
        assert!(since.elapsed() < PATIENCE, "{ID} answers nothing within {PATIENCE:?}");
    }
    since.elapsed()
}

//! What backends may do that their registry does not know.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    report::Outcome,
    support::{
        backend::Backend,
        etcd::Etcd,
        origin::{Origin, Reply},
        service::{self, CLIENTS, Service},
    },
};

/// Five failures in a row take an instance out, and each other client may have a request under way to it then. After
/// 10 s one request tries it, and its failure takes it out for 20 s.
const BY_RULE: u64 = (5 + OTHERS) + 1;

const OTHERS: u64 = CLIENTS as u64 - 1;

/// Workers hear of the fifth failure a moment after it, and each other client may have sent one more until then.
const UNTIL_OUT: u64 = BY_RULE + OTHERS;

/// What the instance answers that will turn. All answer something with the name of the service in it.
const ODD: &str = "orders odd";

/// Three checks 200 ms apart take an instance out, each give or take a fifth and later for being spread out: after one
/// second and a half at most. Each client sends less than one request in 5 ms, and one of three meets it.
const UNTIL_CHECKED: u64 = 1_500 / 5 * CLIENTS as u64 / 3;

/// A service with two instances that behave, and one that `turns` to something else when the flag is set.
struct Stage {
    _etcd: Etcd,
    service: Service,
    turned: Arc<AtomicBool>,
    _odd: Origin,
}

async fn start(more: &str, turns: fn() -> Reply) -> Stage {
    let etcd = Etcd::start().await;
    let turned = Arc::new(AtomicBool::new(false));
    let flag = turned.clone();
    let odd = Origin::replying(move |_| if flag.load(Relaxed) { turns() } else { Reply::text(ODD) }).await;
    let service = with(&etcd, odd.address, more).await;
    service.traffic.reaches(ODD, Instant::now()).await;
    Stage { _etcd: etcd, service, turned, _odd: odd }
}

async fn with(etcd: &Etcd, odd: SocketAddr, more: &str) -> Service {
    let mut backends = Vec::new();
    for number in 0..2 {
        backends.push(Backend::start(&format!("orders {number}")).await);
    }
    let mut client = etcd.client().await;
    for (number, backend) in backends.iter().enumerate() {
        service::register(&mut client, &format!("b{number}"), backend.address).await;
    }
    service::register(&mut client, "odd", odd).await;
    let config = service::config(&etcd.toml(None), more);
    let gateway = crate::support::gateway::Gateway::start(&config);
    service::endpoints(&gateway, 3).await;
    let traffic = crate::support::traffic::Traffic::start(gateway.address(), "/", CLIENTS);
    traffic.more(50).await;
    Service { gateway, backends, traffic }
}

impl Stage {
    /// It turns; the time is until no request meets it any more, the odd trial left out.
    async fn turn(self, bound: u64) -> Outcome {
        let since = Instant::now();
        self.turned.store(true, Relaxed);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let right = self.service.traffic.last_wrong(since, &[ODD]);
        assert!(right < Duration::from_secs(4), "still met after {right:?}");
        tokio::time::sleep(Duration::from_secs(20)).await;
        Outcome::within(bound, self.service.traffic.stop().await, right)
    }
}

pub async fn hangs() -> Outcome {
    start("timeouts = { response_ms = 300 }", || Reply::Hang).await.turn(UNTIL_OUT).await
}

pub async fn resets() -> Outcome {
    start("", || Reply::Close(Vec::new())).await.turn(UNTIL_OUT).await
}

/// An answer is no failure of the connection, so only a check that asks for more can tell.
pub async fn answers_500() -> Outcome {
    start("check = { http = \"/\", interval_ms = 200 }", || Reply::status(500))
        .await
        .turn(UNTIL_CHECKED)
        .await
}

pub async fn gone() -> Outcome {
    let etcd = Etcd::start().await;
    let odd = Backend::start(ODD).await;
    let service = with(&etcd, odd.address, "").await;
    drop(odd);
    let since = Instant::now();
    service.traffic.more(5_000).await;
    let right = service.traffic.last_wrong(since, &[ODD]);
    Outcome::without_failure(service.traffic.stop().await, right)
}

/// Every request that another service answers is wrong, whatever its status.
pub async fn reused() -> Outcome {
    let stage = start("check = { http = { path = \"/\", body = \"orders\" }, interval_ms = 200 }", || {
        Reply::text("users")
    })
    .await;
    let since = Instant::now();
    stage.turned.store(true, Relaxed);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let right = stage.service.traffic.last_wrong(since, &["users"]);
    assert!(right < Duration::from_secs(2), "still met after {right:?}");
    let wrong = stage.service.traffic.answered_by("users");
    let mut tally = stage.service.traffic.stop().await;
    tally.failed += wrong;
    Outcome::within(UNTIL_CHECKED, tally, right)
}

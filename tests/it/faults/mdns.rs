//! The table of faults, with a real avahi. There is no server that could fail: who announced something and is gone is
//! believed until that runs out, and what fails is a link.

use std::time::{Duration, Instant};

use crate::support::{
    avahi::Avahi,
    backend::Backend,
    gateway::{Gateway, until},
    service::{self, CLIENTS},
    traffic::Traffic,
};

/// As many as a link bears: each answer to a question for all of them is some sixty packets.
const MANY: u16 = 1_000;

/// Two instances on a link, a gateway that has found them, and clients that send.
struct Table {
    avahi: Avahi,
    gateway: Gateway,
    backends: Vec<Backend>,
    traffic: Traffic,
}

impl Table {
    async fn start(hosts: &str) -> Self {
        let avahi = Avahi::start(hosts).await;
        let mut backends = Vec::new();
        for name in ["b0", "b1"] {
            let backend = Backend::everywhere(name).await;
            avahi.serve("_orders._tcp", name, backend.address.port(), &[]);
            backends.push(backend);
        }
        for name in ["b0", "b1"] {
            avahi.serves(name).await;
        }
        let gateway = Gateway::start(&format!(
            "{}\n[upstream.orders]\nservice = \"orders\"\nregistry = \"main\"\nselector = \"round-robin\"\n\n\
             [[route]]\npath = \"/\"\nupstream = \"orders\"\n",
            avahi.registry("{}")
        ));
        service::endpoints(&gateway, 2).await;
        let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
        traffic.more(50).await;
        Self { avahi, gateway, backends, traffic }
    }

    async fn instances(&self, count: usize) {
        until(&format!("{count} instances are claimed"), || async {
            service::source(&self.gateway).await["instances"] == count
        })
        .await;
        self.traffic.more(200).await;
    }

    async fn becomes(&self, origin: &str) {
        service::becomes(&self.gateway, origin).await;
        self.traffic.more(200).await;
    }

    /// A new instance is found, and nothing has failed until then.
    async fn recovers(mut self) {
        let backend = Backend::everywhere("new").await;
        self.avahi.serve("_orders._tcp", "new", backend.address.port(), &[]);
        self.avahi.serves("new").await;
        let since = Instant::now();
        self.backends.push(backend);
        self.traffic.reaches("new", since).await;
        self.traffic.more(200).await;
        self.traffic.stop().await.none_failed();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mdns_killed_costs_no_request() {
    let mut table = Table::start("").await;
    table.avahi.kill9();
    table.traffic.more(500).await;
    table.instances(2).await;
    table.avahi.restart().await;
    table.becomes("live").await;
    table.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mdns_frozen_costs_no_request() {
    let table = Table::start("").await;
    table.avahi.freeze();
    table.traffic.more(500).await;
    table.instances(2).await;
    table.avahi.thaw();
    table.becomes("live").await;
    table.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mdns_restarted_with_its_data_costs_no_request() {
    let mut table = Table::start("").await;
    table.avahi.restart().await;
    table.instances(2).await;
    table.becomes("live").await;
    table.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mdns_restarted_without_its_data_costs_no_request() {
    let mut table = Table::start("").await;
    table.avahi.stop();
    table.avahi.withdraw_all();
    table.avahi.restart().await;
    table.instances(0).await;
    table.recovers().await;
}

/// What a lost credential is elsewhere: the gateway may not listen any more.
#[tokio::test(flavor = "multi_thread")]
async fn mdns_with_its_link_gone_costs_no_request() {
    let table = Table::start("").await;
    table.avahi.network.plug(false);
    table.becomes("frozen").await;
    until("it is told why", || async {
        let failure = &service::source(&table.gateway).await["failure"];
        failure["kind"] == "unavailable"
            && failure["error"].to_string().contains(&table.avahi.network.cable())
    })
    .await;
    table.traffic.more(500).await;
    table.avahi.network.plug(true);
    table.becomes("live").await;
    table.instances(2).await;
    table.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mdns_with_nothing_in_it_costs_no_request() {
    let table = Table::start("").await;
    table.avahi.withdraw_all();
    table.instances(0).await;
    table.traffic.more(500).await;
    table.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mdns_broken_off_costs_no_request() {
    let table = Table::start("").await;
    let somebody = table.avahi.somebody();
    let whole = somebody.announcement(&["_orders", "_tcp"], "third", 9, 60);
    for end in 0..whole.len() {
        somebody.says(&whole[..end]);
    }
    table.traffic.more(500).await;
    table.instances(2).await;
    table.becomes("live").await;
    table.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mdns_answering_garbage_costs_no_request() {
    let table = Table::start("").await;
    let (somebody, port) = (table.avahi.somebody(), table.backends[0].address.port());
    let whole = somebody.announcement(&["_orders", "_tcp"], "third", port, 60);
    let mut random = fastrand::Rng::with_seed(7);
    somebody.says(b"<html>Sign in</html>");
    for _ in 0..2_000 {
        // Any bytes, and an answer with one of its bytes wrong, which may be another whole answer. Not one of those of
        // the address at its end: somebody elsewhere might answer there.
        let bytes: Vec<u8> = (0..random.usize(1..500)).map(|_| random.u8(..)).collect();
        somebody.says(&bytes);
        let mut wrong = whole.clone();
        let at = random.usize(..wrong.len() - 4);
        wrong[at] = wrong[at].wrapping_add(random.u8(1..));
        somebody.says(&wrong);
    }
    table.traffic.more(500).await;
    table.becomes("live").await;
    table.recovers().await;
}

/// A megabyte of answers that nobody asked for.
#[tokio::test(flavor = "multi_thread")]
async fn mdns_answering_a_megabyte_costs_no_request() {
    let table = Table::start("").await;
    let somebody = table.avahi.somebody();
    for number in 0..8_000 {
        somebody.says(&somebody.announcement(
            &["_others", "_tcp"],
            &format!("{number} {}", "x".repeat(50)),
            9,
            60,
        ));
    }
    table.traffic.more(500).await;
    table.instances(2).await;
    table.becomes("live").await;
    table.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mdns_with_as_many_instances_as_a_link_bears_costs_no_request() {
    let block = std::process::id() % 64;
    let ip = |number: u16| format!("100.{}.{}.{}", 64 + block, number >> 8, number & 255);
    let hosts: String = (0..MANY).map(|number| format!("{} h{number}.local\n", ip(number))).collect();
    let table = Table::start(&hosts).await;
    table.avahi.network.own(&format!("100.{}.0.0/16", 64 + block));
    let backend = Backend::everywhere("many").await;
    for number in 0..MANY {
        let host = format!("h{number}.local");
        table.avahi.serve_at(&host, "_orders._tcp", &format!("many {number}"), backend.address.port(), &[]);
    }
    service::endpoints(&table.gateway, usize::from(MANY) + 2).await;
    table.traffic.more(2_000).await;
    let new = Backend::everywhere("new").await;
    table.avahi.serve("_orders._tcp", "new", new.address.port(), &[]);
    service::endpoints(&table.gateway, usize::from(MANY) + 3).await;
    table.traffic.more(2_000).await;
    table.traffic.stop().await.none_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn mdns_flapping_costs_no_request() {
    let mut table = Table::start("").await;
    let backend = Backend::everywhere("flapping").await;
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(5) {
        table.avahi.serve("_orders._tcp", "flapping", backend.address.port(), &[]);
        tokio::time::sleep(Duration::from_millis(200)).await;
        table.avahi.withdraw("flapping");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    table.traffic.more(500).await;
    table.backends.push(backend);
    table.recovers().await;
}

//! What a registry may do without costing a request: the same table for each, with clients that send throughout. An
//! adapter gives what differs, which is its real server. Each case says how many requests there were.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    backend::Backend,
    gateway::{Gateway, until},
    service::{self, CLIENTS},
    tampered::Tampering,
    traffic::Traffic,
};

/// A real server that runs for one test, behind something that can change its answers.
pub trait Registry: Send + Sized {
    /// What counts as many instances.
    const MANY: u16 = 10_000;

    /// With a credential that the gateway has.
    fn start() -> impl Future<Output = Self> + Send;
    /// The table `[registry.main]` of a gateway that reads it, impatiently.
    fn toml(&self) -> String;
    /// Puts an instance of `orders` into it, as soon as that can be done.
    fn register(&mut self, id: &str, address: SocketAddr) -> impl Future<Output = ()> + Send;
    fn withdraw(&mut self, id: &str) -> impl Future<Output = ()> + Send;
    /// All of these, each with so many bytes that say nothing of it.
    fn register_many(
        &mut self,
        addresses: Vec<SocketAddr>,
        padding: usize,
    ) -> impl Future<Output = ()> + Send;
    /// Has what stands between it and the gateway change its answers, or not any more.
    fn tamper(&self, tampering: Tampering);
    /// Ends it without a word.
    fn kill9(&mut self);
    /// Starts it again, with what it held.
    fn restart(&mut self) -> impl Future<Output = ()> + Send;
    /// Starts it again with nothing in it but the gateway's credential.
    fn restart_empty(&mut self) -> impl Future<Output = ()> + Send;
    /// It keeps its connections and does not answer.
    fn freeze(&self);
    fn thaw(&self);
    /// Makes the gateway's credential worth nothing.
    fn revoke(&mut self) -> impl Future<Output = ()> + Send;
    /// Gives the gateway another one, where it finds it by itself.
    fn grant_again(&mut self) -> impl Future<Output = ()> + Send;
}

/// Two instances in a registry, a gateway that has found them, and clients that send.
struct Table<R> {
    registry: R,
    gateway: Gateway,
    backends: Vec<Backend>,
    traffic: Traffic,
}

impl<R: Registry> Table<R> {
    async fn start() -> Self {
        let mut registry = R::start().await;
        let backends = Backend::several(2).await;
        for (number, backend) in backends.iter().enumerate() {
            registry.register(&format!("b{number}"), backend.address).await;
        }
        let gateway = Gateway::start(&format!(
            "{}\n[upstream.orders]\nservice = \"orders\"\nregistry = \"main\"\nselector = \"round-robin\"\n\n\
             [[route]]\npath = \"/\"\nupstream = \"orders\"\n",
            registry.toml()
        ));
        service::endpoints(&gateway, backends.len()).await;
        service::answers(&gateway).await;
        let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
        traffic.more(50).await;
        Self { registry, gateway, backends, traffic }
    }

    /// Waits until the list has this origin, with requests going on all the time.
    async fn becomes(&self, origin: &str) {
        service::becomes(&self.gateway, origin).await;
        self.traffic.more(200).await;
    }

    /// Waits until the list is frozen for this reason.
    async fn fails(&self, kind: &str, text: &str) {
        self.becomes("frozen").await;
        until(text, || async {
            let failure = &service::source(&self.gateway).await["failure"];
            failure["kind"] == kind && failure["error"].as_str().is_some_and(|error| error.contains(text))
        })
        .await;
        self.traffic.more(200).await;
    }

    /// Waits until the registry was heard to claim nothing, which is not believed.
    async fn is_empty(&self) {
        until("the empty answer is heard", || async {
            service::source(&self.gateway).await["instances"] == 0
        })
        .await;
        self.traffic.more(500).await;
    }

    /// A new instance is found, and nothing has failed until then: the requests that were sent.
    async fn recovers(mut self) -> u64 {
        let backend = Backend::start("new").await;
        self.registry.register("new", backend.address).await;
        let since = Instant::now();
        self.backends.push(backend);
        self.traffic.reaches("new", since).await;
        self.traffic.more(200).await;
        self.traffic.stop().await.none_failed().sent
    }
}

pub async fn killed<R: Registry>() -> u64 {
    let mut table = Table::<R>::start().await;
    table.registry.kill9();
    table.fails("unavailable", "").await;
    table.registry.restart().await;
    table.becomes("live").await;
    table.recovers().await
}

pub async fn frozen<R: Registry>() -> u64 {
    let table = Table::<R>::start().await;
    table.registry.freeze();
    table.fails("unavailable", "").await;
    table.registry.thaw();
    table.becomes("live").await;
    table.recovers().await
}

pub async fn restarted_with_its_data<R: Registry>() -> u64 {
    let mut table = Table::<R>::start().await;
    table.registry.restart().await;
    table.becomes("live").await;
    table.recovers().await
}

pub async fn restarted_without_its_data<R: Registry>() -> u64 {
    let mut table = Table::<R>::start().await;
    table.registry.restart_empty().await;
    table.is_empty().await;
    table.recovers().await
}

/// The same with a registry of which the adapter knows that it has just started: its answer is not believed in the first
/// place, and this is why.
pub async fn restarted_without_its_data_and_suspect<R: Registry>(why: &str) -> u64 {
    let mut table = Table::<R>::start().await;
    table.registry.restart_empty().await;
    table.fails("suspect", why).await;
    assert_eq!(service::source(&table.gateway).await["instances"], table.backends.len());
    table.recovers().await
}

pub async fn credential_revoked<R: Registry>() -> u64 {
    let mut table = Table::<R>::start().await;
    table.registry.revoke().await;
    table.fails("denied", "").await;
    table.registry.grant_again().await;
    table.becomes("live").await;
    table.recovers().await
}

pub async fn empty<R: Registry>() -> u64 {
    let mut table = Table::<R>::start().await;
    for number in 0..table.backends.len() {
        table.registry.withdraw(&format!("b{number}")).await;
    }
    table.is_empty().await;
    table.recovers().await
}

pub async fn partial<R: Registry>() -> u64 {
    let table = Table::<R>::start().await;
    table.registry.tamper(Tampering::Cut);
    table.fails("unavailable", "").await;
    table.registry.tamper(Tampering::None);
    table.becomes("live").await;
    table.recovers().await
}

/// An error page with status 200, and then what looks like the registry and is not: both are a failure of this kind.
pub async fn garbage<R: Registry>(kind: &str, headers: &'static str) -> u64 {
    let table = Table::<R>::start().await;
    for (headers, body) in
        [("content-type: text/html\r\n", "<html>Sign in</html>"), (headers, "{\"sign\": \"in\"}")]
    {
        table.registry.tamper(Tampering::Instead(headers, body));
        table.fails(kind, "").await;
    }
    table.registry.tamper(Tampering::None);
    table.becomes("live").await;
    table.recovers().await
}

/// A megabyte of facts that nobody asked for.
pub async fn a_megabyte<R: Registry>() -> u64 {
    let mut table = Table::<R>::start().await;
    let addresses: Vec<SocketAddr> = table.backends.iter().map(|backend| backend.address).collect();
    let others = Backend::several(50).await;
    let all = addresses.into_iter().chain(others.iter().map(|backend| backend.address)).collect();
    table.registry.register_many(all, 20_000).await;
    service::endpoints(&table.gateway, 52).await;
    table.traffic.more(500).await;
    table.backends.extend(others);
    table.recovers().await
}

/// Ten thousand, or as many as the registry can have.
pub async fn ten_thousand<R: Registry>() -> u64 {
    let mut table = Table::<R>::start().await;
    let backend = Backend::everywhere("many").await;
    let port = backend.address.port();
    let address = |number: u16| SocketAddr::from(([127, 1, (number >> 8) as u8, number as u8], port));
    table.registry.register_many((0..R::MANY).map(address).collect(), 0).await;
    service::endpoints(&table.gateway, usize::from(R::MANY) + 2).await;
    table.traffic.more(2_000).await;
    // Whether a request goes to one more of so many is a matter of how many there are.
    let new = Backend::start("new").await;
    table.registry.register("new", new.address).await;
    service::endpoints(&table.gateway, usize::from(R::MANY) + 3).await;
    table.traffic.more(2_000).await;
    table.traffic.stop().await.none_failed().sent
}

/// One instance comes and goes as often as the registry can be written to.
pub async fn flapping<R: Registry>() -> u64 {
    let mut table = Table::<R>::start().await;
    let backend = Backend::start("flapping").await;
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(5) {
        table.registry.register("flapping", backend.address).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        table.registry.withdraw("flapping").await;
    }
    table.traffic.more(500).await;
    table.backends.push(backend);
    table.recovers().await
}

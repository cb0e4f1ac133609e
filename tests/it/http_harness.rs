//! The data plane alone: workers and a catalog that is set by hand.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};
use witgate::{
    catalog::{Catalog, Fixed, Table, Upstream},
    config,
    plugin::{Plugins, SelectorUse, Uses},
    resilience::RetryPolicy,
    server::{Lineup, Listener, Workers},
    telemetry::ProcessMetrics,
    upstream::{
        Endpoint, Evidence, Facts, Offer, OfferPolicy, Publisher, Reader, Report, UpstreamName, Weight,
    },
    worker::{self, Serving},
};

use crate::support::{client::Client, origin::Origin};

/// What an upstream has that says nothing of a selector.
const DEFAULT_SELECTOR: &str = "p2c-ewma";

/// Those that are there.
const SELECTORS: [&str; 3] = [DEFAULT_SELECTOR, "least-request", "consistent-hash"];

/// No plugin has this name.
const NO_PLUGIN: &str = "none";

/// What is listened on and where it leads. Change what the test is about.
pub struct Setup {
    pub listener: config::Listener,
    pub upstreams: Vec<(config::Upstream, Vec<SocketAddr>)>,
    pub routes: Vec<config::Route>,
    pub tcp_routes: Vec<config::TcpRoute>,
    pub rpcx_routes: Vec<config::RpcxRoute>,
    pub workers: usize,
}

impl Setup {
    /// Everything goes to these endpoints.
    pub fn to(origins: &[&Origin]) -> Self {
        let addresses: Vec<SocketAddr> = origins.iter().map(|origin| origin.address).collect();
        Self::to_addresses(&addresses)
    }

    pub fn to_addresses(addresses: &[SocketAddr]) -> Self {
        Self {
            listener: listener(),
            upstreams: vec![(upstream("main"), addresses.to_vec())],
            routes: vec![route("/", "main")],
            tcp_routes: Vec::new(),
            rpcx_routes: Vec::new(),
            workers: 2,
        }
    }

    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The listener takes any connection, and so does this route.
    pub fn for_tcp(self) -> Self {
        self.with(|setup| {
            setup.listener.protocol = config::ListenerProtocol::Tcp;
            setup.tcp_routes = vec![tcp_route(None, "main")];
        })
    }

    /// The listener takes calls of rpcx, and so does this route.
    pub fn for_rpcx(self) -> Self {
        self.with(|setup| {
            setup.listener.protocol = config::ListenerProtocol::Rpcx;
            setup.rpcx_routes = vec![rpcx_route("main")];
        })
    }

    /// The native round robin picks, so that endpoints take turns.
    pub fn in_turns(self) -> Self {
        self.with(|setup| setup.upstream().selector.plugin = NO_PLUGIN.into())
    }

    /// The settings of the first upstream.
    pub fn upstream(&mut self) -> &mut config::Upstream {
        &mut self.upstreams[0].0
    }
}

pub fn listener() -> config::Listener {
    config::Listener {
        protocol: config::ListenerProtocol::Http,
        name: "test".into(),
        address: "127.0.0.1:0".parse().unwrap(),
        tls: None,
        proxy_protocol: vec![],
        access_log: None,
        request_ids: false,
        trusted_proxies: vec![],
        max_connections: 1000,
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
        body_timeout: Duration::from_secs(60),
        write_timeout: Duration::from_secs(60),
        tunnel_idle: Duration::from_secs(3600),
        max_age: None,
        max_header_bytes: 16 * 1024,
    }
}

pub fn upstream(name: &str) -> config::Upstream {
    config::Upstream {
        name: UpstreamName::new(name),
        sources: vec![],
        labels: vec![],
        selector: config::Selector { plugin: DEFAULT_SELECTOR.into(), settings: "{}".into() },
        timeouts: config::Timeouts {
            connect: Duration::from_secs(2),
            response: Some(Duration::from_secs(10)),
            idle: None,
            request: None,
            write: Duration::from_secs(60),
        },
        protocol: config::Protocol::Auto,
        tls: None,
        proxy_protocol: None,
        pool: config::Pool { idle_timeout: Duration::from_secs(60), max_idle: 100, max_http2_connections: 4 },
        retries: RetryPolicy::default(),
        leave: None,
        breaker: None,
        limits: None,
        reliability: config::Reliability::default(),
        offer: OfferPolicy::default(),
    }
}

pub fn route(path: &str, upstream: &str) -> config::Route {
    config::Route {
        name: "route[0]".into(),
        matches: config::Matches { path: path.into(), ..Default::default() },
        strip_prefix: false,
        timeouts: config::RouteTimeouts::default(),
        retries: None,
        repeatable: false,
        heads: config::Heads::default(),
        max_body: None,
        grpc_web: None,
        rate: None,
        target: config::Target::Upstream(UpstreamName::new(upstream)),
    }
}

/// A route of the listener that every gateway here has.
pub fn tcp_route(sni: Option<&str>, upstream: &str) -> config::TcpRoute {
    config::TcpRoute {
        name: "route[0]".into(),
        listeners: vec![listener().name],
        sni: sni.map(Into::into),
        retries: None,
        target: config::Target::Upstream(UpstreamName::new(upstream)),
    }
}

/// The same for calls of rpcx.
pub fn rpcx_route(upstream: &str) -> config::RpcxRoute {
    config::RpcxRoute {
        name: "route[0]".into(),
        listeners: vec![listener().name],
        timeouts: config::RouteTimeouts::default(),
        retries: None,
        repeatable: false,
        target: config::Target::Upstream(UpstreamName::new(upstream)),
    }
}

/// A route that finds services by the name behind `/svc/`.
pub fn route_by_name(pattern: &str) -> config::Route {
    let by_name = config::ByName {
        registry: "main".into(),
        from: config::NameFrom::Path("/svc/".into()),
        pattern: config::NamePattern(regex_lite::Regex::new(pattern).unwrap()),
        services: Default::default(),
        template: Arc::new(upstream("template")),
        max_services: 10,
        unused_after: Duration::from_secs(60),
        first_list_timeout: Duration::from_secs(1),
        unknown_for: Duration::from_secs(1),
    };
    config::Route { target: config::Target::ByName(by_name), ..route("/svc/", "main") }
}

/// A running data plane. Stops when it is dropped.
pub struct Gateway {
    pub address: SocketAddr,
    pub metrics: Arc<ProcessMetrics>,
    pub table: Table,
    publishers: BTreeMap<UpstreamName, Publisher>,
    reports: BTreeMap<UpstreamName, mpsc::Receiver<Report>>,
    fixed: Fixed,
    serving: Option<watch::Sender<Serving>>,
    /// Keeps its counters.
    _listener: Listener,
    workers: Option<Workers>,
    count: usize,
}

impl Gateway {
    pub fn start(setup: Setup) -> Self {
        let metrics = Arc::new(ProcessMetrics::new(setup.workers));
        let bound = Listener::bind(Arc::new(setup.listener), None, setup.workers, &metrics, &[]).unwrap();
        let address = bound.address();
        let (mut publishers, mut reports) = (BTreeMap::new(), BTreeMap::new());
        let mut config = config::Config::empty(PathBuf::new());
        (config.routes, config.tcp_routes) = (setup.routes, setup.tcp_routes);
        config.rpcx_routes = setup.rpcx_routes;
        let mut table = Table::new(Arc::new(config), Default::default(), None);
        for (settings, addresses) in setup.upstreams {
            let name = settings.name.clone();
            let (mut publisher, reader) = Publisher::new(name.clone());
            publisher.publish(addresses.into_iter().map(put).collect(), Instant::now());
            let (upstream, told) = make(settings, reader, setup.workers);
            table.upstreams.insert(name.clone(), upstream);
            reports.insert(name.clone(), told);
            publishers.insert(name, publisher);
        }
        let (catalog, fixed) = Catalog::fixed(table.clone());
        let lineup = Lineup::of(vec![bound.clone()]);
        let (serving, followed) = watch::channel(Serving { table: Arc::new(table.clone()), lineup });
        let counters = metrics.clone();
        let workers = Workers::start(vec![(); setup.workers], move |index, ()| {
            worker::run(index, followed.clone(), catalog.clone(), counters.clone())
        });
        Self {
            address,
            metrics,
            table,
            publishers,
            reports,
            fixed,
            serving: Some(serving),
            _listener: bound,
            workers: Some(workers.unwrap()),
            count: setup.workers,
        }
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    pub fn upstream(&self, name: &str) -> &Arc<Upstream> {
        &self.table.upstreams[&UpstreamName::new(name)]
    }

    /// Changes the list of an upstream. Who is not offered any more has left.
    pub fn offer(&mut self, name: &str, offers: Vec<Offer>) {
        let publisher = self.publishers.get_mut(&UpstreamName::new(name)).unwrap();
        publisher.publish(offers, Instant::now());
        publisher.tell_left(|_| false, Instant::now());
    }

    /// What requests have told of the endpoints of an upstream since this was asked last.
    pub fn told(&mut self, name: &str) -> Vec<(SocketAddr, Evidence)> {
        let reports = self.reports.get_mut(&UpstreamName::new(name)).unwrap();
        std::iter::from_fn(|| reports.try_recv().ok()).map(|told| (told.address, told.evidence)).collect()
    }

    /// Makes this the table that workers use.
    pub fn publish(&mut self, change: impl FnOnce(&mut config::Config)) {
        let mut config = config::Config::clone(&self.table.config);
        change(&mut config);
        self.table = Table::new(Arc::new(config), self.table.upstreams.clone(), Some(&self.table));
        self.serve();
    }

    /// Gives an upstream other settings, as a reload would.
    pub fn replace(&mut self, settings: config::Upstream) {
        let name = settings.name.clone();
        let reader = self.table.upstreams[&name].reader.clone();
        let (upstream, told) = make(settings, reader, self.count);
        self.table.upstreams.insert(name.clone(), upstream);
        self.reports.insert(name, told);
        self.serve();
    }

    fn serve(&self) {
        self.fixed.publish(self.table.clone());
        let table = Arc::new(self.table.clone());
        self.serving.as_ref().unwrap().send_modify(|serving| serving.table = table);
    }

    /// How many connections of clients there are.
    pub fn open(&self) -> u64 {
        self.metrics.listeners()[0].open
    }

    /// Says that the gateway is about to close.
    pub fn leave(&mut self) {
        self.serving.as_ref().unwrap().send_modify(|serving| serving.lineup.leaving = true);
    }

    /// Gives the order to close.
    pub fn close(&mut self, drain: Duration) {
        self.serving.as_ref().unwrap().send_modify(|serving| serving.lineup.close(drain));
    }

    /// Waits until all workers have ended.
    pub async fn ended(&mut self) {
        self.serving.take();
        let workers = self.workers.take().unwrap();
        assert!(tokio::task::spawn_blocking(move || workers.join()).await.unwrap(), "a worker panicked");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.serving.take();
        if let Some(workers) = self.workers.take() {
            workers.join();
        }
    }
}

/// The plugins of all gateways here, with the default selector in force.
fn selectors() -> &'static Plugins {
    static PLUGINS: OnceLock<(Plugins, tempfile::TempDir)> = OnceLock::new();
    let (plugins, _) = PLUGINS.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let plugins = crate::selectors::plugins(folder.path());
        let one = |plugin: &str, settings: &str| {
            let upstream = UpstreamName::new("main");
            (plugin.into(), vec![SelectorUse { upstream, settings: settings.into(), reader: None }])
        };
        let selectors = SELECTORS.map(|plugin| one(plugin, "{}")).into();
        let uses = Uses { selectors, ..Uses::default() };
        // On a thread of its own: the test that comes first is inside a runtime.
        std::thread::scope(|scope| {
            let loading = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(plugins.set_uses(uses));
            });
            loading.join().unwrap();
        });
        for plugin in SELECTORS {
            assert!(plugins.selector(plugin).borrow().is_some(), "{plugin}");
        }
        (plugins, folder)
    });
    plugins
}

pub fn put(address: SocketAddr) -> Offer {
    Offer::Put(Endpoint { address, weight: Weight::ONE, facts: Facts::default() })
}

/// An upstream, and what requests tell of its endpoints.
fn make(
    settings: config::Upstream,
    reader: Reader,
    workers: usize,
) -> (Arc<Upstream>, mpsc::Receiver<Report>) {
    let selector = match &*settings.selector.plugin {
        NO_PLUGIN => watch::channel(None).1,
        plugin => selectors().selector(plugin),
    };
    let (sender, told) = mpsc::channel(1024);
    (Arc::new(Upstream::fixed(Arc::new(settings), reader, selector, sender, workers)), told)
}

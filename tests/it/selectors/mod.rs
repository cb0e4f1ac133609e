//! Every shipped selector, as the component that ships, against what its algorithm promises.
//!
//! Everything is in process: a publisher that the test pushes lists with, and the view of one worker.

mod hash;
mod load;
mod near;
mod retry;
mod shares;
mod slow;
mod swap;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::request::Parts;
use tempfile::TempDir;
use witgate::{
    config::{self, Config},
    connector::{Lent, Memory},
    plugin::{Plugins, SelectorUse, Uses},
    selector::{Current, HttpFacts, PickError, Progress, RequestFacts, View},
    syntax::target::HostAndPath,
    upstream::{Endpoint, Facts, Member, Offer, Publisher, Reader, Slot, UpstreamName, Weight},
};

/// Name and settings.
const SHIPPED: [(&str, &str); 7] = [
    ("round-robin", "{}"),
    ("random", "{}"),
    ("least-request", "{}"),
    ("p2c-ewma", "{}"),
    ("consistent-hash", "{}"),
    ("closest", r#"{"latitude":0,"longitude":0}"#),
    ("latency-weighted", "{}"),
];

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9));

/// What a gateway process has of one upstream, with one worker.
struct Process {
    plugins: Plugins,
    selector: config::Selector,
    publisher: Publisher,
    reader: Reader,
    view: Rc<View>,
    progress: Arc<Progress>,
    current: Current,
    /// Holds the plugins folder.
    folder: TempDir,
}

impl Process {
    /// Starts with a list of endpoints of these weights. Must be called inside a `LocalSet`.
    async fn start(plugin: &str, settings: &str, weights: &[u32]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let plugins = plugins(folder.path());
        let selector = config::Selector { plugin: plugin.into(), settings: settings.into() };
        let (mut publisher, reader) = Publisher::new(UpstreamName::new("orders"));
        publisher.publish((0..).zip(weights).map(|(n, w)| put(n, *w)).collect(), Instant::now());
        let one = SelectorUse {
            upstream: reader.name().clone(),
            settings: selector.settings.clone(),
            reader: Some(reader.clone()),
        };
        plugins.set_uses(Uses { selectors: [(plugin.into(), vec![one])].into(), ..Uses::default() }).await;
        let (view, progress) = worker(&plugins, &selector, &reader);
        let current = plugins.selector(plugin);
        Self { plugins, selector, publisher, reader, view, progress, current, folder }
    }

    /// Publishes, and waits until the worker has caught up.
    async fn publish(&mut self, offers: Vec<Offer>) {
        self.publisher.publish(offers, Instant::now());
        while self.progress.generation() != self.reader.snapshot().generation() {
            tokio::task::yield_now().await;
        }
    }

    /// The endpoint for a request that is like all others.
    fn pick(&self) -> Arc<Member> {
        self.pick_for(&head("/", &[]), CLIENT, &[])
    }

    fn pick_for(&self, head: &Parts, client: IpAddr, tried: &[Slot]) -> Arc<Member> {
        let member = pick(&self.view, head, client, tried).unwrap();
        assert_ne!(self.version(), 0, "the native round robin stood in");
        member
    }

    /// The version of the selector that picks, 0 for the native round robin.
    fn version(&self) -> u64 {
        self.progress.selector_version(&self.current)
    }

    fn member(&self, number: u32) -> Arc<Member> {
        let snapshot = self.reader.snapshot();
        snapshot.iter().find(|member| member.address() == address(number)).unwrap().clone()
    }

    /// How often each endpoint is picked.
    fn count(&self, picks: usize) -> BTreeMap<SocketAddr, usize> {
        tally((0..picks).map(|_| self.pick().address()))
    }
}

/// The endpoint of a view for a request that has just come.
fn pick(view: &View, head: &Parts, client: IpAddr, tried: &[Slot]) -> Result<Arc<Member>, PickError> {
    let asked = HostAndPath::read(head).unwrap();
    let request = Some(HttpFacts { head, asked: &asked, altered: None });
    let facts = RequestFacts { request, client, sni: None };
    view.pick(&facts, tried.len() as u32, tried)
}

/// Plugins from a folder of their own, compiled once for all tests.
pub fn plugins(folder: &Path) -> Plugins {
    let mut config = Config::empty(folder.to_owned());
    config.state = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins");
    // On a busy machine a pick may lose its processor for longer than a gateway would wait.
    config.plugins.selector.pick = Duration::from_secs(30);
    config.plugins.selector.update = Duration::from_secs(30);
    let (memory, _) = Memory::open(folder.join("memory.json"));
    Plugins::start(&config, Arc::new(Lent::new(memory))).unwrap()
}

fn worker(plugins: &Plugins, selector: &config::Selector, reader: &Reader) -> (Rc<View>, Arc<Progress>) {
    let progress = Arc::<Progress>::default();
    let current = plugins.selector(&selector.plugin);
    let view = View::new(reader.clone(), selector.clone(), current, Rc::default(), progress.clone());
    (view, progress)
}

fn address(number: u32) -> SocketAddr {
    SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 8080))
}

fn put(number: u32, weight: u32) -> Offer {
    let weight = Weight::new(weight).unwrap();
    Offer::Put(Endpoint { address: address(number), weight, facts: Facts::default() })
}

fn head(uri: &str, headers: &[(&str, &str)]) -> Parts {
    let builder =
        headers.iter().fold(http::Request::get(uri), |builder, (name, value)| builder.header(*name, *value));
    builder.body(()).unwrap().into_parts().0
}

fn tally<T: Ord>(picks: impl Iterator<Item = T>) -> BTreeMap<T, usize> {
    picks.fold(BTreeMap::new(), |mut counts, picked| {
        *counts.entry(picked).or_default() += 1;
        counts
    })
}

/// How far a share of so many independent draws may be from its expectation.
///
/// By Hoeffding's inequality a share of `n` draws is further away than `t` with a chance of at most
/// `2 exp(-2 n t²)`. This is the `t` for a chance of 1e-9: there are fewer than a thousand such looks in one run, so
/// that a run fails by bad luck less than once in a million.
fn slack(draws: usize) -> f64 {
    ((2.0f64 / 1e-9).ln() / (2.0 * draws as f64)).sqrt()
}

//! The catalog with registries that the test pushes.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::*;
use crate::{
    bindings::wit,
    config::{ByName, NameFrom, NamePattern, Target},
    registry::{BoxFuture, Failure, Registry, Subscription},
    resilience::{BreakerPolicy, RetryPolicy},
    upstream::{Evidence, OfferPolicy, Order, OrderError},
};

/// Services and their addresses; a service that is not listed is answered with an empty list, a name that begins
/// with `down` not at all. Instances of a service that begins with `drained` have weight 0.
#[derive(Clone, Default)]
struct Listed {
    services: Arc<Mutex<HashMap<String, Vec<&'static str>>>>,
    /// Nothing is answered.
    down: Arc<AtomicBool>,
    /// Nothing is answered, and nothing fails.
    silent: Arc<AtomicBool>,
    open: Arc<AtomicUsize>,
}

struct Open {
    first: Option<wit::News>,
    open: Arc<AtomicUsize>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.open.fetch_sub(1, SeqCst);
    }
}

impl Registry for Listed {
    fn follow<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Box<dyn Subscription>, Failure>> {
        let list = self.services.lock().unwrap().get(service).cloned().unwrap_or_default();
        self.open.fetch_add(1, SeqCst);
        let endpoint = |address: &&str| wit::Endpoint {
            weight: u32::from(!service.starts_with("drained")),
            ..wit::plain(*address, *address)
        };
        let first = wit::News::Complete(list.iter().map(endpoint).collect());
        let open = Open { first: Some(first), open: self.open.clone() };
        let down = service.starts_with("down") || self.down.load(SeqCst);
        let silent = self.silent.load(SeqCst);
        Box::pin(async move {
            if silent {
                std::future::pending::<()>().await;
            }
            match down {
                true => Err(Failure::Unavailable("connection refused".into())),
                false => Ok(Box::new(open) as Box<dyn Subscription>),
            }
        })
    }
}

impl Subscription for Open {
    fn next(&mut self) -> BoxFuture<'_, Result<wit::News, Failure>> {
        match self.first.take() {
            Some(news) => Box::pin(async { Ok(news) }),
            None => Box::pin(std::future::pending()),
        }
    }
}

fn settings(name: &str) -> Arc<config::Upstream> {
    Arc::new(config::Upstream {
        name: UpstreamName::new(name),
        sources: vec![config::Source { registry: "main".into(), service: name.into() }],
        labels: vec![],
        selector: config::Selector { plugin: "p2c-ewma".into(), settings: "{}".into() },
        timeouts: config::Timeouts {
            connect: Duration::from_secs(1),
            response: Some(Duration::from_secs(1)),
            idle: None,
            request: None,
            write: Duration::from_secs(1),
        },
        tls: None,
        proxy_protocol: None,
        protocol: config::Protocol::Auto,
        pool: config::Pool { idle_timeout: Duration::from_secs(1), max_idle: 1, max_http2_connections: 1 },
        retries: RetryPolicy::default(),
        leave: None,
        breaker: None,
        limits: None,
        reliability: config::Reliability::default(),
        offer: OfferPolicy::default(),
    })
}

fn by_name() -> ByName {
    ByName {
        registry: "main".into(),
        from: NameFrom::Path("/svc/".into()),
        pattern: NamePattern(regex_lite::Regex::new(".*").unwrap()),
        services: Default::default(),
        template: settings("template"),
        max_services: 2,
        unused_after: Duration::from_secs(600),
        first_list_timeout: Duration::from_millis(50),
        unknown_for: Duration::from_secs(60),
    }
}

fn configured(upstreams: &[&str]) -> Arc<Config> {
    let registry = config::Registry {
        name: "main".into(),
        plugin: "listed".into(),
        grants: crate::connector::Grants::default(),
        settings: "{}".into(),
    };
    let route = config::Route {
        name: "route[0]".into(),
        matches: config::Matches::default(),
        timeouts: config::RouteTimeouts::default(),
        retries: None,
        repeatable: false,
        heads: config::Heads::default(),
        strip_prefix: false,
        max_body: None,
        grpc_web: None,
        rate: None,
        target: Target::ByName(by_name()),
    };
    let mut config = Config::empty(PathBuf::from("."));
    config.registries = BTreeMap::from([("main".to_owned(), Arc::new(registry))]);
    config.upstreams = upstreams.iter().map(|name| (UpstreamName::new(*name), settings(name))).collect();
    config.routes = vec![route];
    Arc::new(config)
}

struct Fixture {
    listed: Listed,
    catalog: Catalog,
    control: Control,
    state: tempfile::TempDir,
}

async fn start(services: &[(&str, &'static str)], upstreams: &[&str]) -> Fixture {
    let listed = Listed::default();
    for (name, address) in services {
        listed.services.lock().unwrap().entry(name.to_string()).or_default().push(*address);
    }
    start_in(tempfile::tempdir().unwrap(), listed, upstreams).await
}

async fn start_in(state: tempfile::TempDir, listed: Listed, upstreams: &[&str]) -> Fixture {
    let registry = listed.clone();
    let parts = Parts {
        selector: Box::new(|_| watch::channel(None).1),
        registry: Box::new(move |_| Arc::new(registry.clone())),
        checks: Box::new(|_, _, _, _| tokio::spawn(async {})),
        intake: crate::registry::Intake::default(),
        tls: Arc::default(),
        disk: Disk::new(state.path()),
        workers: 1,
    };
    let config = configured(upstreams);
    let (catalog, control) = Catalog::start(parts, config.clone());
    control.apply(config).await;
    Fixture { listed, catalog, control, state }
}

impl Fixture {
    /// Stops, and starts again with what is on disk.
    async fn restart(self, upstreams: &[&str]) -> Self {
        let Self { listed, control, state, .. } = self;
        control.close().await;
        start_in(state, listed, upstreams).await
    }

    async fn find(&self, service: &str) -> Result<Arc<Upstream>, FindError> {
        self.catalog.find(&by_name(), service.into()).await
    }
}

/// The configuration with another registry in the place of the one there is.
fn with_registry(name: &str, settings: &str, upstreams: &[&str]) -> Arc<Config> {
    let mut config = Arc::unwrap_or_clone(configured(upstreams));
    let mut registry = Arc::unwrap_or_clone(config.registries.remove("main").unwrap());
    (registry.name, registry.settings) = (name.into(), settings.into());
    config.registries.insert(name.into(), Arc::new(registry));
    for upstream in config.upstreams.values_mut() {
        Arc::make_mut(upstream).sources[0].registry = name.into();
    }
    Arc::new(config)
}

fn addresses(upstream: &Upstream) -> Vec<String> {
    let mut addresses: Vec<_> =
        upstream.reader.snapshot().iter().map(|member| member.address().to_string()).collect();
    addresses.sort();
    addresses
}

#[tokio::test]
async fn made_up_names_in_an_outage_keep_no_service_out_that_has_a_list_on_disk() {
    let fixture = start(&[("a", "10.0.0.1:80"), ("b", "10.0.0.2:80")], &[]).await;
    for service in ["a", "b"] {
        fixture.find(service).await.unwrap();
    }
    fixture.listed.down.store(true, SeqCst);
    let fixture = fixture.restart(&[]).await;
    for number in 0..3 {
        let name = format!("made-up-{number}");
        assert_eq!(fixture.find(&name).await.err(), Some(FindError::NotYet(name.as_str().into())));
    }
    let mut followed: Vec<_> = fixture.catalog.found().keys().map(ToString::to_string).collect();
    followed.sort();
    assert_eq!(followed, ["made-up-1@main", "made-up-2@main"], "the oldest gave way");
    assert_eq!(addresses(&fixture.find("a").await.unwrap()), ["10.0.0.1:80"]);
    assert_eq!(addresses(&fixture.find("b").await.unwrap()), ["10.0.0.2:80"]);
    let answer = fixture.find("made-up-3").await;
    assert_eq!(answer.err(), Some(FindError::TooMany(2)), "what has a list gives way to nothing");
    assert_eq!(fixture.catalog.found().len(), 2);
}

#[tokio::test]
async fn a_service_found_by_name_keeps_its_list_when_its_registry_is_configured_otherwise() {
    let fixture = start(&[("a", "10.0.0.1:80")], &[]).await;
    fixture.find("a").await.unwrap();
    fixture.listed.down.store(true, SeqCst);
    fixture.control.apply(with_registry("main", r#"{"other":1}"#, &[])).await;
    // It is on disk though nobody waited for that.
    assert_eq!(addresses(&fixture.find("a").await.unwrap()), ["10.0.0.1:80"]);
}

#[tokio::test]
async fn a_service_found_by_name_goes_on_when_its_route_says_something_else() {
    let fixture = start(&[("a", "10.0.0.1:80")], &[]).await;
    let before = fixture.find("a").await.unwrap();
    let apply = async |change: &dyn Fn(&mut ByName)| {
        let mut config = Arc::unwrap_or_clone(configured(&[]));
        let Target::ByName(route) = &mut config.routes[0].target else { unreachable!("it is by name") };
        change(route);
        fixture.control.apply(Arc::new(config)).await;
    };
    apply(&|route| Arc::make_mut(&mut route.template).breaker = Some(BreakerPolicy::default())).await;
    let after = fixture.catalog.found()[before.name()].clone();
    assert!(after.config.breaker.is_some() && after.breaker.is_some());
    assert!(Arc::ptr_eq(&before.metrics, &after.metrics), "it is the same, with other settings");

    apply(&|route| {
        Arc::make_mut(&mut route.template).breaker =
            Some(BreakerPolicy { free: 9, ..BreakerPolicy::default() });
    })
    .await;
    let last = fixture.catalog.found()[before.name()].clone();
    assert!(
        Arc::ptr_eq(after.breaker.as_ref().unwrap(), last.breaker.as_ref().unwrap()),
        "nothing is forgotten"
    );

    // What concerns nobody but the list of services is taken over, too.
    apply(&|route| route.unused_after = Duration::ZERO).await;
    while !fixture.catalog.found().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_registry_that_takes_over_and_does_not_answer_changes_nothing() {
    // A state directory that cannot be written makes no difference.
    let state = tempfile::tempdir().unwrap();
    std::fs::write(state.path().join("lists"), "in the way").unwrap();
    let services = HashMap::from([("orders".to_owned(), vec!["10.0.0.1:80"])]);
    let listed = Listed { services: Arc::new(Mutex::new(services)), ..Listed::default() };
    let fixture = start_in(state, listed, &["orders"]).await;
    fixture.listed.down.store(true, SeqCst);
    let orders = |fixture: &Fixture| fixture.catalog.table().upstreams[&UpstreamName::new("orders")].clone();
    fixture.control.apply(with_registry("other", "{}", &["orders"])).await;
    assert_eq!(addresses(&orders(&fixture)), ["10.0.0.1:80"]);
    fixture.control.apply(with_registry("third", "{}", &["orders"])).await;
    assert_eq!(addresses(&orders(&fixture)), ["10.0.0.1:80"]);
}

#[tokio::test]
async fn a_service_that_is_drained_is_found_and_says_so() {
    let fixture = start(&[("drained", "10.0.0.1:80")], &[]).await;
    let found = fixture.find("drained").await.unwrap();
    assert!(found.reader.snapshot().is_empty() && found.status().drained);
}

/// The list as it is on disk, once nobody writes it any more.
fn saved(state: &Path, upstream: &str) -> Option<crate::upstream::Saved> {
    Disk::new(state).take(&UpstreamName::new(upstream)).load().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_never_put_in_force_leaves_the_list_to_what_runs() {
    let fixture = start(&[("orders", "10.0.0.1:80")], &["orders"]).await;
    fixture.listed.silent.store(true, SeqCst);
    // Prepared, and given up while the first list is waited for.
    let apply = fixture.control.apply(with_registry("other", "{}", &["orders"]));
    let _ = tokio::time::timeout(Duration::from_millis(1), apply).await;
    let state = fixture.state;
    fixture.control.close().await;
    let saved = saved(state.path(), "orders").unwrap();
    assert_eq!(&*saved.sources[0].registry, "main");
    assert_eq!(saved.sources[0].state.claims.len(), 1);
}

#[tokio::test]
async fn a_table_is_published_when_its_upstreams_have_their_first_list() {
    let fixture = start(&[("orders", "10.0.0.1:80")], &["orders"]).await;
    let table = fixture.catalog.table();
    assert_eq!(table.upstreams[&UpstreamName::new("orders")].reader.snapshot().len(), 1);
}

#[tokio::test]
async fn an_upstream_that_did_not_change_stays_the_same_when_another_comes() {
    let fixture = start(&[("orders", "10.0.0.1:80")], &["orders"]).await;
    let before = fixture.catalog.table().upstreams[&UpstreamName::new("orders")].clone();
    fixture.control.apply(configured(&["orders", "users"])).await;
    let table = fixture.catalog.table();
    assert!(Arc::ptr_eq(&before, &table.upstreams[&UpstreamName::new("orders")]));
    assert_eq!(table.upstreams.len(), 2);

    fixture.control.apply(configured(&["users"])).await;
    assert_eq!(fixture.catalog.table().upstreams.len(), 1);
    let mut generations = before.reader.follow().1;
    assert!(generations.changed().await.is_err(), "an upstream that was removed closes");
}

#[tokio::test]
async fn a_registry_changed_right_after_the_list_starts_from_that_list() {
    let fixture = start(&[("orders", "10.0.0.1:80")], &["orders"]).await;
    fixture.listed.services.lock().unwrap().clear();
    let mut config = Arc::unwrap_or_clone(configured(&["orders"]));
    let registry = Arc::make_mut(config.registries.get_mut("main").unwrap());
    registry.settings = r#"{"other":1}"#.into();
    fixture.control.apply(Arc::new(config)).await;
    let table = fixture.catalog.table();
    let orders = &table.upstreams[&UpstreamName::new("orders")];
    let address = |list: Arc<crate::upstream::Snapshot>| list.iter().next().map(|member| member.address());
    assert_eq!(orders.status().sources[0].claims, 0, "the other registry knows of nothing");
    assert_eq!(address(orders.reader.snapshot()), Some("10.0.0.1:80".parse().unwrap()));
}

#[tokio::test]
async fn a_service_is_found_by_its_name() {
    let fixture = start(&[("orders", "10.0.0.1:80")], &[]).await;
    let found = fixture.catalog.find(&by_name(), "orders".into()).await.unwrap();
    assert_eq!(found.name().as_str(), "orders@main");
    assert_eq!(found.reader.snapshot().len(), 1);
    let again = fixture.catalog.find(&by_name(), "orders".into()).await.unwrap();
    assert!(Arc::ptr_eq(&found, &again));
}

#[tokio::test]
async fn unknown_names_are_remembered_and_leave_nothing_behind() {
    let fixture = start(&[("orders", "10.0.0.1:80")], &[]).await;
    for number in 0..1_000 {
        let service: Arc<str> = format!("no-such-{number}").into();
        let answer = fixture.catalog.find(&by_name(), service.clone()).await;
        assert_eq!(answer.err(), Some(FindError::Unknown(service)));
    }
    let again = fixture.catalog.find(&by_name(), "no-such-0".into()).await;
    assert_eq!(again.err(), Some(FindError::Unknown("no-such-0".into())));
    while fixture.listed.open.load(SeqCst) > 0 || !fixture.catalog.found().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(fixture.catalog.find(&by_name(), "orders".into()).await.is_ok());
}

#[tokio::test]
async fn a_registry_that_is_down_is_not_an_unknown_name() {
    let fixture = start(&[], &[]).await;
    let answer = fixture.catalog.find(&by_name(), "down".into()).await;
    assert_eq!(answer.err(), Some(FindError::NotYet("down".into())));
    assert_eq!(fixture.catalog.found().len(), 1, "still followed");
}

#[tokio::test]
async fn no_more_services_are_followed_than_the_route_allows() {
    let fixture = start(&[("a", "10.0.0.1:80"), ("b", "10.0.0.1:80"), ("c", "10.0.0.1:80")], &[]).await;
    assert!(fixture.catalog.find(&by_name(), "a".into()).await.is_ok());
    assert!(fixture.catalog.find(&by_name(), "b".into()).await.is_ok());
    let answer = fixture.catalog.find(&by_name(), "c".into()).await;
    assert_eq!(answer.err(), Some(FindError::TooMany(2)));
}

#[tokio::test]
async fn a_service_nobody_asks_for_is_dropped() {
    let fixture = start(&[("orders", "10.0.0.1:80")], &[]).await;
    let impatient = ByName { unused_after: Duration::ZERO, ..by_name() };
    let found = fixture.catalog.find(&impatient, "orders".into()).await.unwrap();
    let mut generations = found.reader.follow().1;
    assert!(generations.changed().await.is_err());
    assert!(fixture.catalog.found().is_empty());
}

#[tokio::test]
async fn closing_ends_every_watch() {
    let fixture = start(&[("orders", "10.0.0.1:80")], &["orders"]).await;
    fixture.control.close().await;
    let answer = fixture.catalog.find(&by_name(), "orders".into()).await;
    assert!(answer.is_err());
    assert_eq!(fixture.listed.open.load(SeqCst), 0);
}

async fn running(services: &[(&str, &'static str)]) -> (Fixture, Arc<Upstream>) {
    let fixture = start(services, &["orders"]).await;
    let upstream = fixture.catalog.table().upstreams[&UpstreamName::new("orders")].clone();
    (fixture, upstream)
}

#[tokio::test]
async fn an_endpoint_that_refuses_connections_leaves_by_reports() {
    let services = [("orders", "127.0.0.1:1"), ("orders", "127.0.0.1:2"), ("orders", "127.0.0.1:3")];
    let (_fixture, upstream) = running(&services).await;
    let member = upstream.reader.snapshot().iter().next().unwrap().clone();
    let mut generations = upstream.reader.follow().1;
    upstream.evidence().send(member.address(), member.stats(), Evidence::Answered, None);
    assert!(!member.stats().is_suspected());
    upstream.evidence().send(member.address(), member.stats(), Evidence::ConnectFailed, None);
    generations.changed().await.unwrap();
    assert!(upstream.reader.snapshot().iter().all(|other| other.address() != member.address()));
    upstream.evidence().send(member.address(), member.stats(), Evidence::Answered, None);
    generations.changed().await.unwrap();
    assert_eq!(upstream.reader.snapshot().len(), 3);
}

#[tokio::test]
async fn orders_are_answered_until_the_upstream_is_gone() {
    let (fixture, upstream) = running(&[("orders", "10.0.0.1:80")]).await;
    assert_eq!(upstream.order(Order::Unpin).await, Err(OrderError::NotPinned));
    assert_eq!(upstream.order(Order::Pin).await, Ok(()));
    assert!(upstream.status().pin.is_some());
    fixture.control.close().await;
    assert_eq!(upstream.order(Order::Unpin).await, Err(OrderError::Gone));
}

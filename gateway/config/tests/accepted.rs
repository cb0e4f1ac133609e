//! What a right configuration becomes.

use std::{fs, path::PathBuf, time::Duration};

use super::{parse, running};
use crate::{
    config::{
        ByName, HttpProbe, Limits, NameFrom, Probe, Protocol, RateBy, Reliability, RouteRate, Secret, Target,
        Timeouts, load,
    },
    connector::{Grants, memory},
    resilience::{
        BackupAfter, Bounds, BreakerPolicy, Cause, Causes, MOST_IN_FLIGHT, Mode, Rate, RetryPolicy,
    },
    upstream::{OfferPolicy, Subset, UpstreamName, Zones},
};

/// As documented.
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(1),
    response: Some(Duration::from_secs(30)),
    idle: None,
    request: None,
    write: Duration::from_secs(60),
};

const MS_5: Option<Duration> = Some(Duration::from_millis(5));

fn by_name(target: &Target) -> &ByName {
    match target {
        Target::ByName(by_name) => by_name,
        other => panic!("{other:?} is no route by name"),
    }
}

#[test]
fn what_is_left_out_has_its_documented_default() {
    let config = running("");

    assert!(config.workers >= 1);
    assert_eq!(config.admin.address, Some("127.0.0.1:9901".parse().unwrap()));
    assert_eq!((config.admin.registrations, config.admin.access), (None, crate::config::Access::default()));
    assert_eq!(config.state, PathBuf::from("state"));
    assert_eq!(config.plugins.directory, PathBuf::from("plugins"));
    assert_eq!((config.plugins.memory_bytes, config.plugins.selector.memory_bytes), (8_192 << 20, 64 << 20));
    assert_eq!(&*config.listeners[0].name, "127.0.0.1:8080");
    let listener = &config.listeners[0];
    assert_eq!((listener.header_timeout.as_secs(), listener.idle_timeout.as_secs()), (10, 60));
    assert_eq!((listener.body_timeout.as_secs(), listener.write_timeout.as_secs()), (60, 60));
    assert_eq!(listener.tunnel_idle, Duration::from_secs(3600));
    assert_eq!(listener.max_age, None);
    let upstream = &config.upstreams[&UpstreamName::new("a")];
    assert_eq!((&*upstream.selector.plugin, &*upstream.selector.settings), ("p2c-ewma", "{}"));
    assert_eq!(upstream.timeouts, TIMEOUTS);
    assert_eq!((upstream.protocol, upstream.pool.max_http2_connections), (Protocol::Auto, 4));
    assert_eq!(upstream.retries, RetryPolicy::default());
    assert_eq!(upstream.leave, None);
    assert_eq!((&upstream.breaker, upstream.limits), (&None, None));
    assert_eq!(upstream.reliability, Reliability::default());
}

#[test]
fn limits_are_what_is_written_and_their_documented_defaults() {
    let config = running(
        "[upstream.c]
         service = 'c'
         registry = 'memory'
         breaker = true
         limits = { max_in_flight = 5 }
         [upstream.d]
         service = 'd'
         registry = 'memory'
         breaker = { k = 2, free_requests = 50, statuses = [503] }
         limits = { max_in_flight_per_endpoint = 7, queue = 20, queue_ms = 5 }
         [upstream.e]
         service = 'e'
         registry = 'memory'
         breaker = false
         limits = { max_in_flight = 100, adaptive = true }
         [[route]]
         path = '/c'
         upstream = 'c'
         max_body_bytes = 0
         rate = { requests = 100 }
         [[route]]
         path = '/d'
         upstream = 'd'
         rate = { requests = 1, per_secs = 60, burst = 5, by = 'header:X-User', max_keys = 8 }
         [[route]]
         path = '/svc/{service}'
         registry = 'memory'
         breaker = true
         limits = { max_in_flight = 3 }",
    );
    let of = |name: &str| &config.upstreams[&UpstreamName::new(name)];
    let fixed = |limit| Bounds { min: limit, max: limit };
    let half_a_second = Duration::from_millis(500);
    let limits = |bounds| Limits { bounds, per_endpoint: None, queue: 0, queue_time: half_a_second };
    assert_eq!(of("c").breaker, Some(BreakerPolicy::default()));
    assert_eq!(of("c").limits, Some(limits(fixed(5))));
    assert_eq!(of("d").breaker, Some(BreakerPolicy { k: 2.0, free: 50, statuses: [503].into() }));
    let queue_time = Duration::from_millis(5);
    let none = fixed(MOST_IN_FLIGHT);
    assert_eq!(of("d").limits, Some(Limits { bounds: none, per_endpoint: Some(7), queue: 20, queue_time }));
    assert_eq!((&of("e").breaker, of("e").limits), (&None, Some(limits(Bounds { min: 10, max: 100 }))));

    let route = |path: &str| config.routes.iter().find(|route| &*route.matches.path == path).unwrap();
    let rate = Rate { requests: 100, per: Duration::from_secs(1), burst: 100 };
    assert_eq!(route("/c").rate, Some(RouteRate { rate, by: RateBy::Client, max_keys: 10_000 }));
    assert_eq!((route("/c").max_body, route("/d").max_body), (Some(0), None));
    let rate = Rate { requests: 1, per: Duration::from_secs(60), burst: 5 };
    let by = RateBy::Header("x-user".parse().unwrap());
    assert_eq!(route("/d").rate, Some(RouteRate { rate, by, max_keys: 8 }));
    let template = &by_name(&route("/svc/").target).template;
    assert_eq!(template.limits, Some(limits(fixed(3))));
    assert_eq!(template.breaker, Some(BreakerPolicy::default()));
}

#[test]
fn the_embedded_registry_is_there_unless_another_is_named() {
    let config = running("");
    let registry = &config.registries["memory"];
    assert_eq!((&*registry.plugin, &*registry.settings), ("memory", "{}"));
    assert_eq!(registry.grants, Grants { memory: Some(memory::Grant), ..Grants::default() });

    let config = parse("[[listener]]\naddress = \"[::]:80\"\n[registry.fixed]\nplugin = \"static\"").unwrap();
    assert_eq!(config.registries.keys().collect::<Vec<_>>(), ["fixed"]);
}

#[test]
fn how_requests_are_shared_depends_on_which_gateway_this_is() {
    let text = "
        [gateway]
        zone = 'eu-1a'
        id = 'edge-1'
        [upstream.c]
        service = 'c'
        registry = 'memory'
        slow_start_secs = 30
        zone_aware = true
        priority_threshold = 0.5
        subset = { size = 20 }
        [[route]]
        path = '/svc/{service}'
        registry = 'memory'
        zone_aware = { min_endpoints = 2 }
        subset = { size = 20 }
    ";
    let config = running(text);
    let upstream = &config.upstreams[&UpstreamName::new("c")];
    let subset = Some(Subset { place: 1 << 63, size: 20 });
    let zones = |min_endpoints| Some(Zones { own: "eu-1a".into(), min_endpoints });
    let slow_start = Some(Duration::from_secs(30));
    assert_eq!(upstream.offer, OfferPolicy { slow_start, zones: zones(6), subset });
    assert_eq!(upstream.reliability.health.priority_threshold, 0.5);
    let found = &by_name(&config.routes[0].target).template.offer;
    assert_eq!(*found, OfferPolicy { slow_start: None, zones: zones(2), subset });
    assert_eq!(config.upstreams[&UpstreamName::new("a")].offer, OfferPolicy::default());

    let off = "[upstream.c]\nservice = 'c'\nregistry = 'memory'\nzone_aware = false\nsubset = { size = 3 }";
    let config = running(off);
    let offer = &config.upstreams[&UpstreamName::new("c")].offer;
    assert_eq!((&offer.zones, offer.subset.map(|subset| subset.size)), (&None, Some(3)));
}

#[test]
fn dns_servers_have_port_53_unless_another_is_written() {
    assert!(running("").dns_servers.is_empty());
    let config = running("[resolver]\nservers = ['10.0.0.53', '::1', '[::1]:5353', '10.0.0.53:54']");
    let servers: Vec<_> = config.dns_servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["10.0.0.53:53", "[::1]:53", "[::1]:5353", "10.0.0.53:54"]);
}

#[test]
fn settings_of_plugins_become_json() {
    let config = running(
        "[upstream.c]
         service = 'c'
         registry = 'memory'
         selector = { plugin = 'own', settings = { z = 1, a = [1.5, true, 'x'], deep = { er = {} } } }",
    );
    let selector = &config.upstreams[&UpstreamName::new("c")].selector;
    assert_eq!(&*selector.settings, r#"{"a":[1.5,true,"x"],"deep":{"er":{}},"z":1}"#);
}

#[test]
fn connectors_are_granted_by_being_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("etcd.pass"), "secret\r\n").unwrap();
    let text = "
        [[listener]]
        address = '127.0.0.1:0'
        [registry.main]
        plugin = 'etcd'
        file = { path = 'lists' }
        memory = {}
        [registry.main.etcd]
        endpoints = ['https://etcd-1:2379/', '[::1]:2379']
        user = 'gateway'
        password_file = 'etcd.pass'
        tls = { ca_file = 'ca.pem', cert_file = '/certs/a.pem', key_file = '/certs/a.key', server_name = 'etcd' }
        [registry.other]
        plugin = 'own'
        memory = false
        file = '/etc/services.json'
    ";
    let path = folder.path().join("witgate.toml");
    fs::write(&path, text).unwrap();
    let config = load(&path).unwrap_or_else(|problems| panic!("{problems}"));

    let grants = &config.registries["main"].grants;
    let etcd = grants.etcd.as_ref().unwrap();
    let tls = etcd.tls.as_ref().unwrap();
    assert_eq!(grants.memory, Some(memory::Grant));
    assert_eq!(grants.file, Some(folder.path().join("lists")));
    assert_eq!(etcd.endpoints, ["etcd-1:2379", "[::1]:2379"]);
    assert_eq!(etcd.credentials, Some(("gateway".into(), Secret("secret".into()))));
    assert_eq!(tls.ca_file, folder.path().join("ca.pem"));
    assert_eq!(tls.certificate, Some(("/certs/a.pem".into(), "/certs/a.key".into())));
    assert_eq!(tls.server_name.as_deref(), Some("etcd"));
    let other = Grants { file: Some("/etc/services.json".into()), ..Grants::default() };
    assert_eq!(config.registries["other"].grants, other);
}

#[test]
fn the_admin_listener_can_be_off_or_ask_for_tokens() {
    let config = parse("[[listener]]\naddress = '127.0.0.1:80'\n[admin]\naddress = 'off'").unwrap();
    assert_eq!(config.admin.address, None);

    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("token"), "opensesame\n").unwrap();
    let text = "
        [[listener]]
        address = '127.0.0.1:80'
        [admin]
        address = '0.0.0.0:9901'
        token_file = 'token'
        registrations = { address = '0.0.0.0:9902', token_file = 'token',
                          discovery = { env = 'prod', from = ['10.0.0.0/8'] },
                          eureka = { from = ['10.0.0.0/8'] },
                          consul = { from = ['10.0.0.0/8'] },
                          nacos = { from = ['10.0.0.0/8'] } }
    ";
    let config = crate::config::parse(text, &folder.path().join("witgate.toml")).unwrap();
    assert_eq!(config.admin.access.token, Some(Secret("opensesame".into())));
    let access = config.admin.registrations.unwrap().access;
    assert_eq!(access.token, Some(Secret("opensesame".into())));
    let discovery = access.discovery.unwrap();
    assert_eq!(discovery.env, "prod");
    let exempt =
        ["10.1.2.3", "::ffff:10.1.2.3", "11.0.0.1"].map(|ip| discovery.needs_no_token(ip.parse().unwrap()));
    assert_eq!(exempt, [true, true, false]);
    let eureka = access.eureka.unwrap();
    let exempt = ["10.1.2.3", "11.0.0.1"].map(|ip| eureka.needs_no_token(ip.parse().unwrap()));
    assert_eq!(exempt, [true, false]);
    let consul = access.consul.unwrap();
    let exempt = ["10.1.2.3", "11.0.0.1"].map(|ip| consul.needs_no_token(ip.parse().unwrap()));
    assert_eq!((exempt, &*consul.datacenter), ([true, false], "dc1"));
    let nacos = access.nacos.unwrap();
    let exempt = ["10.1.2.3", "11.0.0.1"].map(|ip| nacos.needs_no_token(ip.parse().unwrap()));
    assert_eq!(exempt, [true, false]);
}

#[test]
fn routes_lead_to_an_upstream_or_to_shares_of_several() {
    let config = running("[[route]]\nupstream = 'a'\n[[route]]\npath = '/x'\nupstream = { b = 9, a = 1 }");
    assert_eq!(config.routes[1].target, Target::Upstream(UpstreamName::new("a")));
    let shares = vec![(UpstreamName::new("a"), 1), (UpstreamName::new("b"), 9)];
    assert_eq!(config.routes[0].target, Target::Weighted(shares));
    assert_eq!(&*config.routes[0].name, "route[1]");
}

#[test]
fn hosts_and_headers_are_in_the_form_of_requests() {
    let config = running(
        "[[route]]
         host = '*.Example.COM'
         header = { X-Env = 'Canary', x-any = true }
         upstream = 'a'",
    );
    let matches = &config.routes[0].matches;
    assert_eq!(matches.host.as_deref(), Some("*.example.com"));
    let headers: Vec<_> =
        matches.headers.iter().map(|h| (h.name.as_str(), h.value.as_ref().map(|v| v.as_bytes()))).collect();
    assert_eq!(headers, [("x-any", None), ("x-env", Some(&b"Canary"[..]))]);
}

#[test]
fn a_route_can_take_the_name_of_a_service_from_the_path() {
    let config = running("[[route]]\npath = '/svc/{service}'\nregistry = 'memory'\nstrip_prefix = true");
    let route = by_name(&config.routes[0].target);

    assert_eq!(&*config.routes[0].matches.path, "/svc/");
    assert_eq!(route.from, NameFrom::Path("/svc/".into()));
    assert_eq!(&*route.registry, "memory");
    assert_eq!((route.max_services, route.unused_after), (1000, Duration::from_secs(600)));
    assert!(route.pattern.0.is_match("orders.rpc-2"));
    for name in ["", ".", "-a", "a/b", "a@b", "a b", "orders\n", &"x".repeat(129)] {
        assert!(!route.pattern.0.is_match(name), "{name:?}");
    }
}

#[test]
fn a_route_by_header_is_for_requests_that_have_it() {
    let config = running(
        "[[route]]
         service_header = 'X-Service'
         registry = 'memory'
         pattern = 'a|b'
         labels = { zone = 'x' }
         selector = 'random'
         timeouts = { response_ms = 5 }
         protocol = 'http2'
         pool = { max_idle = 0, max_http2_connections = 1 }
         retries = 0
         leave_ms = 5",
    );
    let route = by_name(&config.routes[0].target);

    assert_eq!(route.from, NameFrom::Header("x-service".parse().unwrap()));
    assert_eq!(config.routes[0].matches.headers[0].name, "x-service");
    assert_eq!((route.pattern.0.is_match("b"), route.pattern.0.is_match("ab")), (true, false));
    let template = &route.template;
    assert_eq!(template.labels, [("zone".to_owned(), "x".to_owned())]);
    assert_eq!((&*template.selector.plugin, template.retries.most, template.pool.max_idle), ("random", 0, 0));
    assert_eq!((template.protocol, template.pool.max_http2_connections), (Protocol::Http2, 1));
    assert_eq!(template.leave, MS_5);
    assert_eq!(config.routes[0].timeouts.over(&template.timeouts), Timeouts { response: MS_5, ..TIMEOUTS });
}

#[test]
fn every_wait_has_its_time_and_0_is_no_limit_where_there_may_be_none() {
    let config = running(
        "[upstream.c]
         service = 'c'
         registry = 'memory'
         timeouts = { connect_ms = 5, response_ms = 0, idle_ms = 5, request_ms = 5, write_ms = 5 }
         leave_ms = 5
         [upstream.d]
         service = 'd'
         registry = 'memory'
         leave_ms = 0",
    );
    let leave = |name| config.upstreams[&UpstreamName::new(name)].leave;
    assert_eq!((leave("c"), leave("d")), (MS_5, None));
    let times = config.upstreams[&UpstreamName::new("c")].timeouts;
    let expected =
        Timeouts { connect: MS_5.unwrap(), response: None, idle: MS_5, request: MS_5, write: MS_5.unwrap() };
    assert_eq!(times, expected);
}

#[test]
fn times_of_a_route_are_in_the_place_of_those_of_its_upstream() {
    let upstream = Timeouts { idle: MS_5, ..TIMEOUTS };
    let check = |timeouts: &str, expected: Timeouts| {
        let config = running(&format!("[[route]]\nupstream = 'a'\ntimeouts = {timeouts}"));
        assert_eq!(config.routes[0].timeouts.over(&upstream), expected, "{timeouts}");
    };
    check("{}", upstream);
    check("{ response_ms = 0, idle_ms = 0 }", Timeouts { response: None, idle: None, ..upstream });
    check("{ request_ms = 5 }", Timeouts { request: MS_5, ..upstream });
}

#[test]
fn routes_by_name_to_one_registry_may_differ_in_the_times_of_requests() {
    let config = running(
        "[[route]]
         path = '/svc/{service}'
         registry = 'memory'
         timeouts = { connect_ms = 5, write_ms = 5 }
         [[route]]
         path = '/poll/{service}'
         registry = 'memory'
         timeouts = { connect_ms = 5, write_ms = 5, response_ms = 0 }",
    );
    let connections = Timeouts { connect: MS_5.unwrap(), write: MS_5.unwrap(), ..TIMEOUTS };
    for (route, response) in [("/svc/", TIMEOUTS.response), ("/poll/", None)] {
        let route = config.routes.iter().find(|found| &*found.matches.path == route).unwrap();
        let times = route.timeouts.over(&by_name(&route.target).template.timeouts);
        assert_eq!(times, Timeouts { response, ..connections });
    }
}

#[test]
fn a_file_that_is_not_there_is_a_problem_like_any_other() {
    let problems = load("no/such/file.toml".as_ref()).unwrap_err();
    assert_eq!(problems.list().len(), 1);
    let text = problems.to_string();
    assert!(text.starts_with("no/such/file.toml: the configuration cannot be read: "), "{text}");
    assert!(text.ends_with("1 problem in no/such/file.toml"), "{text}");
}

#[test]
fn trust_is_that_of_the_upstream_then_that_of_the_registry() {
    let config = running(
        "[registry.memory]
         plugin = 'memory'
         memory = true
         trust = { max_drop = 0.2, window_secs = 30 }
         [registry.other]
         plugin = 'static'
         [upstream.c]
         sources = [{ registry = 'memory', service = 'c' }, { registry = 'other', service = 'c' }]
         trust = { max_drop = 1, confirm_all_secs = 600 }
         [[route]]
         path = '/found/{service}'
         registry = 'memory'",
    );
    let reliability = &config.upstreams[&UpstreamName::new("c")].reliability;
    let (main, other) = (reliability.registries["memory"], reliability.trust);
    assert_eq!((main.max_drop, main.window.as_secs()), (1.0, 30));
    assert_eq!((other.max_drop, other.window.as_secs()), (1.0, 60));
    assert_eq!(main.confirm_all, Some(Duration::from_secs(600)));
    assert_eq!(main.confirm, Duration::from_secs(300));
    assert!(!reliability.registries.contains_key("other"));
    let strange = running(
        "[registry.memory]
         plugin = 'memory'
         memory = true
         [registry.other]
         plugin = 'static'
         trust = { max_drop = 0.2 }",
    );
    let reliability = &strange.upstreams[&UpstreamName::new("a")].reliability;
    assert_eq!(*reliability, Reliability::default(), "it does not read that registry");
    let found = config.routes.iter().find(|route| &*route.matches.path == "/found/").unwrap();
    assert_eq!(by_name(&found.target).template.reliability.registries["memory"].max_drop, 0.2);
}

#[test]
fn health_and_checks_are_those_of_the_upstream_or_the_route() {
    let config = running(
        "[upstream.c]
         service = 'c'
         registry = 'memory'
         health = { connect_failures = 1, max_ejected = 1, grace_ms = 0 }
         check = { tcp = true, interval_ms = 1000, fall = 1, rise = 4 }
         [[route]]
         path = '/found/{service}'
         registry = 'memory'
         check = { http = { path = '/health', status = '200', body = 'orders', header = { X-Service = 'orders' } } }",
    );
    let reliability = &config.upstreams[&UpstreamName::new("c")].reliability;
    let health = reliability.health;
    assert_eq!((health.connect_failures, health.failures, health.max_ejected), (1, 5, 1.0));
    assert_eq!((health.fall, health.rise, health.grace), (1, 4, Duration::ZERO));
    assert_eq!((&reliability.check.probe, reliability.check.interval.as_secs()), (&Some(Probe::Tcp), 1));
    let found = config.routes.iter().find(|route| &*route.matches.path == "/found/").unwrap();
    let expected = HttpProbe {
        path: "/health".into(),
        host: None,
        status: 200..=200,
        body: Some("orders".into()),
        header: Some(("x-service".into(), "orders".into())),
    };
    let reliability = &by_name(&found.target).template.reliability;
    assert_eq!(reliability.check.probe, Some(Probe::Http(expected)));
    assert_eq!((reliability.health.fall, reliability.health.rise), (3, 2));
    assert!(!reliability.health.traffic_decides && !health.traffic_decides);
}

#[test]
fn that_traffic_decides_may_be_said_with_a_question_and_without() {
    for check in ["{ traffic_decides = true }", "{ http = '/health', traffic_decides = true }"] {
        let text = format!("[upstream.c]\nservice = 'c'\nregistry = 'memory'\ncheck = {check}");
        let config = running(&text);
        assert!(config.upstreams[&UpstreamName::new("c")].reliability.health.traffic_decides, "{check}");
    }
}

#[test]
fn retries_are_a_number_or_a_table_and_a_route_replaces_what_it_names() {
    let config = running(
        "[upstream.c]
         service = 'c'
         registry = 'memory'
         retries = { mode = 'failbackup', most = 2, on = ['connect', '500'], budget = 0.5, budget_min = 3,
                     per_try_ms = 5, backup_after_ms = 'p95', replay_bytes = 7 }
         [upstream.d]
         service = 'd'
         registry = 'memory'
         retries = 3
         [[route]]
         path = '/number'
         upstream = 'c'
         retries = 4
         repeatable = true
         [[route]]
         path = '/table'
         upstream = 'c'
         retries = { per_try_ms = 0, backup_after_ms = 9 }
         [[route]]
         path = '/{service}'
         registry = 'memory'
         retries = { mode = 'failfast' }",
    );
    let of = |name: &str| config.upstreams[&UpstreamName::new(name)].retries;
    let route = |path: &str| config.routes.iter().find(|route| &*route.matches.path == path).unwrap();
    let c = RetryPolicy {
        mode: Mode::Failbackup,
        most: 2,
        on: Causes::from_iter([Cause::Connect, Cause::Status500]),
        budget: 0.5,
        budget_min: 3,
        per_try: MS_5,
        backup_after: BackupAfter::P95,
        replay_bytes: 7,
    };
    assert_eq!(of("c"), c);
    assert_eq!(of("d"), RetryPolicy { most: 3, ..RetryPolicy::default() });
    let over = |path| route(path).retries.unwrap().over(&c);
    assert_eq!(over("/number"), RetryPolicy { mode: Mode::Failover, most: 4, ..c });
    let nine = BackupAfter::Time(Duration::from_millis(9));
    assert_eq!(over("/table"), RetryPolicy { per_try: None, backup_after: nine, ..c });
    assert_eq!((route("/number").repeatable, route("/table").repeatable), (true, false));
    assert_eq!(route("/").retries, None);
    let template = &by_name(&route("/").target).template;
    assert_eq!(template.retries, RetryPolicy { mode: Mode::Failfast, ..RetryPolicy::default() });
}

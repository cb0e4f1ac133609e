//! Which route a request takes. Pure.

use std::{rc::Rc, sync::Arc};

use http::{HeaderName, HeaderValue, request::Parts};

use super::{admission::RateLimit, cors::Cors, redirect};
use crate::{
    config::{self, ByName, HeaderChanges, Heads, NameFrom, Redirect, Scheme, UpstreamHost},
    dispatch::{Goal, is_under},
    resilience::RateTable,
    syntax::target::HostAndPath,
    upstream::UpstreamName,
};

/// The routes of one configuration, with what they lead to on one worker.
pub(super) struct Routes<T>(Vec<Route<T>>);

struct Route<T> {
    /// Its name, in the access log.
    name: Rc<Arc<str>>,
    matches: config::Matches,
    /// What to take away of the path, if anything.
    strip: bool,
    timeouts: config::RouteTimeouts,
    retries: Option<Rc<config::RouteRetries>>,
    repeatable: bool,
    /// What to change in heads, if anything.
    heads: Option<Rc<Heads>>,
    max_body: Option<u64>,
    /// Of gRPC-Web, if that is translated.
    cors: Option<Rc<Cors>>,
    rate: Option<RateLimit>,
    leads: Leads<T>,
}

/// Where a route leads.
pub(super) enum Leads<T> {
    To(Goal<T>),
    /// Elsewhere, and not through this gateway.
    Elsewhere(Rc<Redirect>),
}

/// A request's route.
pub(super) struct RouteMatch<'a, T> {
    pub name: &'a Arc<str>,
    /// What its path begins with.
    pub path: &'a Arc<str>,
    pub leads: &'a Leads<T>,
    pub rate: Option<&'a RateLimit>,
    pub manner: Manner,
}

/// How a route has a request treated.
#[derive(Default)]
pub(super) struct Manner {
    /// How many bytes of the path in its normal form are not forwarded.
    pub strip: usize,
    pub timeouts: config::RouteTimeouts,
    /// In the place of what the upstream says.
    pub retries: Option<Rc<config::RouteRetries>>,
    /// The request may be sent more than once, whatever its method.
    pub repeatable: bool,
    /// What to change in heads, if anything.
    pub heads: Option<Rc<Heads>>,
    /// Bytes that the body may have. None: any number.
    pub max_body: Option<u64>,
    /// Of gRPC-Web, if that is translated.
    pub cors: Option<Rc<Cors>>,
    /// By which its requests are counted. None: they take no route.
    pub route: Option<Rc<Arc<str>>>,
}

impl<T> Routes<T> {
    pub(super) fn empty() -> Self {
        Self(Vec::new())
    }

    /// The routes in the order of the configuration, which is the most specific first, and so are their tables of rates.
    pub(super) fn new(
        config: &config::Config,
        rates: &[Option<Arc<RateTable>>],
        upstream: impl Fn(&UpstreamName) -> Option<T>,
    ) -> Self {
        let rate = |index: usize, route: &config::Route| {
            Some(RateLimit::new(route.rate.clone()?, rates.get(index)?.clone()?))
        };
        let compile = |(index, route): (usize, &config::Route)| Route {
            name: Rc::new(route.name.clone()),
            matches: route.matches.clone(),
            strip: route.strip_prefix,
            timeouts: route.timeouts,
            retries: route.retries.map(Rc::new),
            repeatable: route.repeatable,
            heads: (route.heads != Heads::default()).then(|| Rc::new(of_one_worker(&route.heads))),
            max_body: route.max_body,
            cors: route.grpc_web.as_ref().map(|web| Rc::new(Cors::new(web))),
            rate: rate(index, route),
            leads: match &route.target {
                config::Target::Redirect(to) => Leads::Elsewhere(Rc::new(to.clone())),
                target => Leads::To(Goal::new(target, &upstream).unwrap_or(Goal::Shares(Vec::new()))),
            },
        };
        Self(config.routes.iter().enumerate().map(compile).collect())
    }

    /// The first route that matches. `scheme` is by which the client came.
    pub(super) fn find(
        &self,
        listener: &str,
        head: &Parts,
        asked: &HostAndPath,
        scheme: impl Fn() -> Scheme,
    ) -> Option<RouteMatch<'_, T>> {
        let route = self.0.iter().find(|route| route.matches(listener, head, asked, &scheme))?;
        let Route {
            name, matches, timeouts, retries, repeatable, heads, max_body, cors, rate, leads, ..
        } = route;
        let manner = Manner {
            strip: route.strip(asked.path()),
            timeouts: *timeouts,
            retries: retries.clone(),
            repeatable: *repeatable,
            heads: heads.clone(),
            max_body: *max_body,
            cors: cors.clone(),
            route: Some(name.clone()),
        };
        Some(RouteMatch { name, path: &matches.path, leads, rate: rate.as_ref(), manner })
    }
}

impl<T> Route<T> {
    fn matches(
        &self,
        listener: &str,
        head: &Parts,
        asked: &HostAndPath,
        scheme: impl Fn() -> Scheme,
    ) -> bool {
        let Self { matches, leads, .. } = self;
        under(asked.path(), &matches.path)
            && (matches.listeners.is_empty() || matches.listeners.iter().any(|name| **name == *listener))
            && matches.host.as_deref().is_none_or(|pattern| is_under(asked.host(), pattern))
            && matches.headers.iter().all(|wanted| has(head, wanted))
            && match leads {
                Leads::To(Goal::Shares(_)) => true,
                Leads::To(Goal::ByName(by_name)) => service(by_name, head, asked).is_some(),
                Leads::Elsewhere(to) => redirect::leads_on(to, asked, scheme()),
            }
    }

    fn strip(&self, path: &str) -> usize {
        match (self.strip, &self.leads) {
            (false, _) => 0,
            (true, Leads::To(Goal::ByName(by_name))) if let NameFrom::Path(prefix) = &by_name.from => {
                prefix.len() + segment(path, prefix).map_or(0, str::len)
            }
            (true, _) => self.matches.path.trim_end_matches('/').len(),
        }
    }
}

/// A copy that shares no bytes with that of another worker: every request counts who has them.
fn of_one_worker(heads: &Heads) -> Heads {
    let name = |name: &HeaderName| HeaderName::from_bytes(name.as_ref()).unwrap_or_else(|_| name.clone());
    let value =
        |value: &HeaderValue| HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone());
    let lines =
        |lines: &[(HeaderName, HeaderValue)]| lines.iter().map(|(n, v)| (name(n), value(v))).collect();
    let changes = |changes: &HeaderChanges| HeaderChanges {
        remove: changes.remove.iter().map(name).collect(),
        set: lines(&changes.set),
        add: lines(&changes.add),
    };
    let host = match &heads.host {
        UpstreamHost::Name(host) => UpstreamHost::Name(value(host)),
        other => other.clone(),
    };
    Heads { request: changes(&heads.request), response: changes(&heads.response), host }
}

/// The service that a request names, if it names one.
pub(super) fn service<'a>(by_name: &ByName, head: &'a Parts, asked: &'a HostAndPath) -> Option<&'a str> {
    match &by_name.from {
        NameFrom::Path(prefix) => segment(asked.path(), prefix),
        NameFrom::Header(name) => head.headers.get(name)?.to_str().ok().filter(|name| !name.is_empty()),
        // That is of connections that are no HTTP.
        NameFrom::Sni | NameFrom::ServicePath => None,
    }
}

/// The lower-level name for what is after a prefix and before the next `/`.
fn segment<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(prefix)?;
    let segment = &rest[..rest.find('/').unwrap_or(rest.len())];
    (!segment.is_empty()).then_some(segment)
}

/// Whether a path is the prefix or below it.
fn under(path: &str, prefix: &Arc<str>) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.is_empty())
}

fn has(head: &Parts, wanted: &config::HeaderMatch) -> bool {
    let mut values = head.headers.get_all(&wanted.name).into_iter();
    match &wanted.value {
        Some(value) => values.any(|present| present == value),
        None => values.next().is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(list: &[config::Route]) -> Routes<String> {
        let config = config::Config { routes: list.to_vec(), ..config::Config::empty("".into()) };
        Routes::new(&config, &[], |name| Some(name.to_string()))
    }

    fn route(path: &str, host: Option<&str>, upstream: &str) -> config::Route {
        config::Route {
            name: "route".into(),
            matches: config::Matches { path: path.into(), host: host.map(Into::into), ..Default::default() },
            strip_prefix: true,
            timeouts: config::RouteTimeouts::default(),
            retries: None,
            repeatable: false,
            heads: Heads::default(),
            max_body: None,
            grpc_web: None,
            rate: None,
            target: config::Target::Upstream(UpstreamName::new(upstream)),
        }
    }

    fn head(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let request = headers
            .iter()
            .fold(http::Request::get(uri), |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    fn found(routes: &Routes<String>, listener: &str, head: &Parts) -> Option<(String, usize)> {
        let asked = HostAndPath::read(head).unwrap();
        let found = routes.find(listener, head, &asked, || Scheme::Http)?;
        let RouteMatch { leads: Leads::To(Goal::Shares(shares)), manner, .. } = found else {
            return None;
        };
        Some((Goal::draw(shares)?.clone(), manner.strip))
    }

    #[test]
    fn prefixes_end_at_segments() {
        let check = |prefix: &str, path: &str, expected: Option<usize>| {
            let routes = routes(&[route(prefix, None, "a")]);
            let strip = found(&routes, "web", &head(path, &[])).map(|(_, strip)| strip);
            assert_eq!(strip, expected, "{prefix} {path}");
        };
        check("/orders", "/orders", Some(7));
        check("/orders", "/orders/1", Some(7));
        check("/orders/", "/orders/1", Some(7));
        check("/orders", "/orders2", None);
        check("/orders", "/order", None);
        check("/", "/anything", Some(0));
    }

    #[test]
    fn paths_match_in_their_normal_form() {
        let check = |prefix: &str, path: &str, expected: Option<usize>| {
            let routes = routes(&[route(prefix, None, "a")]);
            let strip = found(&routes, "web", &head(path, &[])).map(|(_, strip)| strip);
            assert_eq!(strip, expected, "{prefix} {path}");
        };
        for path in
            ["/%6frders/1", "//orders", "/x/../orders", "/./orders/", "/%2e%2E/orders", "/x/%2e./orders"]
        {
            check("/orders", path, Some(7));
        }
        for path in [
            "/orders/../admin",
            "/orders/%2e%2e",
            "/x/orders",
            "/orders%2f1",
            "/orders%2F..%2Fadmin",
            "/ordersx",
        ] {
            check("/orders", path, None);
        }
        check("/a%20b", "/a%20b/c", Some(6));
        check("/a%2Fb", "/a%2fb", Some(6));
        check("/a/b", "/a%2Fb", None);
    }

    #[test]
    fn the_server_as_a_whole_is_under_the_root_alone() {
        let head = http::Request::options("*").body(()).unwrap().into_parts().0;
        assert_eq!(found(&routes(&[route("/", None, "a")]), "web", &head), Some(("a".to_owned(), 0)));
        assert_eq!(found(&routes(&[route("/a", None, "a")]), "web", &head), None);
    }

    #[test]
    fn hosts_match_without_port_case_and_dot_of_the_root() {
        let check = |pattern: &str, host: &str, expected: bool| {
            let routes = routes(&[route("/", Some(pattern), "a")]);
            assert_eq!(
                found(&routes, "web", &head("/", &[("host", host)])).is_some(),
                expected,
                "{pattern} {host}"
            );
        };
        check("shop.test", "shop.test", true);
        check("shop.test", "SHOP.test:8080", true);
        check("shop.test", "shop.test.", true);
        check("shop.test", "sho%70.test", true);
        check("shop.test", "shop.test..", false);
        check("shop.test", "www.shop.test", false);
        check("*.shop.test", "www.shop.test:1", true);
        check("*.shop.test", "a.b.shop.test", true);
        check("*.shop.test", "shop.test", false);
        check("*.shop.test", ".shop.test", false);
        check("*.shop.test", "myshop.test", false);
        check("[::1]", "[::1]:80", true);
        check("[::1]", "[0:0::0001]", true);
        check("[::1]", "[::1]", true);
    }

    #[test]
    fn the_first_route_that_matches_is_taken() {
        let mut only_admin = route("/", None, "admin");
        only_admin.matches.listeners = vec!["admin".into()];
        let mut canary = route("/", None, "canary");
        canary.matches.headers = vec![config::HeaderMatch {
            name: "x-canary".parse().unwrap(),
            value: Some("1".parse().unwrap()),
        }];
        let routes =
            routes(&[only_admin, route("/a", Some("x.test"), "x"), canary, route("/", None, "rest")]);
        let check = |listener: &str, uri: &str, headers: &[(&str, &str)], expected: &str| {
            let found = found(&routes, listener, &head(uri, headers)).unwrap();
            assert_eq!(found.0, expected, "{uri} {headers:?}");
        };
        check("admin", "/a", &[("host", "x.test")], "admin");
        check("web", "/a/b", &[("host", "x.test")], "x");
        check("web", "http://x.test/a", &[("host", "y.test")], "x");
        check("web", "/b", &[("host", "x.test"), ("x-canary", "1")], "canary");
        check("web", "/b", &[("x-canary", "2")], "rest");
    }

    #[test]
    fn a_redirect_is_for_requests_that_are_not_there_yet() {
        let to = config::Redirect {
            scheme: Some(Scheme::Https),
            host: None,
            port: None,
            status: http::StatusCode::PERMANENT_REDIRECT,
        };
        let redirect = config::Route { target: config::Target::Redirect(to), ..route("/", None, "") };
        let routes = routes(&[redirect, route("/", None, "rest")]);
        let head = head("/", &[("host", "a.test")]);
        let asked = HostAndPath::read(&head).unwrap();
        let leads = |scheme| routes.find("web", &head, &asked, || scheme).unwrap().leads;
        assert!(matches!(leads(Scheme::Http), Leads::Elsewhere(_)));
        assert!(matches!(leads(Scheme::Https), Leads::To(_)));
    }
}

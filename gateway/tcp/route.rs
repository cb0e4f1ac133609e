//! Which route a connection takes. Pure.

use std::{rc::Rc, sync::Arc};

use crate::{
    config::{self, RouteRetries},
    dispatch::{Goal, is_under},
    upstream::UpstreamName,
};

/// The routes of one configuration, with what they lead to on one worker. The most specific comes first.
pub(super) struct Routes<T>(Vec<Route<T>>);

/// One of them.
pub(super) struct Route<T> {
    /// Its name, in the access log.
    pub name: Arc<str>,
    listeners: Vec<Arc<str>>,
    sni: Option<Arc<str>>,
    /// In the place of what the upstream says.
    pub retries: Option<RouteRetries>,
    pub goal: Rc<Goal<T>>,
}

impl<T> Routes<T> {
    pub(super) fn empty() -> Self {
        Self(Vec::new())
    }

    pub(super) fn new(routes: &[config::TcpRoute], upstream: impl Fn(&UpstreamName) -> Option<T>) -> Self {
        let compile = |route: &config::TcpRoute| {
            let goal = Rc::new(Goal::new(&route.target, &upstream)?);
            let config::TcpRoute { name, listeners, sni, retries, .. } = route.clone();
            Some(Route { name, listeners, sni, retries, goal })
        };
        Self(routes.iter().filter_map(compile).collect())
    }

    /// Whether it matters for the connections of a listener what their clients ask for in TLS.
    pub(super) fn want_name(&self, listener: &str) -> bool {
        let wants = |route: &Route<T>| route.sni.is_some() || matches!(*route.goal, Goal::ByName(_));
        self.of(listener).any(wants)
    }

    /// The first that matches a client of a listener, who asked for this name.
    pub(super) fn find(&self, listener: &str, asked: Option<&str>) -> Option<&Route<T>> {
        let suits = |sni: &str| asked.is_some_and(|asked| is_under(asked, sni));
        self.of(listener).find(|route| route.sni.as_deref().is_none_or(suits))
    }

    fn of(&self, listener: &str) -> impl Iterator<Item = &Route<T>> {
        self.0.iter().filter(move |route| route.listeners.iter().any(|named| **named == *listener))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(list: &[(&str, Option<&str>, &str)]) -> Routes<String> {
        let route = |(listener, sni, upstream): &(&str, Option<&str>, &str)| config::TcpRoute {
            name: "route".into(),
            listeners: vec![(*listener).into()],
            sni: sni.map(Into::into),
            retries: None,
            target: config::Target::Upstream(UpstreamName::new(*upstream)),
        };
        Routes::new(&list.iter().map(route).collect::<Vec<_>>(), |name| Some(name.to_string()))
    }

    #[test]
    fn the_first_route_of_the_listener_that_suits_is_taken() {
        let routes = routes(&[
            ("tls", Some("a.example.com"), "a"),
            ("tls", Some("*.example.com"), "any"),
            ("other", None, "other"),
            ("tls", None, "rest"),
            ("named", Some("a.example.com"), "named"),
        ]);
        for (listener, asked, expected) in [
            ("tls", Some("a.example.com"), Some("a")),
            ("tls", Some("b.example.com"), Some("any")),
            ("tls", Some("b.a.example.com"), Some("any")),
            ("tls", Some("example.com"), Some("rest")),
            ("tls", None, Some("rest")),
            ("other", Some("a.example.com"), Some("other")),
            ("named", Some("a.example.com"), Some("named")),
            ("named", Some("b.example.com"), None),
            ("named", None, None),
            ("none", None, None),
        ] {
            let found = routes.find(listener, asked).map(|route| match &*route.goal {
                Goal::Shares(shares) => &*shares[0].0,
                Goal::ByName(_) => unreachable!("none is"),
            });
            assert_eq!(found, expected, "{listener} {asked:?}");
        }
        assert!(routes.want_name("tls") && routes.want_name("named") && !routes.want_name("other"));
    }
}

//! Where the calls of a listener go.

use std::{rc::Rc, sync::Arc};

use crate::{
    config::{self, RouteRetries, RouteTimeouts},
    dispatch::Goal,
    upstream::UpstreamName,
};

/// The routes of one configuration, with what they lead to on one worker.
pub struct Routes<T>(Vec<Rc<Route<T>>>);

pub struct Route<T> {
    /// Its name, in the access log.
    pub name: Arc<str>,
    listeners: Vec<Arc<str>>,
    pub timeouts: RouteTimeouts,
    /// In the place of what the upstream says.
    pub retries: Option<RouteRetries>,
    /// Calls may be sent again though an endpoint may have carried them out.
    pub repeatable: bool,
    pub goal: Goal<T>,
}

impl<T> Routes<T> {
    pub fn empty() -> Self {
        Self(Vec::new())
    }

    pub fn new(routes: &[config::RpcxRoute], upstream: impl Fn(&UpstreamName) -> Option<T>) -> Self {
        let compile = |route: &config::RpcxRoute| {
            let goal = Goal::new(&route.target, &upstream)?;
            let config::RpcxRoute { name, listeners, timeouts, retries, repeatable, .. } = route.clone();
            Some(Rc::new(Route { name, listeners, timeouts, retries, repeatable, goal }))
        };
        Self(routes.iter().filter_map(compile).collect())
    }

    /// That of the calls of a listener.
    pub fn find(&self, listener: &str) -> Option<Rc<Route<T>>> {
        self.0.iter().find(|route| route.listeners.iter().any(|named| **named == *listener)).cloned()
    }
}

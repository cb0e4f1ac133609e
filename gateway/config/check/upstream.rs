//! Upstreams: their sources, and how an instance is chosen and called.

use std::{collections::BTreeMap, sync::Arc};

use super::{Checker, offer, reliability::Written};
use crate::{
    config::{
        file,
        running::{Pool, Protocol, Selector, Source, Timeouts, Upstream},
    },
    document::{SwitchOr, TextOr, Way, similar},
    net::ProxyVersion,
    resilience::RetryPolicy,
    upstream::UpstreamName,
};

const DEFAULT_SELECTOR: &str = "p2c-ewma";

/// What an upstream has beside its sources, whether it is configured or found by name.
pub(super) struct Manner<'f> {
    pub labels: &'f BTreeMap<String, String>,
    pub selector: Option<&'f TextOr<file::Selector>>,
    pub timeouts: &'f file::Timeouts,
    pub protocol: Option<&'f str>,
    pub tls: Option<&'f SwitchOr<file::UpstreamTls>>,
    pub proxy_protocol: Option<&'f str>,
    pub pool: &'f file::Pool,
    pub retries: Option<&'f file::Tries>,
    pub leave_ms: u64,
    pub breaker: Option<&'f SwitchOr<file::Breaker>>,
    pub limits: Option<&'f file::Limits>,
    pub reliability: Written<'f>,
    pub offer: offer::Written<'f>,
}

impl Checker<'_> {
    pub(super) fn upstream(&mut self, way: &Way, name: &str, upstream: &file::Upstream) -> Option<Upstream> {
        let sources = self.sources(way, upstream);
        let manner = Manner {
            labels: &upstream.labels,
            selector: upstream.selector.as_ref(),
            timeouts: &upstream.timeouts,
            protocol: upstream.protocol.as_deref(),
            tls: upstream.tls.as_ref(),
            proxy_protocol: upstream.proxy_protocol.as_deref(),
            pool: &upstream.pool,
            retries: upstream.retries.as_ref(),
            leave_ms: upstream.leave_ms,
            breaker: upstream.breaker.as_ref(),
            limits: upstream.limits.as_ref(),
            reliability: Written {
                trust: &upstream.trust,
                health: &upstream.health,
                check: upstream.check.as_ref(),
                priority_threshold: upstream.priority_threshold,
            },
            offer: offer::Written {
                slow_start_secs: upstream.slow_start_secs,
                zone_aware: upstream.zone_aware.as_ref(),
                subset: upstream.subset.as_ref(),
            },
        };
        let mut made = self.manner(way, UpstreamName::new(name), &manner)?;
        made.sources = sources?;
        let is_read = |registry: &Arc<str>| made.sources.iter().any(|source| source.registry == *registry);
        made.reliability.registries.retain(|registry, _| is_read(registry));
        Some(made)
    }

    /// An upstream that has no sources yet.
    pub(super) fn manner(&mut self, way: &Way, name: UpstreamName, manner: &Manner<'_>) -> Option<Upstream> {
        let selector = self.selector(&way.key("selector"), manner.selector);
        let timeouts = self.timeouts(&way.key("timeouts"), manner.timeouts);
        let protocol = self.protocol(&way.key("protocol"), manner.protocol);
        let tls = self.upstream_tls(&way.key("tls"), manner.tls);
        let proxy_protocol = self.proxy_protocol(&way.key("proxy_protocol"), manner.proxy_protocol);
        let pool = self.pool(&way.key("pool"), manner.pool);
        let retries = self.retries(&way.key("retries"), manner.retries);
        let leave = self.limit_ms(&way.key("leave_ms"), manner.leave_ms);
        let breaker = self.breaker(&way.key("breaker"), manner.breaker);
        let limits = self.limits(&way.key("limits"), manner.limits);
        let reliability = self.reliability(way, &manner.reliability);
        let offer = self.offer(way, &manner.offer);
        Some(Upstream {
            name,
            sources: Vec::new(),
            labels: manner.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            selector: selector?,
            timeouts,
            protocol: protocol?,
            tls: tls?,
            proxy_protocol: proxy_protocol?,
            pool,
            retries: retries.over(&RetryPolicy::default()),
            leave,
            breaker,
            limits,
            reliability: reliability?,
            offer,
        })
    }

    fn sources(&mut self, way: &Way, upstream: &file::Upstream) -> Option<Vec<Source>> {
        let list = way.key("sources");
        if !self.mentions(&list) {
            return Some(vec![self.source(way, &upstream.registry, &upstream.service)?]);
        }
        for key in ["service", "registry"] {
            let way = way.key(key);
            if self.document.has(&way) {
                self.wrong_key(&way, format!("`{key}` and `sources` say the same thing"))
                    .hint(format!("take `{key}` away; each source has its own"));
            }
        }
        let sources = upstream.sources.as_deref()?;
        self.not_empty(&list);
        let sources = sources
            .iter()
            .enumerate()
            .map(|(index, source)| self.source(&list.index(index), &source.registry, &source.service));
        let sources: Vec<_> = sources.collect();
        let sources: Vec<_> = sources.into_iter().collect::<Option<_>>()?;
        self.distinct_sources(&list, &sources);
        Some(sources)
    }

    fn source(&mut self, way: &Way, registry: &Option<String>, service: &Option<String>) -> Option<Source> {
        let service = self
            .required(way, "service", service)
            .and_then(|service| self.text(&way.key("service"), service));
        let registry = self
            .required(way, "registry", registry)
            .and_then(|registry| self.registry_name(&way.key("registry"), registry));
        Some(Source { registry: registry?, service: service?.into() })
    }

    fn distinct_sources(&mut self, list: &Way, sources: &[Source]) {
        for (index, source) in sources.iter().enumerate() {
            if let Some(first) = sources[..index].iter().position(|other| other == source) {
                self.wrong(&list.index(index), format!("this is the same source as {}", list.index(first)));
            }
        }
    }

    fn selector(&mut self, way: &Way, selector: Option<&TextOr<file::Selector>>) -> Option<Selector> {
        let none = || Arc::from("{}");
        let (plugin, settings) = match selector {
            None => (Some(DEFAULT_SELECTOR), Some(none())),
            Some(TextOr::Text(plugin)) => (self.text(way, plugin), Some(none())),
            Some(TextOr::Table(table)) => {
                let plugin = self
                    .required(way, "plugin", &table.plugin)
                    .and_then(|plugin| self.text(&way.key("plugin"), plugin));
                (plugin, self.settings(&way.key("settings"), &table.settings))
            }
        };
        Some(Selector { plugin: plugin?.into(), settings: settings? })
    }

    fn timeouts(&mut self, way: &Way, timeouts: &file::Timeouts) -> Timeouts {
        Timeouts {
            connect: self.duration_ms(&way.key("connect_ms"), timeouts.connect_ms),
            response: self.limit_ms(&way.key("response_ms"), timeouts.response_ms),
            idle: self.limit_ms(&way.key("idle_ms"), timeouts.idle_ms),
            request: self.limit_ms(&way.key("request_ms"), timeouts.request_ms),
            write: self.duration_ms(&way.key("write_ms"), timeouts.write_ms),
        }
    }

    fn protocol(&mut self, way: &Way, name: Option<&str>) -> Option<Protocol> {
        let Some(name) = name else { return Some(Protocol::default()) };
        let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.as_str() == name);
        if protocol.is_none() {
            let hint = similar::hint(name, Protocol::ALL.map(Protocol::as_str));
            self.wrong(way, format!("there is no protocol {name:?}")).hint_if_any(hint);
        }
        protocol
    }

    /// `Some(None)`: none is sent.
    fn proxy_protocol(&mut self, way: &Way, name: Option<&str>) -> Option<Option<ProxyVersion>> {
        let Some(name) = name else { return Some(None) };
        let version = ProxyVersion::ALL.into_iter().find(|version| version.as_str() == name);
        if version.is_none() {
            let message = format!("there is no version {name:?} of the PROXY protocol");
            self.wrong(way, message).hint("write \"v1\" or \"v2\"");
        }
        version.map(Some)
    }

    fn pool(&mut self, way: &Way, pool: &file::Pool) -> Pool {
        Pool {
            idle_timeout: self.duration_ms(&way.key("idle_timeout_ms"), pool.idle_timeout_ms),
            max_idle: self.count(&way.key("max_idle"), pool.max_idle, 0..=100_000),
            max_http2_connections: self.count(
                &way.key("max_http2_connections"),
                pool.max_http2_connections,
                1..=1_000,
            ),
        }
    }
}

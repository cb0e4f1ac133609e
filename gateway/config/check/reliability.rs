//! How lists are believed and endpoints judged: trust, health, checks.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc, time::Duration};

use super::Checker;
use crate::{
    config::{
        file,
        running::{Check, HttpProbe, Probe, Reliability},
    },
    document::{Flag, Part, TextOr, Way},
    upstream::{HealthPolicy, TrustPolicy},
};

/// Failures in a row that anybody waits for.
const MOST_IN_A_ROW: u64 = 1_000;

/// The part of an answer that is looked at.
const LONGEST_BODY: usize = 64 * 1024;

/// What the tables `trust`, `health` and `check` of an upstream or a route say.
pub(super) struct Written<'f> {
    pub trust: &'f file::Trust,
    pub health: &'f file::Health,
    pub check: Option<&'f file::Check>,
    pub priority_threshold: Option<f64>,
}

impl Checker<'_> {
    pub(super) fn reliability(&mut self, way: &Way, written: &Written<'_>) -> Option<Reliability> {
        self.trust(&way.key("trust"), written.trust);
        let mut health = self.health(&way.key("health"), written.health);
        let none = file::Check::default();
        let (at, table) = (way.key("check"), written.check.unwrap_or(&none));
        health.fall = self.in_a_row(&at.key("fall"), table.fall);
        health.rise = self.in_a_row(&at.key("rise"), table.rise);
        health.traffic_decides = table.traffic_decides;
        if let Some(threshold) = written.priority_threshold {
            health.priority_threshold = self.share_of(&way.key("priority_threshold"), threshold);
        }
        let interval = self.duration_ms(&at.key("interval_ms"), table.interval_ms);
        let timeout = self.duration_ms(&at.key("timeout_ms"), table.timeout_ms);
        let probe = match written.check {
            Some(check) => self.probe(&at, check)?,
            None => None,
        };
        let trust = policy([written.trust]);
        let registries = self.trusts.iter().map(|(name, of)| (name.clone(), policy([written.trust, of])));
        Some(Reliability {
            trust,
            registries: registries.collect(),
            health,
            check: Check { probe, interval, timeout },
        })
    }

    /// Checks what is written; [`policy`] makes the whole of it.
    pub(super) fn trust(&mut self, way: &Way, trust: &file::Trust) {
        if let Some(share) = trust.max_drop {
            self.share_of(&way.key("max_drop"), share);
        }
        for (key, seconds) in [("window_secs", trust.window_secs), ("max_stale_secs", trust.max_stale_secs)] {
            if let Some(seconds) = seconds {
                self.duration_secs(&way.key(key), seconds);
            }
        }
        for (key, seconds) in
            [("confirm_secs", trust.confirm_secs), ("confirm_all_secs", trust.confirm_all_secs)]
        {
            if let Some(seconds) = seconds {
                self.delay_secs(&way.key(key), seconds);
            }
        }
    }

    fn health(&mut self, way: &Way, health: &file::Health) -> HealthPolicy {
        let eject_for = self.duration_ms(&way.key("eject_ms"), health.eject_ms);
        let eject_most = self.duration_ms(&way.key("max_eject_ms"), health.max_eject_ms);
        if eject_most < eject_for {
            let (key, hint) = match self.mentions(&way.key("max_eject_ms")) {
                true => ("max_eject_ms", format!("write {} or more", health.eject_ms)),
                false => ("eject_ms", format!("write `max_eject_ms = {}` beside it", health.eject_ms)),
            };
            self.wrong(&way.key(key), "`max_eject_ms` is shorter than `eject_ms`").hint(hint);
        }
        HealthPolicy {
            connect_failures: self.in_a_row(&way.key("connect_failures"), health.connect_failures),
            failures: self.in_a_row(&way.key("failures"), health.failures),
            eject_for,
            eject_most,
            max_ejected: self.share_of(&way.key("max_ejected"), health.max_ejected),
            panic: self.share_of(&way.key("panic"), health.panic),
            grace: self.delay_ms(&way.key("grace_ms"), health.grace_ms),
            gone_after: self.duration_secs(&way.key("gone_after_secs"), health.gone_after_secs),
            ..HealthPolicy::default()
        }
    }

    fn in_a_row(&mut self, way: &Way, number: u64) -> u32 {
        self.count(way, number, 1..=MOST_IN_A_ROW) as u32
    }

    pub(super) fn share_of(&mut self, way: &Way, share: f64) -> f64 {
        if !(0.0..=1.0).contains(&share) {
            let message = format!("{share} is no share");
            self.wrong(way, message).hint("write a number from 0 to 1: half is 0.5");
        }
        share
    }

    /// What is asked, if anything is.
    fn probe(&mut self, way: &Way, check: &file::Check) -> Option<Option<Probe>> {
        let (tcp, http, grpc) = (way.key("tcp"), way.key("http"), way.key("grpc"));
        if let Some(service) = &check.grpc {
            for other in
                [&tcp, &http].into_iter().filter(|other| self.document.has(other)).collect::<Vec<_>>()
            {
                self.wrong_key(other, "this and `grpc` ask for the same thing").hint("take one of them away");
            }
            return self.grpc_service(&grpc, service).map(|service| Some(Probe::Grpc(service)));
        }
        match (self.mentions(&tcp), self.mentions(&http)) {
            // What failed is asked by connecting, whatever is written, and this says what that means.
            (false, false) if check.traffic_decides => return Some(None),
            (false, false) => {
                self.wrong_key(way, "this asks nothing")
                    .hint("write `http = \"/health\"`, `grpc = \"\"` or `tcp = true`");
                return None;
            }
            (true, true) => {
                self.wrong_key(&tcp, "`tcp` and `http` ask for the same thing")
                    .hint("take `tcp` away; whoever answers over HTTP takes connections");
            }
            _ => {}
        }
        match &check.http {
            Some(TextOr::Text(path)) => {
                let path = self.probe_path(&http, path)?;
                Some(Some(Probe::Http(HttpProbe { path, ..HttpProbe::default() })))
            }
            Some(TextOr::Table(table)) => self.http_probe(&http, table).map(|made| Some(Probe::Http(made))),
            None => Some(check.tcp.as_ref().is_some_and(Flag::is_set).then_some(Probe::Tcp)),
        }
    }

    fn grpc_service(&mut self, way: &Way, service: &str) -> Option<Arc<str>> {
        let whole = service.len() < 128 && service.bytes().all(|byte| byte.is_ascii_graphic());
        if !whole {
            self.wrong(way, format!("{service:?} is no name of a service of gRPC"))
                .hint("it is like `shop.Orders`, of less than 128 bytes; empty for the server as a whole");
        }
        whole.then(|| service.into())
    }

    fn http_probe(&mut self, way: &Way, http: &file::HttpCheck) -> Option<HttpProbe> {
        let usual = HttpProbe::default();
        let path =
            http.path.as_ref().map_or(Some(usual.path), |path| self.probe_path(&way.key("path"), path));
        let host = http.host.as_ref().map(|host| self.probe_host(&way.key("host"), host));
        let status = match &http.status {
            Some(status) => self.statuses(&way.key("status"), status),
            None => Some(usual.status),
        };
        let body = http.body.as_ref().map(|body| self.probe_body(&way.key("body"), body));
        let header = self.probe_header(&way.key("header"), &http.header);
        // The outer absence is nothing to look for, the inner one a mistake.
        let host = host.map_or(Some(None), |host| host.map(Some));
        let body = body.map_or(Some(None), |body| body.map(Some));
        Some(HttpProbe { path: path?, host: host?, status: status?, body: body?, header: header? })
    }

    fn probe_path(&mut self, way: &Way, path: &str) -> Option<Arc<str>> {
        let whole = path.parse::<http::uri::PathAndQuery>().is_ok_and(|parsed| parsed.as_str() == path);
        if whole && path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Some(path.into());
        }
        self.wrong(way, format!("{path:?} is no path"))
            .hint("it begins with `/`; spaces and what is not ASCII are percent-encoded");
        None
    }

    fn probe_host(&mut self, way: &Way, host: &str) -> Option<Arc<str>> {
        let host = self.text(way, host)?;
        if host.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Some(host.into());
        }
        self.wrong(way, format!("{host:?} is no host"));
        None
    }

    fn statuses(&mut self, way: &Way, text: &str) -> Option<RangeInclusive<u16>> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let status = |text: &str| text.trim().parse().ok().filter(|status| (100..=599).contains(status));
        match (status(first), status(last)) {
            (Some(first), Some(last)) if first <= last => Some(first..=last),
            _ => {
                self.wrong(way, format!("{text:?} is no status and no range of them"))
                    .hint("write `\"200\"` or `\"200-299\"`");
                None
            }
        }
    }

    fn probe_body(&mut self, way: &Way, body: &str) -> Option<Arc<str>> {
        let body = self.text(way, body)?;
        if body.len() <= LONGEST_BODY {
            return Some(body.into());
        }
        self.wrong(way, format!("{} bytes are more than is looked at", body.len()));
        None
    }

    fn probe_header(
        &mut self,
        way: &Way,
        headers: &BTreeMap<String, String>,
    ) -> Option<Option<(Arc<str>, Arc<str>)>> {
        if headers.len() > 1 {
            self.wrong(way, "only one header can be asked for");
        }
        let Some((name, value)) = headers.first_key_value() else { return Some(None) };
        let known = self.header_name(&way.key(name), name, Part::Key)?;
        self.header_value(&way.key(name), value)?;
        Some(Some((known.as_str().into(), value.trim().into())))
    }
}

/// The first of these tables that says something counts, key by key; then the default does.
fn policy<const N: usize>(tables: [&file::Trust; N]) -> TrustPolicy {
    let usual = TrustPolicy::default();
    let seconds =
        |of: fn(&file::Trust) -> Option<u64>| tables.into_iter().find_map(of).map(Duration::from_secs);
    TrustPolicy {
        max_drop: tables.into_iter().find_map(|table| table.max_drop).unwrap_or(usual.max_drop),
        window: seconds(|table| table.window_secs).unwrap_or(usual.window),
        confirm: seconds(|table| table.confirm_secs).unwrap_or(usual.confirm),
        confirm_all: seconds(|table| table.confirm_all_secs).or(usual.confirm_all),
        max_stale: seconds(|table| table.max_stale_secs).unwrap_or(usual.max_stale),
        as_written: usual.as_written,
    }
}

//! Certificates that end, do not count yet, or do not hang together. That each fits its key was checked with the
//! configuration.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::finding::Finding;
use crate::{
    config::{self, Config},
    connector::{Grants, etcd},
    telemetry::text::shown,
    tls::{self, Authorities, ClientSettings, ServerSettings},
};

const DAY: i64 = 24 * 3600;

/// So many days before its end a certificate should be another one already.
const SOON: i64 = 14;

pub(super) fn look(config: &Config) -> Vec<Finding> {
    let now = SystemTime::now();
    let files = files(config).into_iter();
    files.flat_map(|(file, (who, is_own))| of_file(&file, &who, is_own, now)).collect()
}

/// Each file with the first of those who use it, and whether it is the gateway's own certificate.
fn files(config: &Config) -> BTreeMap<PathBuf, (String, bool)> {
    let mut files = BTreeMap::new();
    let mut add = |file: &Path, who: &str, is_own| {
        files.entry(file.to_owned()).or_insert_with(|| (who.to_owned(), is_own));
    };
    let config::Admin { registrations, tls, .. } = &config.admin;
    let listeners = config.listeners.iter().map(|of| (format!("listener {}", of.name), of.tls.as_ref()));
    let admin = [("admin".to_owned(), tls.as_ref())];
    let registrations = registrations.iter().map(|of| ("admin.registrations".to_owned(), of.tls.as_ref()));
    for (who, settings) in listeners.chain(admin).chain(registrations) {
        let Some(ServerSettings { certificates, clients, .. }) = settings else { continue };
        certificates.iter().for_each(|pair| add(&pair.certificate, &who, true));
        clients.iter().for_each(|rule| add(&rule.ca_file, &who, false));
    }
    let upstreams = config.upstreams.values();
    let upstreams = upstreams.map(|of| (format!("upstream {}", of.name), of.tls.clone()));
    let registries = config.registries.values();
    let registries = registries.flat_map(|of| {
        of_registry(&of.grants).into_iter().map(|tls| (format!("registry {}", of.name), Some(tls)))
    });
    let tracing = config.tracing.iter().map(|of| ("tracing".to_owned(), of.tls.clone()));
    for (who, settings) in upstreams.chain(registries).chain(tracing) {
        let Some(ClientSettings { authorities, certificate, .. }) = settings else { continue };
        if let Some(tls::Certificate::Files(pair)) = &certificate {
            add(&pair.certificate, &who, true);
        }
        if let Authorities::File(file) = &authorities {
            add(file, &who, false);
        }
    }
    files
}

/// How a registry is spoken to by TLS, if it is: each of its connectors in its own way.
fn of_registry(grants: &Grants) -> Vec<ClientSettings> {
    let of_etcd = grants.etcd.as_ref().and_then(of_etcd);
    let of_http = grants.http.as_ref().and_then(|grant| grant.tls.clone());
    let of_zookeeper = grants.zookeeper.as_ref().and_then(|grant| grant.tls.clone());
    [of_etcd, of_http, of_zookeeper].into_iter().flatten().collect()
}

pub(super) fn of_etcd(grant: &etcd::Grant) -> Option<ClientSettings> {
    let tls = grant.tls.as_ref()?;
    Some(ClientSettings {
        authorities: Authorities::File(tls.ca_file.clone()),
        certificate: tls
            .certificate
            .clone()
            .map(|(certificate, key)| tls::PairFiles { certificate, key }.into()),
        server_name: tls.server_name.as_deref().and_then(tls::ServerName::new),
    })
}

fn of_file(file: &Path, who: &str, is_own: bool, now: SystemTime) -> Vec<Finding> {
    let about = "certificate";
    let place = format!("{} ({who})", file.display());
    let chain = match tls::inspect(file, now) {
        Ok(chain) => chain,
        Err(error) => return vec![Finding::error(about, format!("{who}: {error}"))],
    };
    let mut found = Vec::new();
    for one in &chain {
        let of = format!("{place}: {}", shown(&one.subject));
        let (began, left) = (-one.counts_since / DAY, one.ends_in / DAY);
        if one.counts_since < 0 {
            found.push(
                Finding::error(about, format!("{of} does not count yet, for {began} more days"))
                    .advice("set the clock of this machine, or wait for that day"),
            );
        } else if one.ends_in < 0 {
            let text = format!("{of} ended {} days ago", -left);
            // Others may be believed by another certificate of the file.
            let level = if is_own || chain.len() == 1 { Finding::error } else { Finding::warning };
            found.push(level(about, text).advice("renew it; a running gateway takes the new file by itself"));
        } else if left < SOON {
            let text = format!("{of} ends in {left} days");
            found.push(
                Finding::warning(about, text)
                    .advice("renew it; a running gateway takes the new file by itself"),
            );
        }
    }
    if let Some((subject, issuer)) = tls::gap(&chain).filter(|_| is_own) {
        let text = format!("{place}: behind {} must come that of {}", shown(subject), shown(issuer));
        found.push(
            Finding::error(about, text)
                .advice("put the certificates in their order: its own, the one that issued it, and so on"),
        );
    }
    if found.is_empty() {
        let days = chain.iter().map(|one| one.ends_in / DAY).min().unwrap_or_default();
        found.push(Finding::ok(about, format!("{place}: good for {days} more days")));
    }
    found
}

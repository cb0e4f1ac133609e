//! Whether the names in lists come to addresses, by the servers that the gateway would ask.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use super::finding::Finding;
use crate::{
    config::Config,
    registry::{Answer, HostPort, Outcome, Resolver},
};

/// Names of one registry that are asked about. One that fails is like the others.
const MOST: usize = 8;

/// Asks for the names among these addresses, which are instances of a registry.
pub(super) async fn examine(
    config: &Config,
    registry: &str,
    own: Option<Resolver>,
    addresses: &[String],
) -> Vec<Finding> {
    let name = |address: &String| match address.parse() {
        Ok(HostPort::Name(name, _)) => Some((name, ())),
        _ => None,
    };
    let names: BTreeMap<String, ()> = addresses.iter().filter_map(name).collect();
    if names.is_empty() {
        return Vec::new();
    }
    let resolver = own.unwrap_or_else(|| {
        let resolver = Resolver::new();
        resolver.set_servers(&config.dns_servers);
        resolver
    });
    let asked = names.keys().take(MOST).map(|name| {
        let (resolver, name) = (resolver.clone(), Arc::<str>::from(name.as_str()));
        tokio::spawn(async move { (name.clone(), resolver.ask(name, false).await) })
    });
    let (mut found, mut good) = (Vec::new(), 0);
    for asked in asked.collect::<Vec<_>>() {
        let Ok((name, Answer { v4, v6 })) = asked.await else { continue };
        match (v4, v6) {
            (Outcome::Found { .. }, _) | (_, Outcome::Found { .. }) => good += 1,
            (Outcome::Failed(why), _) | (_, Outcome::Failed(why)) | (Outcome::Nothing(why), _) => {
                let text = format!("{name}, an instance in {registry}, is not resolved: {why}");
                found.push(Finding::warning("dns", text).advice(
                    "see `servers` of [resolver], or /etc/resolv.conf, and whether they know it; requests go to the others",
                ));
            }
        }
    }
    if good > 0 {
        let mut text = format!("names of instances in {registry} that are resolved: {good}");
        if names.len() > MOST {
            let _ = write!(text, ", of the {MOST} of {} that were asked for", names.len());
        }
        found.push(Finding::ok("dns", text));
    }
    found
}

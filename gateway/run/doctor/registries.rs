//! Whether the registries can be read, by the plugins and with the credentials that the gateway would use.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{task::JoinSet, time::timeout};

use super::{
    certificates, clock,
    finding::Finding,
    names,
    reach::{Place, Reached, Speaks, reach},
};
use crate::{
    bindings::wit::News,
    config::{self, Config},
    connector::{Grants, http::Prefix},
    plugin::Plugins,
    registry::Failure,
    tls,
};

/// How long a connection, and then an answer, is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// An answer of a connector that goes through several servers.
const WHOLE: Duration = Duration::from_secs(8);

/// Services of a registry that are asked for: those that nobody may read are rarely few of many.
const MOST: usize = 50;

/// What is asked for where no service is named: nobody has it, and the answer says so.
const NOBODY: &str = "witgate-doctor";

const ABOUT: &str = "registry";

/// What a registry says of a service.
enum Said {
    /// The addresses of its instances.
    List(Vec<String>),
    Suspect(String),
    Failed(Failure),
    Nothing,
}

pub(super) async fn examine(config: &Arc<Config>, plugins: &Plugins) -> Vec<Finding> {
    let files = Arc::<tls::Files>::default();
    let mut all = JoinSet::new();
    for (place, registry) in config.registries.values().enumerate() {
        let (config, registry, plugins, files) =
            (config.clone(), registry.clone(), plugins.clone(), files.clone());
        all.spawn(async move { (place, of_registry(&config, &registry, &plugins, &files).await) });
    }
    let mut outcomes = BTreeMap::new();
    while let Some(outcome) = all.join_next().await {
        if let Ok((place, outcome)) = outcome {
            outcomes.insert(place, outcome);
        }
    }
    let (mut found, mut reached) = (Vec::new(), Vec::new());
    for (findings, places) in outcomes.into_values() {
        found.extend(findings);
        reached.extend(places);
    }
    found.extend(clock::examine(&reached));
    found
}

async fn of_registry(
    config: &Config,
    registry: &Arc<config::Registry>,
    plugins: &Plugins,
    files: &Arc<tls::Files>,
) -> (Vec<Finding>, Vec<Reached>) {
    if registry.grants.memory.is_some() {
        let text = format!("{}: inside the gateway", registry.name);
        return (vec![Finding::ok(ABOUT, text)], Vec::new());
    }
    let mut reaching = JoinSet::new();
    for place in places(&registry.grants) {
        reaching.spawn(reach(place, files.clone()));
    }
    let named = named(config, &registry.name);
    let services: Vec<&str> =
        if named.is_empty() { vec![NOBODY] } else { named.iter().map(|name| &**name).collect() };
    let mut asking = JoinSet::new();
    for service in services.into_iter().take(MOST) {
        let (follower, service) = (plugins.registry(registry), service.to_owned());
        asking.spawn(async move {
            let said = ask(&*follower, &service).await;
            (service, said)
        });
    }
    let mut said: Vec<(String, Said)> = asking.join_all().await;
    said.sort_by(|one, other| one.0.cmp(&other.0));
    let reached = reaching.join_all().await;
    let mut found = told(registry, &said, named.is_empty());
    if named.len() > MOST {
        let text = format!(
            "{}: {MOST} of its {} services were asked for, not the others",
            registry.name,
            named.len()
        );
        found.push(Finding::ok(ABOUT, text));
    }
    // Who cannot be reached at all is what failed above.
    let works = said.iter().any(|(_, said)| !matches!(said, Said::Failed(_) | Said::Nothing));
    for Reached { place, outcome, .. } in &reached {
        let Err(error) = outcome else { continue };
        let text = format!("{}: {error}", registry.name);
        found.push(match works {
            true => Finding::warning(ABOUT, text).advice(format!(
                "start {} again, or take it out of [registry.{}]",
                place.address, registry.name
            )),
            false => Finding::error(ABOUT, text).advice(where_it_is(registry)),
        });
    }
    let addresses = said.into_iter().filter_map(|(_, said)| match said {
        Said::List(addresses) => Some(addresses),
        _ => None,
    });
    let addresses: Vec<String> = addresses.flatten().collect();
    let resolver = plugins.registry(registry).resolver();
    found.extend(names::examine(config, &registry.name, resolver, &addresses).await);
    (found, reached)
}

/// The services that are named to be read from a registry.
fn named(config: &Config, registry: &str) -> BTreeSet<Arc<str>> {
    let sources = config.upstreams.values().flat_map(|upstream| &upstream.sources);
    sources.filter(|source| &*source.registry == registry).map(|source| source.service.clone()).collect()
}

fn places(grants: &Grants) -> Vec<Place> {
    let place = |address: String, speaks| Place { address, speaks };
    let etcd = grants.etcd.iter().flat_map(|grant| {
        let tls = certificates::of_etcd(grant);
        grant.endpoints.iter().map(move |one| place(one.clone(), Speaks::Http(tls.clone())))
    });
    let http = grants.http.iter().flat_map(|grant| {
        // Each of the URLs says for itself whether it is TLS.
        let tls = |url: &Prefix| grant.tls.clone().filter(|_| url.is_tls());
        grant.urls.iter().map(move |url| place(url.place(), Speaks::Http(tls(url))))
    });
    let zookeeper = grants.zookeeper.iter().flat_map(|grant| &grant.servers);
    let tcp = grants.tcp.iter().flat_map(|grant| grant.addresses.iter().map(|one| &one.text));
    let others = zookeeper.chain(tcp).map(|one| place(one.clone(), Speaks::Other));
    etcd.chain(http).chain(others).collect()
}

/// What the registry says first that is no doubt. What is asked for is only read.
async fn ask(registry: &dyn crate::registry::Registry, service: &str) -> Said {
    let asked = timeout(WHOLE, async {
        let mut subscription = registry.follow(service).await?;
        subscription.next().await
    });
    match asked.await {
        Err(_) => Said::Nothing,
        Ok(Err(failure)) => Said::Failed(failure),
        Ok(Ok(News::Complete(list) | News::Partial(list))) => {
            Said::List(list.into_iter().map(|endpoint| endpoint.address).collect())
        }
        Ok(Ok(News::Suspect(reason))) => Said::Suspect(reason),
        Ok(Ok(News::Changes(_) | News::Unchanged)) => Said::List(Vec::new()),
    }
}

fn told(registry: &config::Registry, said: &[(String, Said)], only_probed: bool) -> Vec<Finding> {
    let name = &registry.name;
    let (mut read, mut found) = (Vec::new(), Vec::new());
    for (service, said) in said {
        match said {
            Said::List(_) if only_probed => {
                found.push(Finding::ok(ABOUT, format!("{name}: answers, and says that nobody is {NOBODY}")));
            }
            Said::List(list) if list.is_empty() => found.push(
                Finding::warning(ABOUT, format!("{name}: answers, and has no instance of {service}")).advice(format!(
                    "see `service` of its upstream, and `settings` of [registry.{name}], which say where it is looked for"
                )),
            ),
            Said::List(list) => read.push(format!("{service} ({})", list.len())),
            Said::Suspect(reason) => found.push(
                Finding::warning(ABOUT, format!("{name}: answers for {service}, and is not to be believed: {reason}"))
                    .advice("see what it says itself; the gateway goes on with the list it had"),
            ),
            Said::Failed(failure) => found.push(failed(registry, service, failure)),
            Said::Nothing => found.push(
                Finding::error(ABOUT, format!("{name}: no answer for {service} within {WHOLE:?}")).advice(format!(
                    "somebody takes connections there and says nothing: see whether it hangs or has no leader; {}",
                    where_it_is(registry)
                )),
            ),
        }
    }
    if !read.is_empty() {
        found.insert(0, Finding::ok(ABOUT, format!("{name}: instances of {}", read.join(", "))));
    }
    found
}

fn failed(registry: &config::Registry, service: &str, failure: &Failure) -> Finding {
    let name = &registry.name;
    let advice = match failure {
        Failure::Unavailable(_) => where_it_is(registry),
        Failure::Denied(_) => {
            format!("see {} of [registry.{name}], and what that may read", credential(registry))
        }
        Failure::Invalid(_) => {
            format!("see `settings` of [registry.{name}], and what is written in the registry")
        }
        Failure::Other(_) => format!("see whether it is what `plugin` of [registry.{name}] says"),
        Failure::Plugin(_) => "see the plugin above, and docs/plugins.md".to_owned(),
    };
    Finding::error(ABOUT, format!("{name}: {service} cannot be read: {failure}")).advice(advice)
}

fn where_it_is(registry: &config::Registry) -> String {
    let (name, grants) = (&registry.name, &registry.grants);
    let settings = [
        (grants.dns.is_some(), "`dns.servers`"),
        (grants.etcd.is_some(), "`etcd.endpoints`"),
        (grants.file.is_some(), "`file`"),
        (grants.http.is_some(), "`http.urls`"),
        (grants.mdns.is_some(), "`mdns.interfaces`"),
        (grants.tcp.is_some(), "`tcp.addresses`"),
        (grants.zookeeper.is_some(), "`zookeeper.servers`"),
    ];
    let granted: Vec<&str> =
        settings.iter().filter(|(is_granted, _)| *is_granted).map(|(_, of)| *of).collect();
    match granted[..] {
        [] => format!("see what is lent to the plugin in [registry.{name}]"),
        _ => format!("see {} of [registry.{name}], and whether it is there and well", granted.join(" and ")),
    }
}

fn credential(registry: &config::Registry) -> &'static str {
    let grants = &registry.grants;
    match () {
        () if grants.http.is_some() => {
            "`token_file` and `header`, `user` and `password_file`, `login`, or `kubeconfig`, in `http`"
        }
        () if grants.etcd.is_some() => "`user`, `password_file` and `tls` in `etcd`",
        () if grants.zookeeper.is_some() => "`user`, `password_file` and `tls` in `zookeeper`",
        () if grants.file.is_some() => "`file`, and who may read it,",
        () => "what is lent to the plugin in the table",
    }
}

//! Consul's API for services, spoken by the embedded registry: a program that registers with Consul's agent registers
//! here, passes its checks, and finds others with nothing but an address changed.
//!
//! There is one node, and every instance of the embedded registry is at it. What is not spoken is answered with what is.

mod call;
mod directory;
mod query;
mod registration;
mod shown;

use std::{
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::request::Parts as Head;
use hyper::{HeaderMap, Response, StatusCode, header::HeaderValue};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

pub(super) use self::{call::Call, query::Query};
use self::{
    call::SPOKEN,
    directory::{Directory, Named},
    registration::{Read, is_ours},
    shown::{NODE, Shown},
};
use super::{
    answer::{Body, Rejection, document, with_type},
    body,
};
use crate::{
    config,
    connector::memory::{ChangeNumber, CheckStatus, Memory, Registration, Rejected},
};

/// The token, as Consul's clients send it.
const TOKEN: &str = "x-consul-token";

/// One listener's view of the registry as Consul.
pub(super) struct Consul {
    pub(super) config: config::Consul,
    /// What the index of anything begins with, so that it grows over restarts.
    first_index: u64,
    directory: Directory,
}

/// Why somebody's change is not made.
enum Refused {
    Wrong(String),
    Rejected(Rejected),
    Unknown(Named),
}

impl From<Rejected> for Refused {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected)
    }
}

impl Consul {
    pub(super) fn new(config: config::Consul) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let first_index = u64::try_from(since.as_millis()).unwrap_or(1);
        Self { config, first_index, directory: Directory::default() }
    }

    /// The token that somebody sends in one of Consul's own ways.
    pub(super) fn token(head: &Head) -> Option<String> {
        let header =
            head.headers.get(TOKEN).map(|token| String::from_utf8_lossy(token.as_bytes()).into_owned());
        header.or_else(|| query::value(head.uri.query(), "token")).filter(|token| !token.is_empty())
    }

    /// Changes something; `from` is where the program is, if that is known.
    pub(super) async fn change(
        &self,
        memory: &Memory,
        call: Call,
        head: &Head,
        content: &[u8],
        from: Option<IpAddr>,
    ) -> Result<Response<Body>, Rejection> {
        let query = |name: &str| query::value(head.uri.query(), name);
        let made = match call {
            Call::Register => {
                let replaces = query("replace-existing-checks").is_some_and(|value| value != "false");
                self.register(memory, content, from, replaces)
            }
            Call::Deregister(id) => self.deregister(memory, id),
            Call::Maintenance(id) => self.maintain(memory, id, query("enable"), query("reason")),
            Call::RegisterCheck => self.register_check(memory, content),
            Call::DeregisterCheck(id) => self.deregister_check(memory, id),
            Call::Say(status, id) => self.say(memory, id, status, &query("note").unwrap_or_default()),
            Call::Update(id) => {
                let Update { status, output } = body::read(content)?;
                let status = registration::read_status(&status).map_err(Rejection::Invalid)?;
                self.say(memory, id, status, &output)
            }
            other => return Err(not_spoken(&other)),
        };
        match made {
            Ok(change) => {
                // It is in force either way, and Consul has no word for what would be lost with the process.
                let _ = memory.saved(change).await;
                Ok(text(StatusCode::OK, String::new()))
            }
            Err(Refused::Wrong(why)) => Err(Rejection::Invalid(why)),
            Err(Refused::Rejected(rejected)) => Err(rejected.into()),
            // Clients look at these words, and register again.
            Err(Refused::Unknown(named)) => Ok(text(StatusCode::NOT_FOUND, format!("Unknown {named}"))),
        }
    }

    /// An id is that of one service here: registered with another name, the instance is of that one.
    fn register(
        &self,
        memory: &Memory,
        content: &[u8],
        from: Option<IpAddr>,
        replaces_checks: bool,
    ) -> Result<ChangeNumber, Refused> {
        let mut read = Read::of(content, from).map_err(Refused::Wrong)?;
        let named = Named::Instance(read.id.clone());
        let known = self.directory.find(memory, &named).filter(|(_, _, known)| is_ours(known));
        if let Some((service, _, known)) = &known
            && **service == *read.service
        {
            read.keep(known, replaces_checks);
        }
        let Read { service, id, registration, .. } = read;
        let done = memory.put(&service, &id, registration)?;
        match known {
            Some((before, id, _)) if *before != *service => Ok(memory.remove(&before, &id).1),
            _ => Ok(done.change),
        }
    }

    fn deregister(&self, memory: &Memory, id: String) -> Result<ChangeNumber, Refused> {
        let named = Named::Instance(id);
        match self.directory.find(memory, &named) {
            Some((service, id, _)) => Ok(memory.remove(&service, &id).1),
            None => Err(Refused::Unknown(named)),
        }
    }

    fn maintain(
        &self,
        memory: &Memory,
        id: String,
        enable: Option<String>,
        reason: Option<String>,
    ) -> Result<ChangeNumber, Refused> {
        let enable = match enable.as_deref() {
            Some("true") => true,
            Some("false") => false,
            Some(other) => {
                return Err(Refused::Wrong(format!("enable: {other:?} is neither true nor false")));
            }
            None => return Err(Refused::Wrong("enable: there is none, true or false".to_owned())),
        };
        self.edit(memory, Named::Instance(id), None, |registration| {
            registration::maintain(registration, enable, reason.as_deref());
        })
    }

    fn register_check(&self, memory: &Memory, content: &[u8]) -> Result<ChangeNumber, Refused> {
        let (service, check) = registration::more_check(content).map_err(Refused::Wrong)?;
        let heard = check.id.clone();
        self.edit(memory, Named::Instance(service), Some(&heard), |registration| {
            registration::put_check(registration, check);
        })
    }

    fn deregister_check(&self, memory: &Memory, id: String) -> Result<ChangeNumber, Refused> {
        self.edit(memory, Named::Check(id.clone()), None, |registration| {
            registration::remove_check(registration, &id);
        })
    }

    fn say(
        &self,
        memory: &Memory,
        id: String,
        status: CheckStatus,
        output: &str,
    ) -> Result<ChangeNumber, Refused> {
        self.edit(memory, Named::Check(id.clone()), Some(&id), |registration| {
            registration::say(registration, &id, status, output);
        })
    }

    fn edit(
        &self,
        memory: &Memory,
        named: Named,
        heard: Option<&str>,
        edit: impl FnOnce(&mut Registration),
    ) -> Result<ChangeNumber, Refused> {
        let found = self.directory.find(memory, &named);
        let edit = |registration: &mut Registration| {
            edit(registration);
            Ok::<_, Rejected>(())
        };
        match found.and_then(|(service, id, _)| memory.edit(&service, &id, heard, edit)) {
            Some(edited) => Ok(edited?.change),
            None => Err(Refused::Unknown(named)),
        }
    }

    /// What somebody asks for who reads.
    pub(super) fn query(&self, head: &Head) -> Result<Query, Rejection> {
        Query::read(head.uri.query(), &self.config).map_err(Rejection::Invalid)
    }

    /// What it waits for: a service, or anything, and the number of the change that it knows.
    pub(super) fn waits_for<'c>(
        &self,
        memory: &Memory,
        call: &'c Call,
        query: &Query,
    ) -> Option<(Option<&'c str>, u64)> {
        let of = call.follows()?;
        let version = memory.version(of);
        (query.index? == self.first_index.saturating_add(version)).then_some((of, version))
    }

    /// Waits for it, as long as the client wants to.
    pub(super) async fn wait(memory: &Memory, (of, version): (Option<&str>, u64), query: &Query) {
        let _ = timeout(query.wait, memory.changed(of, version)).await;
    }

    /// What is there, which may be long: not on the thread that answers about health. `host` is what the client calls
    /// this gateway.
    pub(super) fn show(
        &self,
        memory: &Memory,
        call: &Call,
        query: &Query,
        host: &str,
    ) -> Result<Shows, Rejection> {
        // What changes meanwhile is told again rather than not at all.
        let index = call.follows().map(|of| self.first_index.saturating_add(memory.version(of)));
        let datacenter = &*self.config.datacenter;
        let of = |service: &str, show: &dyn Fn(&Shown<'_>) -> Option<Value>| {
            let instances = memory.instances(service);
            let shown =
                instances.iter().filter_map(|instance| show(&Shown { service, instance, datacenter }));
            Value::Array(shown.collect())
        };
        let body = match call {
            Call::Health(service) => of(service, &|one| {
                let is_wanted = one.has_tags(&query.tags) && (!query.passing || one.is_passing());
                is_wanted.then(|| one.health())
            }),
            Call::Checks(service) => {
                let lists = of(service, &|one| Some(one.checks().into()));
                let all = lists.as_array().into_iter().flatten().flat_map(|list| list.as_array().cloned());
                Value::Array(all.flatten().collect())
            }
            Call::Service(service) => of(service, &|one| one.has_tags(&query.tags).then(|| one.catalog())),
            Call::Services => services(memory),
            Call::AgentServices => {
                own(memory, datacenter, |one| vec![(one.instance.id.to_string(), one.service())])
            }
            Call::AgentChecks => own(memory, datacenter, |one| {
                let checks = one.checks().into_iter();
                checks
                    .map(|check| (check["CheckID"].as_str().unwrap_or_default().to_owned(), check))
                    .collect()
            }),
            Call::AgentService(id) => {
                let named = Named::Instance(id.clone());
                let found = self.directory.find(memory, &named);
                let found =
                    found.and_then(|(service, id, _)| Some((memory.instance(&service, &id)?, service)));
                let Some((instance, service)) = found else {
                    return Ok(Shows::Unknown(named));
                };
                Shown { service: &service, instance: &instance, datacenter }.service()
            }
            Call::Agent => agent(datacenter, host),
            Call::Datacenters => json!([datacenter]),
            Call::Leader => json!(host),
            Call::Peers => json!([host]),
            other => return Err(not_spoken(other)),
        };
        Ok(Shows::Body { body: document(&body), index })
    }
}

/// What comes of a question.
pub(super) enum Shows {
    Body {
        body: Bytes,
        /// With which the next one is asked.
        index: Option<u64>,
    },
    Unknown(Named),
}

impl Shows {
    pub(super) fn into_response(self) -> Response<Body> {
        let (body, index) = match self {
            Self::Body { body, index } => (body, index),
            Self::Unknown(named) => return text(StatusCode::NOT_FOUND, format!("Unknown {named}")),
        };
        let mut response = with_type(body, "application/json");
        if let Some(index) = index {
            let headers: &mut HeaderMap = response.headers_mut();
            headers.insert("x-consul-index", HeaderValue::from(index));
            headers.insert("x-consul-knownleader", HeaderValue::from_static("true"));
            headers.insert("x-consul-lastcontact", HeaderValue::from_static("0"));
        }
        response
    }
}

/// The body of `agent/check/update`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Update {
    status: String,
    #[serde(default)]
    output: String,
}

/// All services by their names, each with its tags.
fn services(memory: &Memory) -> Value {
    let services = memory.services().into_iter().map(|summary| {
        let instances = memory.instances(&summary.service);
        let all = instances.iter().flat_map(|instance| registration::tags(&instance.registration));
        let mut tags: Vec<&str> = all.collect();
        tags.sort_unstable();
        tags.dedup();
        (summary.service.to_string(), json!(tags))
    });
    Value::Object(services.collect())
}

/// What this API registered, under the ids that it has there.
fn own(memory: &Memory, datacenter: &str, show: impl Fn(&Shown<'_>) -> Vec<(String, Value)>) -> Value {
    let mut all = Map::new();
    for service in memory.services().into_iter().map(|summary| summary.service) {
        for instance in memory.instances(&service).iter().filter(|instance| is_ours(&instance.registration)) {
            all.extend(show(&Shown { service: &service, instance, datacenter }));
        }
    }
    Value::Object(all)
}

/// Who answers, as programs ask when they start.
fn agent(datacenter: &str, host: &str) -> Value {
    let (address, port) = host.rsplit_once(':').unwrap_or((host, ""));
    let version = env!("CARGO_PKG_VERSION");
    json!({
        "Config": { "Datacenter": datacenter, "NodeName": NODE, "NodeID": "", "Revision": NODE, "Server": true,
            "Version": version },
        "DebugConfig": {},
        "Member": { "Name": NODE, "Addr": address, "Port": port.parse::<u16>().unwrap_or_default(),
            "Tags": { "dc": datacenter, "role": "consul" }, "Status": 1 },
        "Meta": {},
        "Stats": {},
    })
}

fn not_spoken(call: &Call) -> Rejection {
    let path = match call {
        Call::Other(path) => path.chars().take(100).collect(),
        other => format!("{other:?}"),
    };
    Rejection::NotSpoken { path, of: "Consul", spoken: SPOKEN }
}

fn text(status: StatusCode, text: String) -> Response<Body> {
    let mut response = with_type(text, "text/plain; charset=utf-8");
    *response.status_mut() = status;
    response
}

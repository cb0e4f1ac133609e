//! Eureka's REST, spoken by the embedded registry: a program with Eureka's client registers here and finds others with
//! nothing but an address changed.
//!
//! An application is the service of its name in lower case. What is not spoken is answered with what is.

mod instance;
mod journal;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::request::Parts as Head;
use hyper::{Method, Response, StatusCode, header::CONTENT_TYPE};
use serde::Serialize;
use serde_json::Value;

use self::{
    instance::Posted,
    journal::{Action, Entry, Journal},
};
use super::{
    answer::{Body, Rejection, document, nothing, whole},
    body,
};
use crate::{
    config,
    connector::memory::{Instance, Memory, Registration},
};

/// What is there.
const SPOKEN: &str = "apps, apps/delta, apps/APP, apps/APP/ID with its status and metadata, instances/ID, vips/ADDRESS and \
                      svips/ADDRESS";

/// What is asked for below `/eureka/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Call {
    Applications,
    Delta,
    Application(String),
    Instance {
        app: String,
        id: String,
    },
    Status {
        app: String,
        id: String,
    },
    Metadata {
        app: String,
        id: String,
    },
    /// One of any application.
    Any(String),
    Vip(String),
    SecureVip(String),
    /// Not spoken here.
    Other(String),
}

impl Call {
    /// What is below `/eureka`, decoded. Netflix' own servers have it below `v2`, and clients put a slash behind it.
    pub(super) fn read(mut path: &[String]) -> Self {
        if let [version, rest @ ..] = path
            && version == "v2"
        {
            path = rest;
        }
        if let [rest @ .., last] = path
            && last.is_empty()
        {
            path = rest;
        }
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        match *words {
            ["apps"] => Self::Applications,
            ["apps", "delta"] => Self::Delta,
            ["apps", app] => Self::Application(app.into()),
            ["apps", app, id] => Self::Instance { app: app.into(), id: id.into() },
            ["apps", app, id, "status"] => Self::Status { app: app.into(), id: id.into() },
            ["apps", app, id, "metadata"] => Self::Metadata { app: app.into(), id: id.into() },
            ["instances", id] => Self::Any(id.into()),
            ["vips", address] => Self::Vip(address.into()),
            ["svips", address] => Self::SecureVip(address.into()),
            _ => Self::Other(words.join("/")),
        }
    }

    /// The methods that are for it, as a header lists them.
    pub(super) fn allowed(&self) -> &'static str {
        match self {
            Self::Application(_) => "GET, HEAD, POST",
            Self::Instance { .. } => "GET, HEAD, PUT, DELETE",
            Self::Status { .. } => "PUT, DELETE",
            Self::Metadata { .. } => "PUT",
            Self::Other(_) => "GET, HEAD, POST, PUT, DELETE",
            Self::Applications | Self::Delta | Self::Any(_) | Self::Vip(_) | Self::SecureVip(_) => {
                "GET, HEAD"
            }
        }
    }
}

/// One listener's view of the registry as Eureka.
pub(super) struct Eureka {
    pub(super) config: config::Eureka,
    journal: Mutex<Journal>,
}

#[derive(Serialize)]
struct All {
    applications: Applications,
}

#[derive(Serialize)]
struct Applications {
    #[serde(rename = "versions__delta")]
    version: String,
    #[serde(rename = "apps__hashcode")]
    hash: String,
    application: Vec<Application>,
}

#[derive(Serialize)]
struct Application {
    name: String,
    instance: Vec<Value>,
}

#[derive(Serialize)]
struct One {
    application: Application,
}

#[derive(Serialize)]
struct Single {
    instance: Value,
}

impl Eureka {
    pub(super) fn new(config: config::Eureka) -> Self {
        Self { config, journal: Mutex::default() }
    }

    /// Changes something. As Eureka answers: 204 to a registration, 200 to all else.
    pub(super) async fn change(
        &self,
        memory: &Memory,
        call: Call,
        head: &Head,
        content: &[u8],
    ) -> Result<Response<Body>, Rejection> {
        let query = |name: &str| {
            let query = form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes());
            query.into_iter().find(|(other, _)| other == name).map(|(_, value)| value.into_owned())
        };
        let put = head.method == Method::PUT;
        match call {
            Call::Application(app) => {
                is_json(head)?;
                self.register(memory, &app, content).await
            }
            Call::Instance { app, id } if put => {
                let (service, _) = find(memory, &app, &id)?;
                if memory.renew(&service, &id) { Ok(done()) } else { Err(unknown(&app, &id)) }
            }
            Call::Instance { app, id } => {
                let (service, _) = find(memory, &app, &id)?;
                let (_, change) = memory.remove(&service, &id);
                // It is in force either way, and Eureka has no word for what would be lost with the process.
                let _ = memory.saved(change).await;
                Ok(done())
            }
            Call::Status { app, id } => {
                let status = query("value");
                let changed = |registration: &mut Registration| match put {
                    true => instance::overrule(registration, status.as_deref()),
                    false => instance::obey(registration, status.as_deref()),
                };
                self.edit(memory, &app, &id, changed).await
            }
            Call::Metadata { app, id } => {
                let pairs = form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes());
                let pairs: BTreeMap<String, String> = pairs.into_owned().collect();
                self.edit(memory, &app, &id, |registration| instance::add_metadata(registration, pairs)).await
            }
            other => Err(not_spoken(&other)),
        }
    }

    /// Puts an instance there. What somebody overruled stays so.
    async fn register(
        &self,
        memory: &Memory,
        app: &str,
        content: &[u8],
    ) -> Result<Response<Body>, Rejection> {
        let posted: Posted = body::read(content)?;
        let (id, mut registration) = posted.registration(app).map_err(Rejection::Invalid)?;
        let known = find(memory, app, &id).ok();
        if let Some((_, known)) = &known {
            instance::keep_overruled(&mut registration, &known.registration);
        }
        let service = known.map_or_else(|| app.to_ascii_lowercase(), |(service, _)| service.to_string());
        let done = memory.put(&service, &id, registration)?;
        let _ = memory.saved(done.change).await;
        Ok(nothing())
    }

    async fn edit(
        &self,
        memory: &Memory,
        app: &str,
        id: &str,
        edit: impl FnOnce(&mut Registration) -> Result<(), String>,
    ) -> Result<Response<Body>, Rejection> {
        let (service, known) = find(memory, app, id)?;
        let mut registration = (*known.registration).clone();
        edit(&mut registration).map_err(Rejection::Invalid)?;
        let edited = memory.put(&service, id, registration)?;
        let _ = memory.saved(edited.change).await;
        Ok(done())
    }

    /// What is there, which may be long: not on the thread that answers about health.
    pub(super) fn show(&self, memory: &Memory, call: &Call) -> Result<Bytes, Rejection> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.look(memory, Instant::now(), millis());
        match call {
            Call::Applications => Ok(all(&journal, |_| true)),
            Call::Delta => {
                let changes = journal.changes().map(|(action, entry)| (*action, entry));
                Ok(applications(&journal, changes))
            }
            Call::Application(app) => {
                let application =
                    collect(journal.entries().filter(|entry| entry.is_of(app)).map(as_is)).pop();
                let application = application.ok_or_else(|| missing("application", app))?;
                Ok(document(&One { application }))
            }
            Call::Instance { app, id } => single(&journal, Some(app), id),
            Call::Any(id) => single(&journal, None, id),
            Call::Vip(address) => Ok(all(&journal, |entry| entry.has_vip(address, false))),
            Call::SecureVip(address) => Ok(all(&journal, |entry| entry.has_vip(address, true))),
            other => Err(not_spoken(other)),
        }
    }
}

fn all(journal: &Journal, wanted: impl Fn(&Entry) -> bool) -> Bytes {
    applications(journal, journal.entries().filter(|entry| wanted(entry)).map(as_is))
}

fn single(journal: &Journal, app: Option<&str>, id: &str) -> Result<Bytes, Rejection> {
    let wanted = |entry: &&Entry| *entry.id == *id && app.is_none_or(|app| entry.is_of(app));
    let entry = journal.entries().find(wanted).ok_or_else(|| missing("instance", id))?;
    Ok(document(&Single { instance: entry.shown(Action::Added) }))
}

fn as_is(entry: &Entry) -> (Action, &Entry) {
    (Action::Added, entry)
}

/// The hash is that of all applications, whichever are shown.
fn applications<'e>(journal: &Journal, shown: impl Iterator<Item = (Action, &'e Entry)>) -> Bytes {
    let mut counts = BTreeMap::<String, usize>::new();
    for entry in journal.entries() {
        *counts.entry(instance::status(&entry.registration)).or_default() += 1;
    }
    let hash = counts.iter().map(|(status, count)| format!("{status}_{count}_")).collect();
    let (version, application) = (journal.version().to_string(), collect(shown));
    document(&All { applications: Applications { version, hash, application } })
}

/// Instances by their applications, those of services that differ in case alone together.
fn collect<'e>(entries: impl Iterator<Item = (Action, &'e Entry)>) -> Vec<Application> {
    let mut applications = BTreeMap::<String, Vec<Value>>::new();
    for (action, entry) in entries {
        applications.entry(entry.app()).or_default().push(entry.shown(action));
    }
    applications.into_iter().map(|(name, instance)| Application { name, instance }).collect()
}

/// The instance, and the service in which it is: there may be several that differ in case alone.
fn find(memory: &Memory, app: &str, id: &str) -> Result<(Arc<str>, Instance), Rejection> {
    let of = |service: Arc<str>| memory.instance(&service, id).map(|instance| (service, instance));
    let others = || {
        let services = memory.services().into_iter().map(|summary| summary.service);
        services.filter(|service| service.eq_ignore_ascii_case(app)).find_map(of)
    };
    of(app.to_ascii_lowercase().into()).or_else(others).ok_or_else(|| unknown(app, id))
}

fn is_json(head: &Head) -> Result<(), Rejection> {
    let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    match kind.split(';').next().is_some_and(|kind| kind.trim().ends_with("json")) {
        true => Ok(()),
        false => {
            Err(Rejection::Invalid(format!("content-type {kind:?} is not spoken here, application/json is")))
        }
    }
}

fn not_spoken(call: &Call) -> Rejection {
    let path = match call {
        Call::Other(path) => path.chars().take(100).collect(),
        other => format!("{other:?}"),
    };
    Rejection::NotSpoken { path, of: "Eureka", spoken: SPOKEN }
}

fn unknown(app: &str, id: &str) -> Rejection {
    missing("instance", &format!("{app}/{id}"))
}

fn missing(kind: &'static str, name: &str) -> Rejection {
    Rejection::NotFound { kind, name: name.to_owned() }
}

/// 200 without a body.
fn done() -> Response<Body> {
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = StatusCode::OK;
    response
}

fn millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_client() {
        let read = |path: &str| Call::read(&path.split('/').map(str::to_owned).collect::<Vec<_>>());
        let of = |app: &str, id: &str| (app.to_owned(), id.to_owned());
        assert_eq!(read("apps/"), Call::Applications);
        assert_eq!(read("v2/apps/delta"), Call::Delta);
        assert_eq!(read("apps/ORDERS"), Call::Application("ORDERS".into()));
        let (app, id) = of("ORDERS", "h:orders:80");
        assert_eq!(read("apps/ORDERS/h:orders:80"), Call::Instance { app: app.clone(), id: id.clone() });
        assert_eq!(read("apps/ORDERS/h:orders:80/status"), Call::Status { app, id });
        assert_eq!(read("peerreplication/batch/"), Call::Other("peerreplication/batch".into()));
        assert_eq!(read(""), Call::Other(String::new()));
    }
}

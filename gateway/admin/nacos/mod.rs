//! Nacos' API for instances, in its first version, spoken by the embedded registry: a program with such a client registers
//! here, beats, and finds others with nothing but an address changed.
//!
//! A service of the group `DEFAULT_GROUP` in the namespace `public` is the service of its name. What is not spoken is
//! answered with what is.

mod instance;
mod params;

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::{Method, Response};
use serde_json::{Value, json};

pub(super) use self::params::Params;
use self::{
    instance::{BEAT, INTERVAL, Place},
    params::{DEFAULT_GROUP, Name, PUBLIC},
};
use super::answer::{Body, Rejection, document, json as answer, with_type};
use crate::connector::memory::{Memory, Registration, Rejected};

/// What is there.
const SPOKEN: &str = "ns/instance, ns/instance/list, ns/instance/beat, ns/service/list, ns/operator/metrics, auth/login \
     and auth/users/login";

/// What a beat is answered.
const TAKEN: u32 = 10_200;
/// Nobody knows the instance, so that it registers again.
const UNKNOWN: u32 = 20_404;

/// How long a client may use a list before it asks again, in milliseconds. Nobody tells it of changes meanwhile.
const CACHE: u64 = 3_000;

/// How long a client may use what it got for its password, in seconds.
const TOKEN_LIVES: u64 = 18_000;

/// Names in one page of a list of services.
const LONGEST_PAGE: usize = 10_000;

/// What is asked for below `/nacos/v1/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Call {
    Instance,
    Instances,
    Beat,
    Services,
    Metrics,
    Login,
    /// Not spoken here.
    Other(String),
}

impl Call {
    /// What is below `/nacos`, decoded.
    pub(super) fn read(path: &[String]) -> Self {
        let words: Vec<&str> = path.iter().map(String::as_str).collect();
        match *words {
            ["v1", "ns", "instance"] => Self::Instance,
            ["v1", "ns", "instance", "list"] => Self::Instances,
            ["v1", "ns", "instance", "beat"] => Self::Beat,
            ["v1", "ns", "service", "list"] => Self::Services,
            ["v1", "ns", "operator", "metrics"] => Self::Metrics,
            ["v1", "auth", "login"] | ["v1", "auth", "users", "login"] => Self::Login,
            _ => Self::Other(words.join("/")),
        }
    }

    /// The methods that are for it, as a header lists them.
    pub(super) fn allowed(&self) -> &'static str {
        match self {
            Self::Instance | Self::Other(_) => "GET, HEAD, POST, PUT, DELETE",
            Self::Beat => "PUT",
            Self::Login => "POST",
            Self::Instances | Self::Services | Self::Metrics => "GET, HEAD",
        }
    }
}

/// Changes something.
pub(super) async fn change(
    memory: &Memory,
    call: Call,
    method: &Method,
    params: &Params,
) -> Result<Response<Body>, Rejection> {
    match call {
        Call::Instance if *method == Method::DELETE => {
            let (name, place) = both(params)?;
            let (_, change) = memory.remove(&name.service(), &place.id());
            // It is in force either way, and Nacos has no word for what would be lost with the process.
            let _ = memory.saved(change).await;
            Ok(ok())
        }
        Call::Instance => {
            let name = params.service().map_err(Rejection::Invalid)?;
            let (place, registration) = instance::registration(params).map_err(Rejection::Invalid)?;
            if *method == Method::PUT && memory.instance(&name.service(), &place.id()).is_none() {
                return Err(missing(&name, &place));
            }
            register(memory, &name, &place, registration).await?;
            Ok(ok())
        }
        Call::Beat => beat(memory, params).await,
        other => Err(not_spoken(&other)),
    }
}

/// What somebody gets for a password that is a token that is known.
pub(super) fn login(params: &Params, knows: impl Fn(&str) -> bool) -> Result<Response<Body>, Rejection> {
    let user = params.need("username").map_err(Rejection::Invalid)?;
    let token = params.need("password").map_err(Rejection::Invalid)?;
    if !knows(token) {
        return Err(Rejection::WrongToken);
    }
    Ok(answer(
        &json!({ "accessToken": token, "tokenTtl": TOKEN_LIVES, "globalAdmin": false, "username": user }),
    ))
}

/// A beat that says all registers who is not known; one that says only who it is cannot.
async fn beat(memory: &Memory, params: &Params) -> Result<Response<Body>, Rejection> {
    let (place, service, registration) = match params.get("beat") {
        Some(text) => {
            let (place, service, registration) = instance::beat(text).map_err(Rejection::Invalid)?;
            (place, service, Some(registration))
        }
        None => (Place::of(params).map_err(Rejection::Invalid)?, None, None),
    };
    let name = match (params.service(), service) {
        (Ok(name), _) => name,
        (Err(_), Some(service)) => Name::new(params.get("namespaceId"), params.get("groupName"), &service),
        (Err(error), None) => return Err(Rejection::Invalid(error)),
    };
    let heard = |registration: &mut Registration| {
        instance::hear(registration);
        Ok::<_, Rejected>(())
    };
    let (service, id) = (name.service(), place.id());
    let interval = match (memory.edit(&service, &id, Some(BEAT), heard), registration) {
        (Some(edited), _) => {
            let _ = memory.saved(edited?.change).await;
            memory.instance(&service, &id).map(|known| instance::interval(&known.registration))
        }
        (None, Some(registration)) => {
            let interval = instance::interval(&registration);
            register(memory, &name, &place, registration).await?;
            Some(interval)
        }
        (None, None) => None,
    };
    let (code, interval) = interval.map_or((UNKNOWN, INTERVAL), |interval| (TAKEN, interval));
    Ok(answer(&json!({ "clientBeatInterval": interval, "code": code, "lightBeatEnabled": true })))
}

async fn register(
    memory: &Memory,
    name: &Name,
    place: &Place,
    registration: Registration,
) -> Result<(), Rejection> {
    let done = memory.put(&name.service(), &place.id(), registration)?;
    let _ = memory.saved(done.change).await;
    Ok(())
}

/// What is there, which may be long: not on the thread that answers about health.
pub(super) fn show(memory: &Memory, call: &Call, params: &Params) -> Result<Bytes, Rejection> {
    let wrong = Rejection::Invalid;
    let shown = match call {
        Call::Instance => {
            let (name, place) = both(params)?;
            let instance = memory.instance(&name.service(), &place.id());
            instance::shown(&name, &instance.ok_or_else(|| missing(&name, &place))?)
        }
        Call::Instances => {
            let name = params.service().map_err(wrong)?;
            list(memory, &name, params.get("clusters"), params.flag("healthyOnly", false).map_err(wrong)?)
        }
        Call::Services => {
            let page = params.number("pageNo", 1usize).map_err(wrong)?.saturating_sub(1);
            let size = params.number("pageSize", 10usize).map_err(wrong)?.min(LONGEST_PAGE);
            let group = params.get("groupName").unwrap_or(DEFAULT_GROUP);
            services(memory, params.get("namespaceId").unwrap_or(PUBLIC), group, page, size)
        }
        Call::Metrics => json!({ "status": "UP", "serviceCount": memory.services().len(),
            "instanceCount": memory.count() }),
        other => return Err(not_spoken(other)),
    };
    Ok(document(&shown))
}

fn list(memory: &Memory, name: &Name, clusters: Option<&str>, healthy_only: bool) -> Value {
    let wanted: Vec<&str> = clusters.unwrap_or_default().split(',').filter(|word| !word.is_empty()).collect();
    let instances = memory.instances(&name.service()).into_iter().filter(|instance| {
        let of = &*instance.registration;
        let is_there = wanted.is_empty() || wanted.contains(&instance::cluster(of));
        is_there && !instance::is_disabled(of) && (!healthy_only || instance::is_healthy(of))
    });
    let hosts: Vec<Value> = instances.map(|instance| instance::shown(name, &instance)).collect();
    json!({ "name": name.grouped(), "dom": name.grouped(), "groupName": name.group, "clusters": clusters.unwrap_or_default(),
        "cacheMillis": CACHE, "hosts": hosts, "lastRefTime": millis(), "checksum": "", "allIPs": false,
        "reachProtectionThreshold": false, "valid": true })
}

fn services(memory: &Memory, namespace: &str, group: &str, page: usize, size: usize) -> Value {
    let all = memory.services().into_iter().map(|summary| Name::of(&summary.service));
    let of = all.filter(|name| name.namespace == namespace && name.group == group);
    let names: Vec<String> = of.map(|name| name.name).collect();
    let shown: Vec<&String> = names.iter().skip(page.saturating_mul(size)).take(size).collect();
    json!({ "count": names.len(), "doms": shown })
}

fn both(params: &Params) -> Result<(Name, Place), Rejection> {
    let name = params.service().map_err(Rejection::Invalid)?;
    Ok((name, Place::of(params).map_err(Rejection::Invalid)?))
}

fn missing(name: &Name, place: &Place) -> Rejection {
    Rejection::NotFound { kind: "instance", name: format!("{}/{}", name.service(), place.id()) }
}

fn not_spoken(call: &Call) -> Rejection {
    let path = match call {
        Call::Other(path) => path.chars().take(100).collect(),
        other => format!("{other:?}"),
    };
    Rejection::NotSpoken { path, of: "Nacos", spoken: SPOKEN }
}

fn ok() -> Response<Body> {
    with_type("ok", "text/plain; charset=utf-8")
}

fn millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

//! The API of service_discovery, spoken by the embedded registry: a program written for that registry registers here and
//! finds others with nothing but an address changed.
//!
//! As there, the status of an answer is 200 and its `code` says what happened.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hyper::Response;
use serde::{Deserialize, Serialize};

use super::{
    Admin,
    answer::{self, Body, Rejection},
};
use crate::{
    config::Discovery,
    connector::memory::{Instance, InstanceState, Memory, Registration, Rejected},
};

/// How long an instance lives without a renewal. The registry's own clients renew every 30 or 60 seconds.
const TTL: Duration = Duration::from_secs(90);

/// The bits of those that receive traffic, and of those that do not.
const UP: u32 = 1;
const DOWN: u32 = 2;

/// The service that the nodes themselves are.
const NODES: &str = "Kavin.discovery";

/// The label of each address as it was registered.
const ADDRESS: &str = "addr";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Call {
    Register,
    Renew,
    Cancel,
    Fetch,
    Nodes,
}

impl Call {
    pub(super) fn read(name: &str) -> Option<Self> {
        Some(match name {
            "register" => Self::Register,
            "renew" => Self::Renew,
            "cancel" => Self::Cancel,
            "fetch" => Self::Fetch,
            "nodes" => Self::Nodes,
            _ => return None,
        })
    }

    pub(super) fn changes(self) -> bool {
        matches!(self, Self::Register | Self::Renew | Self::Cancel)
    }
}

/// The body of any call; each reads its part of it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Question {
    env: String,
    appid: String,
    hostname: String,
    addrs: Option<Vec<String>>,
    version: Option<String>,
    status: u32,
}

#[derive(Serialize)]
struct Answer {
    code: u16,
    message: String,
    data: Data,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data {
    /// An empty text.
    Nothing(&'static str),
    List {
        instances: Vec<Shown>,
        latest_timestamp: u64,
    },
}

/// Why a call is not answered with what it asks for.
enum Refused {
    NotFound,
    Wrong(String),
    Failed(String),
}

impl From<Rejected> for Refused {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Full | Rejected::FullOfBytes => Self::Failed(rejected.to_string()),
            wrong => Self::Wrong(wrong.to_string()),
        }
    }
}

/// Answers a call; `url` is where this was asked, as the client sees it.
pub(super) async fn answer(
    admin: Arc<Admin>,
    call: Call,
    url: &str,
    body: &[u8],
) -> Result<Response<Body>, Rejection> {
    let parts = admin.parts.clone();
    let discovery = admin.discovery.as_ref().ok_or(Rejection::Failed)?;
    let question = match Question::read(discovery, call, body) {
        Ok(question) => question,
        Err(refused) => return Ok(told(Err(refused))),
    };
    let memory = &*parts.memory;
    let outcome = match call {
        Call::Register => register(memory, &question).await,
        Call::Renew => found(memory.renew(&question.appid, &question.hostname)),
        Call::Cancel => {
            let (removed, change) = memory.remove(&question.appid, &question.hostname);
            let _ = memory.saved(change).await;
            found(removed)
        }
        // It may be long: not on the thread that answers about health.
        Call::Fetch => {
            let fetch = move |admin: &Admin| Ok(told(fetched(&admin.parts.memory, &question)));
            return admin.beside(fetch).await;
        }
        Call::Nodes => {
            let hostname = url.split_once("://").map_or(url, |(_, host)| host).to_owned();
            let addrs = vec![url.to_owned()];
            list(vec![Shown::new(&question.env, NODES, hostname, addrs, String::new(), UP, now())])
        }
    };
    Ok(told(outcome))
}

async fn register(memory: &Memory, question: &Question) -> Result<Data, Refused> {
    let done = memory.put(&question.appid, &question.hostname, question.registration()?)?;
    // It is in force either way, and this API has no word for what would be lost with the process.
    let _ = memory.saved(done.change).await;
    Ok(Data::Nothing(""))
}

fn told(outcome: Result<Data, Refused>) -> Response<Body> {
    let nothing = || Data::Nothing("");
    let (code, message, data) = match outcome {
        Ok(data) => (200, String::new(), data),
        Err(Refused::NotFound) => (404, "code: 404, error info: not found".to_owned(), nothing()),
        Err(Refused::Wrong(why)) => (400, why, nothing()),
        Err(Refused::Failed(why)) => (500, why, nothing()),
    };
    answer::json(&Answer { code, message, data })
}

fn fetched(memory: &Memory, question: &Question) -> Result<Data, Refused> {
    let all = memory.instances(&question.appid).into_iter().map(|instance| shown(question, instance));
    list(all.filter(|one| one.status & question.status != 0).collect())
}

fn found(found: bool) -> Result<Data, Refused> {
    if found { Ok(Data::Nothing("")) } else { Err(Refused::NotFound) }
}

fn list(instances: Vec<Shown>) -> Result<Data, Refused> {
    let Some(latest) = instances.iter().map(|one| one.latest_timestamp).max() else {
        return Err(Refused::NotFound);
    };
    Ok(Data::List { instances, latest_timestamp: latest })
}

impl Question {
    fn read(discovery: &Discovery, call: Call, body: &[u8]) -> Result<Self, Refused> {
        let question: Self =
            serde_json::from_slice(body).map_err(|error| Refused::Wrong(format!("body: {error}")))?;
        let env = &question.env;
        match call {
            _ if *env == discovery.env => Ok(question),
            Call::Register => {
                Err(Refused::Wrong(format!("env {env:?} is not served here, {:?} is", discovery.env)))
            }
            _ => Err(Refused::NotFound),
        }
    }

    /// What stands in the embedded registry. The first address is where requests go; all are kept for who fetches.
    fn registration(&self) -> Result<Registration, Refused> {
        let weight = match self.status {
            UP => 1,
            DOWN => 0,
            status => return Err(Refused::Wrong(format!("status {status} is neither {UP} nor {DOWN}"))),
        };
        let addrs = self.addrs.as_deref().unwrap_or_default();
        let Some(first) = addrs.first() else {
            return Err(Refused::Wrong("addrs: there is none".to_owned()));
        };
        let (scheme, address) = match first.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest.split('/').next().unwrap_or(rest)),
            None => (None, first.as_str()),
        };
        let one = |name: &str, value: Option<&str>| {
            value.filter(|value| !value.is_empty()).map(|value| (name.to_owned(), value.to_owned()))
        };
        let labels = [one("protocol", scheme), one("version", self.version.as_deref())];
        let labels = labels.into_iter().flatten();
        let labels = labels.chain(addrs.iter().map(|address| (ADDRESS.to_owned(), address.clone())));
        Ok(Registration {
            address: address.to_owned(),
            weight,
            labels: labels.collect(),
            state: InstanceState::Ready,
            priority: 0,
            hostname: None,
            zone: None,
            ttl_seconds: u32::try_from(TTL.as_secs()).unwrap_or(u32::MAX),
            checks: Vec::new(),
        })
    }
}

/// An instance as it is fetched. Times are in nanoseconds.
#[derive(Serialize)]
struct Shown {
    env: String,
    appid: String,
    hostname: String,
    addrs: Vec<String>,
    version: String,
    status: u32,
    reg_timestamp: u64,
    up_timestamp: u64,
    renew_timestamp: u64,
    dirty_timestamp: u64,
    latest_timestamp: u64,
}

impl Shown {
    /// Nobody keeps when it came, so it came when it renewed last.
    fn new(
        env: &str,
        appid: &str,
        hostname: String,
        addrs: Vec<String>,
        version: String,
        status: u32,
        renewed: u64,
    ) -> Self {
        Self {
            env: env.to_owned(),
            appid: appid.to_owned(),
            hostname,
            addrs,
            version,
            status,
            reg_timestamp: renewed,
            up_timestamp: renewed,
            renew_timestamp: renewed,
            dirty_timestamp: renewed,
            latest_timestamp: renewed,
        }
    }
}

/// One that registered otherwise has the address that it has, and is down unless it takes requests.
fn shown(question: &Question, instance: Instance) -> Shown {
    let Instance { id, registration, expires_in_seconds } = instance;
    let labelled = |name: &str| {
        let labels = registration.labels.iter().filter(|(other, _)| other == name);
        labels.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let mut addrs = labelled(ADDRESS);
    if addrs.is_empty() {
        let scheme = labelled("protocol").pop().unwrap_or_else(|| "tcp".to_owned());
        addrs.push(format!("{scheme}://{}", registration.address));
    }
    let takes_requests = registration.weight > 0 && registration.stands() == InstanceState::Ready;
    let status = if takes_requests { UP } else { DOWN };
    let ago = expires_in_seconds.map_or(0, |left| u64::from(registration.ttl_seconds).saturating_sub(left));
    let renewed = now().saturating_sub(ago * 1_000_000_000);
    let version = labelled("version").pop().unwrap_or_default();
    Shown::new(&question.env, &question.appid, id.to_string(), addrs, version, status, renewed)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

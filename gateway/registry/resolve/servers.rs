//! DNS servers, asked one after the other until one knows.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, NoRecords, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RData, RecordType},
    },
};

/// How long the servers together may take for one name and kind of record, with all aliases that lead to it.
const LIMIT: Duration = Duration::from_secs(5);

/// How long one question waits for its answer before it is asked again.
const ONE_QUESTION: Duration = Duration::from_secs(2);

/// How long the other family may take once one has addresses: many servers answer for only one of them.
const GRACE: Duration = Duration::from_millis(500);

/// How many aliases (CNAME) may lead to records of the kind SRV.
const MOST_ALIASES: usize = 8;

/// What a question came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply<T> {
    Found {
        /// At least one.
        found: Vec<T>,
        /// How long that is good for.
        good_for: Duration,
    },
    /// Whoever knows says that there is none.
    Nothing {
        why: String,
        /// How long that is good for; zero where nobody said.
        good_for: Duration,
    },
    /// Nobody knows, and one of them refuses to answer whoever asks.
    Refused(String),
    /// Nobody who knows has answered.
    Failed(String),
}

/// What a name came to, by family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    pub v4: Reply<IpAddr>,
    pub v6: Reply<IpAddr>,
}

/// What a record of the kind SRV says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    /// A name without the dot at its end; empty where there is no such service.
    pub target: String,
}

/// At least one, or nothing is ever answered.
pub struct Servers {
    /// One per server, so that one that is silent or refuses does not speak for the others.
    resolvers: Vec<TokioResolver>,
    /// The server to ask first: the one that answered last.
    first: AtomicUsize,
    /// Whether names are whole as they are.
    whole: bool,
}

impl Servers {
    /// These, which are asked for names as they are: nothing is put behind them, and no file of the system is read.
    pub fn own(addresses: &[SocketAddr]) -> Result<Self, String> {
        let config = ResolverConfig::from_parts(None, Vec::new(), addresses.iter().map(server).collect());
        let servers = Self::new(&config, &options());
        servers.map(|servers| Self { whole: true, ..servers }).map_err(|error| error.to_string())
    }

    /// Those of `config`, with its search list.
    pub(super) fn new(config: &ResolverConfig, options: &ResolverOpts) -> Result<Self, NetError> {
        let of_server = |server: &NameServerConfig| {
            let (domain, search) = (config.domain().cloned(), config.search().to_vec());
            let config = ResolverConfig::from_parts(domain, search, vec![server.clone()]);
            let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            *builder.options_mut() = options.clone();
            builder.build()
        };
        let resolvers = config.name_servers().iter().map(of_server).collect::<Result<_, _>>()?;
        Ok(Self { resolvers, first: AtomicUsize::new(0), whole: false })
    }

    /// The addresses of a name, of both families.
    pub async fn addresses(&self, name: &str) -> Addresses {
        let family = |kind| {
            self.ask(name, kind, |data| match data {
                RData::A(ip) => Some(IpAddr::V4(ip.0)),
                RData::AAAA(ip) => Some(IpAddr::V6(ip.0)),
                _ => None,
            })
        };
        let (v4, v6) = (family(RecordType::A), family(RecordType::AAAA));
        tokio::pin!(v4, v6);
        tokio::select! {
            first = &mut v4 => Addresses { v6: after(&first, v6).await, v4: first },
            first = &mut v6 => Addresses { v4: after(&first, v4).await, v6: first },
        }
    }

    /// Who offers the service of a name (SRV).
    pub async fn services(&self, name: &str) -> Reply<Service> {
        let late = |_| Reply::Failed(format!("no answer within {LIMIT:?}"));
        tokio::time::timeout(LIMIT, self.services_behind(name)).await.unwrap_or_else(late)
    }

    async fn services_behind(&self, name: &str) -> Reply<Service> {
        let (mut name, mut limit) = (name.to_owned(), Duration::MAX);
        for _ in 0..MOST_ALIASES {
            let reply = match self.services_of(&name).await {
                Reply::Found { found, good_for } => {
                    return Reply::Found { found, good_for: good_for.min(limit) };
                }
                reply @ Reply::Failed(_) => return reply,
                reply => reply,
            };
            // Behind an alias the library follows records of the kind SRV as if they were one, and comes to nothing.
            match self.ask(&name, RecordType::CNAME, alias).await {
                Reply::Found { found, good_for } => {
                    let Some(next) = found.into_iter().next() else { return reply };
                    (name, limit) = (next, limit.min(good_for));
                }
                Reply::Nothing { .. } | Reply::Refused(_) => return reply,
                Reply::Failed(why) => return Reply::Failed(why),
            }
        }
        Reply::Failed(format!("more than {MOST_ALIASES} aliases, the last of them {name}"))
    }

    async fn services_of(&self, name: &str) -> Reply<Service> {
        let read = |data: &RData| match data {
            RData::SRV(srv) => Some(Service {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: bare(&srv.target),
            }),
            _ => None,
        };
        self.ask(name, RecordType::SRV, read).await
    }

    /// Asks one server after the other until one knows.
    async fn ask<T>(&self, name: &str, kind: RecordType, read: impl Fn(&RData) -> Option<T>) -> Reply<T> {
        let Ok(mut name) = Name::from_ascii(name) else {
            return Reply::Failed("it cannot be asked for".into());
        };
        if self.whole {
            name.set_fqdn(true);
        }
        let servers = self.resolvers.len();
        let limit = LIMIT / u32::try_from(servers).unwrap_or(u32::MAX).max(1);
        let first = self.first.load(Relaxed);
        let mut unknown = Reply::Failed("there is no server to ask".into());
        for turn in 0..servers {
            let number = (first + turn) % servers;
            let asked = tokio::time::timeout(limit, self.resolvers[number].lookup(name.clone(), kind)).await;
            let reply = match asked {
                Ok(Ok(lookup)) => {
                    let found = lookup.answers().iter().filter_map(|record| read(&record.data));
                    let good_for = lookup.valid_until().saturating_duration_since(Instant::now());
                    replied(found.collect(), kind, good_for)
                }
                Ok(Err(NetError::Dns(DnsError::NoRecordsFound(nothing)))) => none(&nothing, kind),
                Ok(Err(NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)))) => {
                    Reply::Refused(format!("the answer was {}", ResponseCode::Refused))
                }
                Ok(Err(error)) => Reply::Failed(error.to_string()),
                Err(_) => Reply::Failed(format!("no answer within {limit:?}")),
            };
            match (&reply, &unknown) {
                (Reply::Failed(_), Reply::Refused(_)) => {}
                (Reply::Failed(_) | Reply::Refused(_), _) => unknown = reply,
                _ => {
                    self.first.store(number, Relaxed);
                    return reply;
                }
            }
        }
        unknown
    }
}

fn alias(data: &RData) -> Option<String> {
    match data {
        RData::CNAME(alias) => Some(bare(alias)),
        _ => None,
    }
}

/// Without the dot at its end.
fn bare(name: &Name) -> String {
    name.to_string().trim_end_matches('.').to_owned()
}

fn replied<T>(found: Vec<T>, kind: RecordType, good_for: Duration) -> Reply<T> {
    match found.is_empty() {
        true => Reply::Nothing { why: without(kind), good_for },
        false => Reply::Found { found, good_for },
    }
}

fn without(kind: RecordType) -> String {
    match kind {
        RecordType::SRV => "the name has no record of the kind SRV".into(),
        _ => "the name has no address".into(),
    }
}

/// An answer without a record of the kind that was asked for.
fn none<T>(nothing: &NoRecords, kind: RecordType) -> Reply<T> {
    let good_for = Duration::from_secs(nothing.negative_ttl.unwrap_or_default().into());
    match nothing.response_code {
        ResponseCode::NXDomain => Reply::Nothing { why: "there is no such name".into(), good_for },
        // Whom else to ask is no word about the name.
        ResponseCode::NoError if nothing.soa.is_none() && nothing.ns.is_some() => {
            Reply::Failed("the answer was a referral to other servers".into())
        }
        ResponseCode::NoError => Reply::Nothing { why: without(kind), good_for },
        code => Reply::Failed(format!("the answer was {code}")),
    }
}

/// The other family, which may not hold up for long what the first has found.
async fn after(first: &Reply<IpAddr>, other: impl Future<Output = Reply<IpAddr>>) -> Reply<IpAddr> {
    match first {
        Reply::Found { .. } => {
            let late =
                |_| Reply::Failed(format!("no answer within {GRACE:?} after that of the other family"));
            tokio::time::timeout(GRACE, other).await.unwrap_or_else(late)
        }
        _ => other.await,
    }
}

/// What is kept and for how long is decided by who asks, so nothing is kept here.
pub(super) fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = ONE_QUESTION;
    options.attempts = 2;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    // The library refuses further questions above it. How many are asked is bounded already.
    options.max_active_requests = 4_096;
    options
}

pub(super) fn server(address: &SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    connections.iter_mut().for_each(|connection| connection.port = address.port());
    NameServerConfig::new(address.ip(), true, connections)
}

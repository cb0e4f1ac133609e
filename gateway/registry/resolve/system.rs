//! How this machine resolves names: `/etc/hosts` first, then the servers of `/etc/resolv.conf` or of the configuration.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hickory_resolver::{
    config::{NameServerConfig, ResolverConfig, ResolverOpts},
    net::NetError,
    system_conf::read_system_conf,
};

use super::{
    Answer, Outcome, Servers,
    servers::{options, server},
};
use crate::files;

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

#[derive(Default)]
pub(super) struct System {
    servers: Mutex<Vec<SocketAddr>>,
    read: Mutex<Option<Arc<Read>>>,
}

/// What the files say.
struct Read {
    stamps: [Option<Stamp>; 2],
    wanted: Vec<SocketAddr>,
    hosts: HashMap<String, Vec<IpAddr>>,
    /// What `/etc/resolv.conf` said.
    system: (ResolverConfig, ResolverOpts),
    servers: Servers,
}

/// What changes when a file does.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp(u64, u64, i64, i64, u64);

impl System {
    pub(super) fn set_servers(&self, servers: &[SocketAddr]) {
        servers.clone_into(&mut self.servers.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) async fn lookup(&self, name: &str) -> Answer {
        let read = match self.read() {
            Ok(read) => read,
            Err(error) => {
                let failed = Outcome::Failed(format!("the resolver cannot be set up: {error}"));
                return Answer { v4: failed.clone(), v6: failed };
            }
        };
        if let Some(ips) = read.hosts.get(name.trim_end_matches('.')) {
            let (v4, v6) = ips.iter().copied().partition(IpAddr::is_ipv4);
            return Answer { v4: written(v4), v6: written(v6) };
        }
        read.servers.addresses(name).await.into()
    }

    /// What the files say now. Looks at them without reading them when they are as they were.
    fn read(&self) -> Result<Arc<Read>, NetError> {
        let wanted = self.servers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let stamps = [HOSTS, RESOLV_CONF].map(|path| fs::metadata(path).ok().map(|of| Stamp::new(&of)));
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match &*read {
            Some(read) if read.stamps == stamps && read.wanted == wanted => Ok(read.clone()),
            before => {
                let new = Arc::new(Read::new(stamps, wanted, before.as_deref())?);
                *read = Some(new.clone());
                Ok(new)
            }
        }
    }
}

fn written(ips: Vec<IpAddr>) -> Outcome {
    match ips.is_empty() {
        true => Outcome::Nothing(format!("{HOSTS} has no such address")),
        false => Outcome::Found { ips, good_for: Duration::MAX },
    }
}

impl Stamp {
    fn new(of: &fs::Metadata) -> Self {
        Self(of.ino(), of.len(), of.mtime(), of.mtime_nsec(), of.dev())
    }
}

impl Read {
    fn new(
        stamps: [Option<Stamp>; 2],
        wanted: Vec<SocketAddr>,
        before: Option<&Self>,
    ) -> Result<Self, NetError> {
        let system = match (read_system_conf(), before) {
            (Ok(system), _) => system,
            // A file that is being replaced is gone or empty for a moment.
            (Err(_), Some(before)) => before.system.clone(),
            (Err(error), None) => {
                tracing::info!(path = RESOLV_CONF, %error, "No servers there, asking the one of this machine");
                let local = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
                (ResolverConfig::from_parts(None, Vec::new(), vec![local]), ResolverOpts::default())
            }
        };
        let (config, written) = &system;
        let mut options = options();
        (options.ndots, options.edns0) = (written.ndots, written.edns0);
        let servers = match wanted.is_empty() {
            true => config.name_servers().to_vec(),
            false => wanted.iter().map(server).collect(),
        };
        let config = ResolverConfig::from_parts(config.domain().cloned(), config.search().to_vec(), servers);
        let servers = Servers::new(&config, &options)?;
        let hosts = match files::read(Path::new(HOSTS), files::DOCUMENT) {
            Ok(text) => hosts(&String::from_utf8_lossy(&text)),
            Err(error) => {
                if !error.is_missing() {
                    tracing::warn!(path = HOSTS, %error, "Names in it are not known");
                }
                HashMap::new()
            }
        };
        Ok(Self { stamps, wanted, hosts, system, servers })
    }
}

/// `ADDRESS NAME NAME ...  # comment`, names in any case.
fn hosts(text: &str) -> HashMap<String, Vec<IpAddr>> {
    let mut hosts = HashMap::<String, Vec<IpAddr>>::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(Ok(ip)) = words.next().map(str::parse::<IpAddr>) else { continue };
        for name in words {
            let ips = hosts.entry(name.trim_end_matches('.').to_ascii_lowercase()).or_default();
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_they_are_written() {
        let text = "127.0.0.1 localhost\n::1\tLocalHost ip6 # not this\n#10.0.0.1 no\nnonsense no\n\n10.0.0.2 DB db. db\n";
        let hosts = hosts(text);
        let of = |name: &str| {
            hosts.get(name).map(|ips| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(of("localhost").as_deref(), Some("127.0.0.1 ::1"));
        assert_eq!(of("ip6").as_deref(), Some("::1"));
        assert_eq!(of("db").as_deref(), Some("10.0.0.2"));
        assert_eq!((of("no"), of("not")), (None, None));
    }

    #[tokio::test]
    async fn this_machine_is_found_without_a_server() {
        let system = System::default();
        // Nobody listens there.
        system.set_servers(&["127.0.0.1:1".parse().unwrap()]);
        let Answer { v4, .. } = system.lookup("localhost").await;
        assert!(matches!(&v4, Outcome::Found { ips, .. } if ips.iter().all(IpAddr::is_loopback)), "{v4:?}");
        let Answer { v4, .. } = system.lookup("no-such-host.example.com").await;
        assert!(matches!(v4, Outcome::Failed(_)), "{v4:?}");
    }
}

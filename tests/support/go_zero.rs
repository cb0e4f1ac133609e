//! Real go-zero: services that register themselves in etcd, and clients that know nothing but the gateway's address. The
//! program is in `tests/peers/go-zero`.

use std::{collections::BTreeMap, fs, net::SocketAddr, process::Command};

use tempfile::TempDir;

use super::{
    etcd::{Etcd, free_port},
    peer::{self, Peer},
};

/// What the services serve.
pub const SERVICE: &str = "grpc.testing.TestService";

/// Longer than any call takes on a busy machine; go-zero's own limit is two seconds.
const TIMEOUT: &str = "Timeout: 60000";

pub struct GoZero;

impl Peer for GoZero {
    const PROGRAM: &str = "go-zero";
    type Report = Report;
}

pub type Service = peer::Service<GoZero>;
pub type Client = peer::Client<GoZero>;

/// What runs with this configuration, which is in the folder.
fn configured(role: &str, config: &str) -> (Command, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    fs::write(&file, config).unwrap();
    let mut command = GoZero::command(role);
    command.arg("-f").arg(file);
    (command, folder)
}

impl Service {
    /// An instance of the service `key` in this etcd, or of one that is in no registry. `settings` are lines of YAML, as
    /// `tests/peers/go-zero/config.go` and go-zero have them. It answers when this returns.
    pub async fn start(name: &str, registry: Option<(&Etcd, &str)>, settings: &str) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let etcd = registry.map_or_else(String::new, |(etcd, key)| {
            format!("Etcd: {{ Hosts: [\"{}\"], Key: {key} }}", etcd.endpoint())
        });
        let timeout = if settings.contains("Timeout:") { "" } else { TIMEOUT };
        let config = format!(
            "Name: '{name}'
ListenOn: {address}
{etcd}
{timeout}
{settings}
# Load of the machine is not what is tested, and other tests may have the port of this.
CpuThreshold: 0
DevServer: {{ Enabled: false }}
Log: {{ Stat: false, Level: error }}
"
        );
        Self::with_config(name, address, &config).await
    }

    /// With a configuration like any service's, which says what it is called and where it listens.
    pub async fn with_config(name: &str, address: SocketAddr, config: &str) -> Self {
        let (command, folder) = configured("server", config);
        Self::run(name, address, command, folder).await
    }
}

impl Client {
    /// Calls what is at this address until it is stopped. `settings` are lines of YAML, as above.
    pub fn start(gateway: SocketAddr, settings: &str) -> Self {
        let timeout = if settings.contains("Timeout:") { "" } else { TIMEOUT };
        let calls = if settings.contains("Calls:") { "" } else { "Calls: 0" };
        Self::with_config(&format!("Endpoints: [\"{gateway}\"]\n{timeout}\n{calls}\n{settings}\n"))
    }

    /// With a configuration like any client's.
    pub fn with_config(config: &str) -> Self {
        let (command, folder) = configured("client", config);
        Self::spawn(command, folder)
    }

    /// Waits until so many more calls have ended.
    pub async fn more(&self, calls: u64) {
        let wanted = self.report().calls() + calls;
        self.until("more calls", |report| report.calls() >= wanted).await;
    }
}

/// What became of calls.
#[derive(Debug, Clone, Default, serde::Deserialize)]
pub struct Report {
    /// By the names that gRPC's codes have in Go.
    pub statuses: BTreeMap<String, u64>,
    /// Calls that went well, by the instance that answered.
    pub servers: BTreeMap<String, u64>,
    /// The first thousand of those that did not.
    pub failures: Vec<Failure>,
}

#[derive(Debug, Clone, serde::Deserialize)]
pub struct Failure {
    pub status: String,
    pub message: String,
    /// Milliseconds since 1970.
    pub began: u64,
}

impl Report {
    pub fn calls(&self) -> u64 {
        self.statuses.values().sum()
    }

    pub fn ok(&self) -> u64 {
        self.statuses.get("OK").copied().unwrap_or_default()
    }

    /// Every call went well.
    pub fn assert_all_ok(&self) {
        assert_eq!(self.ok(), self.calls(), "{self:?}");
    }
}

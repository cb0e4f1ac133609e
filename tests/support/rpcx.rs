//! Real rpcx: services that register themselves in etcd, and clients that know nothing but the gateway's address. The program
//! is in `tests/peers/rpcx`.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{
    etcd::{Etcd, free_port},
    peer::{self, Peer},
};

pub struct Rpcx;

impl Peer for Rpcx {
    const PROGRAM: &str = "rpcx";
    type Report = Report;
}

pub type Service = peer::Service<Rpcx>;
pub type Client = peer::Client<Rpcx>;

impl Service {
    /// An instance that has registered itself in this etcd, below `/rpcx`. `flags` are those of `tests/peers/rpcx/server.go`. It
    /// answers when this returns.
    pub async fn start(name: &str, etcd: &Etcd, flags: &[&str]) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Rpcx::command("server");
        command.args(["-name", name, "-listen", &address.to_string(), "-etcd", &etcd.endpoint()]).args(flags);
        Self::run(name, address, command, tempfile::tempdir().unwrap()).await
    }
}

impl Client {
    /// Calls what is at this address. `flags` are those of `tests/peers/rpcx/client.go`.
    pub fn start(gateway: SocketAddr, flags: &[&str]) -> Self {
        let mut command = Rpcx::command("client");
        command.args(["-gateway", &gateway.to_string()]).args(flags);
        Self::spawn(command, tempfile::tempdir().unwrap())
    }

    /// What became of these calls.
    pub async fn run(gateway: SocketAddr, flags: &[&str]) -> Report {
        Self::start(gateway, flags).ended().await
    }
}

/// What became of calls.
#[derive(Debug, Clone, Default, serde::Deserialize)]
pub struct Report {
    /// Calls that went well, by the instance that answered.
    pub servers: BTreeMap<String, u64>,
    /// Calls that did not, by what the client said.
    pub errors: BTreeMap<String, u64>,
    /// The last answer to one that went well.
    pub last: Reply,
}

#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Reply {
    /// Who answered.
    pub server: String,
    /// Calls without an answer that the instance had got by then.
    pub notes: u64,
}

impl Report {
    pub fn ok(&self) -> u64 {
        self.servers.values().sum()
    }

    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// So many calls went well, and no other was made.
    pub fn assert_all_ok(&self, calls: u64) {
        assert_eq!((self.ok(), self.failed()), (calls, 0), "{self:?}");
    }
}

//! Nacos' client for Node.js. The program is in `tests/peers/nacos-naming`.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
};

use crate::support::{
    etcd::free_port,
    peer::{self, Peer},
};

/// The service that it registers, and looks for.
pub const NAME: &str = "orders";

pub struct Naming;

pub type Service = peer::Service<Naming>;
pub type Client = peer::Client<Naming>;

impl Peer for Naming {
    const PROGRAM: &str = "nacos-naming";
    type Report = Found;

    fn command(role: &str) -> Command {
        let mut command = Command::new("node");
        command.arg(Self::program().join("main.mjs")).args([role, "-with-stdin"]).stdin(Stdio::piped());
        command
    }
}

/// What its client has found.
#[derive(Debug, Clone, Default, serde::Deserialize)]
pub struct Found {
    pub instances: Vec<String>,
    pub answers: Vec<String>,
}

/// An instance that registers itself at this server. Its name is its port.
pub async fn instance(server: SocketAddr) -> Service {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut command = Naming::command("server");
    command.args([&server.to_string(), NAME, &address.port().to_string()]);
    peer::Service::run(NAME, address, command, tempfile::tempdir().unwrap()).await
}

/// Asks this server for instances, and each of them who it is.
pub fn client(server: SocketAddr) -> Client {
    let mut command = Naming::command("client");
    command.args([&server.to_string(), NAME]);
    peer::Client::spawn(command, tempfile::tempdir().unwrap())
}

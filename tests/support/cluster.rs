//! Real etcd with several members, or in a network that a test may break.

use std::{
    fs,
    net::IpAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use etcd_client::{Client, ConnectOptions};
use tempfile::TempDir;

use super::{
    etcd::{Version, free_port},
    gateway::PATIENCE,
    network::Network,
};

/// Its members are gone when it is dropped.
pub struct Cluster {
    members: Vec<Member>,
    folder: TempDir,
}

struct Member {
    name: String,
    /// How its program is started.
    command: Command,
    child: Option<Child>,
    /// Where gateways reach it.
    client: String,
    /// Where the test reaches it, whatever happens to the other.
    aside: String,
}

struct Ports {
    client: u16,
    aside: u16,
    peer: u16,
}

impl Cluster {
    /// So many members on this machine.
    pub async fn start(members: usize) -> Self {
        let program = Version::V35.program();
        let hosts = (0..members).map(|_| {
            let ports = Ports { client: free_port(), aside: free_port(), peer: free_port() };
            (Command::new(&program), IpAddr::from([127, 0, 0, 1]), ports)
        });
        Self::launch(hosts.collect()).await
    }

    /// One member, in a network.
    pub async fn inside(network: &Network) -> Self {
        let ports = Ports { client: 2379, aside: 2378, peer: 2380 };
        let command = network.command(Version::V35.program());
        Self::launch(vec![(command, network.address().into(), ports)]).await
    }

    async fn launch(hosts: Vec<(Command, IpAddr, Ports)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let peers: Vec<String> = hosts
            .iter()
            .enumerate()
            .map(|(number, (_, address, ports))| format!("n{number}=http://{address}:{}", ports.peer))
            .collect();
        let peers = peers.join(",");
        let mut members = Vec::new();
        for (number, (mut command, address, Ports { client, aside, peer })) in hosts.into_iter().enumerate() {
            let name = format!("n{number}");
            let peer = format!("http://{address}:{peer}");
            let (client, aside) = (format!("{address}:{client}"), format!("{address}:{aside}"));
            command
                .args(["--name", &name, "--initial-cluster", &peers])
                .arg("--data-dir")
                .arg(folder.path().join(&name))
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--listen-client-urls", &format!("http://{client},http://{aside}")])
                .args(["--advertise-client-urls", &format!("http://{client}")])
                .args(["--heartbeat-interval", "50", "--election-timeout", "500", "--unsafe-no-fsync"])
                .args(["--logger", "zap", "--log-level", "warn"])
                .stdin(Stdio::null())
                .stdout(Stdio::null());
            members.push(Member { name, command, child: None, client, aside });
        }
        let mut cluster = Self { members, folder };
        for member in 0..cluster.members.len() {
            cluster.start_member(member);
        }
        cluster.leader().await;
        cluster
    }

    /// As a value of `etcd =` in a configuration file.
    pub fn toml(&self) -> String {
        let endpoints: Vec<&str> = self.members.iter().map(|member| member.client.as_str()).collect();
        format!("{{ endpoints = {endpoints:?} }}")
    }

    /// A client of all members that run, over ports that no disturbance of [`Network`] is made for.
    pub async fn client(&self) -> Client {
        let running = self.members.iter().filter(|member| member.child.is_some());
        let endpoints: Vec<&str> = running.map(|member| member.aside.as_str()).collect();
        let options = ConnectOptions::new().with_connect_timeout(PATIENCE).with_timeout(PATIENCE);
        Client::connect(endpoints, Some(options)).await.unwrap()
    }

    /// Waits until the members that run agree on a leader, and says which it is.
    pub async fn leader(&mut self) -> usize {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            for number in 0..self.members.len() {
                if self.leads(number).await {
                    return number;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let log =
            |member: &Member| fs::read_to_string(self.folder.path().join(format!("{}.log", member.name)));
        panic!("etcd has no leader: {:?}", self.members.iter().map(log).collect::<Vec<_>>());
    }

    async fn leads(&mut self, number: usize) -> bool {
        let member = &mut self.members[number];
        if member.child.is_none() {
            return false;
        }
        let Ok(mut client) = Client::connect([&member.aside], None).await else { return false };
        let status = tokio::time::timeout(Duration::from_secs(1), client.status()).await;
        status.is_ok_and(|status| {
            status.is_ok_and(|status| {
                let own = status.header().map(|header| header.member_id());
                status.leader() != 0 && own == Some(status.leader())
            })
        })
    }

    pub fn start_member(&mut self, number: usize) {
        let member = &mut self.members[number];
        let log = fs::File::create(self.folder.path().join(format!("{}.log", member.name))).unwrap();
        member.child = Some(member.command.stderr(log).spawn().unwrap());
    }

    /// Ends a member without a word.
    pub fn kill9(&mut self, number: usize) {
        if let Some(mut child) = self.members[number].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill9(member));
    }
}

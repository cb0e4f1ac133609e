//! A network of one machine that a test may break: a namespace, a cable to it, and rules in it.

use std::{
    ffi::OsStr,
    io::Write,
    net::Ipv4Addr,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// A namespace that is reached over a cable. Both are gone when this is dropped, with all that runs in it cut off.
pub struct Network {
    name: String,
    near: Ipv4Addr,
    address: Ipv4Addr,
}

/// What may happen to the packets of one TCP port of the namespace.
#[derive(Debug, Clone, Copy)]
pub enum Disturbance {
    /// So many of a hundred packets are lost, in both directions.
    Loss(u8),
    /// Every packet is answered with a reset.
    Reset,
    /// What comes to the port is lost; what it sends arrives.
    DeafPort,
    /// What the port sends is lost; what is sent to it arrives.
    MutePort,
    /// Nothing passes.
    Cut,
}

impl Network {
    /// Panics without the rights to make one: only root has them.
    pub fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Relaxed);
        let process = std::process::id();
        let name = format!("wg{process}-{number}");
        // 198.18.0.0/15 is for tests of networks; each of these takes four addresses of it.
        let base =
            u32::from(Ipv4Addr::new(198, 18, 0, 0)) + (process.wrapping_add(number * 7919) % 32_768) * 4;
        let (near, address) = (Ipv4Addr::from(base + 1), Ipv4Addr::from(base + 2));
        let (outer, inner) = (format!("{name}o"), format!("{name}i"));
        ip(&["netns", "add", &name]);
        let network = Self { name, near, address };
        ip(&["link", "add", &outer, "type", "veth", "peer", "name", &inner, "netns", &network.name]);
        ip(&["addr", "add", &format!("{near}/30"), "dev", &outer]);
        ip(&["link", "set", &outer, "up"]);
        ip(&["-n", &network.name, "addr", "add", &format!("{address}/30"), "dev", &inner]);
        ip(&["-n", &network.name, "link", "set", &inner, "up"]);
        ip(&["-n", &network.name, "link", "set", "lo", "up"]);
        network
    }

    /// Where the namespace is reached from outside.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The interface outside that the cable is plugged into.
    pub fn cable(&self) -> String {
        format!("{}o", self.name)
    }

    /// Its address.
    pub fn near(&self) -> Ipv4Addr {
        self.near
    }

    /// The interface at the other end.
    pub fn inner_cable(&self) -> String {
        format!("{}i", self.name)
    }

    /// Plugs the cable out, or in again.
    pub fn plug(&self, plugged: bool) {
        ip(&["-n", &self.name, "link", "set", &self.inner_cable(), if plugged { "up" } else { "down" }]);
    }

    /// How many sockets outside listen to multicast DNS on the cable.
    pub fn listeners(&self) -> usize {
        let table = std::fs::read_to_string("/proc/net/igmp").unwrap();
        let cable = self.cable();
        let mut lines =
            table.lines().skip_while(|line| line.split_whitespace().nth(1) != Some(&cable)).skip(1);
        let group =
            lines.by_ref().take_while(|line| line.starts_with("\t\t")).find(|line| line.contains("FB0000E0"));
        group.map_or(0, |line| line.split_whitespace().nth(1).unwrap().parse().unwrap())
    }

    /// Gives the interface outside its address in a larger network, and takes that in the old one away. All who were
    /// reached still are, and the interface has no address that it had: none of IPv6 either.
    pub fn readdress(&self) {
        let (near, cable) = (self.near, self.cable());
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{cable}/disable_ipv6"), "1").unwrap();
        ip(&["addr", "add", &format!("{near}/29"), "dev", &cable]);
        ip(&["addr", "del", &format!("{near}/30"), "dev", &cable]);
    }

    /// Makes all addresses of a block this machine's own, until the network is gone.
    pub fn own(&self, block: &str) {
        ip(&["route", "add", "local", block, "dev", &self.cable()]);
    }

    /// A program that will run inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// From now on this happens to all packets of `port`, instead of what happened before.
    pub fn disturb(&self, port: u16, disturbance: Disturbance) {
        let (incoming, outgoing) = (format!("tcp dport {port}"), format!("tcp sport {port}"));
        let (incoming, outgoing) = match disturbance {
            Disturbance::Loss(percent) => (
                format!("{incoming} numgen random mod 100 < {percent} drop"),
                format!("{outgoing} numgen random mod 100 < {percent} drop"),
            ),
            Disturbance::Reset => (format!("{incoming} reject with tcp reset"), String::new()),
            Disturbance::DeafPort => (format!("{incoming} drop"), String::new()),
            Disturbance::MutePort => (String::new(), format!("{outgoing} drop")),
            Disturbance::Cut => (format!("{incoming} drop"), format!("{outgoing} drop")),
        };
        self.rules(&format!(
            "flush ruleset\ntable inet faults {{\n\
             chain in {{\ntype filter hook input priority 0\n{incoming}\n}}\n\
             chain out {{\ntype filter hook output priority 0\n{outgoing}\n}}\n}}\n"
        ));
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.rules("flush ruleset\n");
    }

    fn rules(&self, text: &str) {
        let mut command = self.command("nft");
        let command = command.args(["-f", "-"]).stdin(Stdio::piped());
        let mut nft = command.spawn().unwrap_or_else(|error| panic!("nft (package nftables): {error}"));
        nft.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "nft does not take {text}");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The cable goes with the namespace, unless something still holds that.
        let _ = Command::new("ip").args(["link", "del", &format!("{}o", self.name)]).status();
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn ip(arguments: &[&str]) {
    let command = format!("ip {}", arguments.join(" "));
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{command}: {error} (package iproute2)"));
    assert!(
        output.status.success(),
        "{command}: {} (tests of the network need root, with the right to make network namespaces)",
        String::from_utf8_lossy(&output.stderr).trim()
    );
}

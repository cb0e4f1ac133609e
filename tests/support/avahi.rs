//! A real avahi for one test, on a link of its own: a cable between this machine and a namespace. Gone when the value
//! is dropped. Beside it, somebody on the same link who says whatever a test wants.

use std::{
    env,
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;
use witgate::connector::mdns::wire::{Data, Fact, Kind, Message, Name, Service, local};

use super::{gateway::until, network::Network};

/// The host of all instances, unless a test says otherwise.
const HOST: &str = "near.local";

/// Runs it with files of its own where it looks for them.
const RUN: &str = "mount --bind \"$1/etc\" /etc && mount -t tmpfs tmpfs /run && mkdir /run/avahi-daemon && \
                   exec \"$2\" --no-drop-root --no-chroot --no-rlimits";

pub struct Avahi {
    pub network: Network,
    folder: TempDir,
    child: Option<Child>,
    /// For its tools.
    bus: Child,
}

/// A program of Debian's, from where the tests' servers are unpacked.
fn program(path: &str) -> PathBuf {
    let folder = folder();
    let program = folder.join(path);
    assert!(
        program.exists(),
        "no {}: scripts/servers.sh unpacks avahi of Debian bookworm under target/servers/avahi, or set WITGATE_AVAHI \
         to the folder that holds it",
        program.display()
    );
    program
}

fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers/avahi");
    env::var_os("WITGATE_AVAHI").map_or(folder, PathBuf::from)
}

impl Avahi {
    /// With no instances. `hosts` are lines of `/etc/hosts` that it knows beside `near.local`, which is this machine.
    /// Where they have IPv6, it speaks that, and IPv4 otherwise.
    pub async fn start(hosts: &str) -> Self {
        let (network, folder) = (Network::new(), tempfile::tempdir().unwrap());
        let etc = folder.path().join("etc");
        fs::create_dir_all(etc.join("avahi/services")).unwrap();
        fs::write(etc.join("passwd"), "root:x:0:0::/:/bin/sh\navahi:x:0:0::/:/bin/false\n").unwrap();
        fs::write(etc.join("group"), "root:x:0:\navahi:x:0:\nnetdev:x:0:\n").unwrap();
        fs::write(etc.join("avahi/hosts"), format!("{} {HOST}\n{hosts}", network.near())).unwrap();
        let (v4, v6) = if hosts.contains("::") { ("no", "yes") } else { ("yes", "no") };
        let config = format!(
            "[server]\nhost-name=box\nuse-ipv4={v4}\nuse-ipv6={v6}\nallow-interfaces={}\nratelimit-burst=100000\n\
             [publish]\npublish-hinfo=no\npublish-workstation=no\n",
            network.inner_cable()
        );
        fs::write(etc.join("avahi/avahi-daemon.conf"), config).unwrap();
        let socket = folder.path().join("bus");
        let allowed = "<allow user=\"*\"/><allow own=\"*\"/><allow send_destination=\"*\"/><allow receive_sender=\"*\"/>";
        let bus = format!(
            "<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>\
             <policy context=\"default\">{allowed}</policy></busconfig>",
            socket.display()
        );
        let file = folder.path().join("bus.conf");
        fs::write(&file, bus).unwrap();
        let mut daemon = Command::new("setpriv");
        daemon.args(["--pdeathsig", "KILL"]).arg(program("usr/bin/dbus-daemon"));
        daemon.arg("--config-file").arg(file).args(["--nofork", "--nopidfile"]);
        let bus = with_libraries(&mut daemon, &folder).stderr(Stdio::null()).spawn().unwrap();
        until("the bus is there", async || socket.exists()).await;
        let mut avahi = Self { network, folder, child: None, bus };
        avahi.restart().await;
        avahi
    }

    /// Starts it, again if it ran, with what it held.
    pub async fn restart(&mut self) {
        self.stop();
        let log = fs::File::create(self.folder.path().join("log")).unwrap();
        let mut avahi = self.network.command("setpriv");
        avahi.args(["--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", RUN, "sh"]);
        avahi.arg(self.folder.path()).arg(program("usr/sbin/avahi-daemon"));
        self.child = Some(with_libraries(&mut avahi, &self.folder).stderr(log).spawn().unwrap());
        until("avahi is there", async || self.log().contains("Server startup complete")).await;
    }

    /// Has it say goodbye and end.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal(&child, "-TERM");
            let _ = child.wait();
        }
    }

    /// Ends it without a word.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn freeze(&self) {
        signal(self.child.as_ref().unwrap(), "-STOP");
    }

    pub fn thaw(&self) {
        signal(self.child.as_ref().unwrap(), "-CONT");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("etc/avahi/services").join(format!("{name}.service"))
    }

    /// Has it announce an instance at a port of this machine.
    pub fn serve(&self, kind: &str, name: &str, port: u16, texts: &[&str]) {
        self.serve_at(HOST, kind, name, port, texts);
    }

    pub fn serve_at(&self, host: &str, kind: &str, name: &str, port: u16, texts: &[&str]) {
        let mut records = String::new();
        texts.iter().for_each(|text| write!(records, "<txt-record>{text}</txt-record>").unwrap());
        let text = format!(
            "<service-group><name>{name}</name><service><type>{kind}</type><host-name>{host}</host-name>\
             <port>{port}</port>{records}</service></service-group>\n"
        );
        // It looks as soon as there is a file.
        let part = self.folder.path().join("part");
        fs::write(&part, text).unwrap();
        fs::rename(part, self.file(name)).unwrap();
    }

    /// Waits until it has announced this.
    pub async fn serves(&self, name: &str) {
        let told = format!("{name}.service) successfully established");
        until("avahi has announced it", async || self.log().contains(&told)).await;
    }

    pub fn withdraw(&self, name: &str) {
        fs::remove_file(self.file(name)).unwrap();
    }

    /// Takes everything away from it, whether it runs or not.
    pub fn withdraw_all(&self) {
        for file in fs::read_dir(self.folder.path().join("etc/avahi/services")).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
    }

    /// The table of a registry that listens on its link.
    pub fn registry(&self, settings: &str) -> String {
        let cable = self.network.cable();
        format!(
            "[registry.main]\nplugin = \"mdns\"\nmdns = {{ interfaces = [\"{cable}\"] }}\nsettings = {settings}\n"
        )
    }

    /// What a client of avahi finds of a type: the name, host, address, port and texts of each instance.
    pub fn browse(&self, kind: &str) -> Vec<String> {
        let mut browse = self.network.command(program("usr/bin/avahi-browse"));
        let browse =
            with_libraries(&mut browse, &self.folder).args(["--resolve", "--parsable", "--terminate", kind]);
        let output = browse.stderr(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let resolved = text.lines().filter_map(|line| line.strip_prefix('='));
        let mut found: Vec<String> = resolved
            .map(|line| {
                let fields: Vec<&str> = line.split(';').collect();
                [fields[3], fields[6], fields[7], fields[8], fields[9]].join(" ").trim_end().to_owned()
            })
            .collect();
        found.sort();
        // It may be heard over IPv4 and over IPv6.
        found.dedup();
        found
    }

    /// Somebody else on the link.
    pub fn somebody(&self) -> Somebody {
        self.somebody_from((self.network.near(), 5353).into())
    }

    /// One whose packets say that they come from there.
    pub fn somebody_from(&self, from: SocketAddr) -> Somebody {
        Somebody::on(self.network.near(), from)
    }
}

fn with_libraries<'c>(command: &'c mut Command, own: &TempDir) -> &'c mut Command {
    let kind = format!("{}-linux-gnu", env::consts::ARCH);
    let libraries = |below: &str| folder().join(below).join(&kind).display().to_string();
    command.env("LD_LIBRARY_PATH", format!("{}:{}", libraries("usr/lib"), libraries("lib")));
    let bus = own.path().join("bus");
    command.env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", bus.display())).stdin(Stdio::null())
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

impl Drop for Avahi {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of avahi:\n{}", self.log());
        }
        self.kill9();
        let _ = self.bus.kill();
        let _ = self.bus.wait();
    }
}

/// Who says whatever a test wants, and answers nothing.
pub struct Somebody {
    socket: UdpSocket,
    ip: Ipv4Addr,
}

impl Somebody {
    fn on(ip: Ipv4Addr, from: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_multicast_if_v4(&ip).unwrap();
        socket.bind(&from.into()).unwrap();
        Self { socket: socket.into(), ip }
    }

    /// Hears what is said on the link from here on.
    pub fn listens(&self) -> Listener {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::new(224, 0, 0, 251), 5353)).into()).unwrap();
        socket.join_multicast_v4(&Ipv4Addr::new(224, 0, 0, 251), &self.ip).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Listener(socket.into())
    }

    /// To everybody on the link.
    pub fn says(&self, packet: &[u8]) {
        self.socket.send_to(packet, ("224.0.0.251", 5353)).unwrap();
    }

    /// The announcement of an instance, good for so many seconds.
    pub fn announcement(&self, kind: &[&str], name: &str, port: u16, ttl: u32) -> Vec<u8> {
        self.announcement_with(kind, name, port, ttl, &[])
    }

    /// One that says something more.
    pub fn announcement_with(
        &self,
        kind: &[&str],
        name: &str,
        port: u16,
        ttl: u32,
        texts: &[&str],
    ) -> Vec<u8> {
        let texts = texts.iter().map(|text| text.as_bytes().to_vec().into_boxed_slice()).collect();
        let (kind, host) = (named(kind), local(&[b"somebody"]).unwrap());
        let instance = kind.prepend_label(name.as_bytes()).unwrap();
        let fact = |name: &Name, data, alone| Fact { name: name.clone(), data, ttl, alone };
        let service = Service { priority: 0, weight: 0, port, host: host.clone() };
        let facts = vec![
            fact(&kind, Data::Pointer(instance.clone()), false),
            fact(&instance, Data::Service(service), true),
            fact(&instance, Data::Texts(texts), true),
            fact(&host, Data::Address(self.ip.into()), true),
        ];
        Message { is_response: true, facts, ..Message::default() }.write().remove(0)
    }
}

pub struct Listener(UdpSocket);

impl Listener {
    /// Waits until somebody asks where this instance is.
    pub fn hears_asked(&self, kind: &[&str], name: &str) {
        let name = named(kind).prepend_label(name.as_bytes()).unwrap();
        self.hears(|message| message.questions.contains(&(name.clone(), Kind::SRV)));
    }

    /// Waits until somebody asks for all instances of a type, and knows none.
    pub fn hears_asked_for(&self, kind: &[&str]) {
        let question = (named(kind), Kind::PTR);
        self.hears(|message| message.questions.contains(&question) && message.facts.is_empty());
    }

    /// Waits until somebody says that there is an instance of a type.
    pub fn hears_said(&self, kind: &[&str]) {
        let kind = named(kind);
        let is_it = |fact: &Fact| fact.name == kind && fact.ttl > 0 && matches!(fact.data, Data::Pointer(_));
        self.hears(|message| message.is_response && message.facts.iter().any(is_it));
    }

    fn hears(&self, wanted: impl Fn(&Message) -> bool) {
        let mut packet = [0; 9_000];
        loop {
            let length = self.0.recv(&mut packet).expect("nobody asks for it");
            if Message::read(&packet[..length]).is_some_and(|message| wanted(&message)) {
                return;
            }
        }
    }
}

fn named(kind: &[&str]) -> Name {
    local(&kind.iter().map(|label| label.as_bytes()).collect::<Vec<_>>()).unwrap()
}

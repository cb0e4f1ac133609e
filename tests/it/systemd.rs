//! The gateway as a service of systemd: its unit, and what it tells.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::net::UnixDatagram,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use crate::support::{
    backend::Backend,
    component::with_functions,
    gateway::{Gateway, PATIENCE, bound_to_test, has_ended, until},
    guest::guest,
};

const UNIT: &str = "packaging/witgate.service";

const ROUTE: &str = r#"
[shutdown]
delay_ms = 100
drain_ms = 2000

[upstream.orders]
service = "orders"
registry = "memory"

[[route]]
path = "/"
upstream = "orders"
"#;

/// The settings of the unit with this name.
fn settings(name: &str) -> Vec<String> {
    let unit = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(UNIT)).unwrap();
    let of_it = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    of_it.map(str::to_owned).collect()
}

/// The socket of a service manager, which is told what happens.
struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

/// What one message assigns.
type Told = BTreeMap<String, String>;

impl Manager {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, folder }
    }

    /// Runs the unit's command line, with a configuration of the test's own.
    fn run(&self) -> Gateway {
        let mut gateway = self.begin(tempfile::tempdir().unwrap(), ROUTE);
        gateway.until_ready();
        gateway
    }

    /// The same with this configuration, and waits only until it listens.
    fn begin(&self, folder: tempfile::TempDir, text: &str) -> Gateway {
        let [command] = &settings("ExecStart")[..] else { panic!("one command") };
        assert_eq!(command, "/usr/bin/witgate run --config /etc/witgate/witgate.toml");
        let socket = format!("NOTIFY_SOCKET={}", self.folder.path().join("notify").display());
        // As systemd does, which means this one process.
        let itself = "WATCHDOG_PID=$$ exec \"$0\" \"$@\"";
        let program = ["env", &socket, "WATCHDOG_USEC=1000000", "sh", "-c", itself];
        let mut command = bound_to_test();
        command.args(program).arg(env!("CARGO_BIN_EXE_witgate"));
        Gateway::start_early_by(command, folder, text)
    }

    /// What has been told and was not looked at yet.
    fn rest(&self) -> Vec<Told> {
        self.socket.set_nonblocking(true).unwrap();
        let told = std::iter::from_fn(|| self.try_next().ok()).collect();
        self.socket.set_nonblocking(false).unwrap();
        told
    }

    fn next(&self) -> Told {
        self.try_next().expect("the gateway tells something")
    }

    fn try_next(&self) -> io::Result<Told> {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes)?;
        let text = std::str::from_utf8(&bytes[..length]).unwrap();
        let assignments = text.lines().map(|line| line.split_once('=').unwrap());
        Ok(assignments.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// The next that assigns this.
    fn until(&self, name: &str) -> Told {
        let start = Instant::now();
        loop {
            let told = self.next();
            if told.contains_key(name) {
                return told;
            }
            assert!(start.elapsed() < PATIENCE, "{name} is not told");
        }
    }
}

/// Microseconds of the clock that systemd compares with.
fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000 + u64::try_from(now.tv_nsec).unwrap() / 1_000
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_is_told_of_start_reload_upgrade_life_and_end() {
    let manager = Manager::start();
    let mut gateway = manager.run();
    assert!(manager.next()["STATUS"].starts_with("Starting"));
    let ready = manager.until("READY");
    assert_eq!((&*ready["READY"], &*ready["STATUS"]), ("1", "Serving"));
    for _ in 0..3 {
        assert_eq!(manager.until("WATCHDOG")["WATCHDOG"], "1");
    }

    let before = monotonic();
    gateway.signal("HUP");
    let reloading = manager.until("RELOADING");
    assert!(reloading["MONOTONIC_USEC"].parse::<u64>().unwrap() >= before);
    assert_eq!(manager.until("READY")["STATUS"], "Serving");
    gateway.reconfigure("[[route]]\npath = \"orders\"\n");
    gateway.logged("the running one stays").await;
    gateway.signal("HUP");
    manager.until("RELOADING");
    let status = manager.until("READY")["STATUS"].clone();
    assert!(status.starts_with("Configuration refused, the running one stays: "), "{status}");
    gateway.reconfigure(ROUTE);
    gateway.signal("HUP");
    manager.until("RELOADING");
    assert_eq!(manager.until("READY")["STATUS"], "Serving");

    gateway.signal("USR2");
    assert!(manager.until("RELOADING").contains_key("MONOTONIC_USEC"));
    let old = gateway.until_upgraded();
    // One message, from the process that systemd listens to.
    let handed_over = manager.until("MAINPID");
    assert_eq!((&*handed_over["MAINPID"], &*handed_over["READY"]), (&*gateway.pid().to_string(), "1"));
    assert_ne!(old, gateway.pid());
    // The new one shows that it lives, though the variable of systemd names the old one.
    until("the old process has ended", || async { has_ended(old) }).await;
    manager.rest();
    assert_eq!(manager.until("WATCHDOG")["WATCHDOG"], "1");

    gateway.signal("TERM");
    let stopping = manager.until("STOPPING");
    assert_eq!(stopping["EXTEND_TIMEOUT_USEC"], "7100000");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_came_to_nothing_is_the_status_of_the_service() {
    let manager = Manager::start();
    let gateway = manager.run();
    let backend = Backend::start("one").await;
    gateway.register("orders", "1", backend.address).await;
    manager.until("READY");
    gateway.reconfigure("[[route]]\npath = \"orders\"\n");
    gateway.logged("the running one stays").await;
    gateway.signal("USR2");
    manager.until("RELOADING");
    let told = manager.until("READY");
    assert!(!told.contains_key("MAINPID"), "{told:?}");
    assert!(
        told["STATUS"].starts_with("No new process took over, serving on: the new process ended"),
        "{told:?}"
    );
    until("it serves", || async { gateway.get("/").await.status.is_success() }).await;
    manager.until("WATCHDOG");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_came_to_nothing_makes_no_service_ready_that_is_not() {
    let manager = Manager::start();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("plugins")).unwrap();
    // It takes longer to compile than any test waits.
    fs::write(folder.path().join("plugins/mine.wasm"), with_functions(&guest("first"), 20_000)).unwrap();
    let slow = ROUTE.replace("registry = \"memory\"", "registry = \"memory\"\nselector = \"mine\"");
    let gateway = manager.begin(folder, &slow);
    until("it is compiled", || async { gateway.plugin("mine").await["state"] == "compiling" }).await;
    gateway.reconfigure("[[route]]\npath = \"orders\"\n");
    gateway.logged("the running one stays").await;
    gateway.signal("USR2");
    gateway.logged("No new process took over, serving on").await;
    assert_eq!(gateway.session_to_admin().get("/readyz").await.status, 503);
    let told = manager.rest();
    assert!(told[0]["STATUS"].starts_with("Starting"), "{told:?}");
    let wrong = ["READY", "RELOADING"];
    assert!(told.iter().all(|told| wrong.iter().all(|name| !told.contains_key(*name))), "{told:?}");
}

/// Both come with systemd, which need not run.
#[test]
fn the_unit_is_valid_and_exposes_little() {
    let unit = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(UNIT)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("witgate.service");
    fs::write(&path, unit.replace("/usr/bin/witgate", env!("CARGO_BIN_EXE_witgate"))).unwrap();
    let analyze = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze").args(arguments).arg(&path).output();
        let output = output.expect("systemd-analyze, of Debian's package systemd");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}");
        text
    };
    let complaints = analyze(&["verify", "--man=no"]);
    assert_eq!(complaints, "");
    // Tenths of a scale from 0 to 10 on which a service with no restrictions has 9.6.
    analyze(&["security", "--offline=yes", "--no-pager", "--threshold=20"]);
}

/// What the unit promises is what the gateway does.
#[test]
fn the_unit_says_what_the_gateway_does() {
    assert_eq!(settings("Type"), ["notify"]);
    assert_eq!(settings("ExecReload"), ["/bin/kill -HUP $MAINPID"]);
    let watchdog: u64 = settings("WatchdogSec")[0].parse().unwrap();
    assert!(Duration::from_secs(watchdog) >= Duration::from_secs(10));
    assert!(settings("LimitNOFILE")[0].parse::<u64>().unwrap() > 2 * 10_000);
    // The folder of the state is the one that the configuration of the package names.
    let state = format!("/var/lib/{}", settings("StateDirectory")[0]);
    let config =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/witgate.toml")).unwrap();
    assert!(config.contains(&format!("directory = \"{state}\"")), "{config}");
}

//! `witgate doctor`: each thing that will hurt is found where it really is so, with what to do about it.

use std::{
    fmt::Write as _,
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

use crate::support::{
    backend::Backend,
    certs::{Certs, Pair},
    dns::{Dns, Says},
    etcd::{Etcd, Version, free_port},
    gateway::Gateway,
    guest::guest,
    origin::{Origin, Reply},
};

const HEAD: &str = "[admin]\naddress = \"127.0.0.1:0\"\n\n[[listener]]\naddress = \"127.0.0.1:0\"\n\n";

const MEMORY: &str = "[upstream.orders]\nservice = \"orders\"\nregistry = \"memory\"\n\n";

/// What it says, and its exit code.
struct Said(String, Option<i32>);

/// Examines a configuration in a folder.
fn doctor(folder: &Path, text: &str) -> Said {
    doctor_by(&[], folder, text)
}

/// The same by another program, which becomes it.
fn doctor_by(program: &[&str], folder: &Path, text: &str) -> Said {
    let file = folder.join("witgate.toml");
    std::fs::write(&file, text).unwrap();
    let witgate = env!("CARGO_BIN_EXE_witgate");
    let words: Vec<&str> = program.iter().copied().chain([witgate, "doctor"]).collect();
    let output = Command::new(words[0]).args(&words[1..]).arg(&file).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    Said(text, output.status.code())
}

impl Said {
    /// That there is a line with this mark that has all of these, and what to do below it.
    fn has(&self, mark: &str, parts: &[&str]) -> &Self {
        let lines: Vec<&str> = self.0.lines().collect();
        let found = lines.iter().enumerate().find(|(at, line)| {
            let below = lines.get(at + 1).filter(|line| line.trim_start().starts_with("to do: "));
            let whole = format!("{line} {}", below.unwrap_or(&""));
            line.starts_with(mark) && parts.iter().all(|part| whole.contains(part))
        });
        assert!(found.is_some(), "no line {mark} with {parts:?} in\n{}", self.0);
        self
    }

    fn has_not(&self, part: &str) -> &Self {
        assert!(!self.0.contains(part), "{part} in\n{}", self.0);
        self
    }

    fn ends_with(&self, code: i32) {
        assert_eq!(self.1, Some(code), "{}", self.0);
    }
}

fn etcd(endpoint: &str, more: &str) -> String {
    format!(
        "{HEAD}[registry.main]\nplugin = \"etcd\"\netcd = {{ endpoints = [\"{endpoint}\"]{more} }}\n\
         settings = {{ layout = \"go-zero\" }}\n\n[upstream.orders]\nservice = \"orders.rpc\"\nregistry = \"main\"\n"
    )
}

fn tls(pair: &Pair) -> String {
    format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ certificates = [{{ cert_file = {:?}, key_file = {:?} }}] }}\n\n{MEMORY}",
        pair.certificate, pair.key
    )
}

#[test]
fn where_all_is_well_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let said = doctor(folder.path(), &format!("{HEAD}{MEMORY}"));
    said.has("✓ ok", &["configuration", "witgate.toml"])
        .has("✓ ok", &["memory", "clients hold about"])
        .has("✓ ok", &["port", "admin: 127.0.0.1:0 is free"])
        .has("✓ ok", &["state", "can be made"])
        .has("✓ ok", &["plugin", "p2c-ewma"])
        .has("✓ ok", &["registry", "memory: inside the gateway"])
        .ends_with(0);
    assert!(said.0.contains("\n0 errors, "), "{}", said.0);
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["witgate.toml"], "nothing is left behind");
}

#[test]
fn mistakes_in_the_file_are_told_as_the_check_tells_them() {
    let folder = tempfile::tempdir().unwrap();
    let said = doctor(folder.path(), "[[listener]]\naddress = \"nowhere\"\n");
    said.has("✕ error", &["configuration"]).ends_with(1);
    assert!(said.0.contains("listener[0].address") && said.0.contains("nowhere"), "{}", said.0);
}

#[test]
fn a_port_in_use_is_told_with_its_process() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let said =
        doctor(folder.path(), &format!("[[listener]]\nname = \"web\"\naddress = \"{address}\"\n\n{MEMORY}"));
    let process = format!("process {}", std::process::id());
    said.has("✕ error", &["port", &format!("listener web: {address} is in use"), &process, "`address`"])
        .has("▲ warning", &["port", "connections out are given", "ip_local_reserved_ports"])
        .ends_with(1);
    // An address of documentation, which is that of no machine.
    let text = format!("[[listener]]\naddress = \"192.0.2.1:8080\"\n\n{MEMORY}");
    doctor(folder.path(), &text)
        .has("✕ error", &["192.0.2.1:8080", "no such address", "0.0.0.0"])
        .ends_with(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_of_a_gateway_that_runs_is_no_error() {
    let gateway = Gateway::start("");
    let text = format!("[[listener]]\naddress = \"{}\"\n\n{MEMORY}", gateway.address());
    let folder = tempfile::tempdir().unwrap();
    doctor(folder.path(), &text).has("✓ ok", &["port", "a gateway that runs"]).ends_with(0);
}

#[test]
fn too_few_files_and_too_little_memory_for_max_connections_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let many = format!("[[listener]]\naddress = \"127.0.0.1:0\"\nmax_connections = 10000000\n\n{MEMORY}");
    let said = doctor_by(&["prlimit", "--nofile=1024:1024"], folder.path(), &many);
    said.has(
        "▲ warning",
        &[
            "open files",
            "1024 may be open by the limit of this shell",
            "256 clients",
            "10000000",
            "a unit has",
            "LimitNOFILE=",
        ],
    )
    .has("▲ warning", &["memory", "10000000 clients hold about 234375 MiB", "a unit has", "MemoryMax="])
    .ends_with(0);
}

#[test]
fn a_state_directory_that_cannot_be_is_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let with = |directory: &str| format!("{HEAD}{MEMORY}[state]\ndirectory = \"{directory}\"\n");
    doctor(folder.path(), &with("file"))
        .has("✕ error", &["state", "file is no folder", "StateDirectory="])
        .ends_with(1);
    let damaged = folder.path().join("state");
    std::fs::create_dir(&damaged).unwrap();
    std::fs::write(damaged.join("registry.json"), "nonsense").unwrap();
    doctor(folder.path(), &with("state")).has("▲ warning", &["state", "registry.json"]).ends_with(0);
}

/// A user who is not root may be one for whom the folders of a service are closed, while its files are well.
#[test]
fn what_this_user_may_not_look_at_is_a_warning_and_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    for name in ["closed", "plugins"] {
        fs::create_dir(at(name)).unwrap();
    }
    fs::write(at("plugins/mine.wasm"), guest("first")).unwrap();
    for name in ["closed", "plugins/mine.wasm"] {
        fs::set_permissions(at(name), Permissions::from_mode(0o000)).unwrap();
    }
    let nobody: &[&str] = match rustix::process::geteuid().is_root() {
        true => &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
        false => &[],
    };
    let state = "[state]\ndirectory = \"closed/state\"\n";
    let said = doctor_by(nobody, folder.path(), &format!("{HEAD}{MEMORY}{state}"));
    said.has("▲ warning", &["state", "closed/state may not be looked at by this user", "as root"])
        .has("▲ warning", &["plugin", "cannot read", "mine.wasm", "ermission denied", "root can see"])
        .ends_with(0);
    let plugins = "[plugins]\ndirectory = \"closed/plugins\"\n";
    doctor_by(nobody, folder.path(), &format!("{HEAD}{MEMORY}{state}{plugins}"))
        .has("▲ warning", &["plugin", "cannot read the folder", "closed/plugins", "root can see"])
        .ends_with(0);
    fs::set_permissions(at("closed"), Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn certificates_that_are_over_or_not_yet_good_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(&folder.path().join("tls"));
    let said = |pair: &Pair| doctor(folder.path(), &tls(pair));
    said(&certs.expired_client("old"))
        .has("✕ error", &["old.crt", "listener", "CN=old", "ended", "renew it"])
        .ends_with(1);
    said(&certs.ending("soon", &["localhost"], 3))
        .has("▲ warning", &["soon.crt", "ends in", "renew it"])
        .ends_with(0);
    said(&certs.ending("good", &["localhost"], 90)).has("✓ ok", &["good.crt", "good for"]).ends_with(0);
    said(&certs.beginning("early", &["localhost"], 5))
        .has("✕ error", &["early.crt", "does not count yet", "clock"])
        .ends_with(1);
    // That of a client whose server is asked for spans.
    let old = certs.expired_client("old");
    let tracing = format!(
        "{HEAD}{MEMORY}[tracing]\nendpoint = \"https://127.0.0.1:1\"\n\
         tls = {{ ca_file = {:?}, cert_file = {:?}, key_file = {:?} }}\n",
        certs.ca(),
        old.certificate,
        old.key
    );
    doctor(folder.path(), &tracing)
        .has("✕ error", &["old.crt", "tracing", "ended"])
        .has("✓ ok", &["ca.crt (tracing)", "good for"])
        .ends_with(1);
}

#[test]
fn a_chain_out_of_order_and_a_key_of_another_certificate_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(&folder.path().join("tls"));
    let (one, other) = (certs.of("one", &["one.test"]), certs.of("other", &["other.test"]));
    let read = |pair: &Pair| std::fs::read_to_string(&pair.certificate).unwrap();
    let (of_one, ca) = (read(&one), std::fs::read_to_string(certs.ca()).unwrap());
    std::fs::write(&one.certificate, format!("{of_one}{ca}")).unwrap();
    doctor(folder.path(), &tls(&one)).has("✓ ok", &["one.crt", "good for"]).ends_with(0);
    std::fs::write(&one.certificate, format!("{of_one}{}", read(&other))).unwrap();
    doctor(folder.path(), &tls(&one))
        .has("✕ error", &["one.crt", "behind CN=one must come that of CN=test authority", "in their order"])
        .ends_with(1);
    let apart = Pair { certificate: other.certificate.clone(), key: one.key.clone() };
    let said = doctor(folder.path(), &tls(&apart));
    said.has("✕ error", &["configuration"]).ends_with(1);
    assert!(said.0.contains("is not that of the certificate"), "{}", said.0);
}

#[test]
fn plugins_that_are_not_the_right_ones_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let plugins = folder.path().join("plugins");
    std::fs::create_dir(&plugins).unwrap();
    let first = guest("first");
    let digest: String = Sha256::digest(&first).iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(plugins.join("first.wasm"), &first).unwrap();
    let text = format!("{HEAD}{MEMORY}selector = \"first\"\n");
    doctor(folder.path(), &text).has("✓ ok", &["first.wasm", &digest, "loaded"]).ends_with(0);

    let beside = plugins.join("first.wasm.sha256");
    std::fs::write(&beside, format!("{digest}  first.wasm\n")).unwrap();
    doctor(folder.path(), &text).has("✓ ok", &["first.wasm", "loaded"]).ends_with(0);
    std::fs::write(&beside, format!("{}  first.wasm\n", "0".repeat(64))).unwrap();
    doctor(folder.path(), &text)
        .has("✕ error", &["first.wasm", &digest, "says 0000", "copy it again"])
        .ends_with(1);

    std::fs::remove_file(&beside).unwrap();
    std::fs::write(plugins.join("first.wasm"), &first[..first.len() / 2]).unwrap();
    doctor(folder.path(), &text)
        .has("✕ error", &["plugin", "upstream orders", "build first again"])
        .ends_with(1);
    std::fs::remove_file(plugins.join("first.wasm")).unwrap();
    doctor(folder.path(), &text)
        .has("✕ error", &["plugin", "upstream orders", "put first.wasm into"])
        .ends_with(1);
}

#[test]
fn files_of_plugins_that_cannot_be_read_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let plugins = folder.path().join("plugins");
    fs::create_dir(&plugins).unwrap();
    let text = format!("{HEAD}{MEMORY}");
    for (name, why) in [("folder.wasm", "it is a folder"), ("dangling.wasm", "No such file")] {
        match name {
            "folder.wasm" => fs::create_dir(plugins.join(name)).unwrap(),
            _ => symlink("nowhere", plugins.join(name)).unwrap(),
        }
        doctor(folder.path(), &text)
            .has("✕ error", &["plugin", "cannot read", name, why, "or take it away"])
            .ends_with(1);
    }
    fs::remove_dir(plugins.join("folder.wasm")).unwrap();
    fs::remove_file(plugins.join("dangling.wasm")).unwrap();
    fs::write(plugins.join("mine.wasm"), guest("first")).unwrap();
    fs::create_dir(plugins.join("mine.wasm.sha256")).unwrap();
    // What is hidden is no plugin.
    fs::create_dir(plugins.join(".part.wasm")).unwrap();
    doctor(folder.path(), &text)
        .has("✕ error", &["plugin", "cannot read", "mine.wasm.sha256", "it is a folder"])
        .has("✓ ok", &["plugin", "mine.wasm, sha256", "loaded"])
        .has_not(".part.wasm")
        .ends_with(1);
    fs::remove_dir_all(&plugins).unwrap();
    fs::write(&plugins, "").unwrap();
    doctor(folder.path(), &text)
        .has("✕ error", &["plugin", "cannot read the folder", "plugins"])
        .ends_with(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_is_read_as_the_gateway_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let (etcd_server, backend) = (Etcd::start_version(Version::V35).await, Backend::start("one").await);
    let text = etcd(&etcd_server.endpoint(), "");
    doctor(folder.path(), &text)
        .has("▲ warning", &["registry", "main: answers, and has no instance of orders.rpc", "`settings`"])
        .ends_with(0);
    etcd_server.client().await.put("orders.rpc/1", backend.address.to_string(), None).await.unwrap();
    let said = doctor(folder.path(), &text);
    said.has("✓ ok", &["registry", "main: instances of orders.rpc (1)"])
        .has("✓ ok", &["clock", &etcd_server.endpoint()])
        .ends_with(0);
    // One of two members is down.
    let two = text.replace("endpoints = [", &format!("endpoints = [\"127.0.0.1:{}\", ", free_port()));
    doctor(folder.path(), &two)
        .has("✓ ok", &["registry", "main: instances of orders.rpc (1)"])
        .has("▲ warning", &["registry", "nobody takes connections", "[registry.main]"])
        .ends_with(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_down_or_hangs_is_told_within_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let down = SocketAddr::from(([127, 0, 0, 1], free_port())).to_string();
    doctor(folder.path(), &etcd(&down, ""))
        .has(
            "✕ error",
            &["registry", "main: orders.rpc cannot be read", "`etcd.endpoints` of [registry.main]"],
        )
        .has("✕ error", &["registry", "nobody takes connections", &down])
        .ends_with(1);

    let frozen = Etcd::start_version(Version::V35).await;
    frozen.stop();
    let begun = Instant::now();
    let said = doctor(folder.path(), &etcd(&frozen.endpoint(), ""));
    let took = begun.elapsed();
    frozen.cont();
    said.has("✕ error", &["registry", "orders.rpc cannot be read", "no answer within", "`etcd.endpoints`"])
        .ends_with(1);
    assert!(took < Duration::from_secs(25), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_is_refused_is_told_with_its_settings() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Etcd::start_version(Version::V35).await;
    server.lock("gateway", "right", "orders.rpc/").await;
    let password = folder.path().join("password");
    let text = etcd(&server.endpoint(), &format!(", user = \"gateway\", password_file = {password:?}"));
    std::fs::write(&password, "right").unwrap();
    doctor(folder.path(), &text).has("▲ warning", &["has no instance of orders.rpc"]).ends_with(0);
    std::fs::write(&password, "wrong").unwrap();
    doctor(folder.path(), &text)
        .has(
            "✕ error",
            &["registry", "refused the credentials", "`user`, `password_file`", "[registry.main]"],
        )
        .ends_with(1);
    // A role that does not reach so far.
    std::fs::write(&password, "right").unwrap();
    doctor(folder.path(), &text.replace("orders.rpc", "users.rpc"))
        .has("✕ error", &["registry", "users.rpc cannot be read", "permission denied", "what that may read"])
        .ends_with(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_far_off_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let answer = "HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n";
    let server = Origin::replying(move |_| Reply::raw(answer)).await;
    let text = format!(
        "{HEAD}[registry.main]\nplugin = \"consul\"\nhttp = {{ urls = [\"http://{}\"] }}\n\n\
         [upstream.orders]\nservice = \"orders\"\nregistry = \"main\"\n",
        server.address
    );
    let said = doctor(folder.path(), &text);
    said.has("▲ warning", &["clock", "seconds ahead of that of", &server.address.to_string(), "chrony"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_urls_each_is_spoken_to_as_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::new(&folder.path().join("tls"));
    let answer = "HTTP/1.1 200 OK\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n";
    let server = Origin::replying(move |_| Reply::raw(answer)).await;
    let text = format!(
        "{HEAD}[registry.main]\nplugin = \"consul\"\n\
         http = {{ urls = [\"http://{}\", \"https://127.0.0.1:{}\"], ca_file = {:?} }}\n\n\
         [upstream.orders]\nservice = \"orders\"\nregistry = \"main\"\n",
        server.address,
        free_port(),
        certs.ca()
    );
    doctor(folder.path(), &text)
        .has("▲ warning", &["clock", "seconds ahead of that of", &server.address.to_string()])
        .has("✓ ok", &["ca.crt (registry main)"])
        .has_not("no TLS at");
}

#[test]
fn a_registry_by_mdns_names_the_setting_of_its_links() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "{HEAD}[registry.here]\nplugin = \"mdns\"\nmdns = {{ interfaces = [\"nosuch0\"] }}\n\n\
         [upstream.orders]\nservice = \"orders\"\nregistry = \"here\"\n"
    );
    doctor(folder.path(), &text)
        .has("✕ error", &["registry", "nosuch0", "see `mdns.interfaces` of [registry.here]"])
        .ends_with(1);
}

#[test]
fn that_not_all_of_many_services_are_asked_for_is_told() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("services.json"), r#"{"services": {}}"#).unwrap();
    let mut text = format!("{HEAD}[registry.list]\nplugin = \"file\"\nfile = \"services.json\"\n\n");
    let more = |text: &mut String, number: usize| {
        let upstream = format!("[upstream.s{number}]\nservice = \"s{number}\"\nregistry = \"list\"\n");
        text.write_str(&upstream).unwrap();
    };
    (0..50).for_each(|number| more(&mut text, number));
    doctor(folder.path(), &text).has_not("were asked for").ends_with(0);
    more(&mut text, 50);
    doctor(folder.path(), &text)
        .has("✓ ok", &["registry", "list: 50 of its 51 services were asked for"])
        .ends_with(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_instances_that_come_to_nothing_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let dns = Dns::start().await;
    dns.set("gone.test", Says::NoSuchName);
    dns.point("here.test", "127.0.0.1");
    std::fs::write(
        folder.path().join("services.json"),
        r#"{"services": {"orders": ["gone.test:80", "here.test:80"]}}"#,
    )
    .unwrap();
    let text = format!(
        "{HEAD}[resolver]\nservers = [\"{}\"]\n\n[registry.list]\nplugin = \"file\"\nfile = \"services.json\"\n\n\
         [upstream.orders]\nservice = \"orders\"\nregistry = \"list\"\n",
        dns.address
    );
    doctor(folder.path(), &text)
        .has("▲ warning", &["dns", "gone.test", "`servers` of [resolver]"])
        .has("✓ ok", &["dns", "names of instances in list that are resolved: 1"])
        .has("✓ ok", &["registry", "list: instances of orders (2)"])
        .ends_with(0);
}

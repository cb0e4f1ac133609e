//! The process as its operator sees it: flags, configuration mistakes, ports, signals, exit codes.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use http::StatusCode;

use crate::support::{
    backend::Backend,
    gateway::{Gateway, until},
};

fn witgate(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_witgate")).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("witgate.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path.display().to_string())
}

#[test]
fn wrong_flags_exit_with_2_and_say_what_there_is() {
    let (code, _, stderr) = witgate(&["fly"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("unrecognized subcommand 'fly'"), "{stderr}");
    let (code, _, stderr) = witgate(&["demo", "--listen", "nowhere"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("--listen"), "{stderr}");
    let (code, stdout, _) = witgate(&["--help"]);
    assert_eq!(code, Some(0));
    for command in ["run", "check", "demo"] {
        assert!(stdout.contains(command), "{stdout}");
    }
}

#[test]
fn the_help_of_each_command_has_examples() {
    let (_, help, _) = witgate(&["--help"]);
    let commands =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names: Vec<&str> = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    let names: Vec<&str> = names.into_iter().filter(|name| !name.is_empty() && *name != "help").collect();
    assert!(names.len() >= 9, "{help}");
    for name in names {
        let (code, help, _) = witgate(&[name, "--help"]);
        assert_eq!(code, Some(0));
        let example = format!("\nExamples:\n  witgate {name}");
        assert!(help.contains(&example) || help.contains("\nExamples:\n  sudo"), "{name}: {help}");
    }
}

#[test]
fn check_tells_all_mistakes_and_exits_with_1() {
    let (_folder, path) =
        file("[[listener]]\naddress = \"nowhere\"\n\n[[route]]\npath = \"orders\"\nupstream = \"none\"\n");
    let (code, _, stderr) = witgate(&["check", &path]);
    assert_eq!(code, Some(1), "{stderr}");
    for mistake in ["nowhere", "\"orders\"", "none"] {
        assert!(stderr.contains(mistake), "{mistake}: {stderr}");
    }
    assert_eq!(stderr.matches("problems in").count(), 1, "told once: {stderr}");
}

#[test]
fn check_says_what_a_valid_file_would_run() {
    let text = "[[listener]]\naddress = \"127.0.0.1:8080\"\n\n[upstream.orders]\nservice = \"orders\"\nregistry = \"memory\"\n\n[[route]]\npath = \"/orders\"\nupstream = \"orders\"\n";
    let (_folder, path) = file(text);
    let (code, stdout, stderr) = witgate(&["check", &path]);
    assert_eq!(code, Some(0), "{stderr}");
    for part in ["127.0.0.1:8080", "orders in memory", "/orders -> orders", "p2c-ewma"] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }
}

#[test]
fn check_asks_the_plugins_about_their_settings() {
    let text = "[[listener]]\naddress = \"127.0.0.1:0\"\n\n[upstream.orders]\nservice = \"orders\"\nregistry = \"memory\"\nselector = { plugin = \"consistent-hash\", settings = { keey = \"path\" } }\n";
    let (_folder, path) = file(text);
    let (code, _, stderr) = witgate(&["check", &path]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("keey") && stderr.contains("orders"), "{stderr}");
}

/// Everything below a folder, with who owns it and what is in it.
fn everything(folder: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let owner = path.symlink_metadata().unwrap().uid();
        let is_folder = path.is_dir();
        found.push((path.clone(), owner, if is_folder { vec![] } else { std::fs::read(&path).unwrap() }));
        if is_folder {
            found.extend(everything(&path));
        }
    }
    found.sort();
    found
}

#[test]
fn check_changes_nothing_and_names_a_registry_that_cannot_be_used() {
    let text = "[[listener]]\naddress = \"127.0.0.1:0\"\n\n[upstream.orders]\nservice = \"orders\"\nregistry = \"memory\"\n";
    let (folder, path) = file(text);
    let before = everything(folder.path());
    assert_eq!(witgate(&["check", &path]).0, Some(0));
    assert_eq!(everything(folder.path()), before, "no state directory is made");

    let state = folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    // Where the tests run as root, the folder is that of a service, and what root makes there it could not write.
    let _ = std::os::unix::fs::chown(&state, Some(65_534), Some(65_534));
    let is_foreign = state.metadata().unwrap().uid() == 65_534;
    for (registry, why) in [
        ("nonsense", "expected"),
        ("{\"version\":99}", "version 99"),
        ("", "empty"),
        ("{\"version\":2}\nnonsense\n", "1 line damaged"),
    ] {
        std::fs::write(state.join("registry.json"), registry).unwrap();
        let before = everything(folder.path());
        let (code, stdout, stderr) = witgate(&["check", &path]);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stdout.contains("registry.json") && stdout.contains(why), "{registry}: {stdout}");
        let mut after = everything(folder.path());
        if !is_foreign {
            after.retain(|(path, ..)| !path.starts_with(state.join("compiled-plugins")));
        }
        assert_eq!(after, before, "{registry}");
    }
}

#[test]
fn a_missing_configuration_is_named() {
    let (code, _, stderr) = witgate(&["run", "--config", "/no/such/witgate.toml"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("/no/such/witgate.toml"), "{stderr}");
}

#[test]
fn a_port_in_use_is_told_and_exits_with_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let start = |listener: &str, admin: &str, registrations: &str| {
        let (_folder, path) = file(&format!(
            "[admin]\naddress = \"{admin}\"\nregistrations = {{ address = \"{registrations}\" }}\n\n\
             [[listener]]\naddress = \"{listener}\"\n"
        ));
        let (code, _, stderr) = witgate(&["run", "--config", &path]);
        assert_eq!(code, Some(1));
        stderr
    };
    let (free, taken) = ("127.0.0.1:0", address.to_string());
    for (place, said) in [
        ("listener", start(&taken, free, free)),
        ("[admin]: ", start(free, &taken, free)),
        ("[admin.registrations]: ", start(free, free, &taken)),
    ] {
        let in_use = format!("{taken} is in use by another process (`witgate doctor` says by which)");
        assert!(said.contains(place) && said.contains(&in_use), "{said}");
    }
}

const ROUTE: &str = r#"
[shutdown]
delay_ms = 300
drain_ms = 10000

[upstream.orders]
service = "orders"
registry = "memory"

[[route]]
path = "/"
upstream = "orders"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_takes_readiness_away_then_drains_and_exits_with_0() {
    let mut gateway = Gateway::start(ROUTE);
    let backend = Backend::start("one").await;
    gateway.register("orders", "1", backend.address).await;
    until("traffic flows", || async { gateway.get("/").await.status.is_success() }).await;
    assert_eq!(gateway.session_to_admin().get("/readyz").await.status, StatusCode::OK);

    let mut session = gateway.session();
    session.get("/").await;
    gateway.signal("TERM");
    until("it is not ready any more", || async {
        gateway.session_to_admin().get("/readyz").await.status == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    assert_eq!(session.get("/").await.text(), "one", "it still serves during the delay");
    assert_eq!(gateway.exit().await.code(), Some(0), "{}", gateway.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_that_mean_nothing_here_end_nothing() {
    let mut gateway = Gateway::start(ROUTE);
    let backend = Backend::start("one").await;
    gateway.register("orders", "1", backend.address).await;
    until("traffic flows", || async { gateway.get("/").await.status.is_success() }).await;
    for signal in ["USR1", "PIPE", "HUP", "USR1", "WINCH", "URG", "CHLD"] {
        gateway.signal(signal);
        assert_eq!(gateway.get("/").await.text(), "one", "after SIG{signal}");
    }
    // One that did end it would be the status of its exit.
    gateway.signal("TERM");
    assert_eq!(gateway.exit().await.code(), Some(0), "{}", gateway.log());
}

/// Plugins are compiled and first lists waited for during a start, which may take a while.
#[tokio::test(flavor = "multi_thread")]
async fn signals_during_the_start_end_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("witgate.toml");
    // A registry that never answers makes the start last.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!(
        "[admin]\naddress = \"127.0.0.1:0\"\n\n[[listener]]\naddress = \"127.0.0.1:0\"\n\n[registry.main]\nplugin = \"etcd\"\netcd = {{ endpoints = [\"{}\"] }}\nsettings = {{ layout = \"go-zero\" }}\n\n[upstream.orders]\nservice = \"orders\"\nregistry = \"main\"\n\n[[route]]\npath = \"/\"\nupstream = \"orders\"\n",
        silent.local_addr().unwrap()
    );
    std::fs::write(&config, text).unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_witgate"))
        .args(["run", "--config"])
        .arg(&config)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut signals = ["USR1", "HUP", "USR2"].into_iter();
    let mut ready = false;
    for line in lines {
        ready |= line == "ready";
        if let Some(signal) = signals.next() {
            let id = process.id().to_string();
            assert!(Command::new("kill").args([&format!("-{signal}"), &id]).status().unwrap().success());
        }
        if ready {
            break;
        }
    }
    process.kill().unwrap();
    let status = process.wait().unwrap();
    assert!(ready, "it ended before it was ready: {status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_leaves_sighup_as_it_is_so_that_it_ends_with_its_terminal_unless_told_otherwise() {
    let caught = |gateway: &Gateway| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim().to_owned();
        let mask = u64::from_str_radix(&mask, 16).unwrap();
        // Hangup, and the two for users.
        [1, 10, 12].map(|signal| mask & (1 << (signal - 1)) != 0)
    };
    let demo = Gateway::demo(tempfile::tempdir().unwrap());
    assert_eq!(caught(&demo), [false, true, true]);
    assert_eq!(caught(&Gateway::start(ROUTE)), [true, true, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_open_files_is_raised_and_what_is_left_too_little_is_told() {
    let limited = |limits: &str, most: u64| {
        let shell = format!("ulimit -Sn 256; ulimit -Hn {limits}; exec \"$0\" \"$@\"");
        let folder = tempfile::tempdir().unwrap();
        let text = ROUTE.replacen(
            "[shutdown]",
            &format!("[[listener]]\naddress = \"127.0.0.1:0\"\nmax_connections = {most}\n\n[shutdown]"),
            1,
        );
        Gateway::start_by(&["sh", "-c", &shell], folder, &text)
    };
    let in_force = |gateway: &Gateway| {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.pid())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
        line.split_whitespace().nth(3).unwrap().to_owned()
    };
    // The listener that the tests add takes 10,000.
    let gateway = limited("3000", 500);
    assert_eq!(in_force(&gateway), "3000");
    let told = "max_connections=10500 descriptors=3000 enough_for=1244";
    until("it is told", || async { gateway.log().contains(told) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_valid_change_of_the_file_takes_effect_and_an_invalid_one_changes_nothing() {
    let gateway = Gateway::start(ROUTE);
    let backend = Backend::start("one").await;
    gateway.register("orders", "1", backend.address).await;
    gateway.register("users", "1", backend.address).await;
    until("traffic flows", || async { gateway.get("/").await.status.is_success() }).await;
    let mut session = gateway.session();

    gateway.reconfigure("[[route]]\npath = \"orders\"\n");
    until("the mistake is reported", || async { gateway.log().contains("the running one stays") }).await;
    assert_eq!(session.get("/").await.text(), "one");

    let with_users = format!(
        "{ROUTE}\n[upstream.users]\nservice = \"users\"\nregistry = \"memory\"\n\n[[route]]\npath = \"/users\"\nupstream = \"users\"\n\n[[route]]\npath = \"/only-new\"\nupstream = \"users\"\n"
    );
    gateway.reconfigure(&with_users);
    until("the change takes effect", || async {
        let upstreams = gateway.api("/api/v1/upstreams").await;
        upstreams["upstreams"].as_array().unwrap().len() == 2
    })
    .await;
    // Routes never point at an upstream whose list is on its way.
    assert_eq!(session.get("/users").await.text(), "one");
    assert_eq!(session.get("/").await.text(), "one");
}

/// Whatever stands where the file should: it is no reason to read without a pause, nor to say so again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_file_that_is_gone_costs_nothing_and_its_return_is_noticed_soon() {
    type Place = fn(&Path);
    let gateway = Gateway::start(ROUTE);
    let path = gateway.folder().join("witgate.toml");
    let away = gateway.folder().join("away.toml");
    let in_the_way: [(&str, Place); 4] = [
        ("nothing", |_| {}),
        ("a folder", |path| std::fs::create_dir(path).unwrap()),
        ("a dangling link", |path| std::os::unix::fs::symlink("nowhere", path).unwrap()),
        ("a file beyond the limit", |path| std::fs::File::create(path).unwrap().set_len(17 << 20).unwrap()),
    ];
    for (round, (what, place)) in in_the_way.into_iter().enumerate() {
        let (lines, ticks) = (gateway.log().lines().count(), gateway.cpu());
        std::fs::rename(&path, &away).unwrap();
        place(&path);
        let start = Instant::now();
        // What happens is nothing, so there is no fact to wait for.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (lines, ticks) = (gateway.log().lines().count() - lines, gateway.cpu() - ticks);
        // Each reason is a line, and the first of them a second one after ten seconds.
        assert!(lines <= 4, "{what}: {lines} lines in {:?}: {}", start.elapsed(), gateway.log());
        assert!(ticks < 100, "{what}: {ticks} hundredths of a second of computing");
        if path.is_dir() {
            std::fs::remove_dir(&path).unwrap();
        } else if path.is_symlink() || path.exists() {
            std::fs::remove_file(&path).unwrap();
        }
        let upstream = format!("new{round}");
        let text = format!("{ROUTE}\n[upstream.{upstream}]\nservice = \"new\"\nregistry = \"memory\"\n");
        gateway.reconfigure(&text);
        let took = until("the new file is in force", || async {
            let upstreams = gateway.api("/api/v1/upstreams").await;
            upstreams["upstreams"].as_array().unwrap().iter().any(|known| known["name"] == upstream)
        })
        .await;
        // A second until it is read, and room for a busy machine.
        assert!(took < Duration::from_secs(5), "{what}: in force after {took:?}");
    }
    let log = gateway.log();
    assert!(log.contains("Configuration file cannot be read") && log.contains("can be read again"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_survive_a_restart_of_the_gateway() {
    let gateway = Gateway::start(ROUTE);
    let backend = Backend::start("one").await;
    gateway.register("orders", "1", backend.address).await;
    until("traffic flows", || async { gateway.get("/").await.status.is_success() }).await;
    until("it is on disk", || async { gateway.folder().join("state/registry.json").exists() }).await;
    let gateway = gateway.restart().await;
    assert_eq!(gateway.get("/").await.text(), "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_answers_its_own_lines_from_three_instances() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::demo(folder);
    let mut session = gateway.session();
    for path in ["/hello", "/svc/hello"] {
        let mut met = std::collections::BTreeSet::new();
        until("three instances answer", || async {
            gateway.api("/api/v1/services/hello").await["instances"]
                .as_array()
                .is_some_and(|list| list.len() == 3)
        })
        .await;
        for _ in 0..300 {
            let answer = session.get(path).await;
            assert_eq!(answer.status, StatusCode::OK);
            met.insert(answer.text());
            if met.len() == 3 {
                break;
            }
        }
        assert_eq!(met.len(), 3, "{path}: {met:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_twice_does_not_wait_for_open_connections() {
    // For longer than any test waits for the end of a process.
    let mut gateway = Gateway::start(&ROUTE.replace("drain_ms = 10000", "drain_ms = 600000"));
    // A backend that accepts and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    gateway.register("orders", "1", silent.local_addr().unwrap()).await;
    until("the list is there", || async {
        gateway.api("/api/v1/upstreams/orders").await["endpoint_count"] == 1
    })
    .await;
    let mut session = gateway.session();
    let waiting =
        tokio::spawn(async move { session.try_send(http::Request::get("/"), Default::default()).await });
    let accepted = tokio::task::spawn_blocking(move || silent.accept().unwrap()).await.unwrap();
    gateway.signal("TERM");
    until("it drains", || async { gateway.log().contains("Shutting down") }).await;
    // The first of these ends the delay, the second the wait for connections; two that arrive together are one.
    until("it does not wait any more", || async {
        gateway.signal("TERM");
        tokio::time::sleep(Duration::from_millis(50)).await;
        gateway.log().contains("Asked again")
    })
    .await;
    assert_eq!(gateway.exit().await.code(), Some(0), "{}", gateway.log());
    drop((accepted, waiting));
}

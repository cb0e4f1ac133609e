//! What stands in the plugins folder holds up nobody: files that take minutes to compile, and what is no file at all.

use std::{
    os::unix::fs::symlink,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use http::StatusCode;

use crate::support::{
    backend::Backend,
    component::with_functions,
    gateway::{Gateway, PATIENCE, until},
    guest::guest,
};

/// Functions that take longer to compile than any test waits, and some that do not.
const MINUTES: usize = 20_000;
const SECONDS: usize = 150;

/// A gateway that has nothing to wait for ends within this, a busy machine included.
const PROMPT: Duration = Duration::from_secs(10);

const CONFIG: &str = r#"
[shutdown]
delay_ms = 0
drain_ms = 0

[upstream.orders]
service = "orders"
registry = "memory"
selector = "mine"

[[route]]
path = "/"
upstream = "orders"
"#;

/// A folder for a gateway, with these files in its plugins folder.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let plugins = folder.path().join("plugins");
    std::fs::create_dir(&plugins).unwrap();
    for (name, bytes) in files {
        std::fs::write(plugins.join(format!("{name}.wasm")), bytes).unwrap();
    }
    folder
}

fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

async fn state(gateway: &Gateway, name: &str, state: &str) {
    until(&format!("{name} is {state}"), || async { gateway.plugin(name).await["state"] == state }).await;
}

async fn ends_promptly(gateway: &mut Gateway) {
    let asked = Instant::now();
    gateway.signal("TERM");
    assert_eq!(gateway.exit().await.code(), Some(0), "{}", gateway.log());
    assert!(asked.elapsed() < PROMPT, "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_compiles_at_the_start_holds_up_neither_health_nor_traffic_nor_reload_nor_stop() {
    let huge = with_functions(&guest("first"), MINUTES);
    let mut gateway = Gateway::start_early(folder(&[("mine", &huge)]), CONFIG);
    state(&gateway, "mine", "compiling").await;
    assert_eq!(gateway.session_to_admin().get("/healthz").await.status, StatusCode::OK);
    assert_eq!(gateway.session_to_admin().get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);

    // The native round robin picks.
    let backend = Backend::start("one").await;
    gateway.register("orders", "1", backend.address).await;
    until("traffic flows", || async { gateway.get("/").await.status.is_success() }).await;

    // A shipped plugin that was not needed before, and another file that goes.
    let more = "[upstream.users]\nservice = \"users\"\nregistry = \"memory\"\nselector = \"random\"\n";
    gateway.reconfigure(&format!("{CONFIG}\n{more}"));
    until("the change takes effect", || async {
        gateway.api("/api/v1/upstreams").await["upstreams"].as_array().unwrap().len() == 2
    })
    .await;
    assert_eq!(gateway.plugin("mine").await["state"], "compiling");
    ends_promptly(&mut gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_in_force_stays_until_the_next_is_compiled() {
    let mut gateway = Gateway::start_in(folder(&[("mine", &guest("first"))]), CONFIG);
    state(&gateway, "mine", "running").await;
    let before = gateway.plugin("mine").await["version"].clone();
    gateway.drop_plugin("mine", &with_functions(&guest("last"), SECONDS));
    until("the next is being compiled", || async {
        let plugin = gateway.plugin("mine").await;
        assert!(plugin["state"] == "compiling" || plugin["version"] == before, "it was not seen: {plugin}");
        plugin["state"] == "compiling" && plugin["version"] == before
    })
    .await;
    until("the next is in force", || async {
        let plugin = gateway.plugin("mine").await;
        plugin["state"] == "running" && plugin["version"] != before
    })
    .await;

    // A file that is taken away while it is compiled is not put in force.
    let path = gateway.drop_plugin("mine", &with_functions(&guest("first"), MINUTES));
    state(&gateway, "mine", "compiling").await;
    std::fs::remove_file(path).unwrap();
    state(&gateway, "mine", "missing").await;
    ends_promptly(&mut gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_ready_once_its_plugins_are_compiled() {
    let huge = with_functions(&guest("first"), SECONDS);
    let mut gateway = Gateway::start_early(folder(&[("mine", &huge)]), CONFIG);
    gateway.until_ready();
    assert_eq!(gateway.plugin("mine").await["state"], "running", "{}", gateway.log());
    assert_eq!(gateway.session_to_admin().get("/readyz").await.status, StatusCode::OK);
}

/// Everything that a name in the folder may lead to, and what is said of it.
fn fill(plugins: &Path) -> Vec<(&'static str, &'static str)> {
    let at = |name: &str| plugins.join(format!("{name}.wasm"));
    make_pipe(&at("pipe"));
    symlink("pipe.wasm", at("pipe-link")).unwrap();
    symlink("/dev/zero", at("zero")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    symlink("loop.wasm", at("loop")).unwrap();
    std::fs::create_dir(at("folder")).unwrap();
    // A file of the kernel that nobody can read, whoever runs this.
    symlink("/proc/self/mem", at("unreadable")).unwrap();
    std::fs::File::create(at("zeros")).unwrap().set_len(200 << 20).unwrap();
    std::fs::File::create(at("large")).unwrap().set_len(300 << 20).unwrap();
    std::fs::write(at("half"), &guest("last")[..5_000]).unwrap();
    std::fs::write(at("empty"), "").unwrap();
    vec![
        ("pipe", "it is a pipe, not a file"),
        ("pipe-link", "it is a pipe, not a file"),
        ("zero", "it is a device, not a file"),
        ("dangling", "No such file"),
        ("loop", "symbolic link"),
        ("folder", "it is a folder, not a file"),
        ("unreadable", "cannot be read"),
        ("zeros", "is not WebAssembly"),
        ("large", "is not WebAssembly"),
        ("half", "half written"),
        ("empty", "it ends too early"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_plugin_file_is_told_once_and_holds_up_nothing() {
    let folder = folder(&[]);
    let unfit = fill(&folder.path().join("plugins"));
    let mut gateway = Gateway::start_in(folder, CONFIG);
    for (name, reason) in &unfit {
        until(&format!("{name} is refused"), || async {
            gateway.plugin(name).await["last_refusal"]["reason"].to_string().contains(reason)
        })
        .await;
    }
    assert!(gateway.memory() < 150 << 20, "{} bytes", gateway.memory());

    // Others are still exchanged, and nothing is told again at every look.
    for name in ["first", "last", "first"] {
        let before = gateway.plugin("mine").await["version"].clone();
        gateway.drop_plugin("mine", &guest(name));
        until("another plugin is in force", || async {
            gateway.plugin("mine").await["version"] != before
                && gateway.plugin("mine").await["state"] == "running"
        })
        .await;
    }
    for (name, _) in unfit {
        assert_eq!(gateway.plugin(name).await["refusals"], 1, "{name}");
    }

    // What becomes a file after all is taken.
    let plugins = gateway.folder().join("plugins");
    std::fs::write(plugins.join("nowhere"), guest("first")).unwrap();
    std::fs::remove_file(plugins.join("pipe.wasm")).unwrap();
    std::fs::write(plugins.join("pipe.wasm"), guest("first")).unwrap();
    for name in ["dangling", "pipe", "pipe-link"] {
        state(&gateway, name, "loaded").await;
    }
    ends_promptly(&mut gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_a_start_and_a_reload_with_a_pipe_for_a_configuration() {
    let mut gateway = Gateway::start_in(folder(&[]), CONFIG);
    let config = gateway.folder().join("witgate.toml");
    std::fs::remove_file(&config).unwrap();
    make_pipe(&config);
    gateway.signal("HUP");
    until("the pipe is refused", || async { gateway.log().contains("it is a pipe, not a file") }).await;
    ends_promptly(&mut gateway).await;
    let run = Command::new(env!("CARGO_BIN_EXE_witgate")).args(["run", "--config"]).arg(&config).output();
    assert_eq!(run.unwrap().status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_a_reload_that_waits_for_a_first_list() {
    let mut gateway = Gateway::start_in(folder(&[]), CONFIG);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let more = format!(
        "[registry.memory]\nplugin = \"memory\"\nmemory = true\n\n[registry.silent]\nplugin = \"etcd\"\netcd = {{ endpoints = [\"{address}\"] }}\nsettings = {{ layout = \"plain\" }}\n\n[upstream.users]\nservice = \"users\"\nregistry = \"silent\"\n"
    );
    gateway.reconfigure(&format!("{CONFIG}\n{more}"));
    silent.set_nonblocking(true).unwrap();
    let silent = tokio::net::TcpListener::from_std(silent).unwrap();
    let _accepted = tokio::time::timeout(PATIENCE, silent.accept()).await.expect("it is asked").unwrap();
    ends_promptly(&mut gateway).await;
}

/// `witgate check`, in the middle of its work.
fn check(folder: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_witgate"));
    command.arg("check").arg(folder.join("witgate.toml")).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

fn wait(process: &mut Child, limit: Duration) -> std::process::ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > limit {
            process.kill().unwrap();
            panic!("it did not end within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The processor time that a process has used.
fn used(process: &Child) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
    let ticks: u64 = stat.rsplit_once(')').unwrap().1.split(' ').nth(12).unwrap().parse().unwrap();
    Duration::from_millis(ticks * 10)
}

#[test]
fn sigterm_ends_a_check_that_compiles() {
    let folder = folder(&[("mine", &with_functions(&guest("first"), MINUTES))]);
    let config = format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{CONFIG}");
    std::fs::write(folder.path().join("witgate.toml"), config).unwrap();
    let mut process = check(folder.path());
    let start = Instant::now();
    while used(&process) < Duration::from_secs(2) {
        assert!(
            process.try_wait().unwrap().is_none() && start.elapsed() < PATIENCE * 4,
            "it does not compile"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").arg(process.id().to_string()).status().unwrap().success());
    assert_eq!(wait(&mut process, PROMPT).code(), Some(1));
}

#[test]
fn a_check_does_not_wait_for_what_is_no_file() {
    let folder = folder(&[]);
    fill(&folder.path().join("plugins"));
    std::fs::write(
        folder.path().join("witgate.toml"),
        format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{CONFIG}"),
    )
    .unwrap();
    assert_eq!(wait(&mut check(folder.path()), PATIENCE).code(), Some(0));
}

/// The log as it was before its values were put in quotes.
fn log(gateway: &Gateway) -> String {
    gateway.log().replace("\\\"", "\"")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_lacks_a_plugin_is_taken_when_the_plugin_comes() {
    const WITHOUT: &str = "[registry.memory]\nplugin = \"memory\"\nmemory = true\n\n[upstream.orders]\nservice = \"orders\"\nregistry = \"memory\"\n";
    let selector = format!("{WITHOUT}selector = \"mine\"\n");
    let registry = format!(
        "{WITHOUT}\n[registry.other]\nplugin = \"mine\"\nsettings = {{ endpoints = [\"127.0.0.1:9\"] }}\n"
    );
    for (config, kind, plugin) in
        [(selector, "selector", guest("first")), (registry, "registry", guest("registry-echo"))]
    {
        let marked = format!("{config}\n[[route]]\npath = \"/\"\nupstream = \"orders\"\n");
        let gateway = Gateway::start_in(folder(&[]), WITHOUT);
        gateway.reconfigure(&marked);
        let reason = format!("there is no {kind} plugin \"mine\"");
        until("it is refused", || async {
            let log = log(&gateway);
            log.contains("the running one stays") && log.contains(&reason)
        })
        .await;
        assert_eq!(gateway.get("/").await.status, StatusCode::NOT_FOUND);

        // One that cannot be used does not help, and the next does.
        gateway.drop_plugin("mine", b"nothing");
        until("the reason is another", || async {
            log(&gateway).contains("plugin \"mine\" is not WebAssembly")
        })
        .await;
        gateway.drop_plugin("mine", &plugin);
        until("the configuration is in force", || async {
            gateway.get("/").await.status != StatusCode::NOT_FOUND
        })
        .await;
        drop(gateway);

        // A gateway that starts with it goes on without the plugin, and its other settings can be changed.
        let gateway = Gateway::start_in(folder(&[]), &config);
        until("it says so", || async { log(&gateway).contains(&reason) }).await;
        gateway.reconfigure(&marked);
        until("another change is taken", || async { gateway.get("/").await.status != StatusCode::NOT_FOUND })
            .await;
    }
}

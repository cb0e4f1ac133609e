//! `witgate register`: a service is announced beside its command, and withdrawn before that is stopped.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use etcd_client::{Client, GetOptions};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use witgate::connector::zookeeper;

use crate::support::{
    avahi::Avahi,
    backend::Backend,
    etcd::{Etcd, free_port},
    gateway::{Gateway, until},
    registering::{Registering, kill},
    zookeeper::ZooKeeper,
};

/// What a command does until it is told otherwise. `$F` is a folder in which it says so, and in which the test does.
pub(crate) const WAITS: &str = r#"
trap 'echo TERM >> $F/signals; exit 7' TERM
trap 'echo HUP >> $F/signals' HUP
trap 'echo USR1 >> $F/signals' USR1
echo $$ > $F/pid.part; mv $F/pid.part $F/pid
until [ -e $F/go ]; do sleep 0.02; done
exit 9"#;

/// An etcd that takes a connection and says nothing, and its configuration. Nobody gives up on it soon.
async fn silent_etcd() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let config = format!(
        "[registry.main]
plugin = 'etcd'
etcd = {{ endpoints = ['{endpoint}'], connect_timeout_ms = 60000 }}
settings = {{ layout = 'json', prefix = '/services/' }}
"
    );
    (listener, config)
}

fn in_etcd(etcd: &Etcd) -> String {
    format!(
        "[registry.main]
plugin = 'etcd'
etcd = {}
settings = {{ layout = 'json', prefix = '/services/', ttl_seconds = 9 }}
",
        etcd.toml(None)
    )
}

/// The flags for the service `orders` at an address, without those that a test adds.
pub(crate) fn flags<'f>(address: &'f str, more: &[&'f str]) -> Vec<&'f str> {
    [&["--registry", "main", "--service", "orders", "--address", address], more].concat()
}

/// What is announced in etcd.
async fn announced(client: &mut Client) -> Vec<String> {
    let found = client.get("/services/orders/", Some(GetOptions::new().with_prefix())).await.unwrap();
    found.kvs().iter().map(|found| found.value_str().unwrap().to_owned()).collect()
}

async fn until_announced(client: &Client, count: usize) {
    until(&format!("{count} are announced"), || {
        let mut client = client.clone();
        async move { announced(&mut client).await.len() == count }
    })
    .await;
}

async fn etcd_and_backend() -> (Etcd, Client, Backend, String) {
    let etcd = Etcd::start().await;
    let client = etcd.client().await;
    let backend = Backend::start("beside").await;
    let address = backend.address.to_string();
    (etcd, client, backend, address)
}

#[tokio::test]
async fn a_gateway_finds_what_is_announced_and_it_is_withdrawn_before_its_command_is_stopped() {
    let (etcd, mut client, _backend, address) = etcd_and_backend().await;
    let config = in_etcd(&etcd);
    let route = "[upstream.orders]\nservice = 'orders'\nregistry = 'main'\n[[route]]\nupstream = 'orders'\n";
    let gateway = Gateway::start(&format!("{config}{route}"));
    // An hour: the command is stopped by whoever asks again.
    let more = ["--weight", "3", "--label", "zone=a", "--stop-delay-ms", "3600000"];
    let mut registering = Registering::start(&config, &flags(&address, &more), Some(WAITS));

    until("the gateway has found it", async || gateway.get("/").await.text() == "beside").await;
    let expected = format!(r#"{{"address":"{address}","labels":[["zone","a"]],"weight":3}}"#);
    assert_eq!(announced(&mut client).await, [expected]);

    registering.command().await;
    registering.signal("TERM");
    until_announced(&client, 0).await;
    assert_eq!(registering.signals(), "", "its command was stopped before");
    registering.signal("TERM");
    let (code, said) = registering.exit().await;
    assert_eq!((code, &*registering.signals()), (Some(7), "TERM\n"), "{said}");
    assert!(said.contains("Announced") && said.contains("Withdrawn"), "{said}");
}

#[tokio::test]
async fn a_command_that_is_stopped_once_hands_its_exit_code_on() {
    let (etcd, mut client, _backend, address) = etcd_and_backend().await;
    let flags = flags(&address, &["--stop-delay-ms", "0"]);
    let mut registering = Registering::start(&in_etcd(&etcd), &flags, Some(WAITS));
    until_announced(&client, 1).await;
    registering.command().await;
    registering.signal("TERM");
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(7), "{said}");
    assert!(announced(&mut client).await.is_empty(), "{said}");
}

#[tokio::test]
async fn what_is_announced_beside_a_command_is_withdrawn_when_that_ends() {
    let (etcd, mut client, _backend, address) = etcd_and_backend().await;
    for (ends, expected) in [("by itself", 9), ("killed", 137)] {
        let mut registering = Registering::start(&in_etcd(&etcd), &flags(&address, &[]), Some(WAITS));
        until_announced(&client, 1).await;
        let command = registering.command().await;
        match ends {
            "killed" => kill("KILL", &command),
            _ => registering.go(),
        }
        let (code, said) = registering.exit().await;
        assert_eq!(code, Some(expected), "{ends}: {said}");
        assert!(announced(&mut client).await.is_empty(), "{ends}: {said}");
    }
}

#[tokio::test]
async fn a_registry_that_hangs_holds_up_the_end_for_five_seconds_at_most() {
    let backend = Backend::start("beside").await;
    let address = backend.address.to_string();
    let (silent, config) = silent_etcd().await;
    let flags = flags(&address, &["--stop-delay-ms", "0"]);
    let mut registering = Registering::start(&config, &flags, Some(WAITS));
    registering.command().await;
    let _connection = silent.accept().await.unwrap();
    let asked = Instant::now();
    registering.signal("TERM");
    let (code, said) = registering.exit().await;
    assert_eq!((code, &*registering.signals()), (Some(7), "TERM\n"), "{said}");
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}: {said}", asked.elapsed());
    assert!(said.contains("Withdrawal took too long") && !said.contains("Withdrawn"), "{said}");
}

#[tokio::test]
async fn who_asks_again_does_not_wait_for_a_registry_that_hangs() {
    let backend = Backend::start("beside").await;
    let address = backend.address.to_string();
    // What is sent, where "" has the command end, and the exit code. In the last case there is no command. No signal is
    // sent twice: of two that are alike the second may come before the first is looked at, and counts as one with it.
    for (signals, expected) in
        [(&["TERM", "INT", "QUIT"][..], 130), (&["", "TERM", "INT"], 9), (&["TERM", "INT"], 0)]
    {
        let (silent, config) = silent_etcd().await;
        let script = (expected != 0).then_some(WAITS);
        let mut registering = Registering::start(&config, &flags(&address, &[]), script);
        let _connection = silent.accept().await.unwrap();
        let command = match script {
            Some(_) => Some(registering.command().await),
            None => None,
        };
        let [sent @ .., last] = signals else { unreachable!() };
        for signal in sent {
            match (*signal, &command) {
                ("", Some(command)) => end(&registering, command).await,
                (signal, _) => registering.signal(signal),
            }
        }
        if let Some(command) = command {
            until("the command has ended", async || !Path::new("/proc").join(&command).exists()).await;
        }
        registering.signal(last);
        let (code, said) = registering.exit().await;
        assert_eq!(code, Some(expected), "{signals:?}: {said}");
        assert!(!said.contains("Withdrawal took too long"), "{signals:?}: {said}");
    }
}

/// Has the command end, and waits until that has been seen.
async fn end(registering: &Registering, command: &str) {
    registering.go();
    until("the command has ended", async || !Path::new("/proc").join(command).exists()).await;
}

/// A service manager sends the signal to both, and a terminal that is closed sends more than one.
#[tokio::test]
async fn who_stops_what_has_lost_its_command_waits_for_the_withdrawal() {
    let backend = Backend::start("beside").await;
    let address = backend.address.to_string();
    let (silent, config) = silent_etcd().await;
    let mut registering = Registering::start(&config, &flags(&address, &[]), Some(WAITS));
    let _connection = silent.accept().await.unwrap();
    let command = registering.command().await;
    end(&registering, &command).await;
    for signal in ["HUP", "TERM", "HUP"] {
        registering.signal(signal);
    }
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(9), "{said}");
    assert!(said.contains("Withdrawal took too long"), "{said}");
}

#[tokio::test]
async fn signals_that_ask_for_no_end_are_handed_on_at_once() {
    let (etcd, mut client, _backend, address) = etcd_and_backend().await;
    let registering = Registering::start(&in_etcd(&etcd), &flags(&address, &[]), Some(WAITS));
    until_announced(&client, 1).await;
    registering.command().await;
    for (name, all) in [("HUP", "HUP\n"), ("USR1", "HUP\nUSR1\n")] {
        registering.signal(name);
        until("the command has it", async || registering.signals() == all).await;
    }
    assert_eq!(announced(&mut client).await.len(), 1);
}

#[tokio::test]
async fn a_service_that_never_takes_connections_is_told_and_its_command_ended() {
    let (etcd, mut client, _backend, _) = etcd_and_backend().await;
    let address = format!("127.0.0.1:{}", free_port());
    let flags = flags(&address, &["--wait-secs", "3"]);
    let mut registering = Registering::start(&in_etcd(&etcd), &flags, Some(WAITS));
    let (code, said) = registering.exit().await;
    assert_eq!((code, &*registering.signals()), (Some(1), "TERM\n"), "{said}");
    assert!(said.contains(&format!("nothing takes connections at {address}, after 3s")), "{said}");
    assert!(said.contains("refused"), "{said}");
    assert!(announced(&mut client).await.is_empty());
}

#[tokio::test]
async fn nothing_is_announced_before_the_service_takes_connections() {
    let (etcd, mut client, _backend, _) = etcd_and_backend().await;
    let address: SocketAddr = format!("127.0.0.1:{}", free_port()).parse().unwrap();
    let text = address.to_string();
    let mut registering = Registering::start(&in_etcd(&etcd), &flags(&text, &[]), Some(WAITS));
    registering.command().await;
    assert!(announced(&mut client).await.is_empty());
    let _listening = TcpListener::bind(address).await.unwrap();
    until_announced(&client, 1).await;

    // A command that ends before is no service at all.
    drop(_listening);
    registering.go();
    assert_eq!(registering.exit().await.0, Some(9));
    let mut registering = Registering::start(&in_etcd(&etcd), &flags(&text, &[]), Some("exit 4"));
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(4), "{said}");
    assert!(!said.contains("Announced"), "{said}");
}

#[tokio::test]
async fn without_a_command_it_is_announced_until_it_is_stopped_and_again_when_etcd_has_lost_it() {
    let (mut etcd, client, _backend, address) = etcd_and_backend().await;
    let mut registering = Registering::start(&in_etcd(&etcd), &flags(&address, &[]), None);
    until_announced(&client, 1).await;
    etcd.kill9();
    etcd.restart_empty().await;
    let mut client = etcd.client().await;
    until_announced(&client, 1).await;
    registering.signal("INT");
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(0), "{said}");
    assert!(announced(&mut client).await.is_empty(), "{said}");
}

#[tokio::test]
async fn what_is_wrong_is_told_before_the_command_runs() {
    let backend = Backend::start("beside").await;
    let address = backend.address.to_string();
    let fixed = "[registry.main]\nplugin = 'static'\nsettings = { endpoints = [] }\n";
    let etcd = "[registry.main]\nplugin = 'etcd'\netcd = { endpoints = ['http://127.0.0.1:1'] }\n";
    let no_base = format!("{etcd}settings = {{ layout = 'rpcx' }}\n");
    let no_plugin = "[registry.main]\nplugin = 'none-such'\n".to_owned();
    let of = |registry: &'static str| ["--registry", registry, "--service", "orders", "--address"].to_vec();
    for (config, flags, address, expected, told) in [
        (fixed, of("main"), "orders", 2, &["--address", "\"orders\" has no port"][..]),
        (fixed, of("other"), &address, 1, &["\"other\"", "witgate.toml", "\"main\""]),
        (&no_base, of("main"), &address, 1, &["registry main", "base"]),
        (&no_plugin, of("main"), &address, 1, &["registry main", "none-such"]),
        (
            "[registry.main]\nplugin = 'memory'\nmemory = true\n",
            of("main"),
            &address,
            1,
            &["\"main\"", "--admin"],
        ),
        ("[registry.main\n", of("main"), &address, 1, &["witgate.toml:1"]),
    ] {
        let flags = [flags, vec![address]].concat();
        let mut registering = Registering::start(config, &flags, Some("touch $F/ran"));
        let (code, said) = registering.exit().await;
        assert_eq!(code, Some(expected), "{said}");
        for word in told {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(!registering.folder.path().join("ran").exists(), "{said}");
    }
}

#[tokio::test]
async fn a_registry_in_which_nothing_can_be_announced_ends_the_command() {
    let backend = Backend::start("beside").await;
    let address = backend.address.to_string();
    let config = "[registry.main]\nplugin = 'static'\nsettings = { endpoints = [] }\n";
    let mut registering = Registering::start(config, &flags(&address, &[]), Some(WAITS));
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("\"orders\"") && said.contains("\"static\" cannot announce"), "{said}");
}

#[tokio::test]
async fn a_command_that_does_not_start_is_named() {
    let config = "[registry.main]\nplugin = 'static'\nsettings = { endpoints = [] }\n";
    let flags = [flags("127.0.0.1:9", &[]), vec!["--", "/no/such/program"]].concat();
    let mut registering = Registering::start(config, &flags, None);
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("/no/such/program") && said.contains("No such file"), "{said}");
}

/// With a route for the service `orders` in the registry inside it, in which only who has the token may write.
const EMBEDDED: &str = "[admin.registrations]
address = '127.0.0.1:0'
token_file = 'token'

[upstream.orders]
service = 'orders'
registry = 'memory'

[[route]]
upstream = 'orders'
";

fn gateway_with_token() -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("token"), "secret\n").unwrap();
    Gateway::start_in(folder, EMBEDDED)
}

async fn instances(gateway: &Gateway) -> Vec<Value> {
    let service = gateway.api("/api/v1/services/orders").await;
    service["instances"].as_array().unwrap().clone()
}

#[tokio::test]
async fn without_a_registry_it_is_announced_inside_a_gateway() {
    let gateway = gateway_with_token();
    let backend = Backend::start("beside").await;
    let (address, admin) = (backend.address.to_string(), gateway.registrations.unwrap().to_string());
    let token = gateway.folder().join("token").display().to_string();
    let flags = ["--service", "orders", "--address", &address, "--admin", &admin, "--token-file", &token];
    let more = ["--weight", "3", "--label", "zone=a", "--label", "tag=x", "--label", "tag=y"];
    let mut registering = Registering::start("", &[&flags[..], &more].concat(), Some(WAITS));

    until("the gateway sends requests to it", async || gateway.get("/").await.text() == "beside").await;
    let found = instances(&gateway).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&found[0]["address"], &found[0]["weight"]), (&json!(address), &json!(3)));
    assert_eq!(found[0]["labels"], json!({ "zone": "a", "tag": ["x", "y"] }));
    assert_ne!(found[0]["ttl_seconds"], json!(0), "it would stay for ever");

    gateway.withdraw("orders", &address).await;
    until("the next heartbeat registers it again", async || instances(&gateway).await.len() == 1).await;

    registering.command().await;
    registering.signal("TERM");
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(7), "{said}");
    assert!(instances(&gateway).await.is_empty(), "{said}");
}

#[tokio::test]
async fn a_gateway_that_refuses_the_token_is_told_and_the_command_goes_on() {
    let gateway = gateway_with_token();
    let backend = Backend::start("beside").await;
    let (address, admin) = (backend.address.to_string(), gateway.registrations.unwrap().to_string());
    let token = gateway.folder().join("wrong").display().to_string();
    std::fs::write(&token, "guessed").unwrap();
    let flags = ["--service", "orders", "--address", &address, "--admin", &admin, "--token-file", &token];
    let mut registering = Registering::start("", &flags, Some(WAITS));
    registering.command().await;
    let told = registering.told("Announcement failed, trying again").await;
    assert!(told.contains("refused the credentials") && told.contains(&admin), "{told}");
    registering.go();
    assert_eq!(registering.exit().await.0, Some(9));
    assert!(instances(&gateway).await.is_empty());
}

#[tokio::test]
async fn what_is_announced_in_zookeeper_goes_with_the_command() {
    let (zookeeper, backend) = (ZooKeeper::start().await, Backend::start("beside").await);
    let looks = zookeeper::Client::new("test".into(), zookeeper.direct(), None).open(30).await.unwrap();
    let address = backend.address.to_string();
    let node = format!("/services/orders/{address}");
    let config = zookeeper.registry("{ layout = 'json', base = '/services' }");
    let mut registering = Registering::start(&config, &flags(&address, &[]), Some(WAITS));
    until("it is announced", async || looks.get(&node).await.unwrap().is_some()).await;
    assert_ne!(looks.get(&node).await.unwrap().unwrap().stat.owner, 0, "it would stay for ever");
    registering.command().await;
    registering.go();
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(9), "{said}");
    assert!(looks.get(&node).await.unwrap().is_none(), "{said}");
}

#[tokio::test]
async fn what_is_announced_by_mdns_is_found_by_avahi_until_it_is_withdrawn() {
    let (avahi, backend) = (Avahi::start("").await, Backend::everywhere("beside").await);
    let (near, port) = (avahi.network.near(), backend.address.port());
    let place = near.to_string().replace('.', "-");
    let config =
        avahi.registry("{ type = '_http._tcp', instance = '{service} on *', txt = { env = 'test' } }");
    let address = format!("{near}:{port}");
    let mut registering =
        Registering::start(&config, &flags(&address, &["--label", "zone=a", "--weight", "2"]), Some(WAITS));
    registering.command().await;
    let found = |avahi: &Avahi| avahi.browse("_http._tcp").join("\n");
    until("avahi finds it", async || !found(&avahi).is_empty()).await;
    let text = found(&avahi);
    assert!(text.contains(&format!("on\\032{place}-{port} witgate-{place}.local {near} {port}")), "{text}");
    assert!(["\"zone=a\"", "\"weight=2\"", "\"env=test\""].iter().all(|part| text.contains(part)), "{text}");

    // Another one of the same name gets a number, and both are found by a gateway.
    let config = avahi.registry("{ type = '_http._tcp' }");
    let _first = Registering::start(&config, &flags(&address, &[]), None);
    until("the first is there", async || found(&avahi).lines().count() == 2).await;
    let other = Backend::everywhere("other").await;
    let address = format!("{near}:{}", other.address.port());
    let _second = Registering::start(&config, &flags(&address, &[]), None);
    until("both are there", async || {
        let text = found(&avahi);
        text.lines().count() == 3 && text.contains("orders\\032\\0402\\041")
    })
    .await;
    let gateway = Gateway::start(&format!(
        "{config}\n[upstream.orders]\nservice = \"orders\"\nregistry = \"main\"\n\n[[route]]\npath = \"/\"\nupstream = \"orders\"\n"
    ));
    until("a gateway finds both", async || {
        gateway.get("/").await;
        backend.requests() > 0 && other.requests() > 0
    })
    .await;

    registering.go();
    assert_eq!(registering.exit().await.0, Some(9));
    until("it is gone", async || !found(&avahi).contains("on\\032")).await;
}

/// Whoever has come to the link meanwhile hears of it without asking.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_announced_by_mdns_is_announced_again_when_its_link_is_back() {
    let (avahi, backend) = (Avahi::start("").await, Backend::everywhere("beside").await);
    let address = format!("{}:{}", avahi.network.near(), backend.address.port());
    let config = avahi.registry("{ type = '_http._tcp' }");
    let listener = avahi.somebody().listens();
    let _registering = Registering::start(&config, &flags(&address, &[]), None);
    // It is said twice in any case.
    listener.hears_said(&["_http", "_tcp"]);
    listener.hears_said(&["_http", "_tcp"]);
    drop(listener);
    avahi.network.plug(false);
    until("nobody listens on it", async || avahi.network.listeners() == 0).await;
    let listener = avahi.somebody().listens();
    avahi.network.plug(true);
    listener.hears_said(&["_http", "_tcp"]);
}

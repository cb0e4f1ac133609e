//! The registry `mdns` against a real avahi, on a link of its own.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    avahi::Avahi,
    backend::Backend,
    etcd::free_port,
    gateway::{Gateway, bound_to_test, until},
    network::Network,
    peer::Peer as _,
    rpcx,
    service::{becomes, endpoints, source},
};

fn gateway(registry: &str) -> Gateway {
    Gateway::start(&format!(
        "{registry}\n[upstream.orders]\nservice = \"orders\"\nregistry = \"main\"\nselector = \"round-robin\"\n\n\
         [[route]]\npath = \"/\"\nupstream = \"orders\"\n\n\
         [[route]]\npath = \"/svc/{{service}}\"\nstrip_prefix = true\nregistry = \"main\"\n"
    ))
}

async fn all(backends: &[&str]) -> Vec<Backend> {
    let mut all = Vec::new();
    for name in backends {
        all.push(Backend::everywhere(name).await);
    }
    all
}

fn port(backend: &Backend) -> u16 {
    backend.address.port()
}

async fn shown(gateway: &Gateway) -> Vec<Value> {
    gateway.api("/api/v1/upstreams/orders").await["endpoints"].as_array().unwrap().clone()
}

/// A name may have dots in it.
#[tokio::test(flavor = "multi_thread")]
async fn instances_are_found_with_what_they_say_and_leave_with_a_goodbye() {
    let avahi = Avahi::start("").await;
    let backends = all(&["one", "two", "three"]).await;
    avahi.serve(
        "_orders._tcp",
        "v1.2 at web-1.a",
        port(&backends[0]),
        &["zone=a", "Weight=3", "version=1.2"],
    );
    let gateway = gateway(&avahi.registry("{}"));
    endpoints(&gateway, 1).await;
    let address = format!("{}:{}", avahi.network.near(), port(&backends[0]));
    let endpoint = &shown(&gateway).await[0];
    assert_eq!(
        [&endpoint["address"], &endpoint["zone"], &endpoint["weight"], &endpoint["hostname"]],
        [&json!(address), &json!("a"), &json!(3), &json!("near.local")],
        "{endpoint}"
    );
    assert!(endpoint["labels"].to_string().contains("1.2"), "{endpoint}");

    // What is announced while the gateway listens.
    for (name, backend) in [("two", &backends[1]), ("three", &backends[2])] {
        let since = Instant::now();
        avahi.serve("_orders._tcp", name, port(backend), &[]);
        until("it gets requests", || async {
            gateway.get("/").await;
            backend.requests() > 0
        })
        .await;
        assert!(since.elapsed() < Duration::from_secs(15), "{:?}", since.elapsed());
    }
    avahi.withdraw("two");
    until("one is gone", || async { source(&gateway).await["instances"] == 2 }).await;
    becomes(&gateway, "live").await;
    // What it says changes without its being gone.
    avahi.serve("_orders._tcp", "three", port(&backends[1]), &["zone=b"]);
    until("it is elsewhere", || async { shown(&gateway).await.iter().any(|one| one["zone"] == "b") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_may_be_a_name_or_a_text_of_instances_of_one_type() {
    let avahi = Avahi::start("").await;
    let backends = all(&["one", "two", "three", "four"]).await;
    avahi.serve("_http._tcp", "Orders", port(&backends[0]), &["app=billing"]);
    avahi.serve("_http._tcp", "orders #2", port(&backends[1]), &[]);
    avahi.serve("_http._tcp", "orders-old", port(&backends[2]), &[]);
    avahi.serve("_other._tcp", "other orders", port(&backends[3]), &[]);
    let by_name = gateway(&avahi.registry("{ type = \"_http._tcp\" }"));
    endpoints(&by_name, 2).await;
    until("its neighbour is found by its own name", || async {
        by_name.get("/svc/orders-old/").await.text() == "three"
    })
    .await;
    assert_eq!(by_name.get("/svc/nobody/").await.status, 404);
    assert_eq!(by_name.get("/svc/*/").await.status, 404);

    let settings = "{ type = \"_http._tcp\", txt = { app = \"{service}\" } }";
    let by_text = gateway(&avahi.registry(settings));
    until("it is found", || async { by_text.get("/svc/billing/").await.text() == "one" }).await;
    assert_eq!(by_text.get("/svc/orders/").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_local_address_of_ipv6_leads_out_of_its_interface() {
    let avahi = Avahi::start("fe80::5353 far.local\n").await;
    let cable = avahi.network.cable();
    let output = std::process::Command::new("ip")
        .args(["addr", "add", "fe80::5353/64", "dev", &cable, "nodad"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let backend = Backend::everywhere_v6("far").await;
    avahi.serve_at("far.local", "_orders._tcp", "far", port(&backend), &[]);
    let gateway = gateway(&avahi.registry("{ family = \"ipv6\" }"));
    endpoints(&gateway, 1).await;
    let address = shown(&gateway).await[0]["address"].as_str().unwrap().to_owned();
    assert!(address.starts_with("[fe80::5353%"), "{address}");
    until("it gets requests", || async { gateway.get("/").await.text() == "far" }).await;
}

/// Records run out, one that nobody renews as well as the last of all, and a list that ran out is doubted.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_falls_silent_runs_out() {
    let avahi = Avahi::start("").await;
    let backend = Backend::everywhere("one").await;
    let gateway = gateway(&avahi.registry("{}"));
    let somebody = avahi.somebody();
    let since = Instant::now();
    somebody.says(&somebody.announcement(&["_orders", "_tcp"], "one", port(&backend), 5));
    endpoints(&gateway, 1).await;
    until("it has run out", || async { source(&gateway).await["instances"] == 0 }).await;
    assert!(since.elapsed() > Duration::from_secs(4), "{:?}", since.elapsed());
    assert_eq!(gateway.get("/").await.text(), "one");
    becomes(&gateway, "live").await;
}

/// `mdns-sd` itself would ask for a name of other labels, which nobody has.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_with_dots_in_its_name_is_asked_for() {
    let avahi = Avahi::start("").await;
    let backend = Backend::everywhere("one").await;
    let gateway = gateway(&avahi.registry("{}"));
    let somebody = avahi.somebody();
    let listener = somebody.listens();
    somebody.says(&somebody.announcement(&["_orders", "_tcp"], "v1.2 at a.b", port(&backend), 60));
    endpoints(&gateway, 1).await;
    listener.hears_asked(&["_orders", "_tcp"], "v1.2 at a.b");
}

/// Where our own client listens, nobody outside of the link is heard, and neither is one who does not speak from the
/// port, nor one who does not speak to everybody. `mdns-sd` has no such check.
#[tokio::test(flavor = "multi_thread")]
async fn for_rpcx_only_neighbours_are_believed() {
    let (avahi, elsewhere) = (Avahi::start("").await, Network::new());
    let backends = all(&["one", "two"]).await;
    let gateway = gateway(&avahi.registry("{ layout = \"rpcx\" }"));
    let near = avahi.network.near();
    let announcement = |name: &str, backend: &Backend| {
        let address = format!("tcp@{near}:{}", port(backend));
        let text = json!([{ "service": "orders", "meta": "", "service_address": address }]).to_string();
        avahi.somebody().announcement_with(&["_rpcxservices"], name, port(backend), 60, &[&text])
    };
    // Nobody has a socket here, or that would get what is sent to the port.
    let false_one = announcement("false", &backends[0]);
    let other = std::net::UdpSocket::bind((near, 0)).unwrap();
    other.send_to(&false_one, (near, 5353)).unwrap();
    let loopback = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let _ = loopback.send_to(&false_one, (near, 5353));
    // On the same way as the true one, and before it.
    avahi.somebody_from((near, 0).into()).says(&false_one);
    avahi.somebody_from((elsewhere.near(), 5353).into()).says(&announcement("far", &backends[0]));
    let true_one = announcement("true", &backends[1]);
    avahi.somebody().says(&true_one);
    endpoints(&gateway, 1).await;
    until("it gets requests", || async { gateway.get("/").await.text() == "two" }).await;
    assert_eq!(backends[0].requests(), 0);
}

/// A list is whole or it stays as it was: instances on a link that is gone have not left.
#[tokio::test(flavor = "multi_thread")]
async fn each_interface_that_is_named_is_needed() {
    let (avahi, other) = (Avahi::start("").await, Network::new());
    let backend = Backend::everywhere("one").await;
    avahi.serve("_orders._tcp", "one", port(&backend), &[]);
    let (cable, second) = (avahi.network.cable(), other.cable());
    let both = avahi.registry("{}").replace(&format!("\"{cable}\""), &format!("\"{second}\", \"{cable}\""));
    let gateway = gateway(&both);
    endpoints(&gateway, 1).await;
    avahi.network.plug(false);
    // It has begun again by then, with the one that is left.
    let why = format!("{cable} of `interfaces` is not up");
    until("the other is not enough", || async {
        source(&gateway).await["failure"]["error"].to_string().contains(&why)
    })
    .await;
    assert_eq!(source(&gateway).await["instances"], 1);
    assert_eq!(gateway.get("/").await.text(), "one");
    avahi.network.plug(true);
    becomes(&gateway, "live").await;
    assert_eq!(source(&gateway).await["instances"], 1);
}

/// `mdns-sd` takes what was heard on such a link for instances that have left.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_with_other_addresses_is_followed_again() {
    let avahi = Avahi::start("").await;
    let (http, rpcx) = (Backend::everywhere("http").await, Backend::everywhere("rpcx").await);
    let somebody = avahi.somebody();
    let address = format!("tcp@{}:{}", avahi.network.near(), port(&rpcx));
    let text = json!([{ "service": "orders", "meta": "", "service_address": address }]).to_string();
    let of_http = somebody.announcement(&["_orders", "_tcp"], "one", port(&http), 600);
    let of_rpcx = somebody.announcement_with(&["_rpcxservices"], "one", port(&rpcx), 600, &[&text]);
    let gateways = ["{}", "{ layout = \"rpcx\" }"].map(|settings| gateway(&avahi.registry(settings)));
    for (gateway, announcement) in gateways.iter().zip([&of_http, &of_rpcx]) {
        somebody.says(announcement);
        endpoints(gateway, 1).await;
    }
    let listener = somebody.listens();
    avahi.network.readdress();
    let why = format!("{} has no address", avahi.network.cable());
    let freezes = async |gateway| {
        becomes(gateway, "frozen").await;
        let source = source(gateway).await;
        assert_eq!(source["instances"], 1);
        assert!(source["failure"]["error"].to_string().contains(&why), "{source}");
    };
    tokio::join!(freezes(&gateways[0]), freezes(&gateways[1]));
    for (gateway, (announcement, kind)) in
        gateways.iter().zip([(&of_http, &["_orders", "_tcp"][..]), (&of_rpcx, &["_rpcxservices"])])
    {
        listener.hears_asked_for(kind);
        somebody.says(announcement);
        becomes(gateway, "live").await;
        assert_eq!(gateway.get("/").await.status, 200);
    }
}

/// The service in its namespace, as rpcx announces itself.
#[tokio::test(flavor = "multi_thread")]
async fn services_of_rpcx_are_found_by_their_names() {
    let avahi = Avahi::start("").await;
    let address = SocketAddr::from((avahi.network.address(), 8972));
    let mut command = avahi.network.command(rpcx::Rpcx::program());
    command.args(["server", "-with-stdin", "-mdns", "-name", "there", "-listen", &address.to_string()]);
    command.args(["-service", "Test", "-meta", "weight=3"]).stdin(Stdio::piped());
    let mut there = rpcx::Service::run("there", address, command, tempfile::tempdir().unwrap()).await;
    let gateway = Gateway::start(&format!(
        "{}\n[[listener]]\nname = \"calls\"\nprotocol = \"rpcx\"\naddress = \"127.0.0.1:0\"\n\n\
         [[route]]\nlistener = \"calls\"\nregistry = \"main\"\n\n\
         [upstream.orders]\nservice = \"Test\"\nregistry = \"main\"\n",
        avahi.registry("{ layout = \"rpcx\" }")
    ));
    endpoints(&gateway, 1).await;
    let endpoint = &shown(&gateway).await[0];
    assert_eq!((&endpoint["address"], &endpoint["weight"]), (&json!(address.to_string()), &json!(3)));
    let report = rpcx::Client::run(gateway.listeners[1], &["-calls", "20"]).await;
    report.assert_all_ok(20);
    assert_eq!(report.servers["there"], 20);
    there.stop().await;
    until("it has said goodbye", || async { source(&gateway).await["instances"] == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_rpcx_find_what_is_announced() {
    let avahi = Avahi::start("").await;
    let address = SocketAddr::from((avahi.network.near(), free_port()));
    let mut command = rpcx::Rpcx::command("server");
    command.args(["-name", "here", "-listen", &address.to_string()]);
    let _here = rpcx::Service::run("here", address, command, tempfile::tempdir().unwrap()).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("witgate.toml"), avahi.registry("{ layout = \"rpcx\" }")).unwrap();
    let mut register = bound_to_test();
    register.arg(env!("CARGO_BIN_EXE_witgate")).args(["register", "--registry", "main", "--service", "Test"]);
    register.args(["--address", &address.to_string(), "--label", "group=a"]).current_dir(folder.path());
    let mut register = register.stderr(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(register.stderr.take().unwrap());
    let announced = said.lines().map_while(Result::ok).any(|line| line.contains("Announced"));
    assert!(announced, "it is not announced");
    let mut command = avahi.network.command(rpcx::Rpcx::program());
    command.args(["client", "-with-stdin", "-mdns", "-calls", "20"]).stdin(Stdio::piped());
    let report = rpcx::Client::spawn(command, tempfile::tempdir().unwrap()).ended().await;
    let _ = register.kill();
    let _ = register.wait();
    report.assert_all_ok(20);
}

//! rnacos, a server of Nacos that others wrote: what it says, which the tests of the gateway have a double of, and whether
//! what is announced in it is found, by the gateway and by Nacos' client for Node.js. The table of faults runs with it as
//! well.

use std::{env, fs, time::Instant};

use serde_json::json;

use crate::{
    nacos_naming::{NAME, client, instance},
    support::{
        backend::Backend,
        fault_table::Registry as _,
        gateway::{Gateway, until},
        nacos::{RECORDED, conversation},
        registering::Registering,
        rnacos::Rnacos,
        service::{CLIENTS, answers, endpoints},
        traffic::Traffic,
    },
};

pub const JSON: &str = "content-type: application/json\r\n";

/// As many answers as there are. With `UPDATE_EXPECT` they are recorded anew.
pub async fn says() -> u64 {
    let rnacos = Rnacos::start().await;
    let said = conversation(rnacos.address(), rnacos.password()).await;
    if env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(RECORDED, &said).unwrap();
    }
    assert_eq!(said, fs::read_to_string(RECORDED).unwrap(), "UPDATE_EXPECT=1 records it anew");
    said.lines().count() as u64 / 2
}

/// The gateway sends to instances that come and go, and no request fails.
pub async fn found() -> u64 {
    let rnacos = Rnacos::start_open().await;
    let mut first = instance(rnacos.address()).await;
    let gateway = gateway(&rnacos.registry(""));
    endpoints(&gateway, 1).await;
    let endpoint = gateway.api("/api/v1/upstreams/orders").await["endpoints"][0].clone();
    assert_eq!((&endpoint["labels"]["version"], &endpoint["weight"]), (&json!("2"), &json!(2)), "{endpoint}");
    answers(&gateway).await;
    let traffic = Traffic::start(gateway.address(), "/", CLIENTS);
    let second = instance(rnacos.address()).await;
    endpoints(&gateway, 2).await;
    traffic.reaches(&second.address.port().to_string(), Instant::now()).await;
    first.stop().await;
    endpoints(&gateway, 1).await;
    traffic.more(100).await;
    traffic.stop().await.none_failed().sent
}

/// The client calls what `witgate register` announces, until that is withdrawn. The last one of a service it keeps,
/// whatever its registry says.
pub async fn finds() -> u64 {
    let (rnacos, backend) = (Rnacos::start_open().await, Backend::start("announced").await);
    let address = backend.address.to_string();
    let stays = Backend::start("stays").await;
    rnacos.logged_in().register(NAME, stays.address, &[]).await;
    let looks = client(rnacos.address());
    let flags = ["--registry", "main", "--service", NAME, "--address", &address];
    let mut registering = Registering::start(&rnacos.registry(""), &flags, None);
    looks.until("it is found and answers", |found| found.answers.contains(&"announced".to_owned())).await;
    assert!(looks.report().instances.contains(&address));
    registering.signal("TERM");
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(0), "{said}");
    looks.until("it is gone", |found| found.instances == [stays.address.to_string()]).await;
    backend.requests() as u64
}

fn gateway(registry: &str) -> Gateway {
    Gateway::start(&format!(
        "{registry}\n[upstream.orders]\nservice = \"{NAME}\"\nregistry = \"main\"\n[[route]]\nupstream = \"orders\"\n"
    ))
}

/// What is announced is there as it was said to be, also after the server has forgotten it.
pub async fn keeps() -> u64 {
    let (mut rnacos, backend) = (Rnacos::start().await, Backend::start("announced").await);
    let (config, address) = (rnacos.registry(", ttl_seconds = 6"), backend.address.to_string());
    let gateway = gateway(&config);
    let mut flags = vec!["--registry", "main", "--service", "orders", "--address", &address];
    flags.extend(["--weight", "3", "--label", "version=2"]);
    let mut registering = Registering::start(&config, &flags, None);
    endpoints(&gateway, 1).await;
    let known = rnacos.logged_in().list("DEFAULT_GROUP@@orders").await.remove(0);
    assert_eq!((&known["ip"], &known["port"]), (&json!("127.0.0.1"), &json!(backend.address.port())));
    assert_eq!(
        (&known["weight"], &known["ephemeral"], &known["healthy"]),
        (&json!(3.0), &json!(true), &json!(true))
    );
    assert_eq!(known["metadata"]["version"], "2", "{known}");
    let traffic = Traffic::start(gateway.address(), "/", CLIENTS);
    // It keeps none that sends heartbeats, and hears of this one again.
    rnacos.restart().await;
    until("it is told again", || async {
        !rnacos.logged_in().list("DEFAULT_GROUP@@orders").await.is_empty()
    })
    .await;
    traffic.more(200).await;
    let sent = traffic.stop().await.none_failed().sent;
    registering.signal("TERM");
    let (code, said) = registering.exit().await;
    assert_eq!(code, Some(0), "{said}");
    assert!(rnacos.logged_in().list("DEFAULT_GROUP@@orders").await.is_empty());
    sent
}

//! What each view shows, and what it shows when something breaks.

use super::{FITS, memory, nobody, open, pictures, row, says, send};
use crate::support::{
    backend::Backend,
    browser::{Browser, DESKTOP, PHONE},
    etcd::{Etcd, Version},
    gateway::{Gateway, until},
    guest::guest,
    traffic::Traffic,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_screen_follows_a_registry_that_is_killed_and_comes_back() {
    let mut etcd = Etcd::start_version(Version::V34).await;
    let backends = Backend::several(3).await;
    for backend in &backends {
        let key = format!("/services/orders/{}", backend.address);
        etcd.client().await.put(key, backend.address.to_string(), None).await.unwrap();
    }
    let table = etcd.toml(None);
    let config = format!(
        "[registry.memory]\nplugin = \"memory\"\nmemory = true\n[registry.main]\nplugin = \"etcd\"\netcd = {table}\nsettings = {{ layout = \"plain\", prefix = \"/services/\" }}\n\
         [upstream.orders]\nservice = \"orders\"\nregistry = \"main\"\n[[route]]\npath = \"/orders\"\nupstream = \"orders\"\n{}",
        memory("hello")
    );
    let gateway = Gateway::start(&config);
    gateway.register("hello", "one", backends[0].address).await;
    let browser = Browser::start(DESKTOP).await;
    open(&browser, &gateway, "").await;
    browser.until_says("all 2 services served").await;
    browser.until("document.querySelector('.registries').innerText.includes('fresh')").await;
    browser.until(&says("orders", "main · live")).await;
    send(&gateway, "/orders", 100).await;
    browser.until(&says("orders", "100 %")).await;
    browser.until(&says("orders", "3 / 3")).await;
    browser.until_says("orders main added").await;

    etcd.kill9();
    browser.until_says("etcd main silent for").await;
    browser.until(&says("orders", "main · frozen")).await;
    browser.until("document.querySelector('.verdict').classList.contains('degraded')").await;
    send(&gateway, "/orders", 100).await;
    browser.until(&says("orders", "3 / 3")).await;
    browser.until("/^. Services/.test(document.title)").await;
    pictures(&browser, "silent-registry").await;

    etcd.restart().await;
    browser.until_says("all 2 services served").await;
    browser.until("!document.querySelector('.verdict').innerText.includes('silent')").await;
    browser.until(&says("orders", "main · live")).await;
    assert_eq!(browser.complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_dies_is_shown_with_its_cause_and_since_when() {
    // In turns, so that each has its share however slow the machine is.
    let turns = memory("orders").replace("[[route]]", "selector = \"round-robin\"\n[[route]]");
    let gateway = Gateway::start(&turns);
    let mut backends = Backend::several(3).await;
    for (number, backend) in backends.iter().enumerate() {
        gateway.register("orders", &format!("b{number}"), backend.address).await;
    }
    until("all are there", || async { gateway.api("/api/v1/upstreams/orders").await["endpoint_count"] == 3 })
        .await;
    let browser = Browser::start(DESKTOP).await;
    open(&browser, &gateway, "#/services/orders").await;
    let dying = backends[0].address.to_string();
    browser.until(&says(&dying, "no request yet")).await;
    let traffic = Traffic::start(gateway.address(), "/orders", 2);
    browser.until(&says(&dying, "serves")).await;
    let share = format!("parseFloat({}.querySelector('.picks .number').innerText) > 10", row(&dying));
    browser.until(&share).await;
    browser
        .until(&format!("Number({}.querySelector('[data-head=Connections]').innerText) > 0", row(&dying)))
        .await;

    drop(backends.remove(0));
    until("it is taken out", || async {
        gateway.api("/api/v1/upstreams/orders").await["ejected_count"] == 1
    })
    .await;
    browser
        .until(&format!("/taken out: .* connections?\\s+for \\d+ s/.test({}?.innerText ?? '')", row(&dying)))
        .await;
    browser.until("document.querySelector('.verdict').innerText.includes('1 endpoint taken out')").await;
    pictures(&browser, "service").await;
    open(&browser, &gateway, "").await;
    browser.until(&says("orders", "2 / 3")).await;
    browser.until(&says("orders", "1 endpoint taken out")).await;
    traffic.stop().await.none_failed();
    // The link leads there, by the keyboard, too.
    browser.eval("document.querySelector('tbody a').focus()").await;
    browser.press("Enter").await;
    browser
        .until("location.hash === '#/services/orders' && document.querySelector('h1').innerText === 'orders'")
        .await;
    assert_eq!(browser.complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_traps_is_shown_and_so_is_a_file_that_is_refused() {
    let config = memory("orders")
        .replace("[[route]]", "selector = { plugin = \"mine\", settings = { after = 100 } }\n[[route]]");
    let gateway = Gateway::start(&format!("[plugins]\nselector = {{ faults_per_minute = 3 }}\n{config}"));
    let backends = Backend::several(2).await;
    for (number, backend) in backends.iter().enumerate() {
        gateway.register("orders", &format!("b{number}"), backend.address).await;
    }
    let browser = Browser::start(DESKTOP).await;
    open(&browser, &gateway, "#/plugins").await;
    browser.until(&says("memory", "shipped")).await;
    browser.until(&says("memory", "may use memory")).await;
    browser.until(&says("mine", "1 upstream")).await;
    browser.until(&says("mine", "missing")).await;
    gateway.drop_plugin("mine", &guest("trap"));
    until("it is quarantined", || async {
        send(&gateway, "/orders", 60).await;
        gateway.plugin("mine").await["state"] == "quarantined"
    })
    .await;
    browser.until(&says("mine", "quarantined")).await;
    let (mine, memory) = (gateway.plugin("mine").await, gateway.plugin("memory").await);
    assert!(mine["pick_ns"].as_u64() > Some(0), "{mine}");
    assert!(memory["pick_ns"].is_null(), "{memory}");
    assert_eq!(memory["memory"]["instances"], 1);
    assert!(memory["memory"]["bytes"].as_u64() > Some(0), "{memory}");
    assert_eq!(memory["memory"]["bytes"], memory["memory"]["largest"]);
    browser.until(&says("memory", "1 instance")).await;
    browser.until(&says("mine", "ago: pick: ")).await;
    gateway.drop_plugin("mine", b"garbage");
    browser.until(&says("mine", "is not WebAssembly")).await;
    pictures(&browser, "plugins").await;
    open(&browser, &gateway, "").await;
    browser.until_says("1 plugin quarantined: mine").await;
    assert_eq!(browser.complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_is_refused_is_shown_with_every_reason() {
    let gateway = Gateway::start(&memory("orders"));
    let browser = Browser::start(DESKTOP).await;
    open(&browser, &gateway, "#/configuration").await;
    browser.until_says("In force since").await;
    browser.until(&says("orders", "orders in memory")).await;
    browser.until_says("*/orders").await;
    gateway.reconfigure("[upstream.orders]\nservice = \"orders\"\nregistry = \"nowhere\"\nselector = 3\n");
    browser.until_says("what ran before runs on").await;
    browser.until_says("nowhere").await;
    browser.until("document.querySelectorAll('.problems li').length >= 2").await;
    pictures(&browser, "configuration").await;
    open(&browser, &gateway, "#/listeners").await;
    let listener = gateway.address().to_string();
    let connection = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
    browser.until(&format!("/\\n?1 \\/ [0-9,]+/.test({}?.innerText ?? '')", row(&listener[..10]))).await;
    pictures(&browser, "listeners").await;
    drop(connection);
    open(&browser, &gateway, "").await;
    browser.until_says("the configuration file is refused").await;
    gateway.reconfigure(&memory("users"));
    browser.until("!document.querySelector('.verdict').innerText.includes('refused')").await;
    browser.until(&says("users", "it has no instances")).await;
    assert_eq!(browser.complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_looked_for_stands_in_the_address() {
    let gateway = Gateway::start(&["alpha", "beta", "gamma"].map(memory).concat());
    let backend = Backend::start("one").await;
    gateway.register("alpha", "one", backend.address).await;
    gateway.register("gamma", "one", nobody()).await;
    let browser = Browser::start(PHONE).await;
    open(&browser, &gateway, "").await;
    browser.until(&says("alpha", "1 / 1")).await;
    let shown = "[...document.querySelectorAll('tbody a')].map((link) => link.innerText).join()";
    browser.until(&format!("{shown}.includes('alpha')")).await;
    browser.eval("document.querySelector('input[type=search]').focus()").await;
    for key in ["A", "l", "p"] {
        browser.press(key).await;
    }
    browser.until(&format!("{shown} === 'alpha' && location.hash === '#/?find=Alp'")).await;
    browser.press("Tab").await;
    browser.press("Tab").await;
    browser.press("Enter").await;
    browser.until("location.hash === '#/?state=failing&find=Alp'").await;
    browser.until_says("No service is like that.").await;
    open(&browser, &gateway, "#/?state=failing").await;
    browser.until(&format!("{shown} === 'beta'")).await;
    browser.until(FITS).await;
    browser.open(gateway.admin, "#/services/no%20such").await;
    browser.until_says("The gateway says: no upstream \"no such\".").await;
    assert_eq!(browser.complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_when_the_gateway_is_silent_or_gone() {
    let gateway = Gateway::start(&memory("orders"));
    let browser = Browser::start(DESKTOP).await;
    open(&browser, &gateway, "").await;
    browser.until_says("orders").await;
    gateway.signal("STOP");
    browser.until_says("The gateway has not answered since").await;
    browser.until("document.getElementById('link').innerText === 'No answer'").await;
    browser.until_says("orders").await;
    pictures(&browser, "gone").await;
    gateway.signal("CONT");
    browser.until("document.getElementById('link').innerText === 'Live'").await;
    browser.until("document.getElementById('gone').hidden").await;
    drop(gateway);
    browser.until_says("The gateway has not answered since").await;
    assert_eq!(browser.complaints(), [""; 0]);
}

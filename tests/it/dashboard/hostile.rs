//! Whatever a registry says stays text.

use serde_json::json;

use super::{open, pictures};
use crate::support::{
    backend::Backend,
    browser::{Browser, DESKTOP},
    gateway::{Gateway, until},
};

const MARKUP: &str = "<img/src=x/onerror=\"document.title='taken'\"><script>document.title='taken'</script>";

const BOLD: &str = "<b>bold</b>";

#[tokio::test(flavor = "multi_thread")]
async fn names_and_labels_with_markup_do_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let services = json!({ "services": { BOLD: ["127.0.0.1:9"] } });
    std::fs::write(folder.path().join("services.json"), services.to_string()).unwrap();
    let config = "[registry.memory]\nplugin = \"memory\"\nmemory = true\n\
                  [registry.file]\nplugin = \"file\"\nfile = \"services.json\"\n\
                  [[route]]\npath = \"/svc/{service}\"\nregistry = \"file\"\nservices = { bold = \"<b>bold</b>\" }\n\
                  [upstream.orders]\nservice = \"orders\"\nregistry = \"memory\"\n\
                  [[route]]\npath = \"/orders\"\nupstream = \"orders\"\n";
    let gateway = Gateway::start_in(folder, config);
    let instance = json!({
        "address": "127.0.0.1:9", "labels": { MARKUP: MARKUP }, "zone": MARKUP, "hostname": MARKUP, "ttl_seconds": 0,
    });
    let encoded =
        |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20");
    let path = format!("/api/v1/services/orders/{}", encoded(MARKUP));
    let answer = gateway.session_to_admin().put(&path, instance.to_string()).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    until("the service is followed", || async {
        gateway.get("/svc/bold").await;
        gateway.api("/api/v1/upstreams").await["upstreams"].as_array().unwrap().len() == 2
    })
    .await;
    let browser = Browser::start(DESKTOP).await;
    open(&browser, &gateway, "").await;
    browser.click(&format!("{BOLD}@file")).await;
    browser.until(&format!("document.querySelector('h1').innerText === '{BOLD}@file'")).await;
    pictures(&browser, "hostile").await;
    open(&browser, &gateway, "#/services/orders").await;
    browser.until(&format!("document.querySelector('main').textContent.includes({})", json!(MARKUP))).await;
    assert_eq!(browser.eval("document.querySelectorAll('main img, main script, main b').length").await, 0);
    assert_eq!(browser.eval("document.title.includes('taken')").await, false);
    assert_eq!(browser.complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_may_make_no_markup_of_text_and_ask_nobody_else() {
    let gateway = Gateway::start("");
    let (other, elsewhere) = (Backend::start("other").await, Backend::start("elsewhere").await);
    let browser = Browser::start(DESKTOP).await;
    open(&browser, &gateway, "").await;
    let refused = |expression: &str| {
        format!("(async () => {{ try {{ {expression}; return false }} catch {{ return true }} }})()")
    };
    let fetch = format!("await fetch('http://{}/', {{ mode: 'no-cors' }})", other.address);
    for expression in ["document.body.innerHTML = '<b>b</b>'", &fetch, "new Function('1')()"] {
        assert_eq!(browser.eval(&refused(expression)).await, true, "{expression}");
    }
    assert_eq!(other.requests(), 0);
    // The page of somebody else may ask it like that.
    browser.navigate(&format!("http://{}/", elsewhere.address)).await;
    assert_eq!(browser.eval(&refused(&fetch)).await, false);
    assert_eq!(other.requests(), 1);
    open(&browser, &gateway, "").await;
    browser.until(
        "new Promise((done) => { const style = document.createElement('style'); style.textContent = 'body { opacity: 0 }'; \
         document.body.append(style); requestAnimationFrame(() => done(getComputedStyle(document.body).opacity === '1')) })",
    )
    .await;
}

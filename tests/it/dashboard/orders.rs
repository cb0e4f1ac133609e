//! Orders from the page: asked about before, with the token that it is told.

use serde_json::json;

use super::{memory, open, pictures, row, says, send};
use crate::support::{
    backend::Backend,
    browser::{Browser, DESKTOP, PHONE},
    gateway::{Gateway, until},
};

/// A gateway that asks for tokens: one for reading, and one for changes.
async fn closed(backends: &[Backend]) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("read"), "milk\n").unwrap();
    std::fs::write(folder.path().join("change"), "tea\n").unwrap();
    let config = format!(
        "workers = 2\n[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"change\"\nread_token_file = \"read\"\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\n\
         [registry.file]\nplugin = \"file\"\nfile = \"services.json\"\n{}",
        memory("orders").replace("\"memory\"", "\"file\"")
    );
    std::fs::write(folder.path().join("witgate.toml"), config).unwrap();
    tell(folder.path(), backends);
    Gateway::run(folder)
}

fn tell(folder: &std::path::Path, backends: &[Backend]) {
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    std::fs::write(folder.join("services.part"), json!({ "services": { "orders": addresses } }).to_string())
        .unwrap();
    std::fs::rename(folder.join("services.part"), folder.join("services.json")).unwrap();
}

/// Gives the token that is asked for.
async fn give(browser: &Browser, token: &str) {
    browser.until("document.getElementById('dialog')?.open && document.activeElement.id === 'token'").await;
    for letter in token.chars() {
        browser.press(&letter.to_string()).await;
    }
    browser.press("Enter").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_pinned_rolled_back_and_let_go_from_the_page() {
    let backends = Backend::several(3).await;
    let gateway = closed(&backends[..2]).await;
    let browser = Browser::start(DESKTOP).await;
    browser.open(gateway.admin, "#/services/orders").await;
    give(&browser, "water").await;
    browser.until_says("the token is wrong").await;
    browser.picture("token").await;
    give(&browser, "milk").await;
    browser.until_says("Generation 1").await;
    tell(gateway.folder(), &backends);
    browser.until_says("Generation 2").await;
    let third = backends[2].address.to_string();
    browser.until(&says(&third, "")).await;

    browser.click("Roll back to this").await;
    browser.until_says("Roll orders back to generation 1?").await;
    browser.until_says("1 later change is undone: 1 added, 0 removed").await;
    browser.until_says(&format!("− {third}")).await;
    browser.picture("roll-back").await;
    browser.click("Roll back").await;
    // Reading is one thing, and changing another.
    browser.until_says("the token is the one for reading, and changes need another").await;
    give(&browser, "tea").await;
    browser.until_says("went back to generation 1").await;
    browser.until(&format!("!{}", says(&third, ""))).await;

    browser.look(PHONE).await;
    browser.click("Lift the pin").await;
    browser.until_says("Lift the pin of orders?").await;
    browser.press("Escape").await;
    browser.until("!document.getElementById('dialog')?.open").await;
    browser.click("Lift the pin").await;
    browser.until("document.getElementById('dialog')?.open").await;
    browser.eval("document.querySelector('dialog .primary').click()").await;
    browser.until(&says(&third, "")).await;
    // What the gateway refuses is told.
    browser.click("Pin").await;
    browser.until_says("Pin orders?").await;
    browser.picture("pin-phone").await;
    browser.eval("document.querySelector('dialog .primary').click()").await;
    browser.until_says("operator pinned the list").await;
    // Of the token nothing is kept: who opens the page again is asked again.
    let kept =
        browser.eval("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])").await;
    assert_eq!(kept, json!(r#"[{},{},""]"#));
    browser.open(gateway.admin, "").await;
    browser.until("document.getElementById('dialog')?.open").await;
    assert_eq!(browser.complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_drained_from_the_page() {
    let backends = Backend::several(3).await;
    let folder = tempfile::tempdir().unwrap();
    tell(folder.path(), &backends);
    let config = format!(
        "[registry.file]\nplugin = \"file\"\nfile = \"services.json\"\n{}",
        memory("orders").replace("\"memory\"", "\"file\"")
    );
    let gateway = Gateway::start_in(folder, &config);
    let browser = Browser::start(DESKTOP).await;
    send(&gateway, "/orders", 40).await;
    open(&browser, &gateway, "#/services/orders").await;
    let addresses: Vec<_> = backends.iter().map(|of| of.address.to_string()).collect();
    let press = |address: &str| format!("{}.querySelector('.order button').click()", row(address));
    browser.until(&says(&addresses[0], "serves")).await;
    browser.eval(&press(&addresses[0])).await;
    browser.until_says(&format!("Drain {} of orders?", addresses[0])).await;
    browser.until_says("The 2 other endpoints take its share").await;
    browser.until_says("Nothing is under way to it now.").await;
    browser.picture("drain").await;
    browser.click("Let it drain").await;
    browser.until(&says(&addresses[0], "drains by order, nothing under way")).await;
    browser.until(&says(&addresses[0], "for ")).await;
    browser.until_says("operator ordered a drain, of 1 endpoint").await;
    let before = backends[0].requests();
    send(&gateway, "/orders", 40).await;
    assert_eq!(backends[0].requests(), before);
    pictures(&browser, "draining").await;

    // The others can drain, too, and then all serve.
    browser.eval(&press(&addresses[1])).await;
    browser.until_says("The other endpoint takes its share").await;
    browser.click("Let it drain").await;
    browser.until(&says(&addresses[1], "drains by order")).await;
    browser.eval(&press(&addresses[2])).await;
    browser.until_says("No other endpoint is well: it goes on to get requests").await;
    browser.click("Let it drain").await;
    browser.until(&says(&addresses[2], "drains by order, and serves: no other is well")).await;
    // One that is in no list any more can be let go of.
    tell(gateway.folder(), &backends[1..]);
    browser.until(&says(&addresses[0], "drains by order, gets nothing anyway")).await;
    for address in &addresses {
        browser.eval(&press(address)).await;
        browser.until_says(&format!("End the drain of {address}?")).await;
        browser.click("End its drain").await;
        browser.until(&format!("!{}", says(address, "drains"))).await;
    }
    browser.until(&says(&addresses[1], "serves")).await;
    assert_eq!(browser.complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_takes_the_place_of_the_last_that_serves() {
    let backends = Backend::several(3).await;
    let folder = tempfile::tempdir().unwrap();
    let with_priority =
        |of: usize, priority| json!({ "address": backends[of].address, "priority": priority });
    let all = [with_priority(0, 0), with_priority(1, 1), with_priority(2, 1)];
    std::fs::write(folder.path().join("services.json"), json!({ "services": { "orders": all } }).to_string())
        .unwrap();
    let config = format!(
        "[registry.file]\nplugin = \"file\"\nfile = \"services.json\"\n{}",
        memory("orders").replace("\"memory\"", "\"file\"")
    );
    let gateway = Gateway::start_in(folder, &config);
    let browser = Browser::start(DESKTOP).await;
    send(&gateway, "/orders", 40).await;
    open(&browser, &gateway, "#/services/orders").await;
    let address = |of: usize| backends[of].address.to_string();
    let press = |of: usize| format!("{}.querySelector('.order button').click()", row(address(of)));
    browser.until(&says(address(0), "serves")).await;
    browser.until(&says(address(1), "waits: ready, priority 1")).await;
    browser.eval(&press(0)).await;
    browser.until_says("while any other endpoint is well. The 2 that wait take its share").await;
    browser.click("Let it drain").await;
    browser.until(&says(address(0), "drains by order, nothing under way")).await;
    // It serves, and has had no request yet.
    browser.until(&format!("!{}", says(address(1), "waits"))).await;
    browser.eval(&press(1)).await;
    browser.until_says("The other endpoint takes its share").await;
    assert_eq!(browser.complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_is_not_believed_is_accepted_from_the_page() {
    let backends = Backend::several(3).await;
    let folder = tempfile::tempdir().unwrap();
    tell(folder.path(), &backends);
    let config = format!(
        "[registry.file]\nplugin = \"file\"\nfile = \"services.json\"\n{}",
        memory("orders").replace("\"memory\"", "\"file\"")
    );
    let gateway = Gateway::start_in(folder, &config);
    tell(gateway.folder(), &[]);
    until("the removal is held back", || async {
        gateway.api("/api/v1/upstreams/orders").await["sources"][0]["reserve"]["count"] == 3
    })
    .await;
    let browser = Browser::start(DESKTOP).await;
    open(&browser, &gateway, "").await;
    browser.until_says("removed 3 endpoints, not believed: kept in reserve").await;
    browser.until(&says("orders", "3 removals held back")).await;
    open(&browser, &gateway, "#/services/orders").await;
    browser.click("Accept 3 removals of file").await;
    browser.until_says("3 endpoints that file no longer names go for good").await;
    browser.until_says(&backends[0].address.to_string()).await;
    browser.click("Accept the removal").await;
    browser.until_says("There are no endpoints.").await;
    assert_eq!(browser.complaints(), [""; 0]);
}

//! What the page makes of addresses, of its own mistakes, and of what it has counted.

use serde_json::json;

use super::{memory, nobody, open, says};
use crate::support::{
    browser::{Browser, DESKTOP},
    gateway::{Gateway, until},
};

fn heading(text: &str) -> String {
    format!("document.querySelector('h1')?.innerText === '{text}'")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_content_is_skipped_to_by_keyboard_and_the_view_stays() {
    let gateway = Gateway::start("");
    let browser = Browser::start(DESKTOP).await;
    open(&browser, &gateway, "").await;
    browser.eval("document.querySelector('nav a[href=\"#/plugins\"]').click()").await;
    browser.until(&heading("Plugins")).await;
    browser.eval("history.back()").await;
    browser.until("document.title.endsWith('Services · Witgate')").await;
    open(&browser, &gateway, "#/plugins").await;
    browser.press("Tab").await;
    browser.until("document.activeElement.className === 'skip'").await;
    browser.press("Enter").await;
    browser.until("document.activeElement.id === 'main'").await;
    // So does another anchor.
    let anchor = "new Promise((done) => { addEventListener('hashchange', () => done(true)); location.hash = '#main' })";
    assert_eq!(browser.eval(anchor).await, true);
    assert_eq!(browser.eval(&heading("Plugins")).await, true);
    assert_eq!(browser.eval("document.getElementById('link').innerText").await, "Live");
    assert_eq!(browser.complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_cannot_be_read_is_no_view_and_not_live() {
    let gateway = Gateway::start(&memory("orders"));
    let browser = Browser::start(DESKTOP).await;
    open(&browser, &gateway, "").await;
    let nothing = heading("There is no such view");
    let link = "document.getElementById('link').innerText";
    browser.eval("location.hash = '#/services/50%'").await;
    browser.until(&nothing).await;
    assert_eq!(browser.eval(link).await, "");
    browser.eval("location.hash = '#/services/nobody'").await;
    browser.until_says("The gateway says: no upstream \"nobody\".").await;
    browser.eval("location.hash = '#/services/%'").await;
    browser.until(&nothing).await;
    let told = "[document.getElementById('gone').hidden, document.querySelector('main').className]";
    assert_eq!(browser.eval(told).await, json!([true, ""]));
    browser.eval("location.hash = '#/services/orders'").await;
    browser.until(&heading("orders")).await;
    browser.until(&format!("{link} === 'Live'")).await;
    assert_eq!(browser.complaints(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_in_drawing_is_told_and_is_no_silence_of_the_gateway() {
    let gateway = Gateway::start(&memory("orders"));
    let browser = Browser::start(DESKTOP).await;
    open(&browser, &gateway, "").await;
    browser.until(&says("orders", "it has no instances")).await;
    gateway.register("orders", "one", nobody()).await;
    browser.until(&says("orders", "1 / 1")).await;
    assert_eq!(browser.eval("performance.getEntriesByName('shown').length").await, 1);
    let broken =
        "document.querySelector('.registries li').replaceChildren = () => { throw new Error('drawn badly') }";
    browser.eval(&format!("{broken}; 0")).await;
    browser.eval("document.querySelector('.registries li').made_of = ''").await;
    until("the mistake is told", || async {
        browser.complaints().iter().any(|of| of.contains("drawn badly"))
    })
    .await;
    assert_eq!(browser.eval("document.getElementById('link').innerText").await, "Live");
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_a_later_gateway_says_are_shown_as_they_are() {
    let gateway = Gateway::start(&memory("orders"));
    let browser = Browser::start(DESKTOP).await;
    open(&browser, &gateway, "").await;
    let shown = browser
        .eval(
            "(async () => {
               const { overview } = await import('/dashboard/overview.js');
               const { upstream } = await import('/dashboard/upstream.js');
               const all = await (await fetch('/api/v1/overview')).json();
               all.verdict.state = all.registries[0].word = 'dozing';
               const first = overview(new URLSearchParams());
               first.update(all);
               const one = await (await fetch('/api/v1/upstreams/orders')).json();
               one.sources[0].origin = 'dreaming';
               const second = upstream('orders');
               second.update(one);
               return [first.heading(all), first.element.textContent.includes('dozing'),
                 second.element.textContent.includes('dreaming')];
             })()",
        )
        .await;
    assert_eq!(shown, json!(["? Services", true, true]));
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_of_endpoints_are_right_where_one_is_new_and_where_counting_begins_anew() {
    let gateway = Gateway::start("");
    let browser = Browser::start(DESKTOP).await;
    open(&browser, &gateway, "").await;
    let shown = browser
        .eval(
            "(async () => {
               const { endpoints } = await import('/dashboard/endpoints.js');
               let time = 0;
               performance.now = () => time;
               const list = endpoints();
               const tell = (counts) => {
                 time += 1000;
                 const one = ([address, requests]) => ({ address, requests, effective_weight: 1, weight: 1,
                   state: 'ready', consecutive_failures: 0, success: 1, source: 0 });
                 list.update({ draining: [], ejected: [], standby: [], sources: [], unused_count: 0,
                   endpoints: Object.entries(counts).map(one) });
                 return [...list.element.querySelectorAll('tbody tr')].map((row) =>
                   [row.querySelector('.picks .number').textContent, row.cells[6].textContent].join(' '));
               };
               tell({ a: 100 });
               tell({ a: 200 });
               tell({ a: 300, b: 900 });
               const added = tell({ a: 400, b: 1000 });
               tell({ a: 5, b: 5 });
               return [added, tell({ a: 15, b: 35 })];
             })()",
        )
        .await;
    assert_eq!(shown, json!([["50.0 % 100", "50.0 % 100"], ["25.0 % 10.0", "75.0 % 30.0"]]));
}

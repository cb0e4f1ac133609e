//! Two hundred services of twenty endpoints: the page is there at once, and being watched costs the gateway next to
//! nothing.

use std::time::Duration;

use tokio::time::Instant;

use super::{memory, says};
use crate::support::{
    browser::{Browser, DESKTOP},
    gateway::{Gateway, until},
};

const SERVICES: usize = 200;
const ENDPOINTS: usize = 20;

/// From the address to the first paint, and of a core while the page is watched.
const SOON: Duration = Duration::from_secs(1);
const SHARE: f64 = 0.05;

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_there_at_once_and_costs_little_while_it_is_watched() {
    let services: Vec<String> = (0..SERVICES).map(|number| format!("service-{number:03}")).collect();
    let gateway = Gateway::start(&services.iter().map(|name| memory(name)).collect::<String>());
    let mut admin = gateway.session_to_admin();
    for (number, service) in services.iter().enumerate() {
        for endpoint in 0..ENDPOINTS {
            let body = format!(r#"{{"address":"127.{number}.{endpoint}.1:9","ttl_seconds":0}}"#);
            let answer = admin.put(&format!("/api/v1/services/{service}/{endpoint}"), body).await;
            assert_eq!(answer.status, 201, "{}", answer.text());
        }
    }
    until("all are followed", || async {
        let all = gateway.api("/api/v1/overview").await;
        all["services"].as_array().unwrap().iter().all(|of| of["total"] == ENDPOINTS)
    })
    .await;
    let browser = Browser::start(DESKTOP).await;
    // What else the machine does can only make it later: the best of some attempts counts.
    let (mut paints, mut shares) = (Vec::new(), Vec::new());
    while paints.last().is_none_or(|paint| *paint >= SOON) {
        assert!(paints.len() < 5, "painted only after {paints:?}");
        browser.navigate("about:blank").await;
        browser.navigate(&format!("http://{}/", gateway.admin)).await;
        browser.until(&says("service-199", "20 / 20")).await;
        let painted = "(performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null)";
        browser.until(&format!("{painted} !== null")).await;
        let first = browser.eval(painted).await.as_f64().unwrap();
        let shown =
            browser.eval("performance.getEntriesByName('shown')[0].startTime").await.as_f64().unwrap();
        println!("first paint after {first:.0} ms, {SERVICES} rows after {shown:.0} ms");
        paints.push(Duration::from_secs_f64(first.max(shown) / 1e3));
    }
    while shares.last().is_none_or(|share| *share >= SHARE) {
        assert!(shares.len() < 5, "of a core: {shares:?}");
        let (start, before) = (Instant::now(), gateway.cpu());
        tokio::time::sleep(Duration::from_secs(4)).await;
        let used = (gateway.cpu() - before) as f64 / 100.0;
        shares.push(used / start.elapsed().as_secs_f64());
        println!("{:.1} % of a core while it is watched", shares.last().unwrap() * 100.0);
    }
    browser.picture("many").await;
}

//! What stands in docs/ for those who watch the gateway with Prometheus and Grafana, with a real Prometheus.

use std::{collections::BTreeSet, path::PathBuf};

use serde_json::Value;

use crate::{
    source,
    support::{
        client::Client,
        gateway::{Gateway, until},
        origin::Origin,
        prometheus::{Prometheus, promtool},
    },
};

fn document(name: &str) -> PathBuf {
    source::root().join("docs").join(name)
}

/// The expressions of the dashboard, as Grafana sends them with everything chosen.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let panels = dashboard["panels"].as_array().unwrap();
    let of = |panel: &Value| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.into_iter().map(move |target| (title.clone(), target["expr"].as_str().unwrap().to_owned()))
    };
    let chosen = |expression: String| {
        let expression = expression.replace("$__rate_interval", "1m");
        expression.replace("$instance", ".*").replace("$upstream", ".*")
    };
    panels.iter().flat_map(of).map(|(title, expression)| (title, chosen(expression))).collect()
}

fn dashboard() -> Value {
    serde_json::from_slice(&std::fs::read(document("grafana.json")).unwrap()).unwrap()
}

/// The names of the gateway's metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("witgate_")).map(|word| word.trim_end_matches("_bucket")).collect()
}

/// An upstream whose requests are answered, one whose instance refuses connections, and one without instances.
fn config(answers: &Origin) -> String {
    format!(
        "[registry.fixed]
plugin = 'static'
[registry.fixed.settings.services]
well = ['{}']
gone = ['127.0.0.1:9']
none = []
[upstream.well]
service = 'well'
registry = 'fixed'
limits = {{ max_in_flight = 100 }}
[upstream.gone]
service = 'gone'
registry = 'fixed'
retries = {{ most = 2 }}
[upstream.none]
service = 'none'
registry = 'fixed'
[[route]]
path = '/well'
upstream = 'well'
[[route]]
path = '/gone'
upstream = 'gone'
rate = {{ requests = 5 }}
",
        answers.address
    )
}

#[tokio::test]
async fn every_panel_of_the_dashboard_shows_something() {
    let origin = Origin::start("well").await;
    let gateway = Gateway::start(&config(&origin));
    let address = gateway.address();
    let prometheus = Prometheus::start(&document("alerts.yml"), gateway.admin).await;
    until("it is scraped", async || prometheus.series("up == 1").await == 1).await;

    // Rates are of what is counted between two looks.
    let asking = tokio::spawn(async move {
        loop {
            for path in ["/well", "/gone", "/nobody"] {
                Client::connect(address).await.get(path).await;
            }
        }
    });
    for (panel, expression) in expressions(&dashboard()) {
        // What shows nothing while all is well.
        let expression = expression.trim_end_matches(" > 0");
        let shown = async || prometheus.series(expression).await > 0;
        until(&format!("{panel} shows something: {expression}"), shown).await;
    }
    asking.abort();
}

#[tokio::test]
async fn the_alerts_are_rules_of_prometheus_and_one_of_them_goes_off() {
    let origin = Origin::start("well").await;
    let gateway = Gateway::start(&config(&origin));
    let prometheus = Prometheus::start(&document("alerts.yml"), gateway.admin).await;
    let alerts =
        async || prometheus.ask("alerts", &[]).await["alerts"].as_array().cloned().unwrap_or_default();
    until("an upstream has no endpoints", async || {
        let of = |alert: &Value| {
            (alert["labels"]["alertname"] == "WitgateNoEndpoints")
                .then(|| alert["labels"]["upstream"].clone())
        };
        alerts().await.iter().filter_map(of).any(|upstream| upstream == "none")
    })
    .await;
    let drain = http::Request::post("/api/v1/upstreams/well/drain");
    let body = format!(r#"{{"addresses":["{}"]}}"#, origin.address);
    assert_eq!(gateway.session_to_admin().send(drain, body.into()).await.status, 200);
    until("a drain is noticed, for which there is a day", async || {
        let of = |alert: &Value| {
            (alert["labels"]["alertname"] == "WitgateDrainForgotten").then(|| alert["state"].clone())
        };
        alerts().await.iter().filter_map(of).any(|state| state == "pending")
    })
    .await;
    let rules = prometheus.ask("rules", &[]).await;
    for rule in rules["groups"][0]["rules"].as_array().unwrap() {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    let alerts = alerts().await;
    let drains = |alert: &Value| alert["labels"]["alertname"] == "WitgateDrainForgotten";
    assert!(alerts.iter().all(|alert| alert["labels"]["upstream"] != "well" || drains(alert)), "{alerts:?}");
}

#[tokio::test]
async fn a_prometheus_that_asks_for_native_histograms_gets_them_and_everything_else() {
    let origin = Origin::start("well").await;
    let gateway = Gateway::start(&config(&origin));
    let prometheus = Prometheus::start_native(&document("alerts.yml"), gateway.admin).await;
    let mut client = Client::connect(gateway.address()).await;
    for _ in 0..10 {
        client.get("/well").await;
    }
    let value = async |expression: &str| {
        let answer = prometheus.ask("query", &[("query", expression)]).await;
        answer["result"][0]["value"][1].as_str().map(|value| value.parse::<f64>().unwrap())
    };
    // These are functions of native histograms alone: of others they are nothing.
    for histogram in [
        "witgate_request_duration_seconds{upstream='well'}",
        "http_server_request_duration_seconds{route='route[0]', http_request_method='GET', code='2xx'}",
    ] {
        let count = format!("histogram_count({histogram})");
        until(&count, async || value(&count).await == Some(10.0)).await;
        let (half, most) = (
            value(&format!("histogram_quantile(0.5, {histogram})")).await.unwrap(),
            value(&format!("histogram_quantile(1, {histogram})")).await.unwrap(),
        );
        let sum = value(&format!("histogram_sum({histogram})")).await.unwrap();
        assert!(0.0 < half && half <= most && most < 2.0 * sum, "{half} {most} {sum}");
    }
    let requests = "witgate_requests_total{upstream='well', code='2xx'}";
    assert_eq!(value(requests).await, Some(10.0));
    assert_eq!(prometheus.series("witgate_ready == 1").await, 1);
    assert_eq!(
        prometheus.series("histogram_count(witgate_request_duration_seconds{upstream='none'})").await,
        1
    );
}

#[tokio::test]
async fn promtool_has_nothing_to_say_of_metrics_and_rules() {
    let origin = Origin::start("well").await;
    let gateway = Gateway::start(&config(&origin));
    let mut client = Client::connect(gateway.address()).await;
    for path in ["/well", "/gone", "/nobody"] {
        client.get(path).await;
    }
    let metrics = gateway.session_to_admin().get("/metrics").await.text();
    let alerts = document("alerts.yml").display().to_string();
    for (arguments, input) in
        [(&["check", "metrics"][..], metrics.as_str()), (&["check", "rules", &alerts], "")]
    {
        let said = promtool(arguments, input);
        let text = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success() && text.is_empty(), "promtool {arguments:?}: {text}");
    }
}

#[test]
fn the_dashboard_asks_for_metrics_that_exist() {
    let text = std::fs::read_to_string(document("grafana.json")).unwrap();
    let documented = std::fs::read_to_string(document("metrics.md")).unwrap();
    let documented = names(&documented);
    for name in names(&text) {
        assert!(documented.contains(name), "docs/grafana.json asks for {name}");
    }
}

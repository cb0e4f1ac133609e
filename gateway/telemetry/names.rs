//! The metrics, each once: the name is public, so it changes only with a new version of the gateway.

/// A metric as it is exposed.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; its name ends in `_total`.
    Counter,
    Gauge,
    Histogram,
}

macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub const $constant: Metric =
            Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)*

        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    REQUESTS = Counter "witgate_requests_total" ["upstream", "code"]
        "Answers of an upstream, or of the gateway for it, by class of status";
    REQUEST_DURATION = Histogram "witgate_request_duration_seconds" ["upstream"]
        "Time from the head of a request to the head of its answer";
    SERVER_DURATION = Histogram "http_server_request_duration_seconds"
        ["route", "upstream", "http_request_method", "code"]
        "Time from the head of a request to the head of its answer, by route, method and class of status";
    TRIES = Counter "witgate_tries_total" ["upstream"]
        "Tries of requests on an endpoint, the first ones among them";
    RETRIES = Counter "witgate_retries_total" ["upstream", "cause"]
        "Tries after one that failed, by why that was";
    RETRIES_REFUSED = Counter "witgate_retries_refused_total" ["upstream"]
        "Further tries that the retry budget did not allow";
    HEDGES = Counter "witgate_hedges_total" ["upstream"]
        "Second tries that began beside the first";
    HEDGES_WON = Counter "witgate_hedges_won_total" ["upstream"]
        "Second tries beside the first whose answer was taken";
    HEDGES_CANCELLED = Counter "witgate_hedges_cancelled_total" ["upstream"]
        "Tries, first or second, that were ended because the one beside them had the answer";
    FAILURES = Counter "witgate_endpoint_failures_total" ["upstream", "kind"]
        "Tries that an endpoint failed, by kind";
    CUT = Counter "witgate_requests_cut_total" ["upstream", "fault"]
        "Requests that did not come to the end of their answer, by whose fault that was";
    ENDED = Counter "witgate_requests_ended_total" ["upstream", "reason"]
        "Requests and upgraded connections that the gateway ended, by reason";
    INTERIM = Counter "witgate_interim_answers_total" ["upstream"]
        "Interim answers (1xx) of endpoints, which are dropped";
    TRAILERS_DROPPED = Counter "witgate_request_trailers_dropped_total" ["upstream"]
        "Trailers of requests that were not announced, and so did not reach an endpoint by HTTP/1";
    TCP_CONNECTIONS = Counter "witgate_tcp_connections_total" ["upstream"]
        "Connections of TCP listeners that were passed on and have ended";
    TCP_SECONDS = Counter "witgate_tcp_connection_seconds_total" ["upstream"]
        "How long they lasted, together";
    TCP_BYTES = Counter "witgate_tcp_bytes_total" ["upstream", "direction"]
        "Bytes of them: received from clients, and sent to them";
    REFUSED = Counter "witgate_requests_refused_total" ["upstream", "reason"]
        "Requests that the gateway did not send to an upstream, by reason";
    BREAKER_OPEN = Gauge "witgate_breaker_open" ["upstream"]
        "1 while the breaker refuses requests";
    IN_FLIGHT = Gauge "witgate_requests_in_flight" ["upstream"]
        "Requests in flight, of an upstream with limits";
    IN_FLIGHT_LIMIT = Gauge "witgate_in_flight_limit" ["upstream"]
        "How many requests may be in flight now";
    QUEUED = Gauge "witgate_requests_queued" ["upstream"]
        "Requests that wait for others to end";
    RATE_LIMITED = Counter "witgate_rate_limited_total" ["route"]
        "Requests refused because of the rate of their route";
    RATE_KEYS = Gauge "witgate_rate_keys" ["route"]
        "Clients or values of a header that the rate of a route remembers";
    UNROUTED = Counter "witgate_unrouted_requests_total" ["code"]
        "Answers to requests that reached no upstream, by class of status";

    ENDPOINTS = Gauge "witgate_endpoints" ["upstream"]
        "Endpoints that requests are sent to";
    EJECTED = Gauge "witgate_ejected_endpoints" ["upstream", "reason"]
        "Endpoints that failed and get no requests for now, by reason";
    STANDBY = Gauge "witgate_standby_endpoints" ["upstream"]
        "Endpoints that are well and get no requests while those before them do";
    DRAINING = Gauge "witgate_draining_endpoints" ["upstream"]
        "Endpoints that an operator lets drain";
    SLOW_START = Gauge "witgate_slow_start_endpoints" ["upstream"]
        "Endpoints that do not have all of their weight yet";
    UNUSED = Gauge "witgate_unused_endpoints" ["upstream"]
        "Endpoints that are left to other gateways";
    LOCAL = Gauge "witgate_zone_share" ["upstream"]
        "Share of the requests that is to stay in the zone of the gateway; absent where zones are not looked at";
    GROUPS = Gauge "witgate_priority_groups" ["upstream"]
        "Priorities that get requests: 0 while nobody is well, more than 1 while too few of the first are";
    PANIC = Gauge "witgate_panic" ["upstream"]
        "1 while so many endpoints failed that all get requests";
    DRAINED = Gauge "witgate_drained" ["upstream"]
        "1 while nobody gets requests because all instances have weight 0";
    PINNED = Gauge "witgate_pinned" ["upstream"]
        "1 while the list is pinned and does not follow its sources";
    UNSAVED = Gauge "witgate_unsaved" ["upstream"]
        "1 while the list is not safe on disk";
    GENERATION = Gauge "witgate_generation" ["upstream"]
        "Number of the list of endpoints in force";
    WORKERS_BEHIND = Gauge "witgate_workers_behind" ["upstream"]
        "Workers that pick from a list that was replaced more than a second ago";
    FOUND = Gauge "witgate_found_upstreams" []
        "Upstreams that exist because a request named their service";

    SOURCE_INFO = Gauge "witgate_source_info" ["upstream", "registry", "service", "origin"]
        "1 for the origin of what the source offers now";
    SOURCE_AGE = Gauge "witgate_source_age_seconds" ["upstream", "registry", "service"]
        "Time since the registry answered last; 0 while it does, absent while it never has";
    SOURCE_STALE = Gauge "witgate_source_stale" ["upstream", "registry", "service"]
        "1 while the list is older than max_stale_secs";
    SOURCE_FAILING = Gauge "witgate_source_failing" ["upstream", "registry", "service"]
        "1 while the registry cannot be read";
    SOURCE_INSTANCES = Gauge "witgate_source_instances" ["upstream", "registry", "service"]
        "Instances that the source claims";
    SOURCE_LEFT_OUT = Gauge "witgate_source_left_out" ["upstream", "registry", "service"]
        "Instances that the source claims and that are no endpoint";
    SOURCE_UNRESOLVED = Gauge "witgate_source_unresolved_names" ["upstream", "registry", "service"]
        "Host names that could not be resolved the last time, with or without an older answer";
    RESERVE = Gauge "witgate_reserve_endpoints" ["upstream", "registry", "service"]
        "Endpoints that the registry no longer names and whose removal is held back";
    RESERVE_OFFERED = Gauge "witgate_reserve_offered" ["upstream", "registry", "service"]
        "1 while the reserve gets requests";

    PLUGIN_INFO = Gauge "witgate_plugin_info" ["plugin", "kind", "origin", "digest", "state"]
        "1 for the version of a plugin that is loaded";
    PLUGIN_FAULTS = Counter "witgate_plugin_faults_total" ["plugin"]
        "Traps, missed deadlines, exceeded limits and answers that no plugin may give";
    PLUGIN_REFUSALS = Counter "witgate_plugin_refusals_total" ["plugin"]
        "Files in the plugins folder that were not taken";
    PLUGIN_QUARANTINED = Gauge "witgate_plugin_quarantined" ["plugin"]
        "1 while the native round robin stands in for a plugin that failed too often";

    REGISTERED = Gauge "witgate_registered_instances" []
        "Instances in the embedded registry";
    REGISTRY_UNSAVED = Gauge "witgate_registry_unsaved" []
        "1 while the embedded registry is not safe on disk";

    CONNECTIONS = Gauge "witgate_connections" ["listener"]
        "Open connections of clients";
    CONNECTIONS_ACCEPTED = Counter "witgate_connections_accepted_total" ["listener"]
        "Connections of clients since the start";
    HTTP2_ABUSE = Counter "witgate_http2_abuse_total" ["listener", "kind"]
        "Connections of HTTP/2 that were closed because their client flooded them, by what it sent too much of";
    HANDSHAKES = Counter "witgate_tls_handshakes_total" ["listener", "kind"]
        "Handshakes of TLS with clients: full ones, and those that took up a session";
    HANDSHAKES_FAILED = Counter "witgate_tls_handshakes_failed_total" ["listener", "reason"]
        "Clients that wanted TLS and did not get it, by reason";
    PROXY_REFUSED = Counter "witgate_proxy_headers_refused_total" ["listener", "reason"]
        "Connections that were closed because they had no PROXY header that can be taken, by reason";
    CERTIFICATE_END = Gauge "witgate_certificate_end_seconds" ["file"]
        "When a certificate of the gateway ends, in seconds since 1970";
    TLS_FILES = Counter "witgate_tls_file_changes_total" ["file", "result"]
        "Changes of files for TLS, by whether they were taken";
    TASKS = Gauge "witgate_worker_tasks" ["worker"]
        "Tasks of a worker: connections to both sides, views, and what keeps it going";
    RELOADS = Counter "witgate_config_reloads_total" ["result"]
        "Changes of the configuration file, by what came of them";
    LOG_LINES_LOST = Counter "witgate_log_lines_lost_total" []
        "Log lines dropped because nobody read them fast enough";
    ACCESS_LOG_LINES_LOST = Counter "witgate_access_log_lines_lost_total" []
        "Lines of access logs that were lost: their output is too slow, or gone";
    SPANS_EXPORTED = Counter "witgate_spans_exported_total" []
        "Spans of traces that a collector has taken";
    SPANS_LOST = Counter "witgate_spans_lost_total" ["reason"]
        "Spans that no collector has taken, by why that was";
    READY = Gauge "witgate_ready" []
        "1 while the gateway wants traffic";
    BUILD_INFO = Gauge "witgate_build_info" ["version"]
        "1 for the version of the gateway";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_tells_a_counter() {
        for metric in ALL {
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
        }
    }

    #[test]
    fn every_metric_is_documented_with_its_labels_and_no_other_is() {
        let documented: Vec<&str> = include_str!("../../docs/metrics.md")
            .lines()
            .filter(|line| line.starts_with("| `witgate_") || line.starts_with("| `http_"))
            .collect();
        for metric in ALL {
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let row = format!("| `{}` | {} |", metric.name, labels.join(", "));
            let row = row.replace("|  |", "| |");
            assert!(documented.iter().any(|line| line.starts_with(&row)), "docs/metrics.md lacks {row:?}");
        }
        assert_eq!(documented.len(), ALL.len(), "docs/metrics.md has a metric that does not exist");
    }

    #[test]
    fn alerts_ask_for_metrics_that_exist_and_say_what_to_do() {
        let (alerts, operations) =
            (include_str!("../../docs/alerts.yml"), include_str!("../../docs/operations.md"));
        let words = alerts.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for name in words.filter(|word| word.starts_with("witgate_")) {
            assert!(ALL.iter().any(|metric| metric.name == name), "there is no metric {name}");
        }
        for alert in alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
            assert!(operations.contains(&format!("`{alert}`")), "docs/operations.md lacks {alert}");
        }
    }
}

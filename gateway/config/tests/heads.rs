//! What a route writes into heads, and where it sends clients.

use http::{HeaderName, HeaderValue, StatusCode};

use super::running;
use crate::config::{GrpcWeb, HeaderChanges, Heads, Redirect, Route, Scheme, Target, UpstreamHost};

fn route(text: &str) -> Route {
    running(&format!("[[route]]\n{text}")).routes.remove(0)
}

fn line(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (HeaderName::from_static(name), HeaderValue::from_static(value))
}

#[test]
fn nothing_is_changed_by_default() {
    assert_eq!(route("upstream = 'a'").heads, Heads::default());
}

#[test]
fn headers_are_set_added_and_removed() {
    let route = route(
        "upstream = 'a'
         request_headers = { set = { X-A = '1' }, add = { x-b = ['2', '3'], x-c = '' } }
         response_headers = { remove = ['Server'] }",
    );
    let request = HeaderChanges {
        set: vec![line("x-a", "1")],
        add: vec![line("x-b", "2"), line("x-b", "3"), line("x-c", "")],
        remove: vec![],
    };
    assert_eq!(route.heads.request, request);
    let response = HeaderChanges { remove: vec![http::header::SERVER], ..HeaderChanges::default() };
    assert_eq!(route.heads.response, response);
}

#[test]
fn the_host_for_endpoints_is_kept_their_own_or_a_name() {
    let check = |written: &str, expected: UpstreamHost| {
        let text = format!("path = '/svc/{{service}}'\nregistry = 'memory'\nupstream_host = '{written}'");
        assert_eq!(route(&text).heads.host, expected);
    };
    check("keep", UpstreamHost::Keep);
    check("endpoint", UpstreamHost::Endpoint);
    for name in ["shop.internal", "shop.internal:8080", "[::1]:80", "keep.internal"] {
        check(name, UpstreamHost::Name(name.parse().unwrap()));
    }
}

#[test]
fn a_redirect_leads_to_no_upstream() {
    let check = |written: &str, expected: Redirect| {
        assert_eq!(
            route(&format!("redirect = {{ {written} }}")).target,
            Target::Redirect(expected),
            "{written}"
        );
    };
    let status = StatusCode::PERMANENT_REDIRECT;
    check("scheme = 'https'", Redirect { scheme: Some(Scheme::Https), host: None, port: None, status });
    check(
        "host = 'Shop.TEST', port = 8080, status = 302",
        Redirect {
            scheme: None,
            host: Some("shop.test".into()),
            port: Some(8080),
            status: StatusCode::FOUND,
        },
    );
}

#[test]
fn what_is_where_a_redirect_leads_to_has_a_route_beside_it() {
    let config = running("[[route]]\nredirect = { scheme = 'https' }\n[[route]]\nupstream = 'a'");
    assert!(matches!(config.routes[0].target, Target::Redirect(_)));
    assert!(matches!(config.routes[1].target, Target::Upstream(_)));
}

#[test]
fn hosts_may_lead_to_each_other_for_different_paths() {
    running(
        "[[route]]
         host = 'a.test'
         path = '/b'
         redirect = { host = 'b.test' }
         [[route]]
         host = 'b.test'
         path = '/a'
         redirect = { host = 'a.test' }
         [[route]]
         host = 'c.test'
         redirect = { scheme = 'https', host = 'c.test' }",
    );
}

#[test]
fn grpc_web_is_for_pages_of_these_origins() {
    assert_eq!(route("upstream = 'a'").grpc_web, None);
    let shortest =
        route("upstream = 'a'\ngrpc_web = { allow_origins = ['https://app.example.com'] }").grpc_web;
    let expected = GrpcWeb {
        allow_origins: vec!["https://app.example.com".into()],
        allow_headers: vec![],
        expose_headers: vec![],
        max_age: std::time::Duration::from_secs(7200),
        allow_credentials: false,
    };
    assert_eq!(shortest, Some(expected));
    let all = route(
        "upstream = 'a'
         grpc_web = { allow_origins = ['http://localhost:8080', 'http://[::1]:443', 'capacitor://localhost'],
                      allow_headers = ['Authorization'], expose_headers = ['x-a'], max_age_secs = 0, allow_credentials = true }",
    );
    let expected = GrpcWeb {
        allow_origins: vec![
            "http://localhost:8080".into(),
            "http://[::1]:443".into(),
            "capacitor://localhost".into(),
        ],
        allow_headers: vec![http::header::AUTHORIZATION],
        expose_headers: vec![HeaderName::from_static("x-a")],
        max_age: std::time::Duration::ZERO,
        allow_credentials: true,
    };
    assert_eq!(all.grpc_web, Some(expected));
}

//! The most specific route first, whatever their order in the file.

use super::running;

/// The paths, hosts and header counts of the routes, in the order in which requests try them.
fn order(routes: &[&str]) -> Vec<String> {
    let text: String = routes.iter().map(|route| format!("[[route]]\nupstream = 'a'\n{route}\n")).collect();
    let written = |name: &str| {
        let place: usize = name.trim_start_matches("route[").trim_end_matches(']').parse().unwrap();
        routes[place].to_owned()
    };
    running(&text).routes.iter().map(|route| written(&route.name)).collect()
}

#[test]
fn an_exact_host_comes_before_wildcards_and_the_longest_of_those_first() {
    let sorted = ["host = 'a.b.c'", "host = '*.b.c'", "host = '*.c'", "path = '/long/path'"];
    let mut reversed = sorted;
    reversed.reverse();
    assert_eq!(order(&reversed), sorted);
}

#[test]
fn a_longer_path_comes_first_and_then_more_headers() {
    let sorted = [
        "path = '/a/b'",
        "path = '/a'\nheader = { x = true, y = true }",
        "path = '/a'\nheader = { x = '1' }",
        "path = '/a'\nlistener = '127.0.0.1:8080'",
        "path = '/a'",
        "header = { x = '1', y = '2' }",
        "",
    ];
    let mut reversed = sorted;
    reversed.reverse();
    assert_eq!(order(&reversed), sorted);
}

#[test]
fn routes_that_are_alike_stay_in_their_order() {
    let alike = ["header = { x = '2' }", "header = { x = '1' }", "header = { y = '1' }"];
    assert_eq!(order(&alike), alike);
}

#[test]
fn a_path_in_full_comes_before_one_with_the_name_of_a_service() {
    let config = running(
        "[[route]]\npath = '/svc/{service}'\nregistry = 'memory'\n[[route]]\npath = '/svc/a'\nupstream = 'a'",
    );
    assert_eq!(&*config.routes[0].matches.path, "/svc/a");
}

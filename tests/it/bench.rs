//! What the proxy benchmark makes of its measurements. The measurements themselves are no test: they take other programs and
//! a quiet machine.

use std::{fs, process::Command};

use crate::source;

/// What a script of the benchmark prints of results, which are lines of "round row contestant cost"; costs alone matter.
fn report(script: &str, titles: &[(&str, &str)], results: &[(u32, &str, &str, f64)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("titles"), folder.path().join("results"));
    fs::write(&first, titles.iter().map(|(name, title)| format!("{name}\t{title}\n")).collect::<String>())
        .unwrap();
    let line = |(round, row, name, cost): &(u32, &str, &str, f64)| {
        format!("{round}\t{row}\t{name}\t{cost}\t{}\t2.5\t1000\t30\n", cost / 2.0)
    };
    let lines: String = results.iter().map(line).collect();
    fs::write(&second, format!("round\trow\tcontestant\tus\tuser_us\tp99_ms\trate\trss\n{lines}")).unwrap();
    let scripts = source::root().join("benches/proxy");
    let output = Command::new("awk")
        .arg("-f")
        .arg(scripts.join("results.awk"))
        .arg("-f")
        .arg(scripts.join(script))
        .args([first, second])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const TITLES: [(&str, &str); 2] = [("nginx", "nginx 1"), ("a/native", "Witgate <&>")];

#[test]
fn ratios_are_taken_within_a_round_and_shown_with_what_half_of_the_rounds_have() {
    // The machine gets slower and slower, and the ratios say nothing of it.
    let costs = [(10.0, 9.0), (20.0, 22.0), (40.0, 52.0), (80.0, 96.0)];
    let mut results = Vec::new();
    for (round, (nginx, ours)) in (1..).zip(costs) {
        results.extend([(round, "get", "nginx", nginx), (round, "get", "a/native", ours)]);
    }
    let said = report("tables.awk", &TITLES, &results);
    assert!(said.contains("| contestant | get |"), "{said}");
    assert!(said.contains("| nginx 1 | 1.00 (30.0 µs) |"), "{said}");
    assert!(said.contains("| Witgate <&> | 1.15 (1.10 to 1.20) |"), "{said}");
    assert!(
        said.contains("| Witgate <&> | 37.0 | 18.5 | 22.0 to 52.0 | 1.15 | 2.50 | 1000 | 30 |"),
        "{said}"
    );
}

#[test]
fn without_nginx_ratios_are_to_the_first_contestant() {
    let titles = [("a/native", "plain"), ("b/native", "guided")];
    let said = report("tables.awk", &titles, &[(1, "get", "a/native", 10.0), (1, "get", "b/native", 9.0)]);
    assert!(said.contains("ratio to plain within each round"), "{said}");
    assert!(said.contains("| guided | 0.90 (0.90 to 0.90) |"), "{said}");
}

#[test]
fn the_picture_has_a_bar_for_each_row_and_contestant_with_names_escaped() {
    let mut results = Vec::new();
    for row in ["get", "post"] {
        results.extend([(1, row, "nginx", 10.0), (1, row, "a/native", 12.5)]);
    }
    let said = report("chart.awk", &TITLES, &results);
    assert!(said.starts_with("<svg ") && said.ends_with("</svg>\n"), "{said}");
    assert_eq!(said.matches(">1.25</text>").count(), 2, "{said}");
    assert!(said.contains(">Witgate &lt;&amp;&gt;</text>"), "{said}");
}

#[test]
fn rows_are_shown_six_beside_each_other() {
    let rows = ["get", "post", "64k", "close", "http2", "grpc", "tls", "tcp"];
    let results: Vec<_> =
        rows.into_iter().flat_map(|row| [(1, row, "nginx", 10.0), (1, row, "a/native", 11.5)]).collect();

    let said = report("tables.awk", &TITLES, &results);
    assert!(said.contains("| contestant | get | post | 64k | close | http2 | grpc |"), "{said}");
    assert!(said.contains("| contestant | tls | tcp |"), "{said}");

    let said = report("chart.awk", &TITLES, &results);
    assert!(said.contains("viewBox=\"0 0 900 668\""), "{said}");
    assert_eq!(said.matches(">CPU per request, nginx 1 = 1</text>").count(), 2, "{said}");
    assert_eq!(said.matches(">1.15</text>").count(), rows.len(), "{said}");
}

#[test]
fn mistakes_are_told_before_anything_is_fetched_or_started() {
    let cases: [(&str, &[&str], &str); 15] = [
        ("proxy/run.sh", &["--rounds", "0"], "--rounds takes a number from 1 on, not \"0\""),
        ("proxy/run.sh", &["--seconds", "1s"], "--seconds takes a number"),
        ("proxy/run.sh", &["--rows", "get,put"], "not \"put\""),
        ("proxy/run.sh", &["--rows", ""], "not \"\""),
        ("proxy/run.sh", &["--gateway"], "--gateway takes a value"),
        ("proxy/run.sh", &["--gateway", "no/such/witgate"], "no program is at no/such/witgate"),
        ("proxy/run.sh", &["--gateway", "a=/bin/sh", "--gateway", "a=/bin/sh"], "two builds are called a"),
        ("proxy/run.sh", &["p2c-ewme"], "neither an option nor a contestant: \"p2c-ewme\""),
        ("proxy/idle.sh", &["--rows", "tls"], "neither an option nor a contestant: \"--rows\""),
        ("proxy/idle.sh", &["--connections", "many"], "--connections takes a number from 1 on, not \"many\""),
        ("proxy/idle.sh", &["--connections", "999999"], "and one may have"),
        ("services/run.sh", &["--services", "0"], "--services takes a number from 1 to 99999, not \"0\""),
        ("services/run.sh", &["--picture"], "--picture takes a value"),
        ("services/run.sh", &["--gateway", "no/such/witgate"], "no program is at no/such/witgate"),
        ("services/run.sh", &["--rows"], "no option: \"--rows\""),
    ];
    for (script, arguments, expected) in cases {
        // With few descriptors, so that no machine has enough for the last one.
        let output = Command::new("bash")
            .args(["-c", "ulimit -n 1000; exec \"$0\" \"$@\""])
            .arg(source::root().join("benches").join(script))
            .args(arguments)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{script} {arguments:?}: {said}");
    }
}

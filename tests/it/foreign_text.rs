//! Text that registries, files, clients and servers write reaches the log, the command line, the API and the metrics as
//! short lines in which everything can be seen.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    process::Command,
};

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, until};

/// Ends a line, begins another that looks like one of the log, and speaks to the terminal in every way there is.
const EVIL: &str = "k\r\n2026-01-01T00:00:00.000000Z ERROR forged\u{1b}[31m\u{1b}]0;t\u{7}\u{9b}2J\u{85}\u{202e}\u{2066}\u{200b}\u{2028}";

/// Whether a terminal shows it as it is.
fn harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn assert_harmless(what: &str, text: &str) {
    for line in text.split_terminator('\n') {
        assert!(line.chars().all(harmless), "{what}: {line:?}");
        assert!(line.len() < 20_000, "{what}: a line of {} bytes", line.len());
        assert!(!line.starts_with("2026-01-01T00:00:00.000000Z ERROR forged"), "{what}: forged: {line}");
    }
}

fn config() -> String {
    format!(
        "[registry.file]\nplugin = \"file\"\nfile = \"services.json\"\n\n[upstream.orders]\nservice = {}\nregistry = \"file\"\n\n[[route]]\npath = \"/\"\nupstream = \"orders\"\n",
        // Escapes of JSON are escapes of TOML.
        json!(EVIL)
    )
}

/// A list whose only instance has an address that is evil and as long as can be.
fn services(folder: &std::path::Path) {
    let address = format!("{EVIL}{}:80", "v".repeat(1 << 20));
    std::fs::write(folder.join("services.json"), json!({ "services": { EVIL: [address] } }).to_string())
        .unwrap();
}

fn witgate(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_witgate")).args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_says_forges_no_line_and_speaks_to_no_terminal() {
    for format in ["text", "json"] {
        let folder = tempfile::tempdir().unwrap();
        services(folder.path());
        let shell = format!("exec \"$0\" --log debug --log-format {format} \"$@\"");
        let gateway = Gateway::start_by(&["sh", "-c", &shell], folder, &config());
        until("what is wrong is told", || async { gateway.log().contains("Registry failed") }).await;
        // An id that is gone in a second, which is logged.
        let id: String = EVIL.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let body = r#"{"address":"127.0.0.1:9","ttl_seconds":1}"#;
        let path = format!("/api/v1/services/orders/{id}");
        let answer = gateway.session_to_admin().put(&path, body).await;
        assert_harmless("registration", &answer.text());
        if answer.status.is_success() {
            until("the registration is gone", || async { gateway.log().contains("Registration expired") })
                .await;
        }
        let log = gateway.log();
        assert_harmless(format, &log);
        for line in log.lines() {
            match format {
                "text" => {
                    assert!(line.starts_with("20") && line.contains("Z "), "no line of the log: {line:?}")
                }
                _ => assert!(serde_json::from_str::<Value>(line).is_ok(), "no JSON: {line:?}"),
            }
        }

        let metrics = gateway.session_to_admin().get("/metrics").await.text();
        assert_harmless("metrics", &metrics);
        assert!(metrics.contains("ERROR forged"), "{metrics}");
        let api = gateway.session_to_admin().get("/api/v1/upstreams/orders").await.text();
        assert_harmless("api", &api);
        assert_eq!(
            serde_json::from_str::<Value>(&api).unwrap()["sources"][0]["service"],
            EVIL,
            "the same text"
        );
        let missing =
            gateway.session_to_admin().get(&format!("/api/v1/upstreams/{}", "x".repeat(20_000))).await;
        assert_harmless("refusal", &missing.text());

        let admin = gateway.admin.to_string();
        for arguments in
            [&["list"][..], &["show", "orders"], &["show", EVIL], &["pin", "orders"], &["pin", EVIL]]
        {
            let (_, said) = witgate(&[&["upstream", "--admin", &admin][..], arguments].concat());
            assert_harmless("upstream", &said);
        }
        let (code, said) = witgate(&["upstream", "--admin", &admin, "show", "orders"]);
        assert!(code == Some(0) && said.contains("ERROR forged\\u{1b}[31m"), "{said}");
        assert!(said.contains("1048") && said.contains("... ("), "what is too long is cut: {said}");
    }
}

#[test]
fn a_configuration_is_talked_about_in_harmless_lines() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("witgate.toml");
    let path = file.display().to_string();
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let (code, said) = witgate(&["check", &path]);
        assert_harmless(text.get(..200).unwrap_or(text), &said);
        (code, said)
    };
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\n\n";
    let evil = json!(EVIL);
    let long = "x".repeat(1 << 20);
    for wrong in [
        format!("{listener}[upstream.orders]\nservice = \"a\"\nregistry = {evil}\n"),
        format!("{listener}[upstream.orders]\n{evil} = 1\n"),
        format!("{listener}[upstream.{evil}]\nservice = \"a\"\n"),
        format!("{listener}[[route]]\nupstream = {evil}\n"),
        format!("{listener}[[route]]\npath = {evil}\nupstream = \"{long}\"\n"),
        format!("{listener}[[route]]\npath = \"{long}\"\nupstream = \"{long}\" # \u{202e}\u{9b}\n"),
        format!("{listener}# \u{202e}\n{long} \u{202e} \u{9b}31m = [[\n"),
    ] {
        assert_eq!(check(&wrong).0, Some(1));
    }
    // A plugin is asked about its settings, and says what it does not know.
    let settings = format!(
        "{listener}[upstream.orders]\nservice = \"orders\"\nregistry = \"memory\"\nselector = {{ plugin = \"consistent-hash\", settings = {{ {evil} = 1, {} = 2 }} }}\n\n[[route]]\nupstream = \"orders\"\n",
        json!(format!("{EVIL}{long}"))
    );
    assert_eq!(check(&settings).0, Some(1));
    let (code, said) = check(&format!("{listener}{}", config().replace("services.json", "none.json")));
    assert!(code == Some(0) && said.contains("ERROR forged\\u{1b}"), "{said}");
}

#[test]
fn what_answers_in_the_place_of_a_gateway_does_not_speak_to_the_terminal() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let list =
            json!({ "upstreams": [{ "name": EVIL, "sources": [{ "origin": EVIL }], "generation": EVIL }] });
        for (status, body) in
            [("409 Conflict", json!({ "error": format!("{EVIL}{}", "v".repeat(1 << 20)) })), ("200 OK", list)]
        {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            let body = body.to_string();
            let head =
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).unwrap();
        }
    });
    let (code, said) = witgate(&["upstream", "--admin", &address, "list"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("ERROR forged\\u{1b}"), "{said}");
    assert_harmless("an error", &said);
    let (code, said) = witgate(&["upstream", "--admin", &address, "list"]);
    assert_eq!(code, Some(0));
    assert_harmless("a table", &said);
    server.join().unwrap();
}

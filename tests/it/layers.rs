//! The architecture, held: who may use whom, and what must not occur at all.
//!
//! `docs/architecture.md` says why each of these is worth a test.

use std::{collections::BTreeSet, ops::Range};

use crate::source::{self, Module};

/// A module of the root that another one names, and where.
struct Use {
    name: String,
    line: usize,
}

#[test]
fn a_module_uses_only_modules_above_it() {
    let modules = source::modules();
    let order = order();
    let place = |name: &str| order.iter().position(|module| module == name);
    let mut wrong = Vec::new();
    for module in modules.iter().filter(|module| !module.path.is_empty()) {
        let own = place(&module.path[0]).unwrap();
        for Use { name, line } in uses(module) {
            if place(&name).is_some_and(|used| used > own) {
                wrong.push(format!(
                    "{}:{line}: {} uses {name}, which stands below it",
                    module.file, module.path[0]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "the order of `pub mod` lines in gateway/lib.rs:\n{}", wrong.join("\n"));
}

#[test]
fn every_layer_is_in_the_architecture_in_its_order() {
    let text = std::fs::read_to_string(source::root().join("docs/architecture.md")).unwrap();
    let rows =
        text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name);
    let layers: Vec<&str> = rows.filter(|name| order().iter().any(|module| module == name)).collect();
    assert_eq!(layers, order());
}

#[test]
fn libraries_stay_where_they_belong() {
    for (library, homes) in [
        ("wasmtime", &["bindings/", "connector/", "plugin/"][..]),
        ("wasmtime_wasi", &["bindings/", "connector/", "plugin/"]),
        ("wasmtime_wasi_http", &["bindings/", "connector/http/"]),
        ("hyper", &["client/", "otlp/", "check/", "server/", "http/", "admin/", "connector/http/"]),
        ("hyper_util", &["client/", "otlp/", "check/", "server/", "http/", "admin/", "connector/http/"]),
        ("prost", &["otlp/", "telemetry/protobuf.rs"]),
        ("etcd_client", &["connector/"]),
        ("hickory_resolver", &["registry/resolve/"]),
        ("hickory_proto", &["connector/mdns/wire.rs"]),
        ("arc_swap", &["upstream/publish.rs", "tls/"]),
        ("rustls", &["tls/"]),
        ("tokio_rustls", &["tls/", "net/stream.rs"]),
        ("aws_lc_rs", &["tls/"]),
        ("sd_notify", &["run/systemd.rs"]),
    ] {
        assert_only_in(library, homes);
    }
}

/// Whoever reads a format owns it: a type of the gateway is never a file format by accident.
#[test]
fn formats_are_read_only_by_their_owners() {
    let homes = [
        // witgate.toml. What runs, `config/running.rs`, is another type and never read.
        "config/file",
        "config/file.rs",
        "config/structure.rs",
        "document/",
        // What each connector has in witgate.toml.
        "connector/dns/keys.rs",
        "connector/etcd/keys.rs",
        "connector/file/keys.rs",
        "connector/http/keys.rs",
        "connector/http/kubeconfig.rs",
        "connector/mdns/keys.rs",
        "connector/tcp/keys.rs",
        "connector/tls.rs",
        "connector/zookeeper/keys.rs",
        // The last good lists.
        "upstream/disk.rs",
        "upstream/saved/file.rs",
        // The embedded registry: its file, and what services send.
        "connector/memory/",
        // What two processes of the gateway say to each other.
        "run/upgrade/",
        // Bodies of requests to the admin API.
        "admin/",
    ];
    assert_only_in("Deserialize", &homes);
    assert_only_in("DeserializeOwned", &homes);
}

#[test]
fn an_upstream_is_published_in_exactly_one_place() {
    let stores: Vec<String> = source::modules()
        .iter()
        .filter(|module| module.path.first().is_some_and(|name| name == "upstream"))
        .flat_map(|module| writes(&module.code).map(|at| format!("{}: {}", module.file, text(module, at))))
        .collect();
    assert_eq!(stores.len(), 1, "{stores:#?}");
    assert!(stores[0].starts_with("gateway/upstream/publish.rs: .store("), "{stores:?}");
}

/// A path may lead to a pipe, a device or a file without end: whoever reads one asks `files`.
#[test]
fn files_are_read_in_one_way() {
    // What is opened to have it on the disk, or to append to it, is not read, and a watch of etcd is no file.
    let whole = |code: &str| {
        let others = [
            "File::open(folder)",
            "OpenOptions::new().create(true).append(true)",
            "OpenOptions::new().append(true)",
            "OpenOptions,",
            "OpenOptions}",
        ];
        others.iter().fold(code.to_owned(), |code, other| code.replace(other, ""))
    };
    let reads =
        ["fs::read(", "read_to_string(", "read_to_end(", "File::open(", "File::options(", "OpenOptions"];
    let found: Vec<String> = source::modules()
        .into_iter()
        .filter(|module| module.file != "gateway/files/mod.rs")
        .flat_map(|module| {
            let code = whole(&module.code);
            let found: Vec<_> = reads.into_iter().filter(|read| code.contains(read)).collect();
            found.into_iter().map(move |read| format!("{}: {read}", module.file))
        })
        .collect();
    // The answer of a socket.
    assert_eq!(found, ["gateway/run/demo.rs: read_to_string("]);
}

#[test]
fn only_main_ends_the_process() {
    let calls = |code: &str| ["process::exit", "process::abort"].iter().any(|call| code.contains(call));
    let ends: Vec<String> = source::modules()
        .into_iter()
        .filter(|module| calls(&module.code))
        .map(|module| module.file)
        .collect();
    assert!(ends.is_empty(), "{ends:?}");
}

#[test]
fn nothing_is_unsafe() {
    let manifest = std::fs::read_to_string(source::root().join("Cargo.toml")).unwrap();
    assert!(manifest.lines().any(|line| line.trim() == r#"unsafe_code = "forbid""#), "the lint is gone");
    assert_only_in("unsafe", &[]);
    assert!(!source::words(&source::code("gateway/main.rs")).any(|(_, word)| word == "unsafe"));
}

/// The modules of `lib.rs`, top to bottom.
fn order() -> Vec<String> {
    let order = source::declared(&source::code("gateway/lib.rs"));
    assert_eq!(order.last().map(String::as_str), Some("run"), "sorted by hand, not by rustfmt");
    order
}

/// `crate::x`, `crate::{x, y}`, and as many `super::` as lead to the root.
fn uses(module: &Module) -> Vec<Use> {
    let code = &module.code;
    let up = "super::".repeat(module.path.len());
    let from_root = code.match_indices("crate::").map(|(at, found)| at + found.len());
    let from_above = code.match_indices(&up).map(|(at, found)| at + found.len());
    from_root
        .chain(from_above)
        .flat_map(|at| heads(&code[at..]).into_iter().map(move |head| at + head.start..at + head.end))
        .map(|range| Use { line: source::line(code, range.start), name: code[range].to_owned() })
        .collect()
}

/// The first names of a path or of a group of paths.
fn heads(code: &str) -> Vec<Range<usize>> {
    let Some(group) = code.strip_prefix('{') else {
        return source::words(code)
            .next()
            .filter(|(range, _)| range.start == 0)
            .map(|(range, _)| range)
            .into_iter()
            .collect();
    };
    let (mut depth, mut expected, mut heads) = (0, true, Vec::new());
    let mut end = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expected = true,
            _ if c.is_whitespace() || at < end => {}
            _ if expected => {
                if let Some((word, _)) =
                    source::words(&group[at..]).next().filter(|(word, _)| word.start == 0)
                {
                    end = at + word.end;
                    heads.push(at + 1..end + 1);
                }
                expected = false;
            }
            _ => {}
        }
    }
    heads
}

/// Where something is exchanged that is no atomic number: `store` and its like without a memory order.
fn writes(code: &str) -> impl Iterator<Item = Range<usize>> {
    const ORDERS: [&str; 5] = ["Relaxed", "Acquire", "Release", "AcqRel", "SeqCst"];
    [".store(", ".swap(", ".rcu(", ".compare_and_swap("].into_iter().flat_map(move |call| {
        code.match_indices(call).map(move |(at, _)| at..closing(code, at + call.len())).filter(move |range| {
            let in_order = source::words(&code[range.clone()]).any(|(_, word)| ORDERS.contains(&word));
            // Slices and `Option`s have a `swap`, too, and cannot be shared.
            !in_order && (call != ".swap(" || code[range.clone()].contains("Arc"))
        })
    })
}

/// The end of the brackets that are open.
fn closing(code: &str, from: usize) -> usize {
    let mut depth = 1;
    for (at, c) in code[from..].char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return from + at + 1;
        }
    }
    code.len()
}

fn text(module: &Module, at: Range<usize>) -> &str {
    &module.code[at]
}

fn assert_only_in(word: &str, homes: &[&str]) {
    let elsewhere: BTreeSet<String> = source::modules()
        .iter()
        .filter(|module| {
            let file = module.file.strip_prefix("gateway/").unwrap();
            !homes.iter().any(|home| file.starts_with(home))
        })
        .filter_map(|module| {
            let (at, _) = source::words(&module.code).find(|(_, found)| *found == word)?;
            Some(format!("{}:{}", module.file, source::line(&module.code, at.start)))
        })
        .collect();
    assert!(elsewhere.is_empty(), "{word} belongs into {homes:?}, not into {elsewhere:?}");
}

#[test]
fn uses_are_found_in_every_form() {
    let check = |code: &str, expected: &[&str]| {
        let path = vec!["http".to_owned(), "service".to_owned()];
        let module = Module { path, file: String::new(), code: code.to_owned() };
        let names: Vec<String> = uses(&module).into_iter().map(|found| found.name).collect();
        assert_eq!(names, expected, "{code}");
    };
    check("use crate::upstream::{Slot, Weight};", &["upstream"]);
    check(
        "use crate::{config, selector::{self, View}, upstream::Slot};",
        &["config", "selector", "upstream"],
    );
    check("fn f(a: crate::tcp::B) -> crate::run::C {}", &["tcp", "run"]);
    check("use super::super::admin;", &["admin"]);
    check("use super::{respond, route};", &[]);
    check("use crate::{\n    config::{A, B},\n    run,\n};", &["config", "run"]);
}

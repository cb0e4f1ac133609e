//! The documents tell the truth: what they list is what is compiled, what they name exists, and the plugins they teach
//! to write are taken by the gateway.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{source, support::component};

#[test]
fn listings_are_the_files_that_are_compiled() {
    let mut listed = 0;
    for document in documents() {
        let text = read(&document);
        for (file, listing) in listings(&text) {
            assert_eq!(listing, read(&source::root().join(file)), "{file} in {}", document.display());
            listed += 1;
        }
    }
    assert!(
        listed >= 4,
        "docs/plugins.md lists two plugins, each with its manifest, and only {listed} were found"
    );
}

#[test]
fn what_documents_link_to_exists() {
    let mut broken = Vec::new();
    for document in documents() {
        let folder = document.parent().unwrap();
        for target in links(&read(&document)) {
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") && !folder.join(path).exists() {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn files_that_documents_name_exist() {
    const ROOTS: [&str; 8] =
        ["gateway/", "plugins/", "wit/", "docs/", "tests/", "benches/", "scripts/", "examples/"];
    let mut missing = Vec::new();
    for document in documents() {
        let text = prose(&read(&document));
        let names = text.split('`').skip(1).step_by(2);
        let paths = names.filter(|name| ROOTS.iter().any(|root| name.starts_with(root)));
        // `*` and capitals stand for something else.
        let exact = paths.filter(|path| !path.contains(['*', ' ', '<']) && !path.ends_with(".wasm"));
        missing
            .extend(exact.filter(|path| !exists(path)).map(|path| format!("{}: {path}", document.display())));
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn the_selector_of_the_guide_is_taken_and_asked_about_its_settings() {
    let wasm = component::of_example("custom-selector", "prefer_zone");
    check("custom-selector", ("prefer-zone", &wasm), ("", ""), Ok("selector prefer-zone"));
    check(
        "custom-selector",
        ("prefer-zone", &wasm),
        ("settings = { zone", "settings = { zon"),
        Err("unknown field `zon`"),
    );
}

#[test]
fn the_registry_of_the_guide_is_taken_and_asked_about_its_settings() {
    let wasm = component::of_example("custom-registry", "lines");
    check("custom-registry", ("lines", &wasm), ("", ""), Ok("plugin lines"));
    let wrong = ("plugin = \"lines\"", "plugin = \"lines\"\nsettings = { path = \"x\" }");
    check("custom-registry", ("lines", &wasm), wrong, Err("settings of lines: there are none"));
}

/// What `witgate check` says of an example's configuration, with the plugin in its folder and one text replaced.
fn check(example: &str, (name, wasm): (&str, &[u8]), (old, new): (&str, &str), expected: Result<&str, &str>) {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("plugins")).unwrap();
    fs::write(folder.path().join(format!("plugins/{name}.wasm")), wasm).unwrap();
    let config = read(&source::root().join("examples").join(example).join("witgate.toml"));
    assert!(config.contains(old), "{old:?} is not in {config}");
    let config = if old.is_empty() { config } else { config.replacen(old, new, 1) };
    let file = folder.path().join("witgate.toml");
    fs::write(&file, config).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_witgate")).arg("check").arg(&file).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.success(), expected.is_ok(), "{said}");
    assert!(said.contains(expected.unwrap_or_else(|error| error)), "{said}");
}

/// Whoever finds a warning in the log finds in the handbook what it means and what helps.
#[test]
fn each_warning_of_the_log_is_in_the_handbook() {
    let handbook = read(&source::root().join("docs/operations.md"));
    let rows = || handbook.lines().filter(|line| line.starts_with("| `"));
    let (mut count, mut missing) = (0, Vec::new());
    for module in source::modules() {
        let text = read(&source::root().join(&module.file));
        for message in messages(&module.code, &text) {
            count += 1;
            // The handbook may leave out the advice behind a colon.
            let short = message.split(": ").next().unwrap_or_default();
            let names = [format!("`{message}`"), format!("`{short}`")];
            if !rows().any(|row| names.iter().any(|name| row.contains(name))) {
                missing.push(format!("{}: {message}", module.file));
            }
        }
    }
    assert!(count > 50, "{count}");
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The texts of warnings and errors: the last string of each. `code` is the text with blanks in the place of strings.
fn messages<'a>(code: &'a str, text: &'a str) -> impl Iterator<Item = &'a str> {
    let calls = ["tracing::warn!(", "tracing::error!("];
    let starts =
        calls.into_iter().flat_map(|call| code.match_indices(call).map(|(at, call)| at + call.len()));
    starts.map(|start| {
        let mut depth = 1;
        let end = code[start..].find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        text[start..start + end.unwrap()].rsplit('"').nth(1).expect("a message")
    })
}

/// A file or folder, or a module that is one of the two.
fn exists(path: &str) -> bool {
    [path.to_owned(), format!("{path}.rs")].iter().any(|path| source::root().join(path).exists())
}

/// Everything a reader may open first.
fn documents() -> Vec<PathBuf> {
    let folder =
        |path: &Path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let examples =
        folder(&source::root().join("examples")).into_iter().map(|example| example.join("README.md"));
    let mut documents: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| source::root().join(name)).to_vec();
    documents.extend(folder(&source::root().join("docs")));
    documents.extend(examples);
    documents.retain(|path| path.extension().is_some_and(|extension| extension == "md") && path.exists());
    documents
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Code blocks under a line `<!-- listing: FILE -->`.
fn listings(text: &str) -> Vec<(&str, String)> {
    let after = text.split("<!-- listing: ").skip(1);
    after
        .map(|rest| {
            let (file, rest) = rest.split_once(" -->\n").unwrap();
            let (_, rest) = rest.split_once('\n').unwrap();
            let end = rest.find("\n```\n").expect("a listing ends with a fence of its own");
            (file, rest[..=end].to_owned())
        })
        .collect()
}

/// Targets of `[text](target)`.
fn links(text: &str) -> Vec<String> {
    let text = prose(text);
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).collect()
}

/// The text without its code blocks.
fn prose(text: &str) -> String {
    let mut inside = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !fence && !inside
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn links_and_listings_are_found() {
    let text = "See [a](b.md#c) and `x`.\n<!-- listing: d.rs -->\n```rust\nlet e = [f](g);\n```\n";
    assert_eq!(links(text), ["b.md#c"]);
    assert_eq!(listings(text), [("d.rs", "let e = [f](g);\n".to_owned())]);
}

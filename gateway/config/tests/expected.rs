//! Texts that are expected to the letter: `UPDATE_EXPECT=1` writes them anew.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::config;

/// Compares a text with the file that holds what is expected.
fn expect(file: &Path, actual: &str) {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(file, actual).unwrap();
        return;
    }
    let expected = fs::read_to_string(file).unwrap_or_default();
    assert_eq!(actual, expected, "{} differs; UPDATE_EXPECT=1 writes it anew", file.display());
}

/// Relative to the root of the package, where tests run, so that expected texts say no more.
fn configurations(folder: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|kind| kind == "toml")).collect();
    files.sort();
    files
}

#[test]
fn mistakes_are_told_as_expected() {
    let files = configurations("tests/it/config");
    assert!(!files.is_empty());
    for file in files {
        let problems = config::load(&file).expect_err(&file.display().to_string());
        expect(&file.with_extension("expected"), &format!("{problems}\n"));
    }
}

#[test]
fn the_schema_is_what_the_types_say() {
    expect(Path::new("docs/witgate.schema.json"), &config::schema());
}

#[test]
fn every_example_parses() {
    let folders = fs::read_dir("examples").unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        folders.map(|folder| folder.join("witgate.toml")).filter(|f| f.exists()).collect();
    files.sort();
    assert!(files.len() >= 8, "only {files:?}");
    for file in files {
        // One whose certificates are made when it is tried out is looked at where they are.
        let folder = file.parent().unwrap();
        let made = tempfile::tempdir().unwrap();
        let script = folder.join("certificates.sh");
        let file = if script.exists() {
            let script = script.canonicalize().unwrap();
            assert!(std::process::Command::new(script).current_dir(made.path()).status().unwrap().success());
            fs::copy(&file, made.path().join("witgate.toml")).unwrap();
            made.path().join("witgate.toml")
        } else {
            file
        };
        if let Err(problems) = config::load(&file) {
            panic!("{problems}");
        }
    }
}

#[test]
fn every_setting_is_documented() {
    let schema: serde_json::Value = serde_json::from_str(&config::schema()).unwrap();
    let documentation = fs::read_to_string("docs/configuration.md").unwrap();
    let mut keys = std::collections::BTreeSet::new();
    collect_keys(&schema, &mut keys);
    let missing: Vec<_> = keys.iter().filter(|key| !documentation.contains(&format!("`{key}`"))).collect();
    assert!(missing.is_empty(), "docs/configuration.md does not mention {missing:?}");
}

fn collect_keys(schema: &serde_json::Value, keys: &mut std::collections::BTreeSet<String>) {
    if let Some(properties) = schema.get("properties").and_then(|properties| properties.as_object()) {
        keys.extend(properties.keys().cloned());
    }
    match schema {
        serde_json::Value::Object(members) => members.values().for_each(|member| collect_keys(member, keys)),
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect_keys(item, keys)),
        _ => {}
    }
}

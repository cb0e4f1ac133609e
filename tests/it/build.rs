//! What builds the gateway: it leaves the toolchain alone.

use std::{os::unix::fs::PermissionsExt as _, path::Path, process::Command};

fn script(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_missing_target_is_told_with_the_command_that_adds_it_and_nothing_is_installed() {
    let folder = tempfile::tempdir().unwrap();
    let build = folder.path().join("build");
    let root = env!("CARGO_MANIFEST_DIR");
    let compiled = Command::new("rustc")
        .args(["--edition", "2024", "-o"])
        .arg(&build)
        .arg(format!("{root}/build.rs"))
        .status()
        .unwrap();
    assert!(compiled.success());
    // A toolchain whose libraries are nowhere, and a rustup that would tell of being called.
    script(&folder.path().join("rustc"), "echo /no/such/folder");
    let called = folder.path().join("called");
    for tool in ["rustup", "cargo"] {
        script(&folder.path().join(tool), &format!("echo \"$0 $@\" >> {}", called.display()));
    }
    let output = Command::new(&build)
        .env("CARGO_MANIFEST_DIR", root)
        .env("RUSTC", folder.path().join("rustc"))
        .env("CARGO", folder.path().join("cargo"))
        .env("OUT_DIR", folder.path())
        .env("PATH", folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let error = said.lines().find_map(|line| line.strip_prefix("cargo::error=")).unwrap_or_default();
    assert!(error.contains("`rustup target add wasm32-wasip2`") && error.contains("./dev"), "{said}");
    assert!(!called.exists(), "{}", std::fs::read_to_string(called).unwrap_or_default());
}

//! Plugins for tests, built from their source once per run.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The component of a crate under `plugins/` or `plugins/testing/`, by its name.
pub fn guest(name: &str) -> Vec<u8> {
    let path = built().join(format!("{}.wasm", name.replace('-', "_")));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The folder of all components.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins");
        let target = plugins.join("target");
        build(&plugins.join("Cargo.toml"), &target);
        target.join("wasm32-wasip2/release")
    })
}

/// Builds all components of a manifest. Cargo says at once when there is nothing to do.
fn build(manifest: &Path, target: &Path) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--workspace", "--release", "--target", "wasm32-wasip2", "--manifest-path"]);
    cargo.arg(manifest).arg("--target-dir").arg(target);
    for leak in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(leak);
    }
    let status = cargo.status().expect("cargo starts");
    assert!(status.success(), "{} does not build", manifest.display());
}

/// The same component with one more custom section: another file, with another digest.
pub fn with_custom_section(component: &[u8], number: usize) -> Vec<u8> {
    let name = format!("test-{number}");
    // The section's number, its length, and in it the name with its length; all lengths are below 128.
    let section = [&[0, name.len() as u8 + 1, name.len() as u8], name.as_bytes()].concat();
    [component, &section].concat()
}

/// The component of the plugin crate inside an example, built from its source.
pub fn build_example(name: &str) -> Vec<u8> {
    let manifest =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name).join("plugin/Cargo.toml");
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/examples").join(name);
    build(&manifest, &target);
    let folder = target.join("wasm32-wasip2/release");
    let mut components = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wasm"));
    let path = components.next().unwrap_or_else(|| panic!("no component in {}", folder.display()));
    std::fs::read(path).unwrap()
}

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
        build(&plugins.join("Cargo.toml"), &target)
    })
}

/// Builds all components of a manifest and says where they are. Cargo is quick when there is nothing to do.
pub fn build(manifest: &Path, target: &Path) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--workspace", "--release", "--target", "wasm32-wasip2", "--manifest-path"]);
    cargo.arg(manifest).arg("--target-dir").arg(target);
    for leak in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(leak);
    }
    let status = cargo.status().expect("cargo starts");
    assert!(status.success(), "{} does not build", manifest.display());
    target.join("wasm32-wasip2/release")
}

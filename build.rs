//! Builds the shipped plugins for WebAssembly and hands them to the gateway as bytes.
//!
//! They are a workspace of their own under `plugins/`: another target, another profile, another lock file. A
//! folder there with a `cdylib` is a plugin, and its name is the plugin's name. `plugins/testing/` is left out:
//! those guests misbehave on purpose and are built by the tests.
//!
//! It changes nothing outside the target folders: a toolchain that lacks something is told of.

use std::{
    env,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const TARGET: &str = "wasm32-wasip2";

fn main() {
    if let Err(error) = build() {
        println!("cargo::error=the shipped plugins could not be built: {error}");
    }
}

fn build() -> Result<(), String> {
    let root = PathBuf::from(required("CARGO_MANIFEST_DIR")?);
    let plugins = root.join("plugins");
    let names = shipped(&plugins).map_err(|error| format!("{}: {error}", plugins.display()))?;
    watch(&root, &plugins)?;
    check_target()?;
    compile(&plugins)?;
    embed(&plugins, &names)?;
    keep_symbols(&root.join("scripts/link.sh"));
    Ok(())
}

/// The folders that hold a plugin, sorted.
fn shipped(plugins: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(plugins)? {
        let entry = entry?;
        let manifest = fs::read_to_string(entry.path().join("Cargo.toml")).unwrap_or_default();
        if manifest.contains("\"cdylib\"") {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Says what makes this script run again: everything of the plugins but what their build and the tests write.
fn watch(root: &Path, plugins: &Path) -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", root.join("wit").display());
    // The plugins are compiled with it.
    println!("cargo::rerun-if-changed={}", root.join("gateway/registry/usable.rs").display());
    for entry in fs::read_dir(plugins).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        if !path.ends_with("target") && !path.ends_with("testing") {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    Ok(())
}

/// Whether there is a standard library for the target.
fn check_target() -> Result<(), String> {
    let rustc = required("RUSTC")?;
    let output = Command::new(&rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .map_err(|error| format!("{rustc}: {error}"))?;
    let libraries = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if output.status.success() && libraries.is_dir() {
        return Ok(());
    }
    Err(format!(
        "the Rust target {TARGET} is missing: `rustup target add {TARGET}` adds it, and so does every command of ./dev that builds"
    ))
}

/// Has a release linked by a script that puts its symbols aside. Where the compiler is no GCC, or there is no objcopy, the
/// release is linked as ever, without symbols.
fn keep_symbols(script: &Path) {
    println!("cargo::rerun-if-changed={}", script.display());
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    let native = env::var_os("HOST") == env::var_os("TARGET") && is("CARGO_CFG_TARGET_OS", "linux");
    // Another linker than the usual one may not take these options, and commas separate what the option says.
    let usual =
        env::var_os("RUSTC_LINKER").is_none() && !script.as_os_str().as_encoded_bytes().contains(&b',');
    let works = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        let command =
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if is("PROFILE", "release")
        && native
        && usual
        && works("cc", &["-wrapper", "env", "-x", "c", "-E", "/dev/null"])
        && works("objcopy", &["--version"])
    {
        let script = script.display().to_string();
        for argument in ["-wrapper", &script, "-Wl,--build-id=sha1"] {
            println!("cargo::rustc-link-arg-bin=witgate={argument}");
        }
    }
}

fn compile(plugins: &Path) -> Result<(), String> {
    let mut cargo = Command::new(required("CARGO")?);
    cargo
        .args(["build", "--release", "--target", TARGET, "--manifest-path"])
        .arg(plugins.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(plugins.join("target"));
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(leaks) {
            cargo.env_remove(name);
        }
    }
    match cargo.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`cargo build` in {} ended with {status}", plugins.display())),
        Err(error) => Err(format!("cargo: {error}")),
    }
}

/// What cargo sets for this build and must not reach the other: flags, wrappers, features, profile. How packages
/// are fetched stays.
fn leaks(name: &str) -> bool {
    const OURS: [&str; 12] = [
        "RUSTFLAGS",
        "RUSTDOCFLAGS",
        "RUSTC",
        "RUSTDOC",
        "RUSTC_LINKER",
        "TARGET",
        "HOST",
        "PROFILE",
        "OPT_LEVEL",
        "DEBUG",
        "NUM_JOBS",
        "OUT_DIR",
    ];
    const KEPT: [&str; 6] =
        ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_"];
    OURS.contains(&name)
        || name.starts_with("DEP_")
        || (name.starts_with("RUSTC_") && name.ends_with("WRAPPER"))
        || (name.starts_with("CARGO") && !KEPT.iter().any(|kept| name.starts_with(kept)))
}

/// Copies the components aside, so that what is embedded is what this run has built, and lists them.
fn embed(plugins: &Path, names: &[String]) -> Result<(), String> {
    let built = plugins.join("target").join(TARGET).join("release");
    let out = PathBuf::from(required("OUT_DIR")?);
    let mut list = String::from("&[\n");
    for name in names {
        let from = built.join(format!("{}.wasm", name.replace('-', "_")));
        let to = out.join(format!("{name}.wasm"));
        fs::copy(&from, &to).map_err(|error| format!("{}: {error}", from.display()))?;
        // Writing to a string cannot fail.
        let _ = writeln!(list, "    ({name:?}, include_bytes!({to:?})),");
    }
    list.push_str("]\n");
    fs::write(out.join("shipped.rs"), list).map_err(|error| format!("{}: {error}", out.display()))
}

fn required(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}

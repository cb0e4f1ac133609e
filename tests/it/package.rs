//! The package for Debian: what it puts where, and that what it installed runs.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use http::StatusCode;

use crate::support::gateway::Gateway;

/// Runs a program, which has to succeed. What it wrote to both outputs.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// The package of the program under test, without its symbols, which are most of it.
fn package(folder: &Path) -> PathBuf {
    let program = folder.join("witgate");
    run(Command::new("strip").arg("-o").arg(&program).arg(env!("CARGO_BIN_EXE_witgate")));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/package.sh");
    // To compress it takes longer than everything else.
    run(Command::new(script).arg(&program).arg(folder).env("DPKG_DEB_COMPRESSOR_TYPE", "none"));
    let mut files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files.find(|file| file.extension().is_some_and(|ending| ending == "deb")).expect("a package")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_is_installed_into_a_root_and_what_it_installed_serves_and_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let package = package(folder.path());
    let control = run(Command::new("dpkg-deb").arg("--info").arg(&package));
    for line in ["Package: witgate", "Version: 0.", "Depends: libc6"] {
        assert!(control.contains(line), "{line}: {control}");
    }

    let root = folder.path().join("root");
    for below in ["var/lib/dpkg/info", "var/lib/dpkg/updates"] {
        fs::create_dir_all(root.join(below)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    // It gives files to root.
    let is_root = rustix::process::geteuid().is_root();
    let dpkg = |arguments: &[&str]| {
        let mut command = Command::new(if is_root { "dpkg" } else { "unshare" });
        if !is_root {
            command.args(["--map-root-user", "dpkg"]);
        }
        // The scripts of the package are those of this machine's shell, and what it depends on is there, too.
        command.arg(format!("--root={}", root.display()));
        command.args(["--force-not-root", "--force-script-chrootless", "--force-depends"]);
        // They have a home in sbin, where a user's path does not lead.
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(arguments);
        run(&mut command)
    };
    dpkg(&["--install", &package.display().to_string()]);
    for (file, mode) in [
        ("usr/bin/witgate", 0o755),
        ("usr/lib/systemd/system/witgate.service", 0o644),
        ("etc/witgate/witgate.toml", 0o644),
        ("usr/share/doc/witgate/operations.md", 0o644),
        ("usr/share/doc/witgate/witgate.cdx.json", 0o644),
    ] {
        let found = fs::metadata(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(found.permissions().mode() & 0o777, mode, "{file}");
    }

    // As the unit runs it, with folders and ports of the test's own.
    let program = root.join("usr/bin/witgate");
    let config = root.join("etc/witgate/witgate.toml");
    let state = root.join("var/lib/witgate");
    let text = fs::read_to_string(&config).unwrap();
    let own = text
        .replace("/var/lib/witgate", &state.display().to_string())
        .replace("127.0.0.1:8080", "127.0.0.1:0")
        .replace("127.0.0.1:9901", "127.0.0.1:0");
    assert_eq!(own.matches("127.0.0.1:0").count(), 2 + own.matches("http://127.0.0.1:0").count());
    fs::write(&config, own).unwrap();
    let checked = run(Command::new(&program).arg("check").arg(&config));
    assert!(checked.starts_with("configuration is valid"), "{checked}");
    let mut gateway = Gateway::installed(&program, &config);
    let answer = gateway.get("/svc/nobody/").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND, "{}", answer.text());
    gateway.signal("TERM");
    assert_eq!(gateway.exit().await.code(), Some(0));
    assert!(state.join("compiled-plugins").exists());

    // What the operator wrote stays until a purge, and what the gateway wrote, too.
    dpkg(&["--remove", "witgate"]);
    assert!(!program.exists() && config.exists() && state.exists());
    dpkg(&["--purge", "witgate"]);
    assert!(!config.exists() && !state.exists());
}

#[test]
fn the_list_of_what_the_program_is_built_of_names_every_library_with_its_licence() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/sbom.sh");
    let output = Command::new(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(list["bomFormat"], "CycloneDX");
    let components = list["components"].as_array().unwrap();
    let named = |name: &str| components.iter().find(|component| component["name"] == name);
    for name in ["hyper", "wasmtime", "rustls", "tokio"] {
        let component = named(name).unwrap_or_else(|| panic!("{name} is missing"));
        let purl = component["purl"].as_str().unwrap();
        assert!(purl.starts_with(&format!("pkg:cargo/{name}@")), "{purl}");
    }
    // What only tests use is no part of it.
    assert!(named("criterion").is_none() && named("proptest").is_none());
    for component in components {
        assert!(component["licenses"][0].is_object(), "{}", component["name"]);
    }
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains(env!("CARGO_MANIFEST_DIR")), "it names a folder of this machine");
}

//! The image of a container: what `scripts/image.sh` and the Dockerfile make, built by a real builder, and run as a
//! runtime runs it: no root, a root that cannot be written, a volume for the state.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::support::{backend::Backend, gateway::Gateway};

/// Who the gateway is in its image.
const USER: &str = "65532";

/// Runs a program, which has to succeed. What it wrote.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// An image and what is in it, in a store of the test's own.
struct Image {
    root: PathBuf,
    config: Value,
}

impl Image {
    fn build(folder: &Path) -> Self {
        let program = folder.join("witgate");
        run(Command::new("strip").arg("-o").arg(&program).arg(env!("CARGO_BIN_EXE_witgate")));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/image.sh");
        let context = folder.join("image");
        let script = || {
            // As somebody calls it whose files are nobody else's to read.
            let mut command = Command::new("sh");
            command.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(&script).arg(&program).arg(&context);
            command
        };
        let (strange, mine) = (context.join("root/mine"), context.join("mine"));
        fs::create_dir_all(&strange).unwrap();
        fs::write(&mine, "").unwrap();
        assert!(!script().output().unwrap().status.success(), "a root that it did not make");
        assert!(strange.exists());
        fs::remove_dir_all(context.join("root")).unwrap();
        run(&mut script());
        fs::write(context.join("root/usr/of-an-earlier-run"), "").unwrap();
        run(&mut script());
        assert!(mine.exists() && !context.join("root/usr/of-an-earlier-run").exists());
        fs::write(folder.join("policy.json"), r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
        let buildah = |command: &str, arguments: &[&str]| {
            let mut buildah = Command::new("buildah");
            buildah.args(["--root"]).arg(folder.join("store")).arg("--runroot").arg(folder.join("running"));
            // Needs neither a file system of its own nor a daemon.
            buildah.args(["--storage-driver", "vfs", command]).args(arguments).current_dir(folder);
            run(&mut buildah).trim().to_owned()
        };
        let policy = ["--signature-policy", "policy.json"];
        buildah("bud", &[&policy[..], &["--isolation", "chroot", "--tag", "witgate", "image"]].concat());
        let inspected = buildah("inspect", &["--type", "image", "witgate"]);
        let inspected: Value = serde_json::from_str(&inspected).unwrap();
        let container = buildah("from", &[&policy[..], &["--pull-never", "witgate"]].concat());
        let root = buildah("mount", &[&container]).into();
        Self { root, config: inspected["OCIv1"]["config"].clone() }
    }

    /// The words of what it runs.
    fn words(&self, of: &str) -> Vec<String> {
        serde_json::from_value(self.config[of].clone()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_holds_what_it_needs_and_runs_as_nobody_on_a_root_that_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let image = Image::build(folder.path());
    assert_eq!(image.config["User"], format!("{USER}:{USER}"));
    assert_eq!(image.config["StopSignal"], "SIGTERM");
    assert!(image.config["Volumes"].get("/var/lib/witgate").is_some(), "{}", image.config);
    let words = [image.words("Entrypoint"), image.words("Cmd")].concat();

    // What it ships is valid there, whoever mounts nothing.
    let [program, _, _, config] = &words[..] else { panic!("{words:?}") };
    let within = |words: &[&str]| {
        let mut command = Command::new("chroot");
        command.arg(format!("--userspec={USER}:{USER}")).arg(&image.root).args(words);
        command
    };
    run(&mut within(&[program, "check", config]));

    // Mounted over, as one does with a configuration of one's own, with ports of the test's.
    let shipped = fs::read_to_string(image.root.join(config.trim_start_matches('/'))).unwrap();
    let own = shipped.replace("0.0.0.0:8080", "127.0.0.1:0").replace("127.0.0.1:9901", "127.0.0.1:0");
    assert_eq!(own.matches("127.0.0.1:0").count(), 2, "{own}");
    let mounted = folder.path().join("own.toml");
    fs::write(&mounted, own).unwrap();
    let script = format!(
        "mount --bind {root} {root} && mount --bind {mounted} {root}{config} && \
         mkdir -p {root}/proc && mount -t proc proc {root}/proc && mount -o remount,bind,ro {root} && \
         mount -t tmpfs -o uid={USER},gid={USER} state {root}/var/lib/witgate && cd {root} && \
         exec setpriv --pdeathsig KILL chroot --userspec={USER}:{USER} {root} \"$@\"",
        root = image.root.display(),
        mounted = mounted.display(),
    );
    let mut gateway = Gateway::start_words(&["unshare", "--mount", "sh", "-c", &script, "sh"], &words);
    let backend = Backend::start("contained").await;
    gateway.register("orders", "1", backend.address).await;
    assert_eq!(gateway.get("/svc/orders/").await.text(), "contained");
    gateway.signal("TERM");
    assert!(gateway.exit().await.success(), "{}", gateway.log());
}

//! The state directory cannot be written to. The gateway starts, serves and says so; the list is saved once it can be.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use crate::{
    report::Outcome,
    support::{
        backend::Backend,
        etcd::Etcd,
        gateway::{Gateway, until},
        service::{self, CLIENTS},
        traffic::Traffic,
    },
};

/// A file system of its own, gone when this is dropped.
struct Mount(PathBuf);

impl Mount {
    /// So small that a few pages fill it.
    fn new(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=64k", "tmpfs", path.to_str().unwrap()]);
        Self(path)
    }

    fn remount(&self, how: &str) {
        run("mount", &["-o", &format!("remount,{how}"), self.0.to_str().unwrap()]);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Even while the gateway has a file of it open.
        run("umount", &["--lazy", self.0.to_str().unwrap()]);
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}");
}

/// A service that is registered, and how a gateway finds it.
struct Stage {
    etcd: Etcd,
    backends: Vec<Backend>,
    config: String,
}

impl Stage {
    async fn new() -> Self {
        let etcd = Etcd::start().await;
        let backends = Backend::several(3).await;
        for (number, backend) in backends.iter().enumerate().take(2) {
            service::register(&mut etcd.client().await, &format!("b{number}"), backend.address).await;
        }
        let config = service::config(&etcd.toml(None), "");
        Self { etcd, backends, config }
    }

    /// It serves, and says `why` the list is not saved. Then somebody does what the operator should, and it is saved.
    async fn serves(self, gateway: &Gateway, state: &Path, why: &str, repair: impl FnOnce()) -> Outcome {
        let traffic = Traffic::mixed(gateway.address(), "/", CLIENTS);
        // What the gateway may have found there is not the list any more.
        service::register(&mut self.etcd.client().await, "b2", self.backends[2].address).await;
        service::endpoints(gateway, 3).await;
        until("it was tried", || async { gateway.log().contains("List not saved") }).await;
        assert!(unsaved(gateway).await.contains(why), "{}", gateway.log());
        assert!(metrics(gateway).await.contains("witgate_unsaved{upstream=\"orders\"} 1"));
        traffic.more(500).await;
        repair();
        let new = Backend::start("new").await;
        service::register(&mut self.etcd.client().await, "new", new.address).await;
        let right = traffic.reaches("new", Instant::now()).await;
        until("it is saved", || async { unsaved(gateway).await.is_empty() }).await;
        assert!(
            fs::read_to_string(state.join("lists/orders.json")).unwrap().contains(&new.address.to_string())
        );
        assert!(metrics(gateway).await.contains("witgate_unsaved{upstream=\"orders\"} 0"));
        gateway.logged("List saved again").await;
        Outcome::without_failure(traffic.stop().await, right)
    }
}

/// Empty when the list is safe.
async fn unsaved(gateway: &Gateway) -> String {
    let upstream = gateway.api("/api/v1/upstreams/orders?endpoints=false").await;
    upstream["unsaved"].as_str().unwrap_or_default().to_owned()
}

async fn metrics(gateway: &Gateway) -> String {
    gateway.session_to_admin().get("/metrics").await.text()
}

pub async fn full() -> Outcome {
    let stage = Stage::new().await;
    let folder = tempfile::tempdir().unwrap();
    let state = Mount::new(folder.path().join("state"));
    let ballast = state.0.join("ballast");
    fs::create_dir(state.0.join("lists")).unwrap();
    assert!(fs::write(&ballast, vec![1; 128 * 1024]).is_err(), "it is full");
    let gateway = Gateway::start_in(folder, &stage.config);
    stage.serves(&gateway, &state.0, "No space left", || fs::remove_file(ballast).unwrap()).await
}

pub async fn read_only() -> Outcome {
    let stage = Stage::new().await;
    let folder = tempfile::tempdir().unwrap();
    let state = Mount::new(folder.path().join("state"));
    state.remount("ro");
    let gateway = Gateway::start_in(folder, &stage.config);
    stage.serves(&gateway, &state.0, "Read-only", || state.remount("rw")).await
}

/// Root may do anything, so the gateway is one that may not.
pub async fn wrong_owner() -> Outcome {
    const NOBODY: u32 = 65_534;
    let stage = Stage::new().await;
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&state, Some(NOBODY), Some(NOBODY)).unwrap();
    let without = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"];
    let gateway = Gateway::start_by(&without, folder, &stage.config);
    stage.serves(&gateway, &state, "Permission denied", || chown(&state, Some(0), Some(0)).unwrap()).await
}

pub async fn held() -> Outcome {
    let stage = Stage::new().await;
    let first = Gateway::start(&stage.config);
    let state = first.folder().join("state");
    until("the first has saved", || async { state.join("lists/orders.json").exists() }).await;
    let shared = format!("[state]\ndirectory = {state:?}\n{}", stage.config);
    let second = Gateway::start(&shared);
    // What the first has written goes with its folder.
    let repair = || drop(first);
    stage.serves(&second, &state, "another gateway", repair).await
}

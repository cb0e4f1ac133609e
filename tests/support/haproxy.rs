//! HAProxy in front of a gateway, as Debian ships it.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
};

/// Passes on connections. Killed when it is dropped.
pub struct HaProxy {
    pub address: SocketAddr,
    child: Child,
    _folder: tempfile::TempDir,
}

impl HaProxy {
    /// In front of this server, whose line in the configuration goes on with `options`.
    pub fn start(server: SocketAddr, options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let config = folder.path().join("haproxy.cfg");
        let text = format!(
            "defaults
               mode tcp
               timeout connect 5s
               timeout client 60s
               timeout server 60s
               timeout check 5s
             frontend in
               bind fd@0
               default_backend out
             backend out
               option httpchk GET /checked
               server gateway {server} {options}\n"
        );
        fs::write(&config, text).unwrap();
        // It ends with the test, however that ends; and listens on what is open already, so that its port is free.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "haproxy", "-db", "-f"])
            .arg(&config)
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap_or_else(|error| panic!("no HAProxy: install Debian's package haproxy: {error}"));
        Self { address, child, _folder: folder }
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

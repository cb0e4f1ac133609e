//! `witgate register`, and its command.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Instant,
};

use tempfile::TempDir;

use super::gateway::{PATIENCE, bound_to_test, until};

/// A process of `witgate register`. Killed when dropped, and with it its command.
pub struct Registering {
    process: Child,
    /// What it has said on standard error, and who listens to that.
    said: Arc<Mutex<String>>,
    listener: Option<JoinHandle<()>>,
    pub folder: TempDir,
}

impl Registering {
    /// With a configuration and flags, and a script as command if there is one.
    pub fn start(config: &str, flags: &[&str], script: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("witgate.toml"), config).unwrap();
        let mut command = bound_to_test();
        command.arg(env!("CARGO_BIN_EXE_witgate")).arg("register").args(flags);
        if let Some(script) = script {
            command.args(["--", "setpriv", "--pdeathsig", "KILL", "sh", "-c", script]);
        }
        command.current_dir(folder.path()).env("F", folder.path());
        let mut process = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (lines, heard) = (BufReader::new(process.stderr.take().unwrap()).lines(), said.clone());
        let listener = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut heard = heard.lock().unwrap();
                heard.push_str(&line);
                heard.push('\n');
            }
        });
        Self { process, said, listener: Some(listener), folder }
    }

    pub fn signal(&self, name: &str) {
        kill(name, &self.process.id().to_string());
    }

    /// The command's process, when it runs.
    pub async fn command(&self) -> String {
        until("the command runs", async || self.folder.path().join("pid").exists()).await;
        self.read("pid").trim().to_owned()
    }

    /// The signals that the command got.
    pub fn signals(&self) -> String {
        self.read("signals")
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    /// Has the command end by itself.
    pub fn go(&self) {
        std::fs::write(self.folder.path().join("go"), "").unwrap();
    }

    /// What it has said on standard error.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until this has been said, and says all that was.
    pub async fn told(&self, text: &str) -> String {
        until(&format!("it says {text:?}"), async || self.said.lock().unwrap().contains(text)).await;
        self.said.lock().unwrap().clone()
    }

    /// Waits for the end: the exit code, and what was said on standard error.
    pub async fn exit(&mut self) -> (Option<i32>, String) {
        let began = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                if let Some(listener) = self.listener.take() {
                    listener.join().unwrap();
                }
                return (status.code(), self.said.lock().unwrap().clone());
            }
            assert!(began.elapsed() < PATIENCE, "it does not end");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Registering {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn kill(name: &str, process: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), process]).status().unwrap().success());
}

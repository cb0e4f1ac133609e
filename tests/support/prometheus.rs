//! A real Prometheus for one test, that scrapes a gateway every 200 ms. Gone when the value is dropped.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use hyper::{Request, body::Bytes};
use serde_json::Value;
use tempfile::TempDir;

use super::{etcd::free_port, session::Session};

pub struct Prometheus {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Prometheus {
    /// With these rules; what it scrapes is the admin listener of a gateway.
    pub async fn start(rules: &Path, scraped: SocketAddr) -> Self {
        Self::begin(rules, scraped, false).await
    }

    /// One that scrapes native histograms.
    pub async fn start_native(rules: &Path, scraped: SocketAddr) -> Self {
        Self::begin(rules, scraped, true).await
    }

    async fn begin(rules: &Path, scraped: SocketAddr, native: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "global: {{ scrape_interval: 200ms, evaluation_interval: 200ms, scrape_timeout: 200ms }}
rule_files: ['{}']
scrape_configs:
  - job_name: witgate
    static_configs: [{{ targets: ['{scraped}'] }}]
",
            rules.display()
        );
        fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        // A port that was free may be taken by another test before it is used.
        for _ in 0..10 {
            let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
            let mut child = spawn(folder.path(), address, native);
            while child.try_wait().unwrap().is_none() {
                if is_ready(address).await {
                    return Self { child, address, folder };
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        panic!("Prometheus does not start: {}", log(&folder))
    }

    /// What it answers to a question of its API.
    pub async fn ask(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        let answer = Session::new(self.address).get(&format!("/api/v1/{path}?{query}")).await;
        let text = answer.text();
        let answer: Value = serde_json::from_str(&text).expect(&text);
        assert_eq!(answer["status"], "success", "{path} {query}: {answer}");
        answer["data"].clone()
    }

    /// How many series an expression has at this moment.
    pub async fn series(&self, expression: &str) -> usize {
        self.ask("query", &[("query", expression)]).await["result"].as_array().map_or(0, Vec::len)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of Prometheus:\n{}", log(&self.folder));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn is_ready(address: SocketAddr) -> bool {
    let answer = Session::new(address).try_send(Request::get("/-/ready"), Bytes::new()).await;
    answer.is_ok_and(|answer| answer.status.is_success())
}

fn log(folder: &TempDir) -> String {
    fs::read_to_string(folder.path().join("log")).unwrap_or_default()
}

/// Runs `promtool` with these arguments, and this to read.
pub fn promtool(arguments: &[&str], input: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("input");
    fs::write(&path, input).unwrap();
    Command::new(program("promtool")).args(arguments).stdin(fs::File::open(path).unwrap()).output().unwrap()
}

fn program(name: &str) -> PathBuf {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers/prometheus/usr/bin");
    let program = env::var_os("WITGATE_PROMETHEUS").map(PathBuf::from).unwrap_or(unpacked).join(name);
    assert!(
        program.exists(),
        "no {name}: scripts/servers.sh unpacks Debian bookworm's under target/servers/prometheus, or set \
         WITGATE_PROMETHEUS to the folder that holds it"
    );
    program
}

fn spawn(folder: &Path, address: SocketAddr, native: bool) -> Child {
    let log = fs::File::create(folder.join("log")).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program("prometheus"));
    command.arg(format!("--web.listen-address={address}")).args([
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        "--log.level=warn",
    ]);
    if native {
        // Asks for the binary format, and leaves the classic buckets for the native ones.
        command.arg("--enable-feature=native-histograms");
    }
    command.current_dir(folder).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().unwrap()
}

//! A real Redis for one test, that keeps nothing. Gone when the value is dropped.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::etcd::free_port;

/// How long Redis may take to start. Only a broken machine needs so long.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Redis {
    child: Child,
    pub address: SocketAddr,
}

impl Redis {
    pub fn start() -> Self {
        // A port that was free may be taken by another test before Redis has it.
        for _ in 0..10 {
            let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
            let mut redis = Self { child: spawn(address.port()), address };
            let started = Instant::now();
            while started.elapsed() < PATIENCE && redis.child.try_wait().unwrap().is_none() {
                if TcpStream::connect(address).is_ok() {
                    return redis;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        panic!("Redis does not start");
    }

    /// Does what these words say, and gives the first line of what it answers.
    pub fn ask(&self, words: &[&str]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let words: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        let count = words.matches('$').count();
        stream.write_all(format!("*{count}\r\n{words}").as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// It keeps its connections and does not answer.
    pub fn freeze(&self) {
        let process = self.child.id().to_string();
        assert!(Command::new("kill").args(["-STOP", &process]).status().unwrap().success());
    }

    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, with nothing in it.
    pub fn restart(&mut self) {
        self.kill9();
        self.child = spawn(self.address.port());
        let started = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            assert!(started.elapsed() < PATIENCE, "Redis does not start again");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn spawn(port: u16) -> Child {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers/redis/usr");
    let named = env::var_os("WITGATE_REDIS").map(PathBuf::from);
    let program = named.unwrap_or(unpacked.join("bin")).join("redis-server");
    assert!(
        program.exists(),
        "no Redis: scripts/servers.sh unpacks Debian bookworm's under target/servers/redis, or set WITGATE_REDIS to \
         the folder that holds it"
    );
    let libraries = unpacked.join(format!("lib/{}-linux-gnu", env::consts::ARCH));
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.env("LD_LIBRARY_PATH", libraries).current_dir(env::temp_dir());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill9();
    }
}

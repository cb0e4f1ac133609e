//! Real rpcx: services that register themselves in etcd, and clients that know nothing but the gateway's address. The program
//! is in `tests/peers/rpcx`. Beside it frames by hand, for what no program of rpcx does.

use std::{collections::BTreeMap, net::SocketAddr};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use witgate::rpcx::frame::Frame;

use super::{
    etcd::{Etcd, free_port},
    peer::{self, Peer},
};

pub struct Rpcx;

impl Peer for Rpcx {
    const PROGRAM: &str = "rpcx";
    type Report = Report;
}

pub type Service = peer::Service<Rpcx>;
pub type Client = peer::Client<Rpcx>;

impl Service {
    /// An instance that has registered itself in this etcd, below `/rpcx`. `flags` are those of `tests/peers/rpcx/server.go`. It
    /// answers when this returns.
    pub async fn start(name: &str, etcd: &Etcd, flags: &[&str]) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Rpcx::command("server");
        command.args(["-name", name, "-listen", &address.to_string(), "-etcd", &etcd.endpoint()]).args(flags);
        Self::run(name, address, command, tempfile::tempdir().unwrap()).await
    }
}

impl Client {
    /// Calls what is at this address. `flags` are those of `tests/peers/rpcx/client.go`.
    pub fn start(gateway: SocketAddr, flags: &[&str]) -> Self {
        let mut command = Rpcx::command("client");
        command.args(["-gateway", &gateway.to_string()]).args(flags);
        Self::spawn(command, tempfile::tempdir().unwrap())
    }

    /// What became of these calls.
    pub async fn run(gateway: SocketAddr, flags: &[&str]) -> Report {
        Self::start(gateway, flags).ended().await
    }
}

/// What became of calls.
#[derive(Debug, Clone, Default, serde::Deserialize)]
pub struct Report {
    /// Calls that went well, by the instance that answered.
    pub servers: BTreeMap<String, u64>,
    /// Calls that did not, by what the client said.
    pub errors: BTreeMap<String, u64>,
    /// The last answer to one that went well.
    pub last: Reply,
}

#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Reply {
    /// Who answered.
    pub server: String,
    /// Calls without an answer that the instance had got by then.
    pub notes: u64,
}

impl Report {
    pub fn ok(&self) -> u64 {
        self.servers.values().sum()
    }

    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// So many calls went well, and no other was made.
    pub fn assert_all_ok(&self, calls: u64) {
        assert_eq!((self.ok(), self.failed()), (calls, 0), "{self:?}");
    }
}

/// A frame by hand.
pub fn frame(flags: u8, number: u64, parts: [&[u8]; 4]) -> Vec<u8> {
    let mut rest = Vec::new();
    for part in parts {
        rest.extend((part.len() as u32).to_be_bytes());
        rest.extend(part);
    }
    let mut frame = vec![0x08, 0, flags, 0x30];
    frame.extend(number.to_be_bytes());
    frame.extend((rest.len() as u32).to_be_bytes());
    frame.extend(rest);
    frame
}

/// One side of a connection, frame by frame.
pub struct Frames {
    pub stream: TcpStream,
    read: BytesMut,
}

impl Frames {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, read: BytesMut::new() }
    }

    pub async fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).await.unwrap())
    }

    /// The next one. None: the peer has closed, or reset the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = Frame::take(&mut self.read, 1 << 25).unwrap() {
                return Some(frame);
            }
            if self.stream.read_buf(&mut self.read).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Calls with this payload.
    pub async fn call(&mut self, number: u64, payload: &[u8]) {
        self.stream.write_all(&frame(0, number, [b"Test", b"Echo", b"", payload])).await.unwrap();
    }

    /// Answers a call with what it has sent.
    pub async fn answer(&mut self, call: Frame) {
        let (number, mut answer) = (call.number(), BytesMut::new());
        call.echo().put(number, &mut answer);
        // Nobody may wait for it any more.
        let _ = self.stream.write_all(&answer).await;
    }
}

/// Why the gateway has answered in the place of an endpoint; none if it has not.
pub fn reason(answer: &Frame) -> Option<String> {
    let error = answer.metadata(b"__rpcx_error__").filter(|_| answer.is_error())?;
    Some(String::from_utf8_lossy(error).split(':').next().unwrap_or_default().to_owned())
}

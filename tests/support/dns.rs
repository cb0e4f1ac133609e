//! A DNS server on a port of its own that answers what a test says.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};

/// What is answered to questions about a name.
#[derive(Debug, Clone, PartialEq)]
pub enum Says {
    /// The addresses of the family asked for, good for so many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// The same, but over UDP only that there is more than fits.
    OverTcp(Vec<IpAddr>, u32),
    NoSuchName,
    NoAddress,
    ServerFailure,
    Silence,
}

/// Names that were not set do not exist. The server ends when it is dropped.
pub struct Dns {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct State {
    says: HashMap<String, Says>,
    asked: HashMap<String, usize>,
}

impl Dns {
    pub async fn start() -> Self {
        let (udp, tcp) = sockets().await;
        let address = udp.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let mut tasks = JoinSet::new();
        let shared = state.clone();
        tasks.spawn(async move {
            let mut query = [0; 4096];
            loop {
                let Ok((length, client)) = udp.recv_from(&mut query).await else { continue };
                if let Some(answer) = answer(&query[..length], &shared, false) {
                    let _ = udp.send_to(&answer, client).await;
                }
            }
        });
        let shared = state.clone();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                while let Ok(length) = stream.read_u16().await {
                    let mut query = vec![0; length.into()];
                    stream.read_exact(&mut query).await.unwrap();
                    let Some(answer) = answer(&query, &shared, true) else { continue };
                    stream.write_u16(answer.len() as u16).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        });
        Self { address, state, _tasks: tasks }
    }

    pub fn set(&self, name: &str, says: Says) {
        self.state.lock().unwrap().says.insert(name.into(), says);
    }

    /// One IPv4 address, good for a second.
    pub fn point(&self, name: &str, ip: &str) {
        self.set(name, Says::Addresses(vec![ip.parse().unwrap()], 1));
    }

    /// How many questions about a name have come.
    pub fn asked(&self, name: &str) -> usize {
        self.state.lock().unwrap().asked.get(name).copied().unwrap_or_default()
    }

    /// The configuration that has a gateway ask here.
    pub fn toml(&self) -> String {
        format!("[resolver]\nservers = [\"{}\"]\n", self.address)
    }
}

/// One port for both.
pub async fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

fn answer(query: &[u8], state: &Mutex<State>, tcp: bool) -> Option<Vec<u8>> {
    let (name, end) = name(query)?;
    let kind = u16::from_be_bytes(query.get(end..end + 2)?.try_into().unwrap());
    let says = {
        let mut state = state.lock().unwrap();
        *state.asked.entry(name.clone()).or_default() += 1;
        state.says.get(&name).cloned().unwrap_or(Says::NoSuchName)
    };
    let (code, truncated, ips, ttl) = match says {
        Says::Silence => return None,
        Says::ServerFailure => (2, false, vec![], 0),
        Says::NoSuchName => (3, false, vec![], 0),
        Says::NoAddress => (0, false, vec![], 0),
        Says::OverTcp(..) if !tcp => (0, true, vec![], 0),
        Says::OverTcp(ips, ttl) | Says::Addresses(ips, ttl) => (0, false, ips, ttl),
    };
    let ips: Vec<IpAddr> = ips.into_iter().filter(|ip| kind == if ip.is_ipv4() { 1 } else { 28 }).collect();
    let mut answer = query[..2].to_vec();
    answer.extend([0x81 | if truncated { 2 } else { 0 }, 0x80 | code, 0, 1, 0, ips.len() as u8, 0, 0, 0, 0]);
    answer.extend(&query[12..end + 4]);
    for ip in ips {
        // The name of the question, of this kind, in the internet.
        answer.extend([0xc0, 12, 0, kind as u8, 0, 1]);
        answer.extend(ttl.to_be_bytes());
        match ip {
            IpAddr::V4(ip) => answer.extend([&[0, 4][..], &ip.octets()].concat()),
            IpAddr::V6(ip) => answer.extend([&[0, 16][..], &ip.octets()].concat()),
        }
    }
    Some(answer)
}

/// The name that is asked about, in lower case, and where it ends.
pub fn name(query: &[u8]) -> Option<(String, usize)> {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*query.get(at)?);
        if length == 0 {
            return Some((labels.join("."), at + 1));
        }
        let label = query.get(at + 1..at + 1 + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += 1 + length;
    }
}

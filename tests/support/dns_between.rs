//! What stands between the gateway and a DNS server: it passes everything on, until a test has it change the answers.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    task::JoinSet,
    time::timeout,
};

use super::dns::{name, sockets};

/// How long the server may take. Who asks waits no longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoiled {
    /// It is passed on.
    No,
    /// It ends in the middle, and over TCP so does the connection.
    Cut,
    /// This is in its place.
    Instead(&'static str),
    /// It has this code, and no records.
    Code(u8),
    /// The same, for questions of this kind.
    CodeFor(u16, u8),
    /// It comes so much later.
    Late(Duration),
    /// It has no records, and points to other servers.
    Referral,
    /// Over UDP it says that there is more than fits, and over TCP nothing is said at all.
    Truncated,
}

/// Stops when it is dropped.
pub struct DnsBetween {
    pub address: SocketAddr,
    plan: Arc<Mutex<Plan>>,
    _tasks: JoinSet<()>,
}

struct Plan {
    to: Option<SocketAddr>,
    spoiled: Spoiled,
    asked: Vec<String>,
    over_tcp: usize,
}

impl DnsBetween {
    /// Passes nothing on yet.
    pub async fn start() -> Self {
        let (udp, tcp) = sockets().await;
        let address = udp.local_addr().unwrap();
        let plan = Plan { to: None, spoiled: Spoiled::No, asked: Vec::new(), over_tcp: 0 };
        let plan = Arc::new(Mutex::new(plan));
        let mut tasks = JoinSet::new();
        let current = plan.clone();
        tasks.spawn(async move {
            let (udp, mut open) = (Arc::new(udp), JoinSet::new());
            let mut query = [0; 4096];
            loop {
                let Ok((length, client)) = udp.recv_from(&mut query).await else { continue };
                let (query, plan, udp) = (query[..length].to_vec(), current.clone(), udp.clone());
                open.spawn(async move {
                    let Some((to, query)) = Plan::take(&plan, query) else { return };
                    if let Some(answer) = by_udp(to, &query).await {
                        let spoiled = plan.lock().unwrap().spoiled;
                        if let Spoiled::Late(late) = spoiled {
                            tokio::time::sleep(late).await;
                        }
                        let _ = udp.send_to(&spoil(answer, spoiled), client).await;
                    }
                });
                while open.try_join_next().is_some() {}
            }
        });
        let current = plan.clone();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = tcp.accept().await {
                let plan = current.clone();
                open.spawn(async move {
                    // An error is the end of the connection.
                    let _ = serve(stream, &plan).await;
                });
            }
        });
        Self { address, plan, _tasks: tasks }
    }

    /// Where everything goes from now on.
    pub fn to(&self, address: SocketAddr) {
        self.plan.lock().unwrap().to = Some(address);
    }

    /// What becomes of answers from now on, those on their way included.
    pub fn does(&self, spoiled: Spoiled) {
        self.plan.lock().unwrap().spoiled = spoiled;
    }

    /// The names that were asked for, in order.
    pub fn asked(&self) -> Vec<String> {
        self.plan.lock().unwrap().asked.clone()
    }

    /// How many of the questions came over TCP.
    pub fn over_tcp(&self) -> usize {
        self.plan.lock().unwrap().over_tcp
    }
}

impl Plan {
    /// Notes a question, and says where it goes.
    fn take(plan: &Mutex<Self>, query: Vec<u8>) -> Option<(SocketAddr, Vec<u8>)> {
        let mut plan = plan.lock().unwrap();
        plan.asked.push(name(&query)?.0);
        Some((plan.to?, query))
    }
}

async fn by_udp(to: SocketAddr, query: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.ok()?;
    socket.connect(to).await.ok()?;
    socket.send(query).await.ok()?;
    let mut answer = vec![0; 65_535];
    let length = timeout(PATIENCE, socket.recv(&mut answer)).await.ok()?.ok()?;
    answer.truncate(length);
    Some(answer)
}

async fn serve(mut stream: TcpStream, plan: &Mutex<Plan>) -> std::io::Result<()> {
    while let Ok(length) = stream.read_u16().await {
        let mut query = vec![0; length.into()];
        stream.read_exact(&mut query).await?;
        let Some((to, query)) = Plan::take(plan, query) else { return Ok(()) };
        plan.lock().unwrap().over_tcp += 1;
        let answer = timeout(PATIENCE, by_tcp(to, &query)).await??;
        let spoiled = plan.lock().unwrap().spoiled;
        if spoiled == Spoiled::Truncated {
            return Ok(());
        }
        let whole = answer.len() as u16;
        let answer = spoil(answer, spoiled);
        let cut = spoiled == Spoiled::Cut;
        stream.write_u16(if cut { whole } else { answer.len() as u16 }).await?;
        stream.write_all(&answer).await?;
        if cut {
            return stream.shutdown().await;
        }
    }
    Ok(())
}

async fn by_tcp(to: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(to).await?;
    server.write_u16(query.len() as u16).await?;
    server.write_all(query).await?;
    let mut answer = vec![0; server.read_u16().await?.into()];
    server.read_exact(&mut answer).await?;
    Ok(answer)
}

fn spoil(answer: Vec<u8>, spoiled: Spoiled) -> Vec<u8> {
    match spoiled {
        Spoiled::No | Spoiled::Late(_) => answer,
        Spoiled::Cut => answer[..answer.len() / 2].to_vec(),
        Spoiled::Instead(text) => text.into(),
        Spoiled::Code(code) => bare(&answer, 0, code),
        Spoiled::CodeFor(kind, code) => {
            let (_, end) = name(&answer).unwrap();
            if answer[end..end + 2] == kind.to_be_bytes() { bare(&answer, 0, code) } else { answer }
        }
        Spoiled::Truncated => bare(&answer, 0x02, 0),
        Spoiled::Referral => {
            let mut answer = bare(&answer, 0, 0);
            // One record about who answers: for the name of the question, of the kind NS, the root.
            answer[9] = 1;
            answer.extend([0xc0, 12, 0, 2, 0, 1, 0, 0, 0, 1, 0, 1, 0]);
            answer
        }
    }
}

/// The question of an answer, without its records.
fn bare(answer: &[u8], flags: u8, code: u8) -> Vec<u8> {
    let (_, end) = name(answer).unwrap();
    let mut bare = answer[..end + 4].to_vec();
    // What the server says of itself is not what this says: no authority.
    (bare[2], bare[3]) = (0x81 | flags, code);
    bare[6..12].fill(0);
    bare
}

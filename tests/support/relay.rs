//! What stands between the gateway and a registry of any protocol over TCP: it passes every byte on, until a test has
//! it change what the registry says.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    task::JoinSet,
};

/// What becomes of what the registry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relaying {
    /// It is passed on.
    All,
    /// Half of a piece of it, and then the connection ends.
    Half,
    /// This is said in its place.
    Instead(Vec<u8>),
}

/// Stops when it is dropped.
pub struct Relay {
    pub address: SocketAddr,
    plan: Arc<Mutex<Plan>>,
    _accepting: JoinSet<()>,
}

struct Plan {
    to: Option<SocketAddr>,
    relaying: Relaying,
    /// Those that there are now.
    open: JoinSet<()>,
}

impl Relay {
    /// Passes nothing on yet: connections end at once.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let plan = Plan { to: None, relaying: Relaying::All, open: JoinSet::new() };
        let plan = Arc::new(Mutex::new(plan));
        let (mut accepting, current) = (JoinSet::new(), plan.clone());
        accepting.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let of_all = current.clone();
                let mut plan = current.lock().unwrap();
                if let Some(to) = plan.to {
                    plan.open.spawn(async move {
                        // An error is the end of one side, and then of the other.
                        let _ = relay(client, to, &of_all).await;
                    });
                }
            }
        });
        Self { address, plan, _accepting: accepting }
    }

    /// Where everything goes from now on.
    pub fn to(&self, address: SocketAddr) {
        self.plan.lock().unwrap().to = Some(address);
    }

    /// What becomes of what the registry says from now on.
    pub fn does(&self, relaying: Relaying) {
        self.plan.lock().unwrap().relaying = relaying;
    }

    /// All connections end, and until the next [`to`](Self::to) new ones do, too.
    pub fn cut(&self) {
        let mut plan = self.plan.lock().unwrap();
        plan.to = None;
        plan.open.abort_all();
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        let open = &mut self.plan.lock().unwrap().open;
        while open.try_join_next().is_some() {}
        open.len()
    }
}

async fn relay(client: TcpStream, to: SocketAddr, plan: &Mutex<Plan>) -> std::io::Result<()> {
    let server = TcpStream::connect(to).await?;
    // What is passed on is late by nothing.
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut asks, says) = client.into_split();
    let (hears, mut asked) = server.into_split();
    tokio::select! {
        said = say(hears, says, plan) => said,
        asked = tokio::io::copy(&mut asks, &mut asked) => asked.map(drop),
    }
}

async fn say(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, plan: &Mutex<Plan>) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let relaying = plan.lock().unwrap().relaying.clone();
        match relaying {
            Relaying::All => to.write_all(&buffer[..read]).await?,
            Relaying::Half => return to.write_all(&buffer[..read / 2]).await,
            Relaying::Instead(bytes) => to.write_all(&bytes).await?,
        }
    }
}

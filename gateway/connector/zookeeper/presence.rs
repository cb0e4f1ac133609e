//! A session of its own, and the only way to write: what is written goes away with it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{
    Client, Session, at,
    error::{Error, code},
    session::{Farewell, Reply},
    wire::{Body, Data, Reader, op},
};
use crate::registry::Failure;

/// Nodes that go away with their session, and the path that leads to them, which stays.
const EPHEMERAL: i32 = 1;
const PERSISTENT: i32 = 0;

/// What everybody may do with what is written: all, or no more than read it where the gateway is somebody.
const ALL: i32 = 31;
const READ: i32 = 1;

/// Times that a node is tried to be written while others change what is in the way.
const TRIES: usize = 5;

/// Dropping it ends nothing: ZooKeeper does that, when its timeout is over.
pub struct Presence {
    client: Arc<Client>,
    session: Session,
    /// By us, and the server has said so.
    closed: AtomicBool,
}

impl Presence {
    pub(super) async fn open(client: Arc<Client>, timeout_seconds: u32) -> Result<Self, Failure> {
        if timeout_seconds == 0 {
            return Err(Failure::Invalid("a session of 0 seconds".into()));
        }
        let timeout = Duration::from_secs(timeout_seconds.into());
        let session = client.connect(timeout, Farewell::None).await?;
        Ok(Self { client, session, closed: AtomicBool::default() })
    }

    pub fn id(&self) -> i64 {
        self.session.id()
    }

    /// The seconds that it lives on when nothing is heard of it, at least 1; 0 when it has ended.
    pub fn alive(&self) -> u32 {
        let seconds = u32::try_from(self.session.timeout().as_secs()).unwrap_or(u32::MAX);
        if self.session.has_ended() { 0 } else { seconds.max(1) }
    }

    /// Writes a node that goes away with this session, in place of whatever is there.
    pub async fn put(&self, path: &str, data: &[u8]) -> Result<(), Failure> {
        for _ in 0..TRIES {
            match self.try_put(path, data).await {
                // Somebody was in the way, or went away meanwhile.
                Err(Error::Code(code::NODE_EXISTS | code::NO_NODE)) => {}
                Err(error) => return Err(self.failed(&error, path).await),
                Ok(()) => return Ok(()),
            }
        }
        Err(Failure::Unavailable(format!("ZooKeeper: {path} is changed by others all the time")))
    }

    async fn try_put(&self, path: &str, data: &[u8]) -> Result<(), Error> {
        let node = self.node(path, data, EPHEMERAL);
        match self.ask(op::CREATE, &node).await {
            Err(Error::Code(code::NO_NODE)) => {
                self.make_way(path).await?;
                self.ask(op::CREATE, &node).await.map(drop)
            }
            Err(Error::Code(code::NODE_EXISTS)) => {
                let found = Data::read(&self.ask(op::DATA, &Body::unwatched(path)).await?.0)?;
                if found.stat.owner == self.id() {
                    return self
                        .ask(op::SET_DATA, &Body::default().text(path).bytes(data).int(-1))
                        .await
                        .map(drop);
                }
                let writes = [(op::DELETE, Body::default().text(path).int(-1)), (op::CREATE, node)];
                let Reply(results) = self.ask(op::MULTI, &Body::multi(&writes)).await?;
                match Reader(&results).first_error()? {
                    0 => Ok(()),
                    code => Err(Error::Code(code)),
                }
            }
            made => made.map(drop),
        }
    }

    /// Makes the nodes above, those that are not there.
    async fn make_way(&self, path: &str) -> Result<(), Error> {
        for (at, _) in path.match_indices('/').skip(1) {
            match self.ask(op::CREATE, &self.node(&path[..at], b"", PERSISTENT)).await {
                Ok(_) | Err(Error::Code(code::NODE_EXISTS)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn node(&self, path: &str, data: &[u8], kind: i32) -> Body {
        let node = Body::default().text(path).bytes(data);
        // Others register there, too: what leads to a node is everybody's.
        let owned = self.client.granted().credential.is_some() && kind == EPHEMERAL;
        let node = match owned {
            false => node.int(1).int(ALL).text("world").text("anyone"),
            true => node.int(2).int(ALL).text("auth").text("").int(READ).text("world").text("anyone"),
        };
        node.int(kind)
    }

    /// The data of a node and whose it is, if there is one.
    pub async fn get(&self, path: &str) -> Result<Option<Data>, Failure> {
        let read = match self.ask(op::DATA, &Body::unwatched(path)).await {
            Ok(Reply(bytes)) => Data::read(&bytes).map(Some).map_err(Error::from),
            Err(Error::Code(code::NO_NODE)) => Ok(None),
            Err(error) => Err(error),
        };
        match read {
            Ok(read) => Ok(read),
            Err(error) => Err(self.failed(&error, path).await),
        }
    }

    /// Ends it, and with it what was written. It may be asked for again when that was done.
    pub async fn end(&self) -> Result<(), Failure> {
        if self.closed.load(Relaxed) {
            return Ok(());
        }
        // Also one that is not to be used any more: as long as its connection is there, it stays.
        match self.ask(op::CLOSE, &Body::default()).await {
            Ok(_) | Err(Error::Code(code::SESSION_EXPIRED)) => {
                self.closed.store(true, Relaxed);
                self.session.end();
                Ok(())
            }
            Err(Error::Broken(text)) => {
                self.session.end();
                let goes = format!("{text}; what was written goes within {:?}", self.session.granted());
                Err(Failure::Unavailable(at(self.session.endpoint(), &goes)))
            }
            Err(error) => Err(self.failed(&error, "session").await),
        }
    }

    async fn ask(&self, op: i32, body: &Body) -> Result<Reply, Error> {
        self.session.ask(op, body).answer().await
    }

    async fn failed(&self, error: &Error, what: &str) -> Failure {
        self.client.failed(&self.session, error, what).await
    }
}

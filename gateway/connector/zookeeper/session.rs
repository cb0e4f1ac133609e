//! One connection to one server, which is one session: it ends with its connection, and another takes its place.
//!
//! ZooKeeper would let a session go on over another connection. Then watches would have to be set anew, and what
//! changed meanwhile be read: no less work than with a session of its own, and more ways to miss something.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Notify, mpsc, oneshot},
    time::timeout,
};

use super::{
    Grant,
    error::Error,
    wire::{Body, Connected, Event, Head, Reader, first_frame, op, xid},
};
use crate::{
    connector::{
        lock,
        sessions::{self, Ended},
    },
    net,
    tls::{self, HandshakeError, Protocol},
};

/// Names that are remembered for one who follows; of more, everything is read again.
const MOST_NAMES: usize = 100_000;

/// How long a session that nobody uses any more may take to say so.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the server hears when nobody uses a session any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// That it is over.
    Said,
    /// Nothing: it goes on until its timeout is over, and with it what was written.
    None,
}

/// Dropping it ends the session, or leaves that to the server.
pub struct Session {
    endpoint: String,
    frames: mpsc::UnboundedSender<Vec<u8>>,
    state: Arc<Mutex<State>>,
    id: i64,
    patience: Duration,
    /// Whom it was said last to be.
    said: Mutex<Option<String>>,
    ended: Ended,
}

/// What waits for the server.
#[derive(Default)]
struct State {
    xid: i32,
    /// In the order in which answers come.
    asked: VecDeque<(i32, oneshot::Sender<Result<Reply, Error>>)>,
    /// Who follows the children of a node, by its path.
    followed: HashMap<String, Vec<Arc<Changes>>>,
    /// Why there will be no more answers.
    over: Option<Error>,
}

/// An answer without its head.
pub struct Reply(pub Vec<u8>);

/// An answer to come. Dropping it takes nothing back.
pub struct Asked {
    answer: oneshot::Receiver<Result<Reply, Error>>,
    patience: Duration,
}

impl Asked {
    /// Waits for it, no longer than a server that works takes.
    pub async fn answer(self) -> Result<Reply, Error> {
        match timeout(self.patience, self.answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Error::Broken("the session has ended".into())),
            Err(_) => Err(Error::Broken(format!("no answer within {:?}", self.patience))),
        }
    }
}

impl Session {
    /// Connects, and waits until there is a session. `secret` is that of the digest scheme, `user:password`.
    pub async fn open(
        endpoint: &str,
        grant: &Grant,
        tls: Option<&tls::Client>,
        secret: Option<&str>,
        farewell: Farewell,
    ) -> Result<Self, Error> {
        let limit = grant.connect_timeout;
        let opened = timeout(limit, Self::dial(endpoint, grant, tls, farewell)).await;
        let session = opened.map_err(|_| Error::Broken(format!("no session within {limit:?}")))??;
        if let Some(secret) = secret {
            session.authenticate(secret).await?;
        }
        Ok(session)
    }

    async fn dial(
        endpoint: &str,
        grant: &Grant,
        tls: Option<&tls::Client>,
        farewell: Farewell,
    ) -> Result<Self, Error> {
        let (host, _) = endpoint.rsplit_once(':').unwrap_or((endpoint, ""));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        // An address of the host that takes the connection.
        let socket = TcpStream::connect(endpoint).await.map_err(Error::from)?;
        net::prepare(&socket)?;
        let address = socket.peer_addr()?.ip();
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(socket),
            Some(tls) => {
                let name = host.parse::<IpAddr>().is_err().then_some(host);
                Box::new(tls.connect(socket, address, name, Protocol::Any).await?)
            }
        };
        Self::begin(endpoint, grant, stream, farewell).await
    }

    async fn begin(
        endpoint: &str,
        grant: &Grant,
        mut stream: Box<dyn Stream>,
        farewell: Farewell,
    ) -> Result<Self, Error> {
        let (limit, wanted) = (grant.connect_timeout, grant.session_timeout.as_millis());
        let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
        stream.write_all(&Body::connect(wanted).framed()).await?;
        let mut buffer = BytesMut::new();
        let frame = next_frame(&mut stream, &mut buffer, limit).await?;
        let Connected { timeout, session } = Connected::read(&frame)?;
        let patience = Duration::from_millis(u64::try_from(timeout).unwrap_or(0));
        if patience.is_zero() {
            return Err(Error::Broken("the server gave no session".into()));
        }
        let (frames, to_write) = mpsc::unbounded_channel();
        let (state, ended) = (Arc::<Mutex<State>>::default(), Ended::default());
        let (served, over) = (state.clone(), ended.clone());
        tokio::spawn(async move {
            let error = serve(stream, buffer, to_write, &served, patience, farewell).await;
            over.set();
            State::end(&served, error);
        });
        Ok(Self {
            endpoint: endpoint.to_owned(),
            frames,
            state,
            id: session,
            patience,
            said: Mutex::default(),
            ended,
        })
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What ZooKeeper calls it, and the owner of nodes that go away with it.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// How long the server keeps it when nothing is heard of it.
    pub fn timeout(&self) -> Duration {
        self.patience
    }

    /// What is asked next takes another session.
    pub fn end(&self) {
        self.ended.set();
    }

    pub fn has_ended(&self) -> bool {
        self.ended.is_set()
    }

    /// Says who the gateway is, beside whom it was before: ZooKeeper lets a session be several.
    pub async fn authenticate(&self, secret: &str) -> Result<(), Error> {
        self.send(xid::AUTH, op::AUTH, &Body::auth("digest", secret.as_bytes())).answer().await?;
        *lock(&self.said) = Some(secret.to_owned());
        Ok(())
    }

    pub fn has_said(&self, secret: &str) -> bool {
        lock(&self.said).as_deref() == Some(secret)
    }

    /// Asks at once; the answers come in the order of the questions.
    pub fn ask(&self, op: i32, body: &Body) -> Asked {
        let number = {
            let mut state = lock(&self.state);
            // Numbers of our own are above 0.
            state.xid = state.xid.checked_add(1).unwrap_or(1);
            state.xid
        };
        self.send(number, op, body)
    }

    fn send(&self, number: i32, op: i32, body: &Body) -> Asked {
        let (answer, receiver) = oneshot::channel();
        let mut state = lock(&self.state);
        match &state.over {
            Some(error) => drop(answer.send(Err(error.clone()))),
            None => {
                state.asked.push_back((number, answer));
                // Within the lock, so that the order is the same. If nobody writes any more, `over` comes soon.
                let _ = self.frames.send(Body::request(number, op, body));
            }
        }
        Asked { answer: receiver, patience: self.patience }
    }

    /// Follows the children of a node, whether it is there or not. What is asked afterwards misses nothing.
    pub fn watch(self: &Arc<Self>, path: &str) -> (Watch, Asked) {
        let changes = Arc::<Changes>::default();
        lock(&self.state).followed.entry(path.to_owned()).or_default().push(changes.clone());
        // Once more where somebody follows it already: it costs nothing, and tells whether it can be done.
        let asked = self.ask(op::ADD_WATCH, &Body::add_watch(path));
        (Watch { session: self.clone(), path: path.to_owned(), changes }, asked)
    }
}

impl sessions::Session for Session {
    fn ended(&self) -> &Ended {
        &self.ended
    }
}

/// The changes of a node's children. Dropping it ends that.
pub struct Watch {
    session: Arc<Session>,
    path: String,
    changes: Arc<Changes>,
}

/// What has changed and was not read yet.
#[derive(Default)]
struct Changes {
    news: Mutex<News>,
    told: Notify,
}

/// What a watch has heard.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Of children that came, went or changed.
    pub names: BTreeSet<String>,
    /// More has changed than names were remembered, or the session has ended.
    pub missed: bool,
}

impl Watch {
    /// Waits until there are news.
    pub async fn changed(&self) {
        self.changes.told.notified().await;
    }

    pub fn take(&self) -> News {
        std::mem::take(&mut *lock(&self.changes.news))
    }

    pub fn is_empty(&self) -> bool {
        *lock(&self.changes.news) == News::default()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = lock(&self.session.state);
        let Some(followers) = state.followed.get_mut(&self.path) else { return };
        followers.retain(|follower| !Arc::ptr_eq(follower, &self.changes));
        let last = followers.is_empty();
        if last {
            state.followed.remove(&self.path);
        }
        drop(state);
        if last && !self.session.has_ended() {
            drop(self.session.ask(op::REMOVE_WATCHES, &Body::remove_watches(&self.path)));
        }
    }
}

impl Changes {
    fn note(&self, name: &str) {
        let mut news = lock(&self.news);
        if news.names.len() < MOST_NAMES {
            news.names.insert(name.to_owned());
        } else {
            news.missed = true;
        }
        drop(news);
        self.told.notify_one();
    }

    fn miss(&self) {
        lock(&self.news).missed = true;
        self.told.notify_one();
    }
}

impl State {
    fn heard(state: &Mutex<Self>, frame: &[u8]) -> Result<(), Error> {
        let mut reader = Reader(frame);
        let head = Head::read(&mut reader)?;
        match head.xid {
            xid::EVENT => {
                let event = Event::read(&mut reader)?;
                if let Some((parent, name)) = event.place() {
                    let state = lock(state);
                    let followers = state.followed.get(parent).into_iter().flatten();
                    followers.for_each(|changes| changes.note(name));
                }
            }
            xid::PING => {}
            number => {
                let next = lock(state).asked.pop_front();
                let Some((_, answer)) = next.filter(|(asked, _)| *asked == number) else {
                    return Err(Error::Broken(format!(
                        "an answer to a question {number} that was not asked"
                    )));
                };
                let answered = match head.code {
                    0 => Ok(Reply(reader.0.to_vec())),
                    code => Err(Error::Code(code)),
                };
                // Who asked may have left.
                let _ = answer.send(answered);
            }
        }
        Ok(())
    }

    /// Everybody hears of it.
    fn end(state: &Mutex<Self>, error: Error) {
        let mut state = lock(state);
        for (_, answer) in state.asked.drain(..) {
            let _ = answer.send(Err(error.clone()));
        }
        state.followed.values().flatten().for_each(|changes| changes.miss());
        state.over = Some(error);
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Reads and writes until one of both ends, and says why. The other end is heard from every third of the session's
/// timeout, or is gone when two thirds are over.
async fn serve(
    stream: Box<dyn Stream>,
    mut buffer: BytesMut,
    frames: mpsc::UnboundedReceiver<Vec<u8>>,
    state: &Mutex<State>,
    session_timeout: Duration,
    farewell: Farewell,
) -> Error {
    let (mut reading, writing) = tokio::io::split(stream);
    let silence = session_timeout * 2 / 3;
    let read = async {
        loop {
            let frame = next_frame(&mut reading, &mut buffer, silence).await;
            if let Err(error) = frame.and_then(|frame| State::heard(state, &frame)) {
                return error;
            }
        }
    };
    let mut read = std::pin::pin!(read);
    let written = tokio::select! {
        error = &mut read => return error,
        written = write(writing, frames, session_timeout / 3, farewell) => written,
    };
    match written {
        Err(error) => error,
        Ok(()) if farewell == Farewell::None => Error::Broken("nobody uses the session".into()),
        // The server closes the connection when it has heard it.
        Ok(()) => match timeout(FAREWELL, read).await {
            Ok(error) => error,
            Err(_) => Error::Broken("nobody uses the session".into()),
        },
    }
}

/// Until nobody uses the session any more, which the server is told then if it is to be.
async fn write(
    mut stream: impl AsyncWrite + Unpin,
    mut frames: mpsc::UnboundedReceiver<Vec<u8>>,
    ping: Duration,
    farewell: Farewell,
) -> Result<(), Error> {
    loop {
        let next = timeout(ping, frames.recv()).await;
        let over = matches!(next, Ok(None));
        let mut bytes = match next {
            Ok(Some(frame)) => frame,
            Ok(None) if farewell == Farewell::None => return Ok(()),
            Ok(None) => Body::request(0, op::CLOSE, &Body::default()),
            Err(_) => Body::request(xid::PING, op::PING, &Body::default()),
        };
        while let Ok(frame) = frames.try_recv() {
            bytes.extend(frame);
        }
        stream.write_all(&bytes).await?;
        stream.flush().await?;
        if over {
            return Ok(());
        }
    }
}

/// Waits for a frame from a server that is never silent for so long. Dropping the future loses nothing: what was read
/// is in the buffer.
async fn next_frame(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    silence: Duration,
) -> Result<BytesMut, Error> {
    loop {
        if let Some(length) = first_frame(buffer)? {
            buffer.advance(4);
            return Ok(buffer.split_to(length));
        }
        let read = timeout(silence, stream.read_buf(buffer)).await;
        if read.map_err(|_| Error::Broken(format!("silent for {silence:?}")))?? == 0 {
            return Err(Error::Broken("the server closed the connection".into()));
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<HandshakeError> for Error {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::NotBelieved(_) => Self::NotBelieved(error.to_string()),
            error => Self::Broken(error.to_string()),
        }
    }
}

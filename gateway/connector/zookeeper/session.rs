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

/// Names that are remembered for one who follows, and their bytes; of more, everything is read again.
const MOST_NAMES: usize = 100_000;
const MOST_BYTES: usize = 32 << 20;

/// How long a server is waited for at most that gives longer sessions than it was asked for.
const LONGEST_PATIENCE: Duration = Duration::from_secs(60);

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
    granted: Duration,
    /// How long answers are waited for, and a server that is silent.
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
    asked: VecDeque<(i32, Answer)>,
    /// Who follows the children of a node, by its path.
    followed: HashMap<String, Vec<Arc<Changes>>>,
    /// Why there will be no more answers.
    over: Option<Error>,
}

type Answer = oneshot::Sender<Result<Reply, Error>>;

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
    /// Connects, and waits until there is a session and the server knows who the gateway is. `secret` is that of the
    /// digest scheme, `user:password`.
    pub async fn open(
        endpoint: &str,
        grant: &Grant,
        tls: Option<&tls::Client>,
        secret: Option<&str>,
        farewell: Farewell,
    ) -> Result<Self, Error> {
        let opened = async {
            let session = Self::dial(endpoint, grant, tls, farewell).await?;
            if let Some(secret) = secret {
                session.authenticate(secret).await?;
            }
            Ok(session)
        };
        let limit = grant.connect_timeout;
        let late = |_| Err(Error::Broken(format!("no session within {limit:?}")));
        timeout(limit, opened).await.unwrap_or_else(late)
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
        let granted = Duration::from_millis(u64::try_from(timeout).unwrap_or(0));
        if granted.is_zero() {
            return Err(Error::Broken("the server gave no session".into()));
        }
        let patience = granted.min(LONGEST_PATIENCE.max(grant.session_timeout));
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
            granted,
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
    pub fn granted(&self) -> Duration {
        self.granted
    }

    /// The same, where that is not longer than anybody waits.
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
        let body = Body::auth("digest", secret.as_bytes());
        let asked = self.send(&mut lock(&self.state), xid::AUTH, op::AUTH, &body);
        asked.answer().await?;
        *lock(&self.said) = Some(secret.to_owned());
        Ok(())
    }

    pub fn has_said(&self, secret: &str) -> bool {
        lock(&self.said).as_deref() == Some(secret)
    }

    /// Asks at once; the answers come in the order of the questions.
    pub fn ask(&self, op: i32, body: &Body) -> Asked {
        self.ask_within(&mut lock(&self.state), op, body)
    }

    fn ask_within(&self, state: &mut State, op: i32, body: &Body) -> Asked {
        // Numbers of our own are above 0.
        state.xid = state.xid.checked_add(1).unwrap_or(1);
        self.send(state, state.xid, op, body)
    }

    /// The state is locked, so that what is asked is sent in the order in which it is noted there.
    fn send(&self, state: &mut State, number: i32, op: i32, body: &Body) -> Asked {
        let (answer, receiver) = oneshot::channel();
        match &state.over {
            Some(error) => drop(answer.send(Err(error.clone()))),
            None => {
                state.asked.push_back((number, answer));
                // If nobody writes any more, `over` comes soon.
                let _ = self.frames.send(Body::request(number, op, body));
            }
        }
        Asked { answer: receiver, patience: self.patience }
    }

    /// Follows the children of a node, whether it is there or not. What is asked afterwards misses nothing.
    pub fn watch(self: &Arc<Self>, path: &str) -> (Watch, Asked) {
        let changes = Arc::<Changes>::default();
        let mut state = lock(&self.state);
        state.followed.entry(path.to_owned()).or_default().push(changes.clone());
        // Once more where somebody follows it already: it costs nothing, and tells whether it can be done. And within
        // the lock, so that what the last follower before has removed is removed before.
        let asked = self.ask_within(&mut state, op::ADD_WATCH, &Body::add_watch(path));
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
    /// Of the names.
    bytes: usize,
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
        if !followers.is_empty() {
            return;
        }
        state.followed.remove(&self.path);
        if !self.session.has_ended() {
            let body = Body::remove_watches(&self.path);
            drop(self.session.ask_within(&mut state, op::REMOVE_WATCHES, &body));
        }
    }
}

impl Changes {
    fn note(&self, name: &str) {
        lock(&self.news).note(name);
        self.told.notify_one();
    }

    fn miss(&self) {
        lock(&self.news).miss();
        self.told.notify_one();
    }
}

impl News {
    fn note(&mut self, name: &str) {
        if self.missed || !self.names.insert(name.to_owned()) {
            return;
        }
        self.bytes += name.len();
        if self.names.len() > MOST_NAMES || self.bytes > MOST_BYTES {
            self.miss();
        }
    }

    /// Names are of no use to who reads everything again.
    fn miss(&mut self) {
        *self = Self { missed: true, ..Self::default() };
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
                let Some(answer) = lock(state).answered(number) else {
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

    /// Who asked that. Answers come in the order of the questions, but for who the gateway is: ZooKeeper answers that
    /// at once.
    fn answered(&mut self, number: i32) -> Option<Answer> {
        let place = match number {
            xid::AUTH => self.asked.iter().position(|(asked, _)| *asked == number)?,
            _ => 0,
        };
        self.asked.remove(place).filter(|(asked, _)| *asked == number).map(|(_, answer)| answer)
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
        let sent = async {
            stream.write_all(&bytes).await?;
            stream.flush().await
        };
        // Without that, one that goes on sending and takes nothing would never be given up.
        let limit = ping * 2;
        timeout(limit, sent).await.map_err(|_| Error::Broken(format!("takes nothing for {limit:?}")))??;
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

#[cfg(test)]
mod tests {
    use tokio::{
        io::{DuplexStream, duplex},
        time::Instant,
    };

    use super::*;

    const SESSION: Duration = Duration::from_secs(30);

    /// Speaks for a server.
    struct Server {
        stream: DuplexStream,
        buffer: BytesMut,
    }

    impl Server {
        async fn frame(&mut self) -> BytesMut {
            next_frame(&mut self.stream, &mut self.buffer, Duration::from_secs(3600)).await.unwrap()
        }

        async fn send(&mut self, body: Body) -> io::Result<()> {
            self.stream.write_all(&body.framed()).await
        }
    }

    /// A session of so many milliseconds.
    async fn session(granted: i32) -> (Arc<Session>, Server) {
        let (ours, theirs) = duplex(64);
        let mut server = Server { stream: theirs, buffer: BytesMut::new() };
        let grant = Grant {
            servers: Vec::new(),
            credential: None,
            tls: None,
            connect_timeout: Duration::from_secs(1),
            session_timeout: SESSION,
        };
        let given = async {
            server.frame().await;
            server.send(Body::default().int(0).int(granted).long(7).bytes(&[0; 16])).await.unwrap();
        };
        let begun = Session::begin("server", &grant, Box::new(ours), Farewell::Said);
        let (session, ()) = tokio::join!(begun, given);
        (Arc::new(session.unwrap()), server)
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_gives_a_session_of_weeks_is_not_waited_for_so_long() {
        let (session, _server) = session(i32::MAX).await;
        let start = Instant::now();
        let answer = session.ask(op::DATA, &Body::unwatched("/a")).answer().await;
        assert!(matches!(answer, Err(Error::Broken(_))));
        assert!(start.elapsed() <= LONGEST_PATIENCE, "{:?}", start.elapsed());
        assert!(session.timeout() <= LONGEST_PATIENCE);
    }

    #[test]
    fn names_that_nobody_reads_are_forgotten_when_there_are_too_many_or_they_are_too_long() {
        let missed = News { missed: true, ..News::default() };
        for (length, most) in [(8, MOST_NAMES), (MOST_BYTES / 16, 16)] {
            let mut news = News::default();
            for number in 0..most {
                let name = format!("{number:08}{}", "a".repeat(length - 8));
                news.note(&name);
                news.note(&name);
            }
            assert_eq!((news.names.len(), news.missed), (most, false), "the same name counts once");
            news.note("one more");
            assert_eq!(news, missed);
            news.note("and another");
            assert_eq!(news, missed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_speaks_and_takes_nothing_is_given_up() {
        let (session, mut server) = session(30_000).await;
        let start = Instant::now();
        let _asked = session.ask(op::DATA, &Body::unwatched(&"a".repeat(1000)));
        while !session.has_ended() {
            assert!(start.elapsed() <= SESSION, "{:?}", start.elapsed());
            tokio::time::sleep(Duration::from_secs(1)).await;
            let _ = server.send(Body::default().int(xid::PING).long(0).int(0)).await;
        }
    }

    /// One who is denied something says who the gateway is while others ask.
    #[tokio::test]
    async fn the_answer_to_who_the_gateway_is_may_come_before_earlier_ones() {
        let (session, mut server) = session(30_000).await;
        let read = session.ask(op::DATA, &Body::unwatched("/a"));
        let answers = async {
            for _ in 0..2 {
                server.frame().await;
            }
            for number in [xid::AUTH, 1] {
                server.send(Body::default().int(number).long(0).int(0)).await.unwrap();
            }
        };
        let (said, ()) = tokio::join!(session.authenticate("user:password"), answers);
        assert_eq!(said, Ok(()));
        assert!(read.answer().await.is_ok());
        assert!(!session.has_ended());
    }
}

//! Clients that send all the time, and count what they get.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    ops::Add,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use tokio::task::JoinSet;

use super::{
    backend,
    gateway::PATIENCE,
    session::{Answer, Session, Upload},
};

/// Between the requests of one client: enough of them for any fault to be met, and time for everybody else.
const PAUSE: Duration = Duration::from_millis(5);

/// A request that has no answer by then has failed, whatever comes later.
const LIMIT: Duration = Duration::from_secs(60);

/// Failures whose text is kept.
const TOLD: usize = 5;

/// Clients at work. They stop when this is dropped.
pub struct Traffic {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
    failed: AtomicU64,
    failures: Mutex<Vec<String>>,
    slowest: Mutex<Duration>,
    last_failed: Mutex<Option<Instant>>,
    /// When the latest request was sent that this one answered, and how many it answered.
    answered: Mutex<BTreeMap<String, (Instant, u64)>>,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub sent: u64,
    pub failed: u64,
    /// The first few.
    pub failures: Vec<String>,
    pub slowest: Duration,
}

impl Traffic {
    /// So many clients, each with a connection that it keeps, ask for `path` again and again.
    pub fn start(address: SocketAddr, path: &str, clients: usize) -> Self {
        Self::sending(address, path, clients, |_| Kind::Get)
    }

    /// So many clients that send what clients send: mostly GET, bodies from nothing to 1 MB whose length is said or
    /// not, and answers of up to 1 MB. Backends that say what they have received are held to it.
    pub fn mixed(address: SocketAddr, path: &str, clients: usize) -> Self {
        Self::sending(address, path, clients, Kind::of)
    }

    fn sending(address: SocketAddr, path: &str, clients: usize, kind: fn(u64) -> Kind) -> Self {
        let shared = Arc::new(Shared::default());
        let path: Arc<str> = path.into();
        // Not all of them with the same at the same time.
        let client =
            |number| send(shared.clone(), Session::new(address), path.clone(), kind, 7 * number as u64);
        Self { clients: (0..clients).map(client).collect(), shared }
    }

    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Relaxed)
    }

    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Relaxed)
    }

    /// How long after `since` the last request was sent that failed, or that one of these answered.
    pub fn last_wrong(&self, since: Instant, wrong: &[&str]) -> Duration {
        let answered = self.shared.answered.lock().unwrap();
        let answered = wrong.iter().filter_map(|name| answered.get(*name)).map(|(sent, _)| *sent);
        let last = answered.chain(*self.shared.last_failed.lock().unwrap()).max();
        last.map_or(Duration::ZERO, |last| last.saturating_duration_since(since))
    }

    /// Requests that were answered by this one.
    pub fn answered_by(&self, name: &str) -> u64 {
        self.shared.answered.lock().unwrap().get(name).map_or(0, |(_, count)| *count)
    }

    /// Waits for a request, sent from now on, that `name` answers; says how long after `since` it was sent.
    pub async fn reaches(&self, name: &str, since: Instant) -> Duration {
        let asked = Instant::now();
        loop {
            let answered = self.shared.answered.lock().unwrap().get(name).copied();
            if let Some((sent, _)) = answered
                && sent >= asked
            {
                return sent.saturating_duration_since(since);
            }
            assert!(
                asked.elapsed() < PATIENCE,
                "{name} answers nothing within {PATIENCE:?}: {}",
                self.tally()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until so many more requests were sent.
    pub async fn more(&self, requests: u64) {
        let (start, until) = (Instant::now(), self.sent() + requests);
        while self.sent() < until {
            assert!(start.elapsed() < LIMIT, "clients hang: {}", self.tally());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// What has come of it so far.
    pub fn tally(&self) -> Tally {
        Tally {
            sent: self.sent(),
            failed: self.failed(),
            failures: self.shared.failures.lock().unwrap().clone(),
            slowest: *self.shared.slowest.lock().unwrap(),
        }
    }

    /// Lets every client have its last answer.
    pub async fn stop(mut self) -> Tally {
        self.shared.stop.store(true, Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
        self.tally()
    }
}

impl Shared {
    fn took(&self, time: Duration) {
        let mut slowest = self.slowest.lock().unwrap();
        *slowest = slowest.max(time);
    }
}

/// What a request is.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Get,
    /// A body of so many bytes, whose length is said.
    Post(usize),
    /// A body of so many bytes in chunks.
    Chunked(usize),
    /// An answer of so many bytes.
    Large(usize),
}

impl Kind {
    /// The kind of a client's request with this number: a round of 20, of which 14 are GET.
    fn of(number: u64) -> Self {
        const KB: usize = 1 << 10;
        match number % 20 {
            3 => Self::Post(0),
            5 => Self::Post(KB),
            9 => Self::Post(if number % 60 == 9 { KB * KB } else { 100 * KB }),
            12 => Self::Chunked(10 * KB),
            15 => Self::Chunked(if number % 60 == 15 { KB * KB } else { 100 * KB }),
            18 => Self::Large(if number % 60 == 18 { KB * KB } else { 100 * KB }),
            _ => Self::Get,
        }
    }

    fn request(self, path: &str) -> (http::request::Builder, Upload) {
        const CHUNK: usize = 16 << 10;
        let body = |bytes: usize| Bytes::from(vec![b'x'; bytes]);
        match self {
            Self::Get => (Request::get(path), Upload::whole(Bytes::new())),
            Self::Post(bytes) => (Request::post(path), Upload::whole(body(bytes))),
            Self::Chunked(bytes) => {
                let all = body(bytes);
                let chunks = (0..bytes).step_by(CHUNK).map(|at| all.slice(at..bytes.min(at + CHUNK)));
                (Request::post(path), Upload::chunks(chunks.collect::<Vec<_>>()))
            }
            Self::Large(bytes) => {
                (Request::get(path).header(backend::WANTED, bytes), Upload::whole(Bytes::new()))
            }
        }
    }

    /// Who has answered; or what is wrong with the answer, though it is one.
    fn answered_by(self, answer: &Answer) -> Result<String, String> {
        let Some(name) = answer.headers.get(backend::NAME) else { return Ok(answer.text()) };
        let (sent, wanted) = match self {
            Self::Get => (0, name.len()),
            Self::Post(bytes) | Self::Chunked(bytes) => (bytes, name.len()),
            Self::Large(bytes) => (0, bytes),
        };
        if answer.headers[backend::RECEIVED] != *sent.to_string() || answer.body.len() != wanted {
            let (received, body) = (&answer.headers[backend::RECEIVED], answer.body.len());
            return Err(format!("{self:?}: {received:?} bytes of it arrived, and {body} came back"));
        }
        Ok(name.to_str().unwrap().to_owned())
    }
}

async fn send(shared: Arc<Shared>, mut session: Session, path: Arc<str>, kind: fn(u64) -> Kind, first: u64) {
    for number in first.. {
        if shared.stop.load(Relaxed) {
            return;
        }
        let start = Instant::now();
        let kind = kind(number);
        let (request, body) = kind.request(&path);
        let answer = tokio::time::timeout(LIMIT, session.try_upload(request, body)).await;
        let failure = match answer {
            Ok(Ok(answer)) if answer.status.is_success() => match kind.answered_by(&answer) {
                Ok(name) => {
                    let mut answered = shared.answered.lock().unwrap();
                    let entry = answered.entry(name).or_insert((start, 0));
                    *entry = (entry.0.max(start), entry.1 + 1);
                    None
                }
                wrong => wrong.err(),
            },
            Ok(Ok(answer)) => Some(format!("{}: {}", answer.status, answer.text())),
            Ok(Err(error)) => Some(format!("{kind:?}: no answer: {error}")),
            Err(_) => Some(format!("{kind:?}: no answer within {LIMIT:?}")),
        };
        shared.sent.fetch_add(1, Relaxed);
        if let Some(failure) = failure {
            shared.failed.fetch_add(1, Relaxed);
            *shared.last_failed.lock().unwrap() = Some(start);
            let mut failures = shared.failures.lock().unwrap();
            if failures.len() < TOLD {
                failures.push(failure);
            }
        }
        shared.took(start.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
}

impl Tally {
    /// No request has failed.
    #[track_caller]
    pub fn none_failed(self) -> Self {
        self.at_most_failed(0)
    }

    /// No more than so many requests have failed.
    #[track_caller]
    pub fn at_most_failed(self, bound: u64) -> Self {
        assert!(self.sent > 0 && self.failed <= bound, "at most {bound} may fail: {self}");
        self
    }
}

/// Both together.
impl Add for Tally {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self.failures.extend(other.failures);
        self.failures.truncate(TOLD);
        let slowest = self.slowest.max(other.slowest);
        Self { sent: self.sent + other.sent, failed: self.failed + other.failed, slowest, ..self }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, failed, failures, slowest } = self;
        write!(f, "{failed} of {sent} requests failed, the slowest took {slowest:?}; {failures:#?}")
    }
}

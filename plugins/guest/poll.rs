//! Asking again and again, for registries that do nothing else for whoever wants to hear of changes.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use crate::{
    http::{Answer, Client, Failure, Limit},
    pause::jittered,
};

/// How long an answer may take.
const PATIENCE: Limit = Limit::Parts(Duration::from_secs(30));

/// What a poll came to.
pub enum Polled<T> {
    /// Another body than before, as it was read.
    New(T),
    Same,
    /// An answer, and not one of a registry: why.
    Suspect(String),
}

/// One resource, asked for now and again after each pause.
///
/// An answer that is the same costs the registry little, where it knows ETags; pauses differ by a tenth, so that many
/// gateways do not ask at once.
pub struct Poller {
    client: Client,
    path: String,
    pause: Duration,
    asked: Cell<bool>,
    known: RefCell<Known>,
}

/// What the last answer was.
#[derive(Default)]
struct Known {
    etag: Option<String>,
    body: Option<Vec<u8>>,
}

impl Poller {
    /// `path` begins with a slash and lies under each URL that is granted.
    pub fn new(path: &str, pause: Duration) -> Result<Poller, Failure> {
        let client = Client::granted()?;
        Ok(Poller {
            client,
            path: path.to_owned(),
            pause,
            asked: Cell::new(false),
            known: RefCell::default(),
        })
    }

    /// Waits for the next poll and says what it came to. `read` says what is in a body; one that it cannot read is
    /// suspect, and not what the next is compared with.
    pub fn next<T>(&self, read: impl FnOnce(&[u8]) -> Result<T, String>) -> Result<Polled<T>, Failure> {
        if self.asked.replace(true) {
            std::thread::sleep(jittered(self.pause));
        }
        let mut known = self.known.borrow_mut();
        let etag = known.etag.clone();
        let mut headers = vec![("accept", "application/json")];
        headers.extend(etag.iter().map(|etag| ("if-none-match", etag.as_str())));
        let answer = self.client.get(&self.path, &headers, PATIENCE)?;
        known.hear(answer, read)
    }
}

impl Known {
    fn hear<T>(
        &mut self,
        answer: Answer,
        read: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<Polled<T>, Failure> {
        if answer.status == 304 && self.body.is_some() {
            return Ok(Polled::Same);
        }
        if let Err(why) = check(&answer)? {
            return Ok(Polled::Suspect(why));
        }
        if self.body.as_ref() == Some(&answer.body) {
            return Ok(Polled::Same);
        }
        let list = match read(&answer.body) {
            Ok(list) => list,
            Err(why) => return Ok(Polled::Suspect(format!("{}: {why}", answer.url))),
        };
        self.etag = answer.header("etag").map(str::to_owned);
        self.body = Some(answer.body);
        Ok(Polled::New(list))
    }
}

/// Whether an answer is one of the registry's, with JSON in it: the inner error says why it is not to be believed.
pub fn check(answer: &Answer) -> Result<Result<(), String>, Failure> {
    match answer.status {
        200 => {}
        401 | 403 => return Err(Failure::Denied(answer.said())),
        _ => return Err(Failure::Unavailable(answer.said())),
    }
    let json = |text: &str| text.split(';').next().is_some_and(|kind| kind.trim().ends_with("json"));
    Ok(match answer.header("content-type") {
        Some(kind) if !json(kind) => {
            Err(format!("{} answered with {kind:?} where JSON was expected", answer.url))
        }
        _ => Ok(()),
    })
}

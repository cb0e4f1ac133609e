//! A conversation that was recorded with a real server, and a double that holds it again: it answers what was asked then,
//! and nothing else, when the test lets it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::watch};

use super::origin::{Origin, Seen, read_request};

/// A question, and what was answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    pub asked: String,
    pub status: u16,
    pub content_type: String,
    pub body: String,
}

/// What is said of how much and how long, which is another matter.
const OTHER: [&str; 3] = ["limit", "timeoutSeconds", "allowWatchBookmarks"];

/// Where the recorded conversations with a server are.
pub fn file(server: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/recorded").join(format!("{server}.json"))
}

/// The conversations with a server, by what they are about.
pub fn conversations(server: &str) -> BTreeMap<String, Vec<Turn>> {
    let path = file(server);
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// Gone when the value is dropped.
pub struct Replayed {
    origin: Origin,
    allowed: watch::Sender<usize>,
    wrong: Arc<Mutex<Vec<String>>>,
}

struct Held {
    turns: Vec<Turn>,
    next: Mutex<usize>,
    wrong: Arc<Mutex<Vec<String>>>,
}

impl Replayed {
    /// Answers nothing yet.
    pub async fn start(turns: Vec<Turn>) -> Self {
        let (allowed, wrong) = (watch::channel(0).0, Arc::<Mutex<Vec<String>>>::default());
        let held = Arc::new(Held { turns, next: Mutex::new(0), wrong: wrong.clone() });
        let may = allowed.clone();
        let origin = Origin::connected(move |stream, connection, _| {
            let (held, may) = (held.clone(), may.subscribe());
            async move {
                // An error is the end of the connection.
                let _ = held.serve(stream, connection, may).await;
            }
        })
        .await;
        Self { origin, allowed, wrong }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.origin.address)
    }

    /// Lets it answer so many questions more.
    pub fn answers(&self, more: usize) {
        self.allowed.send_modify(|allowed| *allowed += more);
    }

    /// Nothing was asked but what was asked then, in the same order.
    #[track_caller]
    pub fn all_was_asked_as_then(&self) {
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

impl Held {
    async fn serve(
        &self,
        mut stream: TcpStream,
        connection: usize,
        mut may: watch::Receiver<usize>,
    ) -> std::io::Result<()> {
        let mut buffer = Vec::new();
        while let Some(request) = read_request(&mut stream, &mut buffer, connection).await {
            let Some((number, turn)) = self.turn(&request) else { return std::future::pending().await };
            let _ = may.wait_for(|allowed| *allowed > number).await;
            let Turn { status, content_type, body, .. } = turn;
            let head = format!(
                "HTTP/1.1 {status} Some\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await?;
            for line in body.split_inclusive('\n') {
                stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await?;
            }
            stream.write_all(b"0\r\n\r\n").await?;
        }
        Ok(())
    }

    /// The next one. None: there is no more to say.
    fn turn(&self, request: &Seen) -> Option<(usize, &Turn)> {
        let mut next = self.next.lock().unwrap();
        let turn = self.turns.get(*next)?;
        if taken_apart(request.path()) != taken_apart(&turn.asked) {
            let text = format!("number {next} was {} and is {}", turn.asked, request.path());
            self.wrong.lock().unwrap().push(text);
        }
        *next += 1;
        Some((*next - 1, turn))
    }
}

fn taken_apart(path: &str) -> (String, BTreeMap<String, String>) {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let pairs = form_urlencoded::parse(query.as_bytes());
    let pairs = pairs.filter(|(name, _)| !OTHER.contains(&name.as_ref()));
    (path.to_owned(), pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
}

//! The children of a node being followed: a list, then what becomes of each, for ever or until a failure.
//!
//! A task does that whether or not somebody asks for it; what waits for a reader is no more than the names of children
//! that have changed, and only when one is there, their data is read.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    Client, Session, check_path,
    error::{Error, code},
    session::{Asked, Reply, Watch},
    wire::{Body, Data, Reader, Stat, op},
};
use crate::{
    backoff::Backoff,
    bindings::registry::witgate::zookeeper::zookeeper::{Child, Content, Event},
    registry::Failure,
};

/// Questions of one feed that wait for an answer at once.
const AT_ONCE: usize = 256;

/// The longest list taken, in bytes of names and data, and what each child costs beside.
const LONGEST_LIST: usize = 256 << 20;
const CHILD: usize = 128;

/// Pauses before everything is read again because changes were missed.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Lists in a row that were out of date before their watch said anything.
const MOST_RESTARTS: usize = 5;

/// Dropping it ends the watch.
pub struct Feed {
    answers: mpsc::Receiver<Result<Content, Failure>>,
    _pump: JoinSet<()>,
}

impl Feed {
    pub(super) fn start(client: Arc<Client>, path: String, with_data: bool) -> Self {
        let (sender, answers) = mpsc::channel(1);
        let mut pump = JoinSet::new();
        let backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        pump.spawn(Pump { client, path, with_data, answers: sender, restarts: 0, backoff }.run());
        Self { answers, _pump: pump }
    }

    /// Waits for the next answer; the first is everything. After a failure the feed is dead.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Content, Failure> {
        let dead = || Err(Failure::Other("this feed has failed before; open another".into()));
        self.answers.recv().await.unwrap_or_else(dead)
    }
}

struct Pump {
    client: Arc<Client>,
    path: String,
    with_data: bool,
    answers: mpsc::Sender<Result<Content, Failure>>,
    restarts: usize,
    backoff: Backoff,
}

/// Why following ended without a failure.
enum End {
    /// Changes were missed, or the session has ended: everything has to be read again.
    Missed,
    /// Nobody reads any more.
    Unread,
}

impl Pump {
    async fn run(mut self) {
        if let Err(failure) = check_path(&self.path) {
            let _ = self.answers.send(Err(failure)).await;
            return;
        }
        loop {
            match self.list_and_follow().await {
                Ok(End::Missed) => tokio::select! {
                    () = tokio::time::sleep(self.backoff.pause()) => {}
                    () = self.answers.closed() => return,
                },
                Ok(End::Unread) => return,
                Err(failure) => {
                    let _ = self.answers.send(Err(failure)).await;
                    return;
                }
            }
        }
    }

    async fn list_and_follow(&mut self) -> Result<End, Failure> {
        // Room first: a list that is made while the reader is busy is old when it is read.
        let answers = self.answers.clone();
        let Ok(room) = answers.reserve().await else { return Ok(End::Unread) };
        if self.restarts > MOST_RESTARTS {
            let text = format!("ZooKeeper: {} changes faster than it can be read", self.path);
            return Err(Failure::Unavailable(text));
        }
        self.restarts += 1;
        let session = self.client.session().await?;
        let at = match self.list(&session).await {
            Ok((watch, pzxid, children)) => {
                room.send(Ok(Content::All(children)));
                Followed { watch, pzxid }
            }
            Err(error) => return Err(self.client.failed(&session, &error, &self.path).await),
        };
        match self.follow(&session, at).await {
            Ok(end) => Ok(end),
            // The next list will be with another session, or tell why there is none.
            Err(error) if error.ends_session() => {
                session.end();
                Ok(End::Missed)
            }
            Err(error) => Err(self.client.failed(&session, &error, &self.path).await),
        }
    }

    /// All children there are, what the last change of them was, and the watch that was set before they were read.
    async fn list(&self, session: &Arc<Session>) -> Result<(Watch, i64, Vec<Child>), Error> {
        let (watch, set) = session.watch(&self.path);
        let asked = session.ask(op::CHILDREN, &Body::unwatched(&self.path));
        set.answer().await?;
        let (names, pzxid) = match asked.answer().await {
            Ok(Reply(bytes)) => {
                let mut reader = Reader(&bytes);
                (reader.texts()?, Stat::read(&mut reader)?.pzxid)
            }
            Err(Error::Code(code::NO_NODE)) => (Vec::new(), NO_NODE),
            Err(error) => return Err(error),
        };
        let read = self.read(session, names).await?;
        let children = read.into_iter().filter_map(|(name, child)| Some(named(name, child?))).collect();
        Ok((watch, pzxid, children))
    }

    async fn follow(&mut self, session: &Arc<Session>, mut at: Followed) -> Result<End, Error> {
        let answers = self.answers.clone();
        let often = self.client.granted().session_timeout;
        loop {
            let due = Instant::now() + often;
            tokio::select! {
                biased;
                () = answers.closed() => return Ok(End::Unread),
                () = at.watch.changed() => {}
                () = sleep_until(due) => {}
            }
            let Ok(room) = answers.reserve().await else { return Ok(End::Unread) };
            let news = at.watch.take();
            if news.missed {
                return Ok(End::Missed);
            }
            let changes = self.changes(session, news.names, &mut at).await?;
            let Some(changes) = changes else { return Ok(End::Missed) };
            self.restarts = 0;
            self.backoff.works();
            room.send(Ok(match changes.is_empty() {
                true => Content::Nothing,
                false => Content::Changes(changes),
            }));
        }
    }

    /// What has become of these children. None when it turns out that changes were missed.
    async fn changes(
        &self,
        session: &Arc<Session>,
        names: BTreeSet<String>,
        at: &mut Followed,
    ) -> Result<Option<Vec<Event>>, Error> {
        let quiet = names.is_empty();
        let read = self.read(session, names).await?;
        // After them, since answers come in order: this is at least as new. It also needs the right to read.
        let pzxid = match session.ask(op::DATA, &Body::unwatched(&self.path)).answer().await {
            Ok(Reply(bytes)) => Data::read(&bytes)?.stat.pzxid,
            Err(Error::Code(code::NO_NODE)) => NO_NODE,
            Err(error) => return Err(error),
        };
        // An event comes before any answer that knows of it.
        let missed = quiet && pzxid != at.pzxid && at.watch.is_empty();
        at.pzxid = pzxid;
        let event = |(name, child): (String, Option<Data>)| match child {
            Some(child) => Event::Put(named(name, child)),
            None => Event::Delete(name),
        };
        Ok((!missed).then(|| read.into_iter().map(event).collect()))
    }

    /// The data of these children, none for those that are gone.
    async fn read(
        &self,
        session: &Session,
        names: impl IntoIterator<Item = String>,
    ) -> Result<Vec<(String, Option<Data>)>, Error> {
        let (mut asked, mut read) = (VecDeque::new(), Read::default());
        for name in names {
            if asked.len() == AT_ONCE {
                read.next(&mut asked).await?;
            }
            let path = if self.path == "/" { format!("/{name}") } else { format!("{}/{name}", self.path) };
            // Whether it is there is asked in any case.
            asked.push_back((name, session.ask(op::DATA, &Body::unwatched(&path))));
        }
        while !asked.is_empty() {
            read.next(&mut asked).await?;
        }
        if !self.with_data {
            read.data.iter_mut().filter_map(|(_, data)| data.as_mut()).for_each(|data| data.bytes.clear());
        }
        Ok(read.data)
    }
}

/// What stands for the last change of the children of a node that is not there.
const NO_NODE: i64 = 0;

struct Followed {
    watch: Watch,
    /// The last change of the children that is known.
    pzxid: i64,
}

#[derive(Default)]
struct Read {
    data: Vec<(String, Option<Data>)>,
    bytes: usize,
}

impl Read {
    async fn next(&mut self, asked: &mut VecDeque<(String, Asked)>) -> Result<(), Error> {
        let Some((name, answer)) = asked.pop_front() else { return Ok(()) };
        let data = match answer.answer().await {
            Ok(Reply(bytes)) => Some(Data::read(&bytes)?),
            Err(Error::Code(code::NO_NODE)) => None,
            Err(error) => return Err(error),
        };
        self.push(name, data)
    }

    fn push(&mut self, name: String, data: Option<Data>) -> Result<(), Error> {
        self.bytes += CHILD + name.len() + data.as_ref().map_or(0, |data| data.bytes.len());
        if self.bytes > LONGEST_LIST {
            return Err(Error::TooLong);
        }
        self.data.push((name, data));
        Ok(())
    }
}

fn named(name: String, data: Data) -> Child {
    Child { name, data: data.bytes, mzxid: data.stat.mzxid, owner: data.stat.owner }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_with_hardly_any_name_count_as_what_they_cost() {
        let mut read = Read { data: Vec::new(), bytes: LONGEST_LIST - 2 * CHILD };
        assert_eq!(read.push(String::new(), None), Ok(()));
        assert_eq!(read.push("a".to_owned(), None), Err(Error::TooLong));
    }
}

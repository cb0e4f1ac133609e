//! The registry that is Eureka: applications of its servers, asked for as a whole and then by what has changed.
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `region` | none | instances of this region, which the servers know as a remote one, are wanted, too |
//! | `secure` | false | instances are at their secure ports |
//! | `by_name` | false | instances are at their host names, which the gateway looks up, and not at their IP addresses |
//! | `poll_seconds` | 10 | how long after an answer the next question is asked |
//! | `ttl_seconds` | 90 | announcing: the lease that is asked for |
//!
//! The name of a service is that of the application, in any case. Where the servers are and who the gateway is there is
//! in the registry's table in the configuration, under `http`.
//!
//! For plugin authors: `answer.rs` says what is in an answer, `book.rs` what several of them come to, `told.rs` what of it
//! is believed, and `instance.rs` what is announced. None of them knows a connection.

mod answer;
mod book;
mod instance;
mod register;
mod settings;
mod told;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use answer::{Delta, Known, Wanted};
use book::Book;
use exports::witgate::registry::registry::{Endpoint, Failure, Guest, GuestSubscription, News, Subscription};
use guest::entries::Entry;
use guest::escape::escape;
use guest::http::{self, Answer, Failure as Failed, Limit};
use guest::pause::jittered;
use guest::poll;
use guest::servers::{Problem, Servers};
use settings::Settings;
use told::{Said, Step, Told};
use witgate::registry::types::{Change, State};

wit_bindgen::generate!({ path: "../../wit", world: "registrar-plugin", generate_all });

export!(Eureka);

/// How long a server may take to answer before the next one is asked.
const PATIENCE: Limit = Limit::Parts(Duration::from_secs(10));

struct Eureka;

impl Guest for Eureka {
    type Subscription = Following;

    fn check(settings: String) -> Result<(), String> {
        Settings::read(&settings).map(drop)
    }

    fn follow(service: String, settings: String) -> Result<Subscription, Failure> {
        let settings = Settings::read(&settings).map_err(Failure::Invalid)?;
        if service.is_empty() {
            return Err(Failure::Invalid("service: \"\" is no application".to_owned()));
        }
        let urls = http::urls().map_err(|failure| guest::failure!(failure))?;
        // Not every gateway asks the first.
        let first = fastrand::usize(..urls.len().max(1));
        let Settings { region, secure, by_name, pause, .. } = settings;
        // Only all applications are told of by region.
        let (whole, query) = match &region {
            None => (format!("/apps/{}", escape(&service.to_ascii_uppercase(), false)), String::new()),
            Some(region) => ("/apps".to_owned(), format!("?regions={}", escape(region, false))),
        };
        let wanted = Wanted { app: service, secure, by_name };
        let question = Question {
            whole: whole + &query,
            of_all: region.is_some(),
            delta: format!("/apps/delta{query}"),
            wanted,
        };
        let asking =
            Asking { servers: Servers::new(urls, first), book: None, told: Told::default(), asked: false };
        Ok(Subscription::new(Following { question, pause, asking: RefCell::new(asking) }))
    }
}

struct Following {
    question: Question,
    pause: Duration,
    asking: RefCell<Asking>,
}

struct Asking {
    servers: Servers,
    /// What a server said, with its URL: another one's changes are others.
    book: Option<(String, Book)>,
    told: Told,
    /// Whether a pause comes before the next question.
    asked: bool,
}

/// What is asked of each server.
struct Question {
    whole: String,
    /// Whether that is the list of all applications.
    of_all: bool,
    delta: String,
    wanted: Wanted,
}

impl GuestSubscription for Following {
    fn next(&self) -> Result<News, Failure> {
        let mut asking = self.asking.borrow_mut();
        let Asking { servers, book, told, asked } = &mut *asking;
        if std::mem::replace(asked, true) {
            std::thread::sleep(jittered(self.pause));
        }
        let news = servers.ask(|url| self.question.ask(url, book, told));
        // Another one may know who is missing here.
        if told.doubts() {
            servers.turn();
        }
        match news {
            Ok(news) => Ok(translated(news)),
            Err(Problem::Suspect(why)) => Ok(News::Suspect(why)),
            Err(Problem::Failed(failure)) => Err(guest::failure!(failure)),
        }
    }
}

impl Question {
    /// Asks one server, and says what that comes to.
    fn ask(
        &self,
        url: &str,
        book: &mut Option<(String, Book)>,
        told: &mut Told,
    ) -> Result<told::News, Problem> {
        let delta = self.delta(url)?;
        let now = Instant::now();
        let Some(delta) = delta else {
            let list = self.whole(url)?.into_iter().map(|known| (known.id.clone(), known)).collect();
            *book = None;
            return Ok(told.hear(&Said { url, list: &list, left: None, is_new: false }, now));
        };
        let (left, is_new) = (told::left(&delta), told::is_new(&delta));
        let rest = match book.as_mut().filter(|(of, _)| of == url) {
            Some((_, book)) => book.take(delta, now).err(),
            None => Some(delta),
        };
        if let Some(delta) = rest {
            *book = Some((url.to_owned(), Book::new(self.whole(url)?, delta, now)));
        }
        let Some((_, book)) = book else { return Err(Problem::Suspect(format!("{url} said nothing"))) };
        Ok(told.hear(&Said { url, list: book.list(), left: Some(&left), is_new }, now))
    }

    /// What has changed; none if this server does not tell.
    fn delta(&self, url: &str) -> Result<Option<Delta>, Problem> {
        let answer = get(url, &self.delta)?;
        // Where that is switched off, and where the server warms up, which it then says again.
        if answer.status == 403 {
            return Ok(None);
        }
        read(&answer, |body| self.wanted.delta(body)).map(Some)
    }

    fn whole(&self, url: &str) -> Result<Vec<Known>, Problem> {
        let answer = get(url, &self.whole)?;
        match answer.status {
            // It has answered already as Eureka does.
            404 if !self.of_all => Ok(Vec::new()),
            403 => Err(Problem::Failed(Failed::Unavailable(format!(
                "{} (a server that warms up answers so, too)",
                answer.said()
            )))),
            _ => read(&answer, |body| self.wanted.list(body, self.of_all)),
        }
    }
}

fn get(url: &str, path: &str) -> Result<Answer, Failed> {
    http::get(&format!("{url}{path}"), &[("accept", "application/json")], PATIENCE)
}

/// What is in an answer. An error page is none of the registry's, nor is the answer of something else.
fn read<T>(answer: &Answer, read: impl FnOnce(&[u8]) -> Result<T, String>) -> Result<T, Problem> {
    poll::check(answer)?.map_err(Problem::Suspect)?;
    read(&answer.body).map_err(|why| Problem::Suspect(format!("{}: {why}", answer.url)))
}

fn translated(news: told::News) -> News {
    let all = |list: Vec<(String, Entry)>| list.into_iter().map(|(id, entry)| endpoint(id, entry)).collect();
    match news {
        told::News::Complete(list) => News::Complete(all(list)),
        told::News::Partial(list) => News::Partial(all(list)),
        told::News::Unchanged => News::Unchanged,
        told::News::Suspect(why) => News::Suspect(why),
        told::News::Changes(steps) => {
            let change = |step| match step {
                Step::Put(id, entry) => Change::Put(endpoint(id, entry)),
                Step::Remove(id) => Change::Remove(id),
            };
            News::Changes(steps.into_iter().map(change).collect())
        }
    }
}

fn endpoint(id: String, entry: Entry) -> Endpoint {
    guest::endpoint!(id, entry)
}

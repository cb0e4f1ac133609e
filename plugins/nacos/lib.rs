//! The registry that is Nacos: its servers are asked over HTTP for the instances of a service, again and again.
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `api` | `v1` | the API that the servers speak: `v1` (Nacos 1 and 2) or `v3` (Nacos 3) |
//! | `layout` | `nacos` | what metadata are: `nacos`, labels, or `rpcx`, written by servers of rpcx |
//! | `namespace` | `public` | the id of the namespace |
//! | `group` | `DEFAULT_GROUP` | the group of services that do not name theirs (`GROUP@@NAME`) |
//! | `clusters` | all | instances of these clusters alone |
//! | `networks` | those that are TCP | layout `rpcx`: instances on these networks |
//! | `rpcx_group` | any | layout `rpcx`: instances of this group of rpcx |
//! | `poll_seconds` | 5 | how long after an answer the next question is asked |
//! | `ttl_seconds` | 30 | announcing: how long an instance is kept without a heartbeat |
//!
//! The name of a service is `NAME` or `GROUP@@NAME`. Where the servers are, with their context path, and who the gateway is
//! there is in the registry's table in the configuration, under `http`.
//!
//! For plugin authors: `answer.rs` says what is in an answer, `told.rs` what of it is believed, and `instance.rs` what is
//! announced. None of them knows a connection.

mod answer;
mod instance;
mod register;
mod settings;
mod told;

use std::cell::RefCell;
use std::time::Duration;

use answer::{List, Said};
use exports::witgate::registry::registry::{Endpoint, Failure, Guest, GuestSubscription, News, Subscription};
use guest::entries::Entry;
use guest::http::{self, Answer, Failure as Failed, Limit};
use guest::pause::jittered;
use guest::poll;
use guest::servers::{Problem, Servers};
use settings::{Api, Settings};
use told::Told;
use witgate::registry::types::State;

wit_bindgen::generate!({ path: "../../wit", world: "registrar-plugin", generate_all });

export!(Nacos);

/// How long a server may take to answer before the next one is asked.
const PATIENCE: Limit = Limit::Parts(Duration::from_secs(10));

struct Nacos;

impl Guest for Nacos {
    type Subscription = Following;

    fn check(settings: String) -> Result<(), String> {
        Settings::read(&settings).map(drop)
    }

    fn follow(service: String, settings: String) -> Result<Subscription, Failure> {
        let settings = Settings::read(&settings).map_err(Failure::Invalid)?;
        let service = settings.service(&service).map_err(Failure::Invalid)?;
        let urls = http::urls().map_err(|failure| guest::failure!(failure))?;
        // Not every gateway asks the first.
        let first = fastrand::usize(..urls.len().max(1));
        let asking = Asking { servers: Servers::new(urls, first), told: Told::default(), asked: false };
        let question = settings.list(&service);
        Ok(Subscription::new(Following { settings, question, asking: RefCell::new(asking) }))
    }
}

struct Following {
    settings: Settings,
    /// What is asked of each server.
    question: String,
    asking: RefCell<Asking>,
}

struct Asking {
    servers: Servers,
    told: Told,
    /// Whether a pause comes before the next question.
    asked: bool,
}

impl GuestSubscription for Following {
    fn next(&self) -> Result<News, Failure> {
        let mut asking = self.asking.borrow_mut();
        let Asking { servers, told, asked } = &mut *asking;
        if std::mem::replace(asked, true) {
            std::thread::sleep(jittered(self.settings.pause));
        }
        match servers.ask(|url| self.ask(url)) {
            Ok(list) => Ok(translated(told.hear(list))),
            Err(Problem::Suspect(why)) => Ok(News::Suspect(why)),
            Err(Problem::Failed(failure)) => Err(guest::failure!(failure)),
        }
    }
}

impl Following {
    /// Asks one server.
    fn ask(&self, url: &str) -> Result<List, Problem> {
        let url = format!("{url}{}", self.question);
        let answer = http::get(&url, &[("accept", "application/json")], PATIENCE)?;
        check(self.settings.api, &answer)?;
        poll::check(&answer)?.map_err(Problem::Suspect)?;
        // An error page is none of the registry's, nor is the answer of something else.
        match answer::read(&self.settings, &answer.body).map_err(|why| suspect(&answer, &why))? {
            Said::List(List { instances, doubt }) => {
                let doubt = doubt.map(|why| format!("{}: {why}", answer.url));
                Ok(List { instances, doubt })
            }
            Said::Failed(why) => {
                Err(Problem::Failed(Failed::Unavailable(format!("{} answered {why}", answer.url))))
            }
        }
    }
}

fn suspect(answer: &Answer, why: &str) -> Problem {
    Problem::Suspect(format!("{}: {why}", answer.url))
}

/// What a status says that is the same for every request.
fn check(api: Api, answer: &Answer) -> Result<(), Failed> {
    match (answer.status, api) {
        (400, _) => Err(Failed::Invalid(answer.said())),
        (401 | 403, _) => Err(Failed::Denied(answer.said())),
        (404 | 410, Api::V1) => Err(Failed::Invalid(format!(
            "{} (whether the context path stands in `urls`, and whether Nacos 3 has `api = \"v3\"`)",
            answer.said()
        ))),
        (404 | 410, Api::V3) => Err(Failed::Invalid(format!(
            "{} (whether the context path stands in `urls`, and whether it is Nacos 3)",
            answer.said()
        ))),
        _ => Ok(()),
    }
}

fn translated(news: told::News) -> News {
    let all = |list: Vec<(String, Entry)>| list.into_iter().map(|(id, entry)| endpoint(id, entry)).collect();
    match news {
        told::News::Complete(list) => News::Complete(all(list)),
        told::News::Partial(list) => News::Partial(all(list)),
        told::News::Unchanged => News::Unchanged,
        told::News::Suspect(why) => News::Suspect(why),
    }
}

fn endpoint(id: String, entry: Entry) -> Endpoint {
    guest::endpoint!(id, entry)
}

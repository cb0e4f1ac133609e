//! The registry that is `service_discovery`: nodes that are asked over HTTP for the instances of a service, again and
//! again.
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `env` | none, must be given | the environment that instances registered for |
//! | `scheme` | any | an instance is at its first address of this scheme; without, at its first address |
//! | `poll_seconds` | 5 | how long after an answer the next question is asked |
//!
//! The name of a service is its `appid`. Where the nodes are is in the registry's table in the configuration, under
//! `http`.
//!
//! For plugin authors: `answer.rs` says what is asked and what is in an answer, `instance.rs` what is announced, and
//! `nodes.rs` what the answers of several nodes come to. None of them knows a connection.

mod answer;
mod instance;
mod nodes;
mod register;
mod settings;

use std::cell::RefCell;
use std::time::Duration;

use answer::{Said, Wanted};
use exports::witgate::registry::registry::{Endpoint, Failure, Guest, GuestSubscription, News, Subscription};
use guest::entries::Entry;
use guest::http::Limit;
use guest::pause::jittered;
use guest::{http, poll};
use nodes::{Heard, Nodes, Told};
use settings::Settings;
use witgate::registry::types::State;

wit_bindgen::generate!({ path: "../../wit", world: "registrar-plugin", generate_all });

export!(Discovery);

/// How long a node may take to answer before the next one is asked.
const PATIENCE: Limit = Limit::Parts(Duration::from_secs(10));

struct Discovery;

impl Guest for Discovery {
    type Subscription = Following;

    fn check(settings: String) -> Result<(), String> {
        Settings::read(&settings).map(drop)
    }

    fn follow(service: String, settings: String) -> Result<Subscription, Failure> {
        let Settings { env, scheme, pause } = Settings::read(&settings).map_err(Failure::Invalid)?;
        if service.is_empty() {
            return Err(Failure::Invalid("service: \"\" is no appid".to_owned()));
        }
        let urls = http::urls().map_err(|failure| guest::failure!(failure))?;
        // Not every gateway asks the first.
        let first = fastrand::usize(..urls.len().max(1));
        let wanted = Wanted { env, appid: service, scheme };
        let asking = Asking { nodes: Nodes::new(urls, first), known: None, asked: false };
        Ok(Subscription::new(Following { wanted, pause, asking: RefCell::new(asking) }))
    }
}

struct Following {
    wanted: Wanted,
    pause: Duration,
    asking: RefCell<Asking>,
}

struct Asking {
    nodes: Nodes,
    /// What was told last.
    known: Option<Vec<(String, Entry)>>,
    /// Whether a pause comes before the next question.
    asked: bool,
}

impl GuestSubscription for Following {
    fn next(&self) -> Result<News, Failure> {
        let mut asking = self.asking.borrow_mut();
        let Asking { nodes, known, asked } = &mut *asking;
        if std::mem::replace(asked, true) {
            std::thread::sleep(jittered(self.pause));
        }
        let question = self.wanted.question();
        let heard = nodes.ask(|url| self.ask(url, &question)).map_err(|failure| guest::failure!(failure))?;
        Ok(match heard {
            Heard::Suspect(why) => News::Suspect(why),
            Heard::List(list) if known.as_ref() == Some(&list) => News::Unchanged,
            Heard::List(list) => {
                let endpoints = list.iter().map(|(id, entry)| endpoint(id.clone(), entry.clone())).collect();
                *known = Some(list);
                News::Complete(endpoints)
            }
        })
    }
}

impl Following {
    fn ask(&self, url: &str, question: &str) -> Told {
        let url = format!("{url}/api/fetch");
        let answer = match http::post(&url, "application/json", question.as_bytes(), PATIENCE) {
            Ok(answer) => answer,
            Err(failure) => return Told::Failed(failure),
        };
        match poll::check(&answer) {
            Ok(Ok(())) => {}
            Ok(Err(why)) => return Told::Suspect(why),
            Err(failure) => return Told::Failed(failure),
        }
        match self.wanted.read(&answer.body) {
            Ok(Said::List(list)) => Told::List(list),
            Ok(Said::Nothing) => Told::Nothing,
            Ok(Said::Failed(why)) => {
                Told::Failed(http::Failure::Unavailable(format!("{url} answered {why}")))
            }
            Ok(Said::Refused(why)) => Told::Failed(http::Failure::Invalid(format!("{url} answered {why}"))),
            // An error page, or an answer of something else.
            Err(why) => Told::Suspect(format!("{url}: {why}")),
        }
    }
}

fn endpoint(id: String, entry: Entry) -> Endpoint {
    guest::endpoint!(id, entry)
}

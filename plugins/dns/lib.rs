//! The registry that is DNS: who offers a service (SRV), or the addresses of a name and a port.
//!
//! | setting | for | default | meaning |
//! |---|---|---|---|
//! | `record` | | `srv` | `srv`, or `a` for A and AAAA |
//! | `port` | a | none, must be given | the port of every instance |
//! | `name` | | `{service}` | what is asked for; `{service}` stands for the name of the service |
//! | `ttl_floor_seconds` | | 5 | an answer is asked for again no sooner, whatever its time to live |
//! | `ttl_cap_seconds` | | 60 | and no later |
//!
//! Which servers are asked is in the registry's table in the configuration, under `dns`.
//!
//! For plugin authors: `records.rs` says what records come to, `settings.rs` what is asked for and how often. Neither
//! knows a connection.

mod records;
mod settings;

use std::cell::RefCell;
use std::time::Duration;

use exports::witgate::registry::registry::{Endpoint, Failure, Guest, GuestSubscription, News, Subscription};
use guest::entries::Entry;
use guest::pause::jittered;
use records::{Addresses, Service};
use settings::{Record, Settings};
use witgate::dns::dns::{self, AddressesQuestion, ServicesQuestion};
use witgate::registry::types::State;

wit_bindgen::generate!({ path: "../../wit", world: "registry-plugin", generate_all });

export!(Dns);

struct Dns;

impl Guest for Dns {
    type Subscription = Following;

    fn check(settings: String) -> Result<(), String> {
        Settings::read(&settings).map(drop)
    }

    fn follow(service: String, settings: String) -> Result<Subscription, Failure> {
        let settings = Settings::read(&settings).map_err(Failure::Invalid)?;
        let name = settings.name(&service).map_err(Failure::Invalid)?;
        let question = match settings.record {
            Record::Srv => Question::Services(dns::services_of(&name)?),
            Record::A { port } => {
                let question = dns::addresses_of(&name)?;
                Question::Addresses { question, name, port, known: Addresses::default() }
            }
        };
        let asking = Asking { question, pause: None, known: None };
        Ok(Subscription::new(Following { settings, asking: RefCell::new(asking) }))
    }
}

enum Question {
    Services(ServicesQuestion),
    Addresses { question: AddressesQuestion, name: String, port: u16, known: Addresses },
}

struct Following {
    settings: Settings,
    asking: RefCell<Asking>,
}

struct Asking {
    question: Question,
    /// Before the next question; none before the first.
    pause: Option<Duration>,
    /// What was told last.
    known: Option<Vec<(String, Entry)>>,
}

impl GuestSubscription for Following {
    fn next(&self) -> Result<News, Failure> {
        let mut asking = self.asking.borrow_mut();
        let Asking { question, pause, known } = &mut *asking;
        if let Some(pause) = *pause {
            std::thread::sleep(jittered(pause));
        }
        let (list, ttl_seconds) = match question.ask() {
            // The host would drop this subscription, and with it what a family keeps that nobody answers for.
            Err(Failure::Unavailable(text) | Failure::Denied(text))
                if question.keeps() && known.is_some() =>
            {
                *pause = None;
                return Ok(News::Suspect(text));
            }
            answer => answer?,
        };
        *pause = Some(self.settings.pause(ttl_seconds));
        if known.as_ref() == Some(&list) {
            return Ok(News::Unchanged);
        }
        let endpoints = list.iter().map(|(id, entry)| endpoint(id.clone(), entry.clone())).collect();
        *known = Some(list);
        Ok(News::Complete(endpoints))
    }
}

impl Question {
    /// Whether what was answered before counts beside the next answer.
    fn keeps(&self) -> bool {
        matches!(self, Question::Addresses { .. })
    }

    /// The instances now, and for how many seconds that is good.
    fn ask(&mut self) -> Result<(Vec<(String, Entry)>, u32), Failure> {
        match self {
            Question::Services(question) => {
                let dns::Services { found, ttl_seconds } = question.answer()?;
                let found = found.into_iter().map(|dns::Service { priority, weight, port, target }| {
                    Service { priority, weight, port, target }
                });
                Ok((records::of_services(found.collect()), ttl_seconds))
            }
            Question::Addresses { question, name, port, known } => {
                let dns::Addresses { v4, v6, ttl_seconds } = question.answer()?;
                known.hear(v4, v6);
                Ok((known.at(*port, name), ttl_seconds))
            }
        }
    }
}

fn endpoint(id: String, entry: Entry) -> Endpoint {
    guest::endpoint!(id, entry)
}

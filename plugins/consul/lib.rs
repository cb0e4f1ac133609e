//! The registry that is Consul: services of its catalog with their health, or what servers of rpcx write into its
//! key-value store.
//!
//! | setting | for | default | meaning |
//! |---|---|---|---|
//! | `layout` | | `catalog` | `catalog` or `rpcx` |
//! | `tag` | catalog | any | only instances with this tag |
//! | `passing` | catalog | false | an instance that warns is `unwell` like one that is critical |
//! | `base` | rpcx | none, must be given | the base path; a slash in front means nothing |
//! | `networks` | rpcx | tcp, tcp4, tcp6, reuseport, iouring | endpoints of other networks are left out |
//! | `group` | rpcx | any | only endpoints of this group |
//! | `datacenter` | | that of the agent | which datacenter is asked about |
//! | `stale` | | false | any server may answer, not only the one that leads |
//! | `wait_seconds` | | 60 | how long Consul holds an answer back while nothing changes |
//! | `ttl_seconds` | announcing | 15 | how long an announcement outlives the gateway |
//!
//! Where Consul is and who the gateway is there is in the registry's table in the configuration, under `http`.
//!
//! For plugin authors: `question.rs` says what is asked next and what an answer is worth, `catalog.rs` and `kv.rs` what is
//! in it, `agent.rs` and `keys.rs` what is announced. None of them knows a connection.

mod agent;
mod catalog;
mod keys;
mod kv;
mod question;
mod register;
mod settings;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use exports::witgate::registry::registry::{Endpoint, Failure, Guest, GuestSubscription, News, Subscription};
use guest::entries::Entry;
use guest::http::{Client, Limit};
use guest::pace::Pace;
use question::{Heard, Question};
use settings::{Layout, Settings};
use witgate::registry::types::State;

wit_bindgen::generate!({ path: "../../wit", world: "registrar-plugin", generate_all });

export!(Consul);

struct Consul;

impl Guest for Consul {
    type Subscription = Following;

    fn check(settings: String) -> Result<(), String> {
        Settings::read(&settings).map(drop)
    }

    fn follow(service: String, settings: String) -> Result<Subscription, Failure> {
        let settings = Settings::read(&settings).map_err(Failure::Invalid)?;
        if service.is_empty() {
            return Err(Failure::Invalid("service: \"\" would be every service".to_owned()));
        }
        let client = Client::granted().map_err(|failure| guest::failure!(failure))?;
        let asking = Asking {
            question: Question::new(settings.path(&service), settings.wait),
            pace: Pace::new(Instant::now()),
            known: None,
        };
        let layout = settings.layout_of(&service);
        Ok(Subscription::new(Following { client, layout, asking: RefCell::new(asking) }))
    }
}

struct Following {
    client: Client,
    layout: Layout,
    asking: RefCell<Asking>,
}

struct Asking {
    question: Question,
    pace: Pace,
    /// What was told last.
    known: Option<Vec<(String, Entry)>>,
}

impl GuestSubscription for Following {
    fn next(&self) -> Result<News, Failure> {
        let mut asking = self.asking.borrow_mut();
        let Asking { question, pace, known } = &mut *asking;
        let pause = pace.take(Instant::now());
        if pause > Duration::ZERO {
            std::thread::sleep(pause);
        }
        let answer = self.client.get(&question.path(), &[], Limit::Parts(question.patience()));
        let answer = answer.map_err(|failure| guest::failure!(failure))?;
        let list = match question.heard(&answer) {
            Ok(Heard::Answer) => self.layout.read(&answer.body),
            Ok(Heard::Nothing) => Ok(Vec::new()),
            Ok(Heard::Suspect(why)) => return Ok(News::Suspect(why)),
            Err(failure) => return Err(guest::failure!(failure)),
        };
        match list {
            // An error page, or an answer of something else.
            Err(why) => {
                question.forget();
                Ok(News::Suspect(format!("{} answered {why}", answer.url)))
            }
            // Consul wakes whoever waits for more reasons than a change of this list.
            Ok(list) if known.as_ref() == Some(&list) => Ok(News::Unchanged),
            Ok(list) => {
                let endpoints = list.iter().map(|(id, entry)| endpoint(id.clone(), entry.clone())).collect();
                *known = Some(list);
                Ok(News::Complete(endpoints))
            }
        }
    }
}

fn endpoint(id: String, entry: Entry) -> Endpoint {
    guest::endpoint!(id, entry)
}

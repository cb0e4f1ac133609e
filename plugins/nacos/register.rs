//! Announcing at a server, over HTTP: what `instance.rs` says.

use std::cell::RefCell;
use std::time::Duration;

use guest::entries::Entry;
use guest::http::{self, Answer, Failure as Failed, Limit, Method};
use guest::servers::{Problem, Servers};

use crate::Nacos;
use crate::answer::{Outcome, done};
use crate::exports::witgate::registry::registrar::{Announcement, Guest, GuestRegistration, Registration};
use crate::instance::Instance;
use crate::settings::{Api, Settings};
use crate::witgate::registry::types::Failure;

/// How long a server may take for one answer before the next one is asked.
const PATIENCE: Limit = Limit::Whole(Duration::from_secs(5));

/// And when it is told that the instance is gone, for which all of them have five seconds.
const FAREWELL: Limit = Limit::Whole(Duration::from_secs(2));

impl Guest for Nacos {
    type Registration = Announced;

    fn register(announcement: Announcement, settings: String) -> Result<Registration, Failure> {
        let settings = Settings::read(&settings).map_err(Failure::Invalid)?;
        let Announcement { service, address, weight, labels } = announcement;
        let entry = Entry { weight, labels, ..Entry::plain(&address) };
        let service = settings.service(&service).map_err(Failure::Invalid)?;
        let instance = Instance::new(&settings, &service, &entry).map_err(Failure::Invalid)?;
        let urls = http::urls().map_err(|failure| guest::failure!(failure))?;
        let servers = RefCell::new(Servers::new(urls, 0));
        let announced = Announced { instance, servers, heard: RefCell::default() };
        announced.renewed().map_err(|failure| guest::failure!(failure))?;
        Ok(Registration::new(announced))
    }
}

impl GuestRegistration for Announced {
    fn renew(&self) -> Result<u32, Failure> {
        self.renewed().map_err(|failure| guest::failure!(failure))?;
        Ok(u32::try_from(self.instance.beats.pause.as_millis()).unwrap_or(u32::MAX))
    }

    fn withdraw(&self) -> Result<(), Failure> {
        let Instance { withdraw, beats, .. } = &self.instance;
        let gone = self.tell(|url| {
            let answer = http::delete(&format!("{url}{withdraw}"), FAREWELL)?;
            outcome(beats.api, &answer).map(drop)
        });
        gone.map_err(|failure| guest::failure!(failure))
    }
}

/// An instance that is announced, or will be with the next heartbeat.
pub struct Announced {
    instance: Instance,
    servers: RefCell<Servers>,
    /// The server that heard of it last. Another one, or the same after it was gone, is told all of it again.
    heard: RefCell<Option<String>>,
}

impl Announced {
    fn renewed(&self) -> Result<(), Failed> {
        let before = self.heard.take();
        let heard = RefCell::new(None);
        self.tell(|url| {
            let known = before.as_deref() == Some(url) && self.beat(url)? == Outcome::Done;
            if !known {
                self.register(url)?;
            }
            heard.replace(Some(url.to_owned()));
            Ok(())
        })?;
        self.heard.replace(heard.take());
        Ok(())
    }

    /// Tells the server that did it last, and the next one if that does not: they tell each other.
    fn tell(&self, tell: impl Fn(&str) -> Result<(), Failed>) -> Result<(), Failed> {
        let told = self.servers.borrow_mut().ask(|url| Ok(tell(url)?));
        told.map_err(|problem| match problem {
            Problem::Failed(failure) => failure,
            Problem::Suspect(why) => Failed::Unavailable(why),
        })
    }

    fn register(&self, url: &str) -> Result<(), Failed> {
        let Instance { register, beats, .. } = &self.instance;
        let answer = http::send_nothing(&Method::Post, &format!("{url}{register}"), PATIENCE)?;
        match outcome(beats.api, &answer)? {
            Outcome::Unknown => Err(Failed::Unavailable(answer.said())),
            _ => Ok(()),
        }
    }

    fn beat(&self, url: &str) -> Result<Outcome, Failed> {
        let Instance { beat, beats, .. } = &self.instance;
        let method = match beats.api {
            Api::V1 => Method::Put,
            Api::V3 => Method::Post,
        };
        outcome(beats.api, &http::send_nothing(&method, &format!("{url}{beat}"), PATIENCE)?)
    }
}

/// Done, or that the instance is not known.
fn outcome(api: Api, answer: &Answer) -> Result<Outcome, Failed> {
    if done(&answer.body) == Outcome::Unknown {
        return Ok(Outcome::Unknown);
    }
    crate::check(api, answer)?;
    if answer.status != 200 {
        return Err(Failed::Unavailable(answer.said()));
    }
    match done(&answer.body) {
        Outcome::Failed(_) => Err(Failed::Unavailable(answer.said())),
        done => Ok(done),
    }
}

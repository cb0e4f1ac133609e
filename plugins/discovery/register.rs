//! Announcing at the nodes, over HTTP: the calls of `instance.rs`.
//!
//! Every node is told: they pass on to each other what they hear, and do not look whether that arrives.

use std::cell::Cell;
use std::time::Duration;

use guest::entries::Entry;
use guest::http::{self, Failure as Failed, Limit};
use guest::poll;

use crate::Discovery;
use crate::exports::witgate::registry::registrar::{Announcement, Guest, GuestRegistration, Registration};
use crate::instance::{self, Instance, Said};
use crate::nodes;
use crate::settings::Settings;
use crate::witgate::registry::types::Failure;

/// How long a node may take for one answer: all of them are told in turn.
const PATIENCE: Limit = Limit::Whole(Duration::from_secs(3));

/// And when it is told that the instance is gone, for which all of them have five seconds.
const FAREWELL: Limit = Limit::Whole(Duration::from_secs(1));

/// How often the registry expects to hear of an instance, which it takes for dead after 90 seconds.
const HEARTBEAT_MS: u32 = 30_000;

impl Guest for Discovery {
    type Registration = Announced;

    fn register(announcement: Announcement, settings: String) -> Result<Registration, Failure> {
        let settings = Settings::read(&settings).map_err(Failure::Invalid)?;
        let Announcement { service, address, weight, labels } = announcement;
        let entry = Entry { weight, labels, ..Entry::plain(&address) };
        let instance = Instance::new(&settings, &service, &entry).map_err(Failure::Invalid)?;
        let urls = http::urls().map_err(|failure| guest::failure!(failure))?;
        let announced = Announced { instance, urls, first: Cell::new(0) };
        announced.tell(Announced::register).map_err(|failure| guest::failure!(failure))?;
        Ok(Registration::new(announced))
    }
}

impl GuestRegistration for Announced {
    fn renew(&self) -> Result<u32, Failure> {
        let renewed = self.tell(|announced, url| {
            match announced.ask(url, "renew", &announced.instance.which, PATIENCE)? {
                true => Ok(()),
                false => announced.register(url),
            }
        });
        renewed.map(|()| HEARTBEAT_MS).map_err(|failure| guest::failure!(failure))
    }

    fn withdraw(&self) -> Result<(), Failure> {
        let cancel = |url: &str| self.ask(url, "cancel", &self.instance.which, FAREWELL).map(drop);
        nodes::tell_all(&self.urls, &self.first, cancel).map_err(|failure| guest::failure!(failure))
    }
}

/// An instance that is announced, or will be with the next heartbeat.
pub struct Announced {
    instance: Instance,
    urls: Vec<String>,
    /// The number of the node that is told first, so that no others hold up one that answers.
    first: Cell<usize>,
}

impl Announced {
    /// It is enough when one node has been told.
    fn tell(&self, one: impl Fn(&Announced, &str) -> Result<(), Failed>) -> Result<(), Failed> {
        nodes::tell_one(&self.urls, &self.first, |url| one(self, url))
    }

    fn register(&self, url: &str) -> Result<(), Failed> {
        match self.ask(url, "register", &self.instance.register, PATIENCE)? {
            true => Ok(()),
            false => Err(Failed::Unavailable(format!("{url}/api/register answered code 404"))),
        }
    }

    /// Whether the node knows the instance.
    fn ask(&self, url: &str, call: &str, body: &str, limit: Limit) -> Result<bool, Failed> {
        let url = format!("{url}/api/{call}");
        let answer = http::post(&url, "application/json", body.as_bytes(), limit)?;
        poll::check(&answer)?.map_err(Failed::Unavailable)?;
        match instance::read(&answer.body) {
            Ok(Said::Done) => Ok(true),
            Ok(Said::Unknown) => Ok(false),
            Ok(Said::Refused(why)) => Err(Failed::Invalid(format!("{url} answered {why}"))),
            Ok(Said::Failed(why)) => Err(Failed::Unavailable(format!("{url} answered {why}"))),
            Err(why) => Err(Failed::Unavailable(format!("{url}: {why}"))),
        }
    }
}

//! Announcing at a server, over HTTP: what `instance.rs` says.

use std::cell::RefCell;
use std::time::Duration;

use guest::entries::Entry;
use guest::http::{self, Answer, Failure as Failed, Limit};
use guest::servers::{Problem, Servers};

use crate::Eureka;
use crate::exports::witgate::registry::registrar::{Announcement, Guest, GuestRegistration, Registration};
use crate::instance::Instance;
use crate::settings::Settings;
use crate::witgate::registry::types::Failure;

/// How long a server may take for one answer before the next one is asked.
const PATIENCE: Limit = Limit::Whole(Duration::from_secs(5));

/// And when it is told that the instance is gone, for which all of them have five seconds.
const FAREWELL: Limit = Limit::Whole(Duration::from_secs(2));

impl Guest for Eureka {
    type Registration = Announced;

    fn register(announcement: Announcement, settings: String) -> Result<Registration, Failure> {
        let settings = Settings::read(&settings).map_err(Failure::Invalid)?;
        let Announcement { service, address, weight, labels } = announcement;
        let entry = Entry { weight, labels, ..Entry::plain(&address) };
        let instance = Instance::new(&settings, &service, &entry).map_err(Failure::Invalid)?;
        let urls = http::urls().map_err(|failure| guest::failure!(failure))?;
        let announced = Announced { instance, servers: RefCell::new(Servers::new(urls, 0)) };
        announced.tell(Announced::register).map_err(|failure| guest::failure!(failure))?;
        Ok(Registration::new(announced))
    }
}

impl GuestRegistration for Announced {
    fn renew(&self) -> Result<u32, Failure> {
        let renewed = self.tell(|announced, url| {
            let answer = http::put(&announced.at(url), b"", PATIENCE)?;
            // It has forgotten the instance, or never heard of it.
            if answer.status == 404 { announced.register(url) } else { Ok(done(&answer)?) }
        });
        renewed.map_err(|failure| guest::failure!(failure))?;
        Ok(u32::try_from(self.instance.ttl.as_millis() / 3).unwrap_or(u32::MAX))
    }

    fn withdraw(&self) -> Result<(), Failure> {
        let cancelled = self.tell(|announced, url| {
            let answer = http::delete(&announced.at(url), FAREWELL)?;
            if answer.status == 404 { Ok(()) } else { Ok(done(&answer)?) }
        });
        cancelled.map_err(|failure| guest::failure!(failure))
    }
}

/// An instance that is announced, or will be with the next heartbeat.
pub struct Announced {
    instance: Instance,
    servers: RefCell<Servers>,
}

impl Announced {
    /// Tells the server that heard it last, and the next one if that does not answer: they tell each other.
    fn tell(&self, one: impl Fn(&Announced, &str) -> Result<(), Problem>) -> Result<(), Failed> {
        let told = self.servers.borrow_mut().ask(|url| one(self, url));
        told.map_err(|problem| match problem {
            Problem::Failed(failure) => failure,
            Problem::Suspect(why) => Failed::Unavailable(why),
        })
    }

    fn register(&self, url: &str) -> Result<(), Problem> {
        let Instance { application, register, .. } = &self.instance;
        let answer =
            http::post(&format!("{url}{application}"), "application/json", register.as_bytes(), PATIENCE)?;
        Ok(done(&answer)?)
    }

    fn at(&self, url: &str) -> String {
        format!("{url}{}", self.instance.path)
    }
}

fn done(answer: &Answer) -> Result<(), Failed> {
    match answer.status {
        200 | 204 => Ok(()),
        400 => Err(Failed::Invalid(answer.said())),
        401 | 403 => Err(Failed::Denied(answer.said())),
        _ => Err(Failed::Unavailable(answer.said())),
    }
}

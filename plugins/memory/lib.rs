//! The registry inside the gateway: services register over the admin API, or other gateways' upstreams do here.
//!
//! Settings: `ttl_seconds` (default 15), how long an instance that this gateway announces lives without a heartbeat.
//! `{ "ttl_seconds": 15 }`
//!
//! For plugin authors: the connector already speaks the words of the gateway, so this plugin only passes them on.
//! The registrar shows who does what: the gateway owns the timer and calls `renew`, the plugin says when next.

use exports::witgate::registry::registrar::{
    Announcement, Guest as Registrar, GuestRegistration, Registration,
};
use exports::witgate::registry::registry::{
    Failure, Guest as Registry, GuestSubscription, News, Subscription,
};
use witgate::memory::memory::{self, Content};
use witgate::registry::types::{Endpoint, State};

wit_bindgen::generate!({ path: "../../wit", world: "registrar-plugin", generate_all });

export!(Memory);

struct Memory;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    ttl_seconds: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { ttl_seconds: 15 }
    }
}

impl Settings {
    fn read(settings: &str) -> Result<Settings, String> {
        let settings: Settings = guest::settings::read(settings)?;
        match settings.ttl_seconds {
            1..=86_400 => Ok(settings),
            wrong => Err(format!("settings: ttl_seconds: {wrong} is not between 1 and 86400")),
        }
    }
}

impl Registry for Memory {
    type Subscription = memory::Feed;

    fn check(settings: String) -> Result<(), String> {
        Settings::read(&settings).map(drop)
    }

    fn follow(service: String, settings: String) -> Result<Subscription, Failure> {
        Settings::read(&settings).map_err(Failure::Invalid)?;
        Ok(Subscription::new(memory::follow(&service)?))
    }
}

impl GuestSubscription for memory::Feed {
    fn next(&self) -> Result<News, Failure> {
        Ok(match memory::Feed::next(self)? {
            Content::All(endpoints) => News::Complete(endpoints),
            Content::Changes(changes) => News::Changes(changes),
        })
    }
}

impl Registrar for Memory {
    type Registration = Announced;

    fn register(announcement: Announcement, settings: String) -> Result<Registration, Failure> {
        let Settings { ttl_seconds } = Settings::read(&settings).map_err(Failure::Invalid)?;
        let Announcement { service, address, weight, labels } = announcement;
        let endpoint = Endpoint {
            id: address.clone(),
            address,
            weight,
            priority: 0,
            state: State::Ready,
            hostname: None,
            zone: None,
            labels,
        };
        let announced = Announced { service, endpoint, ttl_seconds };
        announced.put()?;
        Ok(Registration::new(announced))
    }
}

struct Announced {
    service: String,
    endpoint: Endpoint,
    ttl_seconds: u32,
}

impl Announced {
    fn put(&self) -> Result<(), Failure> {
        memory::put(&self.service, &self.endpoint, self.ttl_seconds)
    }
}

impl GuestRegistration for Announced {
    fn renew(&self) -> Result<u32, Failure> {
        self.put()?;
        // Two heartbeats may get lost before the announcement does.
        Ok(self.ttl_seconds * 1000 / 3)
    }

    fn withdraw(&self) -> Result<(), Failure> {
        memory::remove(&self.service, &self.endpoint.id)
    }
}

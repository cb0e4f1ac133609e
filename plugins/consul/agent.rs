//! An instance as a service of an agent, with a check that passes while somebody says so.
//!
//! A service belongs to the agent that was told of it: the others know it by the catalog alone. So what keeps it alive
//! and what withdraws it goes to that agent.

use std::collections::BTreeMap;

use guest::entries::{Entry, check_address};
use guest::http::{Failure, together};
use serde_json::json;

use crate::escape::escape;

/// What Consul removes by itself, a moment after it turned critical. It knows no shorter time.
const FORGOTTEN_AFTER: &str = "1m";

/// A service as an agent is told of it.
#[derive(Debug)]
pub struct Service {
    body: String,
    /// Paths, of which each is to be put.
    register: &'static str,
    renew: String,
    deregister: String,
}

impl Service {
    /// The error says what has no place in Consul.
    pub fn new(service: &str, entry: &Entry, tag: Option<&str>, ttl_seconds: u32) -> Result<Service, String> {
        check_address(&entry.address)?;
        let (host, port) = entry.address.rsplit_once(':').unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let id = format!("{service}-{}", entry.address);
        let (mut tags, mut meta) = (Vec::from_iter(tag), BTreeMap::new());
        for (name, value) in &entry.labels {
            if name == "tag" {
                if !tags.contains(&value.as_str()) {
                    tags.push(value);
                }
            } else if meta.insert(name, value).is_some() {
                return Err(format!("label {name}: Consul has one value for each name but `tag`"));
            }
        }
        // A weight of 0 is none in Consul, but for what warns.
        let (weight, status, says) = match entry.weight {
            0 => (1, "warning", "warn"),
            weight => (weight, "passing", "pass"),
        };
        let check = format!("service:{id}");
        let body = json!({
            "ID": id, "Name": service, "Address": host, "Port": port.parse::<u16>().unwrap_or_default(),
            "Tags": tags, "Meta": meta, "Weights": { "Passing": weight, "Warning": entry.weight },
            "Check": { "CheckID": check, "TTL": format!("{ttl_seconds}s"), "Status": status,
                "DeregisterCriticalServiceAfter": FORGOTTEN_AFTER },
        });
        Ok(Service {
            body: body.to_string(),
            register: "/v1/agent/service/register",
            renew: format!("/v1/agent/check/{says}/{}", escape(&check, false)),
            deregister: format!("/v1/agent/service/deregister/{}", escape(&id, false)),
        })
    }
}

/// A service that is announced by one of several agents.
pub struct Announced {
    service: Service,
    agents: Vec<String>,
    /// The one that was told of it last.
    agent: usize,
}

/// Puts a body to a URL. What is not well is a failure.
pub trait Put: Fn(&str, &str) -> Result<(), Failure> {}

impl<P: Fn(&str, &str) -> Result<(), Failure>> Put for P {}

impl Announced {
    /// With one of these agents, the first if it takes it.
    pub fn begin(service: Service, agents: Vec<String>, put: impl Put) -> Result<Announced, Failure> {
        let mut announced = Announced { service, agents, agent: 0 };
        announced.register(&put)?;
        Ok(announced)
    }

    /// Keeps the check from turning critical. An agent that has forgotten the service is told of it again, and where it
    /// does not answer the next is.
    pub fn renew(&mut self, put: impl Put) -> Result<(), Failure> {
        match put(&self.url(self.agent, &self.service.renew), "") {
            Ok(()) => Ok(()),
            // Consul has no answer that says for sure that it knows no such check.
            Err(_) => self.register(&put),
        }
    }

    /// One that is gone already is no error.
    pub fn withdraw(&self, put: impl Put) -> Result<(), Failure> {
        put(&self.url(self.agent, &self.service.deregister), "")
    }

    fn register(&mut self, put: &impl Put) -> Result<(), Failure> {
        let mut failures = Vec::new();
        for turn in 0..self.agents.len() {
            let agent = (self.agent + turn) % self.agents.len();
            match put(&self.url(agent, self.service.register), &self.service.body) {
                Ok(()) => {
                    self.agent = agent;
                    return Ok(());
                }
                Err(failure) => failures.push(failure),
            }
        }
        Err(together(&failures))
    }

    fn url(&self, agent: usize, path: &str) -> String {
        let agent = self.agents.get(agent).map(String::as_str).unwrap_or_default();
        format!("{agent}{path}")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use serde_json::Value;

    use super::*;

    fn entry(address: &str, weight: u32, labels: &[(&str, &str)]) -> Entry {
        let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Entry { weight, labels, ..Entry::plain(address) }
    }

    fn body(service: &Service) -> Value {
        serde_json::from_str(&service.body).unwrap()
    }

    #[test]
    fn an_agent_is_told_what_clients_need() {
        let labels = [("zone", "a"), ("tag", "v1"), ("tag", "v2")];
        let service = Service::new("a/b", &entry("[fd00::1]:80", 3, &labels), Some("v2"), 15).unwrap();
        assert_eq!(
            body(&service),
            json!({
                "ID": "a/b-[fd00::1]:80", "Name": "a/b", "Address": "fd00::1", "Port": 80,
                "Tags": ["v2", "v1"], "Meta": { "zone": "a" }, "Weights": { "Passing": 3, "Warning": 3 },
                "Check": { "CheckID": "service:a/b-[fd00::1]:80", "TTL": "15s", "Status": "passing",
                    "DeregisterCriticalServiceAfter": "1m" },
            })
        );
        assert_eq!(service.renew, "/v1/agent/check/pass/service%3Aa%2Fb-%5Bfd00%3A%3A1%5D%3A80");
        assert_eq!(service.deregister, "/v1/agent/service/deregister/a%2Fb-%5Bfd00%3A%3A1%5D%3A80");
    }

    #[test]
    fn weight_0_is_a_warning_that_weighs_nothing() {
        let service = Service::new("a", &entry("10.0.0.1:80", 0, &[]), None, 15).unwrap();
        let body = body(&service);
        assert_eq!(body["Weights"], json!({ "Passing": 1, "Warning": 0 }));
        assert_eq!(body["Check"]["Status"], "warning");
        assert_eq!(service.renew, "/v1/agent/check/warn/service%3Aa-10.0.0.1%3A80");
    }

    #[test]
    fn what_has_no_place_is_named() {
        for (entry, part) in [
            (entry("10.0.0.1", 1, &[]), "\"10.0.0.1\" has no port"),
            (entry("10.0.0.1:80", 1, &[("zone", "a"), ("zone", "b")]), "label zone: "),
        ] {
            let error = Service::new("a", &entry, None, 15).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    /// Agents, with what they know.
    #[derive(Default)]
    struct Agents {
        gone: RefCell<Vec<&'static str>>,
        known: RefCell<Vec<String>>,
    }

    impl Agents {
        fn put(&self, url: &str, _body: &str) -> Result<(), Failure> {
            let (agent, path) = url.split_once("/v1/").unwrap();
            if self.gone.borrow().contains(&agent) {
                return Err(Failure::Unavailable(format!("{agent} is gone")));
            }
            let mut known = self.known.borrow_mut();
            let knows = known.iter().position(|known| known == agent);
            match (path.split('/').nth(1), knows) {
                (Some("service"), _) if path.contains("deregister") => {
                    known.retain(|known| known != agent);
                }
                (Some("service"), None) => known.push(agent.to_owned()),
                (Some("check"), None) => return Err(Failure::Unavailable("no such check".into())),
                _ => {}
            }
            Ok(())
        }

        fn announced(&self) -> Announced {
            let service = Service::new("a", &entry("10.0.0.1:80", 1, &[]), None, 15).unwrap();
            let urls = ["one", "two"].map(str::to_owned).to_vec();
            Announced::begin(service, urls, |url: &str, body: &str| self.put(url, body)).unwrap()
        }

        fn renew(&self, announced: &mut Announced) -> Result<(), Failure> {
            announced.renew(|url: &str, body: &str| self.put(url, body))
        }
    }

    #[test]
    fn an_agent_that_has_forgotten_is_told_again() {
        let agents = Agents::default();
        let mut announced = agents.announced();
        agents.known.borrow_mut().clear();
        agents.renew(&mut announced).unwrap();
        assert_eq!(*agents.known.borrow(), ["one"]);
    }

    #[test]
    fn an_agent_that_is_gone_is_replaced_and_the_one_that_knows_is_asked_to_forget() {
        let agents = Agents::default();
        let mut announced = agents.announced();
        agents.gone.borrow_mut().push("one");
        agents.renew(&mut announced).unwrap();
        agents.renew(&mut announced).unwrap();
        assert_eq!(*agents.known.borrow(), ["one", "two"]);
        announced.withdraw(|url: &str, body: &str| agents.put(url, body)).unwrap();
        assert_eq!(*agents.known.borrow(), ["one"], "it is not there, and forgets by itself");
        agents.gone.borrow_mut().push("two");
        let failure = agents.renew(&mut announced).unwrap_err();
        assert!(matches!(failure, Failure::Unavailable(text) if text == "two is gone; one is gone"));
    }
}

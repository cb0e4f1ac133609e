//! An instance as a service of an agent, with a check that passes while somebody says so.
//!
//! A service belongs to the agent that was told of it: the others know it by the catalog alone. So what keeps it alive
//! goes to that agent, and what withdraws it to every agent that may know it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use guest::entries::{Entry, check_address};
use guest::escape::escape;
use guest::http::{Failure, together};
use serde_json::json;

/// What Consul removes by itself, a moment after it turned critical. It knows no shorter time.
const FORGOTTEN_AFTER: &str = "1m";

/// How long an agent may take to register it, or to renew it.
const PATIENCE: Duration = Duration::from_secs(5);

/// And to withdraw it: the agent that was told last, and each other. All of it has five seconds.
const FAREWELL: Duration = Duration::from_secs(2);
const SHORT_FAREWELL: Duration = Duration::from_secs(1);

/// A service as an agent is told of it.
#[derive(Debug)]
pub struct Service {
    body: String,
    /// Paths, of which each is to be put.
    register: &'static str,
    renew: String,
    deregister: String,
    /// How long its check passes by itself.
    passes: Duration,
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
            passes: Duration::from_secs(ttl_seconds.into()),
        })
    }
}

/// A service that is announced by one of several agents.
pub struct Announced {
    service: Service,
    agents: Vec<String>,
    /// The one that was told of it last.
    agent: usize,
    /// All that ever were, and may have taken it, with the last time that its check may have passed there.
    told: BTreeMap<usize, Instant>,
}

/// Why a call has not done what it was for.
#[derive(Debug)]
pub enum Problem {
    /// The agent does not know what was asked for.
    Unknown(Failure),
    /// Another answer.
    Answer(Failure),
    NoAnswer(Failure),
}

impl Problem {
    fn failure(self) -> Failure {
        match self {
            Problem::Unknown(failure) | Problem::Answer(failure) | Problem::NoAnswer(failure) => failure,
        }
    }
}

/// Puts a body to a URL, and waits so long for the answer.
pub trait Put: Fn(&str, &str, Duration) -> Result<(), Problem> {}

impl<P: Fn(&str, &str, Duration) -> Result<(), Problem>> Put for P {}

impl Announced {
    /// With one of these agents, the first if it takes it.
    pub fn begin(service: Service, agents: Vec<String>, put: impl Put) -> Result<Announced, Failure> {
        let mut announced = Announced { service, agents, agent: 0, told: BTreeMap::new() };
        announced.register(0, Vec::new(), &put)?;
        Ok(announced)
    }

    /// Keeps the check from turning critical. An agent that has forgotten the service is told of it again, and where it
    /// does not answer the next is.
    pub fn renew(&mut self, put: impl Put) -> Result<(), Failure> {
        match self.tell(self.agent, &self.service.renew.clone(), "", &put) {
            Ok(()) => Ok(()),
            // Whoever said nothing is not waited for again.
            Err(Problem::NoAnswer(failure)) => self.register(1, vec![failure], &put),
            // Not every Consul has an answer that says for sure that it knows no such check.
            Err(problem) => self.register(0, vec![problem.failure()], &put),
        }
    }

    /// One that is gone already is no error, nor is one where an agent that is out of reach has long found its check
    /// critical: it forgets that by itself.
    pub fn withdraw(&self, put: impl Put) -> Result<(), Failure> {
        let ask = |agent, patience| match put(&self.url(agent, &self.service.deregister), "", patience) {
            Ok(()) | Err(Problem::Unknown(_)) => Ok(()),
            Err(problem) => Err(problem.failure()),
        };
        let mut failures = Vec::from_iter(ask(self.agent, FAREWELL).err());
        for (other, passed) in self.told.iter().filter(|(other, _)| **other != self.agent) {
            let asked = ask(*other, SHORT_FAREWELL);
            failures.extend(asked.err().filter(|_| passed.elapsed() < self.service.passes));
        }
        if failures.is_empty() { Ok(()) } else { Err(together(&failures)) }
    }

    /// Tells the agents in turn until one takes it, beginning so many after the one that was told last. `failures` are
    /// what was met before.
    fn register(&mut self, first: usize, mut failures: Vec<Failure>, put: &impl Put) -> Result<(), Failure> {
        for turn in first..self.agents.len() {
            let agent = (self.agent + turn) % self.agents.len();
            match self.tell(agent, self.service.register, &self.service.body.clone(), &put) {
                Ok(()) => {
                    self.agent = agent;
                    return Ok(());
                }
                Err(problem) => failures.push(problem.failure()),
            }
        }
        Err(together(&failures))
    }

    fn tell(&mut self, agent: usize, path: &str, body: &str, put: &impl Put) -> Result<(), Problem> {
        let taken = put(&self.url(agent, path), body, PATIENCE);
        // Whoever has not answered may have taken it, or takes it yet.
        if let Ok(()) | Err(Problem::NoAnswer(_)) = taken {
            self.told.insert(agent, Instant::now());
        }
        taken
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
        /// What came, each as the agent and the verb.
        asked: RefCell<Vec<String>>,
    }

    impl Agents {
        fn put(&self, url: &str, _body: &str) -> Result<(), Problem> {
            let (agent, path) = url.split_once("/v1/agent/").unwrap();
            let verb = path.split('/').nth(1).unwrap();
            self.asked.borrow_mut().push(format!("{agent} {verb}"));
            if self.gone.borrow().contains(&agent) {
                return Err(Problem::NoAnswer(Failure::Unavailable(format!("{agent} is gone"))));
            }
            let mut known = self.known.borrow_mut();
            let knows = known.iter().any(|known| known == agent);
            let unknown = || Failure::Unavailable(format!("{agent} knows of nothing"));
            match (verb, knows) {
                ("register", false) => known.push(agent.to_owned()),
                ("deregister", true) => known.retain(|known| known != agent),
                // Where it says so by a status of its own, and where it does not.
                ("deregister", false) => return Err(Problem::Unknown(unknown())),
                ("pass", false) => return Err(Problem::Answer(unknown())),
                _ => {}
            }
            Ok(())
        }

        fn announced(&self) -> Announced {
            self.announced_for(15)
        }

        fn announced_for(&self, ttl_seconds: u32) -> Announced {
            let service = Service::new("a", &entry("10.0.0.1:80", 1, &[]), None, ttl_seconds).unwrap();
            let urls = ["one", "two"].map(str::to_owned).to_vec();
            Announced::begin(service, urls, |url: &str, body: &str, _| self.put(url, body)).unwrap()
        }

        fn renew(&self, announced: &mut Announced) -> Result<(), Failure> {
            announced.renew(|url: &str, body: &str, _| self.put(url, body))
        }

        fn withdraw(&self, announced: &Announced) -> Result<(), Failure> {
            announced.withdraw(|url: &str, body: &str, _| self.put(url, body))
        }

        fn asked(&self) -> Vec<String> {
            self.asked.take()
        }
    }

    #[test]
    fn an_agent_that_has_forgotten_is_told_again() {
        let agents = Agents::default();
        let mut announced = agents.announced();
        agents.known.borrow_mut().clear();
        agents.renew(&mut announced).unwrap();
        assert_eq!(*agents.known.borrow(), ["one"]);
        assert_eq!(agents.asked(), ["one register", "one pass", "one register"]);
    }

    #[test]
    fn an_agent_that_is_gone_is_replaced_and_all_that_know_are_asked_to_forget() {
        let agents = Agents::default();
        let mut announced = agents.announced();
        agents.gone.borrow_mut().push("one");
        agents.renew(&mut announced).unwrap();
        agents.renew(&mut announced).unwrap();
        assert_eq!(agents.asked(), ["one register", "one pass", "two register", "two pass"]);
        assert_eq!(*agents.known.borrow(), ["one", "two"]);
        let failure = agents.withdraw(&announced).unwrap_err();
        assert!(
            matches!(failure, Failure::Unavailable(text) if text == "one is gone"),
            "its check still passes"
        );
        assert_eq!(agents.asked(), ["two deregister", "one deregister"]);
        assert_eq!(*agents.known.borrow(), ["one"]);
        agents.gone.borrow_mut().clear();
        agents.withdraw(&announced).unwrap();
        assert!(agents.known.borrow().is_empty(), "it is there again");
    }

    #[test]
    fn an_agent_that_is_gone_for_longer_than_its_check_passes_holds_no_withdrawal_up() {
        let agents = Agents::default();
        let mut announced = agents.announced_for(0);
        agents.gone.borrow_mut().push("one");
        agents.renew(&mut announced).unwrap();
        agents.withdraw(&announced).unwrap();
    }

    #[test]
    fn an_agent_that_did_not_answer_may_have_taken_it() {
        let agents = Agents::default();
        agents.gone.borrow_mut().push("one");
        let announced = agents.announced();
        agents.gone.borrow_mut().clear();
        agents.asked();
        agents.withdraw(&announced).unwrap();
        assert_eq!(agents.asked(), ["two deregister", "one deregister"]);
    }

    #[test]
    fn whoever_says_nothing_is_not_waited_for_twice_and_told_of() {
        let agents = Agents::default();
        let mut announced = agents.announced();
        agents.gone.borrow_mut().extend(["two", "one"]);
        agents.asked();
        let failure = agents.renew(&mut announced).unwrap_err();
        assert!(matches!(failure, Failure::Unavailable(text) if text == "one is gone; two is gone"));
        assert_eq!(agents.asked(), ["one pass", "two register"]);
        assert!(agents.withdraw(&announced).is_err());
    }

    #[test]
    fn what_an_agent_says_of_a_check_is_told_with_what_it_says_then() {
        let service = Service::new("a", &entry("10.0.0.1:80", 1, &[]), None, 15).unwrap();
        let mut announced =
            Announced::begin(service, vec!["one".to_owned()], |_: &str, _: &str, _| Ok(())).unwrap();
        let failure = announced.renew(|url: &str, _: &str, _| {
            Err(Problem::Answer(match url.contains("/check/") {
                true => Failure::Unavailable("no such check".into()),
                false => Failure::Denied("no".into()),
            }))
        });
        assert!(matches!(failure, Err(Failure::Denied(text)) if text == "no such check; no"));
    }

    #[test]
    fn a_service_that_is_gone_already_is_withdrawn() {
        let agents = Agents::default();
        let announced = agents.announced();
        agents.known.borrow_mut().clear();
        agents.withdraw(&announced).unwrap();
    }
}

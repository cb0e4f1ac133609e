//! Consistent hash: requests with the same key go to the same endpoint, in every worker and every gateway.
//!
//! Good for endpoints that keep something per user: a cache, a session, a connection. When an endpoint leaves only
//! its own keys move, when one comes it takes its share and nothing else moves. An endpoint that has more than its
//! share of the requests in flight passes new ones on to the next (Mirrokni, Thorup and Zadimoghaddam, "Consistent
//! Hashing with Bounded Loads", 2017), so that one hot key does not bring down an endpoint. A request without the
//! key goes to any endpoint, by weight.
//!
//! | setting | default | meaning |
//! |---|---|---|
//! | `key` | `"client-ip"` | what is hashed: `header:NAME`, `cookie:NAME`, `query:NAME`, `path`, `host`, `method` or `client-ip` |
//! | `bound` | 1.25 | requests in flight an endpoint may have, as a multiple of its fair share; at least 1, or 0 for no bound |
//! | `virtual_nodes` | 100 | points on the ring for an endpoint of mean weight, 1 to 10000; more are more even. `ring.rs` tells when there are fewer |
//!
//! For plugin authors: the gateway hashes the key (`hash-on`), so no text is copied into the plugin, and all
//! gateways agree. What they have to agree on besides is the ring, so its points are made from the `key` of each
//! candidate (its address), never from its slot, which differs from process to process.

mod bound;
mod ring;

use std::cell::RefCell;

use bound::Bounded;
use exports::witgate::selector::selector::{
    Balancer, Candidate, CandidateChange, Created, Guest, GuestBalancer, Request,
};
use fastrand::Rng;
use witgate::selector::load;

wit_bindgen::generate!({ path: "../../wit", world: "selector-plugin", generate_all });

export!(ConsistentHash);

struct ConsistentHash;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    key: String,
    bound: f64,
    virtual_nodes: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { key: "client-ip".to_owned(), bound: 1.25, virtual_nodes: 100 }
    }
}

impl Settings {
    fn read(settings: &str) -> Result<Settings, String> {
        let settings: Settings = guest::settings::read(settings)?;
        if settings.key.is_empty() {
            return Err("settings: key: \"\" names nothing to hash".to_owned());
        }
        if settings.bound != 0.0 && settings.bound < 1.0 {
            return Err(format!("settings: bound: {} is neither 0 nor at least 1", settings.bound));
        }
        if !(1..=10_000).contains(&settings.virtual_nodes) {
            return Err(format!(
                "settings: virtual_nodes: {} is not between 1 and 10000",
                settings.virtual_nodes
            ));
        }
        Ok(settings)
    }
}

impl Guest for ConsistentHash {
    type Balancer = State;

    fn create(settings: String) -> Result<Created, String> {
        let Settings { key, bound, virtual_nodes } = Settings::read(&settings)?;
        let state = State(RefCell::new((Bounded::new(virtual_nodes, bound), Rng::new())));
        Ok(Created { balancer: Balancer::new(state), hash_on: Some(key), attributes: Vec::new() })
    }
}

struct State(RefCell<(Bounded, Rng)>);

impl GuestBalancer for State {
    fn update(&self, changes: Vec<CandidateChange>) {
        let (bounded, _) = &mut *self.0.borrow_mut();
        for change in changes {
            match change {
                CandidateChange::Reset(all) => {
                    bounded.clear();
                    all.iter()
                        .for_each(|Candidate { slot, weight, key, .. }| bounded.put(*slot, *weight, key));
                }
                CandidateChange::Put(Candidate { slot, weight, key, .. }) => bounded.put(slot, weight, &key),
                CandidateChange::Remove(slot) => bounded.remove(slot),
            }
        }
        bounded.settle();
    }

    fn pick(&self, request: Request) -> Option<u32> {
        let (bounded, random) = &mut *self.0.borrow_mut();
        let hash = request.hash.unwrap_or_else(|| random.u64(..));
        bounded.pick(hash, request.tried.as_deref().unwrap_or_default(), |slot| load::get(slot).in_flight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_say_what_is_wrong() {
        assert!(Settings::read(r#"{"key":"header:x-user","bound":0,"virtual_nodes":7}"#).is_ok());
        for (settings, error) in [
            (r#"{"key":""}"#, r#"settings: key: "" names nothing to hash"#),
            (r#"{"bound":0.5}"#, "settings: bound: 0.5 is neither 0 nor at least 1"),
            (r#"{"bound":-1}"#, "settings: bound: -1 is neither 0 nor at least 1"),
            (r#"{"virtual_nodes":0}"#, "settings: virtual_nodes: 0 is not between 1 and 10000"),
            (
                r#"{"hash":"path"}"#,
                "settings: hash: unknown field `hash`, expected one of `key`, `bound`, `virtual_nodes`",
            ),
        ] {
            assert_eq!(Settings::read(settings).err().as_deref(), Some(error));
        }
    }
}

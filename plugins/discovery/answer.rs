//! `/api/fetch`: what is asked of a node, and what is in its answer.
//!
//! The status of HTTP is 200 whatever happened. What happened is the `code` in the body, and the type of `data` depends
//! on it.

use std::time::Duration;

use guest::entries::{Entry, Labels, State};
use serde::Deserialize;
use serde_json::json;

/// The bit of an instance that receives traffic. The only other one is that of an instance that does not.
const UP: u32 = 1;
const ANY: u32 = 0b11;

/// After so long without a renewal the registry takes an instance for dead. It goes on to list it for up to an hour
/// while it protects itself, which it does whenever it hears fewer renewals than it expects.
const EXPIRY: Duration = Duration::from_secs(90);

/// What a node said of a service.
#[derive(Debug, PartialEq)]
pub enum Said {
    List(Vec<(String, Entry)>),
    /// It knows no instance, which is what a node says that has just started, too.
    Nothing,
    /// The answer of a node that cannot serve.
    Failed(String),
    /// The question is not one that it takes.
    Refused(String),
}

/// What is asked about.
pub struct Wanted {
    pub env: String,
    pub appid: String,
    /// None: the first address of an instance, whatever its scheme.
    pub scheme: Option<String>,
}

#[derive(Deserialize)]
struct Outcome {
    code: i64,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Listed {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    instances: Vec<Instance>,
}

#[derive(Deserialize)]
struct Instance {
    hostname: String,
    #[serde(default)]
    env: String,
    #[serde(default)]
    appid: String,
    #[serde(default)]
    addrs: Option<Vec<String>>,
    #[serde(default)]
    version: String,
    status: u32,
    /// By the clock of the node, in nanoseconds.
    #[serde(default)]
    renew_timestamp: i64,
}

impl Wanted {
    /// The body of the question: instances that receive no traffic are asked for, too, since they have not left.
    pub fn question(&self) -> String {
        json!({ "env": self.env, "appid": self.appid, "status": ANY }).to_string()
    }

    /// What is in an answer; the error says what the answer is instead of one of the registry.
    pub fn read(&self, body: &[u8]) -> Result<Said, String> {
        let wrong = |error: serde_json::Error| format!("no answer of the registry: {error}");
        let Outcome { code, message } = serde_json::from_slice(body).map_err(wrong)?;
        match code {
            200 => {
                let Listed { data: Data { instances } } = serde_json::from_slice(body).map_err(wrong)?;
                Ok(Said::List(self.list(instances)))
            }
            404 => Ok(Said::Nothing),
            400 => Ok(Said::Refused(format!("code 400: {message}"))),
            code => Ok(Said::Failed(format!("code {code}: {message}"))),
        }
    }

    fn list(&self, instances: Vec<Instance>) -> Vec<(String, Entry)> {
        // The registry's own key is `APPID-ENV`, which two services may have in common.
        let is = |said: &str, wanted: &str| said.is_empty() || said == wanted;
        let ours: Vec<_> = instances
            .into_iter()
            .filter(|one| is(&one.env, &self.env) && is(&one.appid, &self.appid))
            .collect();
        // When all of them fall silent it is the node that hears nobody, and none of them is worse than the others.
        let newest = ours.iter().map(|one| one.renew_timestamp).max().unwrap_or_default();
        let mut list: Vec<_> = ours.into_iter().filter_map(|one| self.entry(one, newest)).collect();
        // They come in any order.
        list.sort_by(|(one, _), (other, _)| one.cmp(other));
        list
    }

    /// None if the instance has addresses, and none of the scheme that is asked for.
    fn entry(&self, instance: Instance, newest: i64) -> Option<(String, Entry)> {
        let Instance { hostname, addrs, version, status, renew_timestamp, .. } = instance;
        let addrs = addrs.unwrap_or_default();
        let mut addrs = addrs.iter().map(|text| split(text));
        let (scheme, address) = match &self.scheme {
            Some(wanted) => {
                addrs.find(|(scheme, _)| scheme.is_some_and(|s| s.eq_ignore_ascii_case(wanted)))?
            }
            // One that has no address is told of like one that has a wrong one.
            None => addrs.next().unwrap_or((None, "")),
        };
        let silent = u128::try_from(newest.saturating_sub(renew_timestamp)).unwrap_or_default();
        let state = if silent > EXPIRY.as_nanos() { State::Unwell } else { State::Ready };
        let labels =
            [("protocol", scheme), ("version", Some(version.as_str())), ("hostname", Some(&hostname))];
        let labels: Labels = labels
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .filter(|(_, value)| !value.is_empty())
            .collect();
        let weight = if status & UP == 0 { 0 } else { 1 };
        let entry = Entry { weight, state, labels, ..Entry::plain(address) };
        Some((hostname, entry))
    }
}

/// `tcp://10.0.0.1:80`, `http://10.0.0.1:80/path` and `10.0.0.1:80`.
fn split(text: &str) -> (Option<&str>, &str) {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text),
    };
    (scheme, rest.split('/').next().unwrap_or(rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn wanted(scheme: Option<&str>) -> Wanted {
        Wanted { env: "dev".into(), appid: "orders".into(), scheme: scheme.map(str::to_owned) }
    }

    fn instance(hostname: &str, more: Value) -> Value {
        let mut instance = json!({ "env": "dev", "appid": "orders", "hostname": hostname, "version": "1.0",
            "addrs": ["tcp://10.0.0.1:80"], "status": 1, "reg_timestamp": 1, "up_timestamp": 1,
            "renew_timestamp": 1_000_000_000_000_i64, "dirty_timestamp": 1, "latest_timestamp": 1 });
        for (name, value) in more.as_object().unwrap() {
            instance[name] = value.clone();
        }
        instance
    }

    fn read(scheme: Option<&str>, instances: &[Value]) -> Vec<(String, Entry)> {
        let body =
            json!({ "code": 200, "data": { "instances": instances, "latest_timestamp": 7 }, "message": "" });
        match wanted(scheme).read(body.to_string().as_bytes()).unwrap() {
            Said::List(list) => list,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_instance_is_read_with_all_that_is_said_of_it() {
        let list = read(None, &[instance("h2", json!({ "status": 2 })), instance("h1", json!({}))]);
        let labels = |hostname: &str| {
            [("protocol", "tcp"), ("version", "1.0"), ("hostname", hostname)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec()
        };
        let first = Entry { labels: labels("h1"), ..Entry::plain("10.0.0.1:80") };
        let second = Entry { labels: labels("h2"), weight: 0, ..Entry::plain("10.0.0.1:80") };
        assert_eq!(list, [("h1".to_owned(), first), ("h2".to_owned(), second)]);
        assert_eq!(wanted(None).question(), r#"{"appid":"orders","env":"dev","status":3}"#);
    }

    #[test]
    fn an_instance_has_one_address_that_of_the_scheme_if_one_is_named() {
        let address = |scheme: Option<&str>, addrs: Value| {
            let list = read(scheme, &[instance("h", json!({ "addrs": addrs }))]);
            list.first().map(|(_, entry)| entry.address.clone())
        };
        let several = || json!(["http://a:80/x", "grpc://a:81", "a:82"]);
        assert_eq!(address(None, several()).as_deref(), Some("a:80"));
        assert_eq!(address(Some("grpc"), several()).as_deref(), Some("a:81"));
        assert_eq!(address(Some("GRPC"), several()).as_deref(), Some("a:81"));
        assert_eq!(address(Some("tcp"), several()), None);
        assert_eq!(address(None, json!(["a:82"])).as_deref(), Some("a:82"));
        // These are left out by the gateway, which says why.
        assert_eq!(address(None, json!([])).as_deref(), Some(""));
        assert_eq!(address(None, json!(null)).as_deref(), Some(""));
        assert_eq!(address(None, json!(["what is this"])).as_deref(), Some("what is this"));
    }

    #[test]
    fn an_instance_that_renews_no_more_while_others_do_is_unwell() {
        let at = |seconds: i64| json!({ "renew_timestamp": (1_000 + seconds) * 1_000_000_000 });
        let states = |renewed: &[i64]| {
            let all = renewed.iter().enumerate();
            let all: Vec<_> =
                all.map(|(number, seconds)| instance(&format!("h{number}"), at(*seconds))).collect();
            read(None, &all).into_iter().map(|(_, entry)| entry.state).collect::<Vec<_>>()
        };
        let (ready, unwell) = (State::Ready, State::Unwell);
        assert_eq!(states(&[0, 91]), [unwell, ready]);
        assert_eq!(states(&[0, 90]), [ready, ready]);
        // Nobody is heard, or there is nobody else.
        assert_eq!(states(&[-500, -490]), [ready, ready]);
        assert_eq!(states(&[-500]), [ready]);
        assert_eq!(states(&[i64::MIN / 1_000_000_000, 91]), [unwell, ready]);
    }

    #[test]
    fn a_service_with_the_same_key_is_another_one() {
        // `orders-eu` in `dev` and `orders` in `eu-dev` have the key `orders-eu-dev` both.
        let other = instance("h", json!({ "env": "eu-dev" }));
        assert_eq!(read(None, &[other]), []);
    }

    #[test]
    fn the_code_says_what_an_answer_is() {
        let read = |body: &str| wanted(None).read(body.as_bytes());
        let missing = r#"{"code":404,"data":"","message":"code: 404, error info: not found"}"#;
        assert_eq!(read(missing), Ok(Said::Nothing));
        let refused = read(r#"{"code":400,"message":"bad"}"#);
        assert_eq!(refused, Ok(Said::Refused("code 400: bad".into())));
        assert_eq!(read(r#"{"code":500}"#), Ok(Said::Failed("code 500: ".into())));
        for body in [
            "",
            "<html>",
            "[]",
            r#"{"sign":"in"}"#,
            r#"{"code":"200"}"#,
            r#"{"code":200}"#,
            r#"{"code":200,"data":""}"#,
            r#"{"code":200,"data":{"instances":null}}"#,
            r#"{"code":200,"data":{"instances":[{"hostname":"h"}]}}"#,
        ] {
            assert!(read(body).unwrap_err().starts_with("no answer of the registry: "), "{body}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_is_too_much(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = wanted(None).read(&body);
        }
    }
}

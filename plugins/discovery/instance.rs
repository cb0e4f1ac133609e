//! `/api/register`, `/api/renew` and `/api/cancel`: an instance as a node is told of it, and what the node says.

use guest::entries::{Entry, check_address};
use serde::Deserialize;
use serde_json::json;

use crate::settings::{Settings, check_scheme, check_there};

/// An instance that is announced: the bodies of the calls.
#[derive(Debug, PartialEq)]
pub struct Instance {
    pub register: String,
    /// Of the others.
    pub which: String,
}

/// What a node said.
#[derive(Debug, PartialEq)]
pub enum Said {
    Done,
    /// It knows no such instance.
    Unknown,
    Failed(String),
    /// It will not take that ever.
    Refused(String),
}

impl Instance {
    /// The error says why it cannot be announced.
    pub fn new(settings: &Settings, appid: &str, entry: &Entry) -> Result<Instance, String> {
        if appid.is_empty() {
            return Err("service: \"\" is no appid".to_owned());
        }
        let address = &entry.address;
        check_address(address)?;
        let label = |name: &str| {
            entry.labels.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
        };
        // The scheme that is read must be the one that is written.
        let protocol = label("protocol");
        protocol.map_or(Ok(()), check_scheme).map_err(|why| format!("label protocol: {why}"))?;
        let address_of = match settings.scheme.as_deref().or(protocol) {
            Some(scheme) => format!("{scheme}://{address}"),
            None => address.clone(),
        };
        // Nodes know an instance by that alone.
        let hostname = label("hostname").unwrap_or(address);
        check_there(hostname).map_err(|why| format!("label hostname: {why}"))?;
        let mut body = json!({ "env": settings.env, "appid": appid, "hostname": hostname });
        let which = body.to_string();
        body["addrs"] = json!([address_of]);
        body["status"] = json!(if entry.weight == 0 { 2 } else { 1 });
        body["version"] = json!(label("version").unwrap_or_default());
        Ok(Instance { register: body.to_string(), which })
    }
}

/// What is in an answer; the error says what the answer is instead of one of the registry.
pub fn read(body: &[u8]) -> Result<Said, String> {
    #[derive(Deserialize)]
    struct Outcome {
        code: i64,
        #[serde(default)]
        message: String,
    }
    let Outcome { code, message } =
        serde_json::from_slice(body).map_err(|error| format!("no answer of the registry: {error}"))?;
    Ok(match code {
        200 => Said::Done,
        404 => Said::Unknown,
        400 => Said::Refused(format!("code 400: {message}")),
        code => Said::Failed(format!("code {code}: {message}")),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn instance(settings: &str, weight: u32, labels: &[(&str, &str)]) -> (Value, Value) {
        let settings = Settings::read(settings).unwrap();
        let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let entry = Entry { weight, labels, ..Entry::plain("10.0.0.1:80") };
        let Instance { register, which } = Instance::new(&settings, "orders", &entry).unwrap();
        (serde_json::from_str(&register).unwrap(), serde_json::from_str(&which).unwrap())
    }

    #[test]
    fn a_node_is_told_what_clients_need() {
        let labels = [("version", "2"), ("protocol", "http"), ("zone", "a")];
        let (register, which) = instance(r#"{"env":"dev"}"#, 3, &labels);
        let expected = json!({ "env": "dev", "appid": "orders", "hostname": "10.0.0.1:80" });
        assert_eq!(which, expected);
        assert_eq!(
            register,
            json!({ "env": "dev", "appid": "orders", "hostname": "10.0.0.1:80", "version": "2", "status": 1,
                "addrs": ["http://10.0.0.1:80"] })
        );
    }

    #[test]
    fn it_is_written_as_the_settings_read_it() {
        let (register, which) =
            instance(r#"{"env":"dev","scheme":"tcp"}"#, 0, &[("protocol", "http"), ("hostname", "h")]);
        assert_eq!((&register["addrs"], &register["status"]), (&json!(["tcp://10.0.0.1:80"]), &json!(2)));
        assert_eq!((&register["hostname"], &which["hostname"]), (&json!("h"), &json!("h")));
        assert_eq!(instance(r#"{"env":"dev"}"#, 1, &[]).0["addrs"], json!(["10.0.0.1:80"]));
    }

    #[test]
    fn what_cannot_be_announced_is_told() {
        let settings = Settings::read(r#"{"env":"dev"}"#).unwrap();
        for (appid, address, part) in [("", "a:1", "no appid"), ("orders", "a", "no port")] {
            let error = Instance::new(&settings, appid, &Entry::plain(address)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        for (name, value, expected) in [
            ("protocol", "http://x", r#"label protocol: "http://x" is none, write what stands before `://`"#),
            ("protocol", "", r#"label protocol: "" is none"#),
            ("hostname", "", r#"label hostname: "" is none"#),
        ] {
            let labels = vec![(name.to_owned(), value.to_owned())];
            let entry = Entry { labels, ..Entry::plain("10.0.0.1:80") };
            assert_eq!(Instance::new(&settings, "orders", &entry), Err(expected.to_owned()));
        }
    }

    #[test]
    fn the_code_says_what_came_of_it() {
        for (body, expected) in [
            (r#"{"code":200}"#, Said::Done),
            (r#"{"code":404,"data":"","message":"m"}"#, Said::Unknown),
            (r#"{"code":400,"message":"m"}"#, Said::Refused("code 400: m".to_owned())),
            (r#"{"code":500,"message":"m"}"#, Said::Failed("code 500: m".to_owned())),
        ] {
            assert_eq!(read(body.as_bytes()), Ok(expected));
        }
        assert!(read(b"<html>").unwrap_err().starts_with("no answer of the registry: "));
    }
}

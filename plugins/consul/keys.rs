//! An instance as servers of rpcx write it: a key that is held by a session, and goes with it.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use guest::announce::Found;
use guest::escape::escape;
use serde::Deserialize;
use serde_json::json;

/// By which the library that rpcx uses knows its own keys: `LockFlagValue` of Consul's client in Go.
const FLAGS: u64 = 0x2ddc_cbc0_58a5_0c18;

/// What a session is made of. It depends on no check of the agent's node: one that is out of reach for a moment would
/// take all keys with it.
pub fn session(ttl_seconds: u32) -> String {
    // A key that was held by a session which has expired can be held again at once.
    json!({ "Name": "witgate", "Behavior": "delete", "TTL": format!("{ttl_seconds}s"), "LockDelay": "1ms",
        "NodeChecks": [], "Checks": [] })
    .to_string()
}

/// The id of a session that was made.
pub fn session_id(body: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Session {
        #[serde(rename = "ID")]
        id: String,
    }
    let session: Session = serde_json::from_slice(body).map_err(|error| format!("no session: {error}"))?;
    match session.id {
        id if id.is_empty() => Err("a session without an id".to_owned()),
        id => Ok(id),
    }
}

/// Where a key is read.
pub fn path(key: &str) -> String {
    format!("/v1/kv/{}", escape(key, true))
}

/// Where a key is put, to be held by a session. It is not if another one holds it.
pub fn hold(key: &str, session: &str) -> String {
    format!("{}?flags={FLAGS}&acquire={session}", path(key))
}

/// Where a key is put, to be held by this session no more.
pub fn let_go(key: &str, session: &str) -> String {
    format!("{}?flags={FLAGS}&release={session}", path(key))
}

/// The value of a key and the session that holds it, which is "" if none does.
pub fn read(body: &[u8]) -> Result<Found<String>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Pair {
        #[serde(default)]
        value: Option<String>,
        #[serde(default)]
        session: String,
    }
    let pairs: Vec<Pair> = serde_json::from_slice(body).map_err(|error| format!("no key: {error}"))?;
    let Some(Pair { value, session }) = pairs.into_iter().next() else {
        return Err("no key".to_owned());
    };
    let value = BASE64_STANDARD.decode(value.unwrap_or_default());
    let value = value.map_err(|error| format!("a value that is no base64: {error}"))?;
    Ok(Found { value, on: session })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_put_as_rpcx_puts_it() {
        assert_eq!(
            hold("base/a b/tcp@10.0.0.1:80", "s"),
            "/v1/kv/base/a%20b/tcp%4010.0.0.1%3A80?flags=3304740253564472344&acquire=s"
        );
        assert_eq!(let_go("k", "s"), "/v1/kv/k?flags=3304740253564472344&release=s");
    }

    #[test]
    fn answers_are_read() {
        assert_eq!(session_id(br#"{"ID":"7"}"#).as_deref(), Ok("7"));
        assert!(session_id(br#"{"ID":""}"#).is_err() && session_id(b"true").is_err());
        let found = |value: &str, on: &str| Ok(Found { value: value.into(), on: on.to_owned() });
        assert_eq!(read(br#"[{"Key":"k","Value":"YQ==","Session":"7"}]"#), found("a", "7"));
        assert_eq!(read(br#"[{"Key":"k","Value":null}]"#), found("", ""));
        for body in [&b"[]"[..], b"{}", br#"[{"Value":"%"}]"#] {
            assert!(read(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
    }
}

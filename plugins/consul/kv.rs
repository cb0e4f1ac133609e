//! `/v1/kv/BASE/SERVICE/?recurse`: what servers of rpcx write, a key for each instance.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use guest::entries::Entry;
use guest::rpcx::Wanted;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pair {
    key: String,
    /// In base64; null where it is empty.
    #[serde(default)]
    value: Option<String>,
}

/// The instances in an answer; the error says what the answer is instead of a list.
pub fn read(body: &[u8], prefix: &str, wanted: &Wanted) -> Result<Vec<(String, Entry)>, String> {
    let pairs: Vec<Pair> =
        serde_json::from_slice(body).map_err(|error| format!("no list of keys: {error}"))?;
    let mut list: Vec<_> = pairs.into_iter().filter_map(|pair| pair.entry(prefix, wanted)).collect();
    list.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(list)
}

impl Pair {
    /// None for a folder, and for an instance of another service or one that is not asked for.
    fn entry(self, prefix: &str, wanted: &Wanted) -> Option<(String, Entry)> {
        let instance =
            self.key.strip_prefix(prefix).filter(|rest| !rest.is_empty() && !rest.contains('/'))?;
        // A value that is no base64 says as little as none.
        let value = BASE64_STANDARD.decode(self.value.unwrap_or_default()).unwrap_or_default();
        let entry = wanted.read(instance, &String::from_utf8_lossy(&value))?;
        Some((self.key, entry))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_key_below_the_service_is_an_instance() {
        let body = json!([
            { "Key": "rpcx_test/Arith", "Value": "QXJpdGg=" },
            { "Key": "rpcx_test/Arith/tcp@10.0.0.2:8972", "Value": BASE64_STANDARD.encode("weight=3&group=a") },
            { "Key": "rpcx_test/Arith/tcp@10.0.0.1:8972", "Value": null },
            { "Key": "rpcx_test/Arith/quic@10.0.0.3:8972", "Value": null },
            { "Key": "rpcx_test/Arith/deep/tcp@10.0.0.4:8972", "Value": null },
            { "Key": "rpcx_test/Arith2/tcp@10.0.0.5:8972", "Value": null },
            { "Key": "rpcx_test/Arith/tcp@10.0.0.6:8972", "Value": BASE64_STANDARD.encode("state=inactive") },
        ]);
        let list = read(body.to_string().as_bytes(), "rpcx_test/Arith/", &Wanted::new(None, None)).unwrap();
        let found: Vec<_> = list.iter().map(|(_, entry)| (entry.address.as_str(), entry.weight)).collect();
        assert_eq!(found, [("10.0.0.1:8972", 1), ("10.0.0.2:8972", 3), ("10.0.0.6:8972", 0)]);
        assert_eq!(list[0].0, "rpcx_test/Arith/tcp@10.0.0.1:8972");
    }

    #[test]
    fn what_is_no_list_is_told() {
        let wanted = Wanted::new(None, None);
        assert!(read(b"<html>", "a/", &wanted).unwrap_err().starts_with("no list of keys: "));
        assert_eq!(read(b"[]", "a/", &wanted), Ok(Vec::new()));
    }
}

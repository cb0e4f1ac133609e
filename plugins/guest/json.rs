//! An instance as a value of JSON: the layout `json` of several registries.
//!
//! `{"address":"host:port","weight":2,"labels":{"version":"2"}}`, with `priority`, `state`, `hostname` and `zone` if
//! there are any, or gRPC's `{"Op":0,"Addr":"host:port","Metadata":{}}`.

use serde::Deserialize;
use serde_json::Value;

use crate::entries::{Entry, Labels, WrittenLabels};

/// Others write it, so what is not known is passed over.
#[derive(Deserialize)]
struct Json {
    #[serde(alias = "Addr", alias = "addr")]
    address: String,
    #[serde(default)]
    weight: Value,
    #[serde(default)]
    priority: Value,
    #[serde(default)]
    state: Value,
    #[serde(default)]
    hostname: Value,
    #[serde(default)]
    zone: Value,
    #[serde(default)]
    labels: Option<WrittenLabels>,
    #[serde(default, rename = "Metadata", alias = "metadata")]
    metadata: Value,
    /// gRPC's: 1 says that the endpoint is deleted.
    #[serde(default, rename = "Op")]
    op: u8,
}

/// The instance that a value stands for; none if it is empty or says that there is none. A value that makes no sense is
/// passed on as the address, so that the gateway reports it.
pub fn read(value: &str) -> Option<Entry> {
    let Ok(Json { address, weight, priority, state, hostname, zone, labels, metadata, op }) =
        serde_json::from_str(value)
    else {
        return (!value.is_empty()).then(|| Entry::plain(value));
    };
    let labels = labels.map(|labels| labels.0).unwrap_or_else(|| metadata_labels(&metadata));
    let text = |value: Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    (op != 1).then(|| Entry {
        address,
        weight: weight_of(&weight),
        // What makes no sense is as good as not there: others write it.
        priority: priority.as_u64().and_then(|priority| priority.try_into().ok()).unwrap_or(0),
        state: serde_json::from_value(state).unwrap_or_default(),
        hostname: text(hostname),
        zone: text(zone),
        labels,
    })
}

/// What can be a label of metadata, which may be anything.
pub fn metadata_labels(metadata: &Value) -> Labels {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    };
    let object = metadata.as_object().into_iter().flatten();
    object.filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect()
}

/// As with rpcx: 1 when it is missing or no integer, 0 when it is negative, the greatest when it is too great.
fn weight_of(weight: &Value) -> u32 {
    match (weight.as_u64(), weight.as_i64()) {
        (Some(weight), _) => weight.try_into().unwrap_or(u32::MAX),
        (None, Some(_)) => 0,
        (None, None) => 1,
    }
}

/// What [`read`] reads again.
pub fn write(entry: &Entry) -> String {
    serde_json::json!({ "address": entry.address, "weight": entry.weight, "labels": entry.labels })
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_instance_is_none_and_what_makes_no_sense_is_passed_on() {
        assert_eq!(read(""), None);
        assert_eq!(read(r#"{"Op":1,"Addr":"a:1"}"#), None);
        assert_eq!(read("{broken"), Some(Entry::plain("{broken")));
        assert_eq!(
            read(r#"{"address":"a:1","weight":-2}"#),
            Some(Entry { weight: 0, ..Entry::plain("a:1") })
        );
    }
}

//! Settings, as the operator wrote them.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Reads settings. The error names the key and the value that are wrong.
pub fn read<T: DeserializeOwned>(settings: &str) -> Result<T, String> {
    let object: Map<String, Value> =
        serde_json::from_str(settings).map_err(|error| format!("settings: no JSON object: {error}"))?;
    serde_path_to_error::deserialize(Value::Object(object)).map_err(|error| {
        match error.path().to_string().as_str() {
            "." => format!("settings: {}", error.inner()),
            path => format!("settings: {path}: {}", error.inner()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        #[serde(default)]
        #[expect(dead_code, reason = "only its type matters here")]
        choices: u32,
    }

    #[test]
    fn an_error_names_key_and_value() {
        for (settings, error) in [
            (r#"{"choices":"two"}"#, r#"settings: choices: invalid type: string "two", expected u32"#),
            (r#"{"choises":2}"#, "settings: choises: unknown field `choises`, expected `choices`"),
            ("[1, 2]", "settings: no JSON object: invalid type: sequence, expected a map at line 1 column 0"),
            ("{", "settings: no JSON object: EOF while parsing an object at line 1 column 1"),
        ] {
            assert_eq!(read::<Settings>(settings).unwrap_err(), error);
        }
        assert!(read::<Settings>("{}").is_ok());
    }
}

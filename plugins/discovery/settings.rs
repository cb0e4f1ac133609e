//! What the operator wrote, checked.

use std::time::Duration;

use serde::Deserialize;

#[derive(Clone, Debug)]
pub struct Settings {
    pub env: String,
    /// None: the first address of an instance, whatever its scheme.
    pub scheme: Option<String>,
    /// Between one answer and the next question.
    pub pause: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    env: String,
    scheme: Option<String>,
    #[serde(default = "five")]
    poll_seconds: u64,
}

fn five() -> u64 {
    5
}

impl Settings {
    /// The error names the key and the value.
    pub fn read(text: &str) -> Result<Settings, String> {
        let Written { env, scheme, poll_seconds } = guest::settings::read(text)?;
        check_there(&env).map_err(|why| format!("settings: env: {why}"))?;
        if let Some(scheme) = &scheme {
            check_scheme(scheme).map_err(|why| format!("settings: scheme: {why}"))?;
        }
        if !(1..=600).contains(&poll_seconds) {
            return Err(format!("settings: poll_seconds: {poll_seconds} is not between 1 and 600"));
        }
        Ok(Settings { env, scheme, pause: Duration::from_secs(poll_seconds) })
    }
}

/// The error says what is wrong with the text, wherever it stands.
pub fn check_scheme(text: &str) -> Result<(), String> {
    check_there(text)?;
    match text.contains([':', '/']) {
        true => Err(format!("{text:?} is none, write what stands before `://`")),
        false => Ok(()),
    }
}

pub fn check_there(text: &str) -> Result<(), String> {
    if text.is_empty() { Err("\"\" is none".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_name_key_and_value() {
        for (settings, part) in [
            ("{}", "missing field `env`"),
            (r#"{"env":""}"#, r#"env: "" is none"#),
            (r#"{"env":"dev","scheme":""}"#, r#"scheme: "" is none"#),
            (r#"{"env":"dev","scheme":"tcp://"}"#, r#"scheme: "tcp://" is none"#),
            (r#"{"env":"dev","poll_seconds":0}"#, "poll_seconds: 0 is not between 1 and 600"),
            (r#"{"env":"dev","hostname":"h"}"#, "unknown field `hostname`"),
        ] {
            let error = Settings::read(settings).unwrap_err();
            assert!(error.contains(part), "{settings}: {error}");
        }
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let Settings { env, scheme, pause } = Settings::read(r#"{"env":"dev"}"#).unwrap();
        assert_eq!((env.as_str(), scheme, pause), ("dev", None, Duration::from_secs(5)));
    }
}

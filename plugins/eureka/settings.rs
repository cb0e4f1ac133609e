//! What the operator wrote, checked.

use std::time::Duration;

use serde::Deserialize;

#[derive(Clone, Debug)]
pub struct Settings {
    /// Of which instances are wanted, too, where the server knows it as a remote one.
    pub region: Option<String>,
    /// Instances are at their secure ports.
    pub secure: bool,
    /// Instances are at their host names.
    pub by_name: bool,
    /// Between one answer and the next question.
    pub pause: Duration,
    /// How long an announcement outlives the gateway.
    pub ttl_seconds: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    region: Option<String>,
    #[serde(default)]
    secure: bool,
    #[serde(default)]
    by_name: bool,
    #[serde(default = "ten")]
    poll_seconds: u64,
    #[serde(default = "ninety")]
    ttl_seconds: u32,
}

fn ten() -> u64 {
    10
}

fn ninety() -> u32 {
    90
}

impl Settings {
    /// The error names the key and the value.
    pub fn read(text: &str) -> Result<Settings, String> {
        let Written { region, secure, by_name, poll_seconds, ttl_seconds } = guest::settings::read(text)?;
        if let Some(region) = &region {
            // Several are a list with commas there.
            if region.is_empty() || region.contains(',') {
                return Err(format!("settings: region: {region:?} is not one region"));
            }
        }
        if !(1..=600).contains(&poll_seconds) {
            return Err(format!("settings: poll_seconds: {poll_seconds} is not between 1 and 600"));
        }
        if !(3..=86_400).contains(&ttl_seconds) {
            return Err(format!("settings: ttl_seconds: {ttl_seconds} is not between 3 and 86400"));
        }
        let pause = Duration::from_secs(poll_seconds);
        Ok(Settings { region, secure, by_name, pause, ttl_seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_name_key_and_value() {
        for (settings, part) in [
            (r#"{"region":""}"#, r#"region: "" is not one region"#),
            (r#"{"region":"a,b"}"#, r#"region: "a,b" is not one region"#),
            (r#"{"secure":"yes"}"#, "secure: invalid type"),
            (r#"{"poll_seconds":0}"#, "poll_seconds: 0 is not between 1 and 600"),
            (r#"{"ttl_seconds":2}"#, "ttl_seconds: 2 is not between 3 and 86400"),
            (r#"{"app":"orders"}"#, "unknown field `app`"),
        ] {
            let error = Settings::read(settings).unwrap_err();
            assert!(error.contains(part), "{settings}: {error}");
        }
    }

    #[test]
    fn nothing_has_to_be_said() {
        let Settings { region, secure, by_name, pause, ttl_seconds } = Settings::read("{}").unwrap();
        assert_eq!((region, secure, by_name), (None, false, false));
        assert_eq!((pause, ttl_seconds), (Duration::from_secs(10), 90));
    }
}

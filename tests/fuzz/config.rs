//! A configuration as somebody may write it: either it is right, or what is wrong is told with a place in the text.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use witgate::{config, telemetry::text::shown};

fuzz_target!(|text: &str| {
    let lines = text.split('\n').count();
    match config::parse(text, Path::new("/nowhere/witgate.toml")) {
        Ok(config) => assert!(config::restart_needed(&config, &config).is_empty()),
        Err(problems) => {
            assert!(!problems.list().is_empty());
            let told = problems.to_string();
            for problem in problems.list() {
                let message = shown(&problem.message).to_string();
                assert!(told.contains(&message), "{problem:?}");
                let place = problem.place;
                assert!(
                    place.is_none_or(|(line, column)| (1..=lines).contains(&line) && column >= 1),
                    "{problem:?}"
                );
            }
        }
    }
});

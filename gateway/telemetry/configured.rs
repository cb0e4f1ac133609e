//! What became of the configuration file: which one is in force since when, and why a later one is not.

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

/// How the configuration stands. Written when a file is read, which is rare.
#[derive(Debug)]
pub struct Configured(Mutex<State>);

#[derive(Debug)]
struct State {
    file: Option<PathBuf>,
    applied: SystemTime,
    refused: Option<RefusedFile>,
}

/// Why the file as it is now is not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedFile {
    pub at: SystemTime,
    /// One line for each.
    pub problems: Vec<String>,
}

impl Default for Configured {
    /// A configuration is in force from the start.
    fn default() -> Self {
        Self(Mutex::new(State { file: None, applied: SystemTime::now(), refused: None }))
    }
}

impl Configured {
    /// This file is followed.
    pub fn follow(&self, file: PathBuf) {
        self.state().file = Some(file);
    }

    /// Another configuration is in force.
    pub fn applied(&self) {
        let mut state = self.state();
        (state.applied, state.refused) = (SystemTime::now(), None);
    }

    /// The file says again what is in force.
    pub fn unchanged(&self) {
        self.state().refused = None;
    }

    /// The file is not taken.
    pub fn refuse(&self, problems: Vec<String>) {
        self.state().refused = Some(RefusedFile { at: SystemTime::now(), problems });
    }

    /// The file that is followed, if any is.
    pub fn file(&self) -> Option<PathBuf> {
        self.state().file.clone()
    }

    /// Since when what runs is in force.
    pub fn since(&self) -> SystemTime {
        self.state().applied
    }

    pub fn refused(&self) -> Option<RefusedFile> {
        self.state().refused.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_lasts_until_the_file_is_right_again() {
        let configured = Configured::default();
        let since = configured.since();
        configured.refuse(vec!["line 3".into()]);
        assert_eq!(configured.refused().unwrap().problems, ["line 3"]);
        assert_eq!(configured.since(), since);
        configured.unchanged();
        assert_eq!((configured.refused(), configured.since()), (None, since));
        configured.refuse(vec!["line 4".into()]);
        configured.applied();
        assert!(configured.refused().is_none() && configured.since() >= since);
    }
}

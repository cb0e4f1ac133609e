//! What is kept of an upstream over a restart, and given from one owner to the next.

mod file;

use std::{sync::Arc, time::SystemTime};

use super::{Drains, Endpoint, HealthRecord, SourceState};

/// All that decides what an upstream offers later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// When all this was so.
    pub at: SystemTime,
    pub sources: Vec<SavedSource>,
    pub pin: Option<SavedPin>,
    pub drains: Drains,
    /// None: nobody wrote down who answers, and every endpoint is new.
    pub health: Option<HealthRecord>,
}

/// A list that the operator pinned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedPin {
    pub since: SystemTime,
    pub list: Vec<Endpoint>,
}

/// What one source believed last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedSource {
    pub registry: Arc<str>,
    pub service: Arc<str>,
    /// When the registry answered last.
    pub heard: Option<SystemTime>,
    pub state: SourceState,
}

impl Saved {
    /// As it stands in a file.
    pub fn write(&self) -> serde_json::Result<Box<serde_json::value::RawValue>> {
        serde_json::value::to_raw_value(&file::List::from(self))
    }

    /// What stands in a file of this version of the format or an earlier one.
    pub fn read(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str::<file::List>(text).map(Self::from)
    }
}

//! How much a registry is believed when it says that instances are gone.

use std::time::Duration;

/// How much one source is believed.
///
/// The defaults let an ordinary deployment of any size pass: half of a list may leave within a minute without
/// question, and above that nothing changes for clients as long as the replacements answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// The share of a list, 0 to 1, that may leave within `window` without doubt. 0.5 by default: one of two may
    /// leave, and what is left carries at most twice its load.
    pub max_drop: f64,
    /// Removals within this time count together, in one answer or key by key. 60 s by default: leases that expire
    /// together do so within their time to live, which is rarely longer.
    pub window: Duration,
    /// A removal in doubt is believed after the registry has stood by it for so long while it claims an endpoint that
    /// answers. 5 min by default: longer than a registry takes to restart and be filled again.
    pub confirm: Duration,
    /// The same where nothing that is claimed answers, so that the reserve is all there is. None, never, by default.
    pub confirm_all: Option<Duration>,
    /// The age of a list that is an alarm. It removes nothing. 1 h by default.
    pub max_stale: Duration,
    /// The source is a list that the operator wrote into the configuration: it applies as written, and nothing that it
    /// leaves out is held back. False by default.
    pub as_written: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_drop: 0.5,
            window: Duration::from_secs(60),
            confirm: Duration::from_secs(300),
            confirm_all: None,
            max_stale: Duration::from_secs(3_600),
            as_written: false,
        }
    }
}

impl Policy {
    /// How many of a list of this length may leave within the window without doubt.
    pub(super) fn may_leave(&self, list: usize) -> usize {
        ((list as f64 * self.max_drop.clamp(0.0, 1.0)) as usize).min(list)
    }

    /// How many claimed endpoints have to answer so that the reserve of a list of this length is not offered.
    pub(super) fn enough(&self, list: usize) -> usize {
        (list - self.may_leave(list)).max(1)
    }
}

//! Whether the gateway wants traffic.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering::Relaxed},
};

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

/// Whether the gateway wants traffic. Goes from starting to ready to draining, and never back.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicU8>);

impl Readiness {
    /// The configuration is applied, and every configured upstream has a list or had its chance to get one.
    pub fn ready(&self) {
        self.0.fetch_max(READY, Relaxed);
    }

    /// The process is about to end.
    pub fn draining(&self) {
        self.0.fetch_max(DRAINING, Relaxed);
    }

    pub fn is_ready(&self) -> bool {
        self.0.load(Relaxed) == READY
    }

    pub fn is_draining(&self) -> bool {
        self.0.load(Relaxed) == DRAINING
    }

    /// The word for the API: `starting`, `ready` or `draining`.
    pub fn as_str(&self) -> &'static str {
        match self.0.load(Relaxed) {
            STARTING => "starting",
            READY => "ready",
            _ => "draining",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draining_is_final() {
        let readiness = Readiness::default();
        assert_eq!(readiness.as_str(), "starting");
        readiness.ready();
        assert!(readiness.is_ready());
        readiness.draining();
        readiness.ready();
        assert_eq!(readiness.as_str(), "draining");
    }
}

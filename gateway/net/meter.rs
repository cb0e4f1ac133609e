//! What is known of a stream without asking it.

use std::cell::{Cell, RefCell};

use crate::upstream::OpenConnection;

/// Counts what goes through one stream. Lives on one worker, so cells do.
#[derive(Debug, Default)]
pub struct Meter {
    read: Cell<u64>,
    written: Cell<u64>,
    blocked: Cell<bool>,
    ending: Cell<bool>,
    /// Where it counts as open.
    counted: RefCell<Option<OpenConnection>>,
}

impl Meter {
    /// Bytes that were read so far.
    pub fn read(&self) -> u64 {
        self.read.get()
    }

    /// Bytes that the kernel has taken so far.
    pub fn written(&self) -> u64 {
        self.written.get()
    }

    /// Whether the last write found no room: the peer does not read.
    pub fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// Whether it is about to be closed, whatever is under way.
    pub fn is_ending(&self) -> bool {
        self.ending.get()
    }

    /// The stream counts as open as long as it is there.
    pub fn count(&self, open: OpenConnection) {
        self.counted.replace(Some(open));
    }

    /// It is about to be closed.
    pub fn end(&self) {
        self.ending.set(true);
    }

    pub(super) fn count_read(&self, bytes: usize) {
        self.read.set(self.read.get() + bytes as u64);
    }

    pub(super) fn count_written(&self, bytes: usize) {
        self.written.set(self.written.get() + bytes as u64);
        self.blocked.set(false);
    }

    pub(super) fn block(&self) {
        self.blocked.set(true);
    }
}

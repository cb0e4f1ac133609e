//! A catalog whose tables are set by hand, for tests and for embedding a gateway whose lists come from elsewhere.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::{mpsc, watch};

use super::{Catalog, Table, Upstream, upstream::ToOwner};
use crate::{
    config, selector,
    upstream::{History, Reader, Report, Status},
};

/// The writing half of a catalog that is set by hand. Dropping it leaves the last table in force.
pub struct Fixed {
    table: watch::Sender<Arc<Table>>,
}

impl Fixed {
    /// Makes a table the one that requests use from now on.
    pub fn publish(&self, table: Table) {
        self.table.send_replace(Arc::new(table));
    }
}

impl Catalog {
    /// A catalog that starts no source. It finds no service by name: [`Catalog::find`] says that it is closing.
    pub fn fixed(table: Table) -> (Self, Fixed) {
        let (sender, table) = watch::channel(Arc::new(table));
        let (_, found) = watch::channel(Arc::new(HashMap::new()));
        let ((wanted, _), (strange, _)) = (mpsc::channel(1), mpsc::channel(1));
        (Self { table, found, wanted, strange, disk: None }, Fixed { table: sender })
    }
}

impl Upstream {
    /// An upstream that no source feeds: whoever holds the publisher does, and gets what requests tell of its endpoints, which
    /// are spoken to without TLS.
    pub fn fixed(
        config: Arc<config::Upstream>,
        reader: Reader,
        selector: selector::Current,
        reports: mpsc::Sender<Report>,
        workers: usize,
    ) -> Self {
        let status = Status {
            sources: Vec::new(),
            history: Arc::new(History::default()),
            pin: None,
            draining: Arc::default(),
            ejected: Arc::default(),
            standby: Arc::default(),
            starting: 0,
            local: None,
            groups: 0,
            unused: 0,
            panic: false,
            drained: false,
            unsaved: None,
        };
        let owner = ToOwner {
            status: watch::channel(Arc::new(status)).1,
            reports,
            events: mpsc::channel(1).0.downgrade(),
        };
        Self::new(config, reader, owner, selector, None, workers)
    }
}

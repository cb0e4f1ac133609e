//! One service of the embedded registry being followed.

use std::sync::Arc;

use tokio::sync::broadcast::{
    Receiver,
    error::{RecvError, TryRecvError},
};

use super::Memory;
use crate::bindings::{registry::witgate::memory::memory::Content, wit};

/// Dropping it ends the following.
pub struct Feed {
    memory: Arc<Memory>,
    service: Arc<str>,
    /// None: the whole list comes next.
    changes: Option<Receiver<Arc<wit::Change>>>,
}

impl Feed {
    pub(super) fn new(memory: Arc<Memory>, service: Arc<str>) -> Self {
        Self { memory, service, changes: None }
    }

    /// Waits for the next answer. The first is `All`. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Content {
        loop {
            let Some(changes) = &mut self.changes else {
                let (list, changes) = self.memory.state().subscribe(&self.service);
                self.changes = Some(changes);
                return Content::All(list.into_iter().map(|(id, of)| of.endpoint(&id)).collect());
            };
            match changes.recv().await {
                Ok(first) => match with_all_that_wait(first, changes) {
                    Some(changes) => return Content::Changes(changes),
                    None => self.changes = None,
                },
                Err(RecvError::Lagged(_) | RecvError::Closed) => self.changes = None,
            }
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.changes = None;
        self.memory.state().unsubscribed(&self.service);
    }
}

/// None when some were lost.
fn with_all_that_wait(
    first: Arc<wit::Change>,
    changes: &mut Receiver<Arc<wit::Change>>,
) -> Option<Vec<wit::Change>> {
    let mut batch = vec![Arc::unwrap_or_clone(first)];
    loop {
        match changes.try_recv() {
            Ok(change) => batch.push(Arc::unwrap_or_clone(change)),
            Err(TryRecvError::Empty) => return Some(batch),
            Err(TryRecvError::Lagged(_) | TryRecvError::Closed) => return None,
        }
    }
}

//! An instance that the gateway announces.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::engine::{Engine, Order};
use crate::registry::Failure;

/// Dropping it says nothing: what was said ends by itself. For types of DNS-SD it does say goodbye, as `mdns-sd` does.
pub struct Presence {
    name: String,
    id: u64,
    orders: mpsc::UnboundedSender<Order>,
    /// None when it was withdrawn.
    engine: Option<Arc<Engine>>,
}

impl Presence {
    /// Of one that is about to be announced, and has no name yet.
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self { name: String::new(), id: engine.next(), orders: engine.orders.clone(), engine: Some(engine) }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The name that it has, with a number if others had the one that was asked for.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn set_name(&mut self, name: String) {
        self.name = name;
    }

    pub fn is_alive(&self) -> bool {
        self.engine.as_ref().is_some_and(|engine| !engine.has_ended())
    }

    /// Says goodbye. One that has ended is no error.
    pub async fn withdraw(&mut self) -> Result<(), Failure> {
        let (done, said) = oneshot::channel();
        if self.is_alive() && self.orders.send(Order::Withdraw(self.id, done)).is_ok() {
            let _ = said.await;
        }
        self.engine = None;
        Ok(())
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Forget(self.id));
    }
}

//! Waiting until a service, or any of them, has changed, without being told how.

use std::sync::Arc;

use tokio::sync::watch;

use super::Memory;

/// Dropping it ends the watching.
struct Watching<'m> {
    memory: &'m Memory,
    service: Option<Arc<str>>,
    /// None once it is dropped.
    changes: Option<watch::Receiver<()>>,
}

impl Memory {
    /// The number of the latest change of a service, or of anything; it grows with each. A service that has no instances
    /// may share the changes of others that have none.
    pub fn version(&self, service: Option<&str>) -> u64 {
        self.state().version(service)
    }

    /// Waits until the number is another one than `known`. Dropping the future loses nothing.
    pub async fn changed(&self, service: Option<&str>, known: u64) {
        let mut watching = Watching::new(self, service);
        while self.version(service) == known {
            let Some(changes) = &mut watching.changes else { return };
            // It is there as long as the registry is.
            let _ = changes.changed().await;
        }
    }

    /// How many wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.state().watching()
    }
}

impl<'m> Watching<'m> {
    fn new(memory: &'m Memory, service: Option<&str>) -> Self {
        let service = service.map(Arc::<str>::from);
        let changes = Some(memory.state().watch(service.as_ref()));
        Self { memory, service, changes }
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.changes = None;
        if let Some(service) = &self.service {
            self.memory.state().unwatched(service);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::connector::memory::Registration;

    #[tokio::test(start_paused = true)]
    async fn who_waits_hears_of_the_service_and_of_no_other() {
        let memory = Memory::unkept();
        let put = |service: &str, id: &str, ttl_seconds: u32| {
            memory.put(service, id, Registration { ttl_seconds, ..Registration::at("a:1") }).unwrap();
        };
        put("orders", "a", 30);
        put("users", "a", 30);
        let (orders, all) = (memory.version(Some("orders")), memory.version(None));
        let hears = |service, known| timeout(Duration::from_secs(1), memory.changed(service, known));
        put("users", "a", 31);
        put("orders", "a", 30);
        assert!(hears(Some("orders"), orders).await.is_err(), "nothing has changed there");
        assert!(hears(None, all).await.is_ok());
        let later = async {
            assert_eq!(memory.waiting(), 1);
            put("orders", "b", 30);
        };
        let (heard, ()) = tokio::join!(hears(Some("orders"), orders), later);
        assert!(heard.is_ok() && memory.version(Some("orders")) > orders);
        // Also when there is none left, and when it is there again.
        for is_there in [false, true] {
            let users = memory.version(Some("users"));
            match is_there {
                false => drop(memory.remove("users", "a")),
                true => put("users", "b", 30),
            }
            assert!(hears(Some("users"), users).await.is_ok());
            assert!(memory.version(Some("users")) > users);
        }
        assert_eq!(memory.state().followed(), 0, "nothing is left of those who waited");
    }
}

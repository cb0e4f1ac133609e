//! Announcements by WebAssembly: each has an instance of its own.

use std::{sync::Arc, time::Duration};

use wasmtime::component::ResourceAny;

use super::{
    instance::Instance,
    registry::{self, Current},
};
pub use crate::bindings::registry::exports::witgate::registry::registrar::Announcement;
use crate::{
    config,
    connector::Lent,
    registry::{BoxFuture, Failure, Registrar},
};

/// One instance to be announced in a registry of the configuration.
pub(super) struct WasmRegistrar {
    config: Arc<config::Registry>,
    lent: Arc<Lent>,
    current: Current,
    announcement: Announcement,
    /// None: nothing is announced.
    announced: Option<Announced>,
}

/// What was announced, by the instance of the plugin that did it.
struct Announced {
    instance: Instance,
    registration: ResourceAny,
}

impl WasmRegistrar {
    pub fn new(
        config: Arc<config::Registry>,
        lent: Arc<Lent>,
        current: Current,
        announcement: Announcement,
    ) -> Self {
        Self { config, lent, current, announcement, announced: None }
    }

    async fn start(&mut self) -> Result<(), Failure> {
        self.announced = None;
        let plugin = self.current.borrow_and_update().clone();
        let plugin = plugin.ok_or_else(|| registry::missing(&self.config.plugin))?;
        let mut instance = Instance::new(
            plugin,
            self.lent.connectors(&self.config.plugin, &self.config.name, &self.config.grants),
        )
        .await?;
        let registration = instance.register(&self.announcement, &self.config.settings).await?;
        self.announced = Some(Announced { instance, registration });
        Ok(())
    }

    fn announced(&mut self) -> Result<&mut Announced, Failure> {
        self.announced.as_mut().ok_or_else(|| Failure::Other("nothing was announced".to_owned()))
    }
}

impl Registrar for WasmRegistrar {
    fn register(&mut self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(self.start())
    }

    fn renew(&mut self) -> BoxFuture<'_, Result<Duration, Failure>> {
        Box::pin(async {
            let Announced { instance, registration } = self.announced()?;
            let renewed = instance.renew(*registration).await;
            if let Err(Failure::Plugin(_)) = renewed {
                // It must not be used again, and what it held is given back at once.
                self.announced = None;
            }
            renewed
        })
    }

    fn withdraw(&mut self) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async {
            let Announced { instance, registration } = self.announced()?;
            instance.withdraw(*registration).await
        })
    }

    fn changed(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if self.current.changed().await.is_err() {
                // The plugins are gone, and the process is about to be.
                std::future::pending().await
            }
        })
    }
}

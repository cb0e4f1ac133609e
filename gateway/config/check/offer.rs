//! How those who are well share requests: slow start, zones, priorities, subsets.

use std::{path::Path, sync::Arc};

use super::Checker;
use crate::{
    config::file,
    document::{SwitchOr, Way},
    files,
    upstream::{OfferPolicy, Subset, Zones, place},
};

/// Where the kernel tells the name of the host.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// Which of several gateways this is, and where.
#[derive(Debug, Default)]
pub(super) struct Identity {
    zone: Option<Arc<str>>,
    /// None: as the host is called.
    id: Option<String>,
}

impl Identity {
    /// What tells this gateway from others, where nothing depends on it.
    pub(super) fn instance(&self) -> String {
        self.id.clone().or_else(host_name).unwrap_or_else(|| "witgate".to_owned())
    }
}

/// What an upstream or a route says of all this.
pub(super) struct Written<'f> {
    pub slow_start_secs: u64,
    pub zone_aware: Option<&'f SwitchOr<file::ZoneAware>>,
    pub subset: Option<&'f file::Subset>,
}

impl Checker<'_> {
    pub(super) fn identity(&mut self, way: &Way, gateway: &file::Gateway) -> Identity {
        let zone = gateway.zone.as_deref().and_then(|zone| self.text(&way.key("zone"), zone));
        let id = gateway.id.as_deref().and_then(|id| self.text(&way.key("id"), id));
        Identity { zone: zone.map(Arc::from), id: id.map(str::to_owned) }
    }

    pub(super) fn offer(&mut self, way: &Way, written: &Written<'_>) -> OfferPolicy {
        let slow_start = self.delay_secs(&way.key("slow_start_secs"), written.slow_start_secs);
        OfferPolicy {
            slow_start: Some(slow_start).filter(|time| !time.is_zero()),
            zones: self.zones(&way.key("zone_aware"), written.zone_aware),
            subset: self.subset(&way.key("subset"), written.subset),
        }
    }

    fn zones(&mut self, way: &Way, zone_aware: Option<&SwitchOr<file::ZoneAware>>) -> Option<Zones> {
        let usual = file::ZoneAware::default();
        let table = match zone_aware? {
            SwitchOr::Is(false) => return None,
            SwitchOr::Is(true) => &usual,
            SwitchOr::Table(table) => table,
        };
        let min_endpoints = self.count(&way.key("min_endpoints"), table.min_endpoints, 1..=1_000_000);
        let own = self.identity.zone.clone();
        if own.is_none() {
            self.wrong_key(way, "the zone of the gateway is not known")
                .hint("write a table `[gateway]` with `zone = \"eu-1a\"`");
        }
        Some(Zones { own: own?, min_endpoints })
    }

    fn subset(&mut self, way: &Way, subset: Option<&file::Subset>) -> Option<Subset> {
        let size = *self.required(way, "size", &subset?.size)?;
        let size = self.count(&way.key("size"), size, 1..=1_000_000);
        let id = self.identity.id.clone().or_else(host_name);
        if id.is_none() {
            self.wrong_key(way, "nothing tells this gateway from others: the host has no name")
                .hint("write a table `[gateway]` with `id = \"0\"`, and another number in every gateway");
        }
        Some(Subset { place: place(&id?), size })
    }
}

fn host_name() -> Option<String> {
    let name = files::read_text(Path::new(HOST_NAME), files::SECRET).ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

//! The last good lists, over restarts.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use super::{Owner, Pin, SourceStatus};
use crate::upstream::{
    Cause, Claim, Endpoint, Input, Origin, Saved, SavedClaim, SavedEndpoint, SavedPin, SavedSource,
};

impl Owner {
    /// Takes what is on disk. Blocks on it for a moment.
    pub(super) fn restore(&mut self) {
        let Some(disk) = &self.disk else { return };
        let saved = match disk.load(&self.name) {
            Ok(saved) => saved.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(upstream = %self.name, %error, "Saved list not used");
                self.unsaved = Some(error.to_string());
                return;
            }
        };
        if let Some(pin) = saved.pin {
            let list: HashMap<_, _> = pin
                .list
                .into_iter()
                .map(Endpoint::from)
                .map(|endpoint| (endpoint.address, endpoint))
                .collect();
            tracing::info!(upstream = %self.name, endpoints = list.len(), "List is pinned");
            self.pin = Some(Pin { since: moment(pin.since), list: list.clone() });
            self.exchange(list, Cause::Pinned);
        }
        for list in saved.sources {
            self.restore_source(list);
        }
        self.refresh();
    }

    fn restore_source(&mut self, list: SavedSource) {
        let named = |status: &SourceStatus| {
            *status.name.registry == list.registry && *status.name.service == list.service
        };
        let place = self.status.borrow().sources.iter().position(named);
        let Some(source) = place else { return };
        let claims = list.claims.into_iter().map(Claim::from);
        let claims = claims.filter(|claim| self.wanted.suits(claim)).collect();
        let reserve = list.reserve.into_iter().map(Endpoint::from).collect();
        self.step(source, Input::Restored { claims, reserve }, Cause::Restored);
        self.tell(source, list.heard.map(moment), None);
    }

    /// Writes what is known. Says why when it could not.
    pub(super) async fn save(&mut self) -> Result<(), String> {
        let Some(disk) = self.disk.clone() else { return Ok(()) };
        let (name, saved) = (self.name.clone(), self.saved());
        let saved = tokio::task::spawn_blocking(move || disk.save(&name, &saved)).await;
        let unsaved = match saved {
            Ok(saved) => saved.err().map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        match &unsaved {
            Some(error) if self.unsaved != unsaved => {
                tracing::warn!(upstream = %self.name, error, "List not saved");
            }
            None if self.unsaved.is_some() => tracing::info!(upstream = %self.name, "List saved again"),
            _ => {}
        }
        self.unsaved.clone_from(&unsaved);
        self.refresh();
        unsaved.map_or(Ok(()), Err)
    }

    fn saved(&self) -> Saved {
        let status = self.status.borrow();
        let known = self.sources.iter().zip(&status.sources);
        let known = known.filter(|(source, _)| source.origin() != Origin::Unknown);
        let sources = known.map(|(source, status)| SavedSource {
            registry: status.name.registry.to_string(),
            service: status.name.service.to_string(),
            heard: status.heard.map(seconds),
            claims: source.claims().map(SavedClaim::from).collect(),
            reserve: source.reserve().map(|(endpoint, _)| SavedEndpoint::from(endpoint)).collect(),
        });
        let pin = self.pin.as_ref().map(|pin| SavedPin {
            since: seconds(pin.since),
            list: pin.list.values().map(SavedEndpoint::from).collect(),
        });
        Saved { sources: sources.collect(), pin }
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn moment(seconds: u64) -> SystemTime {
    // A year ten thousand in a damaged file is no reason to end the process.
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(SystemTime::UNIX_EPOCH)
}

//! From what a plugin wrote to claims: addresses checked and resolved, nonsense left out and reported.

use std::collections::HashMap;

use super::{HostPort, RawChange, RawEndpoint, RawNews, Resolver};
use crate::upstream::{Claim, ClaimChange, Labels, News, Weight};

/// Reads the news of one source, and resolves its names again from time to time.
#[derive(Default)]
pub(super) struct ClaimReader {
    resolver: Resolver,
    /// The endpoints that have a name, as last written, and what it resolved to.
    named: HashMap<String, (RawEndpoint, Claim)>,
}

impl ClaimReader {
    /// Waits only for names.
    pub(super) async fn read(&mut self, news: RawNews) -> News {
        match news {
            RawNews::Complete(endpoints) => {
                self.named.clear();
                News::Complete(self.claims(endpoints).await)
            }
            RawNews::Partial(endpoints) => News::Partial(self.claims(endpoints).await),
            RawNews::Changes(changes) => {
                let mut read = Vec::with_capacity(changes.len());
                for change in changes {
                    read.extend(match change {
                        // An update that makes no sense leaves the endpoint as it was.
                        RawChange::Put(endpoint) => self.claim(endpoint).await.map(ClaimChange::Put),
                        RawChange::Remove(id) => {
                            self.named.remove(&id);
                            Some(ClaimChange::Remove(id))
                        }
                    });
                }
                News::Changes(read)
            }
            RawNews::Unchanged => News::Unchanged,
        }
    }

    /// Whether any endpoint has a name.
    pub(super) fn has_names(&self) -> bool {
        !self.named.is_empty()
    }

    /// Resolves all names again and says what that changed.
    pub(super) async fn resolve_again(&mut self) -> Option<News> {
        let mut changes = Vec::new();
        for (endpoint, claim) in std::mem::take(&mut self.named).into_values() {
            if let Some(now) = self.claim(endpoint).await
                && now != claim
            {
                changes.push(ClaimChange::Put(now));
            }
        }
        let named = &self.named;
        let uses = |name: &str, port| {
            let host = HostPort::Name(name.to_owned(), port);
            named.values().any(|(endpoint, _)| endpoint.address.parse().as_ref() == Ok(&host))
        };
        self.resolver.keep(uses);
        (!changes.is_empty()).then_some(News::Changes(changes))
    }

    async fn claims(&mut self, endpoints: Vec<RawEndpoint>) -> Vec<Claim> {
        let mut claims = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            claims.extend(self.claim(endpoint).await);
        }
        claims
    }

    async fn claim(&mut self, endpoint: RawEndpoint) -> Option<Claim> {
        let host: HostPort = match endpoint.address.parse() {
            Ok(host) => host,
            Err(error) => {
                tracing::warn!(id = %endpoint.id, %error, "Endpoint left out");
                return None;
            }
        };
        let claim = Claim {
            id: endpoint.id.clone(),
            addresses: self.resolver.resolve(&host).await,
            weight: Weight::new(endpoint.weight),
            labels: Labels::new(endpoint.labels.clone()),
        };
        match host {
            HostPort::Name(..) => drop(self.named.insert(claim.id.clone(), (endpoint, claim.clone()))),
            HostPort::Ip(..) => drop(self.named.remove(&claim.id)),
        }
        Some(claim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(id: &str, address: &str) -> RawEndpoint {
        RawEndpoint { id: id.into(), address: address.into(), weight: 1, labels: vec![] }
    }

    #[tokio::test]
    async fn nonsense_is_left_out_and_the_rest_counts() {
        let mut reader = ClaimReader::default();
        let list = vec![endpoint("a", "10.0.0.1:80"), endpoint("b", "nonsense"), endpoint("c", "[::1]:80")];
        let News::Complete(claims) = reader.read(RawNews::Complete(list)).await else { panic!() };
        assert_eq!(claims.iter().map(|claim| claim.id.as_str()).collect::<Vec<_>>(), ["a", "c"]);
        assert!(!reader.has_names());
    }

    #[tokio::test]
    async fn names_are_resolved_and_looked_at_again() {
        let mut reader = ClaimReader::default();
        let news = reader.read(RawNews::Changes(vec![RawChange::Put(endpoint("a", "localhost:80"))])).await;
        let News::Changes(changes) = news else { panic!() };
        let [ClaimChange::Put(claim)] = &changes[..] else { panic!() };
        assert!(claim.addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 80));
        assert!(!claim.addresses.is_empty() && reader.has_names());
        assert_eq!(reader.resolve_again().await, None, "nothing changed");
        reader.read(RawNews::Changes(vec![RawChange::Remove("a".into())])).await;
        assert!(!reader.has_names());
    }
}

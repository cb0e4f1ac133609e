//! Which certificate a client is shown: by the name it asks for.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::pair::Pair;

/// The certificates of a listener. Exchanged as a whole, and read without a lock.
pub(super) struct Names(ArcSwap<Table>);

struct Table {
    /// In the order of the configuration.
    pairs: Vec<Arc<Pair>>,
    /// By name in lower case; what stands for one label, as in `*.example.com`, by what is behind it, with the dot.
    by_name: HashMap<String, Vec<Arc<Pair>>>,
}

impl Table {
    fn new(pairs: Vec<Arc<Pair>>) -> Self {
        let mut by_name: HashMap<String, Vec<Arc<Pair>>> = HashMap::new();
        for pair in &pairs {
            for name in &pair.identity.dns {
                let name = name.to_ascii_lowercase();
                let key = name.strip_prefix('*').map(str::to_owned).unwrap_or(name);
                by_name.entry(key).or_default().push(pair.clone());
            }
        }
        Self { pairs, by_name }
    }

    /// Those for a name: the exact ones, else those for every name with one more label, else the first of all.
    fn of(&self, name: Option<&str>) -> &[Arc<Pair>] {
        let exact = |name: &str| self.by_name.get(name).filter(|_| !name.starts_with('.'));
        let wildcard = |name: &str| self.by_name.get(&name[name.find('.')?..]);
        let named = name.and_then(|name| exact(name).or_else(|| wildcard(name)));
        named.map_or(&self.pairs[..self.pairs.len().min(1)], Vec::as_slice)
    }
}

impl Names {
    pub(super) fn new(pairs: Vec<Pair>) -> Self {
        Self(ArcSwap::from_pointee(Table::new(pairs.into_iter().map(Arc::new).collect())))
    }

    /// Puts a pair in the place of another one. For one caller at a time.
    pub(super) fn replace(&self, place: usize, pair: Pair) {
        let mut pairs = self.0.load().pairs.clone();
        if let Some(old) = pairs.get_mut(place) {
            *old = Arc::new(pair);
        }
        self.0.store(Arc::new(Table::new(pairs)));
    }

    /// The URI of the certificate for a name, if it has one.
    pub(super) fn uri(&self, name: Option<&str>) -> Option<String> {
        self.0.load().of(name).first()?.identity.uris.first().cloned()
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.load().pairs.iter().map(|pair| &pair.identity.dns)).finish()
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.0.load();
        let pairs = table.of(hello.server_name());
        // Of several for one name, one with a key that the client can use.
        let suits = |pair: &&Arc<Pair>| pair.certified.key.choose_scheme(hello.signature_schemes()).is_some();
        Some(pairs.iter().find(suits).or_else(|| pairs.first())?.certified.clone())
    }
}

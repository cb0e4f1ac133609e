//! From what a plugin wrote to claims: addresses checked, names resolved, and what cannot be used left out and reported.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::{AbortHandle, JoinError, JoinSet},
    time::Instant,
};

use super::{
    HostPort, OwnAddresses, Resolver,
    resolve::{Answer, Names, Outcome, Report, Told},
    usable::usable,
};
use crate::{
    bindings::wit,
    telemetry::text,
    upstream::{Claim, ClaimChange, Facts, Labels, LeftOut, LeftOuts, News, State, Weight, ZONE},
};

/// How long a list that has nothing but names may wait for the first of them.
const FIRST_NAME: Duration = Duration::from_secs(5);

/// Lines about what is left out, for one answer of a registry.
const MOST_LINES: usize = 20;

/// What it takes to read addresses.
#[derive(Clone, Default)]
pub struct Intake {
    pub resolver: Resolver,
    /// What is never an endpoint here.
    pub own: OwnAddresses,
}

/// Reads the news of one source, and resolves its names beside them.
pub(super) struct ClaimReader {
    service: Arc<str>,
    intake: Intake,
    names: Names,
    lookups: JoinSet<(Arc<str>, Answer)>,
    running: HashMap<Arc<str>, AbortHandle>,
    /// The endpoints that have a name, by id.
    named: HashMap<String, Named>,
    /// Which endpoints have a name.
    ids: HashMap<Arc<str>, BTreeSet<String>>,
    /// Names of which something is to be told.
    changed: BTreeSet<Arc<str>>,
    left_out: BTreeMap<String, (String, String)>,
    /// What is left out may not be what was told.
    untold: bool,
    told: LeftOuts,
}

/// The registry has answered, and its plugin does not believe it: why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Suspect(pub String);

/// An endpoint that has a name.
struct Named {
    endpoint: wit::Endpoint,
    host: Arc<str>,
    port: u16,
    told: Vec<SocketAddr>,
}

/// An endpoint whose address makes sense.
enum Read {
    Claim(Claim),
    /// The id of one that has a name.
    Named(String),
}

impl ClaimReader {
    /// `service` is for the log.
    pub(super) fn new(service: Arc<str>, intake: Intake) -> Self {
        Self {
            service,
            intake,
            names: Names::default(),
            lookups: JoinSet::new(),
            running: HashMap::new(),
            named: HashMap::new(),
            ids: HashMap::new(),
            changed: BTreeSet::new(),
            left_out: BTreeMap::new(),
            untold: false,
            told: LeftOuts::default(),
        }
    }

    /// What is suspect changes nothing, and comes back as the reason.
    ///
    /// Names that are not resolved yet have no address: whoever has claimed something by the same id keeps the one of
    /// before. Waits only for a list that has nothing but such names, until the first of them is resolved.
    pub(super) async fn read(&mut self, news: wit::News) -> Result<News, Suspect> {
        let before = self.left_out.clone();
        let news = match news {
            wit::News::Complete(endpoints) => {
                // What goes is let go after what comes, so that a name in both keeps its answer.
                let known = std::mem::take(&mut self.named);
                self.left_out.clear();
                let list = self.accept(endpoints);
                known.into_iter().for_each(|(id, named)| self.release(&id, &named.host));
                self.first_name(&list).await;
                News::Complete(self.claims(list))
            }
            wit::News::Partial(endpoints) => {
                let list = self.accept(endpoints);
                self.first_name(&list).await;
                News::Partial(self.claims(list))
            }
            wit::News::Changes(changes) => News::Changes(
                changes
                    .into_iter()
                    .filter_map(|change| match change {
                        // An update that makes no sense leaves the endpoint as it was.
                        wit::Change::Put(endpoint) => {
                            let read = self.accept_one(endpoint)?;
                            self.claim(read).map(ClaimChange::Put)
                        }
                        wit::Change::Remove(id) => {
                            self.forget(&id);
                            self.left_out.remove(&id);
                            Some(ClaimChange::Remove(id))
                        }
                    })
                    .collect(),
            ),
            wit::News::Unchanged => return Ok(News::Unchanged),
            wit::News::Suspect(reason) => return Err(Suspect(reason)),
        };
        if self.left_out != before {
            self.untold = true;
            self.log_left_out(&before);
        }
        Ok(news)
    }

    /// Waits until names have come to something else, and says what that changes; nothing, if only what is left out is
    /// another.
    ///
    /// Dropping the future loses nothing. Waits for ever while there are no names.
    pub(super) async fn resolved(&mut self) -> Vec<ClaimChange> {
        loop {
            if !self.changed.is_empty() {
                let changes = self.changes();
                if !changes.is_empty() || self.untold {
                    return changes;
                }
            }
            self.progress().await;
        }
    }

    /// What is left out, if that is not what was told last.
    pub(super) fn left_out(&mut self) -> Option<LeftOuts> {
        if !std::mem::take(&mut self.untold) {
            return None;
        }
        let named = |(id, (address, reason)): (&String, &(String, String))| LeftOut {
            id: text::shown(id).to_string(),
            address: text::shown(address).to_string(),
            reason: text::shown(reason).to_string(),
        };
        let left_out = LeftOuts {
            count: self.left_out.len(),
            unresolved_names: self.names.troubled(),
            first: self.left_out.iter().take(LeftOuts::NAMED).map(named).collect(),
        };
        (left_out != self.told).then(|| {
            self.told = left_out.clone();
            left_out
        })
    }

    /// Asks about the names that are due, and waits for an answer or for the next that is.
    async fn progress(&mut self) {
        let now = Instant::now();
        while let Some((name, failed)) = self.names.take_due(now) {
            let (resolver, asked) = (self.intake.resolver.clone(), name.clone());
            let lookup = self.lookups.spawn(async move {
                let answer = resolver.ask(asked.clone(), failed).await;
                (asked, answer)
            });
            self.running.insert(name, lookup);
        }
        let next = self.names.next();
        tokio::select! {
            Some(answered) = self.lookups.join_next() => {
                self.take(answered);
                // Those that came meanwhile are one change with it.
                while let Some(answered) = self.lookups.try_join_next() {
                    self.take(answered);
                }
            }
            () = sleep_until(next) => {}
        }
    }

    fn take(&mut self, answered: Result<(Arc<str>, Answer), JoinError>) {
        let (name, answer) = match answered {
            Ok(answered) => answered,
            Err(error) if error.is_cancelled() => return,
            Err(error) => {
                let name = self.running.iter().find(|(_, lookup)| lookup.id() == error.id());
                let Some((name, _)) = name else { return };
                let failed = Outcome::Failed("the resolver failed".into());
                (name.clone(), Answer { v4: failed.clone(), v6: failed })
            }
        };
        self.running.remove(&name);
        let Told { changed, news } = self.names.answer(&name, answer, Instant::now());
        let service = &self.service;
        match news {
            Some(Report::Failing { reason, lasted }) => match self.names.ips(&name).count() {
                0 => {
                    tracing::warn!(%service, %name, %reason, ?lasted, "Name not resolved, endpoint left out")
                }
                kept => {
                    tracing::warn!(%service, %name, %reason, ?lasted, kept, "Name not resolved, last good answer kept")
                }
            },
            Some(Report::Recovered(lasted)) => {
                tracing::info!(%service, %name, ?lasted, "Name resolved again")
            }
            None => {}
        }
        if changed {
            self.changed.insert(name);
        }
    }

    /// What the names that came to something else change.
    fn changes(&mut self) -> Vec<ClaimChange> {
        let before = self.left_out.clone();
        self.untold = true;
        let mut changes = Vec::new();
        for name in std::mem::take(&mut self.changed) {
            for id in self.ids.get(&name).cloned().unwrap_or_default() {
                let told = self.named.get(&id).map(|named| named.told.clone());
                let claim = self.claim(Read::Named(id)).filter(|claim| !claim.addresses.is_empty());
                changes.extend(
                    claim.filter(|claim| told.as_ref() != Some(&claim.addresses)).map(ClaimChange::Put),
                );
            }
        }
        self.log_left_out(&before);
        changes
    }

    /// Waits for the first name of a list that has nothing else: it would be empty without.
    async fn first_name(&mut self, list: &[Read]) {
        let names: Vec<Arc<str>> = list
            .iter()
            .filter_map(|read| match read {
                Read::Named(id) => Some(self.named.get(id)?.host.clone()),
                Read::Claim(_) => None,
            })
            .collect();
        if names.len() < list.len() {
            return;
        }
        let waited = tokio::time::timeout(FIRST_NAME, async {
            let resolved = |names: &Names, name: &Arc<str>| names.ips(name).next().is_some();
            while !names.iter().any(|name| resolved(&self.names, name))
                && names.iter().any(|name| !self.names.is_answered(name))
            {
                self.progress().await;
            }
        });
        // They go on being asked about either way.
        let _ = waited.await;
    }

    fn accept(&mut self, endpoints: Vec<wit::Endpoint>) -> Vec<Read> {
        endpoints.into_iter().filter_map(|endpoint| self.accept_one(endpoint)).collect()
    }

    fn accept_one(&mut self, endpoint: wit::Endpoint) -> Option<Read> {
        let reason = match endpoint.address.parse() {
            Ok(HostPort::Ip(address)) if self.intake.own.contains(address) => OWN.to_owned(),
            Ok(HostPort::Ip(address)) => {
                self.forget(&endpoint.id);
                self.left_out.remove(&endpoint.id);
                return Some(Read::Claim(claim(endpoint, vec![address])));
            }
            Ok(HostPort::Name(host, port)) => {
                let id = endpoint.id.clone();
                let host: Arc<str> = host.into();
                self.names.add(&host, Instant::now());
                self.forget(&id);
                self.ids.entry(host.clone()).or_default().insert(id.clone());
                self.named.insert(id.clone(), Named { endpoint, host, port, told: Vec::new() });
                return Some(Read::Named(id));
            }
            Err(error) => error.to_string(),
        };
        self.left_out.insert(endpoint.id, (endpoint.address, reason));
        None
    }

    /// An endpoint has no name any more, or another.
    fn forget(&mut self, id: &str) {
        if let Some(named) = self.named.remove(id) {
            self.release(id, &named.host);
        }
    }

    /// One endpoint less has a name. What nobody has is not asked about any more.
    fn release(&mut self, id: &str, host: &Arc<str>) {
        let still = self.named.get(id).is_some_and(|named| named.host == *host);
        if !still && let Some(ids) = self.ids.get_mut(host) {
            ids.remove(id);
            if ids.is_empty() {
                self.ids.remove(host);
            }
        }
        if self.names.remove(host) {
            self.changed.remove(host);
            if let Some(lookup) = self.running.remove(host) {
                lookup.abort();
            }
        }
    }

    fn claims(&mut self, list: Vec<Read>) -> Vec<Claim> {
        list.into_iter().filter_map(|read| self.claim(read)).collect()
    }

    /// What is claimed, with the addresses that are known now. None for an id that is there twice, and has no name the
    /// second time.
    fn claim(&mut self, read: Read) -> Option<Claim> {
        let id = match read {
            Read::Claim(claim) => return Some(claim),
            Read::Named(id) => id,
        };
        let named = self.named.get_mut(&id)?;
        let mut refused = None;
        let mut addresses = Vec::new();
        for ip in self.names.ips(&named.host) {
            let resolved = SocketAddr::new(ip, named.port);
            match usable(resolved) {
                Ok(address) if self.intake.own.contains(address) => {
                    refused = Some(format!("resolves to {address}, which {OWN}"))
                }
                Ok(address) => addresses.push(address),
                Err(why) => refused = Some(format!("resolves to {resolved}, which {why}")),
            }
        }
        let unresolved = || {
            let why = self.names.trouble(&named.host)?;
            addresses.is_empty().then(|| format!("name not resolved: {why}"))
        };
        match refused.or_else(unresolved) {
            Some(reason) => drop(self.left_out.insert(id, (named.endpoint.address.clone(), reason))),
            None => drop(self.left_out.remove(&id)),
        }
        named.told.clone_from(&addresses);
        let mut claim = claim(named.endpoint.clone(), addresses);
        claim.facts.hostname.get_or_insert_with(|| named.host.clone());
        Some(claim)
    }

    /// Each once, while it is left out for the same reason. Names that are not resolved have lines of their own.
    fn log_left_out(&self, before: &BTreeMap<String, (String, String)>) {
        let is_told = |id: &str| {
            let named = self.named.get(id);
            named.is_some_and(|named| named.told.is_empty() && self.names.trouble(&named.host).is_some())
        };
        let new = self.left_out.iter().filter(|(id, left_out)| before.get(*id) != Some(left_out));
        let new: Vec<_> = new.filter(|(id, _)| !is_told(id)).collect();
        let service = &self.service;
        for (id, (address, reason)) in new.iter().take(MOST_LINES) {
            let (id, address, reason) = (text::shown(id), text::shown(address), text::shown(reason));
            tracing::warn!(%service, %id, %address, %reason, "Endpoint left out");
        }
        if new.len() > MOST_LINES {
            tracing::warn!(%service, more = new.len() - MOST_LINES, "Endpoints left out");
        }
    }
}

/// Why one of our own addresses is left out.
const OWN: &str = "is a listener of this gateway";

fn claim(endpoint: wit::Endpoint, addresses: Vec<SocketAddr>) -> Claim {
    let wit::Endpoint { id, address: _, weight, priority, state, hostname, zone, labels } = endpoint;
    let state = match state {
        wit::State::Ready => State::Ready,
        wit::State::Draining => State::Draining,
        wit::State::Unwell => State::Unwell,
    };
    let in_labels = || labels.iter().find(|(name, _)| name == ZONE).map(|(_, zone)| zone.clone());
    let said = |text: Option<String>| text.filter(|text| !text.is_empty());
    let zone = said(zone).or_else(|| said(in_labels())).map(Arc::from);
    let facts = Facts {
        state,
        drains: false,
        priority,
        hostname: said(hostname).map(Arc::from),
        zone,
        labels: Labels::new(labels),
    };
    Claim { id, addresses, weight: Weight::new(weight), facts }
}

/// Waits for the moment, for ever when there is none.
async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::registry::resolve::fake::FakeNames;

    fn endpoint(id: &str, address: &str) -> wit::Endpoint {
        wit::plain(id, address)
    }

    fn put(id: &str, address: &str) -> wit::News {
        wit::News::Changes(vec![wit::Change::Put(endpoint(id, address))])
    }

    fn reader(names: &FakeNames) -> ClaimReader {
        let own = OwnAddresses::new(["127.0.0.1:9901", "0.0.0.0:8080"].map(|text| text.parse().unwrap()));
        ClaimReader::new("orders".into(), Intake { resolver: names.resolver(), own })
    }

    /// `id=address address`, by id.
    fn shown<'a>(claims: impl IntoIterator<Item = &'a Claim>) -> Vec<String> {
        let address = |address: &SocketAddr| address.to_string();
        let shown = claims.into_iter().map(|claim| {
            let addresses: Vec<_> = claim.addresses.iter().map(address).collect();
            format!("{}={}", claim.id, addresses.join(" "))
        });
        let mut shown: Vec<_> = shown.collect();
        shown.sort();
        shown
    }

    fn claims(news: &News) -> Vec<String> {
        match news {
            News::Complete(claims) | News::Partial(claims) => shown(claims),
            News::Changes(changes) => put_in(changes),
            News::Unchanged => vec![],
        }
    }

    fn put_in(changes: &[ClaimChange]) -> Vec<String> {
        shown(changes.iter().filter_map(|change| match change {
            ClaimChange::Put(claim) => Some(claim),
            ClaimChange::Remove(_) => None,
        }))
    }

    /// What names change, once they change something.
    async fn moved(reader: &mut ClaimReader) -> Vec<String> {
        loop {
            let changes = reader.resolved().await;
            if !changes.is_empty() {
                return put_in(&changes);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_used_is_left_out_and_reported_and_the_rest_counts() {
        let names = FakeNames::default();
        names.set("mine.example", &["10.0.0.9", "127.0.0.1"]);
        names.set("cloud.example", &["169.254.169.254"]);
        let mut reader = reader(&names);
        let list = vec![
            endpoint("a", "10.0.0.1:80"),
            endpoint("b", "nonsense"),
            endpoint("c", "127.0.0.1:9901"),
            endpoint("d", "[::1]:8080"),
            endpoint("e", "0.0.0.0:80"),
            endpoint("f", "[::1]:80"),
            endpoint("g", "mine.example:9901"),
            endpoint("h", "cloud.example:80"),
        ];
        let news = reader.read(wit::News::Complete(list)).await.unwrap();
        assert_eq!(claims(&news), ["a=10.0.0.1:80", "f=[::1]:80", "g=", "h="]);
        let left_out = reader.left_out().unwrap();
        assert_eq!(left_out.count, 4);
        assert_eq!(reader.left_out(), None, "told once");

        let moved = moved(&mut reader).await;
        assert_eq!(moved, ["g=10.0.0.9:9901"], "the address that is ours is not among them");
        while reader.left_out.len() < 6 {
            reader.resolved().await;
        }
        let left_out = reader.left_out().unwrap();
        let reasons: Vec<_> = left_out.first.iter().map(|of| (of.id.as_str(), of.reason.as_str())).collect();
        for ((id, part), (left_out, reason)) in [
            ("b", "has no port"),
            ("c", "is a listener of this gateway"),
            ("d", "is a listener of this gateway"),
            ("e", "names no host"),
            ("g", "resolves to 127.0.0.1:9901, which is a listener of this gateway"),
            ("h", "resolves to 169.254.169.254:80, which is where a cloud keeps"),
        ]
        .into_iter()
        .zip(reasons)
        {
            assert!(id == left_out && reason.contains(part), "{id} {left_out}: {reason}");
        }

        // A name that turns into an address of ours later is refused then.
        names.set("mine.example", &["127.0.0.1"]);
        tokio::time::timeout(Duration::from_secs(35), async {
            while reader.resolved().await.is_empty() && !reader.left_out["g"].1.contains("9901") {}
        })
        .await
        .unwrap();
        let news = reader.read(put("i", "localhost:9901")).await.unwrap();
        assert_eq!(claims(&news), ["i="]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_goes_by_the_host_of_its_address_where_nothing_else_is_said() {
        let names = FakeNames::default();
        names.set("one.example", &["10.0.0.1"]);
        let mut reader = reader(&names);
        let called = wit::Endpoint { hostname: Some("two".into()), ..endpoint("b", "one.example:80") };
        let list = vec![endpoint("a", "One.example:80"), called, endpoint("c", "10.0.0.1:80")];
        let News::Complete(claims) = reader.read(wit::News::Complete(list)).await.unwrap() else { panic!() };
        let hostnames: Vec<_> = claims.iter().map(|claim| claim.facts.hostname.as_deref()).collect();
        assert_eq!(hostnames, [Some("one.example"), Some("two"), None]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_name_holds_up_nothing_but_itself() {
        let names = FakeNames::default();
        names.set("good.example", &["10.0.0.2"]);
        let mut reader = reader(&names);
        let mut list: Vec<_> =
            (0..200).map(|n| endpoint(&format!("slow-{n}"), &format!("slow-{n}.example:80"))).collect();
        list.push(endpoint("ip", "10.0.0.1:80"));
        list.push(endpoint("name", "good.example:80"));
        let start = Instant::now();
        let Ok(News::Complete(all)) = reader.read(wit::News::Complete(list)).await else { panic!() };
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(all.len(), 202);
        assert!(shown(&all).contains(&"ip=10.0.0.1:80".to_owned()));
        assert_eq!(moved(&mut reader).await, ["name=10.0.0.2:80"]);
        assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_of_names_alone_waits_for_the_first_of_them() {
        let names = FakeNames::default();
        names.set("good.example", &["10.0.0.2"]);
        let mut reader = reader(&names);
        let start = Instant::now();
        let list = vec![endpoint("a", "slow.example:80"), endpoint("b", "good.example:80")];
        let news = reader.read(wit::News::Complete(list)).await.unwrap();
        assert_eq!(claims(&news), ["a=", "b=10.0.0.2:80"]);
        assert!(start.elapsed() < Duration::from_secs(1));
        // With none that is resolved it is told all the same.
        let news = reader.read(wit::News::Complete(vec![endpoint("c", "slower.example:80")])).await.unwrap();
        assert_eq!(claims(&news), ["c="]);
        assert!(start.elapsed() < Duration::from_secs(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_asked_about_once_for_all_that_have_it_and_not_any_more_once_they_are_gone() {
        let names = FakeNames::default();
        names.set("db.example", &["10.0.0.1"]);
        let mut reader = reader(&names);
        let list = || (0..9).map(|n| endpoint(&format!("{n}"), &format!("db.example:{}", 80 + n))).collect();
        let news = reader.read(wit::News::Complete(list())).await.unwrap();
        assert_eq!(claims(&news).len(), 9);
        assert_eq!(names.asked("db.example"), 1);
        // The same list again, and one in its place that has the name, too, keep the answer.
        reader.read(wit::News::Complete(list())).await.unwrap();
        let news = reader.read(wit::News::Complete(vec![endpoint("x", "DB.example:80")])).await.unwrap();
        assert_eq!(claims(&news), ["x=10.0.0.1:80"]);
        assert_eq!(names.asked("db.example"), 1);

        names.set("db.example", &["10.0.0.2"]);
        assert_eq!(moved(&mut reader).await, ["x=10.0.0.2:80"]);
        reader.read(wit::News::Changes(vec![wit::Change::Remove("x".into())])).await.unwrap();
        let asked = names.asked("db.example");
        assert!(tokio::time::timeout(Duration::from_secs(600), reader.resolved()).await.is_err());
        assert_eq!(names.asked("db.example"), asked);
        assert!(reader.ids.is_empty() && reader.running.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_that_gets_another_address_is_the_other_name_or_none() {
        let names = FakeNames::default();
        names.set("one.example", &["10.0.0.1"]);
        names.set("two.example", &["10.0.0.2"]);
        let mut reader = reader(&names);
        reader
            .read(wit::News::Complete(vec![endpoint("a", "one.example:80"), endpoint("b", "10.0.0.9:80")]))
            .await
            .unwrap();
        reader.resolved().await;
        let news = reader.read(put("a", "two.example:80")).await.unwrap();
        assert_eq!(claims(&news), ["a="], "not the address of the other");
        assert_eq!(moved(&mut reader).await, ["a=10.0.0.2:80"]);
        let news = reader.read(put("a", "10.0.0.3:80")).await.unwrap();
        assert_eq!(claims(&news), ["a=10.0.0.3:80"]);
        assert!(reader.named.is_empty() && reader.ids.is_empty() && reader.names.next().is_none());
        // Twice in one list: the last one counts.
        let twice = vec![endpoint("a", "one.example:80"), endpoint("a", "10.0.0.4:80")];
        let news = reader.read(wit::News::Complete(twice)).await.unwrap();
        assert_eq!(claims(&news), ["a=10.0.0.4:80"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_that_panics_is_a_failure_of_its_name() {
        let times = Arc::new(Mutex::new(0));
        let counted = times.clone();
        let resolver = Resolver::by(move |_| {
            let counted = counted.clone();
            Box::pin(async move {
                *counted.lock().unwrap() += 1;
                panic!("a test's panic")
            })
        });
        let mut reader = ClaimReader::new("orders".into(), Intake { resolver, own: OwnAddresses::default() });
        reader.read(wit::News::Complete(vec![endpoint("a", "db.example:80")])).await.unwrap();
        let tried = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                reader.progress().await;
            }
        });
        assert!(tried.await.is_err());
        assert!(*times.lock().unwrap() > 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_suspect_changes_nothing_and_is_no_news() {
        let names = FakeNames::default();
        let mut reader = reader(&names);
        reader.read(wit::News::Complete(vec![endpoint("a", "nonsense")])).await.unwrap();
        let left_out = reader.left_out.clone();
        let suspect = reader.read(wit::News::Suspect("no leader".into())).await;
        assert_eq!(suspect, Err(Suspect("no leader".into())));
        assert_eq!(reader.left_out, left_out);
    }

    #[tokio::test(start_paused = true)]
    async fn a_zone_is_a_zone_wherever_the_registry_keeps_it() {
        let names = FakeNames::default();
        let mut reader = reader(&names);
        let some = |text: &str| Some(text.to_owned());
        let labelled = |value: &str| vec![("zone".to_owned(), value.to_owned())];
        for (zone, labels, expected) in [
            (None, vec![], None),
            (some("a"), vec![], some("a")),
            (None, labelled("b"), some("b")),
            (some("a"), labelled("b"), some("a")),
            (some(""), labelled("b"), some("b")),
            (some(""), labelled(""), None),
        ] {
            let endpoint = wit::Endpoint { zone, labels, ..endpoint("a", "10.0.0.1:80") };
            let News::Complete(claims) = reader.read(wit::News::Complete(vec![endpoint])).await.unwrap()
            else {
                panic!("another kind of news")
            };
            assert_eq!(claims[0].facts.zone.as_deref(), expected.as_deref());
        }
    }
}

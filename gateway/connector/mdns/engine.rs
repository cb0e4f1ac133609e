//! The tasks that listen and speak for everybody who shares the same links: one for types of DNS-SD, one for others.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use super::{
    dns_sd,
    links::{Interfaced, interfaces},
    list::Told,
    own,
    responder::Announcement,
    wire::Name,
};
use crate::registry::Failure;

/// How often the interfaces are looked at.
pub const LOOKS: Duration = Duration::from_secs(2);

pub enum Order {
    Follow(Name, oneshot::Sender<watch::Receiver<Told>>),
    /// Under an id, which is taken from `Engine::next`. Answered at once, and then with the name that it came to have.
    Announce(u64, Announcement, oneshot::Sender<Result<oneshot::Receiver<String>, Failure>>),
    /// One that nobody has announced is no error.
    Forget(u64),
    /// Answered when it is done.
    Withdraw(u64, oneshot::Sender<()>),
}

/// Dropping it ends the task.
pub struct Engine {
    pub orders: mpsc::UnboundedSender<Order>,
    last: AtomicU64,
    _task: JoinSet<()>,
}

impl Engine {
    /// For types of DNS-SD, on the interfaces of these names.
    pub fn dns_sd(names: &[String]) -> Result<Self, Failure> {
        let (orders, taken) = mpsc::unbounded_channel();
        Ok(Self::of(orders, dns_sd::Task::start(names, taken)?.run()))
    }

    /// For other types, on the interfaces of these names.
    pub fn own(names: &[String]) -> Result<Self, Failure> {
        let (orders, taken) = mpsc::unbounded_channel();
        Ok(Self::of(orders, own::Task::start(names, taken)?.run()))
    }

    pub(super) fn of(
        orders: mpsc::UnboundedSender<Order>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(task);
        Self { orders, last: AtomicU64::default(), _task: tasks }
    }

    /// The id of an announcement.
    pub fn next(&self) -> u64 {
        self.last.fetch_add(1, Relaxed)
    }

    pub fn has_ended(&self) -> bool {
        self.orders.is_closed()
    }
}

/// The interfaces that are up; none is a failure.
pub fn looked_at(names: &[String]) -> Result<BTreeMap<u32, Interfaced>, Failure> {
    let found = interfaces(names).map_err(|error| unavailable(format!("interfaces: {error}")))?;
    match (found.is_empty(), names) {
        (false, _) => Ok(found),
        (true, []) => Err(unavailable(
            "no interface is up that leads to other machines; `interfaces` of the table `mdns` may name others"
                .to_owned(),
        )),
        (true, names) => Err(unavailable(format!("none of `interfaces` is up: {}", names.join(", ")))),
    }
}

/// Why a list would not be whole: an interface that is named is not among those that are listened on. When none is
/// named, those that there are, are all.
pub fn missing<'a>(names: &[String], listened: impl Iterator<Item = &'a Interfaced>) -> Option<Failure> {
    let listened: Vec<&str> = listened.map(|at| &*at.name).collect();
    let name = names.iter().find(|name| !listened.contains(&&***name))?;
    Some(unavailable(format!("{name} of `interfaces` is not up, or leads to one machine alone")))
}

/// Why what was heard is worth nothing: a link that was listened on is gone.
pub fn lost<'a>(
    links: impl Iterator<Item = (&'a u32, &'a Interfaced)>,
    found: &BTreeMap<u32, Interfaced>,
) -> Option<Failure> {
    let mut lost = links.filter_map(|(index, before)| match found.get(index) {
        None => Some(format!("{} is no longer up", before.name)),
        Some(now) if !before.is_still(now) => Some(format!("{} has no address that it had", before.name)),
        Some(_) => None,
    });
    lost.next().map(unavailable)
}

pub fn unavailable(text: String) -> Failure {
    Failure::Unavailable(format!("mDNS: {text}"))
}

/// An address that no link reaches is announced to nobody.
pub fn on_no_link<'a>(ip: IpAddr, listened: impl Iterator<Item = &'a Interfaced>) -> Failure {
    let names: Vec<&str> = listened.map(|at| &*at.name).collect();
    Failure::Invalid(format!(
        "mDNS: {ip} is on no network of {}, and nobody would hear it; `interfaces` of the table `mdns` may name others",
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_interface_that_is_named_is_needed_and_of_all_those_that_there_are() {
        let at = |name: &str| Interfaced { name: name.to_owned(), addresses: Vec::new() };
        let (here, names) = ([at("eth0"), at("eth2")], ["eth0".to_owned(), "eth1".to_owned()]);
        let Some(Failure::Unavailable(text)) = missing(&names, here.iter()) else {
            panic!("none is missing")
        };
        assert!(text.contains("eth1 ") && !text.contains("eth0"), "{text}");
        assert!(missing(&names[..1], here.iter()).is_none() && missing(&[], here.iter()).is_none());
    }
}

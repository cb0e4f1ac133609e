//! The tasks that listen and speak for everybody who shares the same links: one for types of DNS-SD, one for others.

use std::{collections::BTreeMap, time::Duration};

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
    /// Answered with the id, and then the name that it came to have.
    Announce(Announcement, oneshot::Sender<Result<(u64, oneshot::Receiver<String>), Failure>>),
    Forget(u64),
    /// Answered when it is done.
    Withdraw(u64, oneshot::Sender<()>),
}

/// Dropping it ends the task.
pub struct Engine {
    pub orders: mpsc::UnboundedSender<Order>,
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

    fn of(orders: mpsc::UnboundedSender<Order>, task: impl Future<Output = ()> + Send + 'static) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(task);
        Self { orders, _task: tasks }
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
        (true, []) => Err(unavailable("no interface is up".to_owned())),
        (true, names) => Err(unavailable(format!(
            "none of the interfaces is up, or they lead to one machine alone: {}",
            names.join(", ")
        ))),
    }
}

pub fn unavailable(text: String) -> Failure {
    Failure::Unavailable(format!("mDNS: {text}"))
}

/// An address that no link reaches is announced to nobody.
pub fn on_no_link(ip: std::net::IpAddr) -> Failure {
    Failure::Invalid(format!("mDNS: {ip} is on the network of no link, and nobody would hear it"))
}

//! Active checks: somebody asks the endpoints of an upstream whether they answer.
//!
//! Each question has a connection of its own, which is closed after it: on one that is kept, a process that takes no new
//! connections would go on answering.
//!
//! What an answer means is decided by the owner, which is told of every failure, of the first pass after one, and of
//! everything about suspects. Suspects, which are the ejected and the reserves, are always asked, so that they
//! come back, or leave, without a request having to try.

mod grpc;
mod probe;

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::{JoinHandle, JoinSet},
};

use crate::{
    catalog::Asking,
    config::Probe,
    upstream::{Event, Reader, Suspects, UpstreamName},
};

/// Suspects are asked so often.
const SUSPECTS_EVERY: Duration = Duration::from_secs(1);

/// Connections that the checks of one upstream make at once.
const AT_ONCE: usize = 32;

/// Asks the endpoints of an upstream, and tells `events`, until the task is aborted or the upstream closes.
pub fn start(
    reader: Reader,
    suspects: watch::Receiver<Arc<Suspects>>,
    settings: watch::Receiver<Arc<Asking>>,
    events: mpsc::Sender<Event>,
) -> JoinHandle<()> {
    let asker =
        Asker { name: reader.name().clone(), settings, events, room: Arc::new(Semaphore::new(AT_ONCE)) };
    tokio::spawn(async move {
        tokio::join!(asker.clone().all(reader), asker.suspects(suspects));
    })
}

/// An endpoint, and the name that it goes by.
type Named = (SocketAddr, Option<Arc<str>>);

#[derive(Clone)]
struct Asker {
    name: UpstreamName,
    settings: watch::Receiver<Arc<Asking>>,
    events: mpsc::Sender<Event>,
    room: Arc<Semaphore>,
}

impl Asker {
    /// Asks every endpoint that gets requests, once per interval, if the operator wants that.
    async fn all(mut self, reader: Reader) {
        let mut failing = HashSet::new();
        loop {
            // An error says that the upstream is about to close.
            if self.settings.wait_for(|asking| asking.check.probe.is_some()).await.is_err() {
                return;
            }
            let interval = self.settings.borrow_and_update().check.interval;
            tokio::select! {
                () = tokio::time::sleep(jittered(interval)) => {}
                // A shorter interval counts at once.
                changed = self.settings.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
            let endpoints: Vec<Named> = reader
                .snapshot()
                .iter()
                .map(|member| (member.address(), member.facts().hostname.clone()))
                .collect();
            let asked: HashSet<SocketAddr> = endpoints.iter().map(|(address, _)| *address).collect();
            failing.retain(|address| asked.contains(address));
            // Spread out, so that a long list is no burst.
            let pause = interval / 2 / endpoints.len().max(1) as u32;
            for (address, passed) in self.ask(endpoints, pause).await {
                let first_pass = passed && failing.remove(&address);
                if !passed {
                    failing.insert(address);
                }
                if (!passed || first_pass) && self.tell(address, passed).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Asks the suspects, for as long as there are any.
    async fn suspects(self, mut suspects: watch::Receiver<Arc<Suspects>>) {
        loop {
            if suspects.wait_for(|suspects| !suspects.is_empty()).await.is_err() {
                return;
            }
            tokio::time::sleep(jittered(SUSPECTS_EVERY)).await;
            let endpoints: Suspects = Suspects::clone(&suspects.borrow_and_update());
            for (address, passed) in self.ask(endpoints.into_iter().collect(), Duration::ZERO).await {
                if self.tell(address, passed).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Whether each passed. Of whom the gateway could not ask nothing is said.
    async fn ask(&self, endpoints: Vec<Named>, pause: Duration) -> Vec<(SocketAddr, bool)> {
        let mut asked = JoinSet::new();
        let mut answers = Vec::with_capacity(endpoints.len());
        for (address, hostname) in endpoints {
            // The semaphore is never closed.
            let Ok(permit) = self.room.clone().acquire_owned().await else { break };
            let asking = self.settings.borrow().clone();
            let name = self.name.clone();
            asked.spawn(async move {
                let probe = asking.check.probe.as_ref().unwrap_or(&Probe::Tcp);
                let to = probe::To {
                    address,
                    hostname: hostname.as_deref(),
                    tls: asking.tls.as_deref(),
                    proxy_protocol: asking.proxy_protocol,
                };
                let asked = probe::probe(probe, to, asking.check.timeout).await;
                drop(permit);
                match asked {
                    Ok(()) => Some((address, true)),
                    Err(error) if error.is_own() => {
                        tracing::debug!(upstream = %name, endpoint = %address, %error, "Check not made");
                        None
                    }
                    Err(error) => {
                        tracing::debug!(upstream = %name, endpoint = %address, %error, "Check failed");
                        Some((address, false))
                    }
                }
            });
            while let Some(answer) = asked.try_join_next() {
                answers.extend(answer.ok().flatten());
            }
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        while let Some(answer) = asked.join_next().await {
            answers.extend(answer.ok().flatten());
        }
        answers
    }

    async fn tell(&self, address: SocketAddr, passed: bool) -> Result<(), ()> {
        self.events.send(Event::Checked { address, passed }).await.map_err(|_| ())
    }
}

/// Give or take a fifth, so that gateways and upstreams that started together do not ask together.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.8 + 0.4 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::net::TcpListener;

    use super::*;
    use crate::config::Check;
    use crate::upstream::{Endpoint, Facts, Offer, Publisher, Weight};

    fn check(probe: Option<Probe>) -> watch::Sender<Arc<Asking>> {
        let interval = Duration::from_millis(50);
        let check = Check { probe, interval, timeout: Duration::from_secs(2) };
        watch::Sender::new(Arc::new(Asking { check, ..Asking::default() }))
    }

    /// An address where nobody listens.
    async fn nobody() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    #[test]
    fn questions_are_a_fifth_of_the_interval_apart_from_it_at_most_and_not_in_step() {
        let interval = Duration::from_secs(5);
        let pauses: Vec<Duration> = (0..1_000).map(|_| jittered(interval)).collect();
        let (least, most) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
        assert!(*least >= Duration::from_secs(4) && *most <= Duration::from_secs(6));
        assert!(*most - *least > Duration::from_secs(1));
    }

    #[tokio::test]
    async fn suspects_are_asked_without_any_configuration() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (up, down) = (listener.local_addr().unwrap(), nobody().await);
        let (_publisher, reader) = Publisher::new(UpstreamName::new("orders"));
        let (_suspects, watched) = watch::channel(Arc::new(Suspects::from([(up, None), (down, None)])));
        let (events, mut told) = mpsc::channel(8);
        let settings = check(None);
        let _checks = start(reader, watched, settings.subscribe(), events);
        let mut seen = BTreeSet::new();
        while seen.len() < 2 {
            let Some(Event::Checked { address, passed }) = told.recv().await else { panic!() };
            seen.insert((address, passed));
        }
        assert_eq!(seen, BTreeSet::from([(up, true), (down, false)]));
    }

    #[tokio::test]
    async fn failures_are_told_and_the_first_pass_after_them() {
        let address = nobody().await;
        let (mut publisher, reader) = Publisher::new(UpstreamName::new("orders"));
        let endpoint = Endpoint { address, weight: Weight::ONE, facts: Facts::default() };
        publisher.publish(vec![Offer::Put(endpoint)], std::time::Instant::now());
        let (_suspects, watched) = watch::channel(Arc::default());
        let (events, mut told) = mpsc::channel(8);
        let settings = check(Some(Probe::Tcp));
        let _checks = start(reader, watched, settings.subscribe(), events);
        let failed = told.recv().await;
        assert!(matches!(failed, Some(Event::Checked { passed: false, .. })));
        let _listener = TcpListener::bind(address).await.unwrap();
        loop {
            match told.recv().await {
                Some(Event::Checked { passed: true, .. }) => break,
                other => assert!(matches!(other, Some(Event::Checked { passed: false, .. }))),
            }
        }
    }
}

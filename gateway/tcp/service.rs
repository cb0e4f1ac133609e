//! The path of a connection, step by step.

use std::{cell::RefCell, future::Future, pin::Pin, rc::Rc, sync::Arc, time::Instant};

use super::{record::Record, route::Routes};
use crate::{
    catalog::Table,
    client::{self, DialError, Transport},
    config,
    dispatch::{
        self, Admission, Admitted, Choice, Held, Leaving, Lookup, NotDispatched, Opened, Picked, Target,
        Targets,
    },
    http::{RequestError, explain},
    net::{self, Broken, Proxied, Scratch, Stream, Watch},
    resilience::{Event, History, Next, RetryPolicy, Tried},
    selector::RequestFacts,
    server::{Carried, Carries},
    telemetry::{Fault, access::Entry},
    upstream::{Evidence, Member},
};

/// What one worker needs to pass connections on. Never leaves its thread.
pub struct Worker {
    index: usize,
    targets: Rc<Targets>,
    watch: Rc<Watch>,
    routes: RefCell<Rc<Routes<Rc<Target>>>>,
    scratch: Scratch,
}

impl Worker {
    pub fn new(index: usize, targets: Rc<Targets>, watch: Rc<Watch>) -> Self {
        let routes = RefCell::new(Rc::new(Routes::empty()));
        Self { index, targets, watch, routes, scratch: Scratch::default() }
    }

    /// Exchanges the routes for those of a table whose upstreams have been taken over.
    pub fn install(&self, table: &Table) {
        let routes = Routes::new(&table.config.tcp_routes, |name| self.targets.get(name));
        self.routes.replace(Rc::new(routes));
    }

    /// Finds an endpoint for a client, connects to it, and passes bytes on until both sides have closed.
    async fn carry(&self, client: Carried) {
        let Carried { stream, early, asked, info, listener, access_log } = client;
        let mut entry = access_log.map(|log| {
            let mut entry = Entry::new(&log, self.index, Instant::now(), &listener.name, info.peer(), "TCP");
            let meter = stream.meter().clone();
            entry.counts_by(Box::new(move || (meter.read(), meter.written())));
            entry.server_name = asked.clone();
            entry
        });
        let facts =
            RequestFacts { request: None, client: info.peer().ip().to_canonical(), sni: asked.as_deref() };
        let reached = match self.reach(&listener, &facts, &info.ends(), &mut entry).await {
            Ok(reached) => reached,
            Err(error) => {
                // Whoever is not served is told so, and not that everything has been sent.
                let _ = stream.reset_on_close();
                if let Some(entry) = &mut entry {
                    explain(entry, &error);
                }
                return tracing::debug!(client = %info.peer(), listener = %listener.name, %error, "Connection refused");
            }
        };
        let Reached { target, opened, endpoint, held } = reached;
        let address = opened.member.address();
        let mut record = Record::new(Instant::now(), target.account.clone(), stream.meter().clone(), entry);
        let leave = target.upstream.config.leave;
        let leaving = leave.map(|limit| Leaving::watch(&self.watch, opened.in_flight.stats().clone(), limit));
        // Given back last: whoever is let go by it finds the endpoint free.
        let (_held, _opened) = (held, opened);
        tokio::select! {
            ended = net::relay(stream, early, endpoint, &self.scratch, &info.half_closed) => match ended {
                Ok(()) => record.ended(),
                Err(broken) => {
                    record.cut(match broken { Broken::Client(_) => Fault::Client, Broken::Endpoint(_) => Fault::Endpoint });
                    tracing::debug!(client = %info.peer(), endpoint = %address, ?broken, "Connection broke off");
                }
            },
            () = dispatch::over(leaving) => {
                target.account.left();
                record.cut(Fault::Local);
            }
        }
    }

    async fn reach(
        &self,
        listener: &config::Listener,
        facts: &RequestFacts<'_>,
        ends: &Proxied,
        entry: &mut Option<Box<Entry>>,
    ) -> Result<Reached, RequestError> {
        let routes = self.routes.borrow().clone();
        let route = routes.find(&listener.name, facts.sni).ok_or(RequestError::NoRoute)?;
        let (goal, retries) = (route.goal.clone(), route.retries);
        if let Some(entry) = entry {
            entry.route = Some(route.name.clone());
        }
        drop(routes);
        let target = match self.targets.lookup(&goal, facts.sni)? {
            Lookup::Known(target) => target,
            Lookup::New(search) => self.targets.find(search).await?,
        };
        let now = Instant::now();
        target.upstream.touch(now);
        if let Some(entry) = entry {
            entry.upstream = Some(target.upstream.name().clone());
        }
        let admitted = self.admit(&target, facts, now).await.inspect_err(|error| {
            if let NotDispatched::Refused(refused) = error {
                target.upstream.metrics.not_sent(self.index, *refused);
            }
        })?;
        target.upstream.metrics.began(self.index);
        let policy = retries.map(|retries| retries.over(&target.upstream.config.retries));
        self.connect(target, facts, ends, admitted, policy, entry).await
    }

    async fn admit(
        &self,
        target: &Target,
        facts: &RequestFacts<'_>,
        now: Instant,
    ) -> Result<Admitted, NotDispatched> {
        let pick = |at| Choice { target, facts: *facts, attempt: 0, tried: &[] }.pick(at);
        match dispatch::admit(target, now, pick)? {
            Admission::Admitted(admitted) => Ok(admitted),
            Admission::Waiting(place) => dispatch::turn(target, place, pick).await,
        }
    }

    /// Connects to the endpoint that was picked, or to others while it cannot be connected to, as the policy says. Nothing
    /// has been sent before there is a connection.
    async fn connect(
        &self,
        target: Rc<Target>,
        facts: &RequestFacts<'_>,
        ends: &Proxied,
        admitted: Admitted,
        policy: Option<RetryPolicy>,
        entry: &mut Option<Box<Entry>>,
    ) -> Result<Reached, RequestError> {
        let Admitted { picked, at, mut held } = admitted;
        let (upstream, policy) = (target.upstream.clone(), policy.unwrap_or(target.upstream.config.retries));
        let (mut history, mut tried) = (History::new(false, false), Tried::<Arc<Member>>::default());
        let (mut picked, mut begun) = (picked, at);
        loop {
            let mut opened = Opened::begin(picked, begun);
            if let Some(entry) = entry {
                entry.tries(opened.member.address());
            }
            let dialed = {
                let mut transport = Transport::to(&opened.member, upstream.tls.as_ref());
                if let Some(version) = upstream.config.proxy_protocol {
                    transport = transport.telling_of(ends, version);
                }
                client::open(transport, upstream.config.timeouts.connect).await
            };
            let at = Instant::now();
            let error = match dialed {
                Ok(endpoint) => {
                    let took = at.saturating_duration_since(begun);
                    let stats = opened.member.stats();
                    stats.connected(at, took);
                    endpoint.meter().count(stats.opened());
                    stats.record(at, took, true);
                    stats.confirm();
                    target.evidence.send(
                        opened.member.address(),
                        stats,
                        Evidence::Answered,
                        opened.trial.take(),
                    );
                    held.connected(at);
                    return Ok(Reached { target, opened, endpoint, held });
                }
                Err(error) => error,
            };
            self.learn(&target, &mut opened, &error, at, begun);
            let member = opened.member.clone();
            drop(opened);
            let Next::Retry(cause) = history.step(&policy, Event::NotConnected, || true) else {
                return Err(give_up(error, &mut held));
            };
            tried.add(member.slot(), member);
            let choice =
                Choice { target: &target, facts: *facts, attempt: history.number(), tried: tried.slots() };
            let other = choice.pick(at).ok().filter(|other: &Picked| !tried.contains(other.member.slot()));
            let Some(other) = other else { return Err(give_up(error, &mut held)) };
            upstream.metrics.retried(self.index, cause);
            held.tried();
            (picked, begun) = (other, at);
        }
    }

    /// The endpoint's statistics and its upstream's health learn that it could not be connected to.
    fn learn(&self, target: &Target, opened: &mut Opened, error: &DialError, at: Instant, begun: Instant) {
        if error.is_own() {
            return;
        }
        let member = &opened.member;
        member.stats().record(at, at.saturating_duration_since(begun), false);
        target.upstream.metrics.learned(self.index, Evidence::ConnectFailed);
        target.evidence.send(member.address(), member.stats(), Evidence::ConnectFailed, opened.trial.take());
    }
}

/// There is no other endpoint to try. That is no failure of the upstream if the gateway itself could not connect.
fn give_up(error: DialError, held: &mut Held) -> RequestError {
    if !error.is_own() {
        held.failed();
    }
    error.into()
}

/// An endpoint that a client is connected with.
struct Reached {
    target: Rc<Target>,
    opened: Opened,
    endpoint: Stream,
    held: Held,
}

impl Carries for Worker {
    fn want_name(&self, listener: &config::Listener) -> bool {
        self.routes.borrow().want_name(&listener.name)
    }

    fn carry(self: Rc<Self>, client: Carried) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(async move { Worker::carry(&self, client).await })
    }
}

//! The path of one call, step by step: its route, its upstream, whether that takes it, and its tries.

use std::{net::SocketAddr, rc::Rc, str, sync::Arc, time::Instant};

use super::{Worker, frame::Frame, tries::Tries};
use crate::{
    config,
    dispatch::{self, Admission, Admitted, Choice, Lookup, NotDispatched, Target},
    http::{RequestError, call_counts_as, explain},
    selector::RequestFacts,
    telemetry::{
        Fault, Record,
        access::{AccessLog, Entry},
    },
};

/// Whoever is at the other end of one connection.
pub struct Caller {
    pub worker: Rc<Worker>,
    pub listener: Arc<config::Listener>,
    pub access_log: Option<Arc<AccessLog>>,
    pub peer: SocketAddr,
}

impl Caller {
    /// Answers a call: with what an endpoint says, or with why none does. None: nobody waits for an answer. Dropping it
    /// gives the call up.
    pub async fn answer(&self, call: Frame) -> Option<Frame> {
        let mut record = Record::new(Instant::now(), self.worker.unrouted.clone());
        record.entry = self.access_log.as_ref().map(|log| self.entry(log, &call, record.started));
        let answered = self.send(&call, &mut record).await;
        let (answer, status) = match answered {
            Ok(answer) => {
                let failed = answer.as_ref().is_some_and(Frame::is_error);
                (answer, call_counts_as(failed))
            }
            Err(error) => {
                let (path, method) = (shown(call.path()), shown(call.method()));
                tracing::debug!(client = %self.peer, path, method, %error, "Call failed");
                if let Some(refused) = error.refused() {
                    record.account.metrics.not_sent(self.worker.index, refused);
                }
                if let Some(entry) = &mut record.entry {
                    explain(entry, &error);
                }
                let (status, reason, text) = error.facts();
                let answer = (!call.is_one_way()).then(|| Frame::error(&call, &format!("{reason}: {text}")));
                (answer, status)
            }
        };
        if let (Some(entry), Some(answer)) = (&mut record.entry, &answer) {
            entry.sent = answer.size() as u64;
        }
        record.answered(status.as_u16(), Instant::now());
        record.ended();
        answer
    }

    fn entry(&self, log: &Arc<AccessLog>, call: &Frame, began: Instant) -> Box<Entry> {
        let Self { worker, listener, peer, .. } = self;
        let mut entry = Entry::new(log, worker.index, began, &listener.name, *peer, "rpcx");
        entry.calls(shown(call.path()), shown(call.method()));
        entry.received.set(call.size() as u64);
        entry
    }

    async fn send(&self, call: &Frame, record: &mut Record) -> Result<Option<Frame>, RequestError> {
        let worker = &self.worker;
        let route = worker.routes.borrow().find(&self.listener.name).ok_or(RequestError::NoRoute)?;
        if let Some(entry) = &mut record.entry {
            entry.route = Some(route.name.clone());
        }
        let path = str::from_utf8(call.path()).ok();
        let target = match worker.targets.lookup(&route.goal, path)? {
            Lookup::Known(target) => target,
            Lookup::New(search) => worker.targets.find(search).await?,
        };
        target.upstream.touch(record.started);
        record.account = target.account.clone();
        if let Some(entry) = &mut record.entry {
            entry.upstream = Some(target.upstream.name().clone());
        }
        let Admitted { picked, at, mut held } = self.admit(&target, record.started).await?;
        target.upstream.metrics.began(worker.index);
        let mut tries = Tries::new(self, call, &target, &route, record);
        let answered = tries.run(picked, at, &held).await;
        match &answered {
            Ok(answer) => {
                let failed = answer.as_ref().is_some_and(Frame::is_error);
                held.answered(&target.upstream.config, call_counts_as(failed), Instant::now());
            }
            Err(error) if error.fault() == Fault::Endpoint => held.failed(),
            Err(_) => {}
        }
        answered
    }

    async fn admit(&self, target: &Target, now: Instant) -> Result<Admitted, NotDispatched> {
        let pick = |at| Choice { target, facts: self.facts(), attempt: 0, tried: &[] }.pick(at);
        match dispatch::admit(target, now, pick)? {
            Admission::Admitted(admitted) => Ok(admitted),
            Admission::Waiting(place) => dispatch::turn(target, place, pick).await,
        }
    }

    /// What an endpoint is chosen by.
    pub fn facts(&self) -> RequestFacts<'_> {
        RequestFacts { request: None, client: self.peer.ip().to_canonical(), sni: None }
    }
}

/// A name from outside, as a log shows it.
fn shown(name: &[u8]) -> String {
    name.escape_ascii().to_string()
}

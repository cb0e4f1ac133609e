//! A second try of a request beside the first, when that takes long.

use std::time::Instant;

use http::Request;

use super::{
    attempt::{Step, Try},
    exchange::Exchange,
    tries::How,
    upload::RequestBody,
};
use crate::{
    dispatch::Opened,
    resilience::{Event, Next},
    telemetry::trace::Ended,
};

impl Exchange {
    /// Begins a second try beside the first on another endpoint, if there is one and the request can be sent twice.
    pub(super) fn hedge(&mut self) {
        let Some(Try { opened, .. }) = self.tries.first() else { return };
        let member = opened.member.clone();
        let Some(request) = self.copy() else { return };
        self.tried.add(member.slot(), member);
        let (head, body) = self.with_body(request).into_parts();
        let now = Instant::now();
        let Ok(picked) = self.choice(&head).pick(now) else { return };
        if self.tried.contains(picked.member.slot()) {
            return;
        }
        if self.step(Event::BackupDue, now) == Next::Backup {
            self.target.upstream.metrics.hedged(self.peer.worker.index);
            let how = How { fresh: false, backup: true };
            self.begin(Opened::begin(picked, now), Request::from_parts(head, body), how);
        }
    }

    /// The request of the first try, once more. Its body has to be here as a whole.
    fn copy(&self) -> Option<Request<RequestBody>> {
        let whole = self.upload.is_none() || self.kept.as_ref().is_some_and(|kept| kept.is_whole());
        if self.upgrading || !whole {
            return None;
        }
        let spare = match &self.tries.first()?.step {
            Step::Dialing(dialing) => self.peer.worker.spares.copy(&dialing.request),
            Step::Sent(attempt) => attempt.spare.clone()?,
            Step::Over => return None,
        };
        spare.into_request()
    }

    /// The try at a place has the answer that the client gets: the one beside it is ended. Its connection is closed, since
    /// its answer is still to come.
    pub(super) fn won(&mut self, place: usize) {
        let metrics = &self.target.upstream.metrics;
        let loser = self.tries.keep_only(place);
        if self.tries.first().is_some_and(|winner| winner.backup) {
            metrics.hedge_won(self.peer.worker.index);
        }
        if let Some(Try { opened, backup, span, .. }) = loser {
            metrics.hedge_cancelled(self.peer.worker.index);
            if let Some(trace) = &mut self.record.trace {
                trace.tried(span, Ended::Cancelled, Instant::now());
            }
            if !backup {
                // It would have taken longer than that.
                self.note_latency(opened.begun, Instant::now());
                // Until now this one was watched.
                self.watch_the_rest();
            }
            drop(opened);
            self.held.tried();
        }
    }
}

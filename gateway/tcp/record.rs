//! What is known of one connection when it is over.

use std::{rc::Rc, time::Instant};

use crate::{
    net::Meter,
    telemetry::{Account, Carried, Fault, access::Entry},
};

/// The record of one connection: begun when it is connected to an endpoint. Dropping it counts the connection.
pub(super) struct Record {
    began: Instant,
    account: Rc<Account>,
    client: Rc<Meter>,
    end: End,
    entry: Option<Box<Entry>>,
}

enum End {
    /// Nobody has said. When the record is dropped like that, the gateway has ended it.
    Open,
    Whole,
    Cut(Fault),
}

impl Record {
    /// Of a client whose stream has this meter.
    pub(super) fn new(
        began: Instant,
        account: Rc<Account>,
        client: Rc<Meter>,
        entry: Option<Box<Entry>>,
    ) -> Self {
        Self { began, account, client, end: End::Open, entry }
    }

    /// Both sides have closed.
    pub(super) fn ended(&mut self) {
        self.end = End::Whole;
    }

    pub(super) fn cut(&mut self, fault: Fault) {
        self.end = End::Cut(fault);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Account { metrics, worker, .. } = &*self.account;
        let (received, sent) = (self.client.read(), self.client.written());
        metrics.carried(*worker, Carried { connections: 1, received, sent, took: self.began.elapsed() });
        let cut = match self.end {
            End::Whole => None,
            End::Open => Some(Fault::Local),
            End::Cut(fault) => Some(fault),
        };
        if let Some(fault) = cut {
            metrics.cut(*worker, fault);
        }
        if let Some(entry) = &mut self.entry {
            entry.finish(None, cut);
        }
    }
}

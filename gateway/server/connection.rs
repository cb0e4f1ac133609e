//! One connection of a client, from accept to its end: the stages that it goes through.

use std::{future::Future, rc::Rc, sync::Arc};

use hyper::{
    Response,
    body::{Body, Bytes},
};

use super::{
    Arrival, Carries,
    capacity::Seat,
    carried,
    drain::Drain,
    handshake,
    http1::{self, After},
    http2,
    info::ConnInfo,
    linger::Lingering,
    proxy_header,
    upgraded::Upgraded,
};
use crate::{
    config::{self, ListenerProtocol},
    net::{Tcp, Watch},
    telemetry::{ListenerCounters, access::AccessLog},
    tls,
};

/// What all connections of a listener share on a worker.
pub(super) struct Surroundings {
    pub watch: Rc<Watch>,
    pub drain: Rc<Drain>,
    pub carries: Option<Rc<dyn Carries>>,
    pub lingering: Rc<Lingering>,
}

/// A client that was accepted and has a permit.
pub(super) struct Accepted {
    pub stream: Tcp,
    /// None: the client speaks without TLS.
    pub tls: Option<Arc<tls::Server>>,
    pub info: Rc<ConnInfo>,
    pub seat: Seat,
    pub settings: Arc<config::Listener>,
    pub access_log: Option<Arc<AccessLog>>,
    pub counters: Arc<ListenerCounters>,
}

/// Serves one connection until it has ended. `answers` is called when it is known what there is to know of it.
pub(super) async fn run<A, C, F, B>(accepted: Accepted, surroundings: Rc<Surroundings>, answers: &A)
where
    A: Fn(&Rc<ConnInfo>) -> C,
    C: Fn(Arrival) -> F + 'static,
    F: Future<Output = Response<B>> + Unpin + 'static,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Accepted { mut stream, tls, info, seat, settings, access_log, counters } = accepted;
    let Surroundings { watch, drain, carries, lingering } = &*surroundings;
    let _drained = drain.enter(&info);
    let state = Rc::new(http1::State::new(info.clone(), seat, &settings));
    let watched = watch.enter(state.clone());
    watched.wait(Some(state.shortest_wait()));
    // In a box: most connections have none of this.
    if settings.expects_proxy_header(info.peer().ip())
        && !Box::pin(proxy_header::take(&mut stream, &state, &counters)).await
    {
        return;
    }
    let stream = match tls {
        None => stream.into(),
        // In a box: it is large, and soon over.
        Some(tls) => match Box::pin(handshake::shake(stream, &tls, &state, &counters)).await {
            Some(stream) => stream,
            None => return,
        },
    };
    if settings.protocol != ListenerProtocol::Http {
        let Some(carries) = carries else { return };
        return carried::serve(stream, &state, settings, access_log, carries.clone()).await;
    }
    let answer = answers(&info);
    let after = match info.tls().is_some_and(|tls| tls.http2) {
        true => After::Http2(stream, Vec::new()),
        false => http1::serve(stream, &state, settings.max_header_bytes, &answer).await,
    };
    match after {
        After::Switched(takeover, stream, early) => {
            info.orders.unless_ended(takeover(Upgraded::Connection(stream), early)).await;
        }
        After::Http2(stream, early) => {
            drop(watched);
            // Nobody else has it any more.
            let Some(seat) = Rc::into_inner(state).map(http1::State::into_seat) else { return };
            let state = Rc::new(http2::State::new(info, seat, &settings, counters));
            let watched = watch.enter(state.clone());
            watched.wait(Some(state.shortest_wait()));
            http2::serve(stream, early, &state, answer).await;
        }
        After::CutShort(stream) => {
            info.orders.unless_ended(lingering.linger(stream)).await;
        }
        After::Nothing => {}
    }
}

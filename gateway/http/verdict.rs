//! The first of two verdicts about a try: what its outcome says when the head of the answer is there, or will not come.
//! The second is in `reply`, when the answer has ended.

use std::error::Error as _;

use http::{Request, Response, StatusCode};
use hyper::client::conn::TrySendError;

use super::{
    RequestError, forward, grpc,
    seen::Seen,
    upload::{RequestBody, Spoilt},
    waits::Wait,
};
use crate::{
    client::Connection, resilience::Event, syntax::websocket::Accept, telemetry::Fault, upstream::Evidence,
};

/// A try that failed.
pub(super) struct Failed {
    pub error: RequestError,
    /// What that is for whoever decides about another try.
    pub event: Event,
    /// It was sent over a connection that had been idle and was dead already, so that its end says nothing about the
    /// endpoint.
    pub stale: bool,
    /// The request, if nothing of it was sent.
    pub unsent: Option<Box<Request<RequestBody>>>,
}

impl Failed {
    pub(super) fn to_connect(error: RequestError, request: Request<RequestBody>) -> Self {
        Self { error, event: Event::NotConnected, stale: false, unsent: Some(Box::new(request)) }
    }

    /// In a way that no other try is going to mend.
    pub(super) fn for_good(error: RequestError) -> Self {
        Self { error, event: Event::Failed, stale: false, unsent: None }
    }

    /// Something took too long.
    pub(super) fn expired(wait: Wait) -> Self {
        let event = if matches!(wait, Wait::Try | Wait::Leave) { Event::TimedOut } else { Event::Over };
        Self { error: RequestError::Expired(wait), event, stale: false, unsent: None }
    }

    /// Sending failed. `spoilt` says what the client had done to its body.
    pub(super) fn to_send(
        mut error: TrySendError<Request<RequestBody>>,
        spoilt: Option<Spoilt>,
        connection: &Connection<RequestBody>,
    ) -> Self {
        let unsent = error.take_message().map(Box::new);
        let error = error.into_error();
        let (reused, stream) = (connection.reused, h2_error(&error));
        if connection.is_shared() && !stream.is_some_and(h2::Error::is_reset) {
            connection.leave();
        }
        if let Some(spoilt) = spoilt {
            let error = match spoilt {
                Spoilt::BrokenOff => RequestError::Aborted(error.to_string()),
                Spoilt::TooLarge => RequestError::BodyTooLarge,
                Spoilt::NotBase64 => RequestError::NotBase64,
            };
            return Self { error, event: Event::Over, stale: false, unsent: None };
        }
        if error.is_parse_too_large() {
            return Self::for_good(RequestError::AnswerTooLarge);
        }
        if error.is_parse() {
            return Self::for_good(RequestError::BadAnswer(error.to_string()));
        }
        let unprocessed = unsent.is_some() || stream.is_some_and(is_unprocessed);
        // A connection that others use is none that died while it was idle.
        let refused = stream.is_some_and(h2::Error::is_reset);
        let event = match (unprocessed, connection.is_shared()) {
            (true, true) if !refused => Event::Left,
            (true, _) => Event::Unsent,
            (false, false) if reused => Event::Stale,
            (false, _) => Event::Reset,
        };
        // A stream that was refused, or came too late for a connection, says nothing of the endpoint.
        let stale = if connection.is_shared() { unprocessed } else { reused };
        Self { error: RequestError::Reset(error.to_string()), event, stale, unsent }
    }

    /// Whether it counts against the endpoint.
    pub(super) fn is_of_endpoint(&self) -> bool {
        !self.stale && self.error.fault() == Fault::Endpoint
    }
}

/// What went wrong with a stream of HTTP/2, or with its connection.
pub(super) fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    let mut cause = error.source();
    while let Some(found) = cause {
        if let Some(error) = found.downcast_ref() {
            return Some(error);
        }
        cause = found.source();
    }
    None
}

/// Whether an endpoint has ended the stream of an answer itself, with a code that is for the client.
pub(super) fn is_reset(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|error| error.is_reset() && error.is_remote())
}

/// Whether an endpoint says that it has not processed a request: it refused the stream, or it had said that it takes no more
/// and this came after the last that it takes (RFC 9113 8.7).
fn is_unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

/// What the end of a try, maybe of a call of gRPC, is for whoever decides about another one.
pub(super) fn event<B>(outcome: &Result<Response<B>, Failed>, is_call: bool) -> Event {
    match outcome {
        Ok(response) => match is_call.then(|| grpc::declined(response.headers())).flatten() {
            Some(cause) => Event::Declined(cause),
            None => Event::Answered(response.status()),
        },
        Err(failed) => failed.event,
    }
}

/// What a try says of the endpoint's health; nothing if its failure was the client's or the gateway's own.
pub(super) fn evidence<B>(outcome: &Result<Response<B>, Failed>) -> Option<Evidence> {
    let failed = match outcome {
        Ok(response) => return Some(told(response.status())),
        Err(failed) => failed,
    };
    let evidence = match &failed.error {
        RequestError::Dial(_) => Evidence::ConnectFailed,
        RequestError::Expired(_) => Evidence::TimedOut,
        _ => Evidence::Broke,
    };
    failed.is_of_endpoint().then_some(evidence)
}

/// Whether the statistics take a try for a success; none: it says nothing of the endpoint. `counted` is the status that an
/// answer with a status counts as.
pub(super) fn success<B>(
    outcome: &Result<Response<B>, Failed>,
    counted: impl FnOnce(StatusCode) -> StatusCode,
) -> Option<bool> {
    match outcome {
        Ok(response) => Some(is_success(counted(response.status()))),
        Err(failed) => failed.is_of_endpoint().then_some(false),
    }
}

/// What an answer that counts as this says of the endpoint's health.
pub fn told(status: StatusCode) -> Evidence {
    if matches!(status.as_u16(), 502..=504) { Evidence::GatewayError } else { Evidence::Answered }
}

/// Whether the statistics take an answer that counts as this for a success.
pub fn is_success(status: StatusCode) -> bool {
    !status.is_server_error()
}

/// An answer is one only if it can be handed on as what it is. `websocket` is what a client of HTTP/2 asked for that.
pub(super) fn accept<B>(
    response: Response<B>,
    seen: Seen,
    upgrading: bool,
    websocket: Option<&Accept>,
) -> Result<Response<B>, Failed> {
    if seen.is_coded() {
        forward::coding(response.headers()).map_err(Failed::for_good)?;
    }
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switching && !(upgrading && forward::may_switch(response.headers())) {
        return Err(Failed::for_good(RequestError::BadAnswer("switches protocols unasked".into())));
    }
    if let Some(accept) = websocket {
        if switching && !accept.is_in(response.headers()) {
            return Err(Failed::for_good(RequestError::BadAnswer("no proper handshake of WebSocket".into())));
        }
        // The client would take it for the beginning of one.
        if response.status().is_success() {
            return Err(Failed::for_good(RequestError::NotSwitched));
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use std::{io, net::SocketAddr, time::Duration};

    use super::*;
    use crate::{
        catalog::FindError, client::DialError, dispatch::NotDispatched, selector::PickError, server::Refusal,
        syntax::websocket, telemetry::Refused, tls::HandshakeError, upstream::UpstreamName,
    };

    fn refused(error: io::Error) -> RequestError {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        DialError::Failed { address, error: error.into() }.into()
    }

    fn no_tls(error: HandshakeError) -> RequestError {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        DialError::Tls { address, error: error.into() }.into()
    }

    /// The table of faults, one row for each kind of failure: whose it is, and what health is told.
    #[test]
    fn every_failure_is_exactly_ones_and_only_the_endpoints_reaches_it() {
        let (address, limit) = (SocketAddr::from(([127, 0, 0, 1], 1)), Duration::ZERO);
        let upstream = || UpstreamName::new("main");
        let no_descriptors = io::Error::from_raw_os_error(24);
        let none_in_the_system = io::Error::from_raw_os_error(23);
        let no_buffers = io::Error::from_raw_os_error(105);
        let no_ports = io::Error::from_raw_os_error(99);
        for (error, fault, told) in [
            (RequestError::NoRoute, Fault::Local, None),
            (NotDispatched::UnknownService.into(), Fault::Local, None),
            (NotDispatched::from(FindError::Closing).into(), Fault::Local, None),
            (NotDispatched::from(PickError::NoEndpoints(upstream())).into(), Fault::Local, None),
            (NotDispatched::from(PickError::NothingSuits(upstream())).into(), Fault::Local, None),
            (NotDispatched::Drained.into(), Fault::Local, None),
            (NotDispatched::Full.into(), Fault::Local, None),
            (RequestError::TooFast(1), Fault::Local, None),
            (RequestError::Origin, Fault::Local, None),
            (NotDispatched::Refused(Refused::BreakerOpen).into(), Fault::Local, None),
            (NotDispatched::Refused(Refused::QueueTimeout).into(), Fault::Local, None),
            (RequestError::BodyTooLarge, Fault::Client, None),
            (RequestError::NotBase64, Fault::Client, None),
            (NotDispatched::NoUpstream.into(), Fault::Local, None),
            (refused(no_descriptors), Fault::Local, None),
            (refused(none_in_the_system), Fault::Local, None),
            (refused(no_buffers), Fault::Local, None),
            (refused(no_ports), Fault::Local, None),
            (
                refused(io::ErrorKind::ConnectionRefused.into()),
                Fault::Endpoint,
                Some(Evidence::ConnectFailed),
            ),
            (DialError::TimedOut { address, limit }.into(), Fault::Endpoint, Some(Evidence::ConnectFailed)),
            (DialError::Busy { address, limit }.into(), Fault::Local, None),
            (no_tls(HandshakeError::NotHttp2), Fault::Endpoint, Some(Evidence::ConnectFailed)),
            (no_tls(HandshakeError::NoPolicy), Fault::Local, None),
            (no_tls(HandshakeError::NotBelieved(io::ErrorKind::InvalidData.into())), Fault::Local, None),
            (RequestError::Reset(String::new()), Fault::Endpoint, Some(Evidence::Broke)),
            (RequestError::BadAnswer(String::new()), Fault::Endpoint, Some(Evidence::Broke)),
            (RequestError::AnswerTooLarge, Fault::Endpoint, Some(Evidence::Broke)),
            (RequestError::AnswerCoding, Fault::Endpoint, Some(Evidence::Broke)),
            (RequestError::Expectation, Fault::Client, None),
            (RequestError::Loop, Fault::Local, None),
            (RequestError::Lost, Fault::Local, None),
            (RequestError::NotSwitched, Fault::Local, None),
            (RequestError::Expired(Wait::Room), Fault::Endpoint, Some(Evidence::TimedOut)),
            (RequestError::Expired(Wait::Head), Fault::Endpoint, Some(Evidence::TimedOut)),
            (RequestError::Expired(Wait::Answer), Fault::Endpoint, Some(Evidence::TimedOut)),
            (RequestError::Expired(Wait::WholeOfEndpoint), Fault::Endpoint, Some(Evidence::TimedOut)),
            (RequestError::Expired(Wait::Try), Fault::Endpoint, Some(Evidence::TimedOut)),
            (RequestError::Expired(Wait::WholeOfClient), Fault::Client, None),
            (RequestError::Expired(Wait::Upload), Fault::Client, None),
            (RequestError::Expired(Wait::Leave), Fault::Local, None),
            (RequestError::Expired(Wait::Closing), Fault::Local, None),
            (RequestError::Aborted(String::new()), Fault::Client, None),
            (Refusal::Host.into(), Fault::Client, None),
        ] {
            assert_eq!(error.fault(), fault, "{error}");
            let closes =
                error.response(false).headers().get("connection").is_some_and(|value| value == "close");
            assert_eq!(closes, fault == Fault::Client, "{error}");
            let outcome = Err::<Response<()>, _>(Failed::for_good(error));
            assert_eq!(evidence(&outcome), told);
            assert_eq!(success(&outcome, |status| status), told.map(|_| false));
        }
    }

    #[test]
    fn a_connection_that_had_died_while_it_was_idle_says_nothing() {
        let error = RequestError::Reset(String::new());
        let outcome =
            Err::<Response<()>, _>(Failed { error, event: Event::Stale, stale: true, unsent: None });
        assert_eq!((evidence(&outcome), success(&outcome, |status| status)), (None, None));
    }

    #[test]
    fn statuses_speak_for_or_against_the_endpoint() {
        for (status, told, good) in [
            (200, Evidence::Answered, true),
            (404, Evidence::Answered, true),
            (429, Evidence::Answered, true),
            (500, Evidence::Answered, false),
            (501, Evidence::Answered, false),
            (502, Evidence::GatewayError, false),
            (503, Evidence::GatewayError, false),
            (504, Evidence::GatewayError, false),
            (505, Evidence::Answered, false),
        ] {
            let outcome = Ok(Response::builder().status(status).body(()).unwrap());
            assert_eq!(
                (evidence(&outcome), success(&outcome, |status| status)),
                (Some(told), Some(good)),
                "{status}"
            );
        }
    }

    #[test]
    fn a_switch_of_protocols_has_to_be_asked_for() {
        let switching = || Response::builder().status(101).body(()).unwrap();
        assert!(accept(switching(), Seen::default(), true, None).is_ok());
        let outcome = accept(switching(), Seen::default(), false, None);
        assert_eq!(evidence(&outcome), Some(Evidence::Broke));
    }

    #[test]
    fn a_websocket_of_our_own_key_has_to_be_agreed_to() {
        let asked = websocket::offer(&mut http::HeaderMap::new(), 1);
        let outcome = |status: u16| {
            accept(Response::builder().status(status).body(()).unwrap(), Seen::default(), true, Some(&asked))
        };
        assert_eq!(evidence(&outcome(101)), Some(Evidence::Broke), "without the answer to the key");
        // Whoever asks for a WebSocket where there is none takes no endpoint out of the choice.
        assert!(matches!(outcome(204), Err(Failed { error: RequestError::NotSwitched, .. })));
        assert_eq!(evidence(&outcome(204)), None);
        assert!(outcome(302).is_ok() && outcome(404).is_ok());
    }
}

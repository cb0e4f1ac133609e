//! The first of two verdicts about a try: what its outcome says when the head of the answer is there, or will not come.
//! The second is in `reply`, when the answer has ended.

use http::{Request, Response, StatusCode};
use hyper::{body::Incoming, client::conn::TrySendError};

use super::{RequestError, upload::RequestBody};
use crate::{client::DialError, telemetry::Fault, upstream::Evidence};

/// A try that failed, and the request if it can be tried again.
pub(super) struct Failed {
    pub error: RequestError,
    pub progress: Progress,
    pub again: Option<Box<Request<RequestBody>>>,
}

/// How far a try came that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing of the request left the gateway.
    Unsent,
    /// It was sent over a connection that had been idle and was dead already, so that its end says nothing about the
    /// endpoint.
    Stale,
    /// The endpoint may have got it.
    Sent,
}

impl Failed {
    pub(super) fn to_dial(error: DialError, request: Request<RequestBody>) -> Self {
        Self { error: error.into(), progress: Progress::Unsent, again: Some(Box::new(request)) }
    }

    /// The request was sent, and nothing can be sent again.
    pub(super) fn sent(error: RequestError) -> Self {
        Self { error, progress: Progress::Sent, again: None }
    }

    /// Sending failed. `client` says that the client had broken off its body, `reused` that the connection had carried
    /// a request before, and `spare` is what can be sent again if it has died since.
    pub(super) fn to_send(
        mut error: TrySendError<Request<RequestBody>>,
        client: bool,
        reused: bool,
        spare: Option<Request<RequestBody>>,
    ) -> Self {
        let unsent = error.take_message();
        let error = error.into_error();
        if client {
            return Self::sent(RequestError::Aborted(error.to_string()));
        }
        if error.is_parse_too_large() {
            return Self::sent(RequestError::AnswerHeadTooLarge);
        }
        if error.is_parse() {
            return Self::sent(RequestError::BadAnswer(error.to_string()));
        }
        let progress = if reused { Progress::Stale } else { Progress::Sent };
        Self { error: RequestError::Reset(error), progress, again: unsent.or(spare).map(Box::new) }
    }

    /// Whether it counts against the endpoint.
    pub(super) fn is_of_endpoint(&self) -> bool {
        self.progress != Progress::Stale && self.error.fault() == Fault::Endpoint
    }
}

/// What a try says of the endpoint's health; nothing if its failure was the client's or the gateway's own.
pub(super) fn evidence(outcome: &Result<Response<Incoming>, Failed>) -> Option<Evidence> {
    let failed = match outcome {
        Ok(response) if matches!(response.status().as_u16(), 502..=504) => {
            return Some(Evidence::GatewayError);
        }
        Ok(_) => return Some(Evidence::Answered),
        Err(failed) => failed,
    };
    let evidence = match &failed.error {
        RequestError::Dial(_) => Evidence::ConnectFailed,
        RequestError::Expired(_) => Evidence::TimedOut,
        _ => Evidence::Broke,
    };
    failed.is_of_endpoint().then_some(evidence)
}

/// Whether the statistics take a try for a success; none: it says nothing of the endpoint.
pub(super) fn success(outcome: &Result<Response<Incoming>, Failed>) -> Option<bool> {
    match outcome {
        Ok(response) => Some(!response.status().is_server_error()),
        Err(failed) => failed.is_of_endpoint().then_some(false),
    }
}

/// An answer is one only if it can be handed on as what it is.
pub(super) fn accept(response: Response<Incoming>, upgrading: bool) -> Result<Response<Incoming>, Failed> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS && !upgrading {
        return Err(Failed::sent(RequestError::BadAnswer("switches protocols unasked".into())));
    }
    Ok(response)
}

//! The body of a request on its way to an endpoint. Frames are handed on as they come; a slow endpoint slows the
//! client.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use http::{HeaderMap, HeaderName, header};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

use super::{
    grpc_web::{Decoder, NotBase64},
    replay::{Kept, Replay},
    waits::{Upload, UploadWaits, Waits},
};
use crate::{
    syntax::list,
    telemetry::{Account, Record},
};

/// A body for an endpoint.
pub(super) enum RequestBody {
    Empty,
    /// Can be sent once. In a box, because requests are moved about and most have no body.
    Live(Box<Live>),
    /// Can be sent again, as long as it is no longer than what is kept.
    Kept(Replay),
}

pub(super) struct Live {
    incoming: Incoming,
    waits: UploadWaits,
    course: Rc<Course>,
    /// Bytes that may come yet.
    left: u64,
    /// Of what is sent as base64.
    decoder: Option<Box<Decoder>>,
}

/// How a body fares, as its request wants to know it after the body has gone its own way.
pub(super) struct Course {
    state: Cell<State>,
    waker: RefCell<Option<Waker>>,
    /// It goes to an endpoint by HTTP/1, which takes these trailers and no others.
    by_http1: Cell<bool>,
    announced: RefCell<Vec<HeaderName>>,
    account: Rc<Account>,
    /// Bytes that came, for the access log if there is one.
    received: Option<Rc<Cell<u64>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Going,
    Over,
    /// The client went away in the middle, or sent what is no body.
    Failed,
    /// It is longer than it may be.
    TooLarge,
    /// It is no base64, and was to be.
    NotBase64,
    /// Nobody waits for the rest.
    Cut,
}

/// Why a body did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error(transparent)]
    Client(hyper::Error),
    #[error("it is longer than it may be")]
    TooLarge,
    #[error("it is no base64")]
    NotBase64,
    #[error("the rest is not wanted any more")]
    Cut,
}

/// What a client has done to a body that did not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoilt {
    BrokenOff,
    TooLarge,
    NotBase64,
}

/// A body for an endpoint, and what its request knows of it.
pub(super) struct Uploaded {
    pub body: RequestBody,
    pub course: Option<Rc<Course>>,
    pub kept: Option<Rc<Kept>>,
}

impl Uploaded {
    /// The body, and how it fares if there is one. It may have so many bytes at most, and is kept up to so many, if it
    /// is not known to be longer. `text` if it is base64: the endpoint gets what that stands for.
    pub(super) fn new(
        incoming: Incoming,
        waits: &Waits,
        most: Option<u64>,
        keep: Option<usize>,
        text: bool,
        record: &Record,
    ) -> Self {
        if incoming.is_end_stream() {
            return Self { body: RequestBody::Empty, course: None, kept: None };
        }
        let received = record.entry.as_ref().map(|entry| entry.received.clone());
        let course = Rc::new(Course::new(record.account.clone(), received));
        let (left, decoder) = (most.unwrap_or(u64::MAX), text.then(Box::default));
        let live = Live { incoming, waits: waits.upload(), course: course.clone(), left, decoder };
        let keep = keep.filter(|most| live.size_hint().lower() <= *most as u64);
        let (body, kept) = match keep {
            None => (RequestBody::Live(Box::new(live)), None),
            Some(most) => {
                let kept = Kept::new(live, most);
                (RequestBody::Kept(kept.replay()), Some(kept))
            }
        };
        Self { body, course: Some(course), kept }
    }
}

impl RequestBody {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// Counts what the endpoint does not get of these.
    fn count(&self, trailers: &HeaderMap) {
        match self {
            Self::Empty => {}
            Self::Live(live) => live.course().count(trailers),
            Self::Kept(replay) => replay.course().count(trailers),
        }
    }
}

impl Course {
    fn new(account: Rc<Account>, received: Option<Rc<Cell<u64>>>) -> Self {
        Self {
            state: Cell::default(),
            waker: RefCell::default(),
            by_http1: Cell::new(false),
            announced: RefCell::default(),
            account,
            received,
        }
    }

    /// The head of the request says which trailers come behind it.
    pub(super) fn announces(&self, headers: &HeaderMap) {
        let names = list::of(headers, &header::TRAILER);
        self.announced.replace(names.filter_map(|name| HeaderName::from_bytes(name).ok()).collect());
    }

    /// It goes to an endpoint, by HTTP/1 or by HTTP/2.
    pub(super) fn goes_out(&self, by_http1: bool) {
        self.by_http1.set(by_http1);
    }

    fn count(&self, trailers: &HeaderMap) {
        let announced = self.announced.borrow();
        let dropped = trailers.keys().filter(|name| !announced.contains(name)).count();
        if self.by_http1.get() && dropped > 0 {
            let Account { metrics, worker, .. } = &*self.account;
            metrics.dropped_trailers(*worker, dropped as u64);
        }
    }

    /// Whether the client has sent all of it, so that nobody waits for more.
    pub(super) fn is_over(&self) -> bool {
        self.state.get() == State::Over
    }

    /// Whether the client has spoilt it, and how.
    pub(super) fn spoilt(&self) -> Option<Spoilt> {
        match self.state.get() {
            State::Failed => Some(Spoilt::BrokenOff),
            State::TooLarge => Some(Spoilt::TooLarge),
            State::NotBase64 => Some(Spoilt::NotBase64),
            State::Going | State::Over | State::Cut => None,
        }
    }

    fn remember(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
    }

    /// Ends it where it is: the connection that it is sent over breaks.
    pub(super) fn cut(&self) {
        if self.state.get() == State::Going {
            self.state.set(State::Cut);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }
}

impl Live {
    pub(super) fn course(&self) -> Rc<Course> {
        self.course.clone()
    }

    /// Something that the client had sent before is on its way once more; `last` if nothing comes after it.
    pub(super) fn passes(&self, last: bool) {
        self.waits.set(if last { Upload::Over } else { Upload::Moving });
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream() && self.decoder.as_ref().is_none_or(|decoder| decoder.is_whole())
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        if self.decoder.is_some() { SizeHint::default() } else { self.incoming.size_hint() }
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        loop {
            let Self { incoming, waits, course, left, decoder } = self;
            if course.state.get() == State::Cut {
                return Poll::Ready(Some(Err(UploadError::Cut)));
            }
            let Poll::Ready(mut frame) = Pin::new(&mut *incoming).poll_frame(cx) else {
                waits.set(Upload::Wanted);
                course.remember(cx);
                return Poll::Pending;
            };
            let length = length(&frame) as u64;
            let Some(rest) = left.checked_sub(length) else {
                return self.spoil(State::TooLarge, UploadError::TooLarge);
            };
            *left = rest;
            if let Some(received) = &course.received {
                received.update(|bytes| bytes + length);
            }
            if let Some(decoder) = decoder {
                match decoded(decoder, frame) {
                    Ok(decoded) => frame = decoded,
                    Err(NotBase64) => return self.spoil(State::NotBase64, UploadError::NotBase64),
                }
                let nothing = matches!(&frame, Some(Ok(data)) if data.is_data()) && self::length(&frame) == 0;
                if nothing && !(incoming.is_end_stream() && decoder.is_whole()) {
                    continue;
                }
            }
            let state = match &frame {
                // Nothing comes after trailers, and nobody asks.
                Some(Ok(frame)) if !frame.is_trailers() && !self.is_end_stream() => State::Going,
                Some(Err(_)) => State::Failed,
                _ => State::Over,
            };
            self.course.state.set(state);
            self.waits.set(if state == State::Going { Upload::Moving } else { Upload::Over });
            return Poll::Ready(frame.map(|frame| frame.map_err(UploadError::Client)));
        }
    }

    fn spoil(&self, state: State, error: UploadError) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        self.course.state.set(state);
        self.waits.set(Upload::Over);
        Poll::Ready(Some(Err(error)))
    }
}

/// What a client sends, piece by piece.
type Piece = Option<Result<Frame<Bytes>, hyper::Error>>;

fn length(piece: &Piece) -> usize {
    match piece {
        Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
        _ => 0,
    }
}

/// A piece of base64 as what it stands for. It ends only where a group does.
fn decoded(decoder: &mut Decoder, piece: Piece) -> Result<Piece, NotBase64> {
    let ended = match piece {
        Some(Ok(frame)) => match frame.into_data() {
            Ok(data) => return Ok(Some(Ok(Frame::data(decoder.decode(&data)?.into())))),
            Err(trailers) => Some(Ok(trailers)),
        },
        Some(Err(error)) => return Ok(Some(Err(error))),
        None => None,
    };
    if decoder.is_whole() { Ok(ended) } else { Err(NotBase64) }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let body = self.get_mut();
        let frame = match body {
            Self::Empty => Poll::Ready(None),
            Self::Live(live) => live.poll_frame(cx),
            Self::Kept(replay) => replay.poll_frame(cx),
        };
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            body.count(trailers);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Live(live) => live.is_end_stream(),
            Self::Kept(replay) => replay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Live(live) => live.size_hint(),
            Self::Kept(replay) => replay.size_hint(),
        }
    }
}

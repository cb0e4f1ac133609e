//! The body of a request that may be sent more than once: it is kept while it is sent, up to a length.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, ready},
};

use http::HeaderMap;
use hyper::body::{Bytes, Frame, SizeHint};

use super::upload::{Course, Live, UploadError};

/// A body, and what was kept of it so far.
pub(super) struct Kept {
    live: RefCell<Live>,
    bytes: RefCell<Vec<u8>>,
    trailers: RefCell<Option<HeaderMap>>,
    /// The longest that is kept.
    most: usize,
    /// It is longer: it can be sent to its end, and not once more.
    lost: Cell<bool>,
    /// The client has sent all of it.
    whole: Cell<bool>,
    /// Counts those who were to read it: the last of them reads on.
    readers: Cell<u32>,
}

/// Reads it from the beginning: first what was kept, then the rest as it comes.
pub(super) struct Replay {
    kept: Rc<Kept>,
    number: u32,
    at: usize,
    over: bool,
}

impl Kept {
    pub(super) fn new(live: Live, most: usize) -> Rc<Self> {
        Rc::new(Self {
            live: RefCell::new(live),
            bytes: RefCell::default(),
            trailers: RefCell::default(),
            most,
            lost: Cell::new(false),
            whole: Cell::new(false),
            readers: Cell::new(0),
        })
    }

    /// Whether it cannot be sent again.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.get()
    }

    /// Whether all of it is here, so that several can read it at once.
    pub(super) fn is_whole(&self) -> bool {
        self.whole.get() && !self.lost.get()
    }

    /// For another try. Whoever read it before does not get more of it from the client.
    pub(super) fn replay(self: &Rc<Self>) -> Replay {
        self.readers.set(self.readers.get().wrapping_add(1));
        Replay { kept: self.clone(), number: self.readers.get(), at: 0, over: false }
    }

    fn keep(&self, data: &[u8]) {
        let mut bytes = self.bytes.borrow_mut();
        if self.lost.get() || bytes.len() + data.len() > self.most {
            self.lost.set(true);
            *bytes = Vec::new();
        } else {
            bytes.extend_from_slice(data);
        }
    }
}

impl Replay {
    pub(super) fn course(&self) -> Rc<Course> {
        self.kept.live.borrow().course()
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let Self { kept, number, at, over } = self;
        let last = *number == kept.readers.get();
        // Several can read what is here as a whole. Of anything else only the latest gets more.
        if !last && !kept.is_whole() {
            return Poll::Ready(Some(Err(UploadError::Cut)));
        }
        if *at < kept.bytes.borrow().len() {
            let bytes = Bytes::copy_from_slice(&kept.bytes.borrow()[*at..]);
            *at += bytes.len();
            kept.live.borrow().passes(kept.whole.get());
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if kept.whole.get() {
            let trailers = if *over { None } else { kept.trailers.borrow().clone() };
            *over = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = ready!(kept.live.borrow_mut().poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    kept.keep(data);
                    *at = kept.bytes.borrow().len();
                } else if let Some(trailers) = frame.trailers_ref() {
                    kept.trailers.replace(Some(trailers.clone()));
                    *over = true;
                }
            }
            Some(Err(_)) => kept.lost.set(true),
            None => *over = true,
        }
        if *over || kept.live.borrow().is_end_stream() {
            kept.whole.set(true);
        }
        Poll::Ready(frame)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let Self { kept, at, over, .. } = self;
        kept.whole.get() && *at >= kept.bytes.borrow().len() && (*over || kept.trailers.borrow().is_none())
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let rest = self.kept.bytes.borrow().len().saturating_sub(self.at) as u64;
        let coming = self.kept.live.borrow().size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(coming.lower() + rest);
        if let Some(upper) = coming.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

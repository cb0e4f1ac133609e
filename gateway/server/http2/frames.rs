//! Stands between a stream and the library, and looks at the headers of the frames that a client sends: how many there are
//! of those that cost us more than the client, which the library answers or ignores without a limit.
//!
//! For each kind there is a budget, which time and work fill up: whoever asks for much and takes the answers may also reset
//! much. When one is used up, the connection fails.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::state::State;
use crate::{net::Stream, server::framing::PREFACE, telemetry::Abuse};

/// The header of a frame, in bytes.
const HEADER: usize = 9;
/// What `WINDOW_UPDATE` says.
const INCREMENT: usize = 4;

/// A window that is opened by less than so many bytes is hardly opened.
const SMALL_INCREMENT: u32 = 64;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// Flags, each of some kinds of frames.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// The place in the frames of a client.
#[derive(Debug)]
pub(super) struct Scan {
    place: Place,
    /// So much of the header, or of the increment, was read.
    read: [u8; HEADER],
    have: usize,
    /// The list of headers that has begun is not complete.
    in_headers: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// So many bytes of the preface are to come.
    Preface(usize),
    Header,
    Increment,
    /// So many bytes of a frame are to come.
    Payload(usize),
}

impl Scan {
    pub(super) fn new() -> Self {
        Self { place: Place::Preface(PREFACE.len()), read: [0; HEADER], have: 0, in_headers: false }
    }

    /// Whether the client is in the middle of a head, or of anything that is no body.
    pub(super) fn is_in_head(&self) -> bool {
        self.in_headers || self.have > 0 || matches!(self.place, Place::Preface(_))
    }

    /// Looks at the next bytes, and tells of each frame that costs.
    fn look(&mut self, mut bytes: &[u8], mut costs: impl FnMut(Abuse) -> bool) -> Result<(), Abuse> {
        while !bytes.is_empty() {
            match &mut self.place {
                Place::Preface(left) | Place::Payload(left) => {
                    let len = bytes.len().min(*left);
                    *left -= len;
                    bytes = &bytes[len..];
                    if *left == 0 {
                        self.place = Place::Header;
                    }
                }
                Place::Header => {
                    bytes = self.fill(bytes, HEADER);
                    if self.have == HEADER {
                        self.have = 0;
                        if let Some(kind) = self.header().filter(|kind| !costs(*kind)) {
                            return Err(kind);
                        }
                    }
                }
                Place::Increment => {
                    bytes = self.fill(bytes, INCREMENT);
                    if self.have == INCREMENT {
                        self.have = 0;
                        self.place = Place::Header;
                        let [a, b, c, d, ..] = self.read;
                        let small = u32::from_be_bytes([a, b, c, d]) < SMALL_INCREMENT;
                        if small && !costs(Abuse::SmallWindow) {
                            return Err(Abuse::SmallWindow);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes bytes until there are so many. Gives the rest.
    fn fill<'b>(&mut self, bytes: &'b [u8], most: usize) -> &'b [u8] {
        let len = bytes.len().min(most - self.have);
        self.read[self.have..self.have + len].copy_from_slice(&bytes[..len]);
        self.have += len;
        &bytes[len..]
    }

    /// Goes on behind a header. Says what the frame is, if it costs.
    fn header(&mut self) -> Option<Abuse> {
        let [a, b, c, kind, flags, ..] = self.read;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        self.place = match (kind, length) {
            (_, 0) => Place::Header,
            (WINDOW_UPDATE, INCREMENT) => Place::Increment,
            _ => Place::Payload(length),
        };
        if matches!(kind, HEADERS | CONTINUATION) {
            self.in_headers = flags & END_HEADERS == 0;
        }
        match kind {
            DATA if length == 0 && flags & END_STREAM == 0 => Some(Abuse::Empty),
            HEADERS | CONTINUATION if length == 0 => Some(Abuse::Empty),
            DATA | HEADERS | CONTINUATION | GOAWAY => None,
            RST_STREAM => Some(Abuse::Reset),
            SETTINGS if flags & ACK == 0 => Some(Abuse::Settings),
            PING if flags & ACK == 0 => Some(Abuse::Ping),
            SETTINGS | PING => None,
            WINDOW_UPDATE => Some(Abuse::Window),
            // The library says what is wrong with it.
            PUSH_PROMISE => None,
            // Priorities, and what nobody knows: ignored.
            _ => Some(Abuse::Ignored),
        }
    }
}

pub(super) struct Frames {
    stream: Stream,
    /// Read before it was known to be HTTP/2, and not handed on.
    early: Vec<u8>,
    state: Rc<State>,
}

impl Frames {
    pub(super) fn new(stream: Stream, early: Vec<u8>, state: Rc<State>) -> Self {
        Self { stream, early, state }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        if self.state.info.is_aborted() {
            // It ends in any case.
            let _ = self.stream.reset_on_close();
        }
    }
}

impl AsyncRead for Frames {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, early, state } = &mut *self;
        let before = buf.filled().len();
        if early.is_empty() {
            ready!(Pin::new(stream).poll_read(cx, buf))?;
        } else {
            let len = early.len().min(buf.remaining());
            buf.put_slice(&early[..len]);
            early.drain(..len);
        }
        let looked = state.scan.borrow_mut().look(&buf.filled()[before..], |kind| state.budget.spend(kind));
        if let Err(kind) = looked {
            state.abused(kind);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, kind.as_str())));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Frames {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What costs of these bytes behind the preface, read in pieces; and whether a head is not complete.
    fn costs(bytes: &[u8], piece: usize) -> (Vec<Abuse>, bool) {
        let (mut scan, mut found) = (Scan::new(), Vec::new());
        for piece in [PREFACE, bytes].concat().chunks(piece) {
            let note = |kind| {
                found.push(kind);
                true
            };
            scan.look(piece, note).unwrap();
        }
        (found, scan.is_in_head())
    }

    #[test]
    fn frames_that_cost_are_told_apart() {
        let check = |frame: Vec<u8>, expected: &[Abuse]| {
            // What follows is found, too.
            let bytes = [frame.clone(), self::frame(PING, 0, &[0; 8])].concat();
            for piece in [1, 7, 1000] {
                let expected = [expected, &[Abuse::Ping]].concat();
                assert_eq!(costs(&bytes, piece), (expected, false), "{frame:?} by {piece}");
            }
        };
        check(frame(DATA, 0, &[0; 300]), &[]);
        check(frame(DATA, 0, &[]), &[Abuse::Empty]);
        check(frame(DATA, END_STREAM, &[]), &[]);
        check(frame(HEADERS, END_HEADERS, &[0x82]), &[]);
        check(frame(HEADERS, END_HEADERS, &[]), &[Abuse::Empty]);
        check(frame(RST_STREAM, 0, &[0; 4]), &[Abuse::Reset]);
        check(frame(SETTINGS, 0, &[0; 6]), &[Abuse::Settings]);
        check(frame(SETTINGS, ACK, &[]), &[]);
        check(frame(PING, ACK, &[0; 8]), &[]);
        check(frame(WINDOW_UPDATE, 0, &[0, 0, 1, 0]), &[Abuse::Window]);
        check(frame(WINDOW_UPDATE, 0, &[0, 0, 0, 1]), &[Abuse::Window, Abuse::SmallWindow]);
        check(frame(2, 0, &[0; 5]), &[Abuse::Ignored]);
        check(frame(0xff, 0xff, &[0; 500]), &[Abuse::Ignored]);
    }

    #[test]
    fn a_head_is_not_there_before_its_last_piece_is() {
        let begun = frame(HEADERS, 0, &[0x82]);
        assert!(costs(&begun, 1000).1);
        assert!(costs(&[begun.clone(), frame(CONTINUATION, 0, &[0x84])].concat(), 1000).1);
        assert!(!costs(&[begun, frame(CONTINUATION, END_HEADERS, &[0x84])].concat(), 1000).1);
        assert!(costs(&[0, 0], 1000).1, "the header of a frame");
        assert!(Scan::new().is_in_head(), "the preface");
        let upload = &frame(DATA, 0, &[0; 100])[..50];
        assert!(!costs(upload, 1000).1, "a body has a time of its own");
    }

    proptest! {
        /// Whatever comes, however it is cut: the same is found.
        #[test]
        fn pieces_make_no_difference(
            frames in prop::collection::vec((0u8..12, 0u8..8, prop::collection::vec(any::<u8>(), 0..40)), 0..20),
            rest in prop::collection::vec(any::<u8>(), 0..12),
            piece in 1usize..50,
        ) {
            let mut bytes: Vec<u8> = frames.iter().flat_map(|(kind, flags, payload)| frame(*kind, *flags, payload)).collect();
            bytes.extend(rest);
            prop_assert_eq!(costs(&bytes, piece), costs(&bytes, bytes.len().max(1)));
        }
    }
}

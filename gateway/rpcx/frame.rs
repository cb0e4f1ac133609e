//! The frames of rpcx, as far as a gateway reads them: the header, the service path and the method. Metadata and payload are
//! carried, not decoded.
//!
//! ```text
//! 0      0x08
//! 1      version, 0
//! 2      0x80 answer | 0x40 heartbeat | 0x20 one-way | 0x1c compression | 0x03 status: 0 normal, 1 error
//! 3      0xf0 serialisation | 0x0f reserved
//! 4..12  number of the call
//! 12..16 length of the rest
//! then four times a length of 4 bytes and so many bytes: service path, method, metadata, payload
//! ```
//!
//! Numbers are big-endian. Metadata is a sequence of such texts, keys and values in turns. What is not like this to the last
//! byte is refused: other decoders take such frames in different ways.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// What comes before the four parts.
pub const HEADER: usize = 16;

const MAGIC: u8 = 0x08;
const LENGTH: usize = 4;
/// The least of what follows the header.
const LENGTHS: usize = 4 * LENGTH;

const RESPONSE: u8 = 0x80;
const HEARTBEAT: u8 = 0x40;
const ONE_WAY: u8 = 0x20;
const COMPRESSION: u8 = 0x1c;
const STATUS: u8 = 0x03;
const STATUS_ERROR: u8 = 0x01;

/// The key of the metadata that says what went wrong. Without it clients in Go take an error for a success.
const ERROR_KEY: &[u8] = b"__rpcx_error__";

/// The key of the metadata that says who calls. A server closes the connection after one that it does not take.
const TOKEN_KEY: &[u8] = b"__AUTH";

/// Why bytes are no frame. Nothing that comes after them can be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame begins with {0:#04x} instead of 0x08")]
    Magic(u8),
    #[error("a frame of version {0}, and only version 0 is known")]
    Version(u8),
    #[error("a frame of {got} bytes, and {most} are allowed")]
    TooLong { got: usize, most: usize },
    #[error("the lengths in a frame do not fit its length")]
    Lengths,
}

/// One frame, whole. A copy shares its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    header: [u8; HEADER],
    /// The four parts, each with its length.
    parts: Bytes,
    path: usize,
    method: usize,
}

impl Frame {
    /// Takes a frame from the beginning of what was read, if all of it is there. `most` bounds its length without the header,
    /// and is checked as soon as the header is there.
    pub fn take(read: &mut BytesMut, most: usize) -> Result<Option<Self>, FrameError> {
        if let Some(magic) = read.first().copied().filter(|magic| *magic != MAGIC) {
            return Err(FrameError::Magic(magic));
        }
        if let Some(version) = read.get(1).copied().filter(|version| *version != 0) {
            return Err(FrameError::Version(version));
        }
        let Some(header) = read.first_chunk::<HEADER>().copied() else { return Ok(None) };
        let got = (&header[12..]).get_u32() as usize;
        if got > most {
            return Err(FrameError::TooLong { got, most });
        }
        if got < LENGTHS {
            return Err(FrameError::Lengths);
        }
        if read.len() < HEADER + got {
            return Ok(None);
        }
        read.advance(HEADER);
        let parts = read.split_to(got).freeze();
        let (path, method) = lengths(&parts).ok_or(FrameError::Lengths)?;
        Ok(Some(Self { header, parts, path, method }))
    }

    /// An answer that says that a call failed, in the gateway's words.
    pub fn error(call: &Self, text: &str) -> Self {
        let metadata = LENGTH + ERROR_KEY.len() + LENGTH + text.len();
        let mut parts = BytesMut::with_capacity(call.parts.len().min(1024) + LENGTHS + metadata);
        put(&mut parts, call.path());
        put(&mut parts, call.method());
        parts.put_u32(metadata as u32);
        put(&mut parts, ERROR_KEY);
        put(&mut parts, text.as_bytes());
        parts.put_u32(0);
        let mut header = call.header;
        header[2] = header[2] & !(COMPRESSION | STATUS) | RESPONSE | STATUS_ERROR;
        header[12..].copy_from_slice(&(parts.len() as u32).to_be_bytes());
        Self { header, parts: parts.freeze(), path: call.path, method: call.method }
    }

    /// The answer to a heartbeat: the same as an answer.
    pub fn echo(mut self) -> Self {
        self.header[2] |= RESPONSE;
        self
    }

    pub fn is_response(&self) -> bool {
        self.header[2] & RESPONSE != 0
    }

    pub fn is_heartbeat(&self) -> bool {
        self.header[2] & HEARTBEAT != 0
    }

    /// Whether nobody waits for an answer.
    pub fn is_one_way(&self) -> bool {
        self.header[2] & ONE_WAY != 0
    }

    /// Whether it is an answer that says that the call failed.
    pub fn is_error(&self) -> bool {
        self.header[2] & STATUS == STATUS_ERROR
    }

    /// The number that tells an answer which call it is to.
    pub fn number(&self) -> u64 {
        (&self.header[4..12]).get_u64()
    }

    /// The name of the service.
    pub fn path(&self) -> &[u8] {
        self.parts.get(LENGTH..LENGTH + self.path).unwrap_or_default()
    }

    pub fn method(&self) -> &[u8] {
        let begin = LENGTH + self.path + LENGTH;
        self.parts.get(begin..begin + self.method).unwrap_or_default()
    }

    /// The token of whoever calls; empty without one.
    pub fn token(&self) -> &[u8] {
        self.metadata(TOKEN_KEY).unwrap_or_default()
    }

    /// The value of the first metadata of a key, if the metadata can be read so far.
    pub fn metadata(&self, key: &[u8]) -> Option<&[u8]> {
        let mut parts = self.parts.get(LENGTH + self.path + LENGTH + self.method..)?;
        let mut metadata = part(&mut parts)?;
        loop {
            let found = part(&mut metadata)?;
            let value = part(&mut metadata)?;
            if found == key {
                return Some(value);
            }
        }
    }

    /// How many bytes it is on a connection.
    pub fn size(&self) -> usize {
        HEADER + self.parts.len()
    }

    /// Appends it to what is to be written, with this number.
    pub fn put(&self, number: u64, out: &mut BytesMut) {
        out.reserve(self.size());
        out.put_slice(&self.header[..4]);
        out.put_u64(number);
        out.put_slice(&self.header[12..]);
        out.put_slice(&self.parts);
    }
}

/// The lengths of the service path and of the method, if all four fit into the parts to the last byte.
fn lengths(mut parts: &[u8]) -> Option<(usize, usize)> {
    let (path, method) = (part(&mut parts)?.len(), part(&mut parts)?.len());
    part(&mut parts)?;
    part(&mut parts)?;
    parts.is_empty().then_some((path, method))
}

/// Takes a length and so many bytes.
fn part<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
    let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *bytes = rest;
    Some(part)
}

fn put(out: &mut BytesMut, part: &[u8]) {
    out.put_u32(part.len() as u32);
    out.put_slice(part);
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const MOST: usize = 1 << 20;

    /// A frame as another implementation writes it.
    fn frame(flags: u8, number: u64, parts: [&[u8]; 4]) -> BytesMut {
        let mut rest = BytesMut::new();
        parts.iter().for_each(|part| put(&mut rest, part));
        let mut frame = BytesMut::from(&[MAGIC, 0, flags, 0x30][..]);
        frame.put_u64(number);
        frame.put_u32(rest.len() as u32);
        frame.put_slice(&rest);
        frame
    }

    fn metadata(pairs: &[(&str, &str)]) -> BytesMut {
        let mut out = BytesMut::new();
        for (key, value) in pairs {
            put(&mut out, key.as_bytes());
            put(&mut out, value.as_bytes());
        }
        out
    }

    fn only(mut bytes: BytesMut) -> Frame {
        let frame = Frame::take(&mut bytes, MOST).unwrap().unwrap();
        assert!(bytes.is_empty());
        frame
    }

    fn refusal(bytes: impl AsRef<[u8]>) -> Option<FrameError> {
        Frame::take(&mut BytesMut::from(bytes.as_ref()), MOST).err()
    }

    #[test]
    fn a_call_says_where_it_goes_and_keeps_its_bytes() {
        let meta = metadata(&[("a", "1"), ("b", ""), ("a", "2")]);
        let bytes = frame(0x04, 7, [b"Arith", b"Mul", &meta, b"\x00payload"]);
        let call = only(bytes.clone());
        assert_eq!((call.path(), call.method(), call.number()), (&b"Arith"[..], &b"Mul"[..], 7));
        assert!(!call.is_response() && !call.is_heartbeat() && !call.is_one_way() && !call.is_error());
        assert_eq!([b"a", b"b", b"c"].map(|key| call.metadata(key)), [Some(&b"1"[..]), Some(b""), None]);
        let mut out = BytesMut::new();
        call.put(u64::MAX, &mut out);
        assert_eq!(out.len(), call.size());
        assert_eq!(only(out.clone()).number(), u64::MAX);
        out[4..12].copy_from_slice(&bytes[4..12]);
        assert_eq!(out, bytes, "nothing else changes");
    }

    #[test]
    fn flags_say_what_a_frame_is() {
        let of = |flags| {
            let frame = only(frame(flags, 0, [b""; 4]));
            [frame.is_response(), frame.is_heartbeat(), frame.is_one_way(), frame.is_error()]
        };
        assert_eq!(of(0x80), [true, false, false, false]);
        assert_eq!(of(0x40), [false, true, false, false]);
        assert_eq!(of(0x20), [false, false, true, false]);
        assert_eq!(of(0x81), [true, false, false, true]);
        assert_eq!(of(0x02), [false; 4], "no status that is known");
    }

    #[test]
    fn an_error_of_the_gateway_is_one_of_rpcx_to_the_same_call() {
        let call = only(frame(0x07, 9, [b"Arith", b"Mul", &metadata(&[("a", "1")]), b"zipped"]));
        let error = Frame::error(&call, "no-endpoints: nobody is there");
        let mut out = BytesMut::new();
        error.put(error.number(), &mut out);
        let read = only(out);
        assert_eq!(read, error);
        assert!(read.is_response() && read.is_error() && !read.is_heartbeat());
        assert_eq!((read.path(), read.method(), read.number()), (&b"Arith"[..], &b"Mul"[..], 9));
        assert_eq!(read.metadata(ERROR_KEY), Some(&b"no-endpoints: nobody is there"[..]));
        assert_eq!(read.header[2] & COMPRESSION, 0, "there is nothing that could be compressed");
        assert_eq!(read.header[3], 0x30, "the client decodes with what it has asked for");
    }

    #[test]
    fn a_heartbeat_comes_back_as_it_is() {
        let beat = only(frame(0x40, 3, [b"", b"", b"", b"\xd3now"]));
        let echo = beat.clone().echo();
        assert!(echo.is_response() && echo.is_heartbeat());
        assert_eq!((echo.number(), &echo.parts), (3, &beat.parts));
    }

    #[test]
    fn what_is_no_frame_is_refused_as_soon_as_it_is_known() {
        assert_eq!(refusal(b"GET / HTTP/1.1"), Some(FrameError::Magic(b'G')));
        assert_eq!(refusal(b"\x08\x01"), Some(FrameError::Version(1)));
        let header = |length: u32| {
            let mut header = frame(0, 0, [b""; 4]);
            header[12..16].copy_from_slice(&length.to_be_bytes());
            header.truncate(HEADER);
            header
        };
        assert_eq!(refusal(header(MOST as u32 + 1)), Some(FrameError::TooLong { got: MOST + 1, most: MOST }));
        assert_eq!(refusal(header(u32::MAX)).map(|error| error == FrameError::Lengths), Some(false));
        assert_eq!(refusal(header(15)), Some(FrameError::Lengths));
        assert_eq!(refusal(header(16)), None, "more is to come");
    }

    #[test]
    fn each_length_has_to_fit() {
        let whole = frame(0, 0, [b"ab", b"c", b"", b"d"]);
        for (at, wrong) in [(19, 1), (19, 3), (19, 200), (25, 0), (25, 2), (30, 1), (34, 0), (34, 2)] {
            let mut bytes = whole.clone();
            bytes[at] = wrong;
            assert_eq!(refusal(bytes), Some(FrameError::Lengths), "{wrong} at {at}");
        }
        let mut bytes = whole.clone();
        bytes[16] = 0xff;
        assert_eq!(refusal(bytes), Some(FrameError::Lengths));
        assert_eq!(refusal(whole), None);
    }

    #[test]
    fn metadata_that_cannot_be_read_is_none() {
        let mut broken = metadata(&[("a", "1"), ("b", "2")]);
        broken.truncate(15);
        let call = only(frame(0, 0, [b"", b"", &broken, b""]));
        assert_eq!((call.metadata(b"a"), call.metadata(b"b")), (Some(&b"1"[..]), None));
    }

    proptest! {
        /// However a stream is cut, the same frames come out of it, and together they are all of it.
        #[test]
        fn frames_do_not_depend_on_cuts(
            frames in vec((any::<u8>(), any::<u64>(), vec(vec(any::<u8>(), 0..40), 4)), 0..6),
            cuts in vec(1..30_usize, 1..8),
        ) {
            let mut stream = BytesMut::new();
            for (flags, number, parts) in &frames {
                let parts = [&parts[0][..], &parts[1][..], &parts[2][..], &parts[3][..]];
                stream.put_slice(&frame(*flags, *number, parts));
            }
            let (mut read, mut out, mut taken) = (BytesMut::new(), BytesMut::new(), 0);
            let (mut rest, mut cuts) = (&stream[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                rest = after;
                read.put_slice(piece);
                while let Some(frame) = Frame::take(&mut read, MOST).unwrap() {
                    prop_assert_eq!(frame.number(), frames[taken].1);
                    prop_assert_eq!(frame.path(), &frames[taken].2[0][..]);
                    prop_assert_eq!(frame.method(), &frames[taken].2[1][..]);
                    frame.put(frame.number(), &mut out);
                    taken += 1;
                }
            }
            prop_assert_eq!((out, taken), (stream, frames.len()));
            prop_assert!(read.is_empty());
        }

        /// Whatever comes, it is a frame, more is to come, or it is refused; and what is a frame is written as it was read.
        #[test]
        fn anything_can_be_read(head in vec(any::<u8>(), 0..20), rest in vec(any::<u8>(), 0..60)) {
            let mut bytes = BytesMut::from(&[MAGIC, 0][..]);
            bytes.put_slice(&head);
            bytes.put_slice(&rest);
            let whole = bytes.clone();
            if let Ok(Some(frame)) = Frame::take(&mut bytes, 64) {
                let mut out = BytesMut::new();
                frame.put(frame.number(), &mut out);
                out.put_slice(&bytes);
                prop_assert_eq!(out, whole);
            }
        }
    }
}

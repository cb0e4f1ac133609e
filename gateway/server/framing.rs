//! Where requests begin and end in a stream of bytes, and which shapes of them are refused.
//!
//! Stricter than the HTTP parser behind it: two readers of one request who disagree about its length are how requests
//! are smuggled, so whatever could be read in two ways is refused before the parser sees it. Pure: no IO, no clock.

/// What the parser behind this takes.
const HEADERS_MOST: u8 = 100;

/// Why a request was refused before anything else looked at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("malformed request line")]
    RequestLine,
    #[error("malformed header line")]
    HeaderLine,
    #[error("both content-length and transfer-encoding")]
    BothLengths,
    #[error("invalid or repeated content-length")]
    ContentLength,
    #[error("transfer-encoding other than chunked")]
    TransferEncoding,
    #[error("missing, repeated or invalid host")]
    Host,
    #[error("the request cannot be told from the one before")]
    Unclear,
    #[error("CONNECT is not supported")]
    Connect,
    #[error("request head too large")]
    HeadTooLarge,
    #[error("request head took too long")]
    HeadTimeout,
}

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// So many bytes, at least one, belong to a body or precede a head.
    Body(usize),
    /// A whole head of so many bytes.
    Head {
        len: usize,
        upgrade: bool,
    },
    /// The bytes are the beginning of a head.
    Partial,
    Refuse(Refusal),
    /// A chunked body is not framed as one. What follows cannot be understood.
    Broken,
}

/// The place in a stream of requests.
#[derive(Debug)]
pub(super) struct Framing {
    place: Place,
    /// The longest head, in bytes.
    limit: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Head(Head),
    Length(u64),
    Chunked(Chunk),
}

/// What the lines of a head said so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Head {
    /// Where the next line begins.
    at: usize,
    lines: u8,
    http_11: bool,
    length: Option<u64>,
    chunked: bool,
    host: bool,
    upgrade: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    /// In the digits of a size; how many there were.
    Size {
        size: u64,
        digits: u8,
    },
    Extension {
        size: u64,
    },
    SizeEnd {
        size: u64,
    },
    Data(u64),
    DataCr,
    DataLf,
    /// At the beginning of a trailer line, or of the empty one.
    Trailer,
    TrailerLine,
    TrailerLf,
    EndLf,
}

impl Framing {
    pub(super) fn new(limit: usize) -> Self {
        Self { place: Place::Head(Head::default()), limit }
    }

    /// Whether no request is half read.
    pub(super) fn between_requests(&self) -> bool {
        self.place == Place::Head(Head::default())
    }

    /// Looks at the bytes that follow what earlier steps accounted for. After `Partial` the same bytes come again
    /// with more behind them; everything else than `Body` and `Head` is the end.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Step {
        match &mut self.place {
            Place::Head(head) => {
                // Some clients end a body with an empty line too many.
                if head.at == 0 && bytes.starts_with(b"\r\n") {
                    return Step::Body(2);
                }
                match head.read(bytes, self.limit) {
                    Ok(Some(len)) => {
                        let upgrade = head.upgrade;
                        self.place = head.body();
                        Step::Head { len, upgrade }
                    }
                    Ok(None) => Step::Partial,
                    Err(refusal) => Step::Refuse(refusal),
                }
            }
            Place::Length(left) => {
                let len = (*left).min(bytes.len() as u64);
                *left -= len;
                if *left == 0 {
                    self.place = Place::Head(Head::default());
                }
                Step::Body(len as usize)
            }
            Place::Chunked(chunk) => match chunk.read(bytes) {
                Some((len, end)) => {
                    if end {
                        self.place = Place::Head(Head::default());
                    }
                    Step::Body(len)
                }
                None => Step::Broken,
            },
        }
    }
}

impl Head {
    /// Reads whole lines; returns the length of the head when its last line is there.
    fn read(&mut self, bytes: &[u8], limit: usize) -> Result<Option<usize>, Refusal> {
        loop {
            let rest = &bytes[self.at..];
            let Some(end) = memchr::memchr2(b'\r', b'\n', rest) else { break };
            // First of all, so that the verdict is the same however the bytes were cut on the way.
            if self.at + end + 2 > limit {
                return Err(Refusal::HeadTooLarge);
            }
            match rest.get(end..end + 2) {
                Some(b"\r\n") => {}
                None if rest[end] == b'\r' => break,
                _ if self.at == 0 => return Err(Refusal::RequestLine),
                _ => return Err(Refusal::HeaderLine),
            }
            let first = self.at == 0;
            self.at += end + 2;
            self.lines += 1;
            // The request line, the headers, and the empty line.
            if self.lines > HEADERS_MOST + 2 {
                return Err(Refusal::HeadTooLarge);
            }
            match (&rest[..end], first) {
                (line, true) => self.request_line(line)?,
                ([], false) => return self.complete().map(|()| Some(self.at)),
                (line, false) => self.header_line(line)?,
            }
        }
        if bytes.len() > limit { Err(Refusal::HeadTooLarge) } else { Ok(None) }
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let (line, version) = line.split_last_chunk::<9>().ok_or(Refusal::RequestLine)?;
        self.http_11 = match version {
            b" HTTP/1.1" => true,
            b" HTTP/1.0" => false,
            _ => return Err(Refusal::RequestLine),
        };
        let space = memchr::memchr(b' ', line).ok_or(Refusal::RequestLine)?;
        let (method, target) = (&line[..space], &line[space + 1..]);
        if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
            return Err(Refusal::RequestLine);
        }
        if target.is_empty() || !target.iter().all(|byte| byte.is_ascii_graphic()) {
            return Err(Refusal::RequestLine);
        }
        if method == b"CONNECT" { Err(Refusal::Connect) } else { Ok(()) }
    }

    fn header_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        // A folded line begins with a space, which is no token either.
        let colon = line.iter().position(|byte| !is_token(*byte)).ok_or(Refusal::HeaderLine)?;
        if colon == 0 || line[colon] != b':' {
            return Err(Refusal::HeaderLine);
        }
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        // Folded without a short cut, which lets the compiler look at many bytes at once.
        if value.iter().fold(false, |found, byte| found | is_control(*byte)) {
            return Err(Refusal::HeaderLine);
        }
        // Of what this takes away only spaces and tabs are left.
        let value = value.trim_ascii();
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.host(value),
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.upgrade = true;
                Ok(())
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => self.content_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.transfer_encoding(value),
            _ => Ok(()),
        }
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let sound = !value.is_empty() && value.iter().all(|byte| is_host(*byte));
        if self.host || !sound {
            return Err(Refusal::Host);
        }
        self.host = true;
        Ok(())
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        // Nineteen digits cannot overflow, and no body is longer.
        let digits = (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
        if self.length.is_some() || !digits {
            return Err(Refusal::ContentLength);
        }
        self.length = Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')));
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.chunked || !self.http_11 || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::TransferEncoding);
        }
        self.chunked = true;
        Ok(())
    }

    fn complete(&self) -> Result<(), Refusal> {
        if self.chunked && self.length.is_some() {
            return Err(Refusal::BothLengths);
        }
        if self.http_11 && !self.host { Err(Refusal::Host) } else { Ok(()) }
    }

    fn body(&self) -> Place {
        match (self.chunked, self.length) {
            (true, _) => Place::Chunked(Chunk::START),
            (false, Some(length)) if length > 0 => Place::Length(length),
            _ => Place::Head(Self::default()),
        }
    }
}

impl Chunk {
    const START: Self = Self::Size { size: 0, digits: 0 };

    /// How many of the bytes belong to the body, and whether it ends there.
    fn read(&mut self, bytes: &[u8]) -> Option<(usize, bool)> {
        let mut at = 0;
        while at < bytes.len() {
            if let Self::Data(left) = self {
                let len = (*left).min((bytes.len() - at) as u64);
                *left -= len;
                at += len as usize;
                if *left == 0 {
                    *self = Self::DataCr;
                }
                continue;
            }
            let end = *self == Self::EndLf;
            *self = self.byte(bytes[at])?;
            at += 1;
            if end {
                return Some((at, true));
            }
        }
        Some((at, false))
    }

    fn byte(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Size { size, digits: 1.. }, b'\r') => Self::SizeEnd { size },
            (Self::Size { size, digits: 1.. }, b';') => Self::Extension { size },
            // Fifteen digits cannot overflow, and no chunk is longer.
            (Self::Size { size, digits: digits @ ..15 }, _) => {
                let digit = (byte as char).to_digit(16)?;
                Self::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Self::Extension { size }, b'\r') => Self::SizeEnd { size },
            (Self::Extension { size }, b'\t' | b' '..=b'~') => Self::Extension { size },
            (Self::SizeEnd { size: 0 }, b'\n') => Self::Trailer,
            (Self::SizeEnd { size }, b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::START,
            (Self::Trailer, b'\r') => Self::EndLf,
            (Self::Trailer, byte) if is_token(byte) => Self::TrailerLine,
            (Self::TrailerLine, b'\r') => Self::TrailerLf,
            (Self::TrailerLine, byte) if byte != b'\n' => Self::TrailerLine,
            (Self::TrailerLf, b'\n') => Self::Trailer,
            (Self::EndLf, b'\n') => Self::START,
            _ => return None,
        })
    }
}

/// Bytes of methods and header names.
const fn is_token(byte: u8) -> bool {
    const TOKEN: [bool; 256] = alphanumeric_or(b"!#$%&'*+-.^_`|~");
    TOKEN[byte as usize]
}

/// Bytes of a host with a port: names, IPv4 and IPv6 addresses. No user, no list, no path.
const fn is_host(byte: u8) -> bool {
    const HOST: [bool; 256] = alphanumeric_or(b"-._~%:[]");
    HOST[byte as usize]
}

const fn is_control(byte: u8) -> bool {
    byte < b' ' && byte != b'\t' || byte == 0x7f
}

/// Letters, digits and these.
const fn alphanumeric_or(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut other = 0;
    while other < others.len() {
        table[others[other] as usize] = true;
        other += 1;
    }
    table
}

#[cfg(test)]
#[path = "../../tests/fuzz/heads.rs"]
mod heads;
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{heads::heads, *};

    /// Short, so that what is longer comes up.
    const LIMIT: usize = 128;

    fn request() -> impl Strategy<Value = Vec<u8>> {
        let head = |line: &str| format!("POST /x HTTP/1.1\r\nHost: a\r\n{line}\r\n");
        prop_oneof![
            Just(head("").into_bytes()),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(move |body| {
                let mut request = head(&format!("Content-Length: {}\r\n", body.len())).into_bytes();
                request.extend(body);
                request
            }),
            prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..5).prop_map(move |chunks| {
                let mut request = head("Transfer-Encoding: chunked\r\n").into_bytes();
                for chunk in chunks {
                    request.extend(format!("{:x};ext=\"1\"\r\n", chunk.len()).bytes());
                    request.extend(chunk);
                    request.extend(b"\r\n");
                }
                request.extend(b"0\r\nx-trailer: 1\r\n\r\n");
                request
            }),
        ]
    }

    #[test]
    fn a_line_that_is_too_long_is_that_before_anything_else() {
        let long = "x".repeat(LIMIT);
        for head in [format!("{long}\r\n"), format!("GET / HTTP/1.1\r\n{long}\nhost: a\r\n\r\n")] {
            for piece in [1, 7, head.len()] {
                let (_, end) = heads(LIMIT, head.as_bytes(), &[piece]);
                assert_eq!(end, Some(Step::Refuse(Refusal::HeadTooLarge)), "{head:?} by {piece}");
            }
        }
    }

    proptest! {
        /// Requests are told apart where they were put together, however they are cut on the way.
        #[test]
        fn heads_are_found_where_they_are(
            requests in prop::collection::vec(request(), 1..6),
            pieces in prop::collection::vec(1usize..200, 1..20),
        ) {
            let stream = requests.concat();
            let (found, end) = heads(LIMIT, &stream, &pieces);
            prop_assert_eq!(end, None);
            let mut at = 0;
            let begins: Vec<usize> = requests.iter().map(|request| {
                at += request.len();
                at - request.len()
            }).collect();
            prop_assert_eq!(found.iter().map(|(at, _)| *at).collect::<Vec<_>>(), begins);
        }

        /// Whatever comes, in whatever pieces: the verdict is the same, and it is always reached.
        #[test]
        fn pieces_do_not_change_the_verdict(
            stream in prop::collection::vec(
                prop::sample::select(&b"GETPOST /:HTTP/1.1hostcontent-lengthransfer-encodingchunked05\r\n\r\n\r\n \t,;"[..]),
                0..400,
            ),
            line in prop::bool::ANY,
            pieces in prop::collection::vec(1usize..50, 1..20),
        ) {
            let mut bytes = if line { b"GET / HTTP/1.1\r\nhost: a\r\n".to_vec() } else { Vec::new() };
            bytes.extend(stream);
            prop_assert_eq!(heads(LIMIT, &bytes, &pieces), heads(LIMIT, &bytes, &[bytes.len()]));
        }
    }
}

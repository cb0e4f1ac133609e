//! Where requests begin and end in a stream of bytes, and which shapes of them are refused.
//!
//! Stricter than the HTTP parser behind it: two readers of one request who disagree about its length are how requests
//! are smuggled, so whatever could be read in two ways is refused before the parser sees it. So is whatever the parser
//! would refuse, because its own answers have no reason and are not counted. Pure: no IO, no clock.

use crate::syntax::{
    is_token,
    target::{self, Form, TargetError},
    upgrade,
};

/// How a connection of HTTP/2 begins (RFC 9113 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the parser behind this takes.
const HEADERS_MOST: u8 = 100;
const NAME_LONGEST: usize = 65_535;

/// Why a request was refused before anything else looked at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("malformed request line")]
    RequestLine,
    #[error("invalid request target")]
    Target,
    #[error("request target too long")]
    TargetTooLong,
    #[error("version other than HTTP/1.0, HTTP/1.1 and HTTP/2")]
    Version,
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
    #[error("CONNECT for another protocol than WebSocket")]
    Protocol,
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
    /// A whole head of so many bytes. `upgrade`: it offers another protocol, so that what the bytes behind it are is not
    /// known before the answer.
    Head {
        len: usize,
        upgrade: bool,
    },
    /// The bytes are the beginning of a head.
    Partial,
    /// The connection begins as one of HTTP/2.
    Preface,
    Refuse(Refusal),
    /// A chunked body is not framed as one. What follows cannot be understood.
    Broken,
}

/// The place in a stream of requests.
#[derive(Debug)]
pub(super) struct Framing {
    place: Place,
    /// All that has come may be the preface.
    fresh: bool,
    /// Bytes of empty lines since the last request.
    blank: usize,
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
    /// The target names the host.
    absolute: bool,
    /// Whether the `Host` that came names one.
    host: Option<bool>,
    /// `Connection` says `upgrade`.
    asks: bool,
    /// `Upgrade` names a protocol that an endpoint may be offered.
    offers: bool,
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
        Self { place: Place::Head(Head::default()), fresh: true, blank: 0, limit }
    }

    /// Whether no request is half read.
    pub(super) fn between_requests(&self) -> bool {
        self.place == Place::Head(Head::default())
    }

    /// Looks at the bytes that follow what earlier steps accounted for. After `Partial` the same bytes come again
    /// with more behind them; everything else than `Body` and `Head` is the end.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Step {
        if self.fresh {
            if bytes.starts_with(PREFACE) {
                return Step::Preface;
            }
            if PREFACE.starts_with(bytes) {
                return Step::Partial;
            }
            self.fresh = false;
        }
        match &mut self.place {
            Place::Head(head) => {
                // Some clients end a body with an empty line too many.
                if head.at == 0 && bytes.starts_with(b"\r\n") {
                    self.blank += 2;
                    // The parser keeps them until it has a head.
                    let many = self.blank > self.limit;
                    return if many { Step::Refuse(Refusal::HeadTooLarge) } else { Step::Body(2) };
                }
                match head.read(bytes, self.limit) {
                    Ok(Some(len)) => {
                        let upgrade = head.upgrades();
                        self.place = head.body();
                        self.blank = 0;
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
            // Also the first line of HTTP/2, `PRI * HTTP/2.0`, anywhere but at the beginning.
            [b' ', b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
                return Err(Refusal::Version);
            }
            _ => return Err(Refusal::RequestLine),
        };
        let space = memchr::memchr(b' ', line).ok_or(Refusal::RequestLine)?;
        let (method, target) = (&line[..space], &line[space + 1..]);
        if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
            return Err(Refusal::RequestLine);
        }
        if method == b"CONNECT" {
            return Err(Refusal::Connect);
        }
        self.absolute = target::check(method, target)? == Form::Absolute;
        Ok(())
    }

    fn header_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        // A folded line begins with a space, which is no token either.
        let colon = line.iter().position(|byte| !is_token(*byte)).ok_or(Refusal::HeaderLine)?;
        if colon == 0 || line[colon] != b':' {
            return Err(Refusal::HeaderLine);
        }
        if colon > NAME_LONGEST {
            return Err(Refusal::HeadTooLarge);
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
                self.offers |= upgrade::offered(value).next().is_some();
                Ok(())
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                self.asks |= upgrade::is_asked(value);
                Ok(())
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => self.content_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.transfer_encoding(value),
            _ => Ok(()),
        }
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let named = target::check_host(value).filter(|_| self.host.is_none());
        self.host = Some(named.ok_or(Refusal::Host)?);
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
        match self.host {
            None if self.http_11 => Err(Refusal::Host),
            Some(false) if !self.absolute => Err(Refusal::Host),
            _ => Ok(()),
        }
    }

    /// What is forwarded offers another protocol under the same conditions.
    fn upgrades(&self) -> bool {
        self.http_11 && self.asks && self.offers && self.body() == Place::Head(Self::default())
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

const fn is_control(byte: u8) -> bool {
    byte < b' ' && byte != b'\t' || byte == 0x7f
}

impl From<TargetError> for Refusal {
    fn from(error: TargetError) -> Self {
        match error {
            TargetError::Blank => Self::RequestLine,
            TargetError::TooLong => Self::TargetTooLong,
            TargetError::Invalid => Self::Target,
            TargetError::Host => Self::Host,
        }
    }
}

#[cfg(test)]
#[path = "../../tests/fuzz/heads.rs"]
mod heads;
#[cfg(test)]
#[path = "../../tests/fuzz/parser.rs"]
mod parser;
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

    /// The verdict about one head.
    fn verdict(head: &[u8]) -> Result<bool, Refusal> {
        match Framing::new(1 << 20).step(head) {
            Step::Head { len, upgrade } => {
                assert_eq!(len, head.len(), "{}", head.escape_ascii());
                Ok(upgrade)
            }
            Step::Refuse(refusal) => Err(refusal),
            other => panic!("{other:?}: {}", head.escape_ascii()),
        }
    }

    #[test]
    fn hosts_are_read_by_the_rules() {
        let check = |version: &str, target: &str, lines: &str, expected: Result<bool, Refusal>| {
            let head = format!("GET {target} HTTP/{version}\r\n{lines}\r\n");
            assert_eq!(verdict(head.as_bytes()), expected, "{head:?}");
        };
        for host in ["a", "a:", "a:80", "A.", "[::1]:80", "a%20b", "_a-b", "  a\t"] {
            check("1.1", "/", &format!("Host:{host}\r\n"), Ok(false));
            check("1.0", "/", &format!("Host:{host}\r\n"), Ok(false));
        }
        for host in [
            "",
            " ",
            ":80",
            ".",
            "a b",
            "a,b",
            "a/b",
            "u@a",
            "u:p@a",
            "a:b",
            "a:65536",
            "[::1",
            "::1",
            "[fe80::1%25a]",
            "a%2",
            "a\u{e9}",
        ] {
            check("1.1", "/", &format!("Host:{host}\r\n"), Err(Refusal::Host));
            check("1.0", "/", &format!("Host:{host}\r\n"), Err(Refusal::Host));
        }
        check("1.0", "/", "", Ok(false));
        check("1.1", "/", "", Err(Refusal::Host));
        check("1.1", "/", "Host: a\r\nhost: a\r\n", Err(Refusal::Host));
        // It does not count, and must be one.
        for (host, expected) in [
            ("Host: b\r\n", Ok(false)),
            ("Host:\r\n", Ok(false)),
            ("Host: a b\r\n", Err(Refusal::Host)),
            ("", Err(Refusal::Host)),
        ] {
            check("1.1", "http://a/", host, expected);
        }
        check("1.0", "http://a/", "", Ok(false));
    }

    #[test]
    fn a_connection_of_http_2_is_known_by_its_beginning() {
        for piece in [1, 5, PREFACE.len()] {
            assert_eq!(heads(LIMIT, PREFACE, &[piece]), (vec![], Some(Step::Preface)));
        }
        let frame = [PREFACE, b"\0\0\0\x04\0\0\0\0\0"].concat();
        assert_eq!(heads(LIMIT, &frame, &[frame.len()]), (vec![], Some(Step::Preface)));
        for end in 0..PREFACE.len() {
            assert_eq!(heads(LIMIT, &PREFACE[..end], &[end.max(1)]), (vec![], None));
        }
        let late = [b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", PREFACE].concat();
        assert_eq!(heads(LIMIT, &late, &[1]), (vec![(0, 27)], Some(Step::Refuse(Refusal::Version))));
        let blank = [b"\r\n", PREFACE].concat();
        assert_eq!(heads(LIMIT, &blank, &[1]), (vec![], Some(Step::Refuse(Refusal::Version))));
        let other = PREFACE.to_ascii_lowercase();
        assert_eq!(heads(LIMIT, &other, &[1]).1, Some(Step::Refuse(Refusal::RequestLine)));
    }

    #[test]
    fn request_lines_are_refused_for_what_is_wrong() {
        let check = |line: &str, refusal: Refusal| {
            assert_eq!(verdict(format!("{line}\r\nHost: a\r\n\r\n").as_bytes()), Err(refusal), "{line}");
        };
        for version in ["2.0", "1.2", "0.9", "3.0"] {
            check(&format!("GET / HTTP/{version}"), Refusal::Version);
        }
        check("PRI * HTTP/2.0", Refusal::Version);
        for line in [
            "GET / HTTP/1.1 ",
            "GET / http/1.1",
            "GET / HTTP/1",
            "GET / HTTP/11",
            "GET / HTTP/1.10",
            "GET /",
            "",
            "GET  / HTTP/1.1",
            " GET / HTTP/1.1",
            "GET HTTP/1.1",
            "/ HTTP/1.1",
            "G T / HTTP/1.1",
            "G\u{e9}T / HTTP/1.1",
            "GET /a b HTTP/1.1",
        ] {
            if line.is_empty() {
                continue;
            }
            check(line, Refusal::RequestLine);
        }
        check("GET a:80 HTTP/1.1", Refusal::Target);
        check("GET http://u@a/ HTTP/1.1", Refusal::Target);
        check("GET /< HTTP/1.1", Refusal::Target);
        check("GET * HTTP/1.1", Refusal::Target);
        check("CONNECT a:80 HTTP/1.1", Refusal::Connect);
        check(&format!("GET /{} HTTP/1.1", "a".repeat(65_534)), Refusal::TargetTooLong);
        let longest = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(65_533));
        assert!(verdict(longest.as_bytes()).is_ok() && parser::takes(longest.as_bytes()));
        let name = "a".repeat(65_535);
        let longest = format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: b\r\n\r\n");
        assert!(verdict(longest.as_bytes()).is_ok() && parser::takes(longest.as_bytes()));
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{name}a: b\r\n\r\n");
        assert_eq!(verdict(head.as_bytes()), Err(Refusal::HeadTooLarge));
    }

    #[test]
    fn an_offer_counts_where_it_can_be_taken_up() {
        let check = |version: &str, lines: &str, expected: bool| {
            let head = format!("GET / HTTP/{version}\r\nhost: a\r\n{lines}\r\n");
            assert_eq!(verdict(head.as_bytes()), Ok(expected), "{lines}");
        };
        let websocket = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n";
        check("1.1", websocket, true);
        check("1.1", &format!("{websocket}Content-Length: 0\r\n"), true);
        check("1.1", &format!("{websocket}Content-Length: 1\r\n"), false);
        check("1.1", &format!("Transfer-Encoding: chunked\r\n{websocket}"), false);
        check("1.0", websocket, false);
        check("1.1", "Upgrade: websocket\r\n", false);
        check("1.1", "Connection: upgrade\r\nUpgrade: h2c\r\n", false);
        check("1.1", "Connection: upgrade\r\nUpgrade: TLS/1.2\r\n", false);
        check("1.1", "Upgrade: h2c, websocket\r\nConnection: x\r\nConnection: ,upgrade\r\n", true);
    }

    #[test]
    fn empty_lines_before_a_head_are_nothing_and_not_without_end() {
        let mut stream = b"\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n\r\n".to_vec();
        assert_eq!(heads(LIMIT, &stream, &[1]).0, [(4, 27)]);
        stream.extend(b"\r\n".repeat(LIMIT / 2 - 1));
        assert_eq!(heads(LIMIT, &stream, &[7]).1, None);
        stream.extend(b"\r\n");
        assert_eq!(heads(LIMIT, &stream, &[7]).1, Some(Step::Refuse(Refusal::HeadTooLarge)));
    }

    /// Methods, targets and lines, of which some are taken and some not.
    fn line() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("Host: a".to_owned()),
            "[Hh]ost: [a-c%:\\[\\]._@,0-9]{0,6}",
            "Connection: (close|upgrade|keep-alive|, )(, (upgrade|x))?",
            "Upgrade: (h2c|websocket|TLS/1.2)(, (h2c|websocket))?",
            "Content-Length: [0-9+, ]{0,20}",
            "Transfer-Encoding: (chunked|gzip|,| ){1,3}",
            "Expect: (100-continue|x|,){1,2}",
            "[!-~]{0,8}: ?[ -~\t\u{80}-\u{ff}]{0,8}",
        ]
    }

    fn target() -> impl Strategy<Value = String> {
        prop_oneof![
            "/[!-~]{0,10}",
            "/(%[0-9a-fz]{2}|[a-z/.?#<>\"`{}|\\\\^]){0,8}",
            "https?://[a-c:@\\[\\]0-9%.,]{0,8}[/?]?[!-~]{0,4}",
            "[!-~\u{80}-\u{ff}]{1,10}",
            Just("*".to_owned()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// The parser's own refusals have no reason and are not counted: none must be left for it.
        #[test]
        fn the_parser_takes_whatever_is_let_through(
            method in "GET|OPTIONS|POST|[!-~]{1,6}",
            target in target(),
            minor in 0..2,
            lines in prop::collection::vec(line(), 0..6),
            host in prop::bool::ANY,
        ) {
            let host = if host { "Host: a\r\n" } else { "" };
            let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let head = format!("{method} {target} HTTP/1.{minor}\r\n{host}{lines}\r\n");
            if let (found, None) = heads(1 << 16, head.as_bytes(), &[head.len()])
                && !found.is_empty()
            {
                prop_assert!(parser::takes(head.as_bytes()), "{:?}", head);
            }
        }

        /// What clients ordinarily send is let through, and taken.
        #[test]
        fn what_is_sound_is_let_through(
            method in "GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|QUERY|[A-Z]{1,12}",
            path in "(/(%[2-7][0-9A-Fa-f]|[a-zA-Z0-9._~!$&'()*+,;=:@-]){0,6}){1,4}",
            query in prop::option::of("(%[2-7][0-9A-F]|[a-zA-Z0-9._~!$&'()*+,;=:@/?|{}^-]){0,12}"),
            host in "([a-z0-9_-]{1,5}[.]?){1,3}|10[.]0[.]0[.]1|\\[(fd00)?::[0-9a-f]{1,4}\\]",
            port in prop::option::of(0u16..),
            absolute in prop::bool::ANY,
            lines in prop::collection::vec("[a-zA-Z0-9_-]{1,12}:[ \t]{0,2}[!-~]{0,6}( [!-~\u{80}-\u{ff}]{1,5})?[ \t]{0,2}", 0..8),
        ) {
            prop_assume!(method != "CONNECT");
            let special = ["host", "content-length", "transfer-encoding"];
            let ordinary = |line: &&String| !special.contains(&line.split(':').next().unwrap().to_lowercase().as_str());
            let lines: String = lines.iter().filter(ordinary).map(|line| format!("{line}\r\n")).collect();
            let host = host + &port.map_or(String::new(), |port| format!(":{port}"));
            let target = path + &query.map_or(String::new(), |query| format!("?{query}"));
            let target = if absolute { format!("http://{host}{target}") } else { target };
            let head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n");
            prop_assert!(verdict(head.as_bytes()).is_ok(), "{:?}: {:?}", head, verdict(head.as_bytes()));
            prop_assert!(parser::takes(head.as_bytes()), "{:?}", head);
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

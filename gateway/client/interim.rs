//! Interim answers (1xx) in front of an answer, counted as their bytes pass. The parser behind drops them and says
//! nothing; to be told by it would cost every request an allocation.

/// The place in the heads of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interim {
    /// So many bytes of a first line are as those of an interim answer.
    Line(usize),
    /// In the head of one; at the beginning of a line, which may be the empty one that ends it.
    Head { at_line: bool },
    /// The answer itself has begun.
    Over,
}

/// How the first line of an interim answer begins; the version's last digit may be any. Switching protocols is none.
const LINE: &[u8] = b"HTTP/1.1 1";
const VERSION: usize = 7;

impl Default for Interim {
    fn default() -> Self {
        Self::Line(0)
    }
}

impl Interim {
    /// How many interim answers end in these bytes, which follow those seen before.
    pub(super) fn count(&mut self, bytes: &[u8]) -> u64 {
        // Nearly always the answer itself begins with these bytes.
        if *self == Self::Line(0) && bytes.get(LINE.len() - 1).is_some_and(|class| *class != b'1') {
            *self = Self::Over;
        }
        let mut ended = 0;
        for byte in bytes {
            *self = match *self {
                Self::Over => break,
                Self::Line(at) if at < LINE.len() => {
                    if *byte == LINE[at] || at == VERSION && byte.is_ascii_digit() {
                        Self::Line(at + 1)
                    } else {
                        Self::Over
                    }
                }
                // `101`: the second and the third digit.
                Self::Line(at) if at == LINE.len() => Self::Line(at + if *byte == b'0' { 1 } else { 2 }),
                Self::Line(at) if at == LINE.len() + 1 && *byte == b'1' => Self::Over,
                Self::Line(_) => Self::Head { at_line: false },
                // A bare line feed ends a line, too.
                Self::Head { at_line: true } if *byte == b'\n' => {
                    ended += 1;
                    Self::Line(0)
                }
                Self::Head { at_line } => Self::Head { at_line: *byte == b'\n' || at_line && *byte == b'\r' },
            };
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interim_answers_are_counted_however_they_are_cut() {
        let check = |text: &str, expected: u64| {
            for piece in [1, 3, text.len()] {
                let mut interim = Interim::default();
                let counted: u64 = text.as_bytes().chunks(piece).map(|bytes| interim.count(bytes)).sum();
                assert_eq!(counted, expected, "{text:?} by {piece}");
            }
        };
        let (ok, continues, hints) = (
            "HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nlink: </b>\r\n\r\n",
        );
        check(ok, 0);
        check(&[continues, ok].concat(), 1);
        check(&[continues, hints, hints, ok].concat(), 3);
        check(&[hints, ok, continues, continues].concat(), 1);
        check("HTTP/1.1 102 Processing\n\nHTTP/1.0 200 OK\n\n", 1);
        check("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\nHTTP/1.1 100 \r\n\r\n", 0);
        check("HTTP/1.1 110 Some\r\n\r\n", 1);
        check("garbage\r\n\r\n", 0);
    }
}

//! The trace that a request belongs to, as `traceparent` says it (W3C Trace Context, level 2).

use std::num::{NonZeroU64, NonZeroU128};

use http::{HeaderMap, HeaderName};

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What the systems of a trace say to each other beside that. Means nothing without it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The only version there is. Of a later one this much is read, too.
const VERSION: u8 = 0;
const FORBIDDEN_VERSION: u8 = 0xff;

/// `00-`, the trace, the span and the flags.
const LENGTH: usize = 55;

const SAMPLED: u8 = 0b01;
/// The trace's id is random.
const RANDOM: u8 = 0b10;

/// A span of a trace, and what was decided about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    pub trace: NonZeroU128,
    pub span: NonZeroU64,
    flags: u8,
}

impl TraceParent {
    /// The first span of a trace.
    pub fn new(trace: NonZeroU128, span: NonZeroU64, sampled: bool) -> Self {
        Self { trace, span, flags: if sampled { SAMPLED } else { 0 } }
    }

    /// That of a request. None: there is none, or several, or it is broken, which is all the same.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(&TRACEPARENT).into_iter();
        let only = lines.next().filter(|_| lines.next().is_none())?;
        Self::parse(only.as_bytes())
    }

    /// None for what is no `traceparent`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (known, rest) = text.split_at_checked(LENGTH)?;
        let version = hex(&known[..2])? as u8;
        let ends = rest.is_empty() || (version > VERSION && rest[0] == b'-');
        let parted = [2, 35, 52].into_iter().all(|at| known[at] == b'-');
        if version == FORBIDDEN_VERSION || !ends || !parted {
            return None;
        }
        let trace = NonZeroU128::new(hex(&known[3..35])?)?;
        let span = NonZeroU64::new(hex(&known[36..52])? as u64)?;
        Some(Self { trace, span, flags: hex(&known[53..])? as u8 & (SAMPLED | RANDOM) })
    }

    /// Another span of the same trace.
    pub fn with_span(self, span: NonZeroU64) -> Self {
        Self { span, ..self }
    }

    /// Whoever sent it has it recorded.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    pub fn flags(&self) -> u8 {
        self.flags
    }

    /// As it is sent.
    pub fn text(&self) -> [u8; LENGTH] {
        let mut text = [b'-'; LENGTH];
        write_hex(&mut text[..2], VERSION.into());
        write_hex(&mut text[3..35], self.trace.get());
        write_hex(&mut text[36..52], self.span.get().into());
        write_hex(&mut text[53..], self.flags.into());
        text
    }
}

/// Lower case only, as the standard has it, and at most 32 digits.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

fn write_hex(text: &mut [u8], mut number: u128) {
    for place in text.iter_mut().rev() {
        *place = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn parsed(text: &str) -> Option<TraceParent> {
        TraceParent::parse(text.as_bytes())
    }

    #[test]
    fn the_example_of_the_standard_is_read_and_written() {
        let read = parsed(EXAMPLE).unwrap();
        assert_eq!(read.trace.get(), 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(read.span.get(), 0xb7ad_6b71_6920_3331);
        assert!(read.is_sampled());
        assert_eq!(read.text(), EXAMPLE.as_bytes());
        let next = read.with_span(NonZeroU64::new(1).unwrap());
        assert_eq!(&next.text(), b"00-0af7651916cd43dd8448eb211c80319c-0000000000000001-01");
    }

    #[test]
    fn what_is_broken_is_not_there() {
        for (from, to) in [
            ("00-", "ff-"),
            ("00-", "0A-"),
            ("0af7651916cd43dd8448eb211c80319c", "00000000000000000000000000000000"),
            ("b7ad6b7169203331", "0000000000000000"),
            ("0af", "0AF"),
            ("-01", "-0x"),
            ("-01", "-1"),
            ("-01", "-01-"),
            ("-01", "-01-more"),
            ("-01", "-01 "),
            ("-b7", "_b7"),
            ("00-", "0-"),
        ] {
            let broken = EXAMPLE.replace(from, to);
            assert_eq!(parsed(&broken), None, "{broken}");
        }
        assert_eq!(parsed(""), None);
    }

    #[test]
    fn who_says_two_things_has_said_nothing() {
        let mut headers = HeaderMap::new();
        assert_eq!(TraceParent::of(&headers), None);
        headers.append(TRACEPARENT, EXAMPLE.parse().unwrap());
        assert_eq!(TraceParent::of(&headers), parsed(EXAMPLE));
        headers.append(TRACEPARENT, EXAMPLE.parse().unwrap());
        assert_eq!(TraceParent::of(&headers), None);
    }

    #[test]
    fn of_a_later_version_the_known_part_is_read() {
        for later in ["cc-", "01-"] {
            let text = EXAMPLE.replace("00-", later);
            assert_eq!(parsed(&text), parsed(EXAMPLE));
            assert_eq!(parsed(&format!("{text}-what-will-be")), parsed(EXAMPLE));
            assert_eq!(parsed(&format!("{text}.")), None);
        }
    }

    #[test]
    fn flags_that_nobody_knows_are_not_passed_on() {
        let with = |flags: &str| parsed(&EXAMPLE.replace("-01", flags)).unwrap();
        assert_eq!((with("-ff").flags(), with("-ff").is_sampled()), (3, true));
        assert_eq!((with("-02").flags(), with("-02").is_sampled()), (2, false));
        assert_eq!(with("-fc").flags(), 0);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace in 1..=u128::MAX, span in 1..=u64::MAX, flags in 0..4_u8) {
            let (trace, span) = (NonZeroU128::new(trace).unwrap(), NonZeroU64::new(span).unwrap());
            let written = TraceParent { trace, span, flags };
            prop_assert_eq!(TraceParent::parse(&written.text()), Some(written));
        }

        /// Whatever comes, what is read of it is what is written of that.
        #[test]
        fn what_is_read_is_written(text in "[0-9a-f]{2}-[0-9a-fA]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[a-z]{0,3})?") {
            if let Some(read) = parsed(&text) {
                prop_assert_eq!(&read.text()[2..53], &text.as_bytes()[2..53]);
                prop_assert_eq!(TraceParent::parse(&read.text()), Some(read));
            }
        }
    }
}

//! Text that others wrote, as people get to see it.
//!
//! Registries, plugins, clients and files may say anything: line ends that forge a line of the log, sequences that a
//! terminal obeys, letters that turn the direction of reading, a megabyte. Where text leaves the process for somebody to
//! read (the log, the command line, reasons in the API, labels of metrics), it goes through [`shown`].

use std::{
    borrow::Cow,
    fmt::{self, Display, Write as _},
};

use xxhash_rust::xxh64::xxh64;

/// Longer texts are cut in the middle: what stands around a long value says what is wrong with it.
const LONGEST: usize = 2_048;

/// What is left of the beginning of a longer text, in bytes as shown, and of its end.
const HEAD: usize = 1_536;
const TAIL: usize = 384;

/// One line, of at most about two thousand bytes, in which everything can be seen: control characters and others that
/// have no look of their own are escaped like `\n` and `\u{1b}`.
pub fn shown<T: Display>(text: T) -> Shown<T> {
    Shown { text, lines: false }
}

/// The same for a text of ours in several lines, which is not cut. What others wrote in it has to be [`shown`] before.
pub fn shown_lines<T: Display>(text: T) -> Shown<T> {
    Shown { text, lines: true }
}

/// Bytes that should be text, [`shown`]: what is no UTF-8 as `\xff`, and so that nothing else looks like that, `\` as `\\`.
pub fn shown_bytes(bytes: &[u8]) -> Shown<impl Display> {
    shown(Lossless(bytes))
}

/// The value of a label. Two that differ only in what is cut stay two.
pub fn label(text: &str) -> Cow<'_, str> {
    if text.len() <= LONGEST && text.chars().all(is_visible) {
        return Cow::Borrowed(text);
    }
    let mut label = shown(text).to_string();
    if text.len() > LONGEST {
        // Writing to a string cannot fail.
        let _ = write!(label, "#{:016x}", xxh64(text.as_bytes(), 0));
    }
    Cow::Owned(label)
}

/// Whether a character looks like what it is: no control character, none that is invisible, and none that changes how
/// its neighbours are read.
pub fn is_visible(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            // Soft hyphen, fillers, zero widths, and the marks that order text from right to left.
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// See [`shown`].
#[derive(Debug)]
pub struct Shown<T> {
    text: T,
    lines: bool,
}

impl<T: Display> Display for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let room = if self.lines { usize::MAX } else { HEAD };
        let mut cut = Cut { out: f, lines: self.lines, room, tail: String::new(), read: 0, dropped: false };
        write!(cut, "{}", self.text)?;
        cut.finish()
    }
}

struct Lossless<'a>(&'a [u8]);

impl Display for Lossless<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for (number, part) in chunk.valid().split('\\').enumerate() {
                f.write_str(if number > 0 { "\\\\" } else { "" })?;
                f.write_str(part)?;
            }
            chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

/// Passes on the beginning of what is written to it and keeps the end; never holds more than that, however long it is.
struct Cut<'a, 'f> {
    out: &'a mut fmt::Formatter<'f>,
    lines: bool,
    /// Left for the beginning.
    room: usize,
    tail: String,
    /// Bytes that were written to it.
    read: usize,
    /// Whether something is lost already.
    dropped: bool,
}

impl Cut<'_, '_> {
    /// Takes what is shown in the place of one character.
    fn push(&mut self, piece: &str) -> fmt::Result {
        if self.tail.is_empty() && piece.len() <= self.room {
            self.room -= piece.len();
            return self.out.write_str(piece);
        }
        self.tail.push_str(piece);
        if self.tail.len() > 4 * LONGEST {
            self.drop_all_but(LONGEST);
        }
        Ok(())
    }

    fn drop_all_but(&mut self, bytes: usize) {
        let from = self.tail.ceil_char_boundary(self.tail.len().saturating_sub(bytes));
        self.dropped |= from > 0;
        self.tail.drain(..from);
    }

    fn finish(mut self) -> fmt::Result {
        if self.dropped || self.tail.len() > (LONGEST - HEAD).saturating_add(self.room) {
            self.drop_all_but(TAIL);
            write!(self.out, "... ({} bytes in all) ...", self.read)?;
        }
        self.out.write_str(&self.tail)
    }
}

impl fmt::Write for Cut<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.read += text.len();
        let mut text = text;
        if !self.tail.is_empty() && text.len() > LONGEST {
            text = &text[text.ceil_char_boundary(text.len() - LONGEST)..];
            self.dropped = true;
        }
        for c in text.chars() {
            if is_visible(c) || (self.lines && c == '\n') {
                self.push(c.encode_utf8(&mut [0; 4]))?;
                continue;
            }
            // The longest is `\u{10ffff}`.
            let mut escaped = [0; 10];
            let mut length = 0;
            for (place, letter) in escaped.iter_mut().zip(c.escape_default()) {
                *place = letter as u8;
                length += 1;
            }
            self.push(std::str::from_utf8(&escaped[..length]).unwrap_or_default())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(shown(text).to_string(), expected, "{text:?}");
    }

    #[test]
    fn what_cannot_be_seen_is_escaped() {
        check("orders", "orders");
        check("größe 日本 😀 \"a\" it's C:\\x", "größe 日本 😀 \"a\" it's C:\\x");
        check("a\nERROR forged", "a\\nERROR forged");
        check("\r\t\0\u{1b}[31m\u{7f}", "\\r\\t\\u{0}\\u{1b}[31m\\u{7f}");
        check("\u{9b}31m\u{85}", "\\u{9b}31m\\u{85}");
        check("\u{202e}gnp.exe\u{2066}\u{2028}\u{feff}", "\\u{202e}gnp.exe\\u{2066}\\u{2028}\\u{feff}");
        check("\u{200b}\u{ad}\u{e0041}\u{61c}", "\\u{200b}\\u{ad}\\u{e0041}\\u{61c}");
    }

    #[test]
    fn lines_of_ours_stay_lines_and_everything_else_is_escaped() {
        assert_eq!(shown_lines("a\n\u{1b}b\r\n").to_string(), "a\n\\u{1b}b\\r\n");
        let long = "line\n".repeat(10_000);
        assert_eq!(shown_lines(&long).to_string(), long);
    }

    #[test]
    fn what_is_no_utf_8_is_told_from_what_looks_like_it() {
        let check = |bytes: &[u8], expected: &str| assert_eq!(shown_bytes(bytes).to_string(), expected);
        check(b"a\xffb\xc3", "a\\xffb\\xc3");
        check(b"a\\xffb", "a\\\\xffb");
        check("ä\n".as_bytes(), "ä\\n");
        check("\u{fffd}".as_bytes(), "\u{fffd}");
    }

    #[test]
    fn long_texts_keep_their_beginning_and_their_end() {
        check(&"a".repeat(LONGEST), &"a".repeat(LONGEST));
        let long = format!("key {} has no port", "\u{1b}".repeat(1 << 20));
        for shown in [shown(&long).to_string(), shown(format_args!("{:.4}{}", long, &long[4..])).to_string()]
        {
            assert!(shown.len() <= LONGEST && shown.starts_with("key \\u{1b}"), "{shown}");
            assert!(
                shown.contains("... (1048592 bytes in all) ...") && shown.ends_with(" has no port"),
                "{shown}"
            );
        }
    }

    #[test]
    fn labels_that_are_cut_stay_apart() {
        let (one, other) = (format!("{}a{}", "x".repeat(5_000), "x".repeat(5_000)), "x".repeat(10_001));
        assert_ne!(label(&one), label(&other));
        assert!(label(&one).len() < 3_000);
        assert!(matches!(label("orders"), Cow::Borrowed("orders")));
        assert_eq!(label("a\nb"), "a\\nb");
    }

    proptest! {
        #[test]
        fn whatever_is_written_in_whatever_pieces_is_one_short_line(pieces in prop::collection::vec("(?s).{0,900}", 0..9)) {
            struct Pieces(Vec<String>);
            impl Display for Pieces {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    self.0.iter().try_for_each(|piece| f.write_str(piece))
                }
            }
            let whole = pieces.concat();
            let text = shown(Pieces(pieces)).to_string();
            prop_assert!(text.len() <= LONGEST && text.chars().all(is_visible));
            prop_assert_eq!(&text, &shown(&whole).to_string());
            if whole.len() <= LONGEST && whole.chars().all(is_visible) {
                prop_assert_eq!(text, whole);
            }
        }
    }
}

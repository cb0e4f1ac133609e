//! Bytes as text, where the interface wants text and what there is need not be any.

/// Text that stands for these bytes and for no others: UTF-8 as it is, a backslash as `\\`, and every byte that is no
/// UTF-8 as `\xNN`. What is UTF-8 without a backslash stays what it is.
pub fn as_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', "\\\\"));
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The way back.
    fn as_bytes(text: &str) -> Vec<u8> {
        let (mut bytes, mut rest) = (Vec::new(), text);
        while let Some((plain, escaped)) = rest.split_once('\\') {
            bytes.extend(plain.as_bytes());
            rest = match escaped.strip_prefix('x') {
                Some(digits) => {
                    bytes.push(u8::from_str_radix(&digits[..2], 16).unwrap());
                    &digits[2..]
                }
                None => {
                    bytes.push(b'\\');
                    escaped.strip_prefix('\\').unwrap()
                }
            };
        }
        bytes.extend(rest.as_bytes());
        bytes
    }

    #[test]
    fn what_is_text_stays_and_the_rest_is_told_apart() {
        for (bytes, text) in [
            (&b"user.rpc/1"[..], "user.rpc/1"),
            ("d\u{f6}ner".as_bytes(), "d\u{f6}ner"),
            (b"a\xff", r"a\xff"),
            (b"a\xfe", r"a\xfe"),
            (br"a\xff", r"a\\xff"),
            (b"", ""),
        ] {
            assert_eq!(as_text(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn text_leads_back_to_its_bytes(
            any in any::<Vec<u8>>(),
            likely in proptest::collection::vec(prop_oneof![Just(b'\\'), Just(b'x'), Just(b'f'), Just(0xff), Just(0xc3)], 0..9),
        ) {
            prop_assert_eq!(as_bytes(&as_text(&any)), any);
            prop_assert_eq!(as_bytes(&as_text(&likely)), likely);
        }
    }
}

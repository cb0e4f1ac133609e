//! Base64 as gRPC-Web has it: in pieces that are cut anywhere, padded wherever its sender had to flush what it had.

use base64::{Engine, engine::general_purpose::STANDARD};

/// So many characters stand for three bytes.
const GROUP: usize = 4;

/// Something that is no base64 with padding, or ends in the middle of a group.
#[derive(Debug, PartialEq, Eq)]
pub struct NotBase64;

/// Reads it piece by piece.
#[derive(Default)]
pub struct Decoder {
    /// A group that has begun.
    begun: Vec<u8>,
}

impl Decoder {
    /// The bytes of the groups that are complete with this piece.
    pub fn decode(&mut self, piece: &[u8]) -> Result<Vec<u8>, NotBase64> {
        let mut bytes = Vec::with_capacity((self.begun.len() + piece.len()) / GROUP * 3);
        let mut rest = piece;
        if !self.is_whole() {
            let (end, after) = rest.split_at(rest.len().min(GROUP - self.begun.len()));
            self.begun.extend_from_slice(end);
            if self.begun.len() < GROUP {
                return Ok(bytes);
            }
            groups(&self.begun, &mut bytes)?;
            self.begun.clear();
            rest = after;
        }
        let (whole, begun) = rest.split_at(rest.len() / GROUP * GROUP);
        groups(whole, &mut bytes)?;
        self.begun.extend_from_slice(begun);
        Ok(bytes)
    }

    /// Whether it may end here.
    pub fn is_whole(&self) -> bool {
        self.begun.is_empty()
    }
}

/// Decodes whole groups, any of which may be padded.
fn groups(mut text: &[u8], bytes: &mut Vec<u8>) -> Result<(), NotBase64> {
    while !text.is_empty() {
        // To the library padding is the end.
        let end = memchr::memchr(b'=', text).map_or(text.len(), |at| at / GROUP * GROUP + GROUP);
        let (first, rest) = text.split_at(end);
        STANDARD.decode_vec(first, bytes).map_err(|_| NotBase64)?;
        text = rest;
    }
    Ok(())
}

/// What can be read without what comes after it.
pub fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
#[path = "../../../tests/fuzz/pieces.rs"]
mod pieces;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{pieces::decode, *};

    #[test]
    fn padding_may_stand_anywhere_between_groups() {
        let check = |text: &str, expected: Option<&str>| {
            let expected = expected.map(|bytes| bytes.as_bytes().to_vec());
            for cut in 1..=text.len().max(1) {
                assert_eq!(decode(text.as_bytes(), &[cut]), expected, "{text} by {cut}");
            }
        };
        check("", Some(""));
        check("YWJj", Some("abc"));
        check("YQ==YmM=ZGVm", Some("abcdef"));
        for text in ["Y", "YQ", "YQ=", "YQ==Y", "Y===", "====", "Y=Q=", "YQ==\r\n\r\n", "YW-_", "YR=="] {
            check(text, None);
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_in_pieces_is_decoded_in_others(
            written in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..8),
            cuts in prop::collection::vec(1usize..20, 1..8),
        ) {
            let text: String = written.iter().map(|piece| encode(piece)).collect();
            prop_assert_eq!(decode(text.as_bytes(), &cuts), Some(written.concat()));
        }

        #[test]
        fn whether_it_can_be_read_does_not_depend_on_the_cuts(
            text in "[AQgw=*]{0,16}",
            cuts in prop::collection::vec(1usize..9, 1..8),
        ) {
            prop_assert_eq!(decode(text.as_bytes(), &cuts), decode(text.as_bytes(), &[16]));
        }
    }
}

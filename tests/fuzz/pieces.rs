//! Base64 that comes in pieces. Also part of the unit tests of its decoder.

use super::Decoder;

/// What it stands for; none if it is no base64. The lengths of the pieces are used in turn.
pub fn decode(mut text: &[u8], pieces: &[usize]) -> Option<Vec<u8>> {
    let (mut decoder, mut bytes) = (Decoder::default(), Vec::new());
    let mut pieces = pieces.iter().cycle();
    while !text.is_empty() {
        let (piece, rest) = text.split_at(pieces.next().copied()?.clamp(1, text.len()));
        bytes.extend(decoder.decode(piece).ok()?);
        text = rest;
    }
    decoder.is_whole().then_some(bytes)
}

//! How a stream of requests is understood that comes in pieces. Also part of the unit tests of the framing.

use super::{Framing, Step};

/// Where the heads are, each with its length, and how the stream ends if it is refused. The lengths of the pieces are
/// used in turn.
pub fn heads(limit: usize, stream: &[u8], pieces: &[usize]) -> (Vec<(usize, usize)>, Option<Step>) {
    let mut framing = Framing::new(limit);
    let (mut heads, mut at, mut end) = (Vec::new(), 0, 0);
    let mut pieces = pieces.iter().cycle();
    while end < stream.len() {
        end = (end + pieces.next().copied().unwrap_or(stream.len()).max(1)).min(stream.len());
        while at < end {
            match framing.step(&stream[at..end]) {
                Step::Body(len) => at += len,
                Step::Head { len, .. } => {
                    heads.push((at, len));
                    at += len;
                }
                Step::Partial => break,
                last => return (heads, Some(last)),
            }
        }
    }
    (heads, None)
}

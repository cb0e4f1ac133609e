//! All keys under a prefix as they were at one revision, in pages.

use etcd_client::GetOptions;

use super::{
    Client, Entry, Position, Session,
    error::{is_compacted, is_too_long},
};
use crate::registry::Failure;

/// Keys per page. Small enough that no page keeps etcd from its other clients.
const PAGE: i64 = 4096;

/// The longest list taken, in bytes of keys and values.
const LONGEST_LIST: usize = 256 << 20;

/// Times a list is begun again because its revision was compacted away meanwhile.
const TRIES: usize = 3;

pub(super) struct Listing {
    pub at: Position,
    pub entries: Vec<Entry>,
}

/// Reads everything under `prefix` at one revision, the newest.
pub(super) async fn list(client: &Client, session: &Session, prefix: &[u8]) -> Result<Listing, Failure> {
    for _ in 0..TRIES {
        let before = client.newest();
        match try_list(session, prefix).await {
            Ok(Some(listing)) => {
                client.observe(before, listing.at);
                return Ok(listing);
            }
            Ok(None) => {}
            Err(ListError::Etcd(error)) => return Err(client.failed(session, &error)),
            Err(ListError::TooLong) => {
                let prefix = prefix.escape_ascii();
                return Err(Failure::Invalid(format!(
                    "keys and values under `{prefix}` are longer than {LONGEST_LIST} bytes"
                )));
            }
        }
    }
    Err(Failure::Unavailable("etcd is compacted faster than it can be listed".into()))
}

enum ListError {
    Etcd(etcd_client::Error),
    TooLong,
}

/// None when the revision of the first page is gone before the last is read.
async fn try_list(session: &Session, prefix: &[u8]) -> Result<Option<Listing>, ListError> {
    let (mut from, end) = range(prefix);
    let (mut at, mut entries, mut bytes, mut page) = (None, Vec::new(), 0, PAGE);
    loop {
        let revision = at.map_or(0, |at: Position| at.revision);
        let options = GetOptions::new().with_range(end.clone()).with_limit(page).with_revision(revision);
        let mut answer = match session.within(session.kv().get(from.clone(), Some(options))).await {
            Ok(answer) => answer,
            Err(error) if is_compacted(&error) && at.is_some() => return Ok(None),
            Err(error) if is_too_long(&error) && page > 1 => {
                page = (page / 8).max(1);
                continue;
            }
            Err(error) => return Err(ListError::Etcd(error)),
        };
        let at = *at.get_or_insert_with(|| {
            answer.header().map_or(Position { cluster: 0, revision: 0 }, Position::from)
        });
        let more = answer.more();
        for entry in answer.take_kvs().into_iter().map(Entry::from) {
            bytes += entry.key.len() + entry.value.len();
            entries.push(entry);
        }
        if bytes > LONGEST_LIST {
            return Err(ListError::TooLong);
        }
        match entries.last() {
            Some(last) if more => from = [last.key.as_slice(), &[0]].concat(),
            _ => return Ok(Some(Listing { at, entries })),
        }
    }
}

/// The keys that begin with `prefix`, as etcd writes a range: from the first to before the second.
pub(super) fn range(prefix: &[u8]) -> (Vec<u8>, Vec<u8>) {
    // An end of one zero byte stands for "to the last key".
    let all = || vec![0];
    if prefix.is_empty() {
        return (all(), all());
    }
    let end = prefix.iter().rposition(|byte| *byte < 0xff).map_or_else(all, |last| {
        let mut end = prefix[..=last].to_vec();
        end[last] += 1;
        end
    });
    (prefix.to_vec(), end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_becomes_a_range() {
        let check = |prefix: &[u8], from: &[u8], end: &[u8]| {
            assert_eq!(range(prefix), (from.to_vec(), end.to_vec()));
        };
        check(b"user.rpc/", b"user.rpc/", b"user.rpc0");
        check(b"a\xff", b"a\xff", b"b");
        check(b"\xff\xff", b"\xff\xff", b"\0");
        check(b"", b"\0", b"\0");
    }
}

//! How the embedded registry is written: a line with the version, then a line for each change, with a checksum of
//! its own. What is registered is the sum of all lines, so a change appends one, and damage costs what it hit.
//!
//! Knows nothing of files.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Registration;
use crate::upstream::durable::checksum;

const VERSION: u32 = 2;

/// One file that holds everything and is written anew as a whole: read, and never written any more.
const OLD_VERSION: u32 = 1;

/// Digits of a line's checksum: they tell damage, not fraud.
const SUM_DIGITS: usize = 16;

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Put { service: Arc<str>, id: Arc<str>, registration: Arc<Registration> },
    Remove { service: Arc<str>, id: Arc<str> },
}

impl Change {
    /// The service and the id.
    pub fn name(&self) -> (&str, &str) {
        let (Self::Put { service, id, .. } | Self::Remove { service, id }) = self;
        (service, id)
    }

    /// Whether nobody would say it again: there is no heartbeat for it.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Put { registration, .. } => registration.ttl_seconds == 0,
            Self::Remove { .. } => true,
        }
    }
}

/// By service and id.
pub(super) type Registrations = BTreeMap<(Arc<str>, Arc<str>), Arc<Registration>>;

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    pub registrations: Registrations,
    /// Lines that could not be read.
    pub damaged: usize,
}

#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
}

/// A change in its line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Written<T, R> {
    Put { service: T, id: T, registration: R },
    Remove { service: T, id: T },
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    sum: &'a str,
    #[serde(borrow)]
    change: &'a RawValue,
}

/// Writes the first line.
fn begin(text: &mut Vec<u8>) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *text, &Head { version: VERSION })?;
    text.push(b'\n');
    Ok(())
}

/// Writes the line of a change.
pub(super) fn write(change: &Change, text: &mut Vec<u8>) -> serde_json::Result<()> {
    let written = match change {
        Change::Put { service, id, registration } => {
            Written::Put { service: &**service, id: &**id, registration: &**registration }
        }
        Change::Remove { service, id } => Written::Remove { service: &**service, id: &**id },
    };
    let change = serde_json::value::to_raw_value(&written)?;
    serde_json::to_writer(&mut *text, &Line { sum: &sum(change.get().as_bytes()), change: &change })?;
    text.push(b'\n');
    Ok(())
}

/// Everything, from the first line on.
pub(super) fn text(all: &[Change]) -> serde_json::Result<Vec<u8>> {
    let mut text = Vec::new();
    begin(&mut text)?;
    all.iter().try_for_each(|change| write(change, &mut text))?;
    Ok(text)
}

/// Reads what was written, by this version or an older one. The error says why nothing of it can be used.
pub(super) fn read(text: &[u8]) -> Result<Read, String> {
    // An old file is one JSON value; of a new one that is only true while it has no changes.
    if let Ok(Head { version }) = serde_json::from_slice(text) {
        return match version {
            VERSION => Ok(Read::default()),
            OLD_VERSION => old(text),
            other => Err(format!("version {other} is not {VERSION}")),
        };
    }
    let mut lines = text.split_inclusive(|byte| *byte == b'\n');
    let first = lines.next().ok_or("it is empty")?;
    match serde_json::from_slice(first) {
        Ok(Head { version: VERSION }) => Ok(sum_of(lines)),
        Ok(Head { version }) => Err(format!("version {version} is not {VERSION}")),
        // The other lines stand for themselves, if they are such lines.
        Err(error) => match sum_of(lines) {
            Read { registrations, .. } if registrations.is_empty() => Err(error.to_string()),
            Read { registrations, damaged } => Ok(Read { registrations, damaged: damaged + 1 }),
        },
    }
}

fn sum_of<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Read {
    let mut read = Read::default();
    for line in lines {
        match parse(line) {
            Some(Change::Put { service, id, registration }) => {
                read.registrations.insert((service, id), registration);
            }
            Some(Change::Remove { service, id }) => {
                read.registrations.remove(&(service, id));
            }
            None => read.damaged += 1,
        }
    }
    read
}

/// None for a line that is damaged, or not whole.
fn parse(line: &[u8]) -> Option<Change> {
    let line: Line<'_> = serde_json::from_slice(line.strip_suffix(b"\n")?).ok()?;
    if sum(line.change.get().as_bytes()) != line.sum {
        return None;
    }
    Some(match serde_json::from_str::<Written<String, Registration>>(line.change.get()).ok()? {
        Written::Put { service, id, registration } => {
            Change::Put { service: service.into(), id: id.into(), registration: registration.into() }
        }
        Written::Remove { service, id } => Change::Remove { service: service.into(), id: id.into() },
    })
}

fn old(text: &[u8]) -> Result<Read, String> {
    #[derive(Deserialize)]
    struct Old {
        sha256: String,
        services: BTreeMap<String, BTreeMap<String, Registration>>,
    }
    let Old { sha256, services } = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    // It is of the services as they are written without white space.
    let written = serde_json::to_vec(&services).map_err(|error| error.to_string())?;
    if checksum(&written) != sha256 {
        return Err("its checksum is wrong".into());
    }
    let registrations = services.into_iter().flat_map(|(service, instances)| {
        let service = Arc::<str>::from(service);
        let name = move |id: String| (service.clone(), Arc::from(id));
        instances.into_iter().map(move |(id, registration)| (name(id), Arc::new(registration)))
    });
    Ok(Read { registrations: registrations.collect(), damaged: 0 })
}

fn sum(text: &[u8]) -> String {
    let mut sum = checksum(text);
    sum.truncate(SUM_DIGITS);
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put(id: &str, address: &str) -> Change {
        let registration = Registration { ttl_seconds: 9, ..Registration::at(address) };
        Change::Put { service: "orders".into(), id: id.into(), registration: registration.into() }
    }

    fn remove(id: &str) -> Change {
        Change::Remove { service: "orders".into(), id: id.into() }
    }

    fn written(changes: &[Change]) -> Vec<u8> {
        let mut text = Vec::new();
        begin(&mut text).unwrap();
        changes.iter().for_each(|change| write(change, &mut text).unwrap());
        text
    }

    fn addresses(read: &Read) -> Vec<(&str, &str)> {
        read.registrations.iter().map(|((_, id), of)| (&**id, of.address.as_str())).collect()
    }

    #[test]
    fn what_is_registered_is_the_sum_of_all_changes() {
        let read = read(&written(&[put("a", "a:1"), put("b", "b:1"), put("a", "a:2"), remove("b")])).unwrap();
        assert_eq!(addresses(&read), [("a", "a:2")]);
        assert_eq!(read.damaged, 0);
    }

    #[test]
    fn a_file_of_the_first_version_is_read() {
        let services =
            r#"{"orders":{"a":{"address":"a:1","weight":2,"labels":{"tag":["1","2"]},"ttl_seconds":30}}}"#;
        let sha256 = checksum(services.as_bytes());
        let text = format!(r#"{{"version":1,"sha256":"{sha256}","services":{services}}}"#);
        let read_it = read(text.as_bytes()).unwrap();
        assert_eq!(addresses(&read_it), [("a", "a:1")]);
        assert_eq!(read_it.registrations.values().next().unwrap().labels.len(), 2);
        assert_eq!(read(text.replace("a:1", "b:1").as_bytes()), Err("its checksum is wrong".into()));
    }

    #[test]
    fn what_is_no_such_file_says_why() {
        let check = |text: &str, why: &str| {
            let error = read(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        };
        check("", "empty");
        check("{\"version\":1,", "EOF");
        check("{\"version\":3}\n", "version 3");
        check("{\"version\":3}\n{}\n", "version 3");
        check("hello\nworld\n", "expected value");
    }

    #[test]
    fn a_damaged_line_costs_itself_alone() {
        let text = String::from_utf8(written(&[put("a", "a:1"), put("b", "b:1"), put("c", "c:1")])).unwrap();
        let check = |text: &str, expected: &[(&str, &str)], damaged: usize| {
            let read = read(text.as_bytes()).unwrap();
            assert_eq!((&*addresses(&read), read.damaged), (expected, damaged), "{text}");
        };
        check(&text.replace("b:1", "x:1"), &[("a", "a:1"), ("c", "c:1")], 1);
        check(&text.replace("version", "vErsion"), &[("a", "a:1"), ("b", "b:1"), ("c", "c:1")], 1);
        check(&text[..text.len() - 1], &[("a", "a:1"), ("b", "b:1")], 1);
        check(&(text.clone() + "garbage"), &[("a", "a:1"), ("b", "b:1"), ("c", "c:1")], 1);
    }

    proptest! {
        /// Cut anywhere: everything before the cut is there, and what is not whole is noticed.
        #[test]
        fn a_file_that_was_cut_has_every_whole_line(count in 1usize..8, cut in 0usize..2_000) {
            let changes: Vec<_> = (0..count).map(|i| put(&format!("i{i}"), "a:1")).collect();
            let whole = written(&changes);
            let cut = cut.min(whole.len());
            let lines = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
            let torn = cut > 0 && whole[cut - 1] != b'\n';
            match read(&whole[..cut]) {
                Ok(read) => {
                    prop_assert_eq!(read.registrations.len(), lines.saturating_sub(1));
                    prop_assert_eq!(read.damaged, usize::from(torn && lines > 0));
                }
                Err(_) => prop_assert_eq!(lines, 0),
            }
        }

        /// Any byte changed: nothing is there that was not registered.
        #[test]
        fn a_changed_byte_makes_nothing_up(at in 0usize..2_000, bit in 0u8..8) {
            let changes = [put("a", "a:1"), put("b", "b:1"), put("a", "a:2")];
            let mut text = written(&changes);
            let at = at % text.len();
            text[at] ^= 1 << bit;
            for (_, of) in read(&text).unwrap_or_default().registrations {
                prop_assert!(["a:1", "a:2", "b:1"].contains(&of.address.as_str()));
            }
        }
    }
}

//! The last good lists on disk: one file per upstream, written aside and renamed, so that a reader finds the old
//! list or the new one and never half of one.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use serde::{Deserialize, Serialize};

use super::{
    Saved, UpstreamName,
    durable::{FileLock, WriteError, checksum, replace},
};
use crate::files;

const VERSION: u32 = 2;

/// The versions of the format that are read.
const VERSIONS: std::ops::RangeInclusive<u64> = 1..=VERSION as u64;

/// Why a list could not be written or read. A gateway goes on without.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("cannot {what} {path}: {error}")]
    Io { what: &'static str, path: PathBuf, error: io::Error },
    #[error("{path} is damaged: {why}")]
    Damaged { path: PathBuf, why: String },
    #[error("{path} was written by another version (format {found}, this one reads 1 to {VERSION})")]
    Version { path: PathBuf, found: u64 },
    #[error("another gateway writes to {0}: give each a `directory` of [state] of its own")]
    Held(PathBuf),
}

impl From<WriteError> for DiskError {
    fn from(WriteError { what, path, error }: WriteError) -> Self {
        Self::Io { what, path, error }
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u64,
    /// SHA-256 over `list` as written, in hex.
    checksum: String,
    upstream: String,
    list: Box<serde_json::value::RawValue>,
}

#[derive(Deserialize)]
struct Head {
    version: u64,
}

/// The folder of the lists. One gateway writes to it; any other reads what it finds there, and writes when the first
/// has ended.
#[derive(Debug, Clone)]
pub struct Disk(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    refused: Refused,
    /// Read while something is written, so that it is not given away meanwhile.
    right: RwLock<Right>,
    /// The names of the files that are there.
    present: Mutex<HashSet<String>>,
    /// The files that have owners.
    owned: Mutex<HashMap<String, Arc<Owned>>>,
}

/// The right to write.
#[derive(Debug)]
enum Right {
    /// Nothing was written yet.
    Free,
    /// It ends with the process, or with the last clone of its folder.
    Had(#[expect(dead_code, reason = "the right is had as long as this is there")] FileLock),
    /// Another process writes.
    Given,
}

/// Says of an address that it is not read back.
struct Refused(Box<dyn Fn(SocketAddr) -> bool + Send + Sync>);

impl std::fmt::Debug for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Refused")
    }
}

/// A file that has an owner, or had several.
#[derive(Debug, Default)]
struct Owned {
    /// The number of the owner that took it last.
    turn: AtomicU64,
    /// Held while one of them writes.
    writing: Mutex<()>,
}

/// The list of one upstream as one owner of it has it. Of several owners, an old one and a new one at a change of the
/// configuration, only the one that took it last may write, and never two at a time.
#[derive(Debug)]
pub struct SavedList {
    folder: Arc<Folder>,
    upstream: UpstreamName,
    /// The name of the file.
    file: String,
    owned: Arc<Owned>,
    turn: AtomicU64,
    /// Whether another owner may have written since this one did.
    behind: AtomicBool,
}

/// What came of saving a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is on the disk.
    Yes,
    /// Nothing was written: another owner has taken the list, or another process the folder.
    NotOurs,
}

impl Disk {
    /// Lists live in `lists` below the state directory, which is made when the first is written. Blocks on the disk.
    pub fn new(state: &Path) -> Self {
        Self::refusing(state, |_| false)
    }

    /// The same, but an address that is `refused` is in no list that is read: what was an endpoint when the list was
    /// written need not be one any more.
    pub fn refusing(state: &Path, refused: impl Fn(SocketAddr) -> bool + Send + Sync + 'static) -> Self {
        let path = state.join("lists");
        let files = fs::read_dir(&path).into_iter().flatten().flatten();
        let present = files.filter_map(|file| file.file_name().into_string().ok()).collect();
        Self(Arc::new(Folder {
            path,
            refused: Refused(Box::new(refused)),
            right: RwLock::new(Right::Free),
            present: Mutex::new(present),
            owned: Mutex::default(),
        }))
    }

    /// Whether there is a list of an upstream, as far as this gateway knows. Does not touch the disk.
    pub fn has(&self, upstream: &UpstreamName) -> bool {
        held(&self.0.present).contains(&file_name(upstream))
    }

    /// Leaves writing to another process: when this returns nothing is being written, and nothing is until
    /// [`take_back`](Self::take_back). Blocks on the disk.
    pub fn give(&self) {
        *self.0.right.write().unwrap_or_else(PoisonError::into_inner) = Right::Given;
    }

    /// Writes again, as soon as no other process does.
    pub fn take_back(&self) {
        *self.0.right.write().unwrap_or_else(PoisonError::into_inner) = Right::Free;
    }

    /// Takes the list of an upstream for a new owner. Earlier owners write nothing from now on.
    pub fn take(&self, upstream: &UpstreamName) -> Arc<SavedList> {
        let file = file_name(upstream);
        let owned = held(&self.0.owned).entry(file.clone()).or_default().clone();
        let turn = AtomicU64::new(owned.turn.fetch_add(1, SeqCst) + 1);
        let (folder, upstream) = (self.0.clone(), upstream.clone());
        Arc::new(SavedList { folder, upstream, file, owned, turn, behind: AtomicBool::new(false) })
    }
}

impl SavedList {
    /// Writes what is known of the upstream, unless another owner has taken the list. Blocks on the disk; the file is
    /// whole or untouched.
    pub fn save(&self, saved: &Saved) -> Result<Written, DiskError> {
        let _writing = held(&self.owned.writing);
        if !self.is_ours() {
            return Ok(Written::NotOurs);
        }
        let path = self.path();
        let io = |what, error| DiskError::Io { what, path: path.clone(), error };
        fs::create_dir_all(&self.folder.path).map_err(|error| io("make the folder of", error))?;
        let Some(_right) = self.folder.right()? else { return Ok(Written::NotOurs) };
        let list = saved.write().map_err(|error| io("encode", io::Error::other(error)))?;
        let (version, checksum) = (VERSION.into(), checksum(list.get().as_bytes()));
        let file = File { version, checksum, upstream: self.upstream.to_string(), list };
        let bytes = serde_json::to_vec(&file).map_err(|error| io("encode", io::Error::other(error)))?;
        replace(&path, &bytes)?;
        held(&self.folder.present).insert(self.file.clone());
        self.behind.store(false, SeqCst);
        Ok(Written::Yes)
    }

    /// The list saved last; none when there never was one. Blocks on the disk.
    pub fn load(&self) -> Result<Option<Saved>, DiskError> {
        let path = self.path();
        let bytes = match files::read(&path, files::STATE) {
            Ok(bytes) => bytes,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) => return Err(DiskError::Io { what: "read", path, error: error.into() }),
        };
        let mut saved = decode(&bytes, &path)?;
        let kept = |address: SocketAddr| !(self.folder.refused.0)(address);
        saved.sources.iter_mut().for_each(|source| source.state.retain_addresses(kept));
        saved.pin.iter_mut().for_each(|pin| pin.list.retain(|endpoint| kept(endpoint.address)));
        Ok(Some(saved))
    }

    /// Forgets the list of an upstream that is no more, unless another owner has taken it. Blocks on the disk.
    pub fn remove(&self) {
        let _writing = held(&self.owned.writing);
        if self.is_there()
            && self.is_ours()
            && let Ok(Some(_right)) = self.folder.right()
        {
            // A file that cannot be removed is no harm: it is only read when the name is used again.
            let _ = fs::remove_file(self.path());
            held(&self.folder.present).remove(&self.file);
        }
    }

    /// Takes the list back from an owner that took it later and came to nothing.
    pub fn take_back(&self) {
        self.turn.store(self.owned.turn.fetch_add(1, SeqCst) + 1, SeqCst);
        self.behind.store(true, SeqCst);
    }

    /// Whether there is a list, as far as this gateway knows. Does not touch the disk.
    pub fn is_there(&self) -> bool {
        held(&self.folder.present).contains(&self.file)
    }

    /// Whether another owner may have written since this one did.
    pub fn is_behind(&self) -> bool {
        self.behind.load(SeqCst)
    }

    fn is_ours(&self) -> bool {
        self.turn.load(SeqCst) == self.owned.turn.load(SeqCst)
    }

    fn path(&self) -> PathBuf {
        self.folder.path.join(&self.file)
    }
}

impl Drop for SavedList {
    fn drop(&mut self) {
        let mut owned = held(&self.folder.owned);
        // Nobody but the table and this one: there is no owner left whose turn has to be known. The table is locked, so
        // that nobody takes it meanwhile.
        if Arc::strong_count(&self.owned) == 2 {
            owned.remove(&self.file);
        }
    }
}

impl Folder {
    /// Gets the right to write, if no other gateway has it, for as long as this is held. None: it was given away.
    fn right(&self) -> Result<Option<RwLockReadGuard<'_, Right>>, DiskError> {
        let right = self.right.read().unwrap_or_else(PoisonError::into_inner);
        match *right {
            Right::Had(_) => return Ok(Some(right)),
            Right::Given => return Ok(None),
            Right::Free => drop(right),
        }
        let mut right = self.right.write().unwrap_or_else(PoisonError::into_inner);
        if let Right::Free = *right {
            let path = self.path.join("lock");
            let io = |error| DiskError::Io { what: "lock", path: path.clone(), error };
            match FileLock::take(&path).map_err(io)? {
                Some(taken) => *right = Right::Had(taken),
                None => return Err(DiskError::Held(self.path.clone())),
            }
        }
        let is_given = matches!(*right, Right::Given);
        Ok((!is_given).then(|| RwLockWriteGuard::downgrade(right)))
    }
}

/// Names come from configuration and requests: everything but letters, digits, `-`, `_` and inner dots is written as
/// `%XX`, and long names are cut and told apart by their hash.
fn file_name(upstream: &UpstreamName) -> String {
    let mut name = String::new();
    for byte in upstream.as_str().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(byte as char),
            b'.' if !name.is_empty() => name.push('.'),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    if name.len() > 180 {
        name.truncate(150);
        name = format!("{name}-{}", &checksum(upstream.as_str().as_bytes())[..16]);
    }
    format!("{name}.json")
}

/// A lock is held for a few lines that leave nothing half done.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

fn decode(bytes: &[u8], path: &Path) -> Result<Saved, DiskError> {
    let damaged = |why: String| DiskError::Damaged { path: path.to_owned(), why };
    // The version first: nothing else is known of a file of another one.
    let head: Head = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    if !VERSIONS.contains(&head.version) {
        return Err(DiskError::Version { path: path.to_owned(), found: head.version });
    }
    let file: File = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    if checksum(file.list.get().as_bytes()) != file.checksum {
        return Err(damaged("the checksum does not match".into()));
    }
    Saved::read(file.list.get()).map_err(|error| damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::*;
    use crate::upstream::{
        Claim, ConditionState, Endpoint, Facts, HealthRecord, Held, Labels, Left, Reason, ReserveState,
        SavedPin, SavedSource, SourceState, State, Weight,
    };

    fn endpoint(address: &str) -> Endpoint {
        Endpoint { address: address.parse().unwrap(), weight: Weight::ONE, facts: Facts::default() }
    }

    fn saved() -> Saved {
        let claim = Claim {
            id: "orders/1".into(),
            addresses: vec!["[::1]:80".parse().unwrap()],
            weight: Weight::new(3),
            facts: Facts {
                state: State::Draining,
                drains: false,
                priority: 2,
                hostname: Some("one.example".into()),
                zone: Some("a".into()),
                labels: Labels::new(vec![("version".into(), "2".into())]),
            },
        };
        let drained = Claim { id: "orders/2".into(), weight: None, ..claim.clone() };
        let (reserved, left) = (endpoint("10.0.0.1:80"), endpoint("10.0.0.2:80"));
        let ms = Duration::from_millis;
        let state = SourceState {
            claims: vec![claim, drained],
            reserve: ReserveState {
                held: vec![Held { endpoint: reserved.clone(), ago: ms(1_500) }],
                list: 4,
                standing: Some((true, ms(900))),
                excused: vec![left.address],
            },
            left: vec![Left { endpoint: left.clone(), ago: ms(2_000), believed: true }],
            lengths: vec![(ms(2_000), 3)],
        };
        let at = |since_1970| SystemTime::UNIX_EPOCH + ms(since_1970);
        let condition = ConditionState {
            failures: 2,
            silent: Some(ms(300)),
            out: Some((Reason::Connections, ms(7_000))),
            came_back: Some(ms(10)),
            ..ConditionState::default()
        };
        let health =
            HealthRecord { conditions: vec![(left.address, condition)], new: vec![(left.address, ms(5))] };
        let (registry, service) = ("main".into(), "orders".into());
        let source = SavedSource { registry, service, heard: Some(at(7_000)), state };
        let pin = SavedPin { since: at(8_000), list: vec![reserved] };
        Saved {
            at: at(9_001),
            sources: vec![source],
            pin: Some(pin),
            drains: [(([10, 0, 0, 9], 80).into(), at(8_000))].into_iter().collect(),
            health: Some(health),
        }
    }

    /// What has nothing in it.
    fn nothing() -> Saved {
        Saved {
            at: SystemTime::UNIX_EPOCH,
            sources: vec![],
            pin: None,
            drains: Default::default(),
            health: None,
        }
    }

    fn list(folder: &tempfile::TempDir) -> Arc<SavedList> {
        Disk::new(folder.path()).take(&UpstreamName::new("orders"))
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let (disk, name) = (Disk::new(folder.path()), UpstreamName::new("../orders rpc@main"));
        let list = disk.take(&name);
        assert_eq!(list.load().unwrap(), None);
        assert!(!disk.has(&name));
        assert_eq!(list.save(&saved()).unwrap(), Written::Yes);
        assert_eq!(list.load().unwrap(), Some(saved()));
        assert!(disk.has(&name) && Disk::new(folder.path()).has(&name));
        assert_eq!(fs::read_dir(folder.path().join("lists")).unwrap().count(), 2, "it and the lock");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "inside the folder");
        list.remove();
        assert_eq!(list.load().unwrap(), None);
        assert!(!disk.has(&name) && !Disk::new(folder.path()).has(&name));
    }

    #[test]
    fn of_two_owners_only_the_one_that_took_the_list_last_writes_it() {
        let folder = tempfile::tempdir().unwrap();
        let (disk, name) = (Disk::new(folder.path()), UpstreamName::new("orders"));
        let old = disk.take(&name);
        old.save(&nothing()).unwrap();
        let new = disk.take(&name);
        new.save(&saved()).unwrap();
        assert_eq!(old.save(&nothing()).unwrap(), Written::NotOurs);
        old.remove();
        assert_eq!(new.load().unwrap(), Some(saved()));
        old.take_back();
        assert_eq!(new.save(&saved()).unwrap(), Written::NotOurs);
        assert_eq!(old.save(&nothing()).unwrap(), Written::Yes);
        drop((old, new));
        assert!(held(&disk.0.owned).is_empty(), "names leave nothing behind");
    }

    #[test]
    fn a_list_of_version_1_is_read() {
        let text = r#"{"sources":[{"registry":"main","service":"orders","heard":7,
            "claims":[{"id":"a","addresses":["10.0.0.3:80"],"weight":1,"labels":[]}],
            "reserve":[{"address":"10.0.0.1:80","weight":2,"labels":[["zone","a"]]}]}],"pin":null}"#;
        let text: String = text.split_whitespace().collect();
        let sum = checksum(text.as_bytes());
        let file = format!(r#"{{"version":1,"checksum":"{sum}","upstream":"orders","list":{text}}}"#);
        let saved = decode(file.as_bytes(), Path::new("orders.json")).unwrap();
        let state = &saved.sources[0].state;
        assert_eq!(state.claims.len(), 1);
        assert_eq!((state.reserve.held.len(), state.reserve.list), (1, 1), "as long as each of the two");
        assert_eq!(saved.health, None);
    }

    #[test]
    fn what_is_no_endpoint_any_more_is_in_no_list_that_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let name = UpstreamName::new("orders");
        Disk::new(folder.path()).take(&name).save(&saved()).unwrap();
        let disk = Disk::refusing(folder.path(), |address| address.ip().is_ipv4());
        let read = disk.take(&name).load().unwrap().unwrap();
        let (state, was) = (&read.sources[0].state, &saved().sources[0].state);
        assert!(state.reserve.held.is_empty() && state.left.is_empty() && read.pin.unwrap().list.is_empty());
        assert_eq!(state.claims, was.claims);
    }

    #[test]
    fn another_version_is_told_apart_from_damage() {
        let folder = tempfile::tempdir().unwrap();
        let list = list(&folder);
        list.save(&saved()).unwrap();
        let text = fs::read_to_string(list.path()).unwrap();
        fs::write(list.path(), text.replace("\"version\":2", "\"version\":9")).unwrap();
        assert!(matches!(list.load(), Err(DiskError::Version { found: 9, .. })));
    }

    #[test]
    fn an_older_format_is_told_apart_though_its_fields_are_others() {
        let folder = tempfile::tempdir().unwrap();
        let list = list(&folder);
        list.save(&saved()).unwrap();
        fs::write(list.path(), r#"{"version":0,"endpoints":[]}"#).unwrap();
        assert!(matches!(list.load(), Err(DiskError::Version { found: 0, .. })));
    }

    #[test]
    fn a_directory_that_another_gateway_writes_to_is_only_read() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (list(&folder), list(&folder));
        first.save(&saved()).unwrap();
        assert!(matches!(second.save(&nothing()), Err(DiskError::Held(_))));
        second.remove();
        assert_eq!(second.load().unwrap(), Some(saved()));
        drop(first);
        second.save(&nothing()).unwrap();
        assert_eq!(second.load().unwrap(), Some(nothing()));
    }

    #[test]
    fn a_directory_that_was_given_away_is_written_by_who_got_it_until_it_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let name = UpstreamName::new("orders");
        let (first, second) = (Disk::new(folder.path()), Disk::new(folder.path()));
        let (old, new) = (first.take(&name), second.take(&name));
        second.give();
        assert_eq!(old.save(&nothing()).unwrap(), Written::Yes);
        assert_eq!(new.save(&saved()).unwrap(), Written::NotOurs);
        first.give();
        second.take_back();
        assert_eq!(new.save(&saved()).unwrap(), Written::Yes);
        assert_eq!(old.save(&nothing()).unwrap(), Written::NotOurs);
        old.remove();
        assert_eq!(old.load().unwrap(), Some(saved()));
        second.give();
        first.take_back();
        assert_eq!(old.save(&nothing()).unwrap(), Written::Yes);
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_told() {
        // Nobody makes folders there, whoever runs this.
        let list = Disk::new(Path::new("/proc")).take(&UpstreamName::new("orders"));
        assert!(matches!(list.save(&saved()), Err(DiskError::Io { what: "make the folder of", .. })));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let list = list(&folder);
        fs::create_dir_all(list.path()).unwrap();
        assert!(matches!(list.load(), Err(DiskError::Io { what: "read", .. })));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_leaves_the_last_list() {
        let folder = tempfile::tempdir().unwrap();
        let list = list(&folder);
        list.save(&saved()).unwrap();
        std::os::unix::fs::symlink("/dev/full", list.path().with_extension("tmp")).unwrap();
        let full = list.save(&nothing());
        assert!(matches!(full, Err(DiskError::Io { what: "write", .. })), "{full:?}");
        assert_eq!(list.load().unwrap(), Some(saved()));
    }

    proptest! {
        /// A file cut anywhere, or with any byte changed, is damaged or still the same list; never another one.
        #[test]
        fn a_torn_file_is_noticed(cut in 0usize..2_000, flip in 0usize..2_000, bit in 0u8..8) {
            let folder = tempfile::tempdir().unwrap();
            let list = list(&folder);
            list.save(&saved()).unwrap();
            let whole = fs::read(list.path()).unwrap();
            fs::write(list.path(), &whole[..cut.min(whole.len() - 1)]).unwrap();
            prop_assert!(list.load().is_err());
            let mut flipped = whole.clone();
            let at = flip % flipped.len();
            flipped[at] ^= 1 << bit;
            fs::write(list.path(), &flipped).unwrap();
            if let Ok(Some(list)) = list.load() {
                prop_assert_eq!(list, saved());
            }
        }
    }
}

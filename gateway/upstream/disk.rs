//! The last good lists on disk: one file per upstream, written aside and renamed, so that a reader finds the old
//! list or the new one and never half of one.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::{
    Claim, Endpoint, Labels, UpstreamName, Weight,
    durable::{FileLock, WriteError, checksum, replace},
};

const VERSION: u32 = 1;

/// Why a list could not be written or read. A gateway goes on without.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("cannot {what} {path}: {error}")]
    Io { what: &'static str, path: PathBuf, error: io::Error },
    #[error("{path} is damaged: {why}")]
    Damaged { path: PathBuf, why: String },
    #[error("{path} was written by another version (format {found}, this one reads {VERSION})")]
    Version { path: PathBuf, found: u64 },
    #[error("another gateway writes to {0}")]
    Held(PathBuf),
}

impl From<WriteError> for DiskError {
    fn from(WriteError { what, path, error }: WriteError) -> Self {
        Self::Io { what, path, error }
    }
}

/// What is written of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Saved {
    pub sources: Vec<SavedSource>,
    pub pin: Option<SavedPin>,
}

/// A list that the operator pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedPin {
    /// Seconds since 1970.
    pub since: u64,
    pub list: Vec<SavedEndpoint>,
}

/// What one source claimed last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSource {
    pub registry: String,
    pub service: String,
    /// Seconds since 1970 when the registry answered last.
    pub heard: Option<u64>,
    pub claims: Vec<SavedClaim>,
    /// What it no longer claims, and is not believed.
    pub reserve: Vec<SavedEndpoint>,
}

/// An endpoint as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedEndpoint {
    address: SocketAddr,
    weight: u32,
    labels: Vec<(String, String)>,
}

impl From<&Endpoint> for SavedEndpoint {
    fn from(endpoint: &Endpoint) -> Self {
        let (address, weight) = (endpoint.address, endpoint.weight.get());
        Self { address, weight, labels: endpoint.labels.as_slice().to_vec() }
    }
}

impl From<SavedEndpoint> for Endpoint {
    fn from(saved: SavedEndpoint) -> Self {
        let weight = Weight::new(saved.weight).unwrap_or(Weight::ONE);
        Self { address: saved.address, weight, labels: Labels::new(saved.labels) }
    }
}

/// A claim as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedClaim {
    id: String,
    addresses: Vec<SocketAddr>,
    /// 0 for drained.
    weight: u32,
    labels: Vec<(String, String)>,
}

impl From<&Claim> for SavedClaim {
    fn from(claim: &Claim) -> Self {
        Self {
            id: claim.id.clone(),
            addresses: claim.addresses.clone(),
            weight: claim.weight.map_or(0, Weight::get),
            labels: claim.labels.as_slice().to_vec(),
        }
    }
}

impl From<SavedClaim> for Claim {
    fn from(saved: SavedClaim) -> Self {
        Self {
            id: saved.id,
            addresses: saved.addresses,
            weight: Weight::new(saved.weight),
            labels: Labels::new(saved.labels),
        }
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
pub struct Disk {
    folder: PathBuf,
    /// The right to write, once it was had. It ends with the process or the last clone.
    lock: Arc<Mutex<Option<FileLock>>>,
}

impl Disk {
    /// Lists live in `lists` below the state directory, which is made when the first is written.
    pub fn new(state: &Path) -> Self {
        Self { folder: state.join("lists"), lock: Arc::default() }
    }

    /// Writes what is known of an upstream. Blocks on the disk; the file is whole or untouched.
    pub fn save(&self, upstream: &UpstreamName, saved: &Saved) -> Result<(), DiskError> {
        let path = self.path(upstream);
        let io = |what, error| DiskError::Io { what, path: path.clone(), error };
        fs::create_dir_all(&self.folder).map_err(|error| io("make the folder of", error))?;
        self.lock()?;
        let list =
            serde_json::value::to_raw_value(saved).map_err(|error| io("encode", io::Error::other(error)))?;
        let (version, checksum) = (VERSION.into(), checksum(list.get().as_bytes()));
        let file = File { version, checksum, upstream: upstream.to_string(), list };
        let bytes = serde_json::to_vec(&file).map_err(|error| io("encode", io::Error::other(error)))?;
        Ok(replace(&path, &bytes)?)
    }

    /// The list saved last; none when there never was one.
    pub fn load(&self, upstream: &UpstreamName) -> Result<Option<Saved>, DiskError> {
        let path = self.path(upstream);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DiskError::Io { what: "read", path, error }),
        };
        decode(&bytes, &path).map(Some)
    }

    /// Forgets the list of an upstream that is no more.
    pub fn remove(&self, upstream: &UpstreamName) {
        if self.lock().is_ok() {
            // A file that cannot be removed is no harm: it is only read when the name is used again.
            let _ = fs::remove_file(self.path(upstream));
        }
    }

    /// Gets the right to write, if no other gateway has it.
    fn lock(&self) -> Result<(), DiskError> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_some() {
            return Ok(());
        }
        let path = self.folder.join("lock");
        let io = |error| DiskError::Io { what: "lock", path: path.clone(), error };
        match FileLock::take(&path).map_err(io)? {
            Some(taken) => *lock = Some(taken),
            None => return Err(DiskError::Held(self.folder.clone())),
        }
        Ok(())
    }

    /// Names come from configuration and requests: everything but letters, digits, `-`, `_` and inner dots is
    /// written as `%XX`, and long names are cut and told apart by their hash.
    fn path(&self, upstream: &UpstreamName) -> PathBuf {
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
        self.folder.join(format!("{name}.json"))
    }
}

fn decode(bytes: &[u8], path: &Path) -> Result<Saved, DiskError> {
    let damaged = |why: String| DiskError::Damaged { path: path.to_owned(), why };
    // The version first: nothing else is known of a file of another one.
    let head: Head = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    if head.version != u64::from(VERSION) {
        return Err(DiskError::Version { path: path.to_owned(), found: head.version });
    }
    let file: File = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    if checksum(file.list.get().as_bytes()) != file.checksum {
        return Err(damaged("the checksum does not match".into()));
    }
    serde_json::from_str(file.list.get()).map_err(|error| damaged(error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn saved() -> Saved {
        let claim = Claim {
            id: "orders/1".into(),
            addresses: vec!["[::1]:80".parse().unwrap()],
            weight: Weight::new(3),
            labels: Labels::new(vec![("zone".into(), "a".into())]),
        };
        let claims = vec![SavedClaim::from(&claim)];
        let endpoint = Endpoint {
            address: "10.0.0.1:80".parse().unwrap(),
            weight: Weight::ONE,
            labels: Labels::default(),
        };
        let reserve = vec![SavedEndpoint::from(&endpoint)];
        let (registry, service) = ("main".into(), "orders".into());
        let source = SavedSource { registry, service, heard: Some(7), claims, reserve: reserve.clone() };
        Saved { sources: vec![source], pin: Some(SavedPin { since: 8, list: reserve }) }
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path());
        let name = UpstreamName::new("../orders rpc@main");
        assert_eq!(disk.load(&name).unwrap(), None);
        disk.save(&name, &saved()).unwrap();
        assert_eq!(disk.load(&name).unwrap(), Some(saved()));
        assert_eq!(fs::read_dir(folder.path().join("lists")).unwrap().count(), 2, "it and the lock");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "inside the folder");
        disk.remove(&name);
        assert_eq!(disk.load(&name).unwrap(), None);
    }

    #[test]
    fn another_version_is_told_apart_from_damage() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path());
        let name = UpstreamName::new("orders");
        disk.save(&name, &saved()).unwrap();
        let text = fs::read_to_string(disk.path(&name)).unwrap();
        fs::write(disk.path(&name), text.replace("\"version\":1", "\"version\":9")).unwrap();
        assert!(matches!(disk.load(&name), Err(DiskError::Version { found: 9, .. })));
    }

    #[test]
    fn an_older_format_is_told_apart_though_its_fields_are_others() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path());
        let name = UpstreamName::new("orders");
        disk.save(&name, &saved()).unwrap();
        fs::write(disk.path(&name), r#"{"version":0,"endpoints":[]}"#).unwrap();
        assert!(matches!(disk.load(&name), Err(DiskError::Version { found: 0, .. })));
    }

    #[test]
    fn a_directory_that_another_gateway_writes_to_is_only_read() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (Disk::new(folder.path()), Disk::new(folder.path()));
        let name = UpstreamName::new("orders");
        first.save(&name, &saved()).unwrap();
        assert!(matches!(second.save(&name, &Saved::default()), Err(DiskError::Held(_))));
        second.remove(&name);
        assert_eq!(second.load(&name).unwrap(), Some(saved()));
        drop(first);
        second.save(&name, &Saved::default()).unwrap();
        assert_eq!(second.load(&name).unwrap(), Some(Saved::default()));
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_told() {
        // Nobody makes folders there, whoever runs this.
        let disk = Disk::new(Path::new("/proc"));
        let saved = disk.save(&UpstreamName::new("orders"), &saved());
        assert!(matches!(saved, Err(DiskError::Io { what: "make the folder of", .. })));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path());
        let name = UpstreamName::new("orders");
        fs::create_dir_all(disk.path(&name)).unwrap();
        assert!(matches!(disk.load(&name), Err(DiskError::Io { what: "read", .. })));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_leaves_the_last_list() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path());
        let name = UpstreamName::new("orders");
        disk.save(&name, &saved()).unwrap();
        std::os::unix::fs::symlink("/dev/full", disk.path(&name).with_extension("tmp")).unwrap();
        let full = disk.save(&name, &Saved::default());
        assert!(matches!(full, Err(DiskError::Io { what: "write", .. })), "{full:?}");
        assert_eq!(disk.load(&name).unwrap(), Some(saved()));
    }

    proptest! {
        /// A file cut anywhere, or with any byte changed, is damaged or still the same list; never another one.
        #[test]
        fn a_torn_file_is_noticed(cut in 0usize..700, flip in 0usize..700, bit in 0u8..8) {
            let folder = tempfile::tempdir().unwrap();
            let disk = Disk::new(folder.path());
            let name = UpstreamName::new("orders");
            disk.save(&name, &saved()).unwrap();
            let whole = fs::read(disk.path(&name)).unwrap();
            fs::write(disk.path(&name), &whole[..cut.min(whole.len() - 1)]).unwrap();
            prop_assert!(disk.load(&name).is_err());
            let mut flipped = whole.clone();
            let at = flip % flipped.len();
            flipped[at] ^= 1 << bit;
            fs::write(disk.path(&name), &flipped).unwrap();
            if let Ok(Some(list)) = disk.load(&name) {
                prop_assert_eq!(list, saved());
            }
        }
    }
}

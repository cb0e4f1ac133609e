//! The last good lists on disk: one file per upstream, written aside and renamed, so that a reader finds the old
//! list or the new one and never half of one.

use std::{
    fs, io,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Claim, Labels, UpstreamName, Weight};

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
}

/// What one source claimed last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSource {
    pub registry: String,
    pub service: String,
    pub claims: Vec<SavedClaim>,
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
    /// SHA-256 over `sources` as written, in hex.
    checksum: String,
    upstream: String,
    sources: Box<serde_json::value::RawValue>,
}

/// The folder of the lists.
#[derive(Debug, Clone)]
pub struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Lists live in `lists` below the state directory, which is made when the first is written.
    pub fn new(state: &Path) -> Self {
        Self { folder: state.join("lists") }
    }

    /// Writes what the sources of an upstream claim. Blocks on the disk; the file is whole or untouched.
    pub fn save(&self, upstream: &UpstreamName, sources: &[SavedSource]) -> Result<(), DiskError> {
        let path = self.path(upstream);
        let io = |what, error| DiskError::Io { what, path: path.clone(), error };
        fs::create_dir_all(&self.folder).map_err(|error| io("make the folder of", error))?;
        let sources = serde_json::value::to_raw_value(sources)
            .map_err(|error| io("encode", io::Error::other(error)))?;
        let file = File {
            version: VERSION.into(),
            checksum: checksum(sources.get()),
            upstream: upstream.to_string(),
            sources,
        };
        let bytes = serde_json::to_vec(&file).map_err(|error| io("encode", io::Error::other(error)))?;
        let aside = path.with_extension("tmp");
        let written = fs::File::create(&aside).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        });
        written.map_err(|error| io("write", error))?;
        fs::rename(&aside, &path).map_err(|error| io("replace", error))
    }

    /// The list saved last; none when there never was one.
    pub fn load(&self, upstream: &UpstreamName) -> Result<Option<Vec<SavedSource>>, DiskError> {
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
        // A file that cannot be removed is no harm: it is only read when the name is used again.
        let _ = fs::remove_file(self.path(upstream));
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
            name = format!("{name}-{}", &checksum(upstream.as_str())[..16]);
        }
        self.folder.join(format!("{name}.json"))
    }
}

fn decode(bytes: &[u8], path: &Path) -> Result<Vec<SavedSource>, DiskError> {
    let damaged = |why: String| DiskError::Damaged { path: path.to_owned(), why };
    let file: File = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    if file.version != u64::from(VERSION) {
        return Err(DiskError::Version { path: path.to_owned(), found: file.version });
    }
    if checksum(file.sources.get()) != file.checksum {
        return Err(damaged("the checksum does not match".into()));
    }
    serde_json::from_str(file.sources.get()).map_err(|error| damaged(error.to_string()))
}

fn checksum(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn saved() -> Vec<SavedSource> {
        let claim = Claim {
            id: "orders/1".into(),
            addresses: vec!["[::1]:80".parse().unwrap()],
            weight: Weight::new(3),
            labels: Labels::new(vec![("zone".into(), "a".into())]),
        };
        let claims = vec![SavedClaim::from(&claim)];
        vec![SavedSource { registry: "main".into(), service: "orders".into(), claims }]
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path());
        let name = UpstreamName::new("../orders rpc@main");
        assert_eq!(disk.load(&name).unwrap(), None);
        disk.save(&name, &saved()).unwrap();
        assert_eq!(disk.load(&name).unwrap(), Some(saved()));
        assert_eq!(fs::read_dir(folder.path().join("lists")).unwrap().count(), 1, "inside the folder");
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

    proptest! {
        /// A file cut anywhere, or with any byte changed, is damaged or still the same list; never another one.
        #[test]
        fn a_torn_file_is_noticed(cut in 0usize..400, flip in 0usize..400, bit in 0u8..8) {
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

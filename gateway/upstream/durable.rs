//! Files that outlive a crash: whole or untouched, with a checksum, and written by one process at a time.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

/// Why a file could not be written: what was being done, to what, and what the system said.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {error}")]
pub struct WriteError {
    pub what: &'static str,
    pub path: PathBuf,
    pub error: io::Error,
}

/// Puts these bytes in the place of a file and makes its folder if there is none. Blocks on the disk.
///
/// Whoever reads finds the old file or the new one, never a part of one, after a crash or a power cut too. When this
/// returns without an error, the new one is on the disk. Two calls for one path at a time are not allowed: they would
/// write the same file aside.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let failed = |what| move |error| WriteError { what, path: path.to_owned(), error };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
    let aside = path.with_extension("tmp");
    let written = fs::File::create(&aside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(failed("write"))?;
    fs::rename(&aside, path).map_err(failed("replace"))?;
    // The new name itself is only on the disk when the folder is.
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync"))
}

/// SHA-256 in hex, as it stands in a file beside what it is of.
pub fn checksum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The right of one process to write what belongs to a lock file. It ends when this is dropped, and with the process.
#[derive(Debug)]
pub struct FileLock(#[expect(dead_code, reason = "the lock is held as long as the file is open")] fs::File);

impl FileLock {
    /// Takes the right, if no other process has it. The folder of the file has to be there. Never waits.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = fs::File::create(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_exchanged_whole_and_its_folder_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/registry.json");
        replace(&path, b"old").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_lock_is_had_by_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let lock = FileLock::take(&path).unwrap();
        assert!(lock.is_some());
        assert!(FileLock::take(&path).unwrap().is_none());
        drop(lock);
        assert!(FileLock::take(&path).unwrap().is_some());
    }
}

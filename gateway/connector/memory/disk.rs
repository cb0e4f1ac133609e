//! The file of the embedded registry: appended to with each change, and written anew when most of it is outdated.
//!
//! It holds what was registered, not when it was last renewed, so that heartbeats cause no write. One gateway writes;
//! any other reads what it finds, and writes when the first has ended.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::records::{self, Change, Read, Registrations};
use crate::{
    files,
    upstream::durable::{self, FileLock, WriteError},
};

/// The longest file that is read, in bytes: several times what a full registry needs.
const LONGEST: u64 = 1 << 29;

/// The file may have grown by so much, in bytes, and to twice its length, before it is written anew.
const SMALL: u64 = 1 << 20;

/// Why a change is not in the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    #[error("cannot {what} {path}: {error}")]
    Io { what: &'static str, path: PathBuf, error: io::Error },
    #[error("another gateway writes to {0}: give each a `directory` of [state] of its own")]
    Held(PathBuf),
}

impl From<WriteError> for DiskError {
    fn from(WriteError { what, path, error }: WriteError) -> Self {
        Self::Io { what, path, error }
    }
}

/// What was found at the start.
#[derive(Default)]
pub(super) struct Found {
    pub registrations: Registrations,
    pub warnings: Vec<String>,
}

/// What became of changes that were to be saved.
pub(super) enum Step {
    Saved,
    /// Everything has to be written instead.
    WantsAll,
    /// The same, and another gateway has written meanwhile, and ended: this is what it left.
    Inherited(Registrations),
}

/// The writing side. Blocks on the disk.
pub(super) struct Writer {
    path: PathBuf,
    /// The right to write, once it was had. It ends with the process.
    lock: Option<FileLock>,
    /// What is there may be what another gateway wrote after we read it.
    others: bool,
    /// None: it has to be written anew.
    file: Option<File>,
    /// Its length now, and when it was written anew.
    length: u64,
    fresh: u64,
    /// Some of its lines could not be read.
    damaged: bool,
    /// Written, and not forced to the disk.
    unforced: bool,
}

impl Writer {
    /// Reads what is there. What cannot be used at all is put aside, if no other gateway uses the folder.
    pub fn open(path: PathBuf) -> (Self, Found) {
        let (mut writer, mut found) = (Self::new(path), Found::default());
        if !writer.path.exists() {
            writer.others = true;
            return (writer, found);
        }
        // Reading needs no right; without it nothing is changed.
        let right = writer.lock();
        match load(&writer.path) {
            Ok(Read { registrations, damaged }) => {
                writer.damaged = damaged > 0;
                found.registrations = registrations;
                found.warnings.extend(warning(&writer.path, damaged));
            }
            Err(why) if right.is_ok() => found.warnings.push(put_aside(&writer.path, &why)),
            Err(why) => found.warnings.push(format!("{} is unusable: {why}", writer.path.display())),
        }
        (writer, found)
    }

    /// Leaves the file to another process. What is written later is written as if this one had just begun.
    pub fn release(&mut self) {
        *self = Self::new(std::mem::take(&mut self.path));
    }

    /// One that has read nothing, and tries for the right to write when it first writes.
    pub fn new(path: PathBuf) -> Self {
        let (lock, file) = (None, None);
        Self { path, lock, others: false, file, length: 0, fresh: 0, damaged: false, unforced: false }
    }

    /// Saves changes, if that is enough. When they are saved they outlive this process, and a power cut if nobody
    /// would say them again.
    pub fn save(&mut self, changes: Option<&[Change]>) -> Result<Step, DiskError> {
        if let Some(left) = self.claim()? {
            return Ok(Step::Inherited(left));
        }
        let Some(changes) = changes.filter(|_| !self.wants_all()) else { return Ok(Step::WantsAll) };
        self.append(changes)?;
        if changes.iter().any(Change::is_lasting) {
            self.force()?;
        }
        Ok(Step::Saved)
    }

    /// Writes everything, so that whoever reads sees the old file or the new one and never a part. It is on the disk
    /// when this returns.
    pub fn replace(&mut self, all: &[Change]) -> Result<(), DiskError> {
        self.file = None;
        let text = records::text(all).map_err(|error| self.io("encode", error.into()))?;
        if std::mem::take(&mut self.damaged) {
            // Somebody may want to see what was lost. Without that copy the registry works as well.
            let _ = fs::copy(&self.path, self.path.with_extension("json.damaged"));
        }
        durable::replace(&self.path, &text)?;
        let file = OpenOptions::new().append(true).open(&self.path);
        self.file = Some(file.map_err(|error| self.io("append to", error))?);
        self.unforced = false;
        (self.length, self.fresh) = (text.len() as u64, text.len() as u64);
        Ok(())
    }

    /// Forces what was appended to the disk: when this returns it outlives a power cut.
    pub fn force(&mut self) -> Result<(), DiskError> {
        let Some(file) = self.file.take() else { return Ok(()) };
        file.sync_data().map_err(|error| self.io("sync", error))?;
        (self.file, self.unforced) = (Some(file), false);
        Ok(())
    }

    /// Whether something was written that a power cut might take.
    pub fn is_unforced(&self) -> bool {
        self.unforced
    }

    /// Gets the right to write, if no other gateway has it. What that one left may come with it.
    fn claim(&mut self) -> Result<Option<Registrations>, DiskError> {
        if self.lock.is_some() {
            return Ok(None);
        }
        fs::create_dir_all(folder(&self.path)).map_err(|error| self.io("make the folder of", error))?;
        self.lock()?;
        if !std::mem::take(&mut self.others) {
            return Ok(None);
        }
        if !self.path.exists() {
            return Ok(None);
        }
        match load(&self.path) {
            Ok(Read { registrations, damaged }) => {
                self.damaged = damaged > 0;
                Ok(Some(registrations))
            }
            Err(why) => {
                tracing::warn!(warning = put_aside(&self.path, &why), "Embedded registry not as it was left");
                Ok(None)
            }
        }
    }

    /// Whether the next write has to be that of everything.
    fn wants_all(&self) -> bool {
        let in_place = |file: &File| {
            let (ours, there) = (file.metadata(), fs::metadata(&self.path));
            ours.ok().zip(there.ok()).is_some_and(|(ours, there)| ours.ino() == there.ino())
        };
        // Somebody may have removed it, or put another one there.
        self.length > 2 * self.fresh + SMALL || !self.file.as_ref().is_some_and(in_place)
    }

    fn append(&mut self, changes: &[Change]) -> Result<(), DiskError> {
        let mut text = Vec::new();
        changes
            .iter()
            .try_for_each(|change| records::write(change, &mut text))
            .map_err(|error| self.io("encode", error.into()))?;
        // A line that is written in part makes the next one unreadable, so that all has to be written anew.
        let Some(mut file) = self.file.take() else {
            return Err(self.io("append to", ErrorKind::NotFound.into()));
        };
        file.write_all(&text).map_err(|error| self.io("append to", error))?;
        (self.file, self.unforced) = (Some(file), true);
        self.length += text.len() as u64;
        Ok(())
    }

    fn lock(&mut self) -> Result<(), DiskError> {
        let path = self.path.with_extension("lock");
        let taken = FileLock::take(&path).map_err(|error| DiskError::Io { what: "lock", path, error })?;
        match taken {
            Some(lock) => {
                self.lock = Some(lock);
                Ok(())
            }
            None => {
                self.others = true;
                Err(DiskError::Held(folder(&self.path).to_owned()))
            }
        }
    }

    fn io(&self, what: &'static str, error: io::Error) -> DiskError {
        DiskError::Io { what, path: self.path.clone(), error }
    }
}

/// What is wrong with the file at `path`, if there is one. Changes nothing.
pub(super) fn look(path: &Path) -> Option<String> {
    if !path.exists() {
        return None;
    }
    match load(path) {
        Ok(Read { damaged, .. }) => warning(path, damaged),
        Err(why) => Some(format!("{} is unusable: {why}", path.display())),
    }
}

fn load(path: &Path) -> Result<Read, String> {
    records::read(&files::read(path, LONGEST).map_err(|error| format!("it cannot be read: {error}"))?)
}

fn warning(path: &Path, damaged: usize) -> Option<String> {
    let lines = if damaged == 1 { "1 line" } else { &format!("{damaged} lines") };
    (damaged > 0).then(|| format!("{}: {lines} damaged and left out, the rest is used", path.display()))
}

fn put_aside(path: &Path, why: &str) -> String {
    let aside = path.with_extension("json.unusable");
    match fs::rename(path, &aside) {
        Ok(()) => format!("{} is unusable: {why}; kept as {}", path.display(), aside.display()),
        Err(error) => format!("{} is unusable: {why}; cannot rename it: {error}", path.display()),
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

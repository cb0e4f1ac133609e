//! The one way in which a file is read, whoever reads it: configuration, plugins, secrets, certificates, state.
//!
//! A path that somebody writes may lead to anything: a named pipe that nobody writes to, a device without end, a
//! folder, a file of many gigabytes. So what is read is a file and nothing else, it is opened without waiting, and no
//! more of it is read than the reader has a use for, whatever length it says it has.

mod folders;

use std::{
    fs::{self, Metadata},
    io::{self, ErrorKind, Read as _},
    os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    time::{Duration, SystemTime},
};

use rustix::fs::OFlags;

pub use self::folders::{Folders, Subscription};

/// A configuration, or a file that a registry plugin follows.
pub const DOCUMENT: u64 = 16 << 20;

/// A password or a token.
pub const SECRET: u64 = 64 << 10;

/// A certificate with its chain, a key, or a bundle of authorities.
pub const CERTIFICATE: u64 = 4 << 20;

/// What the gateway has written itself.
pub const STATE: u64 = 256 << 20;

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is {0}, not a file")]
    NoFile(&'static str),
    /// It says how many bytes it has; none where it said less and went on.
    #[error("it has {}", too_long(*.has, *.most))]
    TooLong { has: Option<u64>, most: u64 },
    #[error("it is not text in UTF-8")]
    NoText,
}

impl ReadError {
    /// Whether there is nothing under that path, not even something else.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == ErrorKind::NotFound)
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        let kind = match &error {
            ReadError::Io(_) => ErrorKind::Other,
            ReadError::NoFile(_) => ErrorKind::InvalidInput,
            ReadError::TooLong { .. } => ErrorKind::FileTooLarge,
            ReadError::NoText => ErrorKind::InvalidData,
        };
        match error {
            ReadError::Io(error) => error,
            other => Self::new(kind, other),
        }
    }
}

fn too_long(has: Option<u64>, most: u64) -> String {
    match has {
        Some(has) => format!("{has} bytes, and at most {most} are read"),
        None => format!("more than {most} bytes, and no more are read"),
    }
}

/// All of a file that has at most `most` bytes.
///
/// Takes as long as the disk does, and never waits for somebody who writes.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, ReadError> {
    Opened::open(path)?.read(most)
}

/// The same of a file that is text.
pub fn read_text(path: &Path, most: u64) -> Result<String, ReadError> {
    String::from_utf8(read(path, most)?).map_err(|_| ReadError::NoText)
}

/// What the system says of a path that leads to a file. Opens nothing.
pub fn metadata(path: &Path) -> Result<Metadata, ReadError> {
    let metadata = fs::metadata(path)?;
    is_file(&metadata)?;
    Ok(metadata)
}

/// A file that was opened and is one.
#[derive(Debug)]
pub struct Opened {
    file: fs::File,
    metadata: Metadata,
}

impl Opened {
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        // Opening a device or a pipe is felt at its other end, so what is none is not opened. What counts is what
        // was opened in the end: something else may stand there by then.
        metadata(path)?;
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = fs::File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
        Self::of(file)
    }

    /// A file that somebody else has opened.
    pub fn of(file: fs::File) -> Result<Self, ReadError> {
        let metadata = file.metadata()?;
        is_file(&metadata)?;
        Ok(Self { file, metadata })
    }

    /// As it was when it was opened.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Its first bytes, as many as there are and fit. Reading goes on from the beginning all the same.
    pub fn head(&self, bytes: &mut [u8]) -> Result<usize, ReadError> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.file.read_at(&mut bytes[filled..], filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(filled)
    }

    /// All of it, if that is at most `most` bytes.
    pub fn read(self, most: u64) -> Result<Vec<u8>, ReadError> {
        let length = self.metadata.len();
        if length > most {
            return Err(ReadError::TooLong { has: Some(length), most });
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length as usize).map_err(io::Error::from)?;
        self.file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
        match bytes.len() as u64 > most {
            true => Err(ReadError::TooLong { has: None, most }),
            false => Ok(bytes),
        }
    }
}

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Stamp {
    /// The later of the times at which it was written and at which anything about it changed: a copy may be given the
    /// time of its original.
    pub fn written_at(&self) -> Option<SystemTime> {
        let (seconds, nanos) = self.modified.max(self.changed);
        let since = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?);
        SystemTime::UNIX_EPOCH.checked_add(since)
    }
}

fn is_file(metadata: &Metadata) -> Result<(), ReadError> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    Err(ReadError::NoFile(match () {
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_bound_and_not_beyond() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        let long = read(&path, 4).unwrap_err();
        assert_eq!(long.to_string(), "it has 5 bytes, and at most 4 are read");
        assert_eq!(io::Error::from(long).kind(), ErrorKind::FileTooLarge);
        fs::write(&path, [0xff]).unwrap();
        assert!(matches!(read_text(&path, 5), Err(ReadError::NoText)));
    }

    /// Files of the kernel say that they have no bytes at all.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_bound_holds_whatever_length_a_file_says_it_has() {
        let path = Path::new("/proc/self/status");
        assert_eq!(fs::metadata(path).unwrap().len(), 0);
        assert!(!read_text(path, DOCUMENT).unwrap().is_empty());
        let long = read(path, 10).unwrap_err();
        assert_eq!(long.to_string(), "it has more than 10 bytes, and no more are read");
    }

    #[test]
    fn what_is_no_file_is_told_apart_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        for (name, target) in [("zero", "/dev/zero"), ("link", "pipe"), ("dangling", "nowhere")] {
            symlink(target, at(name)).unwrap();
        }
        for (name, expected) in [
            ("", "it is a folder, not a file"),
            ("pipe", "it is a pipe, not a file"),
            ("link", "it is a pipe, not a file"),
            ("socket", "it is a socket, not a file"),
            ("zero", "it is a device, not a file"),
        ] {
            assert_eq!(read(&at(name), SECRET).unwrap_err().to_string(), expected, "{name}");
        }
        assert!(read(&at("dangling"), SECRET).unwrap_err().is_missing());
    }

    #[test]
    fn the_head_is_read_without_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "12345").unwrap();
        let opened = Opened::open(&path).unwrap();
        let mut head = [0; 3];
        assert_eq!((opened.head(&mut head).unwrap(), &head), (3, b"123"));
        assert_eq!(opened.head(&mut [0; 9]).unwrap(), 5);
        assert_eq!(opened.read(9).unwrap(), b"12345");
    }
}

//! A file being followed: its content now, and each new content once it has changed.

mod folders;

use std::{
    fs::{self, Metadata},
    io::{ErrorKind, Read},
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sha2::{Digest, Sha256};

pub use self::folders::Folders;
use self::folders::Subscription;
use crate::registry::Failure;

/// The longest file taken, in bytes.
const LONGEST: u64 = 16 << 20;

/// A file is looked at so often although nobody said that it changed: not every file system says so.
const BACKSTOP: Duration = Duration::from_secs(5);

/// Quiet time after a change before the file is read, and how long a change may go on.
const SETTLE: Duration = Duration::from_millis(50);
const SETTLE_MOST: Duration = Duration::from_millis(500);

/// Follows `path`, or the file called `name` inside it. Nothing is read yet.
pub fn follow(path: &Path, name: Option<&str>, folders: Arc<Folders>) -> Result<Feed, Failure> {
    let file = match name {
        None => File { path: path.into(), inside: None },
        Some(name) => {
            let plain = |part| matches!(part, Component::Normal(_));
            let is_plain = Path::new(name).components().all(plain) && !name.is_empty();
            if !is_plain || name.contains('\0') {
                return Err(Failure::Denied(format!("file name {name:?} leads out of the folder")));
            }
            File { path: path.join(name), inside: Some(path.into()) }
        }
    };
    Ok(Feed { file, folders, subscription: None, read: None, given: None })
}

/// Dropping it ends the following.
pub struct Feed {
    file: File,
    folders: Arc<Folders>,
    subscription: Option<Subscription>,
    /// The file as it was when it was last read.
    read: Option<Stamp>,
    /// The digest of what the reader has.
    given: Option<[u8; 32]>,
}

impl Feed {
    /// Waits for content that is not what the last call returned. After a failure the feed is of no use.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Vec<u8>, Failure> {
        if self.subscription.is_none() {
            self.subscription = Some(self.folders.subscribe(&self.file.path));
        }
        loop {
            if let Some(content) = self.read().await? {
                return Ok(content);
            }
            self.change().await;
        }
    }

    /// The content, if it is new.
    async fn read(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let (file, before) = (self.file.clone(), self.read);
        let read = tokio::task::spawn_blocking(move || file.read(before)).await;
        let Some((stamp, content)) = read.map_err(|error| Failure::Other(error.to_string()))?? else {
            return Ok(None);
        };
        let digest: [u8; 32] = Sha256::digest(&content).into();
        self.read = Some(stamp);
        let is_new = self.given != Some(digest);
        self.given = Some(digest);
        Ok(is_new.then_some(content))
    }

    /// Waits until the file may be another, and until whoever writes it has paused.
    async fn change(&mut self) {
        let Some(subscription) = &self.subscription else { return };
        if tokio::time::timeout(BACKSTOP, subscription.changed()).await.is_err() {
            return;
        }
        // What was just written has the stamp of what is being written, so that only the content tells.
        self.read = None;
        let settled = async { while tokio::time::timeout(SETTLE, subscription.changed()).await.is_ok() {} };
        let _ = tokio::time::timeout(SETTLE_MOST, settled).await;
    }
}

#[derive(Clone)]
struct File {
    path: PathBuf,
    /// The folder that it must not lead out of, by a link either.
    inside: Option<PathBuf>,
}

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
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

impl File {
    /// None when the file is still as it was `before`.
    fn read(&self, before: Option<Stamp>) -> Result<Option<(Stamp, Vec<u8>)>, Failure> {
        let path = self.resolve()?;
        let metadata = fs::metadata(&path).map_err(|error| self.unavailable(&error))?;
        // Opening a pipe would wait for its writer.
        if !metadata.is_file() {
            return Err(Failure::Invalid(format!("{} is not a file", self.path.display())));
        }
        if metadata.len() > LONGEST {
            return Err(self.too_long());
        }
        let stamp = Stamp::from(&metadata);
        if before == Some(stamp) {
            return Ok(None);
        }
        let mut content = Vec::with_capacity(metadata.len() as usize);
        let file = fs::File::open(&path).map_err(|error| self.unavailable(&error))?;
        file.take(LONGEST + 1).read_to_end(&mut content).map_err(|error| self.unavailable(&error))?;
        if content.len() as u64 > LONGEST {
            return Err(self.too_long());
        }
        Ok(Some((stamp, content)))
    }

    /// The path without links, if that is still inside.
    fn resolve(&self) -> Result<PathBuf, Failure> {
        let path = self.path.canonicalize().map_err(|error| self.unavailable(&error))?;
        let Some(inside) = &self.inside else { return Ok(path) };
        let inside = inside.canonicalize().map_err(|error| self.unavailable(&error))?;
        if path.starts_with(&inside) {
            return Ok(path);
        }
        Err(Failure::Denied(format!("{} leads out of {}", self.path.display(), inside.display())))
    }

    fn unavailable(&self, error: &std::io::Error) -> Failure {
        let path = self.path.display();
        match error.kind() {
            ErrorKind::NotFound => Failure::Unavailable(format!("{path} does not exist")),
            _ => Failure::Unavailable(format!("cannot read {path}: {error}")),
        }
    }

    fn too_long(&self) -> Failure {
        Failure::Invalid(format!("{} is longer than {LONGEST} bytes", self.path.display()))
    }
}

//! A file being followed: its content now, and each new content once it has changed.

mod host;
mod keys;

use std::{
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::time::Instant;

pub use self::keys::Grant;
pub(crate) use self::{
    host::{Lent, Shared, add_to_linker, share},
    keys::{INTERFACES, Keys, SETTING, USERS, grant},
};
use crate::{
    backoff::Backoff,
    files::{self, Folders, Opened, ReadError, Stamp, Subscription},
    registry::Failure,
};

/// A file is looked at so often although nobody said that it changed: not every file system says so.
const BACKSTOP: Duration = Duration::from_secs(5);

/// Quiet time after a change before the file is read, and how long a change may go on.
const SETTLE: Duration = Duration::from_millis(50);
const SETTLE_MOST: Duration = Duration::from_millis(500);

/// Pauses between attempts to read a file that cannot be read. The longest is how late its return is noticed.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Follows a file. Nothing is read yet.
pub fn follow(path: &Path, folders: Arc<Folders>) -> Feed {
    Feed::new(File { path: path.into(), inside: None }, folders)
}

/// Follows the file called `name` inside a folder. Nothing is read yet.
pub fn follow_inside(folder: &Path, name: &str, folders: Arc<Folders>) -> Result<Feed, Failure> {
    let plain = |part| matches!(part, Component::Normal(_));
    let is_plain = Path::new(name).components().all(plain) && !name.is_empty();
    if !is_plain || name.contains('\0') {
        return Err(Failure::Denied(format!("file name {name:?} leads out of the folder")));
    }
    Ok(Feed::new(File { path: folder.join(name), inside: Some(folder.into()) }, folders))
}

/// Dropping it ends the following.
pub struct Feed {
    file: File,
    folders: Arc<Folders>,
    subscription: Option<Subscription>,
    /// When the file is to be read because it may be another than the one that was read.
    due: Option<Instant>,
    backoff: Backoff,
    /// The file as it was when it was last read.
    read: Option<Stamp>,
    /// The digest of what the reader has.
    given: Option<[u8; 32]>,
}

impl Feed {
    fn new(file: File, folders: Arc<Folders>) -> Self {
        Self {
            file,
            folders,
            subscription: None,
            due: Some(Instant::now()),
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            read: None,
            given: None,
        }
    }

    /// Waits for content that is not what the last call returned. After a failure the next call waits before it reads
    /// again, longer after each, a second at most; then any content is told.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Vec<u8>, Failure> {
        loop {
            let told = match self.due {
                Some(due) => {
                    tokio::time::sleep_until(due).await;
                    true
                }
                None => self.change().await,
            };
            // Before it is read, so that what happens after that is told.
            if self.subscription.is_none() {
                self.subscription = Some(self.folders.subscribe(&self.file.path));
            }
            let content = self.read().await.inspect_err(|_| self.failed())?;
            self.backoff.works();
            self.due = None;
            let Some(content) = content else { continue };
            if !told {
                self.subscribe_anew();
            }
            return Ok(content);
        }
    }

    fn failed(&mut self) {
        self.read = None;
        self.given = None;
        self.subscribe_anew();
        self.due = Some(Instant::now() + self.backoff.pause());
    }

    /// The folder that is watched may not be the one that is under that path now.
    fn subscribe_anew(&mut self) {
        self.subscription = None;
        // What happens until it is watched is told by nobody.
        self.due = Some(Instant::now());
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

    /// Waits until the file may be another, and until whoever writes it has paused. Says whether somebody told of it,
    /// or whether it is only time to look.
    async fn change(&mut self) -> bool {
        let Some(subscription) = &self.subscription else { return false };
        let told = tokio::time::timeout(BACKSTOP, subscription.changed()).await.is_ok();
        self.due = Some(Instant::now());
        if !told {
            return false;
        }
        // What was just written has the stamp of what is being written, so that only the content tells.
        self.read = None;
        let settled = async { while tokio::time::timeout(SETTLE, subscription.changed()).await.is_ok() {} };
        let _ = tokio::time::timeout(SETTLE_MOST, settled).await;
        true
    }
}

#[derive(Clone)]
struct File {
    path: PathBuf,
    /// The folder that it must not lead out of, by a link either.
    inside: Option<PathBuf>,
}

impl File {
    /// None when the file is still as it was `before`.
    fn read(&self, before: Option<Stamp>) -> Result<Option<(Stamp, Vec<u8>)>, Failure> {
        let path = self.resolve()?;
        let file = Opened::open(&path).map_err(|error| self.failure(error))?;
        let stamp = Stamp::from(file.metadata());
        if before == Some(stamp) {
            return Ok(None);
        }
        let content = file.read(files::DOCUMENT).map_err(|error| self.failure(error))?;
        Ok(Some((stamp, content)))
    }

    /// The path without links, if that is still inside.
    fn resolve(&self) -> Result<PathBuf, Failure> {
        let path = self.path.canonicalize().map_err(|error| self.failure(error.into()))?;
        let Some(inside) = &self.inside else { return Ok(path) };
        let inside = inside.canonicalize().map_err(|error| self.failure(error.into()))?;
        if path.starts_with(&inside) {
            return Ok(path);
        }
        Err(Failure::Denied(format!("{} leads out of {}", self.path.display(), inside.display())))
    }

    fn failure(&self, error: ReadError) -> Failure {
        let path = self.path.display();
        match error {
            missing if missing.is_missing() => Failure::Unavailable(format!("{path} does not exist")),
            ReadError::Io(error) => Failure::Unavailable(format!("cannot read {path}: {error}")),
            unfit => Failure::Invalid(format!("cannot read {path}: {unfit}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    async fn next(feed: &mut Feed) -> Result<String, Failure> {
        let content =
            tokio::time::timeout(Duration::from_secs(30), feed.next()).await.expect("the feed is silent");
        content.map(|content| String::from_utf8(content).unwrap())
    }

    fn open(path: &Path, name: Option<&str>) -> Feed {
        match name {
            None => follow(path, Arc::default()),
            Some(name) => follow_inside(path, name, Arc::default()).unwrap(),
        }
    }

    fn rename_over(path: &Path, content: &str) {
        let new = path.with_extension("new");
        fs::write(&new, content).unwrap();
        fs::rename(new, path).unwrap();
    }

    #[tokio::test]
    async fn each_new_content_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("endpoints.json");
        fs::write(&path, "one").unwrap();
        let mut feed = open(&path, None);
        assert_eq!(next(&mut feed).await, Ok("one".into()));
        fs::write(&path, "two").unwrap();
        assert_eq!(next(&mut feed).await, Ok("two".into()));
        rename_over(&path, "two");
        rename_over(&path, "three");
        assert_eq!(next(&mut feed).await, Ok("three".into()));
    }

    #[tokio::test]
    async fn a_config_map_is_exchanged_by_its_link() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (version, content) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("endpoints.json"), content).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/endpoints.json", at("endpoints.json")).unwrap();
        for name in [None, Some("endpoints.json")] {
            let mut feed = match name {
                None => open(&at("endpoints.json"), None),
                name => open(folder.path(), name),
            };
            let content = next(&mut feed).await.unwrap();
            let (other, expected) = if content == "one" { ("..2", "two") } else { ("..1", "one") };
            symlink(other, at("..new")).unwrap();
            fs::rename(at("..new"), at("..data")).unwrap();
            assert_eq!(next(&mut feed).await, Ok(expected.into()));
        }
    }

    #[tokio::test]
    async fn a_file_that_is_gone_is_unavailable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("endpoints.json");
        assert_eq!(next(&mut open(&path, None)).await.unwrap_err().kind(), "unavailable");
        fs::write(&path, "one").unwrap();
        let mut feed = open(&path, None);
        next(&mut feed).await.unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(next(&mut feed).await.unwrap_err().kind(), "unavailable");
    }

    /// Everything that may stand where a file should, and how often it is tried within a few seconds.
    #[tokio::test]
    async fn what_cannot_be_read_is_tried_seldom_and_its_return_is_noticed_soon() {
        type Place = fn(&Path);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("witgate.toml");
        let in_the_way: [(&str, Place); 4] = [
            ("nothing", |_| {}),
            ("a folder", |path| fs::create_dir(path).unwrap()),
            ("a dangling link", |path| symlink("nowhere", path).unwrap()),
            ("too long", |path| fs::File::create(path).unwrap().set_len(files::DOCUMENT + 1).unwrap()),
        ];
        for (what, place) in in_the_way {
            let _ = fs::remove_dir(&path);
            let _ = fs::remove_file(&path);
            fs::write(&path, what).unwrap();
            let mut feed = open(&path, None);
            assert_eq!(next(&mut feed).await, Ok(what.into()));
            fs::remove_file(&path).unwrap();
            place(&path);
            let mut attempts = 0;
            let lasts = tokio::time::timeout(Duration::from_secs(3), async {
                loop {
                    next(&mut feed).await.unwrap_err();
                    attempts += 1;
                    // Others write to the folder all the time.
                    fs::write(folder.path().join("log"), attempts.to_string()).unwrap();
                }
            });
            lasts.await.unwrap_err();
            assert!((2..=12).contains(&attempts), "{what}: {attempts} attempts");
            let _ = fs::remove_dir(&path);
            let _ = fs::remove_file(&path);
            // The same content as before is told all the same: the reader was told that there is none.
            fs::write(&path, what).unwrap();
            let back = Instant::now();
            while let Err(failure) = next(&mut feed).await {
                assert!(back.elapsed() < Duration::from_secs(10), "{what}: {failure}");
            }
        }
    }

    #[tokio::test]
    async fn a_folder_that_is_replaced_is_watched_again() {
        let outer = tempfile::tempdir().unwrap();
        let (folder, other) = (outer.path().join("config"), outer.path().join("other"));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("witgate.toml");
        fs::write(&path, "one").unwrap();
        let mut feed = open(&path, None);
        assert_eq!(next(&mut feed).await, Ok("one".into()));
        fs::rename(&folder, &other).unwrap();
        assert_eq!(next(&mut feed).await.unwrap_err().kind(), "unavailable");
        fs::create_dir(&folder).unwrap();
        fs::write(&path, "two").unwrap();
        while next(&mut feed).await.as_deref() != Ok("two") {}
        fs::write(&path, "three").unwrap();
        // Sooner than by looking now and then.
        let told = tokio::time::timeout(BACKSTOP / 2, feed.next()).await.unwrap();
        assert_eq!(told.unwrap(), b"three");
    }

    #[tokio::test]
    async fn names_stay_inside_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("inside");
        fs::create_dir_all(inside.join("deep")).unwrap();
        fs::write(folder.path().join("secret"), "secret").unwrap();
        fs::write(inside.join("deep/file"), "good").unwrap();
        symlink("../secret", inside.join("link")).unwrap();

        assert_eq!(next(&mut open(&inside, Some("deep/file"))).await, Ok("good".into()));
        for name in ["", "..", "../secret", "/etc/passwd", "deep/../../secret", "./deep/file", "a\0b"] {
            let failure = follow_inside(&inside, name, Arc::default()).err().unwrap();
            assert_eq!(failure.kind(), "denied", "{name:?}");
        }
        assert_eq!(next(&mut open(&inside, Some("link"))).await.unwrap_err().kind(), "denied");
    }

    #[tokio::test]
    async fn what_is_no_file_or_too_long_is_invalid() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(next(&mut open(folder.path(), None)).await.unwrap_err().kind(), "invalid");
        let long = folder.path().join("long");
        fs::File::create(&long).unwrap().set_len(files::DOCUMENT + 1).unwrap();
        assert_eq!(next(&mut open(&long, None)).await.unwrap_err().kind(), "invalid");
        fs::File::options().write(true).open(&long).unwrap().set_len(files::DOCUMENT).unwrap();
        assert_eq!(next(&mut open(&long, None)).await.unwrap().len() as u64, files::DOCUMENT);
    }

    #[tokio::test]
    async fn a_folder_is_watched_as_long_as_somebody_follows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("endpoints.json");
        fs::write(&path, "one").unwrap();
        let folders = Arc::new(Folders::default());
        let mut feeds: Vec<_> = (0..200).map(|_| follow(&path, folders.clone())).collect();
        for feed in &mut feeds {
            assert_eq!(next(feed).await, Ok("one".into()));
        }
        assert_eq!(folders.watched(), 1);
        feeds.truncate(1);
        rename_over(&path, "two");
        assert_eq!(next(&mut feeds[0]).await, Ok("two".into()));
        feeds.clear();
        assert_eq!(folders.watched(), 0);
    }
}

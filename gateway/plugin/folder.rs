//! The plugins folder: what is in it, and what has changed since it was looked at last.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::load::{Digest, LoadError};
use crate::files;

/// The largest file that is loaded. Components that carry an interpreter have tens of megabytes.
const LARGEST: u64 = 256 << 20;

/// A file younger than this may still be written.
pub(super) const SETTLED: Duration = Duration::from_millis(100);

/// The folder as it was when it was looked at last.
pub(super) struct Folder {
    directory: PathBuf,
    seen: BTreeMap<Arc<str>, Seen>,
    refused: BTreeMap<PathBuf, SystemTime>,
}

struct Seen {
    path: PathBuf,
    size: u64,
    modified: SystemTime,
    digest: Digest,
}

/// What a look at the folder has found.
pub(super) enum Finding {
    /// A file is new or has other content.
    File {
        name: Arc<str>,
        path: PathBuf,
        bytes: Vec<u8>,
    },
    /// A file is there and cannot be taken, whatever is in it.
    Refused {
        name: Arc<str>,
        path: PathBuf,
        refusal: LoadError,
    },
    Removed {
        name: Arc<str>,
    },
}

/// What came of a look.
pub(super) struct Look {
    pub findings: Vec<Finding>,
    /// Files are still being written: look again soon.
    pub unsettled: bool,
}

impl Folder {
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, seen: BTreeMap::new(), refused: BTreeMap::new() }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Looks at every `*.wasm`, in the order of their names. A folder that is not there is an empty one; one that
    /// cannot be read is left as it was.
    pub fn look(&mut self, now: SystemTime) -> Look {
        let mut look = Look { findings: Vec::new(), unsettled: false };
        let files = match files(&self.directory) {
            Ok(files) => files,
            Err(error) => {
                let directory = self.directory.display();
                tracing::warn!(%directory, %error, "Plugins folder cannot be read, nothing changes");
                return look;
            }
        };
        let gone = self.seen.keys().filter(|name| !files.contains_key(&**name)).cloned().collect::<Vec<_>>();
        for name in gone {
            self.seen.remove(&name);
            look.findings.push(Finding::Removed { name });
        }
        self.refused.retain(|path, _| files.values().any(|file| file == path));
        for (name, path) in files {
            match self.look_at(&name, &path, now) {
                Ok(Some(bytes)) => look.findings.push(Finding::File { name, path, bytes }),
                Ok(None) => {}
                Err(Unfit::Unsettled) => look.unsettled = true,
                Err(Unfit::Refused(refusal)) => {
                    look.findings.push(Finding::Refused { name, path, refusal });
                }
            }
        }
        look
    }

    /// The content of a file, if it is another than before.
    fn look_at(&mut self, name: &Arc<str>, path: &Path, now: SystemTime) -> Result<Option<Vec<u8>>, Unfit> {
        let unreadable = |error: io::Error| Unfit::Refused(LoadError::Unreadable(error.to_string()));
        let metadata = fs::metadata(path).map_err(unreadable)?;
        let (size, modified) = (metadata.len(), metadata.modified().map_err(unreadable)?);
        let known = self.seen.get(name);
        if known.is_some_and(|seen| seen.size == size && seen.modified == modified && seen.path == path)
            || self.refused.get(path) == Some(&modified)
        {
            return Ok(None);
        }
        if now.duration_since(modified).is_ok_and(|age| age < SETTLED) {
            return Err(Unfit::Unsettled);
        }
        let content = match size > LARGEST {
            true => Err(Unfit::Refused(LoadError::TooLarge { bytes: size, most: LARGEST })),
            false => check_name(name)
                .and_then(|()| files::read(path, LARGEST).map_err(|error| unreadable(error.into()))),
        };
        let bytes = content.inspect_err(|_| {
            self.refused.insert(path.to_owned(), modified);
        })?;
        let digest = Digest::of(&bytes);
        let same = known.is_some_and(|seen| seen.digest == digest);
        self.seen.insert(name.clone(), Seen { path: path.to_owned(), size, modified, digest });
        Ok((!same).then_some(bytes))
    }
}

enum Unfit {
    Unsettled,
    Refused(LoadError),
}

/// By name of the plugin. What is a folder, or hidden, is none.
fn files(directory: &Path) -> io::Result<BTreeMap<Arc<str>, PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries?,
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let path = entry?.path();
        let (Some(name), Some(extension)) = (path.file_stem(), path.extension()) else { continue };
        let name = name.to_string_lossy();
        if extension == "wasm" && !name.starts_with('.') && !path.is_dir() {
            files.insert(name.into(), path);
        }
    }
    Ok(files)
}

fn check_name(name: &str) -> Result<(), Unfit> {
    let plain = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char);
    match !name.is_empty() && name.chars().all(plain) {
        true => Ok(()),
        false => Err(Unfit::Refused(LoadError::Name(name.to_owned()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A moment at which everything has settled.
    fn later() -> SystemTime {
        SystemTime::now() + Duration::from_secs(60)
    }

    fn found(look: Look) -> Vec<String> {
        look.findings
            .into_iter()
            .map(|finding| match finding {
                Finding::File { name, bytes, .. } => format!("{name}={}", String::from_utf8_lossy(&bytes)),
                Finding::Refused { name, refusal, .. } => format!("{name}: {refusal}"),
                Finding::Removed { name } => format!("{name} removed"),
            })
            .collect()
    }

    #[test]
    fn only_what_has_changed_is_found() {
        let temp = tempfile::tempdir().unwrap();
        let directory = temp.path().join("plugins");
        let mut folder = Folder::new(directory.clone());
        assert!(found(folder.look(later())).is_empty());

        fs::create_dir(&directory).unwrap();
        for (name, content) in [("b.wasm", "2"), ("a.wasm", "1"), ("a.toml", "x"), (".c.wasm", "x")] {
            fs::write(directory.join(name), content).unwrap();
        }
        fs::create_dir(directory.join("d.wasm")).unwrap();
        assert_eq!(found(folder.look(later())), ["a=1", "b=2"]);
        assert!(found(folder.look(later())).is_empty());

        fs::write(directory.join("a.wasm"), "11").unwrap();
        fs::remove_file(directory.join("b.wasm")).unwrap();
        assert_eq!(found(folder.look(later())), ["b removed", "a=11"]);
    }

    #[test]
    fn a_file_that_is_only_touched_is_no_change() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a.wasm");
        fs::write(&path, "1").unwrap();
        let mut folder = Folder::new(temp.path().to_owned());
        assert_eq!(found(folder.look(later())), ["a=1"]);
        fs::File::options().write(true).open(&path).unwrap().set_modified(later()).unwrap();
        assert!(found(folder.look(later() + SETTLED)).is_empty());
    }

    #[test]
    fn a_file_that_may_still_be_written_is_looked_at_later() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("a.wasm"), "1").unwrap();
        let mut folder = Folder::new(temp.path().to_owned());
        let look = folder.look(fs::metadata(temp.path().join("a.wasm")).unwrap().modified().unwrap());
        assert!(look.unsettled && look.findings.is_empty());
        assert_eq!(found(folder.look(later())), ["a=1"]);
    }

    #[test]
    fn a_name_that_no_configuration_can_hold_is_refused_once() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("a b.wasm"), "1").unwrap();
        let mut folder = Folder::new(temp.path().to_owned());
        assert_eq!(found(folder.look(later())).len(), 1);
        assert!(found(folder.look(later())).is_empty());
    }
}

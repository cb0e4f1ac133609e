//! The plugins folder: what is in it, and what has changed since it was looked at last.
//!
//! A look asks the system about each file and opens none: what is in them is read by whoever is to load them.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::load::LoadError;
use crate::{
    backoff::{Lasting, Report},
    files::{self, Stamp},
};

/// A file younger than this may still be written.
pub(super) const SETTLED: Duration = Duration::from_millis(100);

/// The folder as it was when it was looked at last.
pub(super) struct Folder {
    directory: PathBuf,
    seen: BTreeMap<Arc<str>, Stamp>,
    /// Names under which there is something that cannot be a plugin.
    unfit: BTreeMap<Arc<str>, Refused>,
    unreadable: Lasting,
}

/// What a look at the folder has found.
#[derive(Debug)]
pub(super) enum Finding {
    /// A file is new, or another than before.
    File {
        name: Arc<str>,
        path: PathBuf,
    },
    /// What is there cannot be taken, whatever is in it.
    Unfit {
        name: Arc<str>,
        path: PathBuf,
        refusal: LoadError,
    },
    /// The same still stands there, and it is time to say so again.
    StillUnfit {
        name: Arc<str>,
        path: PathBuf,
        refusal: LoadError,
        report: Report,
    },
    Removed {
        name: Arc<str>,
    },
}

/// What came of a look.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub findings: Vec<Finding>,
    /// Files are still being written: look again soon.
    pub unsettled: bool,
}

impl Folder {
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, seen: BTreeMap::new(), unfit: BTreeMap::new(), unreadable: Lasting::default() }
    }

    /// Looks at every `*.wasm`, in the order of their names. A folder that is not there is an empty one; one that
    /// cannot be read is left as it was. Takes as long as the file system does.
    pub fn look(&mut self, now: SystemTime) -> Look {
        let mut look = Look::default();
        let files = match files(&self.directory) {
            Ok(files) => files,
            Err(error) => {
                self.cannot_be_read(&error);
                return look;
            }
        };
        if let Some(lasted) = self.unreadable.over() {
            let directory = self.directory.display();
            tracing::info!(%directory, for_seconds = lasted.for_seconds, "Plugins folder can be read again");
        }
        let known = self.seen.keys().chain(self.unfit.keys());
        let gone: Vec<_> = known.filter(|name| !files.contains_key(&**name)).cloned().collect();
        for name in gone {
            self.seen.remove(&name);
            self.unfit.remove(&name);
            look.findings.push(Finding::Removed { name });
        }
        for (name, path) in files {
            match self.look_at(&name, &path, now) {
                Ok(false) => {}
                Ok(true) => look.findings.push(Finding::File { name, path }),
                Err(Unfit::Unsettled) => look.unsettled = true,
                Err(Unfit::Refused(refusal)) => {
                    look.findings.extend(self.unfit(name, path, refusal));
                }
            }
        }
        look
    }

    /// Whether there is another file than before.
    fn look_at(&mut self, name: &Arc<str>, path: &Path, now: SystemTime) -> Result<bool, Unfit> {
        check_name(name)?;
        let metadata = files::metadata(path).map_err(|error| Unfit::Refused(error.into()))?;
        let stamp = Stamp::from(&metadata);
        if self.seen.get(name) == Some(&stamp) {
            return Ok(false);
        }
        if stamp.written_at().is_some_and(|at| now.duration_since(at).is_ok_and(|age| age < SETTLED)) {
            return Err(Unfit::Unsettled);
        }
        self.unfit.remove(name);
        self.seen.insert(name.clone(), stamp);
        Ok(true)
    }

    fn unfit(&mut self, name: Arc<str>, path: PathBuf, refusal: LoadError) -> Option<Finding> {
        self.seen.remove(&name);
        let known = self.unfit.entry(name.clone()).or_default();
        let why = refusal.to_string();
        let report = known.lasting.met(&why);
        if known.why == why {
            return report.map(|report| Finding::StillUnfit { name, path, refusal, report });
        }
        known.why = why;
        Some(Finding::Unfit { name, path, refusal })
    }

    fn cannot_be_read(&mut self, error: &io::Error) {
        let directory = self.directory.display();
        if let Some(lasts) = self.unreadable.met(&error.to_string()) {
            tracing::warn!(%directory, %error, for_seconds = lasts.for_seconds,
                "Plugins folder cannot be read, nothing changes");
        }
    }
}

/// A file that is refused as it stands there.
#[derive(Debug, Default)]
struct Refused {
    why: String,
    lasting: Lasting,
}

enum Unfit {
    Unsettled,
    Refused(LoadError),
}

/// Everything in the folder that is meant as a plugin, by its name. What is hidden is not; a folder that is not there
/// is an empty one.
pub fn files(directory: &Path) -> io::Result<BTreeMap<Arc<str>, PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries?,
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let path = entry?.path();
        let (Some(name), Some(extension)) = (path.file_stem(), path.extension()) else { continue };
        let name = name.to_string_lossy();
        if extension == "wasm" && !name.starts_with('.') {
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
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    /// A moment at which everything has settled.
    fn later() -> SystemTime {
        SystemTime::now() + Duration::from_secs(60)
    }

    fn found(look: Look) -> Vec<String> {
        look.findings
            .into_iter()
            .map(|finding| match finding {
                Finding::File { name, .. } => name.to_string(),
                Finding::Unfit { name, refusal, .. } => format!("{name}: {refusal}"),
                Finding::StillUnfit { name, .. } => format!("still {name}"),
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
        assert_eq!(found(folder.look(later())), ["a", "b"]);
        assert!(found(folder.look(later())).is_empty());

        fs::write(directory.join("a.wasm"), "11").unwrap();
        fs::remove_file(directory.join("b.wasm")).unwrap();
        assert_eq!(found(folder.look(later())), ["b removed", "a"]);
    }

    #[test]
    fn a_file_that_may_still_be_written_is_looked_at_later() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("a.wasm"), "1").unwrap();
        let mut folder = Folder::new(temp.path().to_owned());
        let look = folder.look(fs::metadata(temp.path().join("a.wasm")).unwrap().modified().unwrap());
        assert!(look.unsettled && look.findings.is_empty());
        assert_eq!(found(folder.look(later())), ["a"]);
    }

    #[test]
    fn what_can_be_no_plugin_is_told_once_and_again_when_it_is_something_else() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        fs::write(at("a b.wasm"), "1").unwrap();
        mknodat(CWD, at("pipe.wasm"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        fs::create_dir(at("folder.wasm")).unwrap();
        symlink("/dev/zero", at("zero.wasm")).unwrap();
        symlink("nowhere", at("dangling.wasm")).unwrap();
        let mut folder = Folder::new(temp.path().to_owned());
        assert_eq!(
            found(folder.look(later())),
            [
                "a b: its name \"a b\" is no plugin name: letters, digits, - and _",
                "dangling: cannot be read: No such file or directory (os error 2)",
                "folder: cannot be read: it is a folder, not a file",
                "pipe: cannot be read: it is a pipe, not a file",
                "zero: cannot be read: it is a device, not a file",
            ]
        );
        assert!(found(folder.look(later())).is_empty());
        fs::write(at("nowhere"), "1").unwrap();
        fs::remove_dir(at("folder.wasm")).unwrap();
        symlink("nowhere", at("folder.wasm")).unwrap();
        assert_eq!(found(folder.look(later())), ["dangling", "folder"]);
        fs::remove_file(at("nowhere")).unwrap();
        fs::remove_file(at("pipe.wasm")).unwrap();
        let gone = "cannot be read: No such file or directory (os error 2)";
        assert_eq!(
            found(folder.look(later())),
            ["pipe removed".to_owned(), format!("dangling: {gone}"), format!("folder: {gone}")]
        );
    }
}

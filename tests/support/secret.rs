//! Files that are exchanged together while somebody follows them, in all the ways in which that is done.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Write,
    Rename,
    /// As Kubernetes does it with a secret.
    Link,
}

impl Way {
    pub const ALL: [Self; 3] = [Self::Write, Self::Rename, Self::Link];
}

/// A file's name, and what is to be in it.
pub type Content<'c> = (&'c str, &'c [u8]);

/// A folder of files.
pub struct Secret {
    folder: PathBuf,
    way: Way,
    version: usize,
}

impl Secret {
    /// A new folder with these files.
    pub fn new(folder: PathBuf, way: Way, files: &[Content<'_>]) -> Self {
        fs::create_dir(&folder).unwrap();
        let mut secret = Self { folder, way, version: 0 };
        secret.put(files);
        if way == Way::Link {
            for (name, _) in files {
                symlink(format!("..data/{name}"), secret.at(name)).unwrap();
            }
        }
        secret
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Puts others in the place of all of them, one after the other where the way is such.
    pub fn put(&mut self, files: &[Content<'_>]) {
        match self.way {
            Way::Write => files.iter().for_each(|(name, content)| fs::write(self.at(name), content).unwrap()),
            Way::Rename => files.iter().for_each(|(name, content)| rename(content, &self.at(name))),
            Way::Link => self.link(files),
        }
        self.version += 1;
    }

    fn link(&self, files: &[Content<'_>]) {
        let name = |version: usize| format!("..{version}");
        let version = self.at(&name(self.version));
        fs::create_dir(&version).unwrap();
        for (name, content) in files {
            fs::write(version.join(name), content).unwrap();
        }
        symlink(name(self.version), self.at("..new")).unwrap();
        fs::rename(self.at("..new"), self.at("..data")).unwrap();
        if let Some(old) = self.version.checked_sub(1) {
            fs::remove_dir_all(self.at(&name(old))).unwrap();
        }
    }
}

/// Puts a file in the place of the one that is there, in one step.
pub fn rename(content: &[u8], path: &Path) {
    let new = path.with_extension("new");
    fs::write(&new, content).unwrap();
    fs::rename(new, path).unwrap();
}

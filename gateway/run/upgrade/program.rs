//! The program that this process runs, as it is found again when there is a new version of it.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
};

/// What this process runs. It stays readable when the file is replaced.
const RUNNING: &str = "/proc/self/exe";

/// Where the program is, and with what it was started.
#[derive(Debug)]
pub(crate) struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// That of this process. To be asked for at its start: later the file may be another one.
    pub(crate) fn running() -> io::Result<Self> {
        let mut arguments = env::args_os();
        let name = arguments.next().unwrap_or_default();
        let is_it = |path: &PathBuf| same(path, Path::new(RUNNING)).unwrap_or_default();
        // A link stays one: it may lead to another version next time.
        let path = match candidates(&name).find(is_it) {
            Some(path) => path,
            None => without_mark(env::current_exe()?),
        };
        Ok(Self { path, arguments: arguments.collect() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its file is another one than this process runs.
    pub(crate) fn was_exchanged(&self) -> bool {
        // One that is not there is none to be run.
        same(&self.path, Path::new(RUNNING)).is_ok_and(|same| !same)
    }

    /// How it is started again.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments);
        command
    }
}

/// The kernel marks the path of a file that was replaced since; the new one is there.
fn without_mark(path: PathBuf) -> PathBuf {
    let there = path.as_os_str().as_bytes().strip_suffix(b" (deleted)");
    there.map(|there| OsStr::from_bytes(there).into()).unwrap_or(path)
}

/// Where a shell would have found a program of this name.
fn candidates(name: &OsStr) -> impl Iterator<Item = PathBuf> {
    let here = env::current_dir().unwrap_or_default();
    let folders = match Path::new(name).components().count() {
        1 => env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default(),
        _ => vec![PathBuf::new()],
    };
    folders.into_iter().map(move |folder| here.join(folder).join(name))
}

fn same(one: &Path, other: &Path) -> io::Result<bool> {
    let (one, other) = (fs::metadata(one)?, fs::metadata(other)?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_this_one_until_its_file_is_another() {
        let mut program = Program::running().unwrap();
        assert!(same(program.path(), &env::current_exe().unwrap()).unwrap());
        assert!(!program.was_exchanged());
        program.path = "/bin/sh".into();
        assert!(program.was_exchanged());
        program.path = "/no/such/program".into();
        assert!(!program.was_exchanged());
    }

    #[test]
    fn a_program_that_was_replaced_is_where_the_new_one_is() {
        assert_eq!(without_mark("/usr/bin/witgate (deleted)".into()), Path::new("/usr/bin/witgate"));
        assert_eq!(without_mark("/usr/bin/witgate".into()), Path::new("/usr/bin/witgate"));
    }

    #[test]
    fn a_name_without_a_folder_is_looked_up_in_the_path() {
        let in_path = candidates(OsStr::new("sh")).any(|path| path == Path::new("/bin/sh"));
        assert!(in_path, "{:?}", env::var_os("PATH"));
        let here = env::current_dir().unwrap();
        assert_eq!(candidates(OsStr::new("./a/b")).collect::<Vec<_>>(), [here.join("./a/b")]);
        assert_eq!(candidates(OsStr::new("/a/b")).collect::<Vec<_>>(), [Path::new("/a/b")]);
    }
}

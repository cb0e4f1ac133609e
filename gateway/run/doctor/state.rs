//! Whether what outlives the process can be written.

use std::{io, path::Path};

use rustix::fs::{Access, access, statvfs};

use super::{
    super::{REGISTRY, checked::is_own},
    finding::Finding,
};
use crate::{config::Config, connector::Memory};

/// Lists of some thousand services, and the compiled plugins.
const ROOM: u64 = 256 << 20;

pub(super) fn look(config: &Config) -> Vec<Finding> {
    let folder = &config.state;
    let (about, shown) = ("state", folder.display());
    let there = match nearest(folder) {
        Ok(there) => there,
        Err(error) => {
            let text = format!("{shown} may not be looked at by this user: {error}");
            return vec![Finding::warning(about, text).advice("ask again as root")];
        }
    };
    let mut found = vec![writable(folder, there)];
    let left = statvfs(there).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    if let Some(left) = left.filter(|left| *left < ROOM) {
        let text = format!("{} MiB are left on the disk of {shown}", left >> 20);
        found.push(Finding::warning(about, text).advice("make room, or move `directory` of [state]"));
    }
    if let Some(damaged) = Memory::look(&folder.join(REGISTRY)) {
        found.push(Finding::warning(about, damaged).advice(
            "services that register there again and again come back by themselves; others register anew",
        ));
    }
    found
}

/// The folder if it is there, or the nearest of those that it lies in.
fn nearest(folder: &Path) -> io::Result<&Path> {
    for folder in folder.ancestors() {
        // Where all of a relative path ends.
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        if folder.try_exists()? {
            return Ok(folder);
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// `there` is the nearest that there is.
fn writable(folder: &Path, there: &Path) -> Finding {
    let shown = folder.display();
    let advice = "let who runs the gateway write there (StateDirectory= in its unit), or name another folder by \
                  `directory` of [state]";
    let may = access(there, Access::WRITE_OK | Access::EXEC_OK);
    if there != folder {
        return match may {
            Ok(()) if there.is_dir() => Finding::ok("state", format!("{shown} can be made")),
            _ => Finding::error("state", format!("{shown} is not there and cannot be made")).advice(advice),
        };
    }
    if !folder.is_dir() {
        return Finding::error("state", format!("{shown} is no folder")).advice(advice);
    }
    match may {
        Err(error) => Finding::error("state", format!("{shown} cannot be written: {error}")).advice(advice),
        Ok(()) if is_own(folder) => Finding::ok("state", format!("{shown} can be written")),
        Ok(()) => {
            Finding::ok("state", format!("{shown} is another user's, who runs the gateway if all is well"))
        }
    }
}

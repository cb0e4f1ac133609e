//! Whether what outlives the process can be written.

use std::path::Path;

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
    let mut found = vec![writable(folder)];
    let disk = folder.ancestors().find(|folder| folder.exists()).and_then(|folder| statvfs(folder).ok());
    let left = disk.map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    if let Some(left) = left.filter(|left| *left < ROOM) {
        let text = format!("{} MiB are left on the disk of {}", left >> 20, folder.display());
        found.push(Finding::warning("state", text).advice("make room, or move `directory` of [state]"));
    }
    if let Some(damaged) = Memory::look(&folder.join(REGISTRY)) {
        found.push(Finding::warning("state", damaged).advice(
            "services that register there again and again come back by themselves; others register anew",
        ));
    }
    found
}

fn writable(folder: &Path) -> Finding {
    let may = |folder: &Path| access(folder, Access::WRITE_OK | Access::EXEC_OK);
    let shown = folder.display();
    let advice = "let who runs the gateway write there (StateDirectory= in its unit), or name another folder by \
                  `directory` of [state]";
    if folder.exists() {
        if !folder.is_dir() {
            return Finding::error("state", format!("{shown} is no folder")).advice(advice);
        }
        return match may(folder) {
            Err(error) => {
                Finding::error("state", format!("{shown} cannot be written: {error}")).advice(advice)
            }
            Ok(()) if is_own(folder) => Finding::ok("state", format!("{shown} can be written")),
            Ok(()) => Finding::ok(
                "state",
                format!("{shown} is another user's, who runs the gateway if all is well"),
            ),
        };
    }
    match folder.ancestors().skip(1).find(|parent| parent.exists()) {
        Some(parent) if may(parent).is_ok() => Finding::ok("state", format!("{shown} can be made")),
        _ => Finding::error("state", format!("{shown} is not there and cannot be made")).advice(advice),
    }
}

//! What the listeners may take, against what this machine has.

use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::{super::descriptors, finding::Finding};
use crate::{
    config::Config,
    files::{self, DOCUMENT},
};

/// About what a connection holds, with its place in the kernel, while it is idle or has little on its way. One that
/// moves large bodies holds more.
const PLAIN: u64 = 24 << 10;
const WITH_TLS: u64 = 64 << 10;

/// What is looked at are the limits of whoever asks.
const UNIT: &str = "a unit has a limit of its own";

pub(super) fn look(config: &Config) -> Vec<Finding> {
    vec![open_files(config), memory(config)]
}

fn open_files(config: &Config) -> Finding {
    let wanted = descriptors::max_connections(config);
    // The gateway raises its soft limit to the hard one.
    let Some(allowed) = getrlimit(Resource::Nofile).maximum else {
        return Finding::ok("open files", "as many as wanted");
    };
    match descriptors::falls_short(wanted, allowed) {
        None => Finding::ok(
            "open files",
            format!("{allowed} may be open by the limit of this shell, enough for {wanted} clients; {UNIT}"),
        ),
        Some(enough_for) => Finding::warning(
            "open files",
            format!(
                "{allowed} may be open by the limit of this shell, enough for {enough_for} clients, and \
                 `max_connections` is {wanted}; {UNIT}"
            ),
        )
        .advice(
            "raise the hard limit of who runs the gateway (LimitNOFILE= in its unit, ulimit -Hn), or lower \
             `max_connections` of the listeners",
        ),
    }
}

fn memory(config: &Config) -> Finding {
    let each = |tls: bool| if tls { WITH_TLS } else { PLAIN };
    let of_listener = |listener: &crate::config::Listener| {
        (listener.max_connections as u64).saturating_mul(each(listener.tls.is_some()))
    };
    let needed: u64 = config.listeners.iter().map(of_listener).fold(0, u64::saturating_add);
    let needs = format!(
        "{} clients hold about {} MiB without doing much",
        descriptors::max_connections(config),
        needed >> 20
    );
    let Some((most, whose)) = available() else { return Finding::ok("memory", needs) };
    let text = format!("{needs}; {whose} has {} MiB, and {UNIT}", most >> 20);
    match needed > most {
        true => Finding::warning("memory", text).advice(
            "lower `max_connections` of the listeners, or give it more memory (MemoryMax= in its unit)",
        ),
        false => Finding::ok("memory", text),
    }
}

/// The least of what the machine has and what the groups of this process may take, and whose that is.
fn available() -> Option<(u64, &'static str)> {
    let of_machine =
        files::read_text(Path::new("/proc/meminfo"), DOCUMENT).ok().and_then(|text| of_machine(&text));
    let machine = of_machine.map(|most| (most, "this machine"));
    let group = of_groups().map(|most| (most, "the control group of this shell"));
    [machine, group].into_iter().flatten().min()
}

fn of_machine(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1 << 10)
}

/// The lowest limit on the way to the root of the control groups (version 2).
fn of_groups() -> Option<u64> {
    let own = files::read_text(Path::new("/proc/self/cgroup"), DOCUMENT).ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
    let root = Path::new("/sys/fs/cgroup");
    let folder = root.join(own);
    let groups = folder.ancestors().take_while(|group| group.starts_with(root));
    let limit =
        |group: &Path| files::read_text(&group.join("memory.max"), DOCUMENT).ok()?.trim().parse().ok();
    groups.filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_the_machine_is_read() {
        assert_eq!(of_machine("MemFree: 1 kB\nMemTotal:       16 kB\n"), Some(16 << 10));
        assert_eq!(of_machine("MemTotal: lots"), None);
    }
}

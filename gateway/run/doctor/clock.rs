//! Whether it is the same time here as where others are.

use super::{finding::Finding, reach::Reached};

/// An answer says whole seconds, and takes its time.
const FAR_OFF: i64 = 30;

/// What the servers of registries say of the time.
pub(super) fn examine(reached: &[Reached]) -> Option<Finding> {
    let told = reached.iter().filter_map(|one| Some((&one.place.address, one.ahead?)));
    let (address, ahead) = told.max_by_key(|(_, ahead)| ahead.unsigned_abs())?;
    if ahead.abs() <= FAR_OFF {
        return Some(Finding::ok("clock", format!("that of this machine is that of {address}")));
    }
    let (seconds, way) = (ahead.abs(), if ahead > 0 { "behind" } else { "ahead of" });
    let text = format!("that of this machine is {seconds} seconds {way} that of {address}");
    Some(Finding::warning("clock", text).advice(
        "let both follow the time of a server (chrony, systemd-timesyncd): certificates count by the clock, and so do leases",
    ))
}

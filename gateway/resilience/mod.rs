//! What is done about failures of endpoints: what may be tried again, where, when and how often. Pure decisions, no IO,
//! no clock.

mod budget;
mod history;
mod percentile;
mod policy;
mod tried;

pub use budget::{Budget, WINDOW_SECS};
pub use history::{Event, History, Next};
pub use percentile::Percentile;
pub use policy::{BackupAfter, Cause, Causes, Mode, RetryPolicy, idempotent, only_reads};
pub use tried::Tried;

//! What is done about failures and overload: what may be tried again, where, when and how often, and what is not sent at
//! all. No IO, and no clock: whoever asks says what time it is.

mod aimd;
mod breaker;
mod budget;
mod gate;
mod history;
mod line;
mod percentile;
mod policy;
mod rate;
#[cfg(test)]
mod simulation;
mod tried;

pub use aimd::{Bounds, MOST as MOST_IN_FLIGHT};
pub use breaker::{Breaker, BreakerPolicy, LEAST_K, Started};
pub use budget::{Budget, WINDOW_SECS};
pub use gate::{Gate, Permit};
pub use history::{Event, History, Next};
pub use line::{Line, Place};
pub use percentile::Percentile;
pub use policy::{BackupAfter, Cause, Causes, Mode, RetryPolicy, idempotent, only_reads};
pub use rate::{Rate, RateTable};
pub use tried::Tried;

//! What an upstream is: its endpoints, how lists are believed, merged and published, and what is kept of them.
//!
//! Everything here is a pure function of what came in, except `publish`, which makes it visible to the workers,
//! `disk`, which keeps it over restarts, and `owner`, the task that owns all of it for one upstream. Knows
//! nothing of registries, plugins, configuration files or protocols.

mod disk;
mod drains;
pub mod durable;
mod health;
mod history;
mod merge;
mod offer;
mod owner;
mod publish;
mod saved;
mod slots;
mod snapshot;
mod stats;
mod trust;
mod words;

pub use disk::{Disk, DiskError, SavedList};
pub use drains::Drains;
pub use health::{
    ConditionState, Evidence, Health, HealthInput, HealthRecord, Judged, Policy as HealthPolicy, Reason,
};
use history::Recorded;
pub use history::{Addresses, Cause, Entry, History, RollbackError};
pub use merge::{Changed, Merge};
pub use offer::{Effective, Offered, Offering, Policy as OfferPolicy, RESOLUTION, Subset, Zones, place};
use offer::{Group, Shaped, Subsetting, shares};
pub use owner::{
    Command, Draining, Ejected, Event, LeftOut, LeftOuts, Order, OrderError, Owner, Pinned, Plan, Policies,
    Report, Reserved, SourceName, SourceStatus, Standby, StandbyReason, Status, Suspects,
};
pub use publish::{Offer, Published, Publisher, Reader};
pub use saved::{Saved, SavedPin, SavedSource};
pub use snapshot::{CatchUp, Change, Generation, Member, Snapshot};
pub use stats::{Admission, Figures, HalfOpenTry, InFlight, OpenConnection, Stats, since_epoch};
pub use trust::{
    Claim, ClaimChange, HealthState, Held, Input, Left, News, Origin, Policy as TrustPolicy, ReserveState,
    Source, SourceState, Step, Word,
};
pub use words::{Endpoint, Facts, Labels, Rank, Slot, State, UpstreamName, Weight, ZONE};

//! Names of log fields and metrics, the counters behind them, the set-up of logging, and how text of others is shown.
//!
//! Log lines are a short message with facts in fields. A field has one meaning everywhere:
//!
//! | field | meaning |
//! |---|---|
//! | `client` | address of the client |
//! | `listener`, `route`, `upstream` | their names in the configuration |
//! | `endpoint` | address of an instance |
//! | `registry`, `service` | a registry of the configuration, and a name in it |
//! | `plugin` | name of a plugin |
//! | `generation` | number of a list of endpoints |
//! | `error` | what went wrong |

pub mod access;
mod configured;
mod counters;
mod exposition;
mod histogram;
mod line;
pub mod log;
pub mod names;
mod process;
mod protobuf;
mod readiness;
mod record;
mod time;
mod times;
pub mod text;
pub mod trace;

pub use configured::{Configured, RefusedFile};
pub use counters::{Carried, FAILURES, FAULTS, Refused, UpstreamCounts, UpstreamMetrics};
pub use exposition::{Exposition, Family, Format, Value};
pub use histogram::{Latencies, Native, Took};
pub use process::{
    Abuse, Connection, HandshakeFailure, ListenerCounters, ListenerCounts, ProcessMetrics, ProxyRefusal,
    Reload,
};
pub use readiness::Readiness;
pub use record::{Account, Fault, Record};
pub use time::rfc3339;
pub use times::{KnownMethod, RouteTimes};

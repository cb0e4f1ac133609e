//! Where something goes, whatever it is made of: the upstreams as one worker sees them, whether they take it, and which
//! endpoint it is for.

mod admission;
mod error;
mod goal;
mod leaving;
mod opened;
mod pick;
mod targets;

pub use self::{
    admission::{Admission, Admitted, Held, admit, turn},
    error::NotDispatched,
    goal::{Goal, is_under},
    leaving::{Leaving, over},
    opened::Opened,
    pick::{Choice, Picked},
    targets::{Lookup, Search, Target, Targets},
};

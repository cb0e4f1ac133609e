//! What is done about failures of endpoints: which requests may be sent once more. Pure decisions, no IO.

mod retry;

pub use retry::{Attempts, repeatable};

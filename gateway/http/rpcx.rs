//! Answers to calls of rpcx: as what they count, by rpcx's own protocol and by HTTP, which its servers speak on the same port.

use http::StatusCode;

use super::{seen::Seen, tries::PROTOCOL};
use crate::upstream::Member;

/// The status that an answer of rpcx counts as. One that says that the call failed is an answer of the service all the
/// same: a failure in statistics, breaker and metrics, and no reason to take the endpoint out or to try again.
pub fn call_counts_as(failed: bool) -> StatusCode {
    if failed { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK }
}

/// The status that an answer by HTTP counts as. A server of rpcx may say with any status that a call failed, and only the
/// header tells. A status that is none of success speaks for itself.
pub(super) fn answer_counts_as(status: StatusCode, seen: Seen, member: &Member) -> StatusCode {
    let failed = seen.rpcx_error && status.is_success() && member.facts().labels.has(PROTOCOL, "rpcx");
    if failed { call_counts_as(true) } else { status }
}

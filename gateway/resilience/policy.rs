//! What an operator says of tries: how many, where, after which failures.

use std::time::Duration;

use http::{Method, StatusCode};

use crate::syntax::grpc::Code;

/// How the requests of an upstream, or of a route, are tried again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    pub mode: Mode,
    /// Tries after the first one, beside that of `failbackup`. 1 by default.
    pub most: u32,
    /// After what there is another try.
    pub on: Causes,
    /// The share of an upstream's requests that may be sent once more although they may have been processed. 0.2 by
    /// default.
    pub budget: f64,
    /// So many may always be, within ten seconds. 10 by default.
    pub budget_min: u32,
    /// How long one try may take until the head of its answer. None by default: as long as the request may.
    pub per_try: Option<Duration>,
    /// When `failbackup` begins its second try. After 50 ms by default.
    pub backup_after: BackupAfter,
    /// The longest body that is kept for another try, in bytes. 64 KiB by default.
    pub replay_bytes: usize,
}

/// Where another try goes. The names are those of rpcx.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nowhere.
    Failfast,
    /// To another endpoint.
    Failover,
    /// To the same one, while it is offered.
    Failtry,
    /// To another one, beside the first try, when that takes long.
    Failbackup,
}

impl Mode {
    pub const ALL: [Self; 4] = [Self::Failfast, Self::Failover, Self::Failtry, Self::Failbackup];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failfast => "failfast",
            Self::Failover => "failover",
            Self::Failtry => "failtry",
            Self::Failbackup => "failbackup",
        }
    }
}

/// When a second try begins beside the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupAfter {
    Time(Duration),
    /// When the first has taken longer than 19 of 20 requests of the upstream lately.
    P95,
}

/// Why there is another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// There was no connection, or nothing of the request was sent.
    Connect,
    /// The connection ended before the head of an answer.
    Reset,
    /// The time of one try was over.
    Timeout,
    Status500,
    Status502,
    Status503,
    Status504,
    /// A call of gRPC ended with this status before anything of its answer.
    Cancelled,
    Unknown,
    DeadlineExceeded,
    ResourceExhausted,
    Internal,
    Unavailable,
    /// The connection had been idle, and was dead when the request was sent. No failure of the endpoint, and so nothing
    /// that a policy could name.
    Stale,
}

impl Cause {
    pub const ALL: [Self; 14] = [
        Self::Connect,
        Self::Reset,
        Self::Timeout,
        Self::Status500,
        Self::Status502,
        Self::Status503,
        Self::Status504,
        Self::Cancelled,
        Self::Unknown,
        Self::DeadlineExceeded,
        Self::ResourceExhausted,
        Self::Internal,
        Self::Unavailable,
        Self::Stale,
    ];

    /// Those that are statuses of calls, with the numbers of these. They are named as in Envoy's `retry_on`.
    pub const CALLS: [(Self, u32); 6] = [
        (Self::Cancelled, Code::Cancelled as u32),
        (Self::Unknown, Code::Unknown as u32),
        (Self::DeadlineExceeded, Code::DeadlineExceeded as u32),
        (Self::ResourceExhausted, Code::ResourceExhausted as u32),
        (Self::Internal, Code::Internal as u32),
        (Self::Unavailable, Code::Unavailable as u32),
    ];

    /// As it is written in `on`, and counted.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Status500 => "500",
            Self::Status502 => "502",
            Self::Status503 => "503",
            Self::Status504 => "504",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
            Self::DeadlineExceeded => "deadline-exceeded",
            Self::ResourceExhausted => "resource-exhausted",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::Stale => "stale",
        }
    }

    pub fn of(status: StatusCode) -> Option<Self> {
        match status.as_u16() {
            500 => Some(Self::Status500),
            502 => Some(Self::Status502),
            503 => Some(Self::Status503),
            504 => Some(Self::Status504),
            _ => None,
        }
    }

    /// That a call ended with this status.
    pub fn of_call(status: u32) -> Option<Self> {
        Self::CALLS.into_iter().find(|(_, number)| *number == status).map(|(cause, _)| cause)
    }
}

/// A set of causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Causes(u16);

impl Causes {
    pub const NONE: Self = Self(0);

    pub const fn with(self, cause: Cause) -> Self {
        Self(self.0 | 1 << cause as u8)
    }

    pub const fn contains(self, cause: Cause) -> bool {
        self.0 & (1 << cause as u8) != 0
    }
}

impl FromIterator<Cause> for Causes {
    fn from_iter<I: IntoIterator<Item = Cause>>(causes: I) -> Self {
        causes.into_iter().fold(Self::NONE, Self::with)
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            mode: Mode::Failover,
            most: 1,
            on: Causes::NONE
                .with(Cause::Connect)
                .with(Cause::Reset)
                .with(Cause::Timeout)
                .with(Cause::Status502)
                .with(Cause::Status503)
                .with(Cause::Unavailable),
            budget: 0.2,
            budget_min: 10,
            per_try: None,
            backup_after: BackupAfter::Time(Duration::from_millis(50)),
            replay_bytes: 64 * 1024,
        }
    }
}

impl RetryPolicy {
    /// How many tries there may be after the first, one after the other.
    pub fn retries(&self) -> u32 {
        if self.mode == Mode::Failfast { 0 } else { self.most }
    }

    /// Whether a request may be sent once more after an endpoint may have processed it, so that it has to be kept.
    pub fn keeps(&self) -> bool {
        self.retries() > 0 || self.mode == Mode::Failbackup
    }
}

/// Whether a request with this method asks for the same thing however often it is sent (RFC 9110 9.2.2).
pub fn idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// Whether a request with this method only reads, so that it may be sent twice at once.
pub fn only_reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_idempotent_as_the_rfc_says_and_fewer_only_read() {
        for (method, is_idempotent, reads) in [
            ("GET", true, true),
            ("HEAD", true, true),
            ("OPTIONS", true, true),
            ("TRACE", true, false),
            ("PUT", true, false),
            ("DELETE", true, false),
            ("POST", false, false),
            ("PATCH", false, false),
            ("LIST", false, false),
        ] {
            let method: Method = method.parse().unwrap();
            assert_eq!((idempotent(&method), only_reads(&method)), (is_idempotent, reads), "{method}");
        }
    }

    #[test]
    fn a_set_has_what_was_put_in_and_nothing_else() {
        for cause in Cause::ALL {
            let only = Causes::from_iter([cause]);
            assert_eq!(Cause::ALL.map(|other| only.contains(other)), Cause::ALL.map(|other| other == cause));
        }
    }
}

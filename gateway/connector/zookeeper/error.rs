//! What a failure of ZooKeeper means to the gateway.

use super::wire::WireError;
use crate::registry::Failure;

/// Answers that are told apart, as ZooKeeper numbers them.
pub mod code {
    pub const NOT_TRIED: i32 = -2;
    pub const UNIMPLEMENTED: i32 = -6;
    pub const BAD_ARGUMENTS: i32 = -8;
    pub const NO_NODE: i32 = -101;
    pub const NO_AUTH: i32 = -102;
    pub const NODE_EXISTS: i32 = -110;
    pub const NOT_EMPTY: i32 = -111;
    pub const SESSION_EXPIRED: i32 = -112;
    pub const AUTH_FAILED: i32 = -115;
}

/// Why there is no answer, or not the one that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The connection is of no use any more, or there is none.
    #[error("{0}")]
    Broken(String),
    /// The server does not take the gateway's certificate.
    #[error("{0}")]
    NotBelieved(String),
    /// What answers speaks something else.
    #[error("{0}")]
    NoZooKeeper(String),
    #[error("names and data of what is followed are longer than can be taken")]
    TooLong,
    /// The server answered so.
    #[error("{}", meaning(*.0))]
    Code(i32),
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Many(_) => Self::TooLong,
            error => Self::NoZooKeeper(error.to_string()),
        }
    }
}

fn meaning(code: i32) -> String {
    match code {
        code::UNIMPLEMENTED => "it cannot do what is asked: ZooKeeper 3.6 or later is needed".to_owned(),
        code::BAD_ARGUMENTS => "this is no path of a node".to_owned(),
        code::NO_NODE => "there is no such node".to_owned(),
        code::NO_AUTH => "the gateway may not do that there".to_owned(),
        code::NODE_EXISTS => "the node is there already".to_owned(),
        code::NOT_EMPTY => "a node that has others below it is in the way".to_owned(),
        code::AUTH_FAILED => "the credential is refused".to_owned(),
        code => format!("error {code}"),
    }
}

impl Error {
    /// Whether the session is at fault, and another one might do better.
    pub fn ends_session(&self) -> bool {
        !matches!(
            self,
            Self::TooLong
                | Self::Code(
                    code::NOT_TRIED
                        | code::UNIMPLEMENTED
                        | code::BAD_ARGUMENTS
                        | code::NO_NODE
                        | code::NO_AUTH
                        | code::NODE_EXISTS
                        | code::NOT_EMPTY
                )
        )
    }

    /// Sorts it by what the gateway can do about it; `place` says where it happened.
    pub fn failure(&self, place: impl FnOnce(String) -> String) -> Failure {
        let text = place(self.to_string());
        match self {
            Self::NotBelieved(_) | Self::Code(code::NO_AUTH | code::AUTH_FAILED) => Failure::Denied(text),
            Self::TooLong | Self::Code(code::BAD_ARGUMENTS) => Failure::Invalid(text),
            Self::NoZooKeeper(_) | Self::Code(code::UNIMPLEMENTED) => Failure::Other(text),
            Self::Broken(_) | Self::Code(_) => Failure::Unavailable(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_sorted_by_what_helps() {
        for (error, kind, ends) in [
            (Error::Broken("reset".into()), "unavailable", true),
            (Error::NotBelieved("alert".into()), "denied", true),
            (WireError::Length(7).into(), "other", true),
            (WireError::Many(7).into(), "invalid", false),
            (Error::Code(code::AUTH_FAILED), "denied", true),
            (Error::Code(code::NO_AUTH), "denied", false),
            (Error::Code(code::BAD_ARGUMENTS), "invalid", false),
            (Error::TooLong, "invalid", false),
            (Error::Code(code::UNIMPLEMENTED), "other", false),
            (Error::Code(code::NOT_EMPTY), "unavailable", false),
            (Error::Code(code::NOT_TRIED), "unavailable", false),
            (Error::Code(-4), "unavailable", true),
        ] {
            assert_eq!((error.failure(|text| text).kind(), error.ends_session()), (kind, ends), "{error:?}");
        }
    }
}

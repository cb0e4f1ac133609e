//! What a failure of etcd means to the gateway.

use std::error::Error as _;

use etcd_client::Error;
use tonic::{Code, Status};

use crate::registry::Failure;

/// Sorts an error by what the gateway can do about it; `place` says where it happened.
pub(super) fn failure(error: &Error, place: impl FnOnce(String) -> String) -> Failure {
    let text = place(text(error));
    match error {
        Error::GRpcStatus(status) if refuses_credentials(status) => Failure::Denied(text),
        Error::TransportError(_) | Error::IoError(_) if alerts(&text) => Failure::Denied(text),
        Error::GRpcStatus(status) => match status.code() {
            Code::InvalidArgument if !is_old_token(status) => Failure::Invalid(text),
            Code::FailedPrecondition | Code::Unimplemented | Code::AlreadyExists => Failure::Other(text),
            _ => Failure::Unavailable(text),
        },
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::Utf8Error(_) => Failure::Invalid(text),
        Error::InvalidMetadataValue(_) => Failure::Other(text),
        _ => Failure::Unavailable(text),
    }
}

/// Whether another connection, or the same one with a new token, could do better.
pub(super) fn ends_session(error: &Error) -> bool {
    match error {
        Error::GRpcStatus(status) => match status.code() {
            Code::PermissionDenied
            | Code::NotFound
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::OutOfRange
            | Code::Unimplemented => false,
            Code::InvalidArgument => is_old_token(status) || refuses_credentials(status),
            _ => true,
        },
        Error::InvalidArgs(_) | Error::LeaseKeepAliveError(_) => false,
        _ => true,
    }
}

/// The password is wrong, the user unknown, the client certificate refused, or the role too small.
fn refuses_credentials(status: &Status) -> bool {
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => true,
        Code::InvalidArgument => {
            let text = status.message();
            text.contains("authentication failed") || text.contains("user name is empty")
        }
        _ => alerts(&chain(status.message(), status.source())),
    }
}

/// Somebody changed a user or a role, and etcd wants everyone to authenticate again.
fn is_old_token(status: &Status) -> bool {
    status.message().contains("revision of auth store is old")
}

/// Whether the other side ended the TLS handshake because of our certificate, or for want of one.
///
/// With TLS 1.3 that comes after our side of the handshake is done, and what we send meanwhile may break the
/// connection before the alert is read. The failure is `unavailable` then, and `denied` on another try.
fn alerts(text: &str) -> bool {
    const ABOUT_US: [&str; 8] = [
        "BadCertificate",
        "UnsupportedCertificate",
        "CertificateRevoked",
        "CertificateExpired",
        "CertificateUnknown",
        "CertificateRequired",
        "UnknownCA",
        "AccessDenied",
    ];
    text.split_once("received fatal alert: ")
        .is_some_and(|(_, alert)| ABOUT_US.iter().any(|name| alert.starts_with(name)))
}

pub(super) fn is_compacted(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status)
        if status.code() == Code::OutOfRange && status.message().contains("compacted"))
}

/// Whether an answer was longer than what this side takes.
pub(super) fn is_too_long(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status)
        if matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted)
            && status.message().contains("message length too large"))
}

pub(super) fn is_auth_off(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.message().contains("authentication is not enabled"))
}

pub(super) fn is_lease_gone(error: &Error) -> bool {
    match error {
        Error::GRpcStatus(status) => status.code() == Code::NotFound,
        Error::LeaseKeepAliveError(text) => text.contains("lease not found"),
        _ => false,
    }
}

fn text(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) => chain(status.message(), status.source()),
        Error::TransportError(error) => chain(&error.to_string(), error.source()),
        error => error.to_string(),
    }
}

/// An error with its causes: the outer ones say little ("transport error").
fn chain(first: &str, mut source: Option<&(dyn std::error::Error + 'static)>) -> String {
    let mut text = first.trim_start_matches("etcdserver: ").to_string();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_sorted_by_what_helps() {
        let check = |status: Status, kind: &str, ends: bool| {
            let error = Error::GRpcStatus(status);
            assert_eq!(failure(&error, |text| text).kind(), kind, "{error}");
            assert_eq!(ends_session(&error), ends, "{error}");
        };
        check(Status::unavailable("etcdserver: no leader"), "unavailable", true);
        check(Status::deadline_exceeded("late"), "unavailable", true);
        check(Status::unknown("transport error"), "unavailable", true);
        check(Status::unauthenticated("etcdserver: invalid auth token"), "denied", true);
        check(Status::permission_denied("etcdserver: permission denied"), "denied", false);
        check(Status::invalid_argument("etcdserver: user name is empty"), "denied", true);
        check(
            Status::invalid_argument("etcdserver: authentication failed, invalid user ID or password"),
            "denied",
            true,
        );
        check(Status::invalid_argument("etcdserver: revision of auth store is old"), "unavailable", true);
        check(Status::invalid_argument("etcdserver: key is not provided"), "invalid", false);
        check(Status::resource_exhausted("etcdserver: too many requests"), "unavailable", false);
    }
}

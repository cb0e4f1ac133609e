//! What stands in a file of certificates, for whoever wants to see it and not to use it.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustls::pki_types::CertificateDer;
use x509_cert::{
    certificate::{CertificateInner, Raw},
    der::Decode as _,
};

use super::{
    certificate::{self, FileError},
    identity::{Identity, since_1970},
};

/// A certificate, as far as people ask about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub subject: String,
    issuer: String,
    /// Seconds since it counts; less than 0 before.
    pub counts_since: i64,
    /// Seconds until it ends; less than 0 afterwards.
    pub ends_in: i64,
}

impl Seen {
    fn of(certificate: &CertificateDer<'_>, now: SystemTime) -> Result<Self, String> {
        let validity = Identity::of(certificate)?.validity;
        let raw = CertificateInner::<Raw>::from_der(certificate).map_err(|error| error.to_string())?;
        let of = raw.tbs_certificate();
        let now = since_1970(now).as_secs().cast_signed();
        Ok(Self {
            subject: of.subject().to_string(),
            issuer: of.issuer().to_string(),
            counts_since: now - validity.begins.as_secs().cast_signed(),
            ends_in: validity.ends.as_secs().cast_signed() - now,
        })
    }
}

/// The certificates in a file, in their order.
pub(crate) fn inspect(path: &Path, now: SystemTime) -> Result<Vec<Seen>, FileError> {
    let unfit = |error| FileError::Unfit { path: PathBuf::from(path), error };
    let chain = certificate::chain(path, &certificate::read(path)?)?;
    chain.iter().map(|certificate| Seen::of(certificate, now).map_err(unfit)).collect()
}

/// The first certificate of a chain that the one behind it did not issue, and who did.
pub(crate) fn gap(chain: &[Seen]) -> Option<(&str, &str)> {
    let mut pairs = chain.iter().zip(chain.iter().skip(1));
    let (one, _) = pairs.find(|(one, next)| one.issuer != next.subject)?;
    Some((&one.subject, &one.issuer))
}

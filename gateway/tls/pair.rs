//! A certificate with its key, both from files, which fit each other.

use std::sync::Arc;

use rustls::{Error, InconsistentKeys, sign::CertifiedKey};

use super::{
    certificate::{self, FileError},
    identity::Identity,
    provider::provider,
    settings::PairFiles,
};

pub(super) struct Pair {
    pub certified: Arc<CertifiedKey>,
    /// Whom the certificate belongs to.
    pub identity: Identity,
}

impl PairFiles {
    pub(super) fn paths(&self) -> [&std::path::Path; 2] {
        [&self.certificate, &self.key]
    }
}

impl Pair {
    /// Of the contents of the two files.
    pub(super) fn of(files: &PairFiles, certificate: &[u8], key: &[u8]) -> Result<Self, FileError> {
        let chain = certificate::chain(&files.certificate, certificate)?;
        let key = certificate::key(&files.key, key)?;
        let unfit = |error: String| FileError::Unfit { path: files.certificate.clone(), error };
        let identity = match chain.first() {
            Some(own) => Identity::of(own).map_err(unfit)?,
            None => return Err(FileError::NoCertificate(files.certificate.clone())),
        };
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                FileError::Apart { certificate: files.certificate.clone(), key: files.key.clone() }
            }
            other => unfit(other.to_string()),
        })?;
        Ok(Self { certified: Arc::new(certified), identity })
    }
}

/// Whether the files of a pair can be used.
pub(crate) fn check_pair(files: &PairFiles) -> Result<(), FileError> {
    let [certificate, key] = files.paths().map(certificate::read);
    Pair::of(files, &certificate?, &key?).map(drop)
}

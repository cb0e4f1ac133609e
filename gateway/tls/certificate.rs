//! Certificates and keys as they stand in files, and what can be wrong with them.

use std::path::{Path, PathBuf};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use crate::files::{self, ReadError};

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("{path} cannot be read: {error}")]
    Unreadable { path: PathBuf, error: ReadError },
    #[error("there is no certificate in {0}, in PEM")]
    NoCertificate(PathBuf),
    #[error("there is no private key in {0}, in PEM and without a password")]
    NoKey(PathBuf),
    #[error("the key in {key} is not that of the certificate in {certificate}")]
    Apart { certificate: PathBuf, key: PathBuf },
    #[error("the certificate in {path} cannot be used: {error}")]
    Unfit { path: PathBuf, error: String },
    #[error("this build has no TLS: {0}")]
    Unsupported(rustls::Error),
    #[error("no certificate of an authority is in {0}, in PEM")]
    NoAuthority(PathBuf),
    #[error(
        "the system has no certificates of authorities: install them (ca-certificates), or name a `ca_file`"
    )]
    NoSystem,
    #[error("line {line} of {path} is no key of 64 hexadecimal digits")]
    TicketKey { path: PathBuf, line: usize },
    #[error("there is no key in {0}")]
    NoTicketKey(PathBuf),
}

/// The whole of a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    files::read(path, files::CERTIFICATE).map_err(|error| FileError::Unreadable { path: path.into(), error })
}

/// The certificates in a file, in their order.
pub(super) fn chain(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let unfit = |error: rustls::pki_types::pem::Error| FileError::Unfit {
        path: path.into(),
        error: error.to_string(),
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(unfit)?;
    if chain.is_empty() { Err(FileError::NoCertificate(path.into())) } else { Ok(chain) }
}

pub(super) fn key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, FileError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| FileError::NoKey(path.into()))
}

/// The authorities in a file. Those that cannot be understood are passed over while there is another.
pub(super) fn authorities(path: &Path, pem: &[u8]) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    let found = chain(path, pem).map_err(|error| match error {
        FileError::NoCertificate(path) => FileError::NoAuthority(path),
        other => other,
    })?;
    let (added, ignored) = roots.add_parsable_certificates(found);
    if ignored > 0 {
        tracing::warn!(file = %path.display(), ignored, "Certificates of authorities that are none");
    }
    if added == 0 { Err(FileError::NoAuthority(path.into())) } else { Ok(roots) }
}

//! The one cryptography behind every policy here: aws-lc, with the key exchange that a quantum computer does not break
//! (X25519MLKEM768) offered first.

use std::sync::{Arc, LazyLock};

use rustls::{
    SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    version::{TLS12, TLS13},
};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

pub(super) static VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

pub(super) fn provider() -> Arc<CryptoProvider> {
    PROVIDER.clone()
}

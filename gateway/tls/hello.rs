//! What a client asks for in its first message of TLS, read without answering it.

use std::io;

use rustls::server::Acceptor;

/// The longest first message that is waited for, in bytes: more than any client sends.
const LONGEST: usize = 64 * 1024;

/// The first message of a client, as far as it has come. It may come in several pieces, and in several records.
#[derive(Default)]
pub struct Hello {
    acceptor: Acceptor,
    length: usize,
}

/// What a client has said of itself.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// More has to come.
    Unknown,
    /// The name that it wants to speak to.
    Name(String),
    /// It names nobody, or does not speak TLS.
    Nobody,
}

impl Hello {
    /// Takes in a further piece.
    pub fn read(&mut self, mut piece: &[u8]) -> Asked {
        self.length += piece.len();
        while !piece.is_empty() {
            match self.acceptor.read_tls(&mut piece as &mut dyn io::Read) {
                Ok(0) | Err(_) => return Asked::Nobody,
                Ok(_) => {}
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                    return name.map_or(Asked::Nobody, Asked::Name);
                }
                Err(_) => return Asked::Nobody,
            }
        }
        if self.length < LONGEST { Asked::Unknown } else { Asked::Nobody }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;
    use crate::tls::provider;

    /// The first message of a client that wants to speak to this name.
    fn hello(name: &str) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(provider::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut message = Vec::new();
        client.write_tls(&mut message).unwrap();
        message
    }

    #[test]
    fn what_is_no_tls_asks_for_nobody() {
        for other in [&b"GET / HTTP/1.1\r\n"[..], b"\x15\x03\x01\x00\x02\x02\x28", b"SSH-2.0-x\r\n"] {
            assert_eq!(Hello::default().read(other), Asked::Nobody, "{}", other.escape_ascii());
        }
        assert_eq!(Hello::default().read(&hello("192.0.2.1")), Asked::Nobody, "addresses are not told");
        assert_eq!(Hello::default().read(b"\x16\x03\x01"), Asked::Unknown);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_name_is_found_however_it_comes(size in 1..600_usize) {
            let message = hello("Orders.Example.com");
            let mut hello = Hello::default();
            let mut pieces = message.chunks(size).peekable();
            while let Some(piece) = pieces.next() {
                let asked = hello.read(piece);
                if pieces.peek().is_none() {
                    prop_assert_eq!(asked, Asked::Name("orders.example.com".into()));
                } else {
                    prop_assert_eq!(asked, Asked::Unknown);
                }
            }
        }

        #[test]
        fn nothing_that_comes_is_too_much(pieces in prop::collection::vec(any::<Vec<u8>>(), 0..8)) {
            let mut hello = Hello::default();
            for piece in pieces {
                hello.read(&piece);
            }
        }
    }
}

//! Clients of TLS that shake hands in every way there is, to the end and not.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Barrier,
};

use crate::support::{
    certs::{Certs, Pair},
    http2, tls,
};

/// How every answer begins. On a busy machine it may be that the endpoint took too long.
const HTTP: &str = "HTTP/1.1 ";

/// What clients of TLS have.
pub struct Shaking {
    /// Sessions are taken up by those who share it.
    shared: Arc<rustls::ClientConfig>,
    pub certs: Certs,
    known: Pair,
    /// An authority that has nothing to do with it.
    stranger: Certs,
    /// The listener answers requests of HTTP.
    http: bool,
}

impl Shaking {
    pub fn new(folder: &Path, http: bool) -> Arc<Self> {
        let (certs, stranger) = (Certs::new(&folder.join("certs")), Certs::new(&folder.join("stranger")));
        let known = certs.client("alice");
        let shared = tls::client(&certs.ca(), Some(&known), &[]);
        Arc::new(Self { shared, certs, known, stranger, http })
    }

    /// What is in the table `tls` of the listener.
    pub fn settings(&self) -> String {
        let own = self.certs.server();
        format!(
            "certificates = [{{ cert_file = '{}', key_file = '{}' }}],
             client_ca_file = '{}', client_certificate = 'optional'",
            own.certificate.display(),
            own.key.display(),
            self.certs.ca().display()
        )
    }

    /// Two in seven shake hands and have their answer, one of them by a session that it takes up, and one goes when hands are
    /// shaken. The others do not believe what they are shown, break off in the middle, or send garbage.
    pub async fn shake_hands(&self, address: SocketAddr, number: u64) {
        let (config, name) = (|| tls::client(&self.certs.ca(), Some(&self.known), &[]), "localhost");
        let connect = async || TcpStream::connect(address).await.unwrap();
        match number % 7 {
            0 => self.ask(&config(), address).await,
            1 => self.ask(&self.shared, address).await,
            2 => drop(tls::connect(&config(), address, name).await.unwrap()),
            3 => {
                let config = tls::client(&self.stranger.ca(), None, &[]);
                tls::connect(&config, address, name).await.unwrap_err();
            }
            4 => {
                let mut stream = connect().await;
                stream.write_all(&tls::hello(name)).await.unwrap();
                http2::in_time(stream.read_exact(&mut [0; 100])).await.unwrap();
                if number.is_multiple_of(2) {
                    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                }
            }
            5 => {
                let hello = tls::hello(name);
                let _ = connect().await.write_all(&hello[..(number as usize / 7) % hello.len()]).await;
            }
            _ => drop(connect().await.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await),
        }
    }

    /// A client that has something under way until all others have, too.
    pub async fn stay(&self, address: SocketAddr, all_are_there: &Barrier) {
        const UPLOAD: &str = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 4\r\n\r\n";
        let mut stream = tls::connect(&self.shared, address, "localhost").await.unwrap();
        if !self.http {
            stream.write_all(b"stay").await.unwrap();
            stream.read_exact(&mut [0; 4]).await.unwrap();
            all_are_there.wait().await;
            return;
        }
        stream.write_all(UPLOAD.as_bytes()).await.unwrap();
        all_are_there.wait().await;
        stream.write_all(b"stay").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(HTTP), "{answer}");
    }

    async fn ask(&self, config: &Arc<rustls::ClientConfig>, address: SocketAddr) {
        let request = if self.http { tls::get("/") } else { "some".to_owned() };
        let mut stream = tls::connect(config, address, "localhost").await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        if !self.http {
            stream.shutdown().await.unwrap();
        }
        let mut answer = String::new();
        http2::in_time(stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer == request || answer.starts_with(HTTP), "{answer}");
    }
}

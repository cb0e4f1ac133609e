//! A service as they are: a fixed number of workers, and a queue before them that nobody bounds. What a client no longer
//! waits for is done all the same.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{io::AsyncWriteExt, net::TcpListener, sync::Semaphore, task::JoinHandle};

use crate::support::origin::read_head;

/// Gone when it is dropped.
pub struct Service {
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Service {
    pub async fn start(workers: usize, work: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let workers = Arc::new(Semaphore::new(workers));
        let accepting = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let workers = workers.clone();
                tokio::spawn(async move {
                    let mut buffer = Vec::new();
                    while read_head(&mut stream, &mut buffer).await.is_some() {
                        // First come, first served.
                        let worker = workers.acquire().await.unwrap();
                        tokio::time::sleep(work).await;
                        drop(worker);
                        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err()
                        {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, accepting }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

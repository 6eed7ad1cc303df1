//! An upstream that can be killed with all its connections, and start anew at the same address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::{loopback, read_request};

pub struct Mortal {
    pub address: SocketAddr,
    taken: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Mortal {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Mortal {
    /// Answers 200 with `ok` to everything, a moment after it was asked.
    pub async fn start() -> Self {
        Self::start_at(loopback()).await
    }

    pub async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let taken = Arc::new(AtomicUsize::new(0));
        let counted = taken.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let counted = counted.clone();
                connections.spawn(async move {
                    // What a killed process leaves behind: resets, not ends.
                    let _ = stream.set_zero_linger();
                    let mut buffer = Vec::new();
                    while read_request(&mut stream, &mut buffer).await.is_some() {
                        counted.fetch_add(1, Ordering::SeqCst);
                        // The work, in which it can be killed.
                        tokio::time::sleep(Duration::from_millis(2)).await;
                        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, taken, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests that it has taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    /// Ends it with everything that it was at.
    pub async fn kill(mut self) -> SocketAddr {
        self.task.abort();
        let _ = (&mut self.task).await;
        self.address
    }
}

//! An upstream that can be killed with all its connections, and start anew at the same address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::{loopback, read_request};

pub struct Mortal {
    pub address: SocketAddr,
    taken: Arc<AtomicUsize>,
    at_work: Arc<AtomicUsize>,
    dead: Arc<AtomicBool>,
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
        let at_work = Arc::new(AtomicUsize::new(0));
        let dead = Arc::new(AtomicBool::new(false));
        let (counted, working, is_dead) = (taken.clone(), at_work.clone(), dead.clone());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (counted, working, is_dead) = (counted.clone(), working.clone(), is_dead.clone());
                connections.spawn(async move {
                    // What a killed process leaves behind: resets, not ends.
                    let _ = stream.set_zero_linger();
                    let mut buffer = Vec::new();
                    while read_request(&mut stream, &mut buffer).await.is_some() {
                        let count = counted.fetch_add(1, Ordering::SeqCst);
                        // The work, in which it can be killed: not all of it ends at once.
                        working.fetch_add(1, Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(1 + count as u64 % 7)).await;
                        working.fetch_sub(1, Ordering::SeqCst);
                        // Whoever was at work when it was killed does not finish.
                        if is_dead.load(Ordering::SeqCst)
                            || stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err()
                        {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, taken, at_work, dead, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests that it has taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    /// Requests that it is at.
    pub fn at_work(&self) -> usize {
        self.at_work.load(Ordering::SeqCst)
    }

    /// Ends it with everything that it was at.
    pub async fn kill(mut self) -> SocketAddr {
        self.dead.store(true, Ordering::SeqCst);
        self.task.abort();
        let _ = (&mut self.task).await;
        self.address
    }
}

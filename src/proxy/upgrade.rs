//! Step 12. Tunnels: after the upstream's 101, bytes go both ways until one side ends, nothing moves for too long, or
//! the gate goes down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

use super::accept::Held;
use super::stream::StreamFacts;
use crate::observe::Record;

const BUFFER_BYTES: usize = 16 << 10;

/// The two ends of a tunnel that is about to open.
pub struct Tunnel {
    pub client: OnUpgrade,
    pub upstream: OnUpgrade,
    pub facts: Option<Arc<StreamFacts>>,
    pub idle: Duration,
    pub _held: Arc<Held>,
    /// Becomes true when the gate's drain deadline has passed.
    pub closing: watch::Receiver<bool>,
}

impl Tunnel {
    /// Runs to its end. The record is written then.
    pub async fn run(self, mut record: Record) {
        if let Some(facts) = &self.facts {
            facts.becomes_tunnel();
        }
        let (client, upstream) = match tokio::try_join!(self.client, self.upstream) {
            Ok(ends) => ends,
            Err(error) => {
                record.detail = format!("the tunnel did not open: {error}").into();
                return;
            }
        };
        let (client_read, client_write) = tokio::io::split(TokioIo::new(client));
        let (upstream_read, upstream_write) = tokio::io::split(TokioIo::new(upstream));
        let moved = AtomicU64::new(0);
        let down = AtomicU64::new(0);
        let both = async {
            tokio::join!(copy(client_read, upstream_write, &moved, None), copy(upstream_read, client_write, &moved, Some(&down)));
        };
        let mut closing = self.closing;
        let reason = tokio::select! {
            () = both => "closed",
            () = idle(&moved, self.idle) => "idle for too long",
            _ = closing.wait_for(|closing| *closing) => "the gate goes down",
        };
        record.detail = reason.into();
        record.response_bytes = down.load(Ordering::Relaxed);
    }
}

/// Copies until the end and passes the end on, so that a half-closed tunnel still works the other way.
async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, moved: &AtomicU64, counter: Option<&AtomicU64>) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        if to.write_all(&buffer[..count]).await.is_err() || to.flush().await.is_err() {
            break;
        }
        moved.fetch_add(1, Ordering::Relaxed);
        if let Some(counter) = counter {
            counter.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
    let _ = to.shutdown().await;
}

async fn idle(moved: &AtomicU64, limit: Duration) {
    loop {
        let before = moved.load(Ordering::Relaxed);
        tokio::time::sleep(limit).await;
        if moved.load(Ordering::Relaxed) == before {
            return;
        }
    }
}

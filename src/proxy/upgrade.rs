//! Step 12. Tunnels: after the upstream's 101, bytes go both ways until one side ends, nothing moves for too long, the
//! token that opened it counts no more, or the gate goes down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

use super::accept::Held;
use super::ending::{CUT_AFTER, Reason, Watch};
use super::stream::StreamFacts;
use super::upstream::Place;
use super::websocket::{Frames, close_frame};
use crate::observe::Record;

const BUFFER_BYTES: usize = 16 << 10;

/// The two ends of a tunnel that is about to open.
pub struct Tunnel {
    pub client: OnUpgrade,
    pub upstream: OnUpgrade,
    pub facts: Option<Arc<StreamFacts>>,
    pub idle: Duration,
    pub _held: Arc<Held>,
    /// Its place among the connections to the endpoint.
    pub place: Option<Arc<Place>>,
    /// Becomes true when the gate's drain deadline has passed.
    pub closing: watch::Receiver<bool>,
    /// Whether its token still counts; `None` where that is nobody's matter.
    pub watch: Option<Watch>,
}

/// Why a tunnel is to end, once it is.
type Ending = watch::Receiver<Option<Reason>>;

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
        let (tell, ending) = watch::channel(None);
        let both = async {
            let up = copy_up(client_read, upstream_write, &moved, ending.clone());
            tokio::join!(up, copy_down(upstream_read, client_write, &moved, &down, ending.clone()));
        };
        let told = async {
            match self.watch {
                Some(watch) => {
                    tell.send_replace(Some(watch.end().await));
                    tokio::time::sleep(CUT_AFTER).await;
                }
                None => std::future::pending().await,
            }
        };
        let mut closing = self.closing;
        let reason = tokio::select! {
            () = both => "closed",
            () = told => "cut",
            () = idle(&moved, self.idle) => "idle for too long",
            _ = closing.wait_for(|closing| *closing) => "the gate goes down",
        };
        record.reason = *ending.borrow();
        record.detail = reason.into();
        record.response_bytes = down.load(Ordering::Relaxed);
    }
}

/// Ends when the tunnel is to end, and says why.
async fn ended(ending: &mut Ending) -> Reason {
    match ending.wait_for(Option::is_some).await.map(|reason| *reason) {
        Ok(Some(reason)) => reason,
        _ => std::future::pending().await,
    }
}

/// Copies what the client sends until the end and passes the end on, so that a half-closed tunnel still works the other
/// way. Once the tunnel is to end nothing more is passed on; what comes is read until the client has read our close.
async fn copy_up(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, moved: &AtomicU64, mut ending: Ending) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let copied = async {
        loop {
            let count = match from.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            if to.write_all(&buffer[..count]).await.is_err() || to.flush().await.is_err() {
                break;
            }
            moved.fetch_add(1, Ordering::Relaxed);
        }
    };
    let over = tokio::select! {
        () = copied => true,
        _ = ended(&mut ending) => false,
    };
    let _ = to.shutdown().await;
    if !over {
        while from.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    }
}

/// Copies what the service sends. Once the tunnel is to end, to the end of the frame, and then a close of our own.
async fn copy_down(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &AtomicU64,
    counter: &AtomicU64,
    mut ending: Ending,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut frames = Frames::default();
    loop {
        let told = *ending.borrow_and_update();
        if let Some(reason) = told.filter(|_| frames.is_between()) {
            let _ = to.write_all(&close_frame(reason)).await;
            break;
        }
        // Between two reads alone: a write is not given up in the middle.
        let read = tokio::select! {
            biased;
            _ = ended(&mut ending), if told.is_none() => continue,
            read = from.read(&mut buffer) => read,
        };
        let mut part = match read {
            Ok(0) | Err(_) => break,
            Ok(count) => &buffer[..count],
        };
        match told {
            Some(_) => part = &part[..frames.pass_to_boundary(part)],
            None => frames.pass(part),
        }
        if to.write_all(part).await.is_err() || to.flush().await.is_err() {
            break;
        }
        moved.fetch_add(1, Ordering::Relaxed);
        counter.fetch_add(part.len() as u64, Ordering::Relaxed);
    }
    let _ = to.flush().await;
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

//! Step 11. Whether the client of an HTTP/2 stream takes its answer. hyper asks a body for its next piece only when there
//! is room for it, so a body cannot watch its client; what can is the task around both. When it ends, the stream is reset,
//! and all that the request held is let go (RFC 9113 §10.5).

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::sleep;

/// A client that takes as little as this within `timeouts.body` takes something.
pub const PIECE_BYTES_MAX: usize = 8 << 10;

tokio::task_local! {
    static TAKING: Arc<Taking>;
}

/// How far the client of a stream has come with its answer.
#[derive(Debug, Default)]
pub struct Taking {
    /// How often the body was asked for a piece: not before there is an answer, nor while a piece waits for room.
    asked: AtomicU64,
    given_up: AtomicBool,
}

impl Taking {
    /// That of the stream whose task this is; `None` over HTTP/1.1, where the connection itself is watched.
    pub fn of_this_stream() -> Option<Arc<Self>> {
        TAKING.try_with(Arc::clone).ok()
    }

    /// The body was asked for a piece, so there was room for the one before.
    pub fn asked(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    pub fn was_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Ends when one piece has waited for room for this long, and before it has for twice as long. Each look wakes the
    /// stream as well: one that waits for its service asks anew in between, and its client is not to blame.
    async fn stalled(&self, patience: Duration) {
        // Before the first piece there is nothing to time. The task that asks for it comes by here as well.
        poll_fn(|_| if self.asked.load(Ordering::Relaxed) == 0 { Poll::Pending } else { Poll::Ready(()) }).await;
        let mut before = 0;
        loop {
            sleep(patience).await;
            let asked = self.asked.load(Ordering::Relaxed);
            if asked > 0 && asked == before {
                self.given_up.store(true, Ordering::Relaxed);
                return;
            }
            before = asked;
        }
    }
}

/// Runs the streams of HTTP/2 connections, each until it ends or its client has taken nothing for too long.
#[derive(Debug, Clone)]
pub struct StreamTasks {
    pub patience: Duration,
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for StreamTasks {
    fn execute(&self, stream: F) {
        let (taking, patience) = (Arc::new(Taking::default()), self.patience);
        tokio::spawn(TAKING.scope(taking.clone(), async move {
            tokio::select! {
                // First, so that a stream that ends at once sets no timer.
                biased;
                _ = stream => {}
                () = taking.stalled(patience) => {}
            }
        }));
    }
}

//! Step 2. When a connection is quiet: no request is open on it, and none began for a while.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::stream::StreamFacts;
use super::taking::PIECE_BYTES_MAX;

/// Ends when no request was open for this long and the client took nothing of what is left of earlier answers: their last
/// pieces are with the connection, and no stream's task watches them any more.
pub async fn stuck(open: &AtomicUsize, begun: &AtomicUsize, written: &AtomicU64, limit: Duration) {
    loop {
        let before = written.load(Ordering::Relaxed);
        idle(open, begun, limit).await;
        if written.load(Ordering::Relaxed) - before < PIECE_BYTES_MAX as u64 {
            return;
        }
    }
}

/// Ends when a request has been and none began or was open for this long.
pub async fn quiet(open: &AtomicUsize, begun: &AtomicUsize, facts: &StreamFacts, limit: Duration) {
    loop {
        idle(open, begun, limit).await;
        if begun.load(Ordering::Relaxed) > 0 && facts.may_rest() {
            return;
        }
    }
}

/// Ends when no request began or was open for this long. GOAWAY lets streams that still send finish.
pub async fn idle(open: &AtomicUsize, begun: &AtomicUsize, limit: Duration) {
    loop {
        let (begun_before, open_before) = (begun.load(Ordering::Relaxed), open.load(Ordering::Relaxed));
        tokio::time::sleep(limit).await;
        let began = begun.load(Ordering::Relaxed) != begun_before;
        if open_before == 0 && open.load(Ordering::Relaxed) == 0 && !began {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[tokio::test]
    async fn a_connection_is_idle_when_its_last_request_ended_that_long_ago() {
        const LIMIT: Duration = Duration::from_millis(200);
        let (open, begun) = (AtomicUsize::new(1), AtomicUsize::new(1));
        let ends = async {
            tokio::time::sleep(LIMIT / 4).await;
            open.store(0, Ordering::Relaxed);
            clock::instant_now()
        };
        let ((), ended) = tokio::join!(idle(&open, &begun, LIMIT), ends);
        assert!(clock::instant_now().duration_since(ended) >= LIMIT);
    }
}

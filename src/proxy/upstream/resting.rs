//! Connections that rest: those on which nothing is asked, those that have room, and how they go when nobody wants them.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::future::AbortHandle;
use hyper::client::conn::http1;
use tokio::sync::oneshot;

use super::http2::{Sender, Standing};
use super::lent::Lent;
use super::pool::{Pool, spawn};
use crate::clock;

/// An HTTP/1.1 connection on which nothing is asked.
pub struct Idle {
    pub sender: http1::SendRequest<Lent>,
    pub place: Arc<Place>,
    pub since: Instant,
}

/// An HTTP/2 connection, which carries as many requests as it has room for.
pub struct Shared {
    pub sender: Sender,
    /// Requests on it, each until it has ended both ways. Changed under the lock of the pool alone.
    pub streams: AtomicUsize,
    pub standing: Arc<Standing>,
    pub used: AtomicBool,
    pub idle_since: Mutex<Instant>,
    pub place: Arc<Place>,
    /// Dropped with it: nobody asks anything on it any more.
    _asked: oneshot::Sender<Infallible>,
}

/// A place among the connections of an endpoint; free again when the last who holds it has let go.
pub struct Place {
    pub(super) pool: Arc<Pool>,
    /// Ends what moves the connection.
    pub(super) end: OnceLock<AbortHandle>,
}

impl Place {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        Self { pool, end: OnceLock::new() }
    }

    /// Closes an HTTP/1.1 connection, whatever goes on there.
    pub fn close(&self) {
        if let Some(end) = self.end.get() {
            end.abort();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.metrics.open.dec();
        self.pool.open.fetch_sub(1, Ordering::AcqRel);
        self.pool.make_connections();
    }
}

impl Shared {
    pub fn new(sender: Sender, standing: Arc<Standing>, place: Arc<Place>, asked: oneshot::Sender<Infallible>) -> Arc<Self> {
        let (streams, used, idle_since) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(clock::instant_now()));
        Arc::new(Self { sender, streams, standing, used, idle_since, place, _asked: asked })
    }

    pub fn has_room(&self, streams: usize) -> bool {
        let open = self.streams.load(Ordering::Acquire);
        open < streams && self.standing.has_room(open)
    }

    /// Whether nothing is asked on it. It stays so for as long as the pool is locked.
    pub fn is_idle(&self) -> bool {
        self.streams.load(Ordering::Acquire) == 0
    }

    fn is_idle_since(&self, now: Instant, limit: Duration) -> bool {
        let since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_idle() && now.duration_since(since) >= limit
    }
}

impl Pool {
    /// Lets go of idle connections that have ended.
    pub(super) fn forget_ended(&self) {
        let dead = self.locked(|state| {
            let idle = state.idle.extract_if(.., |idle| idle.sender.is_closed()).collect();
            let shared = state.shared.extract_if(.., |shared| shared.standing.is_closing()).collect();
            (idle, shared)
        });
        self.bury(dead);
    }

    pub(super) fn start_sweeping(&self) {
        let begins = self.locked(|state| {
            let begins = !state.sweeping && (!state.idle.is_empty() || !state.shared.is_empty());
            state.sweeping |= begins;
            begins
        });
        if begins {
            spawn(sweep(self.me.clone()));
        }
    }

    /// Closes what was idle for too long. Whether there is anything left to look at.
    fn sweep(&self) -> bool {
        let idle_max = self.bounds.load().limits.idle;
        let now = clock::instant_now();
        let (dead, more) = self.locked(|state| {
            let idle = state.idle.extract_if(.., |idle| now.duration_since(idle.since) >= idle_max).collect();
            let shared = state.shared.extract_if(.., |shared| shared.is_idle_since(now, idle_max)).collect();
            let more = !state.idle.is_empty() || !state.shared.is_empty();
            state.sweeping = more;
            ((idle, shared), more)
        });
        self.bury(dead);
        more
    }
}

/// Looks after idle connections until there are none.
pub async fn sweep(pool: Weak<Pool>) {
    loop {
        let Some(pause) = pool.upgrade().map(|pool| (pool.bounds.load().limits.idle / 4).max(Duration::from_millis(10))) else { return };
        tokio::time::sleep(pause).await;
        if !pool.upgrade().is_some_and(|pool| pool.sweep()) {
            return;
        }
    }
}

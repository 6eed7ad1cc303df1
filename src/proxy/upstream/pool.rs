//! The connections of one endpoint: those that wait for a request, those that carry several at once, those that are being
//! made, and the requests that wait for one.
//!
//! **Rule:** nothing that holds a [`Place`] is dropped while the state is locked, since giving a place back locks it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hyper::client::conn::{http1, http2};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::connect::{ConnectError, Connected, Connector};
use super::lease::{Carrier, Lease};
use super::lent::Lent;
use crate::clock;
use crate::observe::EndpointMetrics;
use crate::policy::{UpstreamBounds, UpstreamTimeouts};
use crate::proxy::failure::Failure;

/// How much longer a request waits than a connection may take, so that it hears why there is none.
const WAIT_SLACK: Duration = Duration::from_millis(100);

/// What may change while the connections stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    pub limits: UpstreamBounds,
    pub timeouts: UpstreamTimeouts,
}

pub struct Pool {
    me: Weak<Pool>,
    connector: Connector,
    bounds: ArcSwap<Bounds>,
    state: Mutex<State>,
    /// Connections that are open or being made.
    open: AtomicUsize,
    pub metrics: EndpointMetrics,
}

struct State {
    /// Requests are served as long as some come, but nothing is kept.
    closed: bool,
    /// HTTP/1.1 connections on which nothing is asked, the newest last.
    idle: Vec<Idle>,
    /// HTTP/2 connections.
    shared: Vec<Arc<Shared>>,
    waiting: VecDeque<oneshot::Sender<Result<Lease, NoConnection>>>,
    connecting: usize,
    /// Whether the last connection spoke HTTP/2, so that one is made for many requests.
    http2: bool,
    sweeping: bool,
}

struct Idle {
    sender: http1::SendRequest<Lent>,
    place: Arc<Place>,
    since: Instant,
}

/// An HTTP/2 connection, which carries as many requests as it has room for.
pub struct Shared {
    pub sender: http2::SendRequest<Lent>,
    /// Requests on it. Changed under the lock of the pool alone.
    streams: AtomicUsize,
    /// How many the service allows.
    allowed: Arc<AtomicUsize>,
    used: AtomicBool,
    idle_since: Mutex<Instant>,
    place: Arc<Place>,
}

/// A place among the connections of an endpoint; free again when the last who holds it has let go.
pub struct Place(Arc<Pool>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.metrics.open.dec();
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.make_connections();
    }
}

/// Why a request got no connection. It never left.
#[derive(Debug, Clone)]
pub struct NoConnection {
    pub failure: Failure,
    pub detail: String,
}

/// Which connection is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    Any,
    /// One that was just made: those at hand have turned out to be closed.
    Fresh,
}

/// What is dropped after the lock.
type Dead = (Vec<Idle>, Vec<Arc<Shared>>);

impl Pool {
    pub fn new(connector: Connector, bounds: Bounds, metrics: EndpointMetrics) -> Arc<Self> {
        let state = State {
            closed: false,
            idle: Vec::new(),
            shared: Vec::new(),
            waiting: VecDeque::new(),
            connecting: 0,
            http2: connector.prior_knowledge,
            sweeping: false,
        };
        let pool = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            connector,
            bounds: ArcSwap::from_pointee(bounds),
            state: Mutex::new(state),
            open: AtomicUsize::new(0),
            metrics,
        });
        pool.keep_warm();
        pool
    }

    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Takes over other limits; connections stay.
    pub fn adopt(&self, bounds: &Bounds) {
        if **self.bounds.load() != *bounds {
            self.bounds.store(Arc::new(bounds.clone()));
            self.make_connections();
            self.keep_warm();
        }
    }

    /// Keeps nothing any more. Who still asks is served, on a connection that ends with its request.
    pub fn close(&self) {
        let dead = self.locked(|state| {
            state.closed = true;
            (std::mem::take(&mut state.idle), std::mem::take(&mut state.shared))
        });
        self.bury(dead);
    }

    fn locked<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn bury(&self, dead: Dead) {
        self.metrics.idle.sub(i64::try_from(dead.0.len()).unwrap_or(0));
        drop(dead);
    }

    /// A connection that is there, or `None`.
    pub fn take(&self, want: Want) -> Option<Lease> {
        let bounds = self.bounds.load();
        let now = clock::instant_now();
        let me = self.me.upgrade()?;
        let mut dead: Dead = Default::default();
        let lease = self.locked(|state| {
            if want == Want::Fresh {
                // Those at hand are of the same age as the one that was closed.
                dead.0 = std::mem::take(&mut state.idle);
                return None;
            }
            state.take(now, &bounds.limits, &me, &mut dead)
        });
        self.bury(dead);
        lease
    }

    /// A connection, as soon as there is one.
    pub async fn lease(&self, want: Want) -> Result<Lease, NoConnection> {
        if let Some(lease) = self.take(want) {
            return Ok(lease);
        }
        let bounds = self.bounds.load_full();
        let (sender, receiver) = oneshot::channel();
        let queued = self.locked(|state| {
            let per_connection = state.per_connection(&bounds.limits);
            let hopeful = state.connecting * per_connection;
            let room = bounds.limits.connections.saturating_sub(self.open.load(Ordering::Acquire)) * per_connection;
            let ahead = state.waiting.iter().filter(|waiter| !waiter.is_closed()).count();
            if ahead >= hopeful + room && ahead - hopeful - room >= bounds.limits.pending {
                return false;
            }
            state.waiting.push_back(sender);
            true
        });
        if !queued {
            self.metrics.refused.inc();
            let detail = format!("{} connections, and {} requests wait for one", bounds.limits.connections, bounds.limits.pending);
            return Err(NoConnection { failure: Failure::UpstreamOverloaded, detail });
        }
        self.make_connections();
        let _waits = Waits::new(&self.metrics);
        match timeout(bounds.timeouts.connect + WAIT_SLACK, receiver).await {
            Ok(Ok(answer)) => answer,
            // The pool never drops a waiter without a word; if it did, nothing was sent.
            Ok(Err(_)) => Err(NoConnection { failure: Failure::UpstreamRefused, detail: "no connection".to_owned() }),
            Err(_) if self.open.load(Ordering::Acquire) >= bounds.limits.connections => {
                self.metrics.refused.inc();
                let detail = format!("none of {} connections was free within {:?}", bounds.limits.connections, bounds.timeouts.connect);
                Err(NoConnection { failure: Failure::UpstreamOverloaded, detail })
            }
            Err(_) => {
                let detail = format!("no connection within {:?}", bounds.timeouts.connect);
                Err(NoConnection { failure: Failure::UpstreamRefused, detail })
            }
        }
    }

    /// A connection of its own, for what becomes a tunnel, over HTTP/1.1 whatever the endpoint would choose.
    pub async fn lease_for_tunnel(&self) -> Result<Lease, NoConnection> {
        if !self.may_choose_http2() {
            return self.lease(Want::Any).await;
        }
        let bounds = self.bounds.load_full();
        let Some(place) = self.place(&bounds.limits) else {
            self.metrics.refused.inc();
            let detail = format!("{} connections, which is all there may be", bounds.limits.connections);
            return Err(NoConnection { failure: Failure::UpstreamOverloaded, detail });
        };
        let made = self.connect(true, &bounds).await;
        match made {
            Ok(connected) => match self.drive(connected, Arc::new(place)) {
                Made::Http1(sender, place) => Ok(Lease::new(Carrier::Http1(sender), place, self.arc()?, false)),
                Made::Http2(_) => {
                    Err(NoConnection { failure: Failure::UpstreamBroken, detail: "HTTP/2, where HTTP/1.1 was asked for".to_owned() })
                }
            },
            Err(error) => Err(NoConnection { failure: Failure::UpstreamRefused, detail: error.detail }),
        }
    }

    fn may_choose_http2(&self) -> bool {
        self.connector.tls.as_ref().is_some_and(|(tls, _)| tls.usual.alpn_protocols.iter().any(|name| name == b"h2"))
    }

    fn arc(&self) -> Result<Arc<Self>, NoConnection> {
        let gone = || NoConnection { failure: Failure::UpstreamRefused, detail: "the endpoint is gone".to_owned() };
        self.me.upgrade().ok_or_else(gone)
    }

    /// One more connection, if there may be one. Without room an idle one goes.
    fn place(&self, limits: &UpstreamBounds) -> Option<Place> {
        let pool = self.me.upgrade()?;
        let taken = self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| (open < limits.connections).then_some(open + 1));
        taken.ok()?;
        self.metrics.open.inc();
        Some(Place(pool))
    }

    /// Makes as many connections as the requests that wait need, and as there may be.
    fn make_connections(&self) {
        let bounds = self.bounds.load_full();
        loop {
            let wanted = self.locked(|state| {
                state.waiting.retain(|waiter| !waiter.is_closed());
                let wanted = state.waiting.len() > state.connecting * state.per_connection(&bounds.limits);
                state.connecting += usize::from(wanted);
                wanted
            });
            if !wanted {
                return;
            }
            let Some(place) = self.place(&bounds.limits) else {
                self.locked(|state| state.connecting -= 1);
                return;
            };
            tokio::spawn(make(place, bounds.clone()));
        }
    }

    async fn connect(&self, http1: bool, bounds: &Bounds) -> Result<Connected, ConnectError> {
        let limit = bounds.timeouts.connect;
        let made = timeout(limit, self.connector.connect(http1, bounds.limits.streams)).await;
        let made = made.unwrap_or_else(|_| Err(ConnectError { result: "timeout", detail: format!("not connected within {limit:?}") }));
        self.metrics.connects(made.as_ref().err().map_or("ok", |error| error.result));
        made
    }

    /// Sets a new connection going.
    fn drive(&self, connected: Connected, place: Arc<Place>) -> Made {
        let (pool, held) = (self.me.clone(), place.clone());
        match connected {
            Connected::Http1(sender, connection) => {
                tokio::spawn(async move {
                    if let Err(error) = connection.with_upgrades().await {
                        tracing::debug!(target: "wicketgate::upstream", %error, "a connection ended");
                    }
                    ended(&pool, held);
                });
                Made::Http1(sender, place)
            }
            Connected::Http2(sender, mut connection) => {
                let allowed = Arc::new(AtomicUsize::new(usize::MAX));
                let seen = allowed.clone();
                tokio::spawn(async move {
                    let moved = std::future::poll_fn(|cx| {
                        let moved = std::pin::Pin::new(&mut connection).poll(cx);
                        seen.store(connection.current_max_send_streams().max(1), Ordering::Relaxed);
                        moved
                    });
                    if let Err(error) = moved.await {
                        tracing::debug!(target: "wicketgate::upstream", %error, "a connection ended");
                    }
                    ended(&pool, held);
                });
                let idle_since = Mutex::new(clock::instant_now());
                let (streams, used) = (AtomicUsize::new(0), AtomicBool::new(false));
                Made::Http2(Arc::new(Shared { sender, streams, allowed, used, idle_since, place }))
            }
        }
    }

    /// An HTTP/1.1 connection that is free: to who waits, or to the others that do.
    pub(super) fn give_back(&self, sender: http1::SendRequest<Lent>, place: Arc<Place>) {
        let Some(pool) = self.me.upgrade() else { return };
        let lease = Lease::new(Carrier::Http1(sender), place, pool, true);
        let Some((sender, place)) = self.offer(lease).and_then(Lease::into_http1) else { return };
        let idle = Idle { sender, place, since: clock::instant_now() };
        let refused = self.locked(|state| {
            if state.closed {
                return Some(idle);
            }
            state.idle.push(idle);
            self.metrics.idle.inc();
            None
        });
        drop(refused);
        self.start_sweeping();
    }

    /// To the first that waits; back, if nobody does.
    fn offer(&self, mut lease: Lease) -> Option<Lease> {
        loop {
            let Some(waiter) = self.locked(|state| state.waiting.pop_front()) else { return Some(lease) };
            match waiter.send(Ok(lease)) {
                Ok(()) | Err(Err(_)) => return None,
                Err(Ok(unsent)) => lease = unsent,
            }
        }
    }

    /// An HTTP/2 connection has room again.
    pub(super) fn stream_ended(&self, shared: &Arc<Shared>) {
        self.locked(|_| {
            if shared.streams.fetch_sub(1, Ordering::AcqRel) == 1 {
                *shared.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = clock::instant_now();
            }
        });
        self.serve_waiting();
        self.start_sweeping();
    }

    /// Gives room on HTTP/2 connections to requests that wait.
    fn serve_waiting(&self) {
        let Some(pool) = self.me.upgrade() else { return };
        let bounds = self.bounds.load();
        loop {
            let found = self.locked(|state| {
                while state.waiting.front().is_some_and(oneshot::Sender::is_closed) {
                    state.waiting.pop_front();
                }
                if state.waiting.is_empty() {
                    return None;
                }
                let lease = state.take_shared(&bounds.limits, &pool)?;
                Some((state.waiting.pop_front()?, lease))
            });
            let Some((waiter, lease)) = found else { return };
            // One that has left in the meantime gives its place back by dropping the lease.
            let _ = waiter.send(Ok(lease));
        }
    }

    /// Puts no more requests on a connection that the service is closing.
    pub(super) fn retire(&self, shared: &Arc<Shared>) {
        let dead = self.locked(|state| {
            let at = state.shared.iter().position(|known| Arc::ptr_eq(known, shared))?;
            Some(state.shared.swap_remove(at))
        });
        drop(dead);
    }

    /// Lets go of idle connections that have ended.
    fn forget_ended(&self) {
        let dead = self.locked(|state| {
            let idle = state.idle.extract_if(.., |idle| idle.sender.is_closed()).collect();
            let shared = state.shared.extract_if(.., |shared| shared.sender.is_closed()).collect();
            (idle, shared)
        });
        self.bury(dead);
    }

    fn start_sweeping(&self) {
        let begins = self.locked(|state| {
            let begins = !state.sweeping && (!state.idle.is_empty() || !state.shared.is_empty());
            state.sweeping |= begins;
            begins
        });
        if begins {
            tokio::spawn(sweep(self.me.clone()));
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

    /// Opens connections ahead of need, for as long as the endpoint is there.
    fn keep_warm(&self) {
        const LOOK: Duration = Duration::from_millis(500);
        if self.bounds.load().limits.warm == 0 {
            return;
        }
        let me = self.me.clone();
        tokio::spawn(async move {
            loop {
                {
                    let Some(pool) = me.upgrade() else { return };
                    let bounds = pool.bounds.load_full();
                    if bounds.limits.warm == 0 || pool.locked(|state| state.closed) {
                        return;
                    }
                    pool.warm_up(&bounds);
                }
                tokio::time::sleep(LOOK).await;
            }
        });
    }

    fn warm_up(&self, bounds: &Arc<Bounds>) {
        let missing = self.locked(|state| {
            let there = state.idle.len() + state.shared.len() + state.connecting;
            let missing = bounds.limits.warm.saturating_sub(there);
            state.connecting += missing;
            missing
        });
        for made in 0..missing {
            match self.place(&bounds.limits) {
                Some(place) => drop(tokio::spawn(make(place, bounds.clone()))),
                None => return self.locked(|state| state.connecting -= missing - made),
            }
        }
    }
}

enum Made {
    Http1(http1::SendRequest<Lent>, Arc<Place>),
    Http2(Arc<Shared>),
}

/// Makes a connection, and hands it to who waits.
async fn make(place: Place, bounds: Arc<Bounds>) {
    let pool = place.0.clone();
    let made = pool.connect(false, &bounds).await;
    pool.locked(|state| state.connecting -= 1);
    match made {
        Ok(connected) => match pool.drive(connected, Arc::new(place)) {
            Made::Http1(sender, place) => {
                pool.locked(|state| state.http2 = false);
                // Dropped, a lease gives its connection back, once it is ready.
                drop(pool.offer(Lease::new(Carrier::Http1(sender), place, pool.clone(), false)));
            }
            Made::Http2(shared) => {
                let kept = pool.locked(|state| {
                    state.http2 = true;
                    state.shared.push(shared);
                    !state.closed || !state.waiting.is_empty()
                });
                pool.serve_waiting();
                if !kept {
                    pool.close();
                }
                pool.start_sweeping();
            }
        },
        Err(error) => {
            drop(place);
            pool.fail_one(&error, &bounds);
        }
    }
    // With fewer on the way there may be too few for those who wait.
    pool.make_connections();
}

impl Pool {
    /// Tells a request that its connection was not made, unless others on the way are enough.
    fn fail_one(&self, error: &ConnectError, bounds: &Bounds) {
        let waiters = self.locked(|state| {
            state.waiting.retain(|waiter| !waiter.is_closed());
            let per_connection = state.per_connection(&bounds.limits);
            let surplus = state.waiting.len().saturating_sub(state.connecting * per_connection).min(per_connection);
            state.waiting.drain(..surplus).collect::<Vec<_>>()
        });
        for waiter in waiters {
            let _ = waiter.send(Err(NoConnection { failure: Failure::UpstreamRefused, detail: error.detail.clone() }));
        }
    }
}

fn ended(pool: &Weak<Pool>, place: Arc<Place>) {
    if let Some(pool) = pool.upgrade() {
        pool.forget_ended();
    }
    drop(place);
}

async fn sweep(pool: Weak<Pool>) {
    loop {
        let Some(pause) = pool.upgrade().map(|pool| (pool.bounds.load().limits.idle / 4).max(Duration::from_millis(10))) else { return };
        tokio::time::sleep(pause).await;
        if !pool.upgrade().is_some_and(|pool| pool.sweep()) {
            return;
        }
    }
}

impl State {
    fn per_connection(&self, limits: &UpstreamBounds) -> usize {
        if self.http2 { limits.streams.max(1) } else { 1 }
    }

    fn take(&mut self, now: Instant, limits: &UpstreamBounds, pool: &Arc<Pool>, dead: &mut Dead) -> Option<Lease> {
        while let Some(idle) = self.idle.pop() {
            let good = idle.sender.is_ready() && !idle.sender.is_closed() && now.duration_since(idle.since) < limits.idle;
            if good {
                pool.metrics.idle.dec();
                return Some(Lease::new(Carrier::Http1(idle.sender), idle.place, pool.clone(), true));
            }
            dead.0.push(idle);
        }
        self.take_shared(limits, pool)
    }

    /// Room on an HTTP/2 connection: on the first that has some, so that others become idle and go.
    fn take_shared(&mut self, limits: &UpstreamBounds, pool: &Arc<Pool>) -> Option<Lease> {
        let shared = self.shared.iter().find(|shared| shared.has_room(limits.streams))?.clone();
        shared.streams.fetch_add(1, Ordering::AcqRel);
        let (place, reused) = (shared.place.clone(), shared.used.swap(true, Ordering::AcqRel));
        Some(Lease::new(Carrier::Http2(shared), place, pool.clone(), reused))
    }
}

impl Shared {
    fn has_room(&self, streams: usize) -> bool {
        self.streams.load(Ordering::Acquire) < streams.min(self.allowed.load(Ordering::Relaxed)) && !self.sender.is_closed()
    }

    fn is_idle_since(&self, now: Instant, limit: Duration) -> bool {
        let since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        self.streams.load(Ordering::Acquire) == 0 && now.duration_since(since) >= limit
    }
}

/// Counts a request as waiting for as long as it does.
struct Waits(prometheus::IntGauge);

impl Waits {
    fn new(metrics: &EndpointMetrics) -> Self {
        metrics.pending.inc();
        Self(metrics.pending.clone())
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.dec();
    }
}

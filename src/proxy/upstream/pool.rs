//! The connections of one endpoint: those that wait for a request, those that carry several at once, those that are being
//! made, and the requests that wait for one.
//!
//! **Rule:** nothing that holds a [`Place`] is dropped while the state is locked, since giving a place back locks it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hyper::client::conn::http1;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::connect::Connector;
use super::lease::{Carrier, Lease};
use super::lent::Lent;
use super::resting::{Idle, Place, Shared, sweep};
use super::tunnels::TunnelWaiter;
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
    pub(super) me: Weak<Pool>,
    pub(super) connector: Connector,
    pub(super) bounds: ArcSwap<Bounds>,
    state: Mutex<State>,
    /// Connections that are open or being made.
    pub(super) open: AtomicUsize,
    pub(super) metrics: EndpointMetrics,
}

pub(super) struct State {
    /// Requests are served as long as some come, but nothing is kept.
    pub closed: bool,
    /// HTTP/1.1 connections on which nothing is asked, the newest last.
    pub idle: Vec<Idle>,
    /// HTTP/2 connections.
    pub shared: Vec<Arc<Shared>>,
    pub waiting: VecDeque<Waiter>,
    pub tunnels: VecDeque<TunnelWaiter>,
    pub connecting: usize,
    /// Whether the last connection spoke HTTP/2, so that one is made for many requests.
    pub http2: bool,
    pub sweeping: bool,
    pub warming: bool,
}

/// Why a request got no connection. It never left.
#[derive(Debug, Clone)]
pub struct NoConnection {
    /// Whether the endpoint said no at once, as one does that is just starting: it may be there in a moment.
    pub at_once: bool,
    pub failure: Failure,
    pub detail: String,
}

/// A request that waits for a connection.
pub(super) type Waiter = oneshot::Sender<Result<Lease, NoConnection>>;

/// What became of a request that found no connection.
enum Queued {
    /// It found one after all.
    Served(Lease),
    Waits,
    Full,
}

/// What becomes of a connection that is free.
enum PutAway {
    /// Whether somebody must look after those that are kept.
    Kept {
        sweep: bool,
    },
    NotKept(Idle),
    Wanted(Waiter, Idle),
}

/// Which connection is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    Any,
    /// One that was just made: those at hand have turned out to be closed.
    Fresh,
}

/// Sets something going, unless the process is ending.
pub(super) fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = Handle::try_current() {
        drop(runtime.spawn(work));
    }
}

/// What is dropped after the lock.
pub(super) type Dead = (Vec<Idle>, Vec<Arc<Shared>>);

impl Pool {
    pub fn new(connector: Connector, bounds: Bounds, metrics: EndpointMetrics) -> Arc<Self> {
        let state = State {
            closed: false,
            idle: Vec::new(),
            shared: Vec::new(),
            waiting: VecDeque::new(),
            tunnels: VecDeque::new(),
            connecting: 0,
            http2: connector.prior_knowledge,
            sweeping: false,
            warming: false,
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

    pub(super) fn locked<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn bury(&self, dead: Dead) {
        self.metrics.idle.sub(i64::try_from(dead.0.len()).unwrap_or(0));
        drop(dead);
    }

    fn is_full(&self, limits: &UpstreamBounds) -> bool {
        self.open.load(Ordering::Acquire) >= limits.connections
    }

    /// A connection that is there, or `None`.
    pub fn take(&self, want: Want) -> Option<Lease> {
        let bounds = self.bounds.load();
        let me = self.me.upgrade()?;
        let mut dead: Dead = Default::default();
        let lease = self.locked(|state| state.take_as(want, self.is_full(&bounds.limits), &bounds.limits, &me, &mut dead));
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
        let me = self.arc()?;
        let mut dead: Dead = Default::default();
        // What became free since it was looked for is seen under the lock under which the request begins to wait.
        let queued = self.locked(|state| match state.take_as(want, self.is_full(&bounds.limits), &bounds.limits, &me, &mut dead) {
            Some(lease) => Queued::Served(lease),
            None => state.queue(sender, self.open.load(Ordering::Acquire), &bounds.limits),
        });
        self.bury(dead);
        match queued {
            Queued::Served(lease) => return Ok(lease),
            Queued::Waits => {}
            Queued::Full => {
                self.metrics.refused.inc();
                let detail = format!("{} connections, and {} requests wait for one", bounds.limits.connections, bounds.limits.pending);
                return Err(NoConnection { at_once: false, failure: Failure::UpstreamOverloaded, detail });
            }
        }
        self.make_connections();
        let _waits = Waits::new(&self.metrics);
        match timeout(bounds.timeouts.connect + WAIT_SLACK, receiver).await {
            Ok(Ok(answer)) => answer,
            // The pool never drops a waiter without a word; if it did, nothing was sent.
            Ok(Err(_)) => Err(NoConnection { at_once: false, failure: Failure::UpstreamRefused, detail: "no connection".to_owned() }),
            Err(_) if self.is_full(&bounds.limits) => {
                self.metrics.refused.inc();
                let detail = format!("none of {} connections was free within {:?}", bounds.limits.connections, bounds.timeouts.connect);
                Err(NoConnection { at_once: false, failure: Failure::UpstreamOverloaded, detail })
            }
            Err(_) => {
                let detail = format!("no connection within {:?}", bounds.timeouts.connect);
                Err(NoConnection { at_once: false, failure: Failure::UpstreamRefused, detail })
            }
        }
    }

    /// An HTTP/1.1 connection that is free: to who waits, or to the others that do. Whether somebody waits is asked and the
    /// connection put away under one lock, or somebody who came in between would wait for what is there.
    pub(super) fn give_back(&self, mut sender: http1::SendRequest<Lent>, mut place: Arc<Place>) {
        let Some(pool) = self.me.upgrade() else { return };
        loop {
            let idle = Idle { sender, place, since: clock::instant_now() };
            let (waiter, idle) = match self.locked(|state| state.put_away(idle)) {
                PutAway::Kept { sweep: begins } => {
                    self.metrics.idle.inc();
                    if begins {
                        spawn(sweep(self.me.clone()));
                    }
                    return;
                }
                PutAway::NotKept(idle) => return drop(idle),
                PutAway::Wanted(waiter, idle) => (waiter, idle),
            };
            let Err(Ok(unsent)) = waiter.send(Ok(Lease::new(Carrier::Http1(idle.sender), idle.place, pool.clone(), true))) else { return };
            let Some(again) = unsent.into_http1() else { return };
            (sender, place) = again;
        }
    }

    /// To the first that waits; back, if nobody does.
    pub(super) fn offer(&self, mut lease: Lease) -> Option<Lease> {
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
        self.make_room_for_tunnel();
        self.start_sweeping();
    }

    /// Gives room on HTTP/2 connections to requests that wait.
    pub(super) fn serve_waiting(&self) {
        let Some(pool) = self.me.upgrade() else { return };
        let bounds = self.bounds.load();
        loop {
            let found = self.locked(|state| {
                state.forget_who_left();
                if state.waiting.is_empty() {
                    return None;
                }
                let lease = state.take_shared(clock::instant_now(), self.is_full(&bounds.limits), &bounds.limits, &pool)?;
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
}

impl State {
    /// The first that waits is one that still does.
    pub fn forget_who_left(&mut self) {
        while self.waiting.front().is_some_and(oneshot::Sender::is_closed) {
            self.waiting.pop_front();
        }
    }

    pub fn per_connection(&self, limits: &UpstreamBounds) -> usize {
        if self.http2 { limits.streams.max(1) } else { 1 }
    }

    /// One that is at hand, of the kind that is wanted.
    fn take_as(&mut self, want: Want, full: bool, limits: &UpstreamBounds, pool: &Arc<Pool>, dead: &mut Dead) -> Option<Lease> {
        match want {
            Want::Any => {
                let now = clock::instant_now();
                self.take_idle(now, limits, pool, dead).or_else(|| self.take_shared(now, full, limits, pool))
            }
            // The oldest makes room, where there is none.
            Want::Fresh if full && !self.idle.is_empty() => {
                dead.0.push(self.idle.remove(0));
                None
            }
            // The one that turned out to be closed is not among them any more.
            Want::Fresh if full => self.take_shared(clock::instant_now(), full, limits, pool),
            Want::Fresh => None,
        }
    }

    /// How many requests the connections that are being made will take.
    pub fn hopeful(&self, limits: &UpstreamBounds) -> usize {
        self.connecting.saturating_mul(self.per_connection(limits))
    }

    /// Puts a request behind the others that wait, if one more may.
    fn queue(&mut self, waiter: Waiter, open: usize, limits: &UpstreamBounds) -> Queued {
        let room = limits.connections.saturating_sub(open).saturating_mul(self.per_connection(limits));
        // Tunnels that wait are among those that may.
        let most = self.hopeful(limits).saturating_add(room).saturating_add(limits.pending.saturating_sub(self.tunnels.len()));
        if self.waiting.len() >= most {
            self.waiting.retain(|waiter| !waiter.is_closed());
        }
        if self.waiting.len() >= most {
            return Queued::Full;
        }
        self.waiting.push_back(waiter);
        Queued::Waits
    }

    fn put_away(&mut self, idle: Idle) -> PutAway {
        self.forget_who_left();
        match self.waiting.pop_front() {
            Some(waiter) => PutAway::Wanted(waiter, idle),
            None if self.closed || self.tunnels_wait() => PutAway::NotKept(idle),
            None => {
                self.idle.push(idle);
                PutAway::Kept { sweep: !std::mem::replace(&mut self.sweeping, true) }
            }
        }
    }

    pub fn take_idle(&mut self, now: Instant, limits: &UpstreamBounds, pool: &Arc<Pool>, dead: &mut Dead) -> Option<Lease> {
        while let Some(idle) = self.idle.pop() {
            let good = idle.sender.is_ready() && !idle.sender.is_closed() && now.duration_since(idle.since) < limits.idle;
            if good {
                pool.metrics.idle.dec();
                return Some(Lease::new(Carrier::Http1(idle.sender), idle.place, pool.clone(), true));
            }
            dead.0.push(idle);
        }
        None
    }

    /// Room on an HTTP/2 connection: on the first that has some, so that others become idle and go. One that is silent is
    /// taken only where there can be no other.
    fn take_shared(&mut self, now: Instant, full: bool, limits: &UpstreamBounds, pool: &Arc<Pool>) -> Option<Lease> {
        let mut roomy = self.shared.iter().filter(|shared| shared.has_room(limits.streams));
        let shared = match roomy.clone().find(|shared| !shared.standing.is_silent(now)) {
            Some(shared) => shared.clone(),
            None => roomy.next().filter(|_| full)?.clone(),
        };
        shared.streams.fetch_add(1, Ordering::AcqRel);
        let (place, reused) = (shared.place.clone(), shared.used.swap(true, Ordering::AcqRel));
        Some(Lease::new(Carrier::Http2(shared), place, pool.clone(), reused))
    }
}

/// Counts a request as waiting for as long as it does.
pub(super) struct Waits(prometheus::IntGauge);

impl Waits {
    pub fn new(metrics: &EndpointMetrics) -> Self {
        metrics.pending.inc();
        Self(metrics.pending.clone())
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.dec();
    }
}

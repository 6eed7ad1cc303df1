//! Connections in the making: as many as those who wait need, and those that are kept open ahead of need.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::{AbortHandle, Abortable};
use hyper::client::conn::http1;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::connect::{ConnectError, Connected};
use super::lease::{Carrier, Lease};
use super::lent::Lent;
use super::pool::{Bounds, NoConnection, Pool, spawn};
use super::resting::{Place, Shared};
use crate::policy::UpstreamBounds;
use crate::proxy::failure::Failure;

/// A connection that is open and moves.
pub(super) enum Made {
    Http1(http1::SendRequest<Lent>, Arc<Place>),
    Http2(Arc<Shared>),
}

impl Pool {
    pub(super) fn arc(&self) -> Result<Arc<Self>, NoConnection> {
        let gone = || NoConnection { at_once: false, failure: Failure::UpstreamRefused, detail: "the endpoint is gone".to_owned() };
        self.me.upgrade().ok_or_else(gone)
    }

    /// One more connection, if there may be one.
    pub(super) fn place(&self, limits: &UpstreamBounds) -> Option<Place> {
        let pool = self.me.upgrade()?;
        let taken = self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| (open < limits.connections).then_some(open + 1));
        taken.ok()?;
        self.metrics.open.inc();
        Some(Place::new(pool))
    }

    /// Makes as many connections as the requests that wait need, and as there may be.
    pub(super) fn make_connections(&self) {
        let bounds = self.bounds.load_full();
        self.serve_tunnels(&bounds.limits);
        loop {
            let wanted = self.locked(|state| {
                state.forget_who_left();
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
            spawn(make(place, bounds.clone()));
        }
    }

    pub(super) async fn connect(&self, http1: bool, bounds: &Bounds) -> Result<Connected, ConnectError> {
        let limit = bounds.timeouts.connect;
        let made = timeout(limit, self.connector.connect(http1, bounds.limits.streams)).await;
        let made = made.unwrap_or_else(|_| Err(ConnectError { result: "timeout", detail: format!("not connected within {limit:?}") }));
        self.metrics.connects(made.as_ref().err().map_or("ok", |error| error.result));
        made
    }

    /// Sets a new connection going.
    pub(super) fn drive(&self, connected: Connected, place: Arc<Place>) -> Made {
        let (pool, held) = (self.me.clone(), place.clone());
        match connected {
            Connected::Http1(sender, connection) => {
                let (end, registration) = AbortHandle::new_pair();
                let _first = place.end.set(end);
                spawn(async move {
                    if let Ok(Err(error)) = Abortable::new(connection.with_upgrades(), registration).await {
                        tracing::debug!(target: "wicketgate::upstream", %error, "a connection ended");
                    }
                    ended(&pool, held);
                });
                Made::Http1(sender, place)
            }
            Connected::Http2(connection) => {
                let (asked, unasked) = oneshot::channel::<Infallible>();
                let shared = Shared::new(connection.sender(), connection.standing.clone(), place, asked);
                spawn(async move {
                    let changed = || {
                        if let Some(pool) = pool.upgrade() {
                            pool.forget_ended();
                            pool.serve_waiting();
                        }
                    };
                    if let Err(error) = connection.run(unasked, changed).await {
                        tracing::debug!(target: "wicketgate::upstream", %error, "a connection ended");
                    }
                    drop(held);
                });
                Made::Http2(shared)
            }
        }
    }

    /// Opens connections ahead of need, for as long as the endpoint is there.
    pub(super) fn keep_warm(&self) {
        const LOOK: Duration = Duration::from_millis(500);
        let wanted = self.bounds.load().limits.warm > 0;
        if !wanted || self.locked(|state| std::mem::replace(&mut state.warming, true)) {
            return;
        }
        let me = self.me.clone();
        spawn(async move {
            loop {
                {
                    let Some(pool) = me.upgrade() else { return };
                    let bounds = pool.bounds.load_full();
                    if bounds.limits.warm == 0 || pool.locked(|state| state.closed) {
                        return pool.locked(|state| state.warming = false);
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
                Some(place) => spawn(make(place, bounds.clone())),
                None => return self.locked(|state| state.connecting -= missing - made),
            }
        }
    }

    /// Tells a request that its connection was not made, unless others on the way are enough.
    fn fail_one(&self, error: &ConnectError, bounds: &Bounds) {
        let waiters = self.locked(|state| {
            state.connecting -= 1;
            state.waiting.retain(|waiter| !waiter.is_closed());
            let per_connection = state.per_connection(&bounds.limits);
            let surplus = state.waiting.len().saturating_sub(state.connecting * per_connection).min(per_connection);
            state.waiting.drain(..surplus).collect::<Vec<_>>()
        });
        for waiter in waiters {
            let at_once = error.result == "refused";
            let _ = waiter.send(Err(NoConnection { at_once, failure: Failure::UpstreamRefused, detail: error.detail.clone() }));
        }
    }
}

/// Makes a connection, and hands it to who waits.
async fn make(place: Place, bounds: Arc<Bounds>) {
    let pool = place.pool.clone();
    let made = pool.connect(false, &bounds).await;
    match made {
        Ok(connected) => match pool.drive(connected, Arc::new(place)) {
            Made::Http1(sender, place) => {
                pool.locked(|state| {
                    state.connecting -= 1;
                    state.http2 = false;
                });
                // Dropped, a lease gives its connection back, once it is ready.
                drop(pool.offer(Lease::new(Carrier::Http1(sender), place, pool.clone(), false)));
            }
            Made::Http2(shared) => {
                let kept = pool.locked(|state| {
                    state.connecting -= 1;
                    state.http2 = true;
                    state.shared.push(shared);
                    !state.closed || !state.waiting.is_empty()
                });
                // It may have ended meanwhile.
                pool.forget_ended();
                pool.serve_waiting();
                // One that nobody waited for, as after a warm start, may hold the place that a tunnel waits for.
                pool.make_room_for_tunnel();
                if !kept {
                    pool.close();
                }
                pool.start_sweeping();
            }
        },
        Err(error) => {
            // Told before the place is free, or another connection would be made for who is told now.
            pool.fail_one(&error, &bounds);
            drop(place);
        }
    }
    // With fewer on the way there may be too few for those who wait.
    pool.make_connections();
}

fn ended(pool: &Weak<Pool>, place: Arc<Place>) {
    if let Some(pool) = pool.upgrade() {
        pool.forget_ended();
    }
    drop(place);
}

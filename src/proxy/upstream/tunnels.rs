//! A connection for what becomes a tunnel: over HTTP/1.1, at an endpoint that may choose HTTP/2 for all else. Requests may
//! share what is open there, so that a tunnel waits for a place of its own, and what is idle makes room for it.

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::lease::{Carrier, Lease};
use super::making::Made;
use super::pool::{Bounds, Dead, NoConnection, Pool, State, Waits, Want};
use super::resting::{Place, Shared};
use crate::clock;
use crate::policy::UpstreamBounds;
use crate::proxy::failure::Failure;

/// A tunnel that waits for a place.
pub(super) type TunnelWaiter = oneshot::Sender<Place>;

impl Pool {
    /// A connection of its own, for what becomes a tunnel, over HTTP/1.1 whatever the endpoint would choose.
    pub async fn lease_for_tunnel(&self, want: Want) -> Result<Lease, NoConnection> {
        if !self.may_choose_http2() {
            return self.lease(want).await;
        }
        if want == Want::Any
            && let Some(lease) = self.take_idle()
        {
            return Ok(lease);
        }
        let bounds = self.bounds.load_full();
        let place = self.place_for_tunnel(&bounds).await?;
        let made = self.connect(true, &bounds).await;
        match made {
            Ok(connected) => match self.drive(connected, place.into()) {
                Made::Http1(sender, place) => Ok(Lease::new(Carrier::Http1(sender), place, self.arc()?, false)),
                Made::Http2(_) => Err(NoConnection {
                    at_once: false,
                    failure: Failure::UpstreamBroken,
                    detail: "HTTP/2, where HTTP/1.1 was asked for".to_owned(),
                }),
            },
            Err(error) => {
                let at_once = error.result == "refused";
                Err(NoConnection { at_once, failure: Failure::UpstreamRefused, detail: error.detail })
            }
        }
    }

    fn may_choose_http2(&self) -> bool {
        self.connector.tls.as_ref().is_some_and(|(tls, _)| tls.usual.alpn_protocols.iter().any(|name| name == b"h2"))
    }

    /// An HTTP/1.1 connection on which nothing is asked: the endpoint chose it after all.
    fn take_idle(&self) -> Option<Lease> {
        let (bounds, me) = (self.bounds.load(), self.me.upgrade()?);
        let mut dead: Dead = Default::default();
        let lease = self.locked(|state| state.take_idle(clock::instant_now(), &bounds.limits, &me, &mut dead));
        self.bury(dead);
        lease
    }

    /// A place, as soon as there is one. One that is idle goes to make room; behind those that are not, as many may wait as
    /// requests may.
    async fn place_for_tunnel(&self, bounds: &Bounds) -> Result<Place, NoConnection> {
        let limits = &bounds.limits;
        if let Some(place) = self.place(limits) {
            return Ok(place);
        }
        let (sender, receiver) = oneshot::channel();
        let mut dead: Dead = Default::default();
        let queued = self.locked(|state| state.queue_tunnel(sender, limits, &mut dead));
        self.bury(dead);
        let overloaded = |detail: String| {
            self.metrics.refused.inc();
            NoConnection { at_once: false, failure: Failure::UpstreamOverloaded, detail }
        };
        if !queued {
            return Err(overloaded(format!("{} connections, and {} requests wait for one", limits.connections, limits.pending)));
        }
        // What became free before it began to wait.
        self.serve_tunnels(limits);
        let _waits = Waits::new(&self.metrics);
        let late = || overloaded(format!("none of {} connections was free within {:?}", limits.connections, bounds.timeouts.connect));
        timeout(bounds.timeouts.connect, receiver).await.ok().and_then(Result::ok).ok_or_else(late)
    }

    /// Gives places that are free to tunnels that wait: before requests, which may share what is there.
    pub(super) fn serve_tunnels(&self, limits: &UpstreamBounds) {
        while self.locked(State::tunnels_wait) {
            let Some(place) = self.place(limits) else { return };
            let Some(waiter) = self.locked(|state| state.tunnels.pop_front()) else { return };
            // One that has left in the meantime gives its place back by dropping it.
            let _ = waiter.send(place);
        }
    }

    /// Closes an HTTP/2 connection that has become idle, if a tunnel waits for its place and no request for a stream.
    pub(super) fn make_room_for_tunnel(&self) {
        let dead = self.locked(|state| {
            let wanted = state.waiting.is_empty() && state.tunnels_wait();
            wanted.then(|| state.evict_shared()).flatten()
        });
        drop(dead);
    }
}

impl State {
    pub fn tunnels_wait(&mut self) -> bool {
        self.tunnels.retain(|waiter| !waiter.is_closed());
        !self.tunnels.is_empty()
    }

    /// Whether a tunnel may wait: for one that is idle and closes now, or among the others that wait.
    fn queue_tunnel(&mut self, waiter: TunnelWaiter, limits: &UpstreamBounds, dead: &mut Dead) -> bool {
        self.tunnels.retain(|waiter| !waiter.is_closed());
        if !self.idle.is_empty() {
            dead.0.push(self.idle.remove(0));
        } else if let Some(idle) = self.evict_shared() {
            dead.1.push(idle);
        } else if self.tunnels.len() + self.waiting.len().saturating_sub(self.hopeful(limits)) >= limits.pending {
            return false;
        }
        self.tunnels.push_back(waiter);
        true
    }

    fn evict_shared(&mut self) -> Option<std::sync::Arc<Shared>> {
        let at = self.shared.iter().position(|shared| shared.is_idle())?;
        Some(self.shared.swap_remove(at))
    }
}

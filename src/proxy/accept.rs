//! Step 1. Listeners: bound, moved and closed as the policy says, each with its own accept loop.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::addresses;
use super::bind::{Activated, Bound, Raw, adopt, bind, set_mode};
use super::connection::{Accepted, serve};
use super::gate::{Gate, Phase};
use super::handle::Peer;
use super::inherited::Inherited;
use super::preamble::Settings;
use super::tls::Tls;
use crate::observe::Limit;
use crate::policy::{Listen, Listener, Policy};

/// After an error of `accept` (out of descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// All listeners of the gate.
pub struct Listeners {
    gate: Arc<Gate>,
    open: HashMap<Listen, Listening>,
    room: Arc<Semaphore>,
    room_size: usize,
    tls: Arc<ArcSwapOption<Tls>>,
    activated: Activated,
    /// Accept loops and connections.
    busy: watch::Sender<usize>,
}

struct Listening {
    phase: watch::Sender<Phase>,
    /// Where it is bound: the port that was chosen, if it was to be chosen.
    addresses: Vec<Listen>,
    settings: Arc<ArcSwap<Listener>>,
    /// Copies, for the process that comes after this one. They would keep the sockets open, and go first.
    sockets: Vec<OwnedFd>,
}

/// Listeners that are bound and do not accept yet.
pub struct Prepared {
    bound: Vec<(Listener, Vec<Bound>)>,
    tls: Option<Arc<Tls>>,
}

impl Listeners {
    pub fn new(gate: Arc<Gate>, connections_max: usize) -> Self {
        Self {
            gate,
            open: HashMap::new(),
            room: Arc::new(Semaphore::new(connections_max)),
            room_size: connections_max,
            tls: Arc::default(),
            activated: Activated::take(),
            busy: watch::Sender::new(0),
        }
    }

    /// Takes over what was passed on to a process before this one.
    pub fn take_passed(&mut self, inherited: &mut Inherited) {
        self.activated.add(inherited.take_passed());
    }

    /// Copies of what was passed on to this process or one before it, for the one that comes after it.
    pub fn passed(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        self.activated.copies()
    }

    /// Binds what a policy asks for and is neither bound yet nor inherited. Nothing changes for clients.
    pub fn prepare(&self, policy: &Policy, inherited: &mut Inherited) -> Result<Prepared, String> {
        let tls = policy.tls.as_ref().map(|tls| Tls::renew(self.tls.load_full(), tls)).transpose()?;
        let mut bound = Vec::new();
        for (i, listener) in policy.listeners.iter().enumerate() {
            if let Some(other) = policy.listeners[..i].iter().find(|other| self.activated.overlap(&listener.address, &other.address)) {
                return Err(format!("listen {listener}: it is the same socket as {other}; keep one of the two"));
            }
        }
        for listener in policy.listeners.iter().filter(|listener| !self.open.contains_key(&listener.address)) {
            let sockets = match inherited.take(&listener.address) {
                Some(sockets) => adopt(listener, sockets),
                None => bind(listener, &self.activated),
            };
            let sockets = sockets.map_err(|error| format!("listen {listener}: {error}; end what holds it, or choose another address"))?;
            bound.push((listener.clone(), sockets));
        }
        Ok(Prepared { bound, tls })
    }

    /// Opens what was prepared, and closes what the policy no longer names: its connections end gracefully. What else
    /// changed of a listener counts for the connections that it accepts from now on.
    pub fn apply(&mut self, policy: &Policy, prepared: Prepared) {
        for warning in prepared.tls.iter().filter(|tls| !self.serves(tls)).flat_map(|tls| &tls.warnings) {
            tracing::warn!(target: "wicketgate::tls", warning, "allowed, but know it");
        }
        self.tls.store(prepared.tls);
        self.resize(policy.limits.connections);
        self.open.retain(|address, listening| {
            let kept = policy.listeners.iter().find(|listener| listener.address == *address);
            match kept {
                Some(listener) => listening.change(listener),
                None => drop(listening.phase.send_replace(Phase::Draining)),
            }
            kept.is_some()
        });
        for (listener, sockets) in prepared.bound {
            let (phase, receiver) = watch::channel(Phase::Serving);
            let addresses = sockets.iter().map(|bound| bound.address().unwrap_or_else(|| listener.address.clone())).collect();
            let address = listener.address.clone();
            let settings = Arc::new(ArcSwap::from_pointee(listener));
            let copies = sockets.iter().filter_map(|bound| bound.copy().ok()).collect();
            for bound in sockets {
                let accepting = Accepting {
                    gate: self.gate.clone(),
                    room: self.room.clone(),
                    settings: settings.clone(),
                    tls: self.tls.clone(),
                    busy: Busy::new(&self.busy),
                    phase: receiver.clone(),
                };
                tokio::spawn(accepting.run(bound));
            }
            self.open.insert(address, Listening { phase, addresses, settings, sockets: copies });
        }
    }

    fn serves(&self, tls: &Arc<Tls>) -> bool {
        self.tls.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, tls))
    }

    fn resize(&mut self, size: usize) {
        match size.checked_sub(self.room_size) {
            Some(more) => self.room.add_permits(more),
            None => {
                // What open connections hold is taken from those that close first.
                let less = self.room_size - size;
                let owed = less - self.room.forget_permits(less);
                let room = self.room.clone();
                tokio::spawn(async move {
                    if let Ok(held) = room.acquire_many_owned(u32::try_from(owed).unwrap_or(u32::MAX)).await {
                        held.forget();
                    }
                });
            }
        }
        self.room_size = size;
    }

    pub fn addresses(&self) -> Vec<Listen> {
        self.open.values().flat_map(|listening| listening.addresses.iter().cloned()).collect()
    }

    /// What is open, as the policy names it.
    pub fn names(&self) -> impl Iterator<Item = &Listen> {
        self.open.keys()
    }

    /// Copies of the sockets, for the process that comes after this one.
    pub fn sockets(&self) -> io::Result<Vec<(Listen, OwnedFd)>> {
        let named = self.open.iter().flat_map(|(listen, listening)| listening.sockets.iter().map(move |socket| (listen, socket)));
        named.map(|(listen, socket)| Ok((listen.clone(), socket.try_clone()?))).collect()
    }

    /// Stops accepting and asks every connection to end.
    pub fn drain(&mut self) {
        self.leave(&[]);
    }

    /// The same; these listeners are another process's now.
    pub fn leave(&mut self, handed_over: &[Listen]) {
        for (listen, listening) in &mut self.open {
            listening.sockets.clear();
            let phase = if handed_over.contains(listen) { Phase::HandedOver } else { Phase::Draining };
            listening.phase.send_replace(phase);
        }
    }

    /// Ends when nothing is accepted any more and no connection is open.
    pub fn all_closed(&self) -> impl Future<Output = ()> + use<> {
        let mut busy = self.busy.subscribe();
        async move {
            let _ = busy.wait_for(|count| *count == 0).await;
        }
    }
}

impl Listening {
    /// Takes over what changed of a listener that stays open.
    fn change(&self, listener: &Listener) {
        let old = self.settings.load();
        if **old == *listener {
            return;
        }
        if let (Listen::Unix(path), Some(mode)) = (&listener.address, listener.mode.filter(|mode| old.mode != Some(*mode)))
            && let Err(error) = set_mode(path, mode)
        {
            tracing::warn!(target: "wicketgate::accept", %error, listen = %listener, "the permissions of the socket could not be changed");
        }
        self.settings.store(Arc::new(listener.clone()));
    }
}

/// One accept loop.
struct Accepting {
    gate: Arc<Gate>,
    room: Arc<Semaphore>,
    settings: Arc<ArcSwap<Listener>>,
    tls: Arc<ArcSwapOption<Tls>>,
    /// The last to go: what it accepted is counted by then.
    busy: Busy,
    phase: watch::Receiver<Phase>,
}

impl Accepting {
    async fn run(mut self, bound: Bound) {
        self.accept_all(&bound).await;
        if *self.phase.borrow() == Phase::HandedOver {
            return;
        }
        // They came before the end, as those did that are served: each waits for the place of one that leaves. Places come
        // free as connections end, at the deadline all of them, and who gets one then is told so like everybody else.
        for (stream, peer) in bound.close().unwrap_or_default() {
            let room = self.room.clone().acquire_owned().await;
            let Ok(room) = room else { return };
            self.start(stream, peer, room);
        }
    }

    /// Accepts until the gate drains.
    async fn accept_all(&mut self, bound: &Bound) {
        let mut ending = self.phase.clone();
        loop {
            let room = match self.room.clone().try_acquire_owned() {
                Ok(room) => Ok(room),
                Err(_) => {
                    self.gate.observer.metrics.limits.count(Limit::Connections);
                    tokio::select! {
                        biased;
                        _ = ending.wait_for(|phase| *phase >= Phase::Draining) => return,
                        room = self.room.clone().acquire_owned() => room,
                    }
                }
            };
            let Ok(room) = room else { return };
            let accepted = tokio::select! {
                biased;
                _ = ending.wait_for(|phase| *phase >= Phase::Draining) => return,
                accepted = bound.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.start(stream, peer, room),
                Err(error) => {
                    tracing::warn!(target: "wicketgate::accept", %error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn start(&mut self, stream: Raw, peer: Option<SocketAddr>, room: OwnedSemaphorePermit) {
        let (gate, phase) = (self.gate.clone(), self.phase.clone());
        let settings = Settings { listener: self.settings.load_full(), tls: self.tls.clone() };
        let counted = Counted::new(&self.busy.0, gate.clone());
        tokio::spawn(async move {
            // Its place among those of its address is taken before the handshake, which costs more than anything else that a
            // client may cause so cheaply.
            let Some(opened) = settings.open(&gate, stream, peer).await else { return };
            let held = Arc::new(Held { _room: room, _counted: counted, _address: opened.place });
            let Listener { protocol, redirect_to_https, .. } = *settings.listener;
            let peer = Peer { address: opened.address, tls: opened.tls, shown: opened.shown, redirect_to_https, facts: None, held };
            serve(gate, Accepted { stream: opened.stream, peer, phase, protocol }).await;
        });
    }
}

/// A connection's place among `limits.connections`, given back with its last holder.
pub struct Held {
    _room: OwnedSemaphorePermit,
    _counted: Counted,
    _address: Option<addresses::Counted>,
}

/// Keeps the gate from ending for as long as it lives.
struct Busy(watch::Sender<usize>);

impl Busy {
    fn new(busy: &watch::Sender<usize>) -> Self {
        busy.send_modify(|count| *count += 1);
        Self(busy.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Counts a connection for as long as it is open.
struct Counted {
    gate: Arc<Gate>,
    _busy: Busy,
}

impl Counted {
    fn new(busy: &watch::Sender<usize>, gate: Arc<Gate>) -> Self {
        gate.observer.metrics.connections_open.inc();
        Self { gate, _busy: Busy::new(busy) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.gate.observer.metrics.connections_open.dec();
    }
}

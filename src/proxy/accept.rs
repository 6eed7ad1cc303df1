//! Step 1. Listeners: bound, moved and closed as the policy says, each with its own accept loop.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::addresses;
use super::connection::{Accepted, handshake, serve};
use super::gate::{Gate, Phase};
use super::handle::Peer;
use super::inherited::Inherited;
use super::stream::{Stream, notice_loss};
use crate::observe::Limit;
use crate::policy::{Listen, Policy};

/// Connections that the kernel keeps for us before we accept them.
const BACKLOG: i32 = 4096;
/// After an error of `accept` (out of descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// All listeners of the gate.
pub struct Listeners {
    gate: Arc<Gate>,
    open: HashMap<Listen, Listening>,
    room: Arc<Semaphore>,
    room_size: usize,
    tls: Arc<ArcSwapOption<ServerConfig>>,
    /// Accept loops and connections.
    busy: watch::Sender<usize>,
}

struct Listening {
    phase: watch::Sender<Phase>,
    /// Where it is bound: the port that was chosen, if it was to be chosen.
    address: Listen,
    /// A copy, for the process that comes after this one. It would keep the socket open, and goes first.
    socket: Option<OwnedFd>,
}

/// Listeners that are bound and do not accept yet.
pub struct Prepared {
    bound: Vec<(Listen, Bound)>,
    tls: Option<Arc<ServerConfig>>,
}

enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listeners {
    pub fn new(gate: Arc<Gate>, connections_max: usize) -> Self {
        Self {
            gate,
            open: HashMap::new(),
            room: Arc::new(Semaphore::new(connections_max)),
            room_size: connections_max,
            tls: Arc::default(),
            busy: watch::Sender::new(0),
        }
    }

    /// Binds what a policy asks for and is neither bound yet nor inherited. Nothing changes for clients.
    pub fn prepare(&self, policy: &Policy, inherited: &mut Inherited) -> Result<Prepared, String> {
        let tls = policy.tls.as_ref().map(super::tls::server_config).transpose()?;
        let mut bound = Vec::new();
        for listen in policy.listeners.iter().filter(|listen| !self.open.contains_key(listen)) {
            let socket = match inherited.take(listen) {
                Some(socket) => adopt(listen, socket),
                None => bind(listen),
            };
            bound.push((
                listen.clone(),
                socket.map_err(|error| format!("listen {listen}: {error}; end what holds it, or choose another address"))?,
            ));
        }
        Ok(Prepared { bound, tls })
    }

    /// Opens what was prepared, and closes what the policy no longer names: its connections end gracefully.
    pub fn apply(&mut self, policy: &Policy, prepared: Prepared) {
        self.tls.store(prepared.tls);
        self.resize(policy.limits.connections);
        self.open.retain(|listen, listening| {
            let keep = policy.listeners.contains(listen);
            if !keep {
                listening.phase.send_replace(Phase::Draining);
            }
            keep
        });
        for (listen, bound) in prepared.bound {
            let (phase, receiver) = watch::channel(Phase::Serving);
            let address = bound.address().unwrap_or_else(|| listen.clone());
            let socket = bound.copy().ok();
            let accepting = Accepting {
                gate: self.gate.clone(),
                room: self.room.clone(),
                tls: self.tls.clone(),
                busy: Busy::new(&self.busy),
                phase: receiver,
            };
            tokio::spawn(accepting.run(bound));
            self.open.insert(listen, Listening { phase, address, socket });
        }
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
        self.open.values().map(|listening| listening.address.clone()).collect()
    }

    /// What is open, as the policy names it.
    pub fn names(&self) -> impl Iterator<Item = &Listen> {
        self.open.keys()
    }

    /// Copies of the sockets, for the process that comes after this one.
    pub fn sockets(&self) -> io::Result<Vec<(Listen, OwnedFd)>> {
        let copy = |(listen, listening): (&Listen, &Listening)| {
            let socket = listening.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            Ok((listen.clone(), socket.try_clone()?))
        };
        self.open.iter().map(copy).collect()
    }

    /// Stops accepting and asks every connection to end.
    pub fn drain(&mut self) {
        self.leave(&[]);
    }

    /// The same; these listeners are another process's now.
    pub fn leave(&mut self, handed_over: &[Listen]) {
        for (listen, listening) in &mut self.open {
            listening.socket = None;
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

impl Bound {
    fn address(&self) -> Option<Listen> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok().map(Listen::Tcp),
            Self::Unix(_) => None,
        }
    }

    fn copy(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
            Self::Unix(listener) => listener.as_fd().try_clone_to_owned(),
        }
    }

    async fn accept(&self) -> io::Result<(Raw, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, peer)| (Raw::Tcp(stream), Some(peer))),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| (Raw::Unix(stream), None)),
        }
    }

    /// Closes the listener, and gives what the kernel had accepted for it: clients that connected when it was open.
    fn close(self) -> io::Result<Vec<(Raw, Option<SocketAddr>)>> {
        let mut waiting = Vec::new();
        match self {
            Self::Tcp(listener) => {
                let listener = listener.into_std()?;
                for (stream, peer) in std::iter::from_fn(|| listener.accept().ok()).take(BACKLOG as usize) {
                    stream.set_nonblocking(true)?;
                    waiting.push((Raw::Tcp(TcpStream::from_std(stream)?), Some(peer)));
                }
            }
            Self::Unix(listener) => {
                let listener = listener.into_std()?;
                // The file outlives its listener, and would be in the way of the next one.
                if let Some(path) = listener.local_addr()?.as_pathname() {
                    let _ = std::fs::remove_file(path);
                }
                for (stream, _) in std::iter::from_fn(|| listener.accept().ok()).take(BACKLOG as usize) {
                    stream.set_nonblocking(true)?;
                    waiting.push((Raw::Unix(UnixStream::from_std(stream)?), None));
                }
            }
        }
        Ok(waiting)
    }
}

enum Raw {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Goes on with a socket that another process bound. It is shared with that one, and does not block there either.
fn adopt(listen: &Listen, socket: OwnedFd) -> io::Result<Bound> {
    match listen {
        Listen::Tcp(_) => TcpListener::from_std(std::net::TcpListener::from(socket)).map(Bound::Tcp),
        Listen::Unix(_) => UnixListener::from_std(std::os::unix::net::UnixListener::from(socket)).map(Bound::Unix),
    }
}

fn bind(listen: &Listen) -> io::Result<Bound> {
    match listen {
        Listen::Tcp(address) => {
            let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&(*address).into())?;
            socket.listen(BACKLOG)?;
            TcpListener::from_std(socket.into()).map(Bound::Tcp)
        }
        Listen::Unix(path) => {
            // A socket that nobody listens on is left over from a process that was killed.
            let left_over = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
                && std::os::unix::net::UnixStream::connect(path).is_err();
            if left_over {
                std::fs::remove_file(path)?;
            }
            UnixListener::bind(path).map(Bound::Unix)
        }
    }
}

/// One accept loop.
struct Accepting {
    gate: Arc<Gate>,
    room: Arc<Semaphore>,
    tls: Arc<ArcSwapOption<ServerConfig>>,
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
        for (stream, peer) in bound.close().unwrap_or_default() {
            let Ok(room) = self.room.clone().try_acquire_owned() else { return };
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
        let (gate, phase, tls) = (self.gate.clone(), self.phase.clone(), self.tls.load_full());
        let counted = Counted::new(&self.busy.0, gate.clone());
        tokio::spawn(async move {
            let snapshot = gate.snapshot();
            // Before the handshake, which costs more than anything that such a client may cause.
            let Ok(address) = gate.addresses.enter(&snapshot.policy, peer.map(|peer| peer.ip())) else {
                return gate.observer.metrics.limits.count(Limit::ConnectionsPerAddress);
            };
            let held = Arc::new(Held { _room: room, _counted: counted, _address: address });
            let (header_timeout, body_timeout) = (snapshot.policy.timeouts.header, snapshot.policy.timeouts.body);
            drop(snapshot);
            let (stream, over_tls) = match (stream, tls) {
                (Raw::Unix(stream), _) => (Ok(Stream::Unix(stream)), false),
                (Raw::Tcp(stream), tls) => {
                    notice_loss(&stream, body_timeout);
                    match tls {
                        None => (Ok(Stream::Tcp(stream)), false),
                        Some(config) => (handshake(TlsAcceptor::from(config), stream, header_timeout).await, true),
                    }
                }
            };
            let peer = Peer { address: peer.map(|peer| peer.ip().to_canonical()), tls: over_tls, facts: None, held };
            match stream {
                Ok(stream) => serve(gate, Accepted { stream, peer, phase }).await,
                Err(error) => tracing::debug!(target: "wicketgate::tls", %error, "no TLS handshake"),
            }
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

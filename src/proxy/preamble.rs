//! Step 1. What comes before HTTP on a connection: the PROXY header of a load balancer, then TLS, each in bounded time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::addresses::Counted;
use super::bind::Raw;
use super::gate::Gate;
use super::proxy_protocol::{self, Announced, Origin, Step};
use super::stream::{Stream, notice_loss};
use super::tls::{self, Shown, Tls};
use crate::observe::Limit;
use crate::policy::{Listener, Policy};

/// A connection on which HTTP can begin.
pub struct Opened {
    pub stream: Stream,
    /// `None` on a Unix socket, and where a load balancer cannot tell.
    pub address: Option<IpAddr>,
    /// Whether the client spoke TLS, with us or with the load balancer.
    pub tls: bool,
    pub shown: Option<Arc<Shown>>,
    /// Its place among the connections of its address.
    pub place: Option<Counted>,
}

/// What a connection is accepted with.
#[derive(Clone)]
pub struct Settings {
    pub listener: Arc<Listener>,
    pub tls: Arc<ArcSwapOption<Tls>>,
}

impl Settings {
    /// Opens a connection. `None` for one that ended on the way; it was counted then.
    pub async fn open(&self, gate: &Gate, raw: Raw, peer: Option<SocketAddr>) -> Option<Opened> {
        let policy = gate.snapshot().policy.clone();
        let patience = policy.timeouts.header;
        let own = peer.map(|peer| peer.ip().to_canonical());
        let tls = self.tls.load_full().filter(|_| self.listener.tls);
        match raw {
            Raw::Tcp(mut stream) => {
                notice_loss(&stream, policy.timeouts.body);
                let (address, over_tls) = self.announced(gate, &policy, &mut stream, own).await?;
                let place = counted(gate, &policy, address)?;
                let Some(tls) = tls else {
                    return Some(Opened { stream: Stream::Tcp(stream), address, tls: over_tls, shown: None, place });
                };
                let (stream, shown) = self.handshake(gate, &tls, stream, patience).await?;
                Some(Opened { stream: Stream::Tls(stream), address, tls: true, shown, place })
            }
            Raw::Unix(mut stream) => {
                let (address, over_tls) = self.announced(gate, &policy, &mut stream, own).await?;
                let place = counted(gate, &policy, address)?;
                let Some(tls) = tls else {
                    return Some(Opened { stream: Stream::Unix(stream), address, tls: over_tls, shown: None, place });
                };
                let (stream, shown) = self.handshake(gate, &tls, stream, patience).await?;
                Some(Opened { stream: Stream::TlsUnix(stream), address, tls: true, shown, place })
            }
        }
    }

    /// Whose connection it is, and whether a load balancer took TLS off it.
    async fn announced<S: AsyncRead + Unpin>(
        &self,
        gate: &Gate,
        policy: &Policy,
        stream: &mut S,
        own: Option<IpAddr>,
    ) -> Option<(Option<IpAddr>, bool)> {
        if !self.listener.proxy_protocol {
            return Some((own, false));
        }
        let refused = |reason: &'static str, detail: &str| {
            gate.observer.metrics.listeners.count_proxy_refused(reason);
            tracing::debug!(target: "wicketgate::proxy_protocol", reason, detail, "connection refused");
        };
        // Whoever may open a Unix socket may speak for others; its permissions say who that is.
        if own.is_some_and(|own| !policy.trusts(own)) {
            refused("untrusted", "not in trusted_proxies");
            return None;
        }
        let header = match timeout(policy.timeouts.header, read_header(stream)).await {
            Ok(Ok(header)) => header,
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                refused("malformed", &error.to_string());
                return None;
            }
            Ok(Err(_)) => {
                refused("broke_off", "");
                return None;
            }
            Err(_) => {
                refused("timeout", "");
                return None;
            }
        };
        let address = match header.origin {
            Origin::Proxy => own,
            Origin::Unknown => None,
            Origin::Client(address) => Some(address.to_canonical()),
        };
        Some((address, header.tls))
    }

    async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        gate: &Gate,
        tls: &Arc<Tls>,
        stream: S,
        patience: Duration,
    ) -> Option<(Box<TlsStream<S>>, Option<Arc<Shown>>)> {
        let acceptor = TlsAcceptor::from(tls.config(self.listener.protocol));
        let outcome = match timeout(patience, acceptor.accept(stream)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let failed = |reason: &'static str, detail: &str| {
            gate.observer.metrics.listeners.count_handshake_failed(reason);
            tracing::debug!(target: "wicketgate::tls", reason, detail, "no TLS handshake");
        };
        match outcome {
            Err(error) => {
                failed(tls::reason(&error), &error.to_string());
                None
            }
            Ok(stream) => match Shown::of(stream.get_ref().1, tls, self.tls.clone()) {
                Ok(shown) => Some((Box::new(stream), shown)),
                Err(()) => {
                    failed("certificate_refused", "a client certificate that cannot be read");
                    None
                }
            },
        }
    }
}

/// A place among the connections of this address, as far as there is room.
fn counted(gate: &Gate, policy: &Policy, address: Option<IpAddr>) -> Option<Option<Counted>> {
    let place = gate.addresses.enter(policy, address);
    if place.is_err() {
        gate.observer.metrics.limits.count(Limit::ConnectionsPerAddress);
    }
    place.ok()
}

async fn read_header<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Announced> {
    let mut seen = Vec::with_capacity(64);
    loop {
        match proxy_protocol::step(&seen).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))? {
            Step::Done(announced) => return Ok(announced),
            Step::Read(count) => {
                let before = seen.len();
                seen.resize(before + count, 0);
                stream.read_exact(&mut seen[before..]).await?;
            }
        }
    }
}

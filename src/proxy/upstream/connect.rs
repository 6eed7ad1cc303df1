//! Making a connection: to the address, to the other addresses of its name where that one does not answer, TLS, and the
//! first words of HTTP.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::{Either, select};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

use super::http2;
use super::lent::Lent;
use super::tls::ClientTls;
use super::wire::Wire;

/// The head of a response, and one header line more than any sane service sends.
const RESPONSE_BUFFER_BYTES: usize = 64 << 10;
const RESPONSE_HEADERS_MAX: usize = 200;
/// When a service that is silent is asked whether it is there, how often then, and how often in vain. TCP asks: services of
/// gRPC take PINGs of HTTP/2 that come while they are silent as an attack, and close (gRPC A8).
const ASKED_AFTER: Duration = Duration::from_secs(20);
const ASKED_EVERY: Duration = Duration::from_secs(5);
const ASKED_IN_VAIN_MAX: u32 = 3;
/// How long the first address has for itself (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);

/// The way to one endpoint.
pub struct Connector {
    pub target: Target,
    pub tls: Option<(ClientTls, ServerName<'static>)>,
    /// HTTP/2 without asking.
    pub prior_knowledge: bool,
}

pub enum Target {
    /// An address, and those of the other family that the same name has: they are tried when the first does not answer.
    Tcp(SocketAddr, ArcSwap<Vec<SocketAddr>>),
    Unix(PathBuf),
}

/// A connection that was just made, and the future that moves it.
#[allow(clippy::large_enum_variant, reason = "taken apart as soon as it is made")]
pub enum Connected {
    Http1(http1::SendRequest<Lent>, http1::Connection<TokioIo<Wire>, Lent>),
    Http2(http2::Connection),
}

/// Why there is no connection.
#[derive(Debug, Clone)]
pub struct ConnectError {
    /// For the metric.
    pub result: &'static str,
    /// For the log.
    pub detail: String,
}

impl ConnectError {
    fn new(result: &'static str, error: &dyn std::error::Error) -> Self {
        Self { result, detail: chain(error) }
    }
}

/// An error and what caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.ends_with(&said) {
            let _ = write!(text, ": {said}");
        }
        cause = inner.source();
    }
    text
}

impl Connector {
    /// `http1` for a connection that is to become a tunnel.
    pub async fn connect(&self, http1: bool, streams: usize) -> Result<Connected, ConnectError> {
        let refused = |error: io::Error| ConnectError::new("refused", &error);
        let wire = match &self.target {
            Target::Unix(path) => Wire::Unix(UnixStream::connect(path).await.map_err(refused)?),
            Target::Tcp(first, others) => Wire::Tcp(reach(*first, &others.load_full()).await.map_err(refused)?),
        };
        let wire = match (wire, &self.tls) {
            (Wire::Tcp(stream), Some((tls, name))) => {
                let config = if http1 { &tls.http1 } else { &tls.usual };
                let shaken = TlsConnector::from(config.clone()).connect(name.clone(), stream).await;
                Wire::Tls(Box::new(shaken.map_err(|error| ConnectError::new("tls", &error))?))
            }
            (wire, _) => wire,
        };
        let http2 = wire.chose_http2() || (self.prior_knowledge && !http1);
        if http2 {
            let greeted = http2::greet(wire, streams, RESPONSE_BUFFER_BYTES).await;
            return greeted.map(Connected::Http2).map_err(|error| ConnectError::new("http", &error));
        }
        greet_http1(wire).await.map_err(|error| ConnectError::new("http", &error))
    }
}

async fn greet_http1(wire: Wire) -> hyper::Result<Connected> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(RESPONSE_BUFFER_BYTES).max_headers(RESPONSE_HEADERS_MAX);
    let (sender, connection) = builder.handshake(TokioIo::new(wire)).await?;
    Ok(Connected::Http1(sender, connection))
}

/// To the first address, or to the others once it has failed or takes long (RFC 8305).
async fn reach(first: SocketAddr, others: &Arc<Vec<SocketAddr>>) -> io::Result<TcpStream> {
    if others.is_empty() {
        return dial(first).await;
    }
    let preferred = Box::pin(dial(first));
    let rest = Box::pin(async {
        sleep(HEAD_START).await;
        dial_each(others).await
    });
    match select(preferred, rest).await {
        Either::Left((Ok(stream), _)) | Either::Right((Ok(stream), _)) => Ok(stream),
        // The others need not wait for their turn any more; what the first said is what the log wants to know.
        Either::Left((Err(error), rest)) => {
            drop(rest);
            dial_each(others).await.map_err(|_| error)
        }
        Either::Right((Err(_), preferred)) => preferred.await,
    }
}

async fn dial_each(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match dial(*address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(ASKED_AFTER).with_interval(ASKED_EVERY).with_retries(ASKED_IN_VAIN_MAX);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_certificate_is_said_in_full_and_once() {
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let error = ConnectError::new("tls", &io::Error::new(io::ErrorKind::InvalidData, unknown));
        assert_eq!((error.result, error.detail.as_str()), ("tls", "invalid peer certificate: UnknownIssuer"));
    }

    #[tokio::test]
    async fn the_other_addresses_of_a_name_are_tried_when_the_first_refuses() {
        let there = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let address = there.local_addr().unwrap();
        assert_eq!(reach(nobody, &Arc::new(vec![nobody, address])).await.unwrap().peer_addr().unwrap(), address);
        assert!(reach(nobody, &Arc::default()).await.is_err());
    }
}

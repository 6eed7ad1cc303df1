//! The ways to a gate: over TCP with TLS, and in the clear over a Unix socket, at whichever gate is there.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::support::Certificate;

pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// One gate, as clients reach it.
pub struct Door {
    pub tls: SocketAddr,
    pub clear: PathBuf,
    open: AtomicBool,
}

impl Door {
    pub fn new(tls: SocketAddr, clear: PathBuf) -> Arc<Self> {
        Arc::new(Self { tls, clear, open: AtomicBool::new(true) })
    }

    /// What a load balancer does when `/readyz` says no: nobody is sent there any more.
    pub fn shut(&self) {
        self.open.store(false, Ordering::SeqCst);
    }
}

/// All gates, and what clients need in order to connect to one.
pub struct Doors {
    doors: Vec<Arc<Door>>,
    next: AtomicUsize,
    connector: [TlsConnector; 2],
    /// The certificate that was shown at each handshake, in order.
    shown: Mutex<Vec<CertificateDer<'static>>>,
}

pub fn der(certificate: &Certificate) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(certificate.pem.as_bytes()).unwrap()
}

impl Doors {
    /// Clients trust any of these certificates.
    pub fn new(doors: Vec<Arc<Door>>, trusted: &[&Certificate]) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in trusted {
            roots.add(der(certificate)).unwrap();
        }
        let connector = ["http/1.1", "h2"].map(|protocol| {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
            let mut config = builder.with_root_certificates(roots.clone()).with_no_client_auth();
            // Each handshake shows the certificate.
            config.resumption = rustls::client::Resumption::disabled();
            config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
            TlsConnector::from(Arc::new(config))
        });
        Self { doors, next: AtomicUsize::new(0), connector, shown: Mutex::default() }
    }

    pub fn handshakes(&self) -> Vec<CertificateDer<'static>> {
        self.shown.lock().unwrap().clone()
    }

    /// Connects to the next gate that is open; to another when nobody listens there.
    pub async fn connect(&self, over_tls: bool, protocol: Protocol) -> io::Result<Box<dyn Wire>> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut last = io::Error::other("every gate is shut");
        for i in 0..self.doors.len() {
            let door = &self.doors[(first + i) % self.doors.len()];
            if !door.open.load(Ordering::SeqCst) {
                continue;
            }
            match self.enter(door, over_tls, protocol).await {
                Ok(wire) => return Ok(wire),
                // A Unix socket that is being closed is not there any more.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    async fn enter(&self, door: &Door, over_tls: bool, protocol: Protocol) -> io::Result<Box<dyn Wire>> {
        if !over_tls {
            return Ok(Box::new(UnixStream::connect(&door.clear).await?));
        }
        let stream = TcpStream::connect(door.tls).await?;
        stream.set_nodelay(true)?;
        let connector = &self.connector[usize::from(protocol == Protocol::Http2)];
        let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await?;
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
        self.shown.lock().unwrap().push(shown);
        Ok(Box::new(stream))
    }
}

//! Certificates that live as long as a test, and clients that trust one of them.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::soon;

/// A certificate for `localhost`, signed by itself.
pub struct Certificate {
    pub pem: String,
    pub key_pem: String,
    der: CertificateDer<'static>,
}

impl Certificate {
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        Self { pem: made.cert.pem(), key_pem: made.signing_key.serialize_pem(), der: made.cert.der().clone() }
    }
}

/// Connects with TLS, trusting this certificate alone and offering these protocols.
pub async fn connect_tls(address: SocketAddr, trusted: &Certificate, protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let stream = soon("connecting", TcpStream::connect(address)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    soon("the TLS handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

//! An authority that lives as long as a test, and what an upstream over TLS needs of it.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Signs certificates of servers and clients.
pub struct Signer {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Signed {
    pub pem: String,
    pub key_pem: String,
}

impl Signer {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub fn sign(&self, name: &str) -> Signed {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Signed { pem, key_pem: key.serialize_pem() }
    }

    /// A server with a certificate for this name that offers these protocols, and asks for a certificate of this signer's.
    pub fn acceptor(&self, name: &str, protocols: &[&str], asks: bool) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let builder = match asks {
            true => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
                builder.with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap())
            }
            false => builder.with_no_client_auth(),
        };
        let signed = self.sign(name);
        let chain = vec![CertificateDer::from_pem_slice(signed.pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(signed.key_pem.as_bytes()).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// What was said in the handshake: the name that was asked for, the protocol, and how many certificates were shown.
pub fn handshake_of(stream: &TlsStream<TcpStream>) -> (Option<String>, Option<String>, usize) {
    let connection = stream.get_ref().1;
    let protocol = connection.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
    (connection.server_name().map(str::to_owned), protocol, connection.peer_certificates().map_or(0, <[_]>::len))
}

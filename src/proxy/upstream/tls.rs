//! TLS to endpoints: whose word counts, the gate's own certificate, and which protocol is offered.

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::policy::{Protocol, Upstream, UpstreamTls};

/// The client's side of TLS for one service's endpoints.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// For requests: what the service is spoken to.
    pub usual: Arc<ClientConfig>,
    /// For a WebSocket, which takes a connection of HTTP/1.1 for itself.
    pub http1: Arc<ClientConfig>,
}

impl ClientTls {
    /// `None` for endpoints in clear text.
    pub fn of(upstream: &Upstream) -> Result<Option<Self>, String> {
        let Some(files) = &upstream.tls else { return Ok(None) };
        let mut config = client_config(files)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let http1 = Arc::new(config.clone());
        config.alpn_protocols = match upstream.protocol {
            Protocol::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Protocol::Http1 => vec![b"http/1.1".to_vec()],
            Protocol::Http2 => vec![b"h2".to_vec()],
        };
        Ok(Some(Self { usual: Arc::new(config), http1 }))
    }
}

/// The name that an endpoint's certificate must have.
pub fn server_name(files: &UpstreamTls, host: &str) -> Result<ServerName<'static>, String> {
    let name = files.server_name.as_deref().unwrap_or(host);
    ServerName::try_from(name.to_owned()).map_err(|_| format!("{name} is no name that a certificate can have"))
}

fn client_config(files: &UpstreamTls) -> Result<ClientConfig, String> {
    let roots = match &files.ca_pem {
        Some(pem) => own_roots(pem)?,
        None => system_roots()?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let builder = builder.with_root_certificates(roots);
    let Some((certificate, key)) = &files.certificate else { return Ok(builder.with_no_client_auth()) };
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| format!("upstream.tls.certificate_file: {error}"))?;
    if chain.is_empty() {
        return Err("upstream.tls.certificate_file: no certificate in it".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("upstream.tls.key_file: {error}"))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| format!("upstream.tls: {error}"))
}

fn own_roots(pem: &[u8]) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("upstream.tls.ca_file: {error}"))?;
        roots.add(certificate).map_err(|error| format!("upstream.tls.ca_file: {error}"))?;
    }
    match roots.is_empty() {
        true => Err("upstream.tls.ca_file: no certificate in it".to_owned()),
        false => Ok(Arc::new(roots)),
    }
}

/// Those of this machine, read once: few things need them, and they change with the machine.
fn system_roots() -> Result<Arc<RootCertStore>, String> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(roots.clone());
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(format!("no certificates of this system's authorities: {}", reasons.join(", ")));
    }
    Ok(ROOTS.get_or_init(|| Arc::new(roots)).clone())
}

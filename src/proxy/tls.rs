//! TLS for clients: one certificate, TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN, no early data (it can be replayed).

use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::policy::TlsFiles;

/// The server side of TLS. A certificate and a key that do not belong together are an error, so that a half-written
/// rotation keeps the old pair.
pub fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, String> {
    let chain = CertificateDer::pem_slice_iter(&files.certificate_pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| format!("tls.certificate_file: {error}"))?;
    if chain.is_empty() {
        return Err("tls.certificate_file: no certificate in it".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(&files.key_pem).map_err(|error| format!("tls.key_file: {error}"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).map_err(|error| format!("tls: {error}"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Early data can be replayed (RFC 8446 §8), and a request may be worth replaying.
    #[test]
    fn no_early_data_is_taken() {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let files =
            TlsFiles { certificate_pem: certified.cert.pem().into_bytes(), key_pem: certified.signing_key.serialize_pem().into_bytes() };
        assert_eq!(server_config(&files).unwrap().max_early_data_size, 0);
    }
}

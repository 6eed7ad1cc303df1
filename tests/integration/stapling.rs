//! OCSP responses that are stapled to certificates, as clients get them.

use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::support::*;

/// A client that believes anything, and notes what is stapled to it.
#[derive(Debug, Default)]
struct Reader(Mutex<Vec<u8>>);

impl ServerCertVerifier for Reader {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        stapled: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = stapled.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// What a new handshake staples.
async fn stapled(gate: &Gate) -> Vec<u8> {
    let reader = Arc::new(Reader::default());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.dangerous().with_custom_certificate_verifier(reader.clone()).with_no_client_auth();
    let stream = TcpStream::connect(gate.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    soon("the TLS handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await.unwrap();
    reader.0.lock().unwrap().clone()
}

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = match u8::try_from(body.len()) {
        Ok(short @ 0..=127) => vec![short],
        _ => [&[0x82][..], &u16::try_from(body.len()).unwrap().to_be_bytes()].concat(),
    };
    [&[tag][..], &length, &body].concat()
}

/// What an authority says of a certificate, good until then (RFC 6960 §4.2.1). Nobody signed it: that is for clients to check.
fn response(party: &Party, until: &str) -> Vec<u8> {
    const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
    let (serial, algorithm) = (party.serial.to_be_bytes(), der(0x30, &[&der(0x06, &[&[0x2b]])]));
    let id = der(0x30, &[&algorithm, &der(0x04, &[b"n"]), &der(0x04, &[b"k"]), &der(0x02, &[&serial])]);
    let made = der(0x18, &[b"20260101000000Z"]);
    let single = der(0x30, &[&id, &der(0x80, &[]), &made, &der(0xa0, &[&der(0x18, &[until.as_bytes()])])]);
    let data = der(0x30, &[&der(0xa2, &[&der(0x04, &[b"key"])]), &made, &der(0x30, &[&single])]);
    let basic = der(0x30, &[&data, &algorithm, &der(0x03, &[&[0, 1]])]);
    let bytes = der(0x30, &[&der(0x06, &[BASIC]), &der(0x04, &[&basic])]);
    der(0x30, &[&der(0x0a, &[&[0]]), &der(0xa0, &[&bytes])])
}

#[tokio::test]
async fn a_changed_response_is_stapled_to_new_handshakes_without_a_restart() {
    const TLS: &str = "tls: { certificate_file: tls.crt, key_file: tls.key, ocsp_file: tls.ocsp }";
    let authority = Authority::new("servers");
    let (party, other) = (authority.sign("gate", &["localhost"]), authority.sign("other", &["localhost"]));
    let (issuer, upstream) = (issuer().await, Upstream::friendly().await);
    let (first, second) = (response(&party, "21000101000000Z"), response(&party, "22000101000000Z"));
    let before = gate(&issuer, &upstream).settings("tls: { certificate_file: tls.crt, key_file: tls.key }");
    let mut gate = before.file("tls.crt", &party.pem).file("tls.key", &party.key_pem).start().await;
    let file = gate.path.parent().unwrap().join("tls.ocsp");
    assert_eq!(stapled(&gate).await, b"");
    std::fs::write(&file, &first).unwrap();
    gate.rewrite(&super::support::gate(&issuer, &upstream).settings(TLS).yaml()).await;
    assert_eq!(stapled(&gate).await, first);
    let mut open = Http2::over(authority.caller().connect(gate.address()).await.unwrap()).await;

    std::fs::write(&file, &second).unwrap();
    gate.app.reload_if_changed().await;
    assert_eq!(stapled(&gate).await, second);

    // One about somebody else's certificate is a fault, and what was there stays; one that is stale is left out.
    std::fs::write(&file, response(&other, "22000101000000Z")).unwrap();
    gate.app.reload_if_changed().await;
    assert_eq!(stapled(&gate).await, second);
    std::fs::write(&file, response(&party, "20000102000000Z")).unwrap();
    gate.app.reload_if_changed().await;
    assert_eq!(stapled(&gate).await, b"");
    assert_eq!(open.send(http::Request::get("https://localhost/public/a").body(()).unwrap()).await.status, 200);
}

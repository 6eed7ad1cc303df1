//! An authority that signs certificates, the parties that it signs them for, and a caller who shows one.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::soon;

/// One version of TLS alone.
pub static TLS_1_2: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
pub static TLS_1_3: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
    der: CertificateDer<'static>,
}

/// Whoever has a certificate and its key.
pub struct Party {
    pub pem: String,
    pub key_pem: String,
    pub serial: u64,
    pub der: CertificateDer<'static>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// A certificate for a common name, with these DNS names, or URIs where they have a colon.
    pub fn sign(&self, name: &str, alternatives: &[&str]) -> Party {
        self.sign_until(name, alternatives, rcgen::date_time_ymd(4000, 1, 1))
    }

    pub fn sign_until(&self, name: &str, alternatives: &[&str], until: OffsetDateTime) -> Party {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let serial = uuid::Uuid::now_v7().as_u128() as u64 >> 1;
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_after = until;
        params.subject_alt_names = alternatives
            .iter()
            .map(|name| match name.contains(':') {
                true => SanType::URI((*name).try_into().unwrap()),
                false => SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Party { pem: certificate.pem(), key_pem: key.serialize_pem(), serial, der: certificate.der().clone() }
    }

    /// A list of these as revoked.
    pub fn revoke(&self, parties: &[&Party]) -> String {
        let now = OffsetDateTime::now_utc();
        let revoked = |party: &&Party| RevokedCertParams {
            serial_number: SerialNumber::from(party.serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: now + time::Duration::days(1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: parties.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// Somebody who trusts this authority, and asks for `localhost`.
    pub fn caller(&self) -> Caller<'_> {
        Caller { trusted: self, shown: None, name: "localhost", protocols: &["h2"], versions: rustls::ALL_VERSIONS, resumption: None }
    }
}

impl Party {
    /// As tokens are bound to it (RFC 8705 §3.1).
    pub fn thumbprint(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.der))
    }
}

/// A client that connects with TLS.
#[derive(Clone)]
pub struct Caller<'a> {
    trusted: &'a Authority,
    shown: Option<&'a Party>,
    name: &'a str,
    protocols: &'a [&'a str],
    versions: &'static [&'static SupportedProtocolVersion],
    resumption: Option<Arc<ClientConfig>>,
}

impl<'a> Caller<'a> {
    pub fn showing(self, party: &'a Party) -> Self {
        Self { shown: Some(party), ..self }
    }

    pub fn asking_for(self, name: &'a str) -> Self {
        Self { name, ..self }
    }

    pub fn speaking(self, protocols: &'a [&'a str]) -> Self {
        Self { protocols, ..self }
    }

    pub fn with_versions(self, versions: &'static [&'static SupportedProtocolVersion]) -> Self {
        Self { versions, ..self }
    }

    /// One that keeps its sessions, for as long as it lives.
    pub fn keeping_sessions(self) -> Self {
        let config = self.config(Resumption::in_memory_sessions(8));
        Self { resumption: Some(config), ..self }
    }

    fn config(&self, resumption: Resumption) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.trusted.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(self.versions).unwrap().with_root_certificates(roots);
        let mut config = match self.shown {
            None => builder.with_no_client_auth(),
            Some(party) => {
                use rustls_pki_types::pem::PemObject;
                let key = PrivateKeyDer::from_pem_slice(party.key_pem.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![party.der.clone()], key).unwrap()
            }
        };
        config.alpn_protocols = self.protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config.resumption = resumption;
        // A caller without a name asks by address, which is no name.
        config.enable_sni = !self.name.is_empty();
        Arc::new(config)
    }

    /// Connects, and reads so far that a server which refuses what was shown has said so.
    pub async fn connect(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = soon("connecting", TcpStream::connect(address)).await?;
        self.connect_over(stream).await
    }

    pub async fn connect_over<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(&self, stream: S) -> std::io::Result<TlsStream<S>> {
        let config = self.resumption.clone().unwrap_or_else(|| self.config(Resumption::disabled()));
        let name = ServerName::try_from(if self.name.is_empty() { "localhost" } else { self.name }.to_owned()).unwrap();
        soon("the TLS handshake", TlsConnector::from(config).connect(name, stream)).await
    }
}

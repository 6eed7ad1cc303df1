//! TLS for clients: certificates by name, TLS 1.2 and 1.3, protocols by ALPN, clients' certificates where they are asked
//! for, no early data (it can be replayed).

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use tokio::sync::Notify;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::certificates::Certificates;
use crate::access::ClientCertificate;
use crate::clock;
use crate::policy::{self, ClientCertificates, Spoken, TlsVersion};

/// The server side of TLS, as one policy has it.
pub struct Tls {
    settings: policy::Tls,
    auto: Arc<ServerConfig>,
    http1: Arc<ServerConfig>,
    http2: Arc<ServerConfig>,
    authority: Option<Arc<Authority>>,
    pub warnings: Vec<String>,
}

/// Who vouches for clients' certificates.
struct Authority(Arc<dyn ClientCertVerifier>);

impl Tls {
    pub fn new(settings: &policy::Tls) -> Result<Self, String> {
        let mut warnings = Vec::new();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let certificates = Certificates::read(settings, &provider, &mut warnings)?;
        let authority = settings.client_certificates.as_ref().map(|clients| Authority::new(clients, &mut warnings)).transpose()?;
        let authority = authority.map(Arc::new);
        let versions: &[&rustls::SupportedProtocolVersion] = match settings.min_version {
            TlsVersion::Tls12 => &[&rustls::version::TLS12, &rustls::version::TLS13],
            TlsVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).map_err(|error| error.to_string())?;
        let builder = match &authority {
            Some(authority) => builder.with_client_cert_verifier(authority.0.clone()),
            None => builder.with_no_client_auth(),
        };
        // Sessions live with their configuration: none that was begun under other authorities can be resumed.
        let config = builder.with_cert_resolver(Arc::new(certificates));
        let speaking = |protocols: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Arc::new(config)
        };
        let (auto, http1, http2) = (speaking(&[b"h2", b"http/1.1"]), speaking(&[b"http/1.1"]), speaking(&[b"h2"]));
        Ok(Self { settings: settings.clone(), auto, http1, http2, authority, warnings })
    }

    /// The same again if nothing changed, so that sessions go on.
    pub fn renew(old: Option<Arc<Self>>, settings: &policy::Tls) -> Result<Arc<Self>, String> {
        match old.filter(|old| old.settings == *settings) {
            Some(same) => Ok(same),
            None => Self::new(settings).map(Arc::new),
        }
    }

    pub fn config(&self, protocol: Spoken) -> Arc<ServerConfig> {
        match protocol {
            Spoken::Auto => self.auto.clone(),
            Spoken::Http1 => self.http1.clone(),
            Spoken::Http2 => self.http2.clone(),
        }
    }
}

impl Authority {
    fn new(settings: &ClientCertificates, warnings: &mut Vec<String>) -> Result<Self, String> {
        const PLACE: &str = "tls.client_certificates";
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&settings.ca_pem) {
            let certificate = certificate.map_err(|error| format!("{PLACE}.ca_file: {error}"))?;
            roots.add(certificate).map_err(|error| format!("{PLACE}.ca_file: {error}"))?;
        }
        if roots.is_empty() {
            return Err(format!("{PLACE}.ca_file: no certificate in it"));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        if let Some(pem) = &settings.crl_pem {
            let lists = CertificateRevocationListDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
            let lists = lists.map_err(|error| format!("{PLACE}.crl_file: {error}"))?;
            if lists.is_empty() {
                return Err(format!("{PLACE}.crl_file: no revocation list in it"));
            }
            if lists.iter().any(|list| is_stale(list)) {
                warnings.push(format!("{PLACE}.crl_file: a list is no longer fresh; what it names stays refused"));
            }
            // Of whose clients no list tells, nothing is known: such a certificate is refused. Intermediates need no list.
            builder = builder.with_crls(lists).only_check_end_entity_revocation();
        }
        if !settings.required {
            builder = builder.allow_unauthenticated();
        }
        builder.build().map(Self).map_err(|error| format!("{PLACE}: {error}"))
    }

    fn vouches_for(&self, chain: &[CertificateDer<'_>]) -> bool {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(clock::unix_now().unsigned_abs()));
        chain.split_first().is_some_and(|(leaf, above)| self.0.verify_client_cert(leaf, above, now).is_ok())
    }
}

fn is_stale(list: &[u8]) -> bool {
    let read = CertificateRevocationList::from_der(list).ok();
    let until = read.and_then(|(_, list)| list.next_update().map(|until| until.timestamp()));
    until.is_some_and(|until| until < clock::unix_now())
}

/// The certificate that a client showed when it connected. The connection may outlive what vouched for it.
pub struct Shown {
    pub certificate: ClientCertificate,
    chain: Vec<CertificateDer<'static>>,
    expires_at: clock::UnixSeconds,
    /// Who vouched for it last.
    by: ArcSwapOption<Authority>,
    in_force: Arc<ArcSwapOption<Tls>>,
    lost: Notify,
}

/// Whether a certificate that was shown still counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Good,
    /// Nobody is asked for certificates any more.
    Unasked,
    /// Expired, revoked, or signed by an authority that was taken away.
    Lost,
}

impl Shown {
    /// What rustls verified in a handshake under this configuration. `Err` for what we cannot read, though it could.
    pub fn of(connection: &rustls::ServerConnection, tls: &Tls, in_force: Arc<ArcSwapOption<Tls>>) -> Result<Option<Arc<Self>>, ()> {
        let Some(chain) = connection.peer_certificates().filter(|chain| !chain.is_empty()) else { return Ok(None) };
        let certificate = ClientCertificate::read(&chain[0]).ok_or(())?;
        let expires_at = certificate.expires_at;
        let chain = chain.iter().map(|part| part.clone().into_owned()).collect();
        Ok(Some(Arc::new(Self {
            certificate,
            chain,
            expires_at,
            by: ArcSwapOption::new(tls.authority.clone()),
            in_force,
            lost: Notify::new(),
        })))
    }

    pub fn standing(&self) -> Standing {
        let standing = self.look();
        if standing == Standing::Lost {
            self.lost.notify_one();
        }
        standing
    }

    /// Ends when a request found that the certificate counts no more: the connection is good for nothing then.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }

    fn look(&self) -> Standing {
        let Some(authority) = self.in_force.load_full().and_then(|tls| tls.authority.clone()) else { return Standing::Unasked };
        if self.expires_at < clock::unix_now() {
            return Standing::Lost;
        }
        if self.by.load().as_ref().is_some_and(|by| Arc::ptr_eq(by, &authority)) {
            return Standing::Good;
        }
        if !authority.vouches_for(&self.chain) {
            return Standing::Lost;
        }
        self.by.store(Some(authority));
        Standing::Good
    }
}

/// Why a handshake failed, as a label.
pub fn reason(error: &std::io::Error) -> &'static str {
    use rustls::Error as E;
    match error.get_ref().and_then(|inner| inner.downcast_ref::<E>()) {
        None if error.kind() == std::io::ErrorKind::TimedOut => "timeout",
        None => "broke_off",
        Some(E::InvalidCertificate(_)) => "certificate_refused",
        Some(E::NoCertificatesPresented) => "certificate_missing",
        Some(E::NoApplicationProtocol) => "protocol",
        Some(E::PeerIncompatible(_)) => "incompatible",
        Some(E::AlertReceived(_)) => "refused_by_client",
        Some(E::InvalidMessage(_)) => "no_tls",
        // What rustls says when no certificate was chosen.
        Some(E::General(_)) => "name_unknown",
        Some(_) => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::TlsFiles;

    fn settings(min_version: TlsVersion) -> policy::Tls {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let files = TlsFiles {
            place: "tls".to_owned(),
            certificate_pem: certified.cert.pem().into_bytes(),
            key_pem: certified.signing_key.serialize_pem().into_bytes(),
            ocsp_der: None,
        };
        policy::Tls { certificates: vec![files], strict_sni: false, min_version, client_certificates: None }
    }

    /// Early data can be replayed (RFC 8446 §8), and a request may be worth replaying.
    #[test]
    fn no_early_data_is_taken() {
        let tls = Tls::new(&settings(TlsVersion::Tls12)).unwrap();
        for protocol in [Spoken::Auto, Spoken::Http1, Spoken::Http2] {
            assert_eq!(tls.config(protocol).max_early_data_size, 0);
        }
    }

    #[test]
    fn sessions_go_on_as_long_as_nothing_changes() {
        let settings = settings(TlsVersion::Tls12);
        let first = Tls::renew(None, &settings).unwrap();
        assert!(Arc::ptr_eq(&first, &Tls::renew(Some(first.clone()), &settings).unwrap()));
        let changed = policy::Tls { min_version: TlsVersion::Tls13, ..settings };
        let second = Tls::renew(Some(first.clone()), &changed).unwrap();
        assert!(!Arc::ptr_eq(&first.auto.session_storage, &second.auto.session_storage));
    }
}

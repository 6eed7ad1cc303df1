//! TLS for clients: certificates and their keys, and whose certificates clients may show.

pub use crate::config::{CertificatePart, TlsVersion};

use http::HeaderName;

/// TLS for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// At least one. The first is for clients that ask for a name of none.
    pub certificates: Vec<TlsFiles>,
    pub strict_sni: bool,
    pub min_version: TlsVersion,
    pub client_certificates: Option<ClientCertificates>,
}

/// A certificate chain and its key as PEM, and what its authority says of it as DER.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Where it stands in the configuration, for messages.
    pub place: String,
    pub certificate_pem: Vec<u8>,
    pub key_pem: Vec<u8>,
    pub ocsp_der: Option<Vec<u8>>,
}

impl std::fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsFiles")
    }
}

/// Whose certificates clients may show, and whether they must.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificates {
    pub required: bool,
    pub ca_pem: Vec<u8>,
    pub crl_pem: Option<Vec<u8>>,
}

impl std::fmt::Debug for ClientCertificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientCertificates {{ required: {} }}", self.required)
    }
}

/// Which client certificates a route takes: of each list that is not empty, one must fit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CertificateRule {
    /// In lower case.
    pub dns: Vec<String>,
    pub uri: Vec<String>,
    pub email: Vec<String>,
    pub subject: Vec<String>,
    /// In lower case, without colons.
    pub fingerprint: Vec<String>,
}

/// A header that tells the upstream of the client's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateHeader {
    pub name: HeaderName,
    pub part: CertificatePart,
}

impl std::fmt::Display for CertificateRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("client certificate")?;
        let lists =
            [("dns", &self.dns), ("uri", &self.uri), ("email", &self.email), ("subject", &self.subject), ("sha256", &self.fingerprint)];
        for (name, values) in lists.iter().filter(|(_, values)| !values.is_empty()) {
            write!(f, " {name}={}", values.join("|"))?;
        }
        Ok(())
    }
}

//! What the operator writes about TLS for clients: certificates, versions, and certificates of the clients' own.

use schemars::JsonSchema;
use serde::Deserialize;

use super::shapes::{Entries, OneOrMany};

/// TLS for clients. Every file is read again when it changes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate chain, PEM.
    #[serde(default)]
    pub certificate_file: Option<String>,
    /// Its private key, PEM.
    #[serde(default)]
    pub key_file: Option<String>,
    /// An OCSP response about the certificate, DER, stapled while it is fresh.
    #[serde(default)]
    pub ocsp_file: Option<String>,
    /// More certificates, chosen by the name that a client asks for (SNI). The names are read from them.
    #[serde(default)]
    pub certificates: Vec<Certificate>,
    /// Refuse clients that ask for a name of no certificate, or for none. By default they get the first certificate.
    #[serde(default)]
    pub strict_sni: bool,
    /// The least version of TLS: "1.2" or "1.3".
    #[serde(default)]
    pub min_version: TlsVersion,
    /// Ask clients for certificates of their own.
    #[serde(default)]
    pub client_certificates: Option<ClientCertificates>,
}

/// A certificate, its key, and what its authority says of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The certificate chain, PEM.
    pub certificate_file: String,
    /// Its private key, PEM.
    pub key_file: String,
    /// An OCSP response about the certificate, DER, stapled while it is fresh.
    #[serde(default)]
    pub ocsp_file: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
pub enum TlsVersion {
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

/// Whose certificates clients may show.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificates {
    /// `required` ends a handshake without a good certificate; `optional` takes clients without one, too.
    pub mode: CertificateMode,
    /// The authorities that sign clients' certificates, PEM.
    pub ca_file: String,
    /// Revocation lists of these authorities, PEM: a certificate on one is refused.
    #[serde(default)]
    pub crl_file: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CertificateMode {
    Optional,
    Required,
}

/// What of a client certificate a header tells the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CertificatePart {
    /// The subject's name as text (RFC 4514).
    Subject,
    /// Its DNS names.
    Dns,
    /// Its URIs, a SPIFFE ID among them.
    Uri,
    /// Its mail addresses.
    Email,
    /// The SHA-256 of the certificate, in hex.
    Fingerprint,
}

/// Headers by name, and what of the client certificate fills each.
pub type CertificateHeaders = Entries<CertificatePart>;

/// Which client certificates a route takes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CertificateRuleKeys {
    /// One of these DNS names stands in it.
    pub dns: Option<OneOrMany<String>>,
    /// One of these URIs stands in it.
    pub uri: Option<OneOrMany<String>>,
    /// One of these mail addresses stands in it.
    pub email: Option<OneOrMany<String>>,
    /// The subject's name is one of these, as text (RFC 4514).
    pub subject: Option<OneOrMany<String>>,
    /// The SHA-256 of the certificate is one of these, in hex.
    pub fingerprint: Option<OneOrMany<String>>,
}

/// `true` for any verified certificate, or what must stand in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateRule {
    None,
    Some(CertificateRuleKeys),
}

impl<'de> Deserialize<'de> for CertificateRule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> serde::de::Visitor<'de> for Form {
            type Value = CertificateRule;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("true, or a map with dns, uri, email, subject, fingerprint")
            }
            fn visit_bool<E: serde::de::Error>(self, asked: bool) -> Result<CertificateRule, E> {
                Ok(if asked { CertificateRule::Some(CertificateRuleKeys::default()) } else { CertificateRule::None })
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<CertificateRule, A::Error> {
                let keys = CertificateRuleKeys::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                match keys == CertificateRuleKeys::default() {
                    true => Err(serde::de::Error::custom("an empty map; write true for any certificate, or what must stand in it")),
                    false => Ok(CertificateRule::Some(keys)),
                }
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl JsonSchema for CertificateRule {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CertificateRule".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let keys = generator.subschema_for::<CertificateRuleKeys>();
        schemars::json_schema!({ "anyOf": [{ "type": "boolean" }, keys] })
    }
}

//! What the client's certificate says, and whether a route takes it. That it is good was for TLS to find out.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue};
use x509_parser::asn1_rs::Tag;
use x509_parser::der_parser::asn1_rs::ToDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::authorize::encode;
use super::denial::Denial;
use crate::clock::UnixSeconds;
use crate::policy::{CertificateHeader, CertificatePart, CertificateRule};

/// The certificate that a client showed over TLS and that one of the operator's authorities signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// As text, the most specific part first (RFC 4514).
    pub subject: String,
    pub dns: Vec<String>,
    pub uri: Vec<String>,
    pub email: Vec<String>,
    /// SHA-256 of the certificate in hex.
    pub fingerprint: String,
    /// The same as tokens are bound to it: `x5t#S256` (RFC 8705 §3.1).
    pub thumbprint: String,
    pub expires_at: UnixSeconds,
}

impl ClientCertificate {
    /// Reads a certificate. `None` for one that the reader takes for malformed, whoever else takes it.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let hash = digest(&SHA256, der);
        let mut read = Self {
            subject: name_text(certificate.subject()),
            dns: Vec::new(),
            uri: Vec::new(),
            email: Vec::new(),
            fingerprint: hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
            thumbprint: BASE64_URL_SAFE_NO_PAD.encode(hash.as_ref()),
            expires_at: certificate.validity().not_after.timestamp(),
        };
        let names = certificate.subject_alternative_name().ok()?;
        for name in names.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(text) => read.dns.push((*text).to_owned()),
                GeneralName::URI(text) => read.uri.push((*text).to_owned()),
                GeneralName::RFC822Name(text) => read.email.push((*text).to_owned()),
                _ => {}
            }
        }
        Some(read)
    }

    fn fits(&self, rule: &CertificateRule) -> bool {
        let one_of = |wanted: &[String], found: &[String]| wanted.is_empty() || found.iter().any(|found| wanted.contains(found));
        let dns = || self.dns.iter().any(|name| rule.dns.contains(&name.to_ascii_lowercase()));
        (rule.dns.is_empty() || dns())
            && one_of(&rule.uri, &self.uri)
            && one_of(&rule.email, &self.email)
            && one_of(&rule.subject, std::slice::from_ref(&self.subject))
            && one_of(&rule.fingerprint, std::slice::from_ref(&self.fingerprint))
    }

    fn part(&self, part: CertificatePart) -> Option<String> {
        let list = |names: &[String]| {
            let names: Vec<String> = names.iter().map(|name| encode(name, true)).collect();
            Some(names.join(",")).filter(|text| !text.is_empty())
        };
        match part {
            CertificatePart::Subject => Some(encode(&self.subject, false)).filter(|text| !text.is_empty()),
            CertificatePart::Dns => list(&self.dns),
            CertificatePart::Uri => list(&self.uri),
            CertificatePart::Email => list(&self.email),
            CertificatePart::Fingerprint => Some(self.fingerprint.clone()),
        }
    }
}

/// Whether the client showed what the route asks for.
pub(super) fn check(rule: Option<&CertificateRule>, certificate: Option<&ClientCertificate>) -> Result<(), Denial> {
    match (rule, certificate) {
        (None, _) => Ok(()),
        (Some(_), None) => Err(Denial::CertificateMissing),
        (Some(rule), Some(certificate)) if certificate.fits(rule) => Ok(()),
        (Some(_), Some(certificate)) => Err(Denial::CertificateRefused { subject: certificate.subject.clone() }),
    }
}

/// What the upstream is told of the certificate.
pub(super) fn headers(
    list: &[CertificateHeader],
    certificate: Option<&ClientCertificate>,
    bytes_max: usize,
) -> Result<Vec<(HeaderName, HeaderValue)>, Denial> {
    let Some(certificate) = certificate else { return Ok(Vec::new()) };
    let mut headers = Vec::with_capacity(list.len());
    for header in list {
        let Some(text) = certificate.part(header.part) else { continue };
        let refused = || Denial::CertificateTooLong { header: header.name.to_string() };
        if text.len() > bytes_max {
            return Err(refused());
        }
        headers.push((header.name.clone(), HeaderValue::try_from(text).map_err(|_| refused())?));
    }
    Ok(headers)
}

/// A distinguished name as text (RFC 4514 §2): from the last part to the first.
fn name_text(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name.iter_rdn().map(|part| part.iter().map(attribute_text).collect::<Vec<_>>().join("+")).collect();
    parts.reverse();
    parts.join(",")
}

fn attribute_text(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    let keyword = match oid.as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.6" => "C",
        "2.5.4.9" => "STREET",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        other => other,
    };
    // An attribute without a keyword, and a value that is no text, are written by their bytes (RFC 4514 §2.4).
    let text = text_of(attribute).filter(|_| keyword != oid);
    match text {
        Some(text) => format!("{keyword}={}", escaped(&text)),
        None => {
            let der = attribute.attr_value().to_der_vec().unwrap_or_default();
            let hex: String = der.iter().map(|byte| format!("{byte:02X}")).collect();
            format!("{keyword}=#{hex}")
        }
    }
}

fn text_of(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    if let Ok(text) = attribute.as_str() {
        return Some(text.to_owned());
    }
    let bytes = attribute.as_slice();
    if attribute.attr_value().tag() != Tag::BmpString || !bytes.len().is_multiple_of(2) {
        return None;
    }
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    String::from_utf16(&units).ok()
}

/// A value so that it cannot be taken for more than one (RFC 4514 §2.4).
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (i, char) in text.chars().enumerate() {
        let at_edge = (i == 0 && matches!(char, ' ' | '#')) || (i == last && char == ' ');
        match char {
            '\0' => out.push_str("\\00"),
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => out.extend(['\\', char]),
            _ if at_edge => out.extend(['\\', char]),
            _ => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SanType};

    use super::*;

    fn certificate(names: &[(DnType, &str)], alternatives: Vec<SanType>) -> ClientCertificate {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), DnValue::Utf8String((*value).to_owned()));
        }
        params.subject_alt_names = alternatives;
        ClientCertificate::read(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der()).unwrap()
    }

    fn spiffe() -> ClientCertificate {
        let uri = SanType::URI("spiffe://example/ns/a".try_into().unwrap());
        let (dns, email) = (SanType::DnsName("Agent.example".try_into().unwrap()), SanType::Rfc822Name("a@b.example".try_into().unwrap()));
        certificate(
            &[(DnType::CountryName, "DE"), (DnType::OrganizationName, "Acme"), (DnType::CommonName, "agent")],
            vec![uri, dns, email],
        )
    }

    /// RFC 4514 §2.1, §2.4.
    #[test]
    fn a_subject_is_text_that_can_be_read_in_one_way_only() {
        assert_eq!(spiffe().subject, "CN=agent,O=Acme,C=DE");
        let table = [
            ("a,b", "CN=a\\,b"),
            (" x ", "CN=\\ x\\ "),
            ("#1", "CN=\\#1"),
            ("a+b=c;<d>\"\\", "CN=a\\+b=c\\;\\<d\\>\\\"\\\\"),
            ("nul\0", "CN=nul\\00"),
            ("Zoë", "CN=Zoë"),
        ];
        for (value, text) in table {
            assert_eq!(certificate(&[(DnType::CommonName, value)], Vec::new()).subject, text);
        }
        let unknown = certificate(&[(DnType::CustomDnType(vec![1, 2, 3]), "x")], Vec::new());
        assert_eq!(unknown.subject, "1.2.3=#0C0178");
    }

    #[test]
    fn a_route_takes_a_certificate_that_fits_each_of_its_lists() {
        let list = |text: &str| vec![text.to_owned()];
        let certificate = spiffe();
        let any = CertificateRule::default();
        let good = [
            any.clone(),
            CertificateRule { dns: list("agent.example"), ..any.clone() },
            CertificateRule { uri: list("spiffe://example/ns/a"), email: list("a@b.example"), ..any.clone() },
            CertificateRule { subject: list("CN=agent,O=Acme,C=DE"), ..any.clone() },
            CertificateRule { fingerprint: list(&certificate.fingerprint), ..any.clone() },
        ];
        for rule in good {
            assert_eq!(check(Some(&rule), Some(&certificate)), Ok(()), "{rule}");
        }
        let bad = [
            CertificateRule { dns: list("other.example"), ..any.clone() },
            CertificateRule { uri: list("spiffe://example/ns"), ..any.clone() },
            CertificateRule { uri: list("spiffe://example/ns/a"), email: list("x@b.example"), ..any.clone() },
            CertificateRule { subject: list("CN=agent"), ..any.clone() },
            CertificateRule { fingerprint: list(&"0".repeat(64)), ..any.clone() },
        ];
        for rule in bad {
            let denial = check(Some(&rule), Some(&certificate)).unwrap_err();
            assert_eq!(denial.row().code, "certificate_refused", "{rule}");
            assert_eq!(check(Some(&rule), None), Err(Denial::CertificateMissing));
        }
        assert_eq!(check(None, None), Ok(()));
    }

    #[test]
    fn a_certificate_becomes_headers_that_nothing_in_it_can_break() {
        let odd = vec![SanType::URI("urn:a,b".try_into().unwrap()), SanType::URI("urn:c%2".try_into().unwrap())];
        let certificate = certificate(&[(DnType::CommonName, "Zoë\r\nX-Admin: 1")], odd);
        let header = |name: &'static str, part| CertificateHeader { name: HeaderName::from_static(name), part };
        let list = [
            header("x-subject", CertificatePart::Subject),
            header("x-uri", CertificatePart::Uri),
            header("x-dns", CertificatePart::Dns),
            header("x-print", CertificatePart::Fingerprint),
        ];
        let made = headers(&list, Some(&certificate), 100).unwrap();
        let value = |name: &str| made.iter().find(|(known, _)| known == name).map(|(_, value)| value.to_str().unwrap());
        assert_eq!(value("x-subject"), Some("CN=Zo%C3%AB%0D%0AX-Admin: 1"));
        assert_eq!(value("x-uri"), Some("urn:a%2Cb,urn:c%252"));
        assert_eq!((value("x-dns"), value("x-print")), (None, Some(certificate.fingerprint.as_str())));
        assert_eq!(headers(&list, Some(&certificate), 63).unwrap_err().row().code, "certificate_too_long");
        assert_eq!(headers(&list, None, 0), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_certificate_says_nothing() {
        assert_eq!(ClientCertificate::read(b""), None);
        assert_eq!(ClientCertificate::read(&[0x30, 0x03, 0x02, 0x01, 0x01]), None);
    }
}

//! Compiles TLS: the files of each certificate, and what routes and headers ask of clients' certificates.

use std::sync::Arc;

use http::HeaderName;

use super::compile::{Compiler, trail};
use super::tls::{CertificateHeader, CertificateRule, ClientCertificates, Tls, TlsFiles};
use super::{IdentityHeader, Managed};
use crate::config::{self, CertificateMode, Config, Trail};

pub fn tls(c: &mut Compiler<'_>, tls: &config::Tls) -> Option<Tls> {
    let mut certificates = Vec::new();
    let at = |key: &str| trail(&[&"tls", &key]);
    match (&tls.certificate_file, &tls.key_file) {
        (Some(certificate), Some(key)) => {
            certificates.push(files(c, "tls", &["tls".to_owned()], (certificate, key, tls.ocsp_file.as_deref())));
        }
        (None, None) if tls.certificates.is_empty() => {
            c.absence(vec!["tls".to_owned()], "", "no certificate", "add certificate_file and key_file, or certificates: with a list");
        }
        (None, None) if tls.ocsp_file.is_some() => {
            c.fault(at("ocsp_file"), "", "an OCSP response about no certificate", "move it to the certificate that it is about");
        }
        (None, None) => {}
        (Some(alone), None) => c.fault(at("certificate_file"), alone, "a certificate without its key", "add key_file"),
        (None, Some(alone)) => c.fault(at("key_file"), alone, "a key without its certificate", "add certificate_file"),
    }
    for (i, one) in tls.certificates.iter().enumerate() {
        let place = format!("tls.certificates.{i}");
        let named = (one.certificate_file.as_str(), one.key_file.as_str(), one.ocsp_file.as_deref());
        certificates.push(files(c, &place, &trail(&[&"tls", &"certificates", &i]), named));
    }
    let client_certificates = tls.client_certificates.as_ref().map(|written| client_certificates(c, written));
    Some(Tls {
        certificates: certificates.into_iter().collect::<Option<Vec<_>>>()?,
        strict_sni: tls.strict_sni,
        min_version: tls.min_version,
        client_certificates: client_certificates.flatten(),
    })
}

/// Reads them all, so that every one that is missing is reported.
fn files(c: &mut Compiler<'_>, place: &str, at: &[String], (certificate, key, ocsp): (&str, &str, Option<&str>)) -> Option<TlsFiles> {
    let below = |name: &str| at.iter().cloned().chain([name.to_owned()]).collect::<Trail>();
    let certificate_pem = c.file(below("certificate_file"), certificate);
    let key_pem = c.file(below("key_file"), key);
    let ocsp_der = ocsp.map(|path| c.file(below("ocsp_file"), path));
    let ocsp_der = match ocsp_der {
        Some(read) => Some(read?),
        None => None,
    };
    Some(TlsFiles { place: place.to_owned(), certificate_pem: certificate_pem?, key_pem: key_pem?, ocsp_der })
}

fn client_certificates(c: &mut Compiler<'_>, written: &config::ClientCertificates) -> Option<ClientCertificates> {
    let at = |key: &str| trail(&[&"tls", &"client_certificates", &key]);
    let ca_pem = c.file(at("ca_file"), &written.ca_file);
    let crl_pem = written.crl_file.as_ref().map(|path| c.file(at("crl_file"), path));
    let crl_pem = match crl_pem {
        Some(read) => Some(read?),
        None => None,
    };
    Some(ClientCertificates { required: written.mode == CertificateMode::Required, ca_pem: ca_pem?, crl_pem })
}

/// Whether clients are asked for certificates at all; what needs one is a fault otherwise.
fn asked_for(c: &mut Compiler<'_>, config: &Config, at: &Trail) -> bool {
    let asked = config.tls.as_ref().is_some_and(|tls| tls.client_certificates.is_some());
    if !asked {
        let cure = "add tls.client_certificates with mode and ca_file";
        c.fault(at.clone(), "", "no client is asked for a certificate", cure);
    }
    asked
}

pub fn rule(c: &mut Compiler<'_>, config: &Config, written: &config::CertificateRuleKeys, at: &Trail) -> CertificateRule {
    let at: Trail = at.iter().cloned().chain(["client_certificate".to_owned()]).collect();
    asked_for(c, config, &at);
    let mut rule = CertificateRule::default();
    let lists = [
        ("dns", &written.dns, &mut rule.dns),
        ("uri", &written.uri, &mut rule.uri),
        ("email", &written.email, &mut rule.email),
        ("subject", &written.subject, &mut rule.subject),
    ];
    for (key, values, list) in lists {
        for (i, value) in values.iter().flat_map(|values| &values.0).enumerate() {
            if value.trim().is_empty() {
                let place = at.iter().cloned().chain([key.to_owned(), i.to_string()]).collect();
                c.fault(place, value, "nothing that could stand in a certificate", "write it as it stands there");
            }
            list.push(if key == "dns" { value.to_ascii_lowercase() } else { value.clone() });
        }
    }
    for (i, value) in written.fingerprint.iter().flat_map(|values| &values.0).enumerate() {
        let plain = value.replace(':', "").to_ascii_lowercase();
        if plain.len() != 64 || !plain.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let place = at.iter().cloned().chain(["fingerprint".to_owned(), i.to_string()]).collect();
            c.fault(
                place,
                value,
                "no SHA-256 of a certificate",
                "write 64 hex digits, as openssl x509 -noout -fingerprint -sha256 shows them",
            );
        }
        rule.fingerprint.push(plain);
    }
    rule
}

pub fn headers(
    c: &mut Compiler<'_>,
    config: &Config,
    service: &config::Service,
    identity: &[IdentityHeader],
    at: &Trail,
) -> Arc<[CertificateHeader]> {
    let Some(written) = &service.client_certificate_headers else { return Arc::new([]) };
    if !asked_for(c, config, at) {
        return Arc::new([]);
    }
    let mut headers: Vec<CertificateHeader> = Vec::new();
    for (name, part) in &written.0 {
        let place: Trail = at.iter().cloned().chain([name.clone()]).collect();
        let header = HeaderName::from_bytes(name.as_bytes()).ok().filter(Managed::may_carry_identity);
        let Some(header) = header.filter(|_| !name.contains('_')) else {
            c.fault(place, name, "no name for an identity header", "write letters, digits and '-', as in X-Client-Certificate-Subject");
            continue;
        };
        let taken = headers.iter().any(|known| known.name == header) || identity.iter().any(|known| known.name == header);
        if taken {
            c.fault(place, name, "this header is filled already", "give each its own name");
            continue;
        }
        headers.push(CertificateHeader { name: header, part: *part });
    }
    headers.into()
}

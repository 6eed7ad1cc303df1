//! The gate's own certificates: each with its key and what its authority says of it, chosen by the name that a client asks
//! for.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::ocsp::{self, Staple};
use crate::clock::{self, UnixSeconds};
use crate::policy::{Tls, TlsFiles};

/// Certificates by name.
#[derive(Debug)]
pub struct Certificates {
    /// In the order of the configuration.
    all: Vec<Served>,
    /// Indexes into `all`.
    exact: HashMap<String, Vec<usize>>,
    /// What stands behind `*.`.
    wildcard: HashMap<String, Vec<usize>>,
    strict: bool,
}

#[derive(Debug)]
struct Served {
    plain: Arc<CertifiedKey>,
    stapled: Option<(Arc<CertifiedKey>, Staple)>,
}

impl Certificates {
    /// Reads them all. What is allowed but should be known is added to `warnings`.
    pub fn read(tls: &Tls, provider: &CryptoProvider, warnings: &mut Vec<String>) -> Result<Self, String> {
        let mut read = Self { all: Vec::new(), exact: HashMap::new(), wildcard: HashMap::new(), strict: tls.strict_sni };
        for files in &tls.certificates {
            let (served, names) = serve(files, provider, clock::unix_now(), warnings)?;
            let index = read.all.len();
            if names.is_empty() && (index > 0 || tls.strict_sni) {
                return Err(format!("{}.certificate_file: no DNS name in it, so that no client could ask for it", files.place));
            }
            for name in names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut read.wildcard, parent),
                    None => (&mut read.exact, name.as_str()),
                };
                map.entry(name.to_owned()).or_default().push(index);
            }
            read.all.push(served);
        }
        Ok(read)
    }

    /// Certificates for a name, the best first: those that name it, those whose wildcard covers it, or any.
    fn candidates(&self, name: Option<&str>) -> Vec<usize> {
        let name = name.map(str::to_ascii_lowercase);
        let exact = name.as_ref().and_then(|name| self.exact.get(name));
        // `*` stands for one whole label (RFC 9525 §6.3).
        let wildcard = || self.wildcard.get(name.as_ref()?.split_once('.')?.1);
        match exact.or_else(wildcard) {
            Some(found) => found.clone(),
            None if self.strict => Vec::new(),
            None => (0..self.all.len()).collect(),
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let candidates = self.candidates(hello.server_name()).into_iter().map(|index| &self.all[index]);
        // Of several, an ECDSA one beside an RSA one, the first whose signatures the client can check.
        let mut fitting = candidates.filter(|served| served.plain.key.choose_scheme(hello.signature_schemes()).is_some());
        fitting.next().map(|served| served.at(clock::unix_now()))
    }
}

impl Served {
    /// A stale staple is worse than none: some clients then refuse the certificate.
    fn at(&self, now: UnixSeconds) -> Arc<CertifiedKey> {
        match &self.stapled {
            Some((stapled, staple)) if now < staple.until => stapled.clone(),
            Some(_) | None => self.plain.clone(),
        }
    }
}

/// A certificate and a key that do not belong together are an error, so that a half-written rotation keeps the old pair.
fn serve(
    files: &TlsFiles,
    provider: &CryptoProvider,
    now: UnixSeconds,
    warnings: &mut Vec<String>,
) -> Result<(Served, Vec<String>), String> {
    let place = &files.place;
    let chain = CertificateDer::pem_slice_iter(&files.certificate_pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| format!("{place}.certificate_file: {error}"))?;
    let Some(leaf) = chain.first().cloned() else { return Err(format!("{place}.certificate_file: no certificate in it")) };
    let key = PrivateKeyDer::from_pem_slice(&files.key_pem).map_err(|error| format!("{place}.key_file: {error}"))?;
    let plain = CertifiedKey::from_der(chain, key, provider).map_err(|error| format!("{place}: {error}"))?;
    let unreadable = |_| format!("{place}.certificate_file: no X.509 certificate");
    let (_, certificate) = X509Certificate::from_der(&leaf).map_err(unreadable)?;
    let until = certificate.validity().not_after.timestamp();
    if until < now {
        warnings.push(format!("{place}.certificate_file: the certificate has expired"));
    }
    let mut stapled = None;
    if let Some(der) = &files.ocsp_der {
        let staple = ocsp::read(der, certificate.raw_serial()).map_err(|why| format!("{place}.ocsp_file: {why}"))?;
        if staple.until <= now {
            warnings.push(format!("{place}.ocsp_file: the response is no longer fresh and is left out"));
        }
        stapled = Some((Arc::new(CertifiedKey { ocsp: Some(der.clone()), ..plain.clone() }), staple));
    }
    let names = certificate.subject_alternative_name().ok().flatten().map(|extension| &extension.value.general_names);
    let names = names.into_iter().flatten().filter_map(|name| match name {
        GeneralName::DNSName(text) => Some(text.to_ascii_lowercase()),
        _ => None,
    });
    let names = names.collect();
    Ok((Served { plain: Arc::new(plain), stapled }, names))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::TlsVersion;

    fn files(names: &[&str], ocsp: impl FnOnce(&[u8]) -> Option<Vec<u8>>) -> TlsFiles {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let (_, read) = X509Certificate::from_der(made.cert.der()).unwrap();
        TlsFiles {
            place: "tls".to_owned(),
            certificate_pem: made.cert.pem().into_bytes(),
            key_pem: made.signing_key.serialize_pem().into_bytes(),
            ocsp_der: ocsp(read.raw_serial()),
        }
    }

    fn read(names: &[&[&str]], strict_sni: bool) -> Result<Certificates, String> {
        let certificates = names.iter().map(|names| files(names, |_| None)).collect();
        let tls = Tls { certificates, strict_sni, min_version: TlsVersion::Tls12, client_certificates: None };
        Certificates::read(&tls, &rustls::crypto::aws_lc_rs::default_provider(), &mut Vec::new())
    }

    /// RFC 6066 §3, RFC 9525 §6.3.
    #[test]
    fn a_name_finds_its_certificate_exact_before_wildcard() {
        let names: [&[&str]; 4] = [&["first.example"], &["*.a.example"], &["b.a.example", "B2.example"], &["first.example"]];
        let (lax, strict) = (read(&names, false).unwrap(), read(&names, true).unwrap());
        let table: [(Option<&str>, &[usize]); 6] = [
            (Some("first.example"), &[0, 3]),
            (Some("x.a.example"), &[1]),
            (Some("B.A.example"), &[2]),
            (Some("b2.example"), &[2]),
            (Some("x.y.a.example"), &[]),
            (None, &[]),
        ];
        for (name, found) in table {
            assert_eq!(strict.candidates(name), found, "{name:?}");
            let all: &[usize] = &[0, 1, 2, 3];
            assert_eq!(lax.candidates(name), if found.is_empty() { all } else { found }, "{name:?}");
        }
        assert!(strict.candidates(Some("a.example")).is_empty() && strict.candidates(Some("")).is_empty());
    }

    #[test]
    fn a_certificate_that_nobody_could_ask_for_is_an_error() {
        assert!(read(&[&[]], false).is_ok());
        assert!(read(&[&[]], true).unwrap_err().contains("no DNS name"));
        assert!(read(&[&["a.example"], &[]], false).unwrap_err().contains("no DNS name"));
    }

    #[test]
    fn a_staple_is_left_out_once_it_is_stale() {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let with = |until: &'static str| files(&["a.example"], |serial| Some(ocsp::tests::response(serial, 0x80, Some(until))));
        let mut warnings = Vec::new();
        let (served, _) = serve(&with("20300101000000Z"), &provider, 1_800_000_000, &mut warnings).unwrap();
        assert!(served.at(1_893_455_999).ocsp.is_some() && served.at(1_893_456_000).ocsp.is_none());
        assert!(warnings.is_empty());
        serve(&with("20200101000000Z"), &provider, 1_800_000_000, &mut warnings).unwrap();
        assert!(warnings[0].contains("no longer fresh"), "{warnings:?}");
        let wrong = files(&["a.example"], |_| Some(ocsp::tests::response(&[1, 2], 0x80, None)));
        assert!(serve(&wrong, &provider, 1_800_000_000, &mut warnings).unwrap_err().contains("another certificate"));
    }
}

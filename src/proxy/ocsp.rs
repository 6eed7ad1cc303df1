//! What an OCSP response (RFC 6960) says of itself: which certificate it is about, and until when it counts. Who signed it
//! is for the clients to check.

use x509_parser::asn1_rs::{Any, Class, FromDer, GeneralizedTime};

use crate::clock::UnixSeconds;

/// id-pkix-ocsp-basic, as bytes of its OID.
const BASIC: [u8; 9] = [0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];

/// A response that says that a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staple {
    /// When the authority will have said something newer; for ever without it.
    pub until: UnixSeconds,
}

/// Reads a response about the certificate with this serial number.
pub fn read(der: &[u8], serial: &[u8]) -> Result<Staple, &'static str> {
    let malformed = "no OCSP response in DER";
    let mut whole = inside(der).ok_or(malformed)?;
    match take(&mut whole).ok_or(malformed)?.data {
        [0] => {}
        _ => return Err("an OCSP response that is no answer"),
    }
    let bytes = take(&mut whole).ok_or(malformed)?;
    let mut bytes = inside(bytes.data).ok_or(malformed)?;
    if take(&mut bytes).ok_or(malformed)?.data != BASIC {
        return Err("an OCSP response of an unknown kind");
    }
    let basic = take(&mut bytes).ok_or(malformed)?;
    let mut basic = inside(basic.data).ok_or(malformed)?;
    let mut data = take(&mut basic).ok_or(malformed)?.data;
    // A version, the responder, when it was made, then what it says of each certificate.
    let responses = loop {
        let part = take(&mut data).ok_or(malformed)?;
        if part.class() == Class::Universal && part.tag().0 == 16 {
            break part.data;
        }
    };
    let mut responses = responses;
    while let Some(single) = take(&mut responses) {
        if let Some(found) = about(single.data, serial) {
            return found;
        }
    }
    Err("an OCSP response about another certificate")
}

/// What one part of the response says, if it is about this certificate.
fn about(mut single: &[u8], serial: &[u8]) -> Option<Result<Staple, &'static str>> {
    let id = take(&mut single)?.data;
    let mut last = id;
    let mut found: &[u8] = &[];
    while let Some(part) = take(&mut last) {
        found = part.data;
    }
    if trimmed(found) != trimmed(serial) {
        return None;
    }
    if take(&mut single)?.tag().0 != 0 {
        return Some(Err("an OCSP response that says that the certificate is revoked or unknown"));
    }
    take(&mut single)?;
    let until = match take(&mut single) {
        Some(next) if next.class() == Class::ContextSpecific && next.tag().0 == 0 => {
            let (_, time) = GeneralizedTime::from_der(next.data).ok()?;
            time.utc_datetime().ok()?.unix_timestamp()
        }
        _ => UnixSeconds::MAX,
    };
    Some(Ok(Staple { until }))
}

/// What stands inside of the one value that these bytes are.
fn inside(mut der: &[u8]) -> Option<&[u8]> {
    let value = take(&mut der)?;
    der.is_empty().then_some(value.data)
}

fn take<'d>(der: &mut &'d [u8]) -> Option<Any<'d>> {
    let (rest, value) = Any::from_der(der).ok()?;
    *der = rest;
    Some(value)
}

/// A number without the zeros in front that say that it is positive.
fn trimmed(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A value of DER.
    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        let length = match u8::try_from(body.len()) {
            Ok(short @ 0..=127) => vec![short],
            _ => [&[0x82][..], &u16::try_from(body.len()).unwrap().to_be_bytes()].concat(),
        };
        [&[tag][..], &length, &body].concat()
    }

    /// A response that nobody signed.
    pub fn response(serial: &[u8], status: u8, until: Option<&str>) -> Vec<u8> {
        let id = der(0x30, &[&der(0x30, &[&der(0x06, &[&[0x2b]])]), &der(0x04, &[b"n"]), &der(0x04, &[b"k"]), &der(0x02, &[serial])]);
        let next = until.map_or_else(Vec::new, |until| der(0xa0, &[&der(0x18, &[until.as_bytes()])]));
        let single = der(0x30, &[&id, &der(status, &[]), &der(0x18, &[b"20260101000000Z"]), &next]);
        let data = der(0x30, &[&der(0xa2, &[&der(0x04, &[b"key"])]), &der(0x18, &[b"20260101000000Z"]), &der(0x30, &[&single])]);
        let basic = der(0x30, &[&data, &der(0x30, &[&der(0x06, &[&[0x2b]])]), &der(0x03, &[&[0, 1]])]);
        let bytes = der(0x30, &[&der(0x06, &[&BASIC]), &der(0x04, &[&basic])]);
        der(0x30, &[&der(0x0a, &[&[0]]), &der(0xa0, &[&bytes])])
    }

    #[test]
    fn a_response_says_until_when_it_counts() {
        let good = response(&[0, 200, 1], 0x80, Some("20300101000000Z"));
        assert_eq!(read(&good, &[200, 1]), Ok(Staple { until: 1_893_456_000 }));
        assert_eq!(read(&response(&[5], 0x80, None), &[5]), Ok(Staple { until: i64::MAX }));
    }

    #[test]
    fn what_cannot_be_stapled_says_why() {
        assert_eq!(read(&response(&[5], 0x80, None), &[6]), Err("an OCSP response about another certificate"));
        let revoked = read(&response(&[5], 0xa1, None), &[5]);
        assert_eq!(revoked, Err("an OCSP response that says that the certificate is revoked or unknown"));
        assert_eq!(read(&[0x30, 3, 0x0a, 1, 6], &[5]), Err("an OCSP response that is no answer"));
        let whole = response(&[5], 0x80, Some("20300101000000Z"));
        for end in 0..whole.len() {
            assert!(read(&whole[..end], &[5]).is_err(), "{end}");
        }
        assert!(read(b"-----BEGIN OCSP", &[5]).is_err());
    }
}

//! The PROXY header (HAProxy's specification, versions 1 and 2) that a load balancer sends before all else: read byte for
//! byte to its end and never further, whatever was sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest line of version 1 (§2.1 of the specification).
const LINE_BYTES_MAX: usize = 107;
/// The longest header of version 2 that is read: addresses and a few kilobytes of what else a load balancer tells.
pub const HEADER_BYTES_MAX: usize = 4096;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const LINE_START: &[u8; 6] = b"PROXY ";
/// What stands before the addresses of version 2.
const FIXED_BYTES: usize = 16;

const TLV_CRC32C: u8 = 0x03;
const TLV_SSL: u8 = 0x20;

/// Whose connection it is, as the load balancer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The load balancer's own, as it asks whether we are well.
    Proxy,
    /// Somebody's whom it cannot name.
    Unknown,
    Client(IpAddr),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    pub origin: Origin,
    /// Whether the client spoke TLS with the load balancer.
    pub tls: bool,
}

/// What to do after what was read so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Read so many bytes more: all of them belong to the header.
    Read(usize),
    Done(Announced),
}

/// Looks at a header as far as it was read. `Err` for what is none.
pub fn step(seen: &[u8]) -> Result<Step, &'static str> {
    if seen.len() < SIGNATURE.len() {
        // Both versions are longer, so nothing of what follows the header is taken.
        let start = seen.len().min(LINE_START.len());
        return match SIGNATURE.starts_with(seen) || seen[..start] == LINE_START[..start] {
            true => Ok(Step::Read(SIGNATURE.len() - seen.len())),
            false => Err("no PROXY header"),
        };
    }
    if seen.starts_with(SIGNATURE) { version_2(seen) } else { version_1(seen) }
}

fn version_1(seen: &[u8]) -> Result<Step, &'static str> {
    if !seen.starts_with(LINE_START) {
        return Err("no PROXY header");
    }
    let Some(line) = seen.strip_suffix(b"\r\n") else {
        // The line ends in two bytes, so at least as many are still its own.
        let more = if seen.ends_with(b"\r") { 1 } else { 2 };
        return match seen.len() + more <= LINE_BYTES_MAX && !seen.contains(&b'\n') {
            true => Ok(Step::Read(more)),
            false => Err("a PROXY line without an end"),
        };
    };
    let line = std::str::from_utf8(line).map_err(|_| "a PROXY line that is no text")?;
    let words: Vec<&str> = line.split(' ').collect();
    let port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok();
    let origin = match words[..] {
        ["PROXY", "UNKNOWN", ..] => Origin::Unknown,
        ["PROXY", family @ ("TCP4" | "TCP6"), source, target, from, to] if port(from) && port(to) => {
            let address = |text: &str| match family {
                "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
                _ => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            };
            match (address(source), address(target)) {
                (Some(source), Some(_)) => Origin::Client(source),
                _ => return Err("a PROXY line without addresses"),
            }
        }
        _ => return Err("a malformed PROXY line"),
    };
    Ok(Step::Done(Announced { origin, tls: false }))
}

fn version_2(seen: &[u8]) -> Result<Step, &'static str> {
    if seen.len() < FIXED_BYTES {
        return Ok(Step::Read(FIXED_BYTES - seen.len()));
    }
    let whole = FIXED_BYTES + usize::from(u16::from_be_bytes([seen[14], seen[15]]));
    if whole > HEADER_BYTES_MAX {
        return Err("a PROXY header that is too long");
    }
    let local = match seen[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err("a PROXY header of an unknown version or command"),
    };
    let (family, transport) = (seen[13] >> 4, seen[13] & 0x0f);
    if family > 3 || transport > 2 {
        return Err("a PROXY header of an unknown kind of address");
    }
    if seen.len() < whole {
        return Ok(Step::Read(whole - seen.len()));
    }
    let body = &seen[FIXED_BYTES..whole];
    if local {
        return Ok(Step::Done(Announced { origin: Origin::Proxy, tls: false }));
    }
    let too_short = "a PROXY header without its addresses";
    let (origin, rest) = match family {
        1 => {
            let (source, _) = body.split_first_chunk::<4>().ok_or(too_short)?;
            (Origin::Client(Ipv4Addr::from(*source).into()), body.get(12..).ok_or(too_short)?)
        }
        2 => {
            let (source, _) = body.split_first_chunk::<16>().ok_or(too_short)?;
            (Origin::Client(Ipv6Addr::from(*source).into()), body.get(36..).ok_or(too_short)?)
        }
        3 => (Origin::Unknown, body.get(216..).ok_or(too_short)?),
        // What stands there then is nobody's to read.
        _ => return Ok(Step::Done(Announced { origin: Origin::Unknown, tls: false })),
    };
    let tls = further(&seen[..whole], rest)?;
    Ok(Step::Done(Announced { origin, tls }))
}

/// Goes through what follows the addresses: a checksum must be right, all else but the word about TLS is passed over.
fn further(header: &[u8], mut rest: &[u8]) -> Result<bool, &'static str> {
    let mut tls = false;
    while let [kind, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let value = after.get(..length).ok_or("a PROXY header with a part that is cut off")?;
        match *kind {
            TLV_CRC32C => {
                let sum: [u8; 4] = value.try_into().map_err(|_| "a PROXY header with a malformed checksum")?;
                let at = header.len() - after.len();
                let zeroed = header.iter().enumerate().map(|(i, byte)| if (at..at + 4).contains(&i) { 0 } else { *byte });
                if crc32c(zeroed) != u32::from_be_bytes(sum) {
                    return Err("a PROXY header with a wrong checksum");
                }
            }
            TLV_SSL => tls = value.first().is_some_and(|flags| flags & 1 != 0),
            _ => {}
        }
        rest = &after[length..];
    }
    match rest.is_empty() {
        true => Ok(tls),
        false => Err("a PROXY header with a part that is cut off"),
    }
}

/// CRC-32C (RFC 9260 appendix B), bit by bit: it is computed once a connection, over some hundred bytes.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let byte_in =
        |sum: u32, byte: u8| (0..8).fold(sum ^ u32::from(byte), |sum, _| if sum & 1 == 1 { (sum >> 1) ^ POLYNOMIAL } else { sum >> 1 });
    !bytes.fold(u32::MAX, byte_in)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads as the wire does: exactly what is asked for, to the end.
    fn read(mut bytes: &[u8]) -> Result<(Announced, usize), &'static str> {
        let mut seen = Vec::new();
        loop {
            match step(&seen)? {
                Step::Done(announced) => return Ok((announced, seen.len())),
                Step::Read(0) => panic!("asks for nothing"),
                Step::Read(count) => {
                    let part = bytes.get(..count).ok_or("the end")?;
                    seen.extend_from_slice(part);
                    bytes = &bytes[count..];
                    assert!(seen.len() <= HEADER_BYTES_MAX);
                }
            }
        }
    }

    fn v2(command: u8, kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, kind], &length, body].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x1f, 0x90, 0, 80];

    fn client(text: &str) -> Origin {
        Origin::Client(text.parse().unwrap())
    }

    #[test]
    fn a_line_of_version_1_names_the_client() {
        let longest = "PROXY TCP6 ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".replace("f...f", "ffff:ffff:ffff:ffff:ffff:ffff");
        let table = [
            ("PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n", client("192.0.2.7")),
            ("PROXY TCP6 2001:db8::7 ::1 4711 80\r\n", client("2001:db8::7")),
            (&longest, client("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")),
            ("PROXY UNKNOWN\r\n", Origin::Unknown),
            ("PROXY UNKNOWN ffff::1 whatever\r\n", Origin::Unknown),
        ];
        for (line, origin) in table {
            let found = read(format!("{line}GET / HTTP/1.1\r\n").as_bytes());
            assert_eq!(found, Ok((Announced { origin, tls: false }, line.len())), "{line}");
        }
    }

    #[test]
    fn what_is_no_line_of_version_1_is_refused() {
        let endless = format!("PROXY TCP4 {}\r\n", "1".repeat(200));
        for line in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 4711\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 4711 80 x\r\n",
            "PROXY TCP4 192.0.2.7  10.0.0.1 4711 80\r\n",
            "PROXY TCP4 192.0.2.07 10.0.0.1 4711 80\r\n",
            "PROXY TCP4 2001:db8::7 ::1 4711 80\r\n",
            "PROXY TCP6 192.0.2.7 10.0.0.1 4711 80\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 +1 80\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 65536 80\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\nGET / HTTP/1.1\r\n",
            "PROXY UDP4 192.0.2.7 10.0.0.1 4711 80\r\n",
            "proxy TCP4 192.0.2.7 10.0.0.1 4711 80\r\n",
            &endless,
        ] {
            assert!(read(line.as_bytes()).is_err_and(|why| why != "the end"), "{line}");
        }
    }

    #[test]
    fn a_header_of_version_2_names_the_client() {
        let v6: Vec<u8> = [&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets()[..], &[0; 20]].concat();
        let with = |tlvs: &[u8]| [&V4[..], tlvs].concat();
        let table = [
            (v2(0x21, 0x11, &V4), client("192.0.2.7"), false),
            (v2(0x21, 0x12, &V4), client("192.0.2.7"), false),
            (v2(0x21, 0x21, &v6), client("2001:db8::7"), false),
            (v2(0x21, 0x31, &[0; 216]), Origin::Unknown, false),
            (v2(0x21, 0x00, b"anything"), Origin::Unknown, false),
            (v2(0x20, 0x00, b""), Origin::Proxy, false),
            (v2(0x20, 0x11, &V4), Origin::Proxy, false),
            (v2(0x21, 0x11, &with(&[4, 0, 3, 1, 2, 3])), client("192.0.2.7"), false),
            (v2(0x21, 0x11, &with(&[0x20, 0, 5, 1, 0, 0, 0, 0])), client("192.0.2.7"), true),
            (v2(0x21, 0x11, &with(&[0x20, 0, 5, 6, 0, 0, 0, 0])), client("192.0.2.7"), false),
        ];
        for (header, origin, tls) in table {
            let sent = [&header[..], b"\x16\x03\x01"].concat();
            assert_eq!(read(&sent), Ok((Announced { origin, tls }, header.len())), "{header:x?}");
        }
    }

    #[test]
    fn what_is_no_header_of_version_2_is_refused() {
        let with = |tlvs: &[u8]| [&V4[..], tlvs].concat();
        for header in [
            v2(0x11, 0x11, &V4),
            v2(0x22, 0x11, &V4),
            v2(0x21, 0x41, &V4),
            v2(0x21, 0x13, &V4),
            v2(0x21, 0x11, &V4[..11]),
            v2(0x21, 0x21, &V4),
            v2(0x21, 0x11, &with(&[4, 0, 9, 1])),
            v2(0x21, 0x11, &with(&[4, 0])),
            v2(0x21, 0x11, &with(&[3, 0, 4, 0, 0, 0, 0])),
            v2(0x21, 0x11, &with(&[3, 0, 2, 0, 0])),
            v2(0x21, 0x11, &vec![0; HEADER_BYTES_MAX]),
        ] {
            assert!(read(&header).is_err_and(|why| why != "the end"), "{:x?}", &header[..20]);
        }
    }

    #[test]
    fn a_checksum_is_compared() {
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283);
        let body = [&V4[..], &[3, 0, 4, 0, 0, 0, 0]].concat();
        let mut header = v2(0x21, 0x11, &body);
        let sum = crc32c(header.iter().copied()).to_be_bytes();
        let at = header.len() - 4;
        header[at..].copy_from_slice(&sum);
        assert!(read(&header).is_ok());
        header[20] ^= 1;
        assert_eq!(read(&header), Err("a PROXY header with a wrong checksum"));
    }

    proptest! {
        /// Never a panic, never a byte too many, whatever is sent.
        #[test]
        fn whatever_comes_is_read_within_bounds(start in 0..3_usize, bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let start = [&b""[..], LINE_START, SIGNATURE][start];
            let sent = [start, &bytes].concat();
            if let Ok((_, length)) = read(&sent) {
                prop_assert!(length <= sent.len());
                prop_assert_eq!(read(&sent[..length]), read(&sent));
            }
        }

        #[test]
        fn every_address_comes_through(a: [u8; 4], b: [u8; 16], port: u16) {
            let v4 = Ipv4Addr::from(a);
            let line = format!("PROXY TCP4 {v4} {v4} {port} {port}\r\n");
            prop_assert_eq!(read(line.as_bytes()).unwrap().0.origin, Origin::Client(v4.into()));
            let v6 = Ipv6Addr::from(b);
            let header = v2(0x21, 0x21, &[&b[..], &[0; 20]].concat());
            prop_assert_eq!(read(&header).unwrap().0.origin, Origin::Client(v6.into()));
        }
    }
}

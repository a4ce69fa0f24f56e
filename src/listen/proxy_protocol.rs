//! The PROXY protocol, versions 1 and 2: the header in which a balancer in front says whose
//! connection it passes on.
//!
//! Pure: bytes in, a verdict out. Source: "The PROXY protocol, versions 1 & 2" (Willy Tarreau, in
//! `HAProxy`'s `doc/proxy-protocol.txt`), §2. Extensions of version 2 (TLVs) are skipped, but must be whole.
//!
//! SECURITY: whoever may send a header may take any address; who may is decided elsewhere.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::str::FromStr;

use thiserror::Error;

/// The longest header of version 1, with its line's end (§2.1).
const MAX_LINE: usize = 107;
/// The longest header of version 2 that is taken: its lengths could say 65551.
pub(crate) const MAX_HEADER: usize = 4096;

const LINE: &[u8] = b"PROXY ";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED: usize = 16;

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Bad {
    #[error("an address or port in the PROXY header is none")]
    Address,
    #[error("the command of the PROXY header is unknown")]
    Command,
    #[error("the address family of the PROXY header is unknown")]
    Family,
    #[error("the lengths in the PROXY header contradict each other")]
    Length,
    #[error("there is no PROXY header")]
    Missing,
    #[error("the PROXY header is too long")]
    TooLong,
    #[error("the version of the PROXY header is unknown")]
    Version,
}

/// Reads the header that `bytes` begin with: its length, and the client's address, or none where
/// the balancer speaks for itself or does not know. `None` needs more bytes.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(usize, Option<SocketAddr>)>, Bad> {
    if begins(bytes, LINE) {
        return line(bytes);
    }
    if begins(bytes, SIGNATURE) {
        return binary(bytes);
    }
    Err(Bad::Missing)
}

/// Whether the bytes so far may be the beginning of what begins with `mark`.
fn begins(bytes: &[u8], mark: &[u8]) -> bool {
    let common = bytes.len().min(mark.len());
    bytes[..common] == mark[..common]
}

/// Version 1: a line of text (§2.1).
fn line(bytes: &[u8]) -> Result<Option<(usize, Option<SocketAddr>)>, Bad> {
    let seen = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        return if seen.len() < MAX_LINE { Ok(None) } else { Err(Bad::TooLong) };
    };
    let text = std::str::from_utf8(&seen[LINE.len()..end]).map_err(|_not_text| Bad::Address)?;
    let length = end + 2;
    if text == "UNKNOWN" || text.starts_with("UNKNOWN ") {
        return Ok(Some((length, None)));
    }
    let (family, rest) = text.split_once(' ').ok_or(Bad::Family)?;
    let source = match family {
        "TCP4" => words::<Ipv4Addr>(rest)?,
        "TCP6" => words::<Ipv6Addr>(rest)?,
        _ => return Err(Bad::Family),
    };
    Ok(Some((length, Some(source))))
}

/// The two addresses and ports of a line; the client's.
fn words<T: FromStr + Into<IpAddr>>(text: &str) -> Result<SocketAddr, Bad> {
    let mut words = text.split(' ');
    let mut word = || words.next().ok_or(Bad::Address);
    let (source, target) = (word()?, word()?);
    let (source_port, target_port) = (word()?, word()?);
    if words.next().is_some() {
        return Err(Bad::Address);
    }
    let address = |text: &str| text.parse::<T>().map_err(|_unparsed| Bad::Address);
    address(target)?;
    port(target_port)?;
    Ok(SocketAddr::new(address(source)?.into(), port(source_port)?))
}

fn port(text: &str) -> Result<u16, Bad> {
    let is_plain = text == "0" || text.starts_with(|first: char| ('1'..='9').contains(&first));
    text.parse().ok().filter(|_| is_plain).ok_or(Bad::Address)
}

/// Version 2: binary (§2.2).
fn binary(bytes: &[u8]) -> Result<Option<(usize, Option<SocketAddr>)>, Bad> {
    let Some(fixed) = bytes.get(..FIXED) else { return Ok(None) };
    let (version, command) = (fixed[12] >> 4, fixed[12] & 0xf);
    let length = FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if version != 2 {
        return Err(Bad::Version);
    }
    if length > MAX_HEADER {
        return Err(Bad::TooLong);
    }
    let is_proxied = match command {
        0 => false,
        1 => true,
        _ => return Err(Bad::Command),
    };
    // Sizes of both addresses with their ports: none, IPv4, IPv6, a path.
    let addresses = match fixed[13] {
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        // A connection of the balancer's own says nothing that is to be looked at.
        _ if !is_proxied => 0,
        _ => return Err(Bad::Family),
    };
    let Some(body) = bytes.get(FIXED..length) else { return Ok(None) };
    if !is_proxied {
        return Ok(Some((length, None)));
    }
    let (addresses, extensions) = body.split_at_checked(addresses).ok_or(Bad::Length)?;
    skip(extensions)?;
    let source = match (fixed[13], addresses) {
        (0x11, [octets @ .., _, _, _, _, high, low, _, _]) => {
            let octets = <[u8; 4]>::try_from(octets).map_err(|_size| Bad::Length)?;
            Some((Ipv4Addr::from(octets).into(), [*high, *low]))
        }
        (0x21, [addresses @ .., high, low, _, _]) => {
            let octets = addresses.first_chunk::<16>().ok_or(Bad::Length)?;
            Some((Ipv6Addr::from(*octets).into(), [*high, *low]))
        }
        // Datagrams and paths are no clients of ours: the socket's own address stays.
        _ => None,
    };
    let source = source.map(|(ip, port)| SocketAddr::new(ip, u16::from_be_bytes(port)));
    Ok(Some((length, source)))
}

/// Walks over extensions: a type, a length of two bytes, a value (§2.2.7).
fn skip(mut extensions: &[u8]) -> Result<(), Bad> {
    while let [_type, high, low, rest @ ..] = extensions {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        extensions = rest.get(length..).ok_or(Bad::Length)?;
    }
    if extensions.is_empty() { Ok(()) } else { Err(Bad::Length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<(usize, Option<String>)>, Bad> {
        parse(bytes).map(|found| {
            found.map(|(length, source)| (length, source.map(|source| source.to_string())))
        })
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0, 80];

    #[test]
    fn lines_name_the_client() {
        for (line, source) in [
            ("PROXY TCP4 192.0.2.7 10.0.0.1 12345 80\r\n", Some("192.0.2.7:12345")),
            ("PROXY TCP6 2001:db8::7 ::1 1 65535\r\n", Some("[2001:db8::7]:1")),
            ("PROXY TCP4 255.255.255.255 0.0.0.0 0 0\r\n", Some("255.255.255.255:0")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff::1 what ever\r\n", None),
        ] {
            let with_more = format!("{line}GET / HTTP/1.1\r\n");
            let expected = Ok(Some((line.len(), source.map(str::to_owned))));
            assert_eq!(read(with_more.as_bytes()), expected, "{line}");
            for cut in 0..line.len() {
                assert_eq!(read(&line.as_bytes()[..cut]), Ok(None), "{cut} bytes of {line}");
            }
        }
    }

    #[test]
    fn lines_that_are_not_what_they_must_be_are_bad() {
        for (line, bad) in [
            ("PROXY TCP4 192.0.2.7 10.0.0.1 12345\r\n", Bad::Address),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 12345 80 1\r\n", Bad::Address),
            ("PROXY TCP4  192.0.2.7 10.0.0.1 12345 80\r\n", Bad::Address),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 12345 080\r\n", Bad::Address),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 +1 80\r\n", Bad::Address),
            ("PROXY TCP4 192.0.2.7 10.0.0.1 65536 80\r\n", Bad::Address),
            ("PROXY TCP4 192.0.2.07 10.0.0.1 1 80\r\n", Bad::Address),
            ("PROXY TCP4 ::1 ::1 1 80\r\n", Bad::Address),
            ("PROXY TCP6 192.0.2.7 10.0.0.1 1 80\r\n", Bad::Address),
            ("PROXY TCP5 192.0.2.7 10.0.0.1 1 80\r\n", Bad::Family),
            ("PROXY \r\n", Bad::Family),
            ("PROXY UNKNOWNS\r\n", Bad::Family),
            ("GET / HTTP/1.1\r\n", Bad::Missing),
            ("PROXX", Bad::Missing),
            ("proxy ", Bad::Missing),
        ] {
            assert_eq!(read(line.as_bytes()), Err(bad), "{line}");
        }
        let long = format!("PROXY UNKNOWN {}", "x".repeat(107));
        assert_eq!(read(long.as_bytes()), Err(Bad::TooLong));
        assert_eq!(read(b"PROXY TCP4 \xff\r\n"), Err(Bad::Address));
    }

    #[test]
    fn binary_headers_name_the_client() {
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        (v6[15], v6[33]) = (7, 9);
        let with_extensions = [&V4[..], &[4, 0, 2, 1, 2], &[0xe0, 0, 0]].concat();
        for (bytes, source) in [
            (v2(1, 0x11, &V4), Some("192.0.2.7:12345")),
            (v2(1, 0x11, &with_extensions), Some("192.0.2.7:12345")),
            (v2(1, 0x21, &v6), Some("[2001:db8::7]:9")),
            (v2(1, 0x12, &V4), None),
            (v2(1, 0x00, &[]), None),
            (v2(1, 0x31, &[0; 216]), None),
            (v2(0, 0x11, &V4), None),
            (v2(0, 0x00, &[]), None),
            (v2(0, 0x77, &[1, 2, 3]), None),
        ] {
            let with_more = [&bytes[..], b"GET"].concat();
            let expected = Ok(Some((bytes.len(), source.map(str::to_owned))));
            assert_eq!(read(&with_more), expected, "{bytes:x?}");
            for cut in 0..bytes.len() {
                assert_eq!(read(&bytes[..cut]), Ok(None), "{cut} bytes of {bytes:x?}");
            }
        }
    }

    #[test]
    fn binary_headers_that_are_not_what_they_must_be_are_bad() {
        let with = |more: &[u8]| v2(1, 0x11, &[&V4[..], more].concat());
        let mut old = v2(1, 0x11, &V4);
        old[12] = 0x11;
        for (bytes, bad) in [
            (v2(1, 0x11, &V4[..11]), Bad::Length),
            (v2(1, 0x21, &V4), Bad::Length),
            (with(&[4, 0]), Bad::Length),
            (with(&[4, 0, 2, 1]), Bad::Length),
            (v2(2, 0x11, &V4), Bad::Command),
            (v2(1, 0x13, &V4), Bad::Family),
            (v2(1, 0x41, &V4), Bad::Family),
            (old, Bad::Version),
            (with(&[0; MAX_HEADER]), Bad::TooLong),
        ] {
            assert_eq!(read(&bytes), Err(bad), "{bytes:x?}");
        }
    }
}

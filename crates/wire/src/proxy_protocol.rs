//! The PROXY protocol, versions 1 and 2 (haproxy's proxy-protocol.txt): who a relayed connection really comes from.

use crate::Parse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a PROXY header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The relay speaks for itself (LOCAL, §2.2), or for a client it cannot name (UNKNOWN, UNIX).
    Unaddressed,
    Addressed {
        source: SocketAddr,
        destination: SocketAddr,
    },
}

impl ProxyHeader {
    pub fn source(&self) -> Option<SocketAddr> {
        match self {
            Self::Unaddressed => None,
            Self::Addressed { source, .. } => Some(*source),
        }
    }
}

/// Why a header is refused; the connection must be closed (§2: never guess).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    #[error("the version 1 line is malformed")]
    BadLine,
    #[error("the version 2 header is malformed")]
    BadBinary,
    #[error("the header is larger than {MAX} octets")]
    TooLarge,
    #[error("the checksum of the header is wrong")]
    BadChecksum,
}

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// §2.1: the longest version 1 line.
const LINE_MAX: usize = 107;
/// Addresses and TLVs of version 2; TLVs carry at most a certificate's names.
const MAX: usize = 4096;

/// Reads a header from the front of `buf`.
pub fn parse(buf: &[u8]) -> Result<Parse<ProxyHeader>, ProxyHeaderError> {
    let shown = buf.len().min(SIGNATURE.len());
    if buf.get(..shown) == SIGNATURE.get(..shown) {
        return if shown == SIGNATURE.len() { binary(buf) } else { Ok(Parse::Incomplete) };
    }
    let shown = buf.len().min(6);
    if buf.get(..shown) == b"PROXY ".get(..shown) {
        return line(buf);
    }
    Err(ProxyHeaderError::Missing)
}

fn line(buf: &[u8]) -> Result<Parse<ProxyHeader>, ProxyHeaderError> {
    let window = buf.get(..buf.len().min(LINE_MAX)).unwrap_or_default();
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if buf.len() >= LINE_MAX { Err(ProxyHeaderError::TooLarge) } else { Ok(Parse::Incomplete) };
    };
    let text = window.get(..end).and_then(|line| std::str::from_utf8(line).ok()).ok_or(ProxyHeaderError::BadLine)?;
    let mut words = text.split(' ').skip(1);
    let family = words.next().ok_or(ProxyHeaderError::BadLine)?;
    let head = match family {
        // Whatever follows UNKNOWN is to be ignored (§2.1).
        "UNKNOWN" => ProxyHeader::Unaddressed,
        "TCP4" | "TCP6" => {
            let [source, destination, source_port, destination_port] =
                [words.next(), words.next(), words.next(), words.next()].map(Option::unwrap_or_default);
            if words.next().is_some() {
                return Err(ProxyHeaderError::BadLine);
            }
            ProxyHeader::Addressed {
                source: address(family, source, source_port)?,
                destination: address(family, destination, destination_port)?,
            }
        }
        _ => return Err(ProxyHeaderError::BadLine),
    };
    Ok(Parse::Complete { head, len: end + 2 })
}

fn address(family: &str, ip: &str, port: &str) -> Result<SocketAddr, ProxyHeaderError> {
    let ip: IpAddr = ip.parse().map_err(|_| ProxyHeaderError::BadLine)?;
    let plain = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && (port == "0" || !port.starts_with('0'));
    if ip.is_ipv4() != (family == "TCP4") || !plain {
        return Err(ProxyHeaderError::BadLine);
    }
    Ok(SocketAddr::new(ip, port.parse().map_err(|_| ProxyHeaderError::BadLine)?))
}

fn binary(buf: &[u8]) -> Result<Parse<ProxyHeader>, ProxyHeaderError> {
    let Some([version_command, family, high, low]) = buf.get(12..16).and_then(|four| <[u8; 4]>::try_from(four).ok())
    else {
        return Ok(Parse::Incomplete);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX {
        return Err(ProxyHeaderError::TooLarge);
    }
    let len = 16 + length;
    let Some(body) = buf.get(16..len) else { return Ok(Parse::Incomplete) };
    let bad = ProxyHeaderError::BadBinary;
    let addresses = match (version_command, family) {
        // LOCAL: the relay's own health check.
        (0x20, _) => return Ok(Parse::Complete { head: ProxyHeader::Unaddressed, len }),
        (0x21, 0x11) => 12,
        (0x21, 0x21) => 36,
        (0x21, 0x31 | 0x32) => 216,
        (0x21, 0x00) => 0,
        // Datagrams do not come over a stream.
        _ => return Err(bad),
    };
    let (fixed, tlvs) = body.split_at_checked(addresses).ok_or(bad)?;
    check_tlvs(tlvs, buf.get(..len).unwrap_or_default(), 16 + addresses)?;
    let port = |at: usize| fixed.get(at..at + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).ok_or(bad);
    let head = match addresses {
        12 => {
            let ip = |at: usize| {
                fixed.get(at..at + 4).and_then(|four| <[u8; 4]>::try_from(four).ok()).map(Ipv4Addr::from).ok_or(bad)
            };
            ProxyHeader::Addressed {
                source: SocketAddr::new(ip(0)?.into(), port(8)?),
                destination: SocketAddr::new(ip(4)?.into(), port(10)?),
            }
        }
        36 => {
            let ip = |at: usize| {
                fixed.get(at..at + 16).and_then(|six| <[u8; 16]>::try_from(six).ok()).map(Ipv6Addr::from).ok_or(bad)
            };
            ProxyHeader::Addressed {
                source: SocketAddr::new(ip(0)?.into(), port(32)?),
                destination: SocketAddr::new(ip(16)?.into(), port(34)?),
            }
        }
        _ => ProxyHeader::Unaddressed,
    };
    Ok(Parse::Complete { head, len })
}

const TLV_CRC32C: u8 = 0x03;

/// Every TLV must fit, and a checksum that is there must be right (§2.2.3).
fn check_tlvs(mut tlvs: &[u8], header: &[u8], mut offset: usize) -> Result<(), ProxyHeaderError> {
    while !tlvs.is_empty() {
        let [kind, high, low] =
            tlvs.get(..3).and_then(|three| <[u8; 3]>::try_from(three).ok()).ok_or(ProxyHeaderError::BadBinary)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let value = tlvs.get(3..3 + length).ok_or(ProxyHeaderError::BadBinary)?;
        if kind == TLV_CRC32C {
            let told = <[u8; 4]>::try_from(value).map(u32::from_be_bytes).map_err(|_| ProxyHeaderError::BadBinary)?;
            let mut zeroed = header.to_vec();
            zeroed.get_mut(offset + 3..offset + 7).ok_or(ProxyHeaderError::BadBinary)?.fill(0);
            if crc32c(&zeroed) != told {
                return Err(ProxyHeaderError::BadChecksum);
            }
        }
        tlvs = tlvs.get(3 + length..).unwrap_or_default();
        offset += 3 + length;
    }
    Ok(())
}

/// RFC 4960 appendix B, bit by bit: a header is short and comes once a connection.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

/// The version 1 line for a connection that we relay.
pub fn write_v1(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    match addresses.map(same_family) {
        None => b"PROXY UNKNOWN\r\n".to_vec(),
        Some((source, destination)) => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {} {} {} {}\r\n", source.ip(), destination.ip(), source.port(), destination.port())
                .into_bytes()
        }
    }
}

/// The version 2 header for a connection that we relay.
pub fn write_v2(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    let Some((source, destination)) = addresses.map(same_family) else {
        header.extend([0x20, 0x00, 0, 0]);
        return header;
    };
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend([0x21, 0x11, 0, 12]);
            header.extend(from.octets());
            header.extend(to.octets());
        }
        (from, to) => {
            header.extend([0x21, 0x21, 0, 36]);
            header.extend(as_v6(from).octets());
            header.extend(as_v6(to).octets());
        }
    }
    header.extend(source.port().to_be_bytes());
    header.extend(destination.port().to_be_bytes());
    header
}

/// One header names one family: when they differ, IPv4 is written as v4-mapped.
fn same_family((source, destination): (SocketAddr, SocketAddr)) -> (SocketAddr, SocketAddr) {
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    let mapped = |address: SocketAddr| SocketAddr::new(as_v6(address.ip()).into(), address.port());
    (mapped(source), mapped(destination))
}

fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8]) -> Option<(ProxyHeader, usize)> {
        match parse(bytes) {
            Ok(Parse::Complete { head, len }) => Some((head, len)),
            Ok(Parse::Incomplete) | Err(_) => None,
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_no_prefix_of_it_is() {
        for (source, destination) in [
            ("192.0.2.1:5000", "198.51.100.2:443"),
            ("[2001:db8::1]:1", "[2001:db8::2]:65535"),
            ("192.0.2.1:7", "[2001:db8::2]:8"),
        ] {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            for header in [write_v1(Some((source, destination))), write_v2(Some((source, destination)))] {
                let (read, len) = whole(&[header.clone(), b"GET /".to_vec()].concat()).unwrap();
                let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
                assert_eq!((read.source().map(canonical), len), (Some(canonical(source)), header.len()));
                for cut in 0..header.len() {
                    assert!(matches!(parse(&header[..cut]), Ok(Parse::Incomplete)), "{cut}");
                }
            }
        }
        assert_eq!(whole(&write_v1(None)).unwrap().0, ProxyHeader::Unaddressed);
        assert_eq!(whole(&write_v2(None)).unwrap().0, ProxyHeader::Unaddressed);
    }

    #[test]
    fn malformed_headers_are_refused() {
        for bad in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
            b"PROXY TCP4 ::1 ::2 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 99999 2\r\n",
            b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
            b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c123456789012",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c123456789012",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04abcd",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f123456789012\x01\0\x05",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13123456789012\x03\0\x04abcd",
        ] {
            assert!(parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
        assert!(parse(&[b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat()).is_err());
    }

    #[test]
    fn a_right_checksum_passes() {
        let mut header = write_v2(Some(("1.2.3.4:5".parse().unwrap(), "6.7.8.9:10".parse().unwrap())));
        header[15] += 7;
        header.extend([TLV_CRC32C, 0, 4, 0, 0, 0, 0]);
        let sum = crc32c(&header).to_be_bytes();
        let end = header.len();
        header[end - 4..].copy_from_slice(&sum);
        assert!(whole(&header).is_some());
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}

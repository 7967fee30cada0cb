//! The OPT record (RFC 6891): options of a query read, options of a reply written.

use crate::{Rcode, RecordType};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a query's OPT says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Edns<'d> {
    pub(crate) payload: u16,
    pub(crate) version: u8,
    pub(crate) dnssec: Dnssec,
    pub(crate) wants: Wants,
    pub(crate) cookie: Option<CookieOption<'d>>,
    pub(crate) subnet: Option<Subnet>,
}

/// Whether a client understands DNSSEC: the DO bit (RFC 3225).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Dnssec {
    #[default]
    Unaware,
    Ok,
}

/// Options that carry nothing but a wish; the bits of `Wants`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wants(u8);

impl Wants {
    pub(crate) const NSID: Self = Self(1);
    pub(crate) const KEEPALIVE: Self = Self(2);
    pub(crate) const PADDING: Self = Self(4);

    pub(crate) fn has(self, one: Self) -> bool {
        self.0 & one.0 != 0
    }

    fn add(&mut self, one: Self) {
        self.0 |= one.0;
    }
}

/// RFC 7873 §4: the client's eight octets and, from earlier, ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CookieOption<'d> {
    pub(crate) client: [u8; 8],
    pub(crate) server: &'d [u8],
}

/// RFC 7871 §6: a prefix of the client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subnet {
    /// Family 0: the client wants nothing to be told of it.
    pub(crate) address: Option<IpAddr>,
    pub(crate) source: u8,
}

const NSID: u16 = 3;
const SUBNET: u16 = 8;
const COOKIE: u16 = 10;
const KEEPALIVE: u16 = 11;
const PADDING: u16 = 12;
const ERROR: u16 = 15;
const DO: u32 = 0x8000;
/// RFC 8467 §4.1: replies are padded to multiples of this.
const PADDING_BLOCK: usize = 468;
/// RFC 6891 §6.2.3: smaller sizes mean 512.
pub(crate) const PAYLOAD_MIN: u16 = 512;

/// Reads class, time to live and data of an OPT record. `None`: broken.
pub(crate) fn read(class: u16, ttl: u32, mut data: &[u8]) -> Option<Edns<'_>> {
    let dnssec = if ttl & DO != 0 { Dnssec::Ok } else { Dnssec::Unaware };
    let version = (ttl >> 16) as u8;
    let mut edns = Edns { payload: class.max(PAYLOAD_MIN), version, dnssec, ..Edns::default() };
    while !data.is_empty() {
        let (code, rest) = data.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (option, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        data = rest;
        // RFC 6891 §6.1.3: options of a later version may mean something else.
        if version != 0 {
            continue;
        }
        match u16::from_be_bytes(*code) {
            NSID => edns.wants.add(Wants::NSID),
            KEEPALIVE => edns.wants.add(Wants::KEEPALIVE),
            PADDING => edns.wants.add(Wants::PADDING),
            COOKIE if edns.cookie.is_none() => edns.cookie = Some(read_cookie(option)?),
            SUBNET if edns.subnet.is_none() => edns.subnet = Some(read_subnet(option)?),
            _ => {}
        }
    }
    Some(edns)
}

/// RFC 7873 §5.2.2: 8 octets, or 16 to 40; else FORMERR.
fn read_cookie(option: &[u8]) -> Option<CookieOption<'_>> {
    let (client, server) = option.split_first_chunk()?;
    matches!(server.len(), 0 | 8..=32).then_some(CookieOption { client: *client, server })
}

/// RFC 7871 §7.1.2 and §6: scope zero, no more octets than the prefix has, no bits behind it; else FORMERR.
fn read_subnet(option: &[u8]) -> Option<Subnet> {
    let ([family0, family1, source, scope], octets) = option.split_first_chunk()?;
    let family = u16::from_be_bytes([*family0, *family1]);
    let width: usize = match family {
        0 if *source == 0 && octets.is_empty() && *scope == 0 => return Some(Subnet { address: None, source: 0 }),
        1 => 4,
        2 => 16,
        _ => return None,
    };
    if usize::from(*source) > width * 8 || *scope != 0 || octets.len() != usize::from(*source).div_ceil(8) {
        return None;
    }
    let mut full = [0u8; 16];
    full.get_mut(..octets.len())?.copy_from_slice(octets);
    let address = match width {
        4 => IpAddr::V4(Ipv4Addr::from(*full.first_chunk::<4>()?)),
        _ => IpAddr::V6(Ipv6Addr::from(full)),
    };
    (masked(address, *source) == address).then_some(Subnet { address: Some(address), source: *source })
}

/// The address with all bits behind the prefix zero.
pub(crate) fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32u32.saturating_sub(u32::from(prefix))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128u32.saturating_sub(u32::from(prefix))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
        }
    }
}

/// Why an answer is not what was hoped for (RFC 8914).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExtendedError {
    /// All members are down and the policy answers all the same.
    Fallback,
    /// All members are down and nothing is answered.
    AllDown,
    NotAuthoritative,
}

impl ExtendedError {
    fn code(self) -> u16 {
        match self {
            // RFC 8914 §4.1: "Other"; the text says what.
            Self::Fallback | Self::AllDown => 0,
            Self::NotAuthoritative => 20,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Fallback => "no member is up; answered by policy",
            Self::AllDown => "no member is up",
            Self::NotAuthoritative => "",
        }
    }
}

/// The OPT record of a reply.
#[derive(Debug, Clone, Default)]
pub(crate) struct OptReply<'a> {
    pub(crate) payload: u16,
    pub(crate) dnssec: Dnssec,
    pub(crate) nsid: Option<&'a [u8]>,
    pub(crate) cookie: Option<[u8; 24]>,
    pub(crate) subnet: Option<(Subnet, u8)>,
    /// Tenths of a second (RFC 7828 §3.1).
    pub(crate) keepalive: Option<u16>,
    pub(crate) error: Option<ExtendedError>,
    pub(crate) padding: Padding,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Padding {
    #[default]
    None,
    /// RFC 7830: on encrypted transports only, when asked for.
    Block,
}

impl OptReply<'_> {
    /// Octets without padding.
    pub(crate) fn length(&self) -> usize {
        let option = |length: Option<usize>| length.map_or(0, |length| length + 4);
        11 + option(self.nsid.map(<[u8]>::len))
            + option(self.cookie.map(|cookie| cookie.len()))
            + option(self.subnet.map(|(subnet, _)| 4 + usize::from(subnet.source).div_ceil(8)))
            + option(self.keepalive.map(|_| 2))
            + option(self.error.map(|error| 2 + error.text().len()))
    }

    /// Appends the record to a message; `limit` bounds the padding.
    pub(crate) fn write(&self, rcode: Rcode, limit: usize, out: &mut Vec<u8>) {
        let ([t0, t1], [p0, p1]) = (RecordType::OPT.0.to_be_bytes(), self.payload.to_be_bytes());
        // Version 0, and of the flags only DO is copied (RFC 3225 §3).
        let flags = if self.dnssec == Dnssec::Ok { DO } else { 0 };
        let [f0, f1, f2, f3] = (u32::from(rcode.high()) << 24 | flags).to_be_bytes();
        out.extend_from_slice(&[0, t0, t1, p0, p1, f0, f1, f2, f3, 0, 0]);
        let length_at = out.len() - 2;
        if let Some(nsid) = self.nsid {
            option(NSID, &[nsid], out);
        }
        if let Some(cookie) = &self.cookie {
            option(COOKIE, &[cookie], out);
        }
        if let Some((subnet, scope)) = &self.subnet {
            write_subnet(subnet, *scope, out);
        }
        if let Some(tenths) = self.keepalive {
            option(KEEPALIVE, &[&tenths.to_be_bytes()], out);
        }
        if let Some(error) = self.error {
            option(ERROR, &[&error.code().to_be_bytes(), error.text().as_bytes()], out);
        }
        if self.padding == Padding::Block {
            let bare = out.len() + 4;
            let padded = bare.next_multiple_of(PADDING_BLOCK).min(limit.max(bare));
            option(PADDING, &[&[0; PADDING_BLOCK][..(padded - bare).min(PADDING_BLOCK)]], out);
        }
        let length = (out.len() - length_at - 2) as u16;
        if let Some(place) = out.get_mut(length_at..length_at + 2) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// RFC 7871 §7.2.1: family, source and address come back as they were.
fn write_subnet(subnet: &Subnet, scope: u8, out: &mut Vec<u8>) {
    let octets = usize::from(subnet.source).div_ceil(8);
    match subnet.address {
        None => option(SUBNET, &[&[0, 0, 0, 0]], out),
        Some(IpAddr::V4(v4)) => {
            let address = v4.octets();
            option(SUBNET, &[&[0, 1, subnet.source, scope], address.get(..octets).unwrap_or_default()], out);
        }
        Some(IpAddr::V6(v6)) => {
            let address = v6.octets();
            option(SUBNET, &[&[0, 2, subnet.source, scope], address.get(..octets).unwrap_or_default()], out);
        }
    }
}

fn option(code: u16, parts: &[&[u8]], out: &mut Vec<u8>) {
    // NSID is bounded by the configuration, everything else by its form.
    let ([c0, c1], [l0, l1]) =
        (code.to_be_bytes(), (parts.iter().map(|part| part.len()).sum::<usize>() as u16).to_be_bytes());
    out.extend_from_slice(&[c0, c1, l0, l1]);
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(data: &[u8]) -> Option<Edns<'_>> {
        read(1232, 0, data)
    }

    #[test]
    fn rfc7871_6_subnets_are_read_and_wrong_ones_refused() {
        for (option, expected) in [
            (&b"\0\x01\x18\0\xcb\0\x71"[..], Some("203.0.113.0")),
            (b"\0\x01\0\0", Some("0.0.0.0")),
            (b"\0\x02\x20\0\x20\x01\x0d\xb8", Some("2001:db8::")),
            (b"\0\0\0\0", Some("none")),
            (b"\0\x01\x18\0\xcb\0\x71\0", None),
            (b"\0\x01\x18\0\xcb\0", None),
            (b"\0\x01\x17\0\xcb\0\x71", None),
            (b"\0\x01\x21\0\xcb\0\x71\x01\0", None),
            (b"\0\x01\x18\x18\xcb\0\x71", None),
            (b"\0\x03\x08\0\x01", None),
            (b"\0\x01", None),
        ] {
            let data = [&[0, 8, 0, option.len() as u8], option].concat();
            let found = options(&data).map(|edns| edns.subnet.unwrap().address);
            let found = found.map(|address| address.map_or("none".to_owned(), |address| address.to_string()));
            assert_eq!(found.as_deref(), expected, "{option:?}");
        }
    }

    #[test]
    fn rfc7873_5_2_2_cookies_have_one_of_the_right_lengths() {
        for (length, good) in [(0, false), (7, false), (8, true), (15, false), (16, true), (40, true), (41, false)] {
            let data = [&[0, 10, 0, length as u8], &vec![7u8; length][..]].concat();
            assert_eq!(options(&data).is_some(), good, "{length}");
        }
    }

    #[test]
    fn rfc6891_6_2_3_sizes_below_512_mean_512_and_options_must_fit() {
        assert_eq!(read(0, 0, b"").unwrap().payload, 512);
        assert_eq!(read(4096, 0x8000, b"").unwrap().dnssec, Dnssec::Ok);
        assert!(options(b"\0\x03\0\x01").is_none() && options(b"\0\x03\0").is_none());
        assert!(options(b"\xff\xff\0\x01x").is_some());
        assert!(options(b"\0\x03\0\0").unwrap().wants.has(Wants::NSID));
        assert_eq!(read(1232, 1 << 16, b"\0\x08\0\0").unwrap().version, 1);
    }

    #[test]
    fn what_is_written_has_the_length_that_was_promised() {
        let subnet = Subnet { address: Some("203.0.112.0".parse().unwrap()), source: 22 };
        let reply = OptReply {
            payload: 1232,
            dnssec: Dnssec::Ok,
            nsid: Some(b"edge-1"),
            cookie: Some([1; 24]),
            subnet: Some((subnet, 20)),
            keepalive: Some(100),
            error: Some(ExtendedError::Fallback),
            padding: Padding::None,
        };
        let mut out = Vec::new();
        reply.write(Rcode::BadVers, 1232, &mut out);
        assert_eq!(out.len(), reply.length());
        assert_eq!(out[5..9], [1, 0, 0x80, 0]);
        assert!(out.windows(7).any(|part| part == [0, 1, 22, 20, 203, 0, 112]));
        let mut padded = vec![0; 100];
        OptReply { padding: Padding::Block, ..reply }.write(Rcode::NoError, 65_535, &mut padded);
        assert_eq!(padded.len(), 468);
    }
}

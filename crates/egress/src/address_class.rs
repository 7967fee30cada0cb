//! What kind of address an address is: the closed list of ranges that are not the public internet.
//!
//! After the IANA special-purpose registries (RFC 6890 and what was registered since) and the metadata services of clouds.
//! IPv4 addresses inside IPv6 ones are decoded, because a translator or the kernel may do the same. Knows nothing of
//! policy; [`crate::AddressPolicy`] does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address is of the public internet, and if not, what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressClass {
    Public,
    Special(SpecialRange),
}

/// The name of the range, for logs and `explain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpecialRange(&'static str);

impl SpecialRange {
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

/// An address with the IPv4 address inside it, if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// As it goes to `connect`: a v4-mapped address is its IPv4 address, which is what the kernel makes of it.
    pub(crate) address: IpAddr,
    /// What a translator or tunnel on the way would make of it.
    pub(crate) embedded: Option<Ipv4Addr>,
}

impl Decoded {
    pub(crate) fn of(address: IpAddr) -> Self {
        let v6 = match address {
            IpAddr::V4(_) => return Self { address, embedded: None },
            IpAddr::V6(v6) => v6,
        };
        match v6.to_ipv4_mapped() {
            Some(v4) => Self { address: v4.into(), embedded: None },
            None => Self { address, embedded: embedded(v6) },
        }
    }

    /// The class of the whole: of the worse of the two.
    pub(crate) fn class(self) -> AddressClass {
        let outer = match self.address {
            IpAddr::V4(v4) => class_v4(v4),
            IpAddr::V6(v6) => class_v6(v6),
        };
        match (outer, self.embedded) {
            (AddressClass::Special(range), _) => AddressClass::Special(range),
            (AddressClass::Public, Some(v4)) => class_v4(v4),
            (AddressClass::Public, None) => AddressClass::Public,
        }
    }
}

/// The class of an address as it came from a resolver or a client.
pub fn classify(address: IpAddr) -> AddressClass {
    Decoded::of(address).class()
}

type Row4 = (u32, u32, &'static str);

const fn row4(octets: [u8; 4], length: u32, name: &'static str) -> Row4 {
    (u32::from_be_bytes(octets), if length == 0 { 0 } else { u32::MAX << (32 - length) }, name)
}

/// Metadata services stand first: the name that is logged is then the telling one.
const SPECIAL_V4: [Row4; 24] = [
    row4([169, 254, 169, 254], 32, "cloud metadata"),
    row4([169, 254, 170, 2], 32, "cloud metadata"),
    row4([168, 63, 129, 16], 32, "cloud metadata"),
    row4([100, 100, 100, 200], 32, "cloud metadata"),
    row4([192, 0, 0, 192], 32, "cloud metadata"),
    row4([255, 255, 255, 255], 32, "broadcast"),
    row4([0, 0, 0, 0], 8, "this network"),
    row4([10, 0, 0, 0], 8, "private"),
    row4([100, 64, 0, 0], 10, "shared (carrier NAT)"),
    row4([127, 0, 0, 0], 8, "loopback"),
    row4([169, 254, 0, 0], 16, "link-local"),
    row4([172, 16, 0, 0], 12, "private"),
    row4([192, 0, 0, 0], 24, "protocol assignments"),
    row4([192, 0, 2, 0], 24, "documentation"),
    row4([192, 31, 196, 0], 24, "AS112"),
    row4([192, 52, 193, 0], 24, "AMT"),
    row4([192, 88, 99, 0], 24, "6to4 relay"),
    row4([192, 168, 0, 0], 16, "private"),
    row4([192, 175, 48, 0], 24, "AS112"),
    row4([198, 18, 0, 0], 15, "benchmarking"),
    row4([198, 51, 100, 0], 24, "documentation"),
    row4([203, 0, 113, 0], 24, "documentation"),
    row4([224, 0, 0, 0], 4, "multicast"),
    row4([240, 0, 0, 0], 4, "reserved"),
];

fn class_v4(address: Ipv4Addr) -> AddressClass {
    let number = u32::from(address);
    match SPECIAL_V4.iter().find(|(network, mask, _)| number & mask == *network) {
        Some((.., name)) => AddressClass::Special(SpecialRange(name)),
        None => AddressClass::Public,
    }
}

type Row6 = (u128, u32, &'static str);

const fn row6(segments: [u16; 8], length: u32, name: &'static str) -> Row6 {
    let mut number = 0_u128;
    let mut at = 0;
    while at < 8 {
        number = number << 16 | segments[at] as u128;
        at += 1;
    }
    (number, length, name)
}

/// Only 2000::/3 is given out by IANA for the internet; the last rows are all the rest of the space, so that nothing is
/// public by omission. 64:ff9b::/96 is missing on purpose: its class is that of the IPv4 address inside, for networks
/// which reach IPv4 that way (RFC 6052 §3.1).
const SPECIAL_V6: [Row6; 17] = [
    row6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, "cloud metadata"),
    row6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, "cloud metadata"),
    row6([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified"),
    row6([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback"),
    row6([0, 0, 0, 0, 0, 0, 0, 0], 96, "IPv4-compatible"),
    row6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "local NAT64"),
    row6([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "discard only"),
    row6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "Teredo"),
    row6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "protocol assignments"),
    row6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "documentation"),
    row6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "6to4"),
    row6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "documentation"),
    row6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, "segment routing"),
    row6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "private"),
    row6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local"),
    row6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local"),
    row6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast"),
];

const GLOBAL_UNICAST: Row6 = row6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3, "");
const NAT64: Row6 = row6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, "");
const TEREDO: Row6 = row6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "");
const LOCAL_NAT64: Row6 = row6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "");

fn is_in(number: u128, (network, length, _): Row6) -> bool {
    // Lengths here are 3 to 128.
    number.checked_shr(128 - length) == network.checked_shr(128 - length)
}

fn class_v6(address: Ipv6Addr) -> AddressClass {
    let number = u128::from(address);
    if let Some((.., name)) = SPECIAL_V6.iter().find(|row| is_in(number, **row)) {
        return AddressClass::Special(SpecialRange(name));
    }
    if is_in(number, GLOBAL_UNICAST) || is_in(number, NAT64) {
        AddressClass::Public
    } else {
        AddressClass::Special(SpecialRange("reserved"))
    }
}

/// The IPv4 address that some mechanism would read out of an IPv6 address.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let number = u128::from(address);
    let v4 = |shift: u32| Some(Ipv4Addr::from((number >> shift) as u32));
    let octets = address.octets();
    match address.segments() {
        // RFC 4291 §2.5.5.1; `::` and `::1` are themselves.
        [0, 0, 0, 0, 0, 0, ..] if number > 1 => v4(0),
        // RFC 3056 §2.
        [0x2002, ..] => v4(80),
        // RFC 5214 §6.1, in any prefix; 0200 is the same with the universal bit set.
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => v4(0),
        _ if is_in(number, NAT64) => v4(0),
        // RFC 4380 §4: the client's address is stored with all its bits inverted.
        _ if is_in(number, TEREDO) => Some(Ipv4Addr::from(!(number as u32))),
        // RFC 6052 §2.2: behind a /48, two octets, the zero octet at 64..72, two more.
        _ if is_in(number, LOCAL_NAT64) => match octets {
            [_, _, _, _, _, _, a, b, 0, c, d, ..] if (a, b, c, d) != (0, 0, 0, 0) => Some(Ipv4Addr::new(a, b, c, d)),
            _ => v4(0),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: &str, expected: Option<&str>) {
        let found = match classify(address.parse().unwrap()) {
            AddressClass::Public => None,
            AddressClass::Special(range) => Some(range.as_str()),
        };
        assert_eq!(found, expected, "{address}");
    }

    #[test]
    fn ranges_that_are_not_the_internet_are_known_from_first_to_last_address() {
        for (first, last, name) in [
            ("0.0.0.0", "0.255.255.255", "this network"),
            ("10.0.0.0", "10.255.255.255", "private"),
            ("100.64.0.0", "100.127.255.255", "shared (carrier NAT)"),
            ("127.0.0.0", "127.255.255.255", "loopback"),
            ("169.254.0.0", "169.254.255.255", "link-local"),
            ("172.16.0.0", "172.31.255.255", "private"),
            ("192.0.0.0", "192.0.0.255", "protocol assignments"),
            ("192.0.2.0", "192.0.2.255", "documentation"),
            ("192.31.196.0", "192.31.196.255", "AS112"),
            ("192.52.193.0", "192.52.193.255", "AMT"),
            ("192.88.99.0", "192.88.99.255", "6to4 relay"),
            ("192.168.0.0", "192.168.255.255", "private"),
            ("192.175.48.0", "192.175.48.255", "AS112"),
            ("198.18.0.0", "198.19.255.255", "benchmarking"),
            ("198.51.100.0", "198.51.100.255", "documentation"),
            ("203.0.113.0", "203.0.113.255", "documentation"),
            ("224.0.0.0", "239.255.255.255", "multicast"),
            ("240.0.0.0", "255.255.255.254", "reserved"),
            ("100::", "100::ffff:ffff:ffff:ffff", "discard only"),
            ("2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", "Teredo"),
            ("2001:1::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "protocol assignments"),
            ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "documentation"),
            ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "6to4"),
            ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "documentation"),
            ("5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "segment routing"),
            ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "private"),
            ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "link-local"),
            ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "site-local"),
            ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast"),
            ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "local NAT64"),
            ("4000::", "5eff:ffff::", "reserved"),
            ("200::", "1fff:ffff::", "reserved"),
        ] {
            check(first, Some(name));
            check(last, Some(name));
        }
    }

    #[test]
    fn metadata_services_are_named() {
        for address in [
            "169.254.169.254",
            "169.254.170.2",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd20:ce::254",
            "::ffff:169.254.169.254",
            "64:ff9b::169.254.169.254",
        ] {
            check(address, Some("cloud metadata"));
        }
    }

    #[test]
    fn the_internet_begins_right_beside_the_special_ranges() {
        for address in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "168.63.129.17",
            "8.8.8.8",
            "2001:200::",
            "2001:db7:ffff::",
            "2001:db9::",
            "2003::",
            "2606:4700::1111",
            "3fff:1000::",
            "2000::",
        ] {
            check(address, None);
        }
    }

    #[test]
    fn an_ipv4_address_inside_an_ipv6_one_counts() {
        for (address, expected) in [
            ("::ffff:10.0.0.1", Some("private")),
            ("::ffff:127.0.0.1", Some("loopback")),
            ("::ffff:8.8.8.8", None),
            ("::10.0.0.1", Some("IPv4-compatible")),
            ("::8.8.8.8", Some("IPv4-compatible")),
            ("::", Some("unspecified")),
            ("::1", Some("loopback")),
            ("64:ff9b::10.0.0.1", Some("private")),
            ("64:ff9b::8.8.8.8", None),
            ("64:ff9b::7f00:1", Some("loopback")),
            ("64:ff9b:0:0:0:1::", Some("reserved")),
            ("2002:a9fe:a9fe::1", Some("6to4")),
            ("2606:4700::5efe:10.0.0.1", Some("private")),
            ("2606:4700::200:5efe:127.0.0.1", Some("loopback")),
            ("2606:4700::5efe:8.8.8.8", None),
            ("fe80::5efe:8.8.8.8", Some("link-local")),
        ] {
            check(address, expected);
        }
    }

    #[test]
    fn what_is_embedded_is_read_as_its_mechanism_writes_it() {
        for (address, embedded) in [
            ("2002:a9fe:a9fe::1", Some("169.254.169.254")),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", Some("192.0.2.45")),
            ("64:ff9b:1:a00:0:100::", Some("10.0.0.1")),
            ("64:ff9b:1::a00:1", Some("10.0.0.1")),
            ("64:ff9b::a00:1", Some("10.0.0.1")),
            ("::a00:1", Some("10.0.0.1")),
            ("2606:4700::5efe:a00:1", Some("10.0.0.1")),
            ("::1", None),
            ("::", None),
            ("2606:4700::1", None),
            ("10.0.0.1", None),
        ] {
            let found = Decoded::of(address.parse().unwrap()).embedded;
            assert_eq!(found, embedded.map(|v4| v4.parse().unwrap()), "{address}");
        }
    }
}

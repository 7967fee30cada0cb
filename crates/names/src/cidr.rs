//! Address ranges: one `10.0.0.0/8`, and a set that answers `contains` in logarithmic time.

use crate::text::{ParseError, text_type};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// A network prefix. A bare address is a prefix of its full length. Host bits must be zero, so that a slip shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    network: IpAddr,
    length: u8,
}

text_type!(
    Cidr,
    format = "cidr",
    expects = "an address or prefix, like \"10.0.0.0/8\", \"192.0.2.7\" or \"2001:db8::/32\""
);

impl Cidr {
    pub fn contains(&self, address: IpAddr) -> bool {
        let (first, last) = self.bounds();
        (first..=last).contains(&as_number(address))
    }

    /// In bits.
    pub fn prefix_length(&self) -> u8 {
        self.length
    }

    /// First and last address in the one 128-bit space of [`as_number`].
    fn bounds(&self) -> (u128, u128) {
        let length = match self.network {
            IpAddr::V4(_) => u32::from(self.length) + 96,
            IpAddr::V6(_) => u32::from(self.length),
        };
        let first = as_number(self.network);
        let host_bits = u128::MAX.checked_shr(length).unwrap_or(0);
        (first, first | host_bits)
    }
}

/// IPv4 lies in IPv6 as v4-mapped (RFC 4291 §2.5.5.2), so `::ffff:10.0.0.1` is the same client as `10.0.0.1`.
fn as_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

impl FromStr for Cidr {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new(Self::EXPECTS, text);
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let network: IpAddr = address.parse().map_err(|_| wrong())?;
        let widest = if network.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => widest,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().map_err(|_| wrong())?,
            Some(_) => return Err(wrong()),
        };
        if length > widest {
            return Err(wrong().because(format!("the prefix length is at most {widest}")));
        }
        let cidr = Self { network, length };
        let canonical = cidr.canonical();
        if canonical.network != network {
            return Err(wrong().because(format!("host bits are set; did you mean `{canonical}`?")));
        }
        Ok(cidr)
    }
}

impl Cidr {
    fn canonical(self) -> Self {
        let mask = |bits: u32, width: u32| if bits == 0 { 0 } else { u128::MAX << (width - bits) };
        let network = match self.network {
            IpAddr::V4(v4) => {
                IpAddr::V4(Ipv4Addr::from((u128::from(u32::from(v4)) & mask(u32::from(self.length), 32)) as u32))
            }
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask(u32::from(self.length), 128))),
        };
        Self { network, ..self }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

/// A union of prefixes, merged into sorted ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CidrSet {
    ranges: Vec<(u128, u128)>,
}

impl CidrSet {
    pub fn new(prefixes: &[Cidr]) -> Self {
        let mut bounds: Vec<_> = prefixes.iter().map(Cidr::bounds).collect();
        bounds.sort_unstable();
        let mut ranges: Vec<(u128, u128)> = Vec::with_capacity(bounds.len());
        for (first, last) in bounds {
            match ranges.last_mut() {
                Some(open) if first <= open.1.saturating_add(1) => open.1 = open.1.max(last),
                _ => ranges.push((first, last)),
            }
        }
        Self { ranges }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let number = as_number(address);
        let after = self.ranges.partition_point(|(first, _)| *first <= number);
        after.checked_sub(1).and_then(|at| self.ranges.get(at)).is_some_and(|(_, last)| number <= *last)
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(prefixes: &[&str]) -> CidrSet {
        CidrSet::new(&prefixes.iter().map(|p| p.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn a_set_contains_exactly_its_prefixes() {
        let set = set(&["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7", "2001:db8::/32", "0.0.0.0/32"]);
        for (address, inside) in [
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("::ffff:10.2.3.4", true),
            ("2001:db8:ffff::1", true),
            ("2001:db9::", false),
            ("0.0.0.0", true),
            ("::", false),
        ] {
            assert_eq!(set.contains(address.parse().unwrap()), inside, "{address}");
        }
        assert!(CidrSet::new(&["0.0.0.0/0".parse().unwrap()]).contains("255.255.255.255".parse().unwrap()));
        assert!(!CidrSet::new(&["0.0.0.0/0".parse().unwrap()]).contains("::1".parse().unwrap()));
        assert!(CidrSet::new(&["::/0".parse().unwrap()]).contains("1.2.3.4".parse().unwrap()));
        assert!(!CidrSet::default().contains("1.2.3.4".parse().unwrap()));
    }

    #[test]
    fn slips_in_prefixes_are_named() {
        for (text, hint) in [
            ("10.0.0.1/8", "10.0.0.0/8"),
            ("10.0.0.0/33", "at most 32"),
            ("::/129", "at most 128"),
            ("10.0.0/8", "not an address"),
            ("a", "not"),
            ("10.0.0.0/+8", "not"),
        ] {
            let error = text.parse::<Cidr>().unwrap_err().to_string();
            assert!(error.contains(hint), "{error}");
        }
    }
}

//! Sets of addresses and networks, for `@ipMatch`.

use std::net::IpAddr;

/// Networks; small enough in practice to be looked at one by one.
#[derive(Debug, Clone, Default)]
pub(crate) struct AddressSet {
    networks: Vec<Network>,
}

#[derive(Debug, Clone, Copy)]
struct Network {
    address: IpAddr,
    /// Leading bits that must agree.
    bits: u32,
}

impl AddressSet {
    /// Reads addresses and networks, separated by commas or white space.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split([',', ' ', '\t', '\n', '\r']).filter(|part| !part.is_empty());
        Ok(Self { networks: parts.map(network).collect::<Result<_, _>>()? })
    }

    /// Reads one per line, with `#` comments.
    pub(crate) fn parse_lines(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
        Self::parse(&lines.collect::<Vec<_>>().join(" "))
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(address))
    }
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(32 - self.bits.min(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(128 - self.bits.min(128)).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

fn network(text: &str) -> Result<Network, String> {
    let wrong = || format!("\"{text}\" is not an address or network");
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let widest = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Ok(widest), |bits| bits.parse().map_err(|_| wrong()))?;
    if bits > widest { Err(wrong()) } else { Ok(Network { address, bits }) }
}

/// An address as text in a value.
pub(super) fn parse(value: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses() {
        let set = AddressSet::parse("127.0.0.1,::1, 10.0.0.0/8,2001:db8::/32,0.0.0.0/32").unwrap();
        let cases = [
            ("127.0.0.1", true),
            ("127.0.0.2", false),
            ("::1", true),
            ("10.9.8.7", true),
            ("11.0.0.0", false),
            ("2001:db8:ffff::1", true),
            ("::ffff:10.1.1.1", true),
        ];
        for (address, expected) in cases {
            assert_eq!(set.contains(address.parse().unwrap()), expected, "{address}");
        }
        assert!(AddressSet::parse("0.0.0.0/0").unwrap().contains("9.9.9.9".parse().unwrap()));
        assert!(AddressSet::parse("10.0.0.0/33").is_err());
        assert!(AddressSet::parse("localhost").is_err());
        assert!(AddressSet::parse_lines("# mine\n10.0.0.1 # one\n\n::1\n").unwrap().contains("::1".parse().unwrap()));
    }
}

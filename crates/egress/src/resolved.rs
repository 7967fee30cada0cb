//! A host with the addresses that we found for it. Nobody but a resolver makes one.

use crate::{AddressPolicy, AddressRefusal, Checked, Host, PrivateRanges};
use std::{net::IpAddr, sync::Arc};

/// Addresses that this gateway resolved itself, or the address that the target already was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    host: Host,
    addresses: Arc<[IpAddr]>,
}

impl Resolved {
    pub(crate) fn new(host: Host, addresses: Arc<[IpAddr]>) -> Self {
        Self { host, addresses }
    }

    /// A host that a parent resolves ([`crate::Asks::Name`]): there is nothing here that could be dialled.
    pub fn left_to_a_parent(host: Host) -> Self {
        Self { host, addresses: Arc::from([]) }
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Whether the client, too, had been given one of our answers. For the log of transparent listeners: answers rotate,
    /// so a difference is no crime, and the client's address is never dialled.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// The addresses that may be dialled. One bad answer among good ones does not spoil them, and is never dialled; with
    /// no good one left the first refusal tells why.
    pub fn checked(
        &self,
        policy: &AddressPolicy,
        port: u16,
        private: &PrivateRanges,
    ) -> Result<Vec<Checked>, AddressRefusal> {
        let mut refusal = AddressRefusal::NoPort;
        let mut good = Vec::with_capacity(self.addresses.len());
        for address in self.addresses.iter().rev() {
            match policy.check(*address, port, private) {
                Ok(checked) => good.push(checked),
                Err(refused) => refusal = refused,
            }
        }
        good.reverse();
        if good.is_empty() { Err(refusal) } else { Ok(good) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(addresses: &[&str]) -> Result<Vec<String>, AddressRefusal> {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let resolved = Resolved::new(Host::parse("a.example").unwrap(), addresses);
        let good = resolved.checked(&AddressPolicy::default(), 443, &PrivateRanges::none())?;
        Ok(good.iter().map(|good| good.socket_address().ip().to_string()).collect())
    }

    #[test]
    fn only_good_answers_are_left_in_their_order() {
        assert_eq!(checked(&["8.8.8.8", "10.0.0.1", "1.1.1.1"]).unwrap(), ["8.8.8.8", "1.1.1.1"]);
        let many: Vec<String> = (1..100).map(|n| format!("8.8.4.{n}")).collect();
        let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
        many.push("127.0.0.1");
        assert_eq!(checked(&many).unwrap().len(), 99);
        for bad in [&["169.254.169.254", "10.0.0.1"][..], &["::ffff:10.0.0.1"], &["64:ff9b::a00:1", "::1"]] {
            let refusal = checked(bad).unwrap_err();
            assert!(matches!(refusal, AddressRefusal::Special { address, .. } if address.to_string() == bad[0]));
        }
        assert!(checked(&[]).is_err());
    }
}

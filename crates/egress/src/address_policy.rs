//! Which addresses may be connected to. Asked with the very address that goes to `connect`, after resolving, on every hop.
//!
//! The order is deny, own, class: what is denied stays denied however wide a destination's `private_addresses` are.

use crate::{
    Reason,
    address_class::{AddressClass, Decoded, SpecialRange},
};
use portcullis_names::{Cidr, CidrSet};
use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
};

/// An address that [`AddressPolicy::check`] let through. The dialler takes nothing else, and nobody else can make one: an
/// address that was not checked, or another than the one checked (rebinding), does not compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checked(SocketAddr);

impl Checked {
    pub fn socket_address(self) -> SocketAddr {
        self.0
    }
}

/// Why an address may not be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressRefusal {
    #[error("{0} is in a range that an [access] rule denies")]
    Denied(IpAddr),
    #[error("{0} is an address of this gateway")]
    Own(IpAddr),
    #[error("{address} is special ({}); a destination must name its range in `private_addresses`", range.as_str())]
    Special { address: IpAddr, range: SpecialRange },
    #[error("port 0 cannot be connected to")]
    NoPort,
}

impl AddressRefusal {
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Denied(_) => Reason::DeniedAddress,
            Self::Own(_) => Reason::OwnAddress,
            Self::Special { .. } => Reason::PrivateAddress,
            Self::NoPort => Reason::BadTarget,
        }
    }
}

/// The special ranges that one destination may resolve to. Empty unless its table says `private_addresses`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrivateRanges(CidrSet);

impl PrivateRanges {
    pub fn new(ranges: &[Cidr]) -> Self {
        Self(CidrSet::new(ranges))
    }

    /// For hops that no destination speaks for.
    pub fn none() -> Self {
        Self::default()
    }
}

/// What is refused whatever the destination: ranges under a denying rule, and this gateway itself.
#[derive(Debug, Clone, Default)]
pub struct AddressPolicy {
    denied: CidrSet,
    own: OwnAddresses,
}

/// Where this gateway can be reached. Gathered by the caller at start and at reload; interfaces also in between.
#[derive(Debug, Clone, Default)]
pub struct OwnAddresses {
    interfaces: Arc<RwLock<HashSet<IpAddr>>>,
    listeners: HashSet<SocketAddr>,
    /// Ports on which a listener takes connections to any address of this machine.
    wildcard_ports: HashSet<u16>,
}

impl OwnAddresses {
    /// `interfaces`: every address of every local interface; `listeners`: every bound socket, the admin API's too.
    ///
    /// Loopback and unspecified addresses are in every interface list and are left to the class check: a destination that
    /// names 127.0.0.0/8 reaches its neighbour on this machine, but never one of `listeners`.
    pub fn new(interfaces: impl IntoIterator<Item = IpAddr>, listeners: impl IntoIterator<Item = SocketAddr>) -> Self {
        let mut own = Self::default();
        own.learn_interfaces(interfaces);
        for listener in listeners {
            let address = Decoded::of(listener.ip()).address;
            if address.is_unspecified() {
                own.wildcard_ports.insert(listener.port());
            }
            own.listeners.insert(SocketAddr::new(address, listener.port()));
        }
        own
    }

    fn learn_interfaces(&self, interfaces: impl IntoIterator<Item = IpAddr>) {
        let addresses = interfaces.into_iter().map(|address| Decoded::of(address).address);
        let known: HashSet<IpAddr> = addresses.filter(|address| !address.is_loopback()).collect();
        *self.interfaces.write().unwrap_or_else(PoisonError::into_inner) = known;
    }

    fn is_of_an_interface(&self, address: IpAddr) -> bool {
        self.interfaces.read().unwrap_or_else(PoisonError::into_inner).contains(&address)
    }

    fn contains(&self, address: IpAddr, port: u16) -> bool {
        // The kernel connects 0.0.0.0 and :: to this machine.
        let is_local = address.is_loopback() || address.is_unspecified();
        self.is_of_an_interface(address)
            || self.listeners.contains(&SocketAddr::new(address, port))
            || (is_local && (self.wildcard_ports.contains(&port) || self.listens_locally(port)))
    }

    /// 127.0.0.2 and ::1 may lead to a listener on 127.0.0.1 by a redirect of the packet filter; a port is a port.
    fn listens_locally(&self, port: u16) -> bool {
        self.listeners.iter().any(|listener| listener.port() == port && listener.ip().is_loopback())
    }
}

impl AddressPolicy {
    pub fn new(denied: CidrSet, own: OwnAddresses) -> Self {
        Self { denied, own }
    }

    /// The addresses of the local interfaces as they are now, in the place of those before.
    pub fn learn_interfaces(&self, interfaces: impl IntoIterator<Item = IpAddr>) {
        self.own.learn_interfaces(interfaces);
    }

    /// The one way to an address that can be dialled.
    pub fn check(&self, address: IpAddr, port: u16, private: &PrivateRanges) -> Result<Checked, AddressRefusal> {
        let decoded = Decoded::of(address);
        let mut faces = [Some(decoded.address), decoded.embedded.map(IpAddr::V4)].into_iter().flatten();
        if port == 0 {
            return Err(AddressRefusal::NoPort);
        }
        if faces.clone().any(|face| self.denied.contains(face)) {
            return Err(AddressRefusal::Denied(address));
        }
        if faces.any(|face| self.own.contains(face, port)) {
            return Err(AddressRefusal::Own(address));
        }
        match decoded.class() {
            // Named is the address as it is dialled: a range of IPv4 does not speak for its embeddings.
            AddressClass::Special(range) if !private.0.contains(decoded.address) => {
                Err(AddressRefusal::Special { address, range })
            }
            AddressClass::Special(_) | AddressClass::Public => Ok(Checked(SocketAddr::new(decoded.address, port))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Vec<Cidr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn policy() -> AddressPolicy {
        let own = OwnAddresses::new(
            ["127.0.0.1", "::1", "198.41.0.4", "2620::7"].map(|a| a.parse().unwrap()),
            ["0.0.0.0:3128", "127.0.0.1:9901", "10.0.0.5:8443"].map(|a| a.parse().unwrap()),
        );
        AddressPolicy::new(CidrSet::new(&ranges(&["10.96.0.0/12", "9.9.9.0/24"])), own)
    }

    fn check(private: &[&str], address: &str, port: u16) -> Result<String, Reason> {
        let private = PrivateRanges::new(&ranges(private));
        let checked = policy().check(address.parse().unwrap(), port, &private);
        checked.map(|checked| checked.socket_address().to_string()).map_err(|refusal| refusal.reason())
    }

    #[test]
    fn only_the_internet_is_reached_unless_a_destination_names_more() {
        use Reason::{BadTarget, DeniedAddress, OwnAddress, PrivateAddress};
        let none: &[&str] = &[];
        for (private, address, port, expected) in [
            (none, "8.8.8.8", 443, Ok("8.8.8.8:443")),
            (none, "2606:4700::1111", 443, Ok("[2606:4700::1111]:443")),
            (none, "::ffff:8.8.8.8", 443, Ok("8.8.8.8:443")),
            (none, "8.8.8.8", 0, Err(BadTarget)),
            (none, "10.0.0.1", 443, Err(PrivateAddress)),
            (none, "::ffff:10.0.0.1", 443, Err(PrivateAddress)),
            (none, "169.254.169.254", 80, Err(PrivateAddress)),
            (none, "127.0.0.1", 80, Err(PrivateAddress)),
            (none, "0.0.0.0", 80, Err(PrivateAddress)),
            (&["10.0.0.0/8"], "10.0.0.1", 443, Ok("10.0.0.1:443")),
            (&["10.0.0.0/8"], "::ffff:10.0.0.1", 443, Ok("10.0.0.1:443")),
            (&["10.0.0.0/8"], "192.168.0.1", 443, Err(PrivateAddress)),
            // A range of IPv4 does not speak for its embeddings.
            (&["10.0.0.0/8"], "64:ff9b::10.0.0.1", 443, Err(PrivateAddress)),
            (&["10.0.0.0/8"], "2002:a00:1::", 443, Err(PrivateAddress)),
            (&["64:ff9b::/96"], "64:ff9b::10.0.0.1", 443, Ok("[64:ff9b::a00:1]:443")),
            (&["127.0.0.0/8"], "127.0.0.1", 80, Ok("127.0.0.1:80")),
            (&["169.254.169.254"], "169.254.169.254", 80, Ok("169.254.169.254:80")),
            // Denied beats named, in every spelling.
            (&["10.0.0.0/8"], "10.100.0.1", 443, Err(DeniedAddress)),
            (&["0.0.0.0/0"], "::ffff:10.100.0.1", 443, Err(DeniedAddress)),
            (&["::/0"], "64:ff9b::10.100.0.1", 443, Err(DeniedAddress)),
            (&["::/0"], "2002:a64:1::", 443, Err(DeniedAddress)),
            (none, "9.9.9.9", 443, Err(DeniedAddress)),
            (none, "2606:4700::5efe:9.9.9.9", 443, Err(DeniedAddress)),
            // Itself, with any port on its interfaces, and its listeners wherever they are.
            (none, "198.41.0.4", 443, Err(OwnAddress)),
            (none, "2620::7", 22, Err(OwnAddress)),
            (&["127.0.0.0/8"], "127.0.0.1", 3128, Err(OwnAddress)),
            (&["127.0.0.0/8"], "127.9.9.9", 3128, Err(OwnAddress)),
            (&["0.0.0.0/0"], "0.0.0.0", 3128, Err(OwnAddress)),
            (&["127.0.0.0/8"], "127.0.0.1", 9901, Err(OwnAddress)),
            (&["127.0.0.0/8"], "127.0.0.2", 9901, Err(OwnAddress)),
            (&["::1"], "::1", 9901, Err(OwnAddress)),
            (&["10.0.0.0/24"], "10.0.0.5", 8443, Err(OwnAddress)),
            (&["10.0.0.0/24"], "10.0.0.5", 8444, Ok("10.0.0.5:8444")),
        ] {
            let found = check(private, address, port);
            assert_eq!(found.as_deref().map_err(|reason| *reason), expected, "{private:?} {address}:{port}");
        }
    }

    #[test]
    fn an_address_that_an_interface_gets_later_is_our_own_from_then_on() {
        let (policy, address) = (policy(), "198.41.0.77".parse().unwrap());
        let reason =
            |policy: &AddressPolicy| policy.check(address, 443, &PrivateRanges::none()).map_err(|no| no.reason());
        assert!(reason(&policy).is_ok());
        policy.learn_interfaces(["::ffff:198.41.0.77".parse().unwrap()]);
        assert_eq!(reason(&policy.clone()), Err(Reason::OwnAddress));
        policy.learn_interfaces([]);
        assert!(reason(&policy).is_ok());
    }

    #[test]
    fn no_address_outside_global_unicast_is_ever_public() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200_000 {
            let v6 = std::net::Ipv6Addr::from(random.u128(..));
            let global = v6.segments()[0] >> 13 == 1;
            if let Ok(checked) = AddressPolicy::default().check(v6.into(), 443, &PrivateRanges::none()) {
                assert!(global, "{checked:?}");
            }
        }
    }
}

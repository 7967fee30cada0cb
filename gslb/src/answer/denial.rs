//! What an answer says is not there, and the records of the chain that prove it (RFC 4035 §3.1.3, RFC 5155 §7.2).

use crate::{
    Name, RecordType,
    dnssec::{Chain, Proof},
    name::{self, Suffixes},
    zone::Node,
};

/// What an answer says is not there.
pub(super) enum Denial<'k> {
    /// The name; `encloser` is what of it is there.
    Name { key: &'k [u8], encloser: &'k [u8] },
    /// The type at a name, or at the wildcard below `encloser` that stands in for it.
    Type { owner: &'k [u8], node: &'k Node, encloser: Option<&'k [u8]> },
    /// The name itself: a wildcard stands in for it.
    Expanded { key: &'k [u8], encloser: &'k [u8] },
    /// A signer of what is delegated (no DS).
    Signer { owner: &'k [u8] },
}

impl Denial<'_> {
    /// RFC 4035 §3.1.3 for NSEC, RFC 5155 §7.2 for NSEC3.
    pub(super) fn proofs(&self, chain: &Chain, apex: &Name, absent: RecordType) -> Vec<Proof> {
        let wildcard = |encloser: &[u8]| [b"\x01*", encloser].concat();
        // What a published service does not answer now is not there now.
        let without = |name: &[u8]| chain.at(apex, name, Some(absent));
        let at = |name: &[u8]| chain.at(apex, name, None);
        let covering = |name: &[u8]| chain.covering(apex, name);
        let proofs = match (self, chain.uses_hashes()) {
            (Self::Name { key, encloser }, false) => vec![covering(key), covering(&wildcard(encloser))],
            (Self::Name { key, encloser }, true) => {
                vec![at(encloser), covering(next_closer(key, encloser)), covering(&wildcard(encloser))]
            }
            // An empty non-terminal has no NSEC of its own: the one before it shows that nothing is at it.
            (Self::Type { owner, encloser: None, .. }, false) => vec![without(owner).or_else(|| covering(owner))],
            (Self::Type { owner, encloser: None, .. }, true) => vec![without(owner)],
            (Self::Type { owner, encloser: Some(encloser), .. }, false) => {
                vec![without(&wildcard(encloser)), covering(owner)]
            }
            (Self::Type { owner, encloser: Some(encloser), .. }, true) => {
                vec![at(encloser), covering(next_closer(owner, encloser)), without(&wildcard(encloser))]
            }
            (Self::Expanded { key, .. }, false) => vec![covering(key)],
            (Self::Expanded { key, encloser }, true) => vec![covering(next_closer(key, encloser))],
            (Self::Signer { owner }, false) => vec![at(owner)],
            (Self::Signer { owner }, true) => match at(owner) {
                Some(proof) => vec![Some(proof)],
                // RFC 5155 §7.2.7: left out of a chain that allows it (opt-out).
                None => {
                    let encloser = Suffixes(owner).skip(1).find(|name| at(name).is_some()).unwrap_or(apex.as_wire());
                    vec![at(encloser), covering(next_closer(owner, encloser))]
                }
            },
        };
        proofs.into_iter().flatten().collect()
    }
}

/// RFC 5155 §1.3: the name one label longer than the closest encloser.
fn next_closer<'k>(key: &'k [u8], encloser: &[u8]) -> &'k [u8] {
    let above = |name: &&[u8]| name::parent(name).is_some_and(|parent| parent.len() == encloser.len());
    Suffixes(key).find(above).unwrap_or(key)
}

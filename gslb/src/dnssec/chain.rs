//! What is not there, proved: the chain of names of a zone (NSEC, RFC 4034 §4; NSEC3, RFC 5155 without salt and iterations),
//! or each name by itself (RFC 9824).

use super::{DenialSpec, presigned::Presigned};
use crate::{
    Name, RecordType,
    name::{Suffixes, first_label},
    rdata::type_bitmap,
    zone::{Node, NodeKind, Nodes},
};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use data_encoding::BASE32HEX_NOPAD;

/// The names of a zone in order.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    links: Vec<Link>,
    kind: Kind,
    /// Of hashes: ours are made without either (RFC 9276 §3.1), others' with what they chose.
    iterations: u16,
    salt: Box<[u8]>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Names,
    Hashes,
}

#[derive(Debug)]
struct Link {
    /// Sorts like the names (RFC 4034 §6.1), or is the hash.
    key: Box<[u8]>,
    owner: Name,
    types: Vec<RecordType>,
    /// Of a zone that was signed elsewhere: the record as it came.
    rdata: Option<Box<[u8]>>,
}

/// A record of denial, ready to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) owner: Name,
    pub(crate) of_type: RecordType,
    pub(crate) rdata: Vec<u8>,
}

/// RFC 5155 §3.1 with RFC 9276 §3.1: SHA-1, no flags, no iterations, no salt.
const NSEC3_HEAD: [u8; 5] = [1, 0, 0, 0, 0];
/// RFC 9276 §3.2: validators take no more seriously, and each costs us a hash for each absent name.
const ITERATIONS_MAX: u16 = 150;

impl Chain {
    pub(crate) fn new(
        apex: &Name,
        nodes: &Nodes,
        denial: DenialSpec,
        services: &dyn Fn(usize) -> Vec<RecordType>,
    ) -> Self {
        let kind = if denial == DenialSpec::Nsec3 { Kind::Hashes } else { Kind::Names };
        let served = nodes.iter().filter(|(_, node)| node.kind != NodeKind::Occluded);
        // RFC 4034 §4: names without records have no NSEC; RFC 5155 §7.1: they have an NSEC3.
        let served = served.filter(|(_, node)| kind == Kind::Hashes || !node.sets.is_empty() || node.service.is_some());
        let mut links: Vec<Link> = served
            .map(|(owner, node)| Link {
                key: match kind {
                    Kind::Names => sort_key(owner.as_wire()).into(),
                    Kind::Hashes => hash(owner.as_wire(), 0, &[]).into(),
                },
                types: types_of(node, owner == apex, kind, services),
                owner: owner.clone(),
                rdata: None,
            })
            .collect();
        links.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Self { links, kind, ..Self::default() }
    }

    /// The chain of a zone that was signed elsewhere. Of several chains of hashes (RFC 5155 §10.4) the first counts.
    pub(super) fn read(presigned: &Presigned) -> Self {
        let mut chain = Self::default();
        let link = |key: Vec<u8>, owner: &Name, rdata: &[u8]| Link {
            key: key.into(),
            owner: owner.clone(),
            types: Vec::new(),
            rdata: Some(rdata.into()),
        };
        chain.links = presigned
            .chain(RecordType::NSEC)
            .map(|(owner, rdata)| link(sort_key(owner.as_wire()), owner, rdata))
            .collect();
        if chain.links.is_empty() {
            chain.kind = Kind::Hashes;
            let mut first = None;
            for (owner, rdata) in presigned.chain(RecordType::NSEC3) {
                // RFC 5155 §3.2: algorithm, flags, iterations, and the salt behind its length.
                let Some([1, _, i0, i1, length]) = rdata.first_chunk::<5>() else { continue };
                let Some(salt) = rdata.get(5..5 + usize::from(*length)) else { continue };
                let made = (u16::from_be_bytes([*i0, *i1]), salt);
                if *first.get_or_insert(made) != made || made.0 > ITERATIONS_MAX {
                    continue;
                }
                let label = first_label(owner.as_wire()).unwrap_or_default().to_ascii_uppercase();
                if let Ok(hash) = BASE32HEX_NOPAD.decode(&label) {
                    chain.links.push(link(hash, owner, rdata));
                }
            }
            let (iterations, salt) = first.unwrap_or_default();
            (chain.iterations, chain.salt) = (iterations, salt.into());
        }
        chain.links.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        chain
    }

    /// All records of the chain.
    pub(crate) fn proofs(&self, apex: &Name) -> impl Iterator<Item = Proof> {
        (0..self.links.len()).filter_map(|index| self.proof(apex, index, None))
    }

    pub(crate) fn uses_hashes(&self) -> bool {
        self.kind == Kind::Hashes
    }

    fn key(&self, name: &[u8]) -> Vec<u8> {
        match self.kind {
            Kind::Names => sort_key(name),
            Kind::Hashes => hash(name, self.iterations, &self.salt),
        }
    }

    /// The record at a name, without `absent` among its types. `None`: the name has no link of its own.
    pub(crate) fn at(&self, apex: &Name, name: &[u8], absent: Option<RecordType>) -> Option<Proof> {
        let index = self.links.binary_search_by(|link| (*link.key).cmp(&self.key(name))).ok()?;
        self.proof(apex, index, absent)
    }

    /// The record whose span holds a name that is not there.
    pub(crate) fn covering(&self, apex: &Name, name: &[u8]) -> Option<Proof> {
        let key = self.key(name);
        let after = self.links.partition_point(|link| *link.key <= *key);
        // Before the first stands the last: the chain is a ring.
        self.proof(apex, after.checked_sub(1).or_else(|| self.links.len().checked_sub(1))?, None)
    }

    fn proof(&self, apex: &Name, index: usize, absent: Option<RecordType>) -> Option<Proof> {
        let link = self.links.get(index)?;
        if let Some(rdata) = &link.rdata {
            let of_type = if self.uses_hashes() { RecordType::NSEC3 } else { RecordType::NSEC };
            return Some(Proof { owner: link.owner.clone(), of_type, rdata: rdata.to_vec() });
        }
        let next = self.links.get(index + 1).or_else(|| self.links.first())?;
        let types = link.types.iter().copied().filter(|of_type| Some(*of_type) != absent).collect();
        match self.kind {
            Kind::Names => {
                let rdata = [next.owner.as_wire(), &type_bitmap(types)].concat();
                Some(Proof { owner: link.owner.clone(), of_type: RecordType::NSEC, rdata })
            }
            Kind::Hashes => {
                let label = BASE32HEX_NOPAD.encode(&link.key).to_ascii_lowercase();
                let mut rdata = NSEC3_HEAD.to_vec();
                rdata.push(next.key.len() as u8);
                rdata.extend_from_slice(&next.key);
                rdata.extend(type_bitmap(types));
                let owner = apex.with_label(label.as_bytes()).ok()?;
                Some(Proof { owner, of_type: RecordType::NSEC3, rdata })
            }
        }
    }

    /// RFC 9824 §3: a name denied by itself; what there is at it is in `types`, and nothing at all is NXNAME.
    pub(crate) fn compact(name: &[u8], types: Option<Vec<RecordType>>) -> Option<Proof> {
        let owner = Name::from_wire(name).ok()?;
        // The next name is the least one behind it: `\000.` before it.
        let next = owner.with_label(&[0]).map_or_else(|_| owner.as_wire().to_vec(), |next| next.as_wire().to_vec());
        let mut types = types.unwrap_or_else(|| vec![RecordType::NXNAME]);
        types.extend([RecordType::RRSIG, RecordType::NSEC]);
        types.sort_unstable();
        types.dedup();
        Some(Proof { owner, of_type: RecordType::NSEC, rdata: [&next[..], &type_bitmap(types)].concat() })
    }
}

/// The types at a name, as a denial lists them.
pub(crate) fn types_of_node(node: &Node, services: &dyn Fn(usize) -> Vec<RecordType>) -> Vec<RecordType> {
    let mut types: Vec<_> = match node.kind {
        // RFC 4035 §2.3: at a cut only what is the parent's.
        NodeKind::Cut => [RecordType::NS, RecordType::DS].into_iter().filter(|t| node.set(*t).is_some()).collect(),
        NodeKind::Plain | NodeKind::Dname | NodeKind::Occluded => node.sets.iter().map(|set| set.of_type).collect(),
    };
    types.extend(node.service.into_iter().flat_map(services));
    types
}

fn types_of(node: &Node, is_apex: bool, kind: Kind, services: &dyn Fn(usize) -> Vec<RecordType>) -> Vec<RecordType> {
    let mut types = types_of_node(node, services);
    if is_apex && kind == Kind::Hashes {
        types.push(RecordType::NSEC3PARAM);
    }
    match kind {
        Kind::Names => types.extend([RecordType::RRSIG, RecordType::NSEC]),
        // RFC 5155 §7.1: RRSIG where something is signed; an unsigned cut has nothing that is.
        Kind::Hashes => {
            let is_signed = !types.is_empty() && types != [RecordType::NS];
            types.extend(is_signed.then_some(RecordType::RRSIG));
        }
    }
    types.sort_unstable();
    types.dedup();
    types
}

/// Octets that sort like names do: labels from the right, each ended by a zero that no label's octet can be taken for.
fn sort_key(name: &[u8]) -> Vec<u8> {
    let labels: Vec<_> = Suffixes(name).filter_map(first_label).collect();
    let mut key = Vec::with_capacity(name.len() + 4);
    for label in labels.into_iter().rev() {
        for octet in label {
            match octet {
                0 => key.extend([1, 1]),
                1 => key.extend([1, 2]),
                octet => key.push(*octet),
            }
        }
        key.push(0);
    }
    key
}

/// RFC 5155 §5.
fn hash(name: &[u8], iterations: u16, salt: &[u8]) -> Vec<u8> {
    let mut hash = name.to_vec();
    for _ in 0..=iterations {
        hash.extend_from_slice(salt);
        hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &hash).as_ref().to_vec();
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc4034_6_1_keys_sort_like_names() {
        let names = [
            "example.",
            "a.example.",
            "yljkjljk.a.example.",
            "Z.a.example.",
            "zABC.a.EXAMPLE.",
            "z.example.",
            "\\001.z.example.",
            "*.z.example.",
            "\\200.z.example.",
        ];
        let keys: Vec<_> = names.iter().map(|name| sort_key(Name::absolute(name).unwrap().as_wire())).collect();
        assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
        let zero = sort_key(Name::absolute("\\000.a").unwrap().as_wire());
        assert!(sort_key(Name::absolute("a").unwrap().as_wire()) < zero);
    }

    #[test]
    fn rfc5155_a_hashes_with_salt_and_iterations() {
        let name = Name::absolute("example").unwrap();
        let hashed = hash(name.as_wire(), 12, &[0xaa, 0xbb, 0xcc, 0xdd]);
        assert_eq!(BASE32HEX_NOPAD.encode(&hashed), "0P9MHAVEQVM6T7VBL5LOP2U3T2RP3TOM");
    }

    #[test]
    fn rfc5155_a_hashes_without_salt_and_iterations() {
        // The owner that the zone com itself has for its apex.
        let name = Name::absolute("com").unwrap();
        assert_eq!(BASE32HEX_NOPAD.encode(&hash(name.as_wire(), 0, &[])), "CK0POJMG874LJREF7EFN8430QVIT8BSM");
    }
}

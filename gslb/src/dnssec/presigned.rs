//! A zone that somebody else has signed: its signatures and its chain as they came, for a secondary that has no key.

use crate::{Name, RecordType, zone::RrSet, zone_file::Record};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// What of a fetched zone is DNSSEC's.
#[derive(Debug, Default)]
pub(crate) struct Presigned {
    /// By owner with the type behind it.
    signatures: HashMap<Box<[u8]>, Arc<[Vec<u8>]>>,
    /// Signatures and chain as records, for who fetches the zone from us.
    pub(crate) records: Vec<(Name, RrSet)>,
}

/// Types that are no data of names, but about them.
fn is_about(of_type: RecordType) -> bool {
    matches!(of_type, RecordType::RRSIG | RecordType::NSEC | RecordType::NSEC3)
}

/// Takes the signatures and the chain out of a zone. `None`: it is not signed.
pub(crate) fn split(apex: &Name, records: Vec<Record>) -> (Vec<Record>, Option<Presigned>) {
    let has_keys = records.iter().any(|record| record.of_type == RecordType::DNSKEY && record.owner == *apex);
    let (about, plain): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| is_about(record.of_type));
    if !has_keys || about.is_empty() {
        return (plain, None);
    }
    let mut signatures: HashMap<Box<[u8]>, Vec<Vec<u8>>> = HashMap::new();
    // Signatures over several types are several sets: each has the time to live of what it covers.
    let mut sets: BTreeMap<(Name, RecordType, [u8; 2]), RrSet> = BTreeMap::new();
    for Record { owner, of_type, ttl, rdata, .. } in about {
        let covered = rdata.first_chunk::<2>().copied().filter(|_| of_type == RecordType::RRSIG).unwrap_or_default();
        if of_type == RecordType::RRSIG {
            let key = [owner.as_wire(), &covered].concat().into();
            signatures.entry(key).or_default().push(rdata.to_vec());
        }
        let set = sets.entry((owner, of_type, covered)).or_insert(RrSet { of_type, ttl, data: Vec::new() });
        set.data.push(rdata);
    }
    let signatures = signatures.into_iter().map(|(key, made)| (key, made.into())).collect();
    let records = sets.into_iter().map(|((owner, _, _), set)| (owner, set)).collect();
    (plain, Some(Presigned { signatures, records }))
}

/// A zone without anything of its signer's: it is signed anew here.
pub(crate) fn strip(records: Vec<Record>) -> Vec<Record> {
    let of_signer = |of_type: RecordType| {
        is_about(of_type)
            || matches!(of_type, RecordType::DNSKEY | RecordType::CDS | RecordType::CDNSKEY | RecordType::NSEC3PARAM)
    };
    records.into_iter().filter(|record| !of_signer(record.of_type)).collect()
}

impl Presigned {
    pub(super) fn get(&self, owner: &[u8], of_type: RecordType) -> Arc<[Vec<u8>]> {
        let key = [owner, &of_type.0.to_be_bytes()].concat();
        self.signatures.get(&*key).cloned().unwrap_or_else(|| Arc::new([]))
    }

    /// The records of the chain, of either kind.
    pub(super) fn chain(&self, of_type: RecordType) -> impl Iterator<Item = (&Name, &[u8])> {
        let sets = self.records.iter().filter(move |(_, set)| set.of_type == of_type);
        sets.flat_map(|(owner, set)| set.data.iter().map(move |data| (owner, &**data)))
    }
}

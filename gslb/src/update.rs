//! Changes that clients send to a zone (RFC 2136): read, judged against the zone, and turned into what differs from the zone as the
//! operator wrote it. Pure; `updates` keeps them, `updater` puts them in force.

use crate::{
    Name, Rcode, RecordType,
    query::{HEADER, Head, OPCODE_UPDATE, Octets},
    rdata,
    record_type::CLASS_IN,
    transfer_in::{name_at, written_out},
    zone::Zone,
    zone_file::{Origin, Record},
};
use std::collections::{BTreeMap, HashSet};

/// A message of opcode UPDATE.
#[derive(Debug)]
pub(crate) struct Request<'d> {
    pub(crate) head: Head,
    /// Name, type and class of the zone section, as sent.
    pub(crate) zone_section: &'d [u8],
    pub(crate) apex: Name,
    conditions: Vec<Entry>,
    changes: Vec<Entry>,
    pub(crate) tsig_at: Option<usize>,
}

/// A record of the second or third section.
#[derive(Debug)]
struct Entry {
    owner: Name,
    of_type: RecordType,
    class: u16,
    ttl: u32,
    rdata: Vec<u8>,
}

/// What one record is told apart by.
pub(crate) type RecordKey = (Name, RecordType, Box<[u8]>);

/// What differs from the zone as it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Overlay {
    pub(crate) removed: HashSet<RecordKey>,
    pub(crate) added: BTreeMap<RecordKey, u32>,
    /// Of the zone with these changes.
    pub(crate) serial: u32,
}

/// The sets of a zone, to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sets(BTreeMap<(Name, RecordType), (u32, Vec<Box<[u8]>>)>);

const CLASS_NONE: u16 = 254;
const CLASS_ANY: u16 = 255;
/// Records of one message are bounded by its octets; those of an overlay by this.
pub(crate) const OVERLAY_MAX: usize = 100_000;

/// Whether a message is of this kind, by its header alone.
pub(crate) fn is_update(octets: &[u8]) -> bool {
    octets.get(2).is_some_and(|flags| flags & 0xf8 == OPCODE_UPDATE << 3) && octets.len() >= HEADER
}

impl<'d> Request<'d> {
    /// RFC 2136 §2 and §3.1.1. `None`: FORMERR.
    pub(crate) fn read(octets: &'d [u8]) -> Option<Self> {
        let [id0, id1, flags0, _, counts @ ..] = *octets.first_chunk::<HEADER>()?;
        let head = Head {
            id: u16::from_be_bytes([id0, id1]),
            opcode: flags0 >> 3 & 0x0f,
            recursion_desired: 0,
            checking_disabled: 0,
        };
        let [z0, z1, c0, c1, u0, u1, a0, a1] = counts;
        let [zones, conditions, changes, additionals] =
            [[z0, z1], [c0, c1], [u0, u1], [a0, a1]].map(u16::from_be_bytes);
        let mut reader = Octets { octets, at: HEADER };
        let (apex, _) = name_at(octets, reader.at)?;
        reader.skip_name()?;
        let fixed = octets.get(reader.at..reader.at.checked_add(4)?)?;
        if zones != 1 || fixed != [0, RecordType::SOA.0 as u8, 0, CLASS_IN as u8] {
            return None;
        }
        reader.at += 4;
        let zone_section = octets.get(HEADER..reader.at)?;
        let mut request = Self {
            head,
            zone_section,
            apex: Name::from_wire(&apex).ok()?,
            conditions: Vec::new(),
            changes: Vec::new(),
            tsig_at: None,
        };
        for _ in 0..conditions {
            request.conditions.push(Entry::read(octets, &mut reader)?);
        }
        for _ in 0..changes {
            request.changes.push(Entry::read(octets, &mut reader)?);
        }
        for index in 0..additionals {
            let begin = reader.at;
            let is_tsig = reader.record()?.of_type == RecordType::TSIG;
            // RFC 8945 §5.1: the last record, or FORMERR.
            match is_tsig {
                true if index + 1 == additionals => request.tsig_at = Some(begin),
                true => return None,
                false => {}
            }
        }
        (reader.at == octets.len()).then_some(request)
    }

    /// RFC 2136 §3.2: whether what the client takes for granted is so.
    pub(crate) fn check(&self, sets: &Sets) -> Result<(), Rcode> {
        let mut values: BTreeMap<(Name, RecordType), Vec<Vec<u8>>> = BTreeMap::new();
        for Entry { owner, of_type, class, ttl, rdata } in &self.conditions {
            if *ttl != 0 || (*class != CLASS_IN && !rdata.is_empty()) {
                return Err(Rcode::FormErr);
            }
            if !owner.is_at_or_under(&self.apex) {
                return Err(Rcode::NotZone);
            }
            let has = match *of_type {
                RecordType::ANY => sets.has_name(owner),
                of_type => sets.has(owner, of_type),
            };
            match (*class, *of_type, has) {
                (CLASS_ANY, RecordType::ANY, false) => return Err(Rcode::NxDomain),
                (CLASS_ANY, _, false) => return Err(Rcode::NxRrSet),
                (CLASS_NONE, RecordType::ANY, true) => return Err(Rcode::YxDomain),
                (CLASS_NONE, _, true) => return Err(Rcode::YxRrSet),
                (CLASS_ANY | CLASS_NONE, _, _) => {}
                (CLASS_IN, of_type, _) if !of_type.is_meta() => {
                    values.entry((owner.clone(), of_type)).or_default().push(rdata::canonical(of_type, rdata));
                }
                _ => return Err(Rcode::FormErr),
            }
        }
        for (key, mut wanted) in values {
            let mut found = sets.canonical(&key);
            wanted.sort_unstable();
            found.sort_unstable();
            wanted.dedup();
            if wanted != found {
                return Err(Rcode::NxRrSet);
            }
        }
        Ok(())
    }

    /// RFC 2136 §3.4.1: before anything is changed, all of it is looked at.
    pub(crate) fn scan(&self, may: impl Fn(&Name, RecordType) -> Result<(), Rcode>) -> Result<(), Rcode> {
        for Entry { owner, of_type, class, ttl, rdata } in &self.changes {
            if !owner.is_at_or_under(&self.apex) {
                return Err(Rcode::NotZone);
            }
            let is_form = match *class {
                CLASS_IN => !of_type.is_meta() && *ttl <= i32::MAX as u32,
                CLASS_ANY => *ttl == 0 && rdata.is_empty() && (!of_type.is_meta() || *of_type == RecordType::ANY),
                CLASS_NONE => *ttl == 0 && !of_type.is_meta(),
                _ => false,
            };
            if !is_form {
                return Err(Rcode::FormErr);
            }
            may(owner, *of_type)?;
        }
        Ok(())
    }

    /// RFC 2136 §3.4.2.
    pub(crate) fn apply(&self, sets: &mut Sets) {
        for change in &self.changes {
            let at_apex = change.owner == self.apex;
            match change.class {
                CLASS_IN => sets.add(change),
                CLASS_ANY if change.of_type == RecordType::ANY => sets.remove_name(&change.owner, at_apex),
                CLASS_ANY => sets.remove_set(&change.owner, change.of_type, at_apex),
                _ => sets.remove(change, at_apex),
            }
        }
    }
}

impl Entry {
    fn read(octets: &[u8], reader: &mut Octets<'_>) -> Option<Self> {
        let (owner, _) = name_at(octets, reader.at)?;
        let raw = reader.record()?;
        let end = raw.data_at.checked_add(raw.data.len())?;
        // Where there is no data, none is meant.
        let rdata = match raw.data {
            [] => Vec::new(),
            _ => written_out(octets, raw.of_type, raw.data_at, end)?,
        };
        let is_data = matches!(raw.class, CLASS_IN | CLASS_NONE) && !raw.of_type.is_meta();
        if is_data && !rdata::is_wire_form(raw.of_type, &rdata) && !(raw.class == CLASS_NONE && rdata.is_empty()) {
            return None;
        }
        let owner = Name::from_wire(&owner.to_ascii_lowercase()).ok()?;
        Some(Self { owner, of_type: raw.of_type, class: raw.class, ttl: raw.ttl, rdata })
    }
}

impl Sets {
    /// All of a zone but what its signer adds and the SOA, which is counted by us.
    pub(crate) fn of(zone: &Zone) -> Self {
        let each = zone.nodes.iter().flat_map(|(owner, node)| node.sets.iter().map(move |set| (owner, set)));
        let own = each.filter(|(_, set)| set.of_type != RecordType::SOA && !is_of_signer(zone, set.of_type));
        Self(own.map(|(owner, set)| ((owner.clone(), set.of_type), (set.ttl, set.data.clone()))).collect())
    }

    fn has(&self, owner: &Name, of_type: RecordType) -> bool {
        of_type == RecordType::SOA || self.0.contains_key(&(owner.clone(), of_type))
    }

    fn types(&self, owner: &Name) -> impl Iterator<Item = RecordType> {
        let all = (owner.clone(), RecordType(0))..=(owner.clone(), RecordType(u16::MAX));
        self.0.range(all).map(|((_, of_type), _)| *of_type)
    }

    fn has_name(&self, owner: &Name) -> bool {
        self.types(owner).next().is_some()
    }

    fn canonical(&self, key: &(Name, RecordType)) -> Vec<Vec<u8>> {
        let data = self.0.get(key).map_or(&[][..], |(_, data)| data);
        data.iter().map(|data| rdata::canonical(key.1, data)).collect()
    }

    fn add(&mut self, Entry { owner, of_type, ttl, rdata, .. }: &Entry) {
        let has_alias = self.has(owner, RecordType::CNAME);
        let has_others = self.types(owner).any(|other| other != RecordType::CNAME);
        match *of_type {
            // The serial is ours to count, and nothing else of the SOA is a client's affair.
            RecordType::SOA => return,
            RecordType::CNAME if has_others => return,
            RecordType::CNAME => {}
            _ if has_alias => return,
            _ => {}
        }
        let (set_ttl, data) = self.0.entry((owner.clone(), *of_type)).or_insert((*ttl, Vec::new()));
        // RFC 2181 §5.2: one time to live a set; the newest word counts.
        *set_ttl = *ttl;
        let canonical = rdata::canonical(*of_type, rdata);
        if matches!(*of_type, RecordType::CNAME | RecordType::DNAME) {
            data.clear();
        }
        if !data.iter().any(|other| rdata::canonical(*of_type, other) == canonical) {
            data.push(rdata.clone().into());
        }
    }

    fn remove_name(&mut self, owner: &Name, at_apex: bool) {
        self.0.retain(|(name, of_type), _| name != owner || (at_apex && *of_type == RecordType::NS));
    }

    fn remove_set(&mut self, owner: &Name, of_type: RecordType, at_apex: bool) {
        if !(at_apex && of_type == RecordType::NS) {
            self.0.remove(&(owner.clone(), of_type));
        }
    }

    fn remove(&mut self, Entry { owner, of_type, rdata, .. }: &Entry, at_apex: bool) {
        let key = (owner.clone(), *of_type);
        let Some((_, data)) = self.0.get_mut(&key) else { return };
        // RFC 2136 §3.4.2.4: the last name server of a zone stays.
        if at_apex && *of_type == RecordType::NS && data.len() == 1 {
            return;
        }
        let canonical = rdata::canonical(*of_type, rdata);
        data.retain(|other| rdata::canonical(*of_type, other) != canonical);
        if data.is_empty() {
            self.0.remove(&key);
        }
    }

    /// What makes these sets of `base`.
    pub(crate) fn overlay(&self, base: &[Record], serial: u32) -> Overlay {
        let mut overlay = Overlay { serial, ..Overlay::default() };
        let mut new: BTreeMap<RecordKey, u32> = BTreeMap::new();
        for ((owner, of_type), (ttl, data)) in &self.0 {
            new.extend(data.iter().map(|data| ((owner.clone(), *of_type, data.clone()), *ttl)));
        }
        for record in base.iter().filter(|record| record.of_type != RecordType::SOA) {
            let key = (record.owner.clone(), record.of_type, record.rdata.clone());
            if new.get(&key) == Some(&record.ttl) {
                new.remove(&key);
            } else {
                overlay.removed.insert(key);
            }
        }
        overlay.added = new;
        overlay
    }
}

/// Sets that the zone's own signing made.
fn is_of_signer(zone: &Zone, of_type: RecordType) -> bool {
    let of_keys =
        matches!(of_type, RecordType::DNSKEY | RecordType::CDS | RecordType::CDNSKEY | RecordType::NSEC3PARAM);
    of_keys && zone.signer.is_some()
}

/// Whether a client may send records of this type to a zone that is signed here or not.
pub(crate) fn may_change(zone: &Zone, of_type: RecordType) -> bool {
    let is_about = matches!(of_type, RecordType::RRSIG | RecordType::NSEC | RecordType::NSEC3 | RecordType::NSEC3PARAM);
    !is_about && !is_of_signer(zone, of_type)
}

impl Overlay {
    pub(crate) fn apply(&self, records: Vec<Record>) -> Vec<Record> {
        let key = |record: &Record| (record.owner.clone(), record.of_type, record.rdata.clone());
        let mut records: Vec<_> = records.into_iter().filter(|record| !self.removed.contains(&key(record))).collect();
        let known: HashSet<_> = records.iter().map(key).collect();
        let added = self.added.iter().filter(|(key, _)| !known.contains(key));
        let made = added.map(|((owner, of_type, rdata), ttl)| Record {
            owner: owner.clone(),
            of_type: *of_type,
            ttl: *ttl,
            rdata: rdata.clone(),
            origin: Origin::Update,
        });
        records.extend(made.collect::<Vec<_>>());
        records
    }

    pub(crate) fn len(&self) -> usize {
        self.removed.len() + self.added.len()
    }
}

//! Answers made ahead: for each name and type with records, what stands behind the question. A reply to a question of the same
//! name has the same octets there, pointers included, as the question is as long in any case of letters.

use crate::{
    Name, RecordType, answer,
    message::{Full, Message},
    query::HEADER,
    snapshot::Snapshot,
    zone::NodeKind,
};
use arc_swap::ArcSwapOption;
use foldhash::fast::{FixedState, FoldHasher};
use std::{
    hash::{BuildHasher, Hasher},
    sync::Arc,
};

/// By name (in lower case, as on the wire) with the type behind it. What is in the table is the operator's choice, so that a quick
/// hash is enough: who asks cannot make its chains longer.
///
/// A look touches a slot and then an entry that holds all the rest: what is asked for at random is in no near cache, and each
/// further place would cost more than the rest of the answer.
#[derive(Debug, Default)]
pub(crate) struct CompiledAnswers {
    /// A power of two, at most half of them taken: the next free one ends a search.
    slots: Vec<Slot>,
    /// Entries, each an [`EntryHead`], the key, and what stands behind the question.
    entries: Vec<u8>,
    /// For who wants signatures: made when first asked for, and anew in each time of signatures. By the number of the entry.
    signed: Vec<ArcSwapOption<(u32, SignedBody)>>,
    hasher: FixedState,
}

/// Where an entry is, with enough of its hash to pass by others.
#[derive(Debug, Clone, Copy)]
struct Slot {
    hash: u32,
    /// `NOWHERE`: the slot is free.
    at: u32,
}

/// One that was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CompiledAnswer<'s> {
    pub(crate) zone: usize,
    octets: &'s [u8],
    counts: [u16; 3],
    signed: &'s ArcSwapOption<(u32, SignedBody)>,
}

/// What stands behind the question, and how many records of each section that are.
#[derive(Debug)]
struct SignedBody {
    octets: Box<[u8]>,
    counts: [u16; 3],
}

/// The fixed part of an entry, in native order: nothing but this process reads it.
#[derive(Debug, Clone, Copy)]
struct EntryHead {
    key: u16,
    body: u16,
    counts: [u16; 3],
    zone: u32,
    number: u32,
}

/// Larger answers are rare, and writing them is not what they cost.
const BODY_MAX: usize = 1_232;
const NOWHERE: u32 = u32::MAX;
/// Octets of an [`EntryHead`].
const HEAD: usize = 18;

impl CompiledAnswers {
    /// Of all names that have records of their own; what is steered, expanded or delegated is made when it is asked for.
    pub(crate) fn new(snapshot: &Snapshot) -> Self {
        let mut answers = Self::default();
        let mut places = Vec::new();
        // A fetched zone may expire: it is looked at for each query.
        let own = snapshot.zones.zones.iter().enumerate().filter(|(_, served)| served.secondary.is_none());
        for (index, served) in own {
            let nodes = served.zone.nodes.iter();
            let plain = nodes
                .filter(|(_, node)| matches!(node.kind, NodeKind::Plain | NodeKind::Dname) && node.service.is_none());
            for (name, node) in plain {
                for of_type in node.sets.iter().map(|set| set.of_type) {
                    // A name of the parent zone may be hidden by a zone of its own.
                    if snapshot.zones.find(name.as_wire(), of_type).is_none_or(|(found, _)| found != index) {
                        continue;
                    }
                    if let Some((octets, counts)) = compile(snapshot, index, name, of_type) {
                        let key = [name.as_wire(), &of_type.0.to_be_bytes()].concat();
                        places.extend(answers.add(index, &key, &octets, counts));
                    }
                }
            }
        }
        answers.arrange(&places);
        answers
    }

    /// Hash and place of a new entry. `None`: it is too large, or there are too many; it is then answered like what is not here.
    fn add(&mut self, zone: usize, key: &[u8], body: &[u8], counts: [u16; 3]) -> Option<Slot> {
        let at = u32::try_from(self.entries.len()).ok().filter(|at| *at != NOWHERE)?;
        let head = EntryHead {
            key: u16::try_from(key.len()).ok()?,
            body: u16::try_from(body.len()).ok()?,
            counts,
            zone: u32::try_from(zone).ok()?,
            number: u32::try_from(self.signed.len()).ok()?,
        };
        self.entries.extend(head.to_octets());
        self.entries.extend_from_slice(key);
        self.entries.extend_from_slice(body);
        self.signed.push(ArcSwapOption::empty());
        Some(Slot { hash: self.hash(key), at })
    }

    fn arrange(&mut self, entries: &[Slot]) {
        let size = (entries.len() * 2).next_power_of_two();
        self.slots = vec![Slot { hash: 0, at: NOWHERE }; size];
        for entry in entries {
            let mut place = entry.hash as usize;
            while let Some(slot) = self.slots.get_mut(place & (size - 1)) {
                if slot.at == NOWHERE {
                    *slot = *entry;
                    break;
                }
                place += 1;
            }
        }
    }

    pub(crate) fn get(&self, key_with_type: &[u8]) -> Option<CompiledAnswer<'_>> {
        let hash = self.hash(key_with_type);
        let mut place = hash as usize;
        loop {
            let slot = self.slots.get(place & self.slots.len().wrapping_sub(1))?;
            if slot.at == NOWHERE {
                return None;
            }
            if slot.hash == hash
                && let Some(found) = self.entry(slot.at as usize, key_with_type)
            {
                return Some(found);
            }
            place += 1;
        }
    }

    /// The entry there, if it is the one that is looked for.
    fn entry(&self, at: usize, key: &[u8]) -> Option<CompiledAnswer<'_>> {
        let (head, behind) = self.entries.get(at..)?.split_first_chunk::<HEAD>()?;
        let head = EntryHead::from_octets(*head);
        let (its_key, behind) = behind.split_at_checked(usize::from(head.key))?;
        if its_key != key {
            return None;
        }
        let octets = behind.get(..usize::from(head.body))?;
        let signed = self.signed.get(head.number as usize)?;
        Some(CompiledAnswer { zone: head.zone as usize, octets, counts: head.counts, signed })
    }

    fn hash(&self, key: &[u8]) -> u32 {
        let mut hasher: FoldHasher<'_> = self.hasher.build_hasher();
        hasher.write(key);
        // Folded: all of its bits are as good as any.
        hasher.finish() as u32
    }
}

impl EntryHead {
    fn to_octets(self) -> [u8; HEAD] {
        let mut octets = [0; HEAD];
        let [one, two, three] = self.counts;
        let halves = [self.key, self.body, one, two, three].into_iter().flat_map(u16::to_ne_bytes);
        let words = [self.zone, self.number].into_iter().flat_map(u32::to_ne_bytes);
        for (place, octet) in octets.iter_mut().zip(halves.chain(words)) {
            *place = octet;
        }
        octets
    }

    fn from_octets(octets: [u8; HEAD]) -> Self {
        let [k0, k1, b0, b1, x0, x1, y0, y1, z0, z1, zone @ .., n0, n1, n2, n3] = octets;
        Self {
            key: u16::from_ne_bytes([k0, k1]),
            body: u16::from_ne_bytes([b0, b1]),
            counts: [[x0, x1], [y0, y1], [z0, z1]].map(u16::from_ne_bytes),
            zone: u32::from_ne_bytes(zone),
            number: u32::from_ne_bytes([n0, n1, n2, n3]),
        }
    }
}

impl CompiledAnswer<'_> {
    /// Adds the answer behind the question; what does not fit is left to whoever can truncate.
    pub(crate) fn write(&self, message: &mut Message<'_>) -> Result<(), Full> {
        message.raw(self.octets, self.counts)
    }

    /// The same with signatures of this time. `Full` as well when there are none yet.
    pub(crate) fn write_signed(&self, period: u32, message: &mut Message<'_>) -> Result<(), Full> {
        let signed = self.signed.load();
        let (_, body) = signed.as_deref().filter(|(made_in, _)| *made_in == period).ok_or(Full)?;
        message.raw(&body.octets, body.counts)
    }

    /// Keeps an answer that was made with signatures: `octets` is what stands behind the question.
    pub(crate) fn keep_signed(&self, period: u32, octets: &[u8], counts: [u16; 3]) {
        if octets.len() <= BODY_MAX {
            self.signed.store(Some(Arc::new((period, SignedBody { octets: octets.into(), counts }))));
        }
    }
}

fn compile(snapshot: &Snapshot, zone: usize, name: &Name, of_type: RecordType) -> Option<(Vec<u8>, [u16; 3])> {
    let question = [name.as_wire(), &of_type.0.to_be_bytes(), &[0, 1]].concat();
    let mut out = Vec::new();
    let counts = answer::plain(snapshot, zone, name, of_type, &question, BODY_MAX + HEADER + question.len(), &mut out)?;
    let body = out.split_off((HEADER + question.len()).min(out.len()));
    Some((body, counts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_found_and_nothing_else() {
        let mut answers = CompiledAnswers::default();
        assert!(answers.get(b"").is_none(), "nothing is found in none");
        let key = |n: u32| format!("{n}.{}", "k".repeat(n as usize % 250)).into_bytes();
        let places: Vec<_> = (0..5_000)
            .filter_map(|n| answers.add(n as usize % 7, &key(n), &n.to_be_bytes(), [1, 2, n as u16]))
            .collect();
        answers.arrange(&places);
        for n in 0..5_000u32 {
            let found = answers.get(&key(n)).unwrap();
            assert_eq!(
                (found.zone, found.octets, found.counts),
                (n as usize % 7, &n.to_be_bytes()[..], [1, 2, n as u16])
            );
            assert!(answers.get(&key(n + 5_000)).is_none());
        }
    }

    #[test]
    fn a_signed_answer_is_kept_for_its_own_name_and_time() {
        let mut answers = CompiledAnswers::default();
        let places = [answers.add(0, b"a", b"1", [1, 0, 0]), answers.add(0, b"b", b"2", [1, 0, 0])].map(Option::unwrap);
        answers.arrange(&places);
        answers.get(b"a").unwrap().keep_signed(7, b"signed", [2, 0, 0]);
        let mut out = Vec::new();
        for (key, period, expected) in [(b"a", 7, Ok(())), (b"a", 8, Err(Full)), (b"b", 7, Err(Full))] {
            let mut message = Message::begin_raw(&mut out, None, 512);
            assert_eq!(answers.get(key).unwrap().write_signed(period, &mut message), expected);
        }
    }
}

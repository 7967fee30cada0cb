//! What changed in a zone from serial to serial, for secondaries that have an earlier one (RFC 1995). Pure.

use crate::{
    Name, RecordType,
    zone::{RrSet, Zone},
};
use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

/// The last changes of one zone, oldest first; each begins where the one before it ends.
#[derive(Debug, Clone, Default)]
pub(crate) struct Journal(VecDeque<Arc<Step>>);

/// From one serial to the next.
#[derive(Debug)]
pub(crate) struct Step {
    from: RrSet,
    to: RrSet,
    removed: Vec<Entry>,
    added: Vec<Entry>,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    owner: Name,
    of_type: RecordType,
    ttl: u32,
    data: Box<[u8]>,
}

/// A secondary that was away for longer takes the whole zone.
const STEPS_MAX: usize = 200;
const RECORDS_MAX: usize = 100_000;

impl Journal {
    /// With one change more. The oldest go when it becomes too long.
    pub(crate) fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push_back(Arc::new(step));
        let mut records: usize = steps.iter().map(|step| step.records()).sum();
        while steps.len() > STEPS_MAX || records > RECORDS_MAX {
            records -= steps.pop_front().map_or(records, |step| step.records());
        }
        Self(steps)
    }

    /// What a zone with this serial lacks, in the order of RFC 1995 §4: for each step the old SOA, what goes, the new SOA, what
    /// comes. `None`: it is not known, or the whole zone is less.
    pub(crate) fn since(&self, apex: &Name, serial: u32, whole: usize) -> Option<Vec<(Name, RrSet)>> {
        let begin = self.0.iter().position(|step| serial_of(&step.from) == Some(serial))?;
        let steps = self.0.iter().skip(begin);
        if steps.clone().map(|step| step.records() + 2).sum::<usize>() > whole {
            return None;
        }
        let mut sets = Vec::new();
        for step in steps {
            sets.push((apex.clone(), step.from.clone()));
            sets.extend(step.removed.iter().map(Entry::set));
            sets.push((apex.clone(), step.to.clone()));
            sets.extend(step.added.iter().map(Entry::set));
        }
        Some(sets)
    }
}

impl Step {
    /// From the records of one version to those of the next, SOAs left out.
    pub(crate) fn between(from: (&Zone, &[Entry]), to: (&Zone, &[Entry])) -> Self {
        let (old, new): (HashSet<_>, HashSet<_>) = (from.1.iter().collect(), to.1.iter().collect());
        Self {
            removed: from.1.iter().filter(|entry| !new.contains(entry)).cloned().collect(),
            added: to.1.iter().filter(|entry| !old.contains(entry)).cloned().collect(),
            from: from.0.soa.clone(),
            to: to.0.soa.clone(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }

    fn records(&self) -> usize {
        self.removed.len() + self.added.len()
    }
}

impl Entry {
    pub(crate) fn all_of(sets: &[(&Name, RrSet)]) -> Vec<Self> {
        let records = sets.iter().flat_map(|(owner, set)| set.data.iter().map(move |data| (owner, set, &**data)));
        let entry = |(owner, set, data): (&&Name, &RrSet, &[u8])| Self {
            owner: (*owner).clone(),
            of_type: set.of_type,
            ttl: set.ttl,
            data: data.into(),
        };
        records.filter(|(_, set, _)| set.of_type != RecordType::SOA).map(entry).collect()
    }

    /// Whether it is a signature over a set of this type.
    pub(crate) fn signs(&self, of_type: RecordType) -> bool {
        self.of_type == RecordType::RRSIG && self.data.first_chunk() == Some(&of_type.0.to_be_bytes())
    }

    fn set(&self) -> (Name, RrSet) {
        (self.owner.clone(), RrSet { of_type: self.of_type, ttl: self.ttl, data: vec![self.data.clone()] })
    }
}

fn serial_of(soa: &RrSet) -> Option<u32> {
    let numbers = soa.data.first()?.last_chunk::<20>()?;
    numbers.first_chunk::<4>().map(|serial| u32::from_be_bytes(*serial))
}

//! What changed in a zone from serial to serial, for secondaries that have an earlier one (RFC 1995). Pure.

use crate::{
    Name, RecordType,
    zone::{RrSet, Zone},
};
use aws_lc_rs::digest::{Context, SHA256};
use data_encoding::HEXLOWER;
use std::{
    collections::{HashSet, VecDeque},
    fmt::Write as _,
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

impl Journal {
    /// Where the last change led to.
    pub(crate) fn serial(&self) -> Option<u32> {
        serial_of(&self.0.back()?.to)
    }

    /// Whether the last change led to the zone with this SOA.
    pub(crate) fn leads_to(&self, soa: &RrSet) -> bool {
        self.0.back().is_some_and(|step| step.to == *soa)
    }

    /// As lines of text: of the newest changes as many as fit.
    pub(crate) fn to_text(&self, octets_max: usize) -> String {
        let mut left = octets_max;
        let mut texts = VecDeque::new();
        for text in self.0.iter().rev().map(|step| step.to_text()) {
            let Some(rest) = left.checked_sub(text.len()) else { break };
            left = rest;
            texts.push_front(text);
        }
        Vec::from(texts).concat()
    }

    /// What [`Journal::to_text`] wrote. `None`: it is something else, or its changes do not follow one another.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut steps: Vec<Step> = Vec::new();
        for line in text.lines() {
            let (sign, rest) = line.split_once(' ')?;
            match (sign, steps.last_mut()) {
                ("from", last) => {
                    let from = read_soa(rest)?;
                    if last.is_some_and(|last| last.to.data != from.data) {
                        return None;
                    }
                    steps.push(Step { to: from.clone(), from, removed: Vec::new(), added: Vec::new() });
                }
                ("to", Some(step)) => step.to = read_soa(rest)?,
                ("-", Some(step)) => step.removed.push(Entry::read(rest)?),
                ("+", Some(step)) => step.added.push(Entry::read(rest)?),
                _ => return None,
            }
        }
        let is_ahead = |step: &Step| {
            let serials = serial_of(&step.to).zip(serial_of(&step.from));
            serials.is_some_and(|(to, from)| to.wrapping_sub(from) as i32 > 0)
        };
        let whole = steps.iter().all(is_ahead);
        whole.then(|| steps.into_iter().fold(Self::default(), |journal, step| journal.with(step)))
    }
}

impl Step {
    fn to_text(&self) -> String {
        let mut text = String::new();
        let soa = |set: &RrSet| (set.ttl, HEXLOWER.encode(set.data.first().map_or(&[][..], |data| data)));
        let mut line = |word: &str, set: &RrSet, sign: &str, entries: &[Entry]| {
            let (ttl, data) = soa(set);
            _ = writeln!(text, "{word} {ttl} {data}");
            for Entry { owner, of_type, ttl, data } in entries {
                let (owner, data) = (HEXLOWER.encode(owner.as_wire()), HEXLOWER.encode(data));
                _ = writeln!(text, "{sign} {owner} {} {ttl} {data}", of_type.0);
            }
        };
        line("from", &self.from, "-", &self.removed);
        line("to", &self.to, "+", &self.added);
        text
    }

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

    fn read(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let owner = HEXLOWER.decode(words.next()?.as_bytes()).ok()?;
        let entry = Self {
            owner: Name::from_wire(&owner).ok().filter(|name| name.as_wire().len() == owner.len())?,
            of_type: RecordType(words.next()?.parse().ok()?),
            ttl: words.next()?.parse().ok()?,
            data: HEXLOWER.decode(words.next()?.as_bytes()).ok()?.into(),
        };
        words.next().is_none().then_some(entry)
    }

    /// Told apart from all others by a digest.
    pub(crate) fn digest(entries: &[Self]) -> String {
        let mut context = Context::new(&SHA256);
        for Self { owner, of_type, ttl, data } in entries {
            context.update(owner.as_wire());
            context.update(&of_type.0.to_be_bytes());
            context.update(&ttl.to_be_bytes());
            // A record has at most 65,535 octets.
            context.update(&(data.len() as u32).to_be_bytes());
            context.update(data);
        }
        HEXLOWER.encode(context.finish().as_ref())
    }

    fn set(&self) -> (Name, RrSet) {
        (self.owner.clone(), RrSet { of_type: self.of_type, ttl: self.ttl, data: vec![self.data.clone()] })
    }
}

fn read_soa(text: &str) -> Option<RrSet> {
    let (ttl, data) = text.split_once(' ')?;
    let data: Box<[u8]> = HEXLOWER.decode(data.as_bytes()).ok()?.into();
    Some(RrSet { of_type: RecordType::SOA, ttl: ttl.parse().ok()?, data: vec![data] })
}

fn serial_of(soa: &RrSet) -> Option<u32> {
    let numbers = soa.data.first()?.last_chunk::<20>()?;
    numbers.first_chunk::<4>().map(|serial| u32::from_be_bytes(*serial))
}

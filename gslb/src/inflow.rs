//! Puts the records of a transfer together: a whole zone (RFC 5936 §2.2), or changes to the one that we have (RFC 1995 §4). Pure;
//! what does not add up is an error, and the whole zone is asked for instead.

use crate::{Name, RecordType, transfer_in::soa_numbers, zone_file::Record};
use std::collections::HashMap;

/// A transfer under way.
pub(crate) struct Inflow<'h> {
    apex: &'h Name,
    have: Option<(u32, &'h [Record])>,
    state: State,
}

/// How records came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Whole,
    Changes,
}

enum State {
    Begin,
    /// The first SOA is there: the next record says what follows.
    Open(Record),
    Whole(Vec<Record>),
    Changes {
        zone: HashMap<Key, Record>,
        newest: u32,
        phase: Phase,
    },
    Done(Kind, Vec<Record>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Removing,
    Adding,
}

/// What a record is told apart by; its time to live is not part of it.
type Key = (Name, RecordType, Box<[u8]>);

const RECORDS_MAX: usize = 1_000_000;

impl<'h> Inflow<'h> {
    /// `have`: the zone that we have, with its serial, when changes to it were asked for.
    pub(crate) fn new(apex: &'h Name, have: Option<(u32, &'h [Record])>) -> Self {
        Self { apex, have, state: State::Begin }
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Done(..))
    }

    pub(crate) fn has_begun(&self) -> bool {
        !matches!(self.state, State::Begin)
    }

    /// Takes the next record.
    pub(crate) fn take(&mut self, record: Record) -> Result<(), String> {
        let serial = soa_numbers(&record).map(|[serial, ..]| serial);
        let state = std::mem::replace(&mut self.state, State::Begin);
        self.state = match state {
            State::Begin => match serial {
                Some(_) => State::Open(record),
                None => return Err("it does not begin with a SOA".to_owned()),
            },
            State::Open(first) => self.open(first, record, serial)?,
            // RFC 5936 §2.2: the SOA again is the end.
            State::Whole(records) if serial.is_some() => State::Done(Kind::Whole, records),
            State::Whole(mut records) => {
                // What lies elsewhere is not the zone's to say.
                if record.owner.is_at_or_under(self.apex) {
                    records.push(record);
                }
                if records.len() > RECORDS_MAX {
                    return Err(format!("more than {RECORDS_MAX} records"));
                }
                State::Whole(records)
            }
            State::Changes { zone, newest, phase } => change(zone, newest, phase, record, serial)?,
            State::Done(..) => return Err("records follow the end".to_owned()),
        };
        Ok(())
    }

    fn open(&self, first: Record, record: Record, serial: Option<u32>) -> Result<State, String> {
        let newest = soa_numbers(&first).map(|[serial, ..]| serial);
        match (serial, self.have) {
            // RFC 1995 §4: the second SOA is the one that we have.
            (Some(serial), Some((have, records))) if serial == have && newest != Some(have) => {
                let records = records.iter().filter(|record| record.of_type != RecordType::SOA);
                let zone = records.map(|record| (key(record), record.clone())).collect();
                Ok(State::Changes { zone, newest: newest.unwrap_or(have), phase: Phase::Removing })
            }
            // A zone of nothing but its SOA.
            (Some(_), _) => Ok(State::Done(Kind::Whole, vec![first])),
            (None, _) => {
                let mut records = vec![first];
                records.extend(record.owner.is_at_or_under(self.apex).then_some(record));
                Ok(State::Whole(records))
            }
        }
    }

    /// The records, once the end was there.
    pub(crate) fn finish(self) -> Option<(Kind, Vec<Record>)> {
        match self.state {
            State::Done(kind, records) => Some((kind, records)),
            State::Begin | State::Open(_) | State::Whole(_) | State::Changes { .. } => None,
        }
    }
}

fn key(record: &Record) -> Key {
    (record.owner.clone(), record.of_type, record.rdata.clone())
}

fn change(
    mut zone: HashMap<Key, Record>,
    newest: u32,
    phase: Phase,
    record: Record,
    serial: Option<u32>,
) -> Result<State, String> {
    let phase = match (phase, serial) {
        (Phase::Removing, Some(_)) => Phase::Adding,
        (Phase::Adding, Some(serial)) if serial == newest => {
            let mut records: Vec<_> = zone.into_values().collect();
            records.push(record);
            return Ok(State::Done(Kind::Changes, records));
        }
        (Phase::Adding, Some(_)) => Phase::Removing,
        (Phase::Removing, None) => {
            let gone = zone.remove(&key(&record));
            gone.ok_or_else(|| format!("{} {} goes, and was not there", record.owner, record.of_type))?;
            Phase::Removing
        }
        (Phase::Adding, None) => {
            zone.insert(key(&record), record);
            Phase::Adding
        }
    };
    if zone.len() > RECORDS_MAX {
        return Err(format!("more than {RECORDS_MAX} records"));
    }
    Ok(State::Changes { zone, newest, phase })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone_file::Origin;

    /// `S7` is a SOA of serial 7, `a1` a record of a.test with the address 1.
    fn record(text: &str) -> Record {
        let number: u32 = text[1..].parse().unwrap();
        let (owner, of_type, rdata) = match &text[..1] {
            "S" => ("test", RecordType::SOA, [&[0, 0][..], &number.to_be_bytes(), &[0; 16]].concat()),
            name => (if name == "z" { "z.other" } else { "a.test" }, RecordType::A, number.to_be_bytes().to_vec()),
        };
        let owner = Name::absolute(owner).unwrap();
        Record { owner, of_type, ttl: 60, rdata: rdata.into(), origin: Origin::Made }
    }

    /// The addresses and the serial that a transfer ends with.
    fn after(have: Option<&str>, records: &str) -> Result<String, String> {
        let apex = Name::absolute("test").unwrap();
        let own: Vec<_> = have.unwrap_or_default().split_whitespace().map(record).collect();
        let serial = own.iter().find_map(soa_numbers).map(|[serial, ..]| serial);
        let mut inflow = Inflow::new(&apex, serial.map(|serial| (serial, own.as_slice())));
        for text in records.split_whitespace() {
            inflow.take(record(text))?;
        }
        let (kind, records) = inflow.finish().ok_or("no end")?;
        let number = |record: &Record| match soa_numbers(record) {
            Some([serial, ..]) => format!("S{serial}"),
            None => format!("a{}", record.rdata[3]),
        };
        let mut all: Vec<_> = records.iter().map(number).collect();
        all.sort();
        Ok(format!("{kind:?} {}", all.join(" ")))
    }

    #[test]
    fn rfc1995_4_changes_are_applied_in_order_and_what_does_not_add_up_is_refused() {
        let have = Some("S1 a1 a2");
        for (have, records, expected) in [
            (None, "S1 a1 a2 S1", Ok("Whole S1 a1 a2")),
            (None, "S1 z9 a1 S1", Ok("Whole S1 a1")),
            (None, "S1 a1 z9 S1", Ok("Whole S1 a1")),
            (None, "S1 S1", Ok("Whole S1")),
            (have, "S2 a7 S2", Ok("Whole S2 a7")),
            (have, "S2 S1 a1 S2 a3 S2", Ok("Changes S2 a2 a3")),
            (have, "S3 S1 a1 S2 a3 S2 a3 S3 a4 S3", Ok("Changes S3 a2 a4")),
            (have, "S2 S1 S2 a3 S2", Ok("Changes S2 a1 a2 a3")),
            (have, "S2 S1 a9 S2 S2", Err("a.test. A goes, and was not there")),
            (have, "S2 S1 a1 S2 a3", Err("no end")),
            (None, "a1", Err("it does not begin with a SOA")),
            (None, "S1 a1 S1 a2", Err("records follow the end")),
        ] {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(after(have, records), expected, "{have:?} {records}");
        }
    }
}

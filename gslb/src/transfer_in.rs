//! Reads the messages of another server: records with their names written out. Pure; believes nothing that it reads.

use crate::{
    Name, RecordType,
    query::{HEADER, Octets},
    rdata,
    record_type::CLASS_IN,
    zone_file::{Origin, Record},
};

/// A reply, as far as transfers need it.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) id: u16,
    pub(crate) rcode: u8,
    pub(crate) answers: Vec<Record>,
    /// Where the TSIG record begins.
    pub(crate) tsig_at: Option<usize>,
}

/// Jumps of one name; each goes backwards, so there is an end anyway.
const JUMPS_MAX: usize = 16;

impl Heard {
    pub(crate) fn read(message: &[u8]) -> Option<Self> {
        let [id0, id1, flags0, flags1, counts @ ..] = *message.first_chunk::<HEADER>()?;
        if flags0 & 0x80 == 0 {
            return None;
        }
        let counts = [[counts[0], counts[1]], [counts[2], counts[3]], [counts[4], counts[5]], [counts[6], counts[7]]];
        let [questions, answers, authorities, additionals] = counts.map(u16::from_be_bytes);
        let mut reader = Octets { octets: message, at: HEADER };
        for _ in 0..questions {
            reader.skip_name()?;
            reader.at = reader.at.checked_add(4)?;
        }
        let mut heard =
            Self { id: u16::from_be_bytes([id0, id1]), rcode: flags1 & 0x0f, answers: Vec::new(), tsig_at: None };
        for _ in 0..answers {
            heard.answers.push(answer(message, &mut reader)?);
        }
        for _ in 0..authorities {
            reader.record()?;
        }
        for _ in 0..additionals {
            let begin = reader.at;
            if reader.record()?.of_type == RecordType::TSIG {
                heard.tsig_at = Some(begin);
            }
        }
        (reader.at == message.len()).then_some(heard)
    }

    /// Of the one SOA that was asked for.
    pub(crate) fn serial(&self) -> Option<u32> {
        match self.answers.as_slice() {
            [soa] => soa_numbers(soa).map(|[serial, ..]| serial),
            _ => None,
        }
    }
}

/// Serial, refresh, retry, expire and minimum: the five numbers at the end (RFC 1035 §3.3.13).
pub(crate) fn soa_numbers(soa: &Record) -> Option<[u32; 5]> {
    if soa.of_type != RecordType::SOA {
        return None;
    }
    let numbers = soa.rdata.last_chunk::<20>()?.as_chunks::<4>().0;
    numbers.iter().map(|number| u32::from_be_bytes(*number)).collect::<Vec<_>>().try_into().ok()
}

fn answer(message: &[u8], reader: &mut Octets<'_>) -> Option<Record> {
    let (owner, _) = name_at(message, reader.at)?;
    let raw = reader.record()?;
    let end = raw.data_at.checked_add(raw.data.len())?;
    let rdata = written_out(message, raw.of_type, raw.data_at, end)?;
    let fits = raw.class == CLASS_IN && rdata::is_wire_form(raw.of_type, &rdata);
    let owner = Name::from_wire(&owner).ok()?;
    // RFC 2181 §8: the top bit of a time to live is not used.
    let ttl = if raw.ttl > i32::MAX as u32 { 0 } else { raw.ttl };
    fits.then(|| Record { owner, of_type: raw.of_type, ttl, rdata: rdata.into(), origin: Origin::Made })
}

/// Data without pointers: only the types of RFC 1035, and those of RFC 3597 §4, may have any.
pub(crate) fn written_out(message: &[u8], of_type: RecordType, begin: usize, end: usize) -> Option<Vec<u8>> {
    let (before, names) = match of_type.0 {
        // NS, MD, MF, CNAME, MB, MG, MR, PTR.
        2..=5 | 7..=9 | 12 => (0, 1),
        // SOA, MINFO, RP.
        6 | 14 | 17 => (0, 2),
        // MX, AFSDB, RT.
        15 | 18 | 21 => (2, 1),
        // PX.
        26 => (2, 2),
        // SRV.
        33 => (6, 1),
        _ => return message.get(begin..end).map(<[u8]>::to_vec),
    };
    let mut at = begin.checked_add(before)?;
    let mut out = message.get(begin..at)?.to_vec();
    for _ in 0..names {
        let (name, behind) = name_at(message, at)?;
        out.extend(name);
        at = behind;
    }
    out.extend(message.get(at..end)?);
    Some(out)
}

/// A name without pointers, and where what follows it begins.
pub(crate) fn name_at(message: &[u8], begin: usize) -> Option<(Vec<u8>, usize)> {
    let (mut at, mut behind, mut wire) = (begin, None, Vec::new());
    let mut jumps = 0;
    loop {
        let length = *message.get(at)?;
        match length {
            0 => {
                wire.push(0);
                return Some((wire, behind.unwrap_or(at + 1)));
            }
            1..=63 => {
                wire.extend(message.get(at..at + 1 + usize::from(length))?);
                at += 1 + usize::from(length);
            }
            0xc0.. => {
                let target = usize::from(u16::from_be_bytes([length & 0x3f, *message.get(at + 1)?]));
                behind.get_or_insert(at + 2);
                jumps += 1;
                // Only backwards, as RFC 1035 §4.1.4 has it ("a prior occurrence"): no loop gets past this.
                if target >= at || jumps > JUMPS_MAX {
                    return None;
                }
                at = target;
            }
            _ => return None,
        }
        if wire.len() > Name::OCTETS_MAX {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(answers: u8, rest: &[u8]) -> Vec<u8> {
        [&[0, 7, 0x84, 0, 0, 1, 0, answers, 0, 0, 0, 0][..], b"\x01a\x04test\0\0\xfc\0\x01", rest].concat()
    }

    #[test]
    fn names_are_written_out_and_nothing_points_forward() {
        let good = message(1, b"\xc0\x0c\0\x0f\0\x01\0\0\0\x3c\0\x06\0\x0a\x01m\xc0\x0e");
        let heard = Heard::read(&good).unwrap();
        assert_eq!(heard.answers[0].owner.to_string(), "a.test.");
        assert_eq!(&heard.answers[0].rdata[..], b"\0\x0a\x01m\x04test\0");
        for bad in [
            &b"\xc0\x17\0\x02\0\x01\0\0\0\x3c\0\x02\xc0\x17"[..],
            b"\xc0\x0c\0\x02\0\x01\0\0\0\x3c\0\x02\xc0\x23",
            b"\xc0\x0c\0\x02\0\x01\0\0\0\x3c\0\x03\xc0\x0c\0",
            b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x05\x01\x02\x03\x04\x05",
            b"\xc0\x0c\0\x01\0\x03\0\0\0\x3c\0\x04\x01\x02\x03\x04",
            b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x01\x02\x03\x04!",
            b"\xc0",
        ] {
            assert!(Heard::read(&message(1, bad)).is_none(), "{bad:?}");
        }
    }
}

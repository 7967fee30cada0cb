//! Reads what a stranger sends: one question, at most one OPT. Strict, without recursion and without allocation.
//!
//! What is no query at all is dropped; what is a broken one is answered FORMERR by the header alone or with its question.

use crate::{
    Rcode, RecordType,
    edns::{self, Edns},
    name::{self, Name},
};
use std::fmt;

/// The parts of the header that a reply takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) id: u16,
    pub(crate) opcode: u8,
    pub(crate) recursion_desired: Flag,
    pub(crate) checking_disabled: Flag,
}

/// One bit of a header, as sent.
pub(crate) type Flag = u8;

/// Where the name of a question is written in lower case. Of a thread that answers many it is one and the same.
#[derive(Debug)]
pub(crate) struct KeySpace([u8; SPACE]);

/// Octets that are put into lower case at once, as wide as registers are.
const LANE: usize = 32;
/// A name and a type, in whole lanes.
const SPACE: usize = (Name::OCTETS_MAX + 2).next_multiple_of(LANE);

/// The question, with its name ready to be looked up.
#[derive(Clone)]
pub(crate) struct Question<'d> {
    /// Name, type and class as sent: a reply repeats them in their case (0x20).
    pub(crate) octets: &'d [u8],
    /// The name in lower case, and the type behind it.
    key: &'d [u8],
    pub(crate) of_type: RecordType,
    pub(crate) class: u16,
}

/// A message that is a query by its form.
#[derive(Debug, Clone)]
pub(crate) struct Query<'d> {
    pub(crate) head: Head,
    /// `None` only for a cookie alone (RFC 7873 §5.4).
    pub(crate) question: Option<Question<'d>>,
    pub(crate) edns: EdnsPart<'d>,
    /// IXFR says which serial the client has (RFC 1995 §3).
    pub(crate) ixfr_serial: Option<u32>,
    /// Where a TSIG record begins: it is the last and covers what is before it (RFC 8945 §5.1).
    pub(crate) tsig_at: Option<usize>,
}

/// The OPT record of a query.
#[derive(Debug, Clone)]
pub(crate) enum EdnsPart<'d> {
    Absent,
    /// Its options cannot be read: FORMERR, with an OPT of our own (RFC 6891 §7).
    Broken,
    Present(Edns<'d>),
}

/// Not a query that can be answered with data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// No reply at all: too short, or a reply itself (two servers must not answer one another).
    Silent,
    /// A reply of a header alone.
    Header(Head, Rcode),
}

pub(crate) const HEADER: usize = 12;
pub(crate) const OPCODE_QUERY: u8 = 0;
pub(crate) const OPCODE_NOTIFY: u8 = 4;
pub(crate) const OPCODE_UPDATE: u8 = 5;
/// Records behind the question: an OPT, a TSIG, and what a resolver might add one day.
const ADDITIONAL_MAX: u16 = 8;

impl Default for KeySpace {
    fn default() -> Self {
        Self([0; SPACE])
    }
}

impl Question<'_> {
    /// The name in lower case, in wire form.
    pub(crate) fn key(&self) -> &[u8] {
        self.key.get(..self.key.len().saturating_sub(2)).unwrap_or_default()
    }

    /// The name with the type behind it: what compiled answers are found by.
    pub(crate) fn key_with_type(&self) -> &[u8] {
        self.key
    }
}

impl fmt::Debug for Question<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Name::from_wire(self.key());
        write!(f, "{:?} CLASS{} {}", name.ok(), self.class, self.of_type)
    }
}

impl<'d> Query<'d> {
    pub(crate) fn read(datagram: &'d [u8], space: &'d mut KeySpace) -> Result<Self, Unfit> {
        let Some(header) = datagram.first_chunk::<HEADER>() else { return Err(Unfit::Silent) };
        let [id0, id1, flags0, flags1, counts @ ..] = *header;
        if flags0 & 0x80 != 0 {
            return Err(Unfit::Silent);
        }
        let head = Head {
            id: u16::from_be_bytes([id0, id1]),
            opcode: flags0 >> 3 & 0x0f,
            recursion_desired: flags0 & 1,
            checking_disabled: flags1 >> 4 & 1,
        };
        match head.opcode {
            OPCODE_QUERY => {}
            // Known, and not for strangers: RFC 1996 §3.10 and RFC 2136 §3.3 leave the choice; REFUSED says "not from you".
            OPCODE_NOTIFY | OPCODE_UPDATE => return Err(Unfit::Header(head, Rcode::Refused)),
            _ => return Err(Unfit::Header(head, Rcode::NotImp)),
        }
        let [questions, answers, authorities, additionals] =
            [[counts[0], counts[1]], [counts[2], counts[3]], [counts[4], counts[5]], [counts[6], counts[7]]]
                .map(u16::from_be_bytes);
        let malformed = Unfit::Header(head, Rcode::FormErr);
        // RFC 9619 §4: a query has one question, never more.
        if questions > 1 || answers != 0 || authorities > 1 || additionals > ADDITIONAL_MAX {
            return Err(malformed);
        }
        let mut reader = Octets { octets: datagram, at: HEADER };
        let question = match questions {
            1 => Some(reader.question(space).ok_or(malformed)?),
            _ => None,
        };
        let mut query = Query { head, question, edns: EdnsPart::Absent, ixfr_serial: None, tsig_at: None };
        if authorities == 1 {
            query.ixfr_serial = Some(query.read_serial(&mut reader).ok_or(malformed)?);
        }
        query.read_additionals(&mut reader, additionals).ok_or(malformed)?;
        // Octets behind the message are of no record: somebody's parser is being tried.
        if reader.at != datagram.len() {
            return Err(malformed);
        }
        let has_cookie = matches!(&query.edns, EdnsPart::Present(edns) if edns.cookie.is_some());
        if query.question.is_none() && !has_cookie {
            return Err(malformed);
        }
        Ok(query)
    }

    pub(crate) fn subnet(&self) -> Option<edns::Subnet> {
        match &self.edns {
            EdnsPart::Present(edns) => edns.subnet,
            EdnsPart::Absent | EdnsPart::Broken => None,
        }
    }

    /// RFC 1995 §3: the client's SOA stands in the authority section, and nothing else may.
    fn read_serial(&self, reader: &mut Octets<'d>) -> Option<u32> {
        let is_ixfr = self.question.as_ref().is_some_and(|question| question.of_type == RecordType::IXFR);
        let record = reader.record().filter(|record| is_ixfr && record.of_type == RecordType::SOA)?;
        // The serial is behind two names, either of which may be a pointer.
        let mut inner = Octets { octets: reader.octets, at: record.data_at };
        inner.skip_name()?;
        inner.skip_name()?;
        let serial = inner.u32()?;
        (inner.at + 16 == reader.at).then_some(serial)
    }

    fn read_additionals(&mut self, reader: &mut Octets<'d>, count: u16) -> Option<()> {
        for index in 0..count {
            let begin = reader.at;
            let record = reader.record()?;
            match record.of_type {
                RecordType::OPT => {
                    // RFC 6891 §6.1.1: one, and its owner is the root.
                    if !matches!(self.edns, EdnsPart::Absent) || reader.octets.get(begin) != Some(&0) {
                        return None;
                    }
                    self.edns = match edns::read(record.class, record.ttl, record.data) {
                        Some(edns) => EdnsPart::Present(edns),
                        None => EdnsPart::Broken,
                    };
                }
                // RFC 8945 §5.1: the last record, or FORMERR.
                RecordType::TSIG if index + 1 == count => self.tsig_at = Some(begin),
                RecordType::TSIG => return None,
                _ => {}
            }
        }
        Some(())
    }
}

/// A record somewhere behind the question.
pub(crate) struct RawRecord<'d> {
    pub(crate) of_type: RecordType,
    pub(crate) class: u16,
    pub(crate) ttl: u32,
    pub(crate) data: &'d [u8],
    pub(crate) data_at: usize,
}

/// A message and how far it is read.
pub(crate) struct Octets<'d> {
    pub(crate) octets: &'d [u8],
    pub(crate) at: usize,
}

impl<'d> Octets<'d> {
    fn take(&mut self, length: usize) -> Option<&'d [u8]> {
        let taken = self.octets.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().map(|octets| u16::from_be_bytes(*octets))
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.first_chunk().map(|octets| u32::from_be_bytes(*octets))
    }

    /// A pointer in the question could only point into the header: refused with the length octets above 63.
    fn question(&mut self, space: &'d mut KeySpace) -> Option<Question<'d>> {
        let begin = self.at;
        let length = name::wire_length(self.octets.get(begin..)?)?;
        let name = self.take(length)?;
        let (of_type, class) = (RecordType(self.u16()?), self.u16()?);
        space.0.get_mut(..length)?.copy_from_slice(name);
        // With what is left behind it of an earlier name: whole lanes are quicker than the right number of octets.
        space.0.get_mut(..length.next_multiple_of(LANE))?.chunks_exact_mut(LANE).for_each(<[u8]>::make_ascii_lowercase);
        space.0.get_mut(length..length + 2)?.copy_from_slice(&of_type.0.to_be_bytes());
        let key = space.0.get(..length + 2)?;
        Some(Question { octets: self.octets.get(begin..self.at)?, key, of_type, class })
    }

    /// Passes over a name that may end in one pointer backwards; where it points to is not looked at.
    pub(crate) fn skip_name(&mut self) -> Option<()> {
        let begin = self.at;
        loop {
            let length = *self.take(1)?.first()?;
            match length {
                0 => return Some(()),
                1..=63 => _ = self.take(usize::from(length))?,
                0xc0.. => {
                    let low = *self.take(1)?.first()?;
                    let target = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                    return (target < begin).then_some(());
                }
                _ => return None,
            }
            if self.at - begin > Name::OCTETS_MAX {
                return None;
            }
        }
    }

    pub(crate) fn record(&mut self) -> Option<RawRecord<'d>> {
        self.skip_name()?;
        let (of_type, class, ttl, length) = (RecordType(self.u16()?), self.u16()?, self.u32()?, self.u16()?);
        let data_at = self.at;
        Some(RawRecord { of_type, class, ttl, data: self.take(usize::from(length))?, data_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Header words after the id, then the rest.
    fn message(flags: u16, counts: [u16; 4], rest: &[u8]) -> Vec<u8> {
        let mut out = vec![0x12, 0x34];
        out.extend(flags.to_be_bytes());
        counts.iter().for_each(|count| out.extend(count.to_be_bytes()));
        out.extend(rest);
        out
    }

    const QUESTION: &[u8] = b"\x03wWw\x04test\0\0\x01\0\x01";
    const OPT: &[u8] = b"\0\0\x29\x04\xd0\0\0\0\0\0\0";

    fn outcome(datagram: &[u8]) -> &'static str {
        match Query::read(datagram, &mut KeySpace::default()) {
            Ok(_) => "query",
            Err(Unfit::Silent) => "silent",
            Err(Unfit::Header(_, rcode)) => rcode.as_str(),
        }
    }

    #[test]
    fn a_question_is_read_in_its_case_and_found_without_it() {
        let datagram = message(0x0110, [1, 0, 0, 0], QUESTION);
        let mut space = KeySpace::default();
        let query = Query::read(&datagram, &mut space).unwrap();
        let question = query.question.unwrap();
        assert_eq!((question.key(), question.octets), (&b"\x03www\x04test\0"[..], QUESTION));
        assert_eq!((query.head.id, query.head.recursion_desired, query.head.checking_disabled), (0x1234, 1, 1));
    }

    #[test]
    fn rfc1035_4_1_broken_messages_are_answered_formerr_or_not_at_all() {
        let with = |counts, parts: &[&[u8]]| message(0, counts, &parts.concat());
        let long = [&[63u8; 64][..]; 4].concat();
        for (what, datagram, expected) in [
            ("eleven octets", vec![0; 11], "silent"),
            ("a reply", message(0x8000, [1, 0, 0, 0], QUESTION), "silent"),
            ("an empty header", with([0; 4], &[]), "FORMERR"),
            ("rfc9619 two questions", with([2, 0, 0, 0], &[QUESTION, QUESTION]), "FORMERR"),
            ("an answer", with([1, 1, 0, 0], &[QUESTION, b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\0"]), "FORMERR"),
            ("a cut question", with([1, 0, 0, 0], &[b"\x03www\x04test\0\0\x01\0"]), "FORMERR"),
            ("a cut name", with([1, 0, 0, 0], &[b"\x03ww"]), "FORMERR"),
            ("a pointer to itself", with([1, 0, 0, 0], &[b"\xc0\x0c\0\x01\0\x01"]), "FORMERR"),
            ("label type 01", with([1, 0, 0, 0], &[b"\x40www\0\0\x01\0\x01"]), "FORMERR"),
            ("label type 10", with([1, 0, 0, 0], &[b"\x80www\0\0\x01\0\x01"]), "FORMERR"),
            ("a long name", with([1, 0, 0, 0], &[&long, b"\0\0\x01\0\x01"]), "FORMERR"),
            ("trailing octets", with([1, 0, 0, 0], &[QUESTION, b"x"]), "FORMERR"),
            ("a record too few", with([1, 0, 0, 1], &[QUESTION]), "FORMERR"),
            ("many counts", with([1, 0, 0, 65_535], &[QUESTION, OPT]), "FORMERR"),
            ("one opt", with([1, 0, 0, 1], &[QUESTION, OPT]), "query"),
            ("rfc6891_6_1_1 two opts", with([1, 0, 0, 2], &[QUESTION, OPT, OPT]), "FORMERR"),
            ("an opt with an owner", with([1, 0, 0, 1], &[QUESTION, b"\x01a", OPT]), "FORMERR"),
            ("an opt beyond the end", with([1, 0, 0, 1], &[QUESTION, b"\0\0\x29\x04\xd0\0\0\0\0\0\x09"]), "FORMERR"),
            ("tc and other flags", message(0x0270, [1, 0, 0, 0], QUESTION), "query"),
            ("a pointer forward", with([1, 0, 0, 1], &[QUESTION, b"\xc0\xff\0\x01\0\x01\0\0\0\0\0\0"]), "FORMERR"),
            ("an authority", with([1, 0, 1, 0], &[QUESTION, b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\0"]), "FORMERR"),
        ] {
            assert_eq!(outcome(&datagram), expected, "{what}");
        }
    }

    #[test]
    fn rfc6895_2_2_other_opcodes_are_refused_or_not_implemented() {
        for (opcode, expected) in
            [(1, "NOTIMP"), (2, "NOTIMP"), (3, "NOTIMP"), (4, "REFUSED"), (5, "REFUSED"), (6, "NOTIMP"), (15, "NOTIMP")]
        {
            assert_eq!(outcome(&message(opcode << 11, [1, 0, 0, 0], QUESTION)), expected, "{opcode}");
        }
    }

    #[test]
    fn rfc1995_3_an_ixfr_carries_the_serial_that_the_client_has() {
        let soa = b"\xc0\x0c\0\x06\0\x01\0\0\0\0\0\x16\0\0\0\0\0\x07\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        let ixfr = b"\x03www\x04test\0\0\xfb\0\x01";
        let datagram = message(0, [1, 0, 1, 0], &[&ixfr[..], soa].concat());
        let mut space = KeySpace::default();
        assert_eq!(Query::read(&datagram, &mut space).unwrap().ixfr_serial, Some(7));
        let cut = message(0, [1, 0, 1, 0], &[&ixfr[..], &soa[..33]].concat());
        assert_eq!(outcome(&cut), "FORMERR");
    }
}

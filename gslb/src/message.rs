//! Writes replies: header, question, records with compressed names (RFC 1035 §4.1.4), within a limit.

use crate::{
    Rcode, RecordType,
    edns::OptReply,
    name::{self, Suffixes},
    query::{HEADER, Head},
    record_type::CLASS_IN,
};

/// A reply under way in a buffer.
#[derive(Debug)]
pub(crate) struct Message<'b> {
    out: &'b mut Vec<u8>,
    /// Octets of the whole, with room for the OPT record already taken off.
    limit: usize,
    counts: [u16; 4],
    /// Where names begin that later ones can point to.
    names: Names,
    /// Octets of the question's name, to which nearly all owners point; 0: none is pointed to.
    asked: usize,
}

/// In place: most answers have few, and an allocation costs as much as the rest.
#[derive(Debug, Clone, Copy)]
struct Names {
    at: [u16; NAMES_MAX],
    count: usize,
}

/// Sections of a message, by their place in the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Answer = 1,
    Authority = 2,
    Additional = 3,
}

/// A record did not fit; the message is as it was before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// Where a message was, to go back to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    length: usize,
    counts: [u16; 4],
    names: usize,
}

/// A pointer to the first octet behind the header.
const TO_QUESTION: [u8; 2] = [0xc0, HEADER as u8];
/// A pointer has 14 bits.
const POINTER_MAX: usize = 0x3fff;
/// Names that are remembered: a referral has more, and gains little.
const NAMES_MAX: usize = 32;

impl<'b> Message<'b> {
    /// Begins a reply in `out`, whose old content is lost. `question` is repeated as sent.
    pub(crate) fn begin(out: &'b mut Vec<u8>, question: Option<&[u8]>, limit: usize) -> Self {
        let mut message = Self::begin_raw(out, question, limit);
        message.asked = question.and_then(name::wire_length).unwrap_or_default();
        message
    }

    /// For replies whose names are compressed already.
    pub(crate) fn begin_raw(out: &'b mut Vec<u8>, question: Option<&[u8]>, limit: usize) -> Self {
        out.clear();
        out.extend_from_slice(&[0; HEADER]);
        let mut message = Self { out, limit, counts: [0; 4], names: Names { at: [0; NAMES_MAX], count: 0 }, asked: 0 };
        if let Some(question) = question {
            message.counts[0] = 1;
            message.out.extend_from_slice(question);
        }
        message
    }

    fn remember(&mut self, name: &[u8], at: usize) {
        for suffix in Suffixes(name).take_while(|suffix| suffix.len() > 1) {
            let place = at + name.len() - suffix.len();
            self.names.push(place);
        }
    }

    /// Writes a name, its end as a pointer where it can be.
    fn name(&mut self, wire: &[u8]) {
        let begin = self.out.len();
        let asked = self.out.get(HEADER..HEADER + self.asked).unwrap_or_default();
        // No length of a label is a letter. A pointer to the root would be longer than the root.
        if wire.len() > 1 && asked.eq_ignore_ascii_case(wire) {
            return self.out.extend_from_slice(&TO_QUESTION);
        }
        if self.names.count == 0 {
            for suffix in Suffixes(asked).take_while(|suffix| suffix.len() > 1) {
                self.names.push(HEADER + asked.len() - suffix.len());
            }
        }
        for suffix in Suffixes(wire).take_while(|suffix| suffix.len() > 1) {
            let known = self.names.known().iter().find(|at| is_name_at(self.out, usize::from(**at), suffix)).copied();
            if let Some(at) = known {
                let front = wire.len() - suffix.len();
                self.out.extend_from_slice(wire.get(..front).unwrap_or_default());
                self.out.extend((0xc000 | at).to_be_bytes());
                self.remember_front(wire, front, begin);
                return;
            }
        }
        self.out.extend_from_slice(wire);
        self.remember(wire, begin);
    }

    /// The labels that were written out before a pointer.
    fn remember_front(&mut self, wire: &[u8], front: usize, begin: usize) {
        for suffix in Suffixes(wire) {
            let offset = wire.len() - suffix.len();
            if offset >= front {
                return;
            }
            self.names.push(begin + offset);
        }
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { length: self.out.len(), counts: self.counts, names: self.names.count }
    }

    pub(crate) fn back_to(&mut self, mark: Mark) {
        self.out.truncate(mark.length);
        self.counts = mark.counts;
        self.names.count = mark.names;
    }

    /// Adds one record.
    pub(crate) fn record(
        &mut self,
        section: Section,
        owner: &[u8],
        of_type: RecordType,
        ttl: u32,
        rdata: &[u8],
    ) -> Result<(), Full> {
        let mark = self.mark();
        self.name(owner);
        let ([t0, t1], [c0, c1], [s0, s1, s2, s3]) =
            (of_type.0.to_be_bytes(), CLASS_IN.to_be_bytes(), ttl.to_be_bytes());
        self.out.extend_from_slice(&[t0, t1, c0, c1, s0, s1, s2, s3, 0, 0]);
        let length_at = self.out.len() - 2;
        self.rdata(of_type, rdata);
        let length = self.out.len() - length_at - 2;
        if self.out.len() > self.limit || length > usize::from(u16::MAX) {
            self.back_to(mark);
            return Err(Full);
        }
        if let Some(place) = self.out.get_mut(length_at..length_at + 2) {
            place.copy_from_slice(&(length as u16).to_be_bytes());
        }
        if let Some(count) = self.counts.get_mut(section as usize) {
            *count = count.saturating_add(1);
        }
        Ok(())
    }

    /// RFC 3597 §4: names in data are compressed in the types of RFC 1035 only.
    fn rdata(&mut self, of_type: RecordType, rdata: &[u8]) {
        let (fixed, names) = match of_type {
            RecordType::NS | RecordType::CNAME | RecordType::PTR => (0, 1),
            RecordType::MX => (2, 1),
            RecordType::SOA => (0, 2),
            _ => return self.out.extend_from_slice(rdata),
        };
        let (front, mut rest) = rdata.split_at_checked(fixed).unwrap_or((rdata, &[]));
        self.out.extend_from_slice(front);
        for _ in 0..names {
            let length = name::wire_length(rest).unwrap_or_default();
            let (wire, tail) = rest.split_at_checked(length).unwrap_or_default();
            self.name(wire);
            rest = tail;
        }
        self.out.extend_from_slice(rest);
    }

    /// Octets ready to be sent as one answer: the counts are those of the sections.
    pub(crate) fn raw(&mut self, octets: &[u8], counts: [u16; 3]) -> Result<(), Full> {
        if self.out.len() + octets.len() > self.limit {
            return Err(Full);
        }
        self.out.extend_from_slice(octets);
        for (count, more) in self.counts.iter_mut().skip(1).zip(counts) {
            *count = count.saturating_add(more);
        }
        Ok(())
    }

    /// Octets from here on.
    pub(crate) fn behind(&self, at: usize) -> &[u8] {
        self.out.get(at..).unwrap_or_default()
    }

    /// Records so far, by section.
    pub(crate) fn records(&self) -> [u16; 3] {
        let [_, answers, authorities, additionals] = self.counts;
        [answers, authorities, additionals]
    }

    pub(crate) fn length(&self) -> usize {
        self.out.len()
    }

    pub(crate) fn has_answer(&self) -> bool {
        self.counts[Section::Answer as usize] > 0
    }

    /// Writes the OPT record and the header. `limit` is that of the whole message.
    pub(crate) fn finish(mut self, head: Head, flags: Flags, rcode: Rcode, opt: Option<&OptReply<'_>>, limit: usize) {
        if let Some(opt) = opt {
            // What could not be known when room was made for the record gives way (RFC 8914 §6: it is only advice).
            match self.out.len() + opt.length() > limit {
                true => OptReply { error: None, ..opt.clone() }.write(rcode, limit, self.out),
                false => opt.write(rcode, limit, self.out),
            }
            self.counts[3] = self.counts[3].saturating_add(1);
        }
        let [id0, id1] = head.id.to_be_bytes();
        let first = 0x80 | head.opcode << 3 | flags.0 | head.recursion_desired;
        let second = head.checking_disabled << 4 | rcode.low();
        if let Some((header, _)) = self.out.split_first_chunk_mut::<HEADER>() {
            let [q, an, ns, ar] = self.counts.map(u16::to_be_bytes);
            *header = [id0, id1, first, second, q[0], q[1], an[0], an[1], ns[0], ns[1], ar[0], ar[1]];
        }
    }
}

impl Names {
    /// What is out of reach of a pointer, or one too many, is not remembered.
    fn push(&mut self, place: usize) {
        if let (Some(free), true) = (self.at.get_mut(self.count), place <= POINTER_MAX) {
            *free = place as u16;
            self.count += 1;
        }
    }

    fn known(&self) -> &[u16] {
        self.at.get(..self.count).unwrap_or_default()
    }
}

/// Bits of the header's third octet that a reply decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flags(pub(crate) u8);

impl Flags {
    pub(crate) const AUTHORITATIVE: u8 = 0x04;
    pub(crate) const TRUNCATED: u8 = 0x02;
}

/// Whether the name that begins at `at`, pointers followed backwards, is `wire` without case.
fn is_name_at(message: &[u8], mut at: usize, wire: &[u8]) -> bool {
    let mut rest = wire;
    loop {
        match message.get(at).copied() {
            Some(length @ 0xc0..) => {
                let Some(low) = message.get(at + 1) else { return false };
                let target = usize::from(u16::from_be_bytes([length & 0x3f, *low]));
                // Our own pointers go backwards only.
                if target >= at {
                    return false;
                }
                at = target;
            }
            Some(length) => {
                let end = usize::from(length) + 1;
                let (Some(ours), Some(theirs)) = (message.get(at..at + end), rest.get(..end)) else { return false };
                if !ours.eq_ignore_ascii_case(theirs) {
                    return false;
                }
                if length == 0 {
                    return true;
                }
                at += end;
                rest = rest.get(end..).unwrap_or_default();
            }
            None => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Name;

    const HEAD: Head = Head { id: 7, opcode: 0, recursion_desired: 1, checking_disabled: 0 };

    fn wire(text: &str) -> Vec<u8> {
        Name::absolute(text).unwrap().as_wire().to_vec()
    }

    fn question(text: &str) -> Vec<u8> {
        [&wire(text)[..], &[0, 1, 0, 1]].concat()
    }

    #[test]
    fn rfc1035_4_1_4_names_point_to_what_was_written_before() {
        let mut out = Vec::new();
        let mut message = Message::begin(&mut out, Some(&question("a.example.com")), 512);
        let mx = [&[0, 10][..], &wire("mx.example.com")].concat();
        message.record(Section::Answer, &wire("A.example.com"), RecordType::MX, 60, &mx).unwrap();
        message.record(Section::Additional, &wire("mx.example.com"), RecordType::A, 60, &[1, 2, 3, 4]).unwrap();
        // RFC 3597 §4: not in younger types.
        let srv = [&[0; 6][..], &wire("mx.example.com")].concat();
        message.record(Section::Additional, &wire("example.com"), RecordType::SRV, 60, &srv).unwrap();
        message.finish(HEAD, Flags(Flags::AUTHORITATIVE), Rcode::NoError, None, 512);
        let parsed = hickory_proto::op::Message::from_vec(&out).unwrap();
        let shown: Vec<_> = parsed.answers.iter().chain(&parsed.additionals).map(|record| record.to_string()).collect();
        assert_eq!(
            shown,
            [
                "a.example.com. 60 IN MX 10 mx.example.com.",
                "mx.example.com. 60 IN A 1.2.3.4",
                "example.com. 60 IN SRV 0 0 0 mx.example.com.",
            ]
        );
        assert_eq!(out.len(), 12 + 19 + (12 + 2 + 5) + (12 + 4) + (12 + 6 + 16));
    }

    #[test]
    fn a_record_over_the_limit_leaves_the_message_as_it_was() {
        let mut out = Vec::new();
        let mut message = Message::begin(&mut out, Some(&question("a.test")), 50);
        assert_eq!(message.record(Section::Answer, &wire("a.test"), RecordType::A, 1, &[0; 4]), Ok(()));
        assert_eq!(message.record(Section::Answer, &wire("a.test"), RecordType::A, 1, &[0; 4]), Err(Full));
        message.finish(HEAD, Flags(Flags::TRUNCATED), Rcode::NoError, None, 512);
        assert_eq!((out.len(), out[7], out[2]), (40, 1, 0x83));
    }
}

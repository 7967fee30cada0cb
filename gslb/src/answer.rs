//! From a message to its reply: admit, find the zone, answer, size. Pure: the snapshot, the time and draws are arguments.

mod body;
mod denial;

use crate::{
    Name, Rcode, RecordType,
    cookie::CookieState,
    edns::{Dnssec, Edns, ExtendedError, OptReply, PAYLOAD_MIN, Padding, Wants},
    message::{Flags, Full, Message},
    name,
    query::{self, EdnsPart, HEADER, Head, KeySpace, Query, Question, Unfit},
    record_type::CLASS_IN,
    snapshot::Snapshot,
    transfer,
    tsig::Rejected,
};
use body::Answer;
use std::net::IpAddr;

/// How a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    Udp,
    Tcp,
    Tls,
    Https,
    Quic,
}

/// Who asks, when, and what chance says.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub client: IpAddr,
    pub transport: Transport,
    /// Seconds since 1970.
    pub now: u32,
    /// Evenly drawn from all of `u64`.
    pub draw: u64,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handled {
    /// No reply.
    Silent,
    Replied(Reply),
}

/// Of a reply, for limits, metrics and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) rcode: Rcode,
    pub(crate) kind: ReplyKind,
    pub(crate) zone: Option<usize>,
    pub(crate) of_type: Option<RecordType>,
    pub(crate) service: Option<usize>,
    pub(crate) cookie: CookieState,
    pub(crate) truncated: Truncated,
    /// Octets of the OPT record at the end of a UDP reply.
    pub(crate) opt_length: usize,
}

/// What a reply is to a rate limit: each kind has a bucket of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ReplyKind {
    Positive,
    NoData,
    /// From a wildcard: names without number are alike.
    Expanded,
    NxDomain,
    Referral,
    Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Truncated {
    No,
    Yes,
}

/// What a stream can carry.
const STREAM_MAX: usize = 65_535;

impl Transport {
    pub const ALL: [Self; 5] = [Self::Udp, Self::Tcp, Self::Tls, Self::Https, Self::Quic];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Https => "https",
            Self::Quic => "quic",
        }
    }

    pub(crate) fn is_stream(self) -> bool {
        self != Self::Udp
    }

    fn is_encrypted(self) -> bool {
        matches!(self, Self::Tls | Self::Https | Self::Quic)
    }
}

/// Answers one message into `out`, whose old content is lost.
pub(crate) fn respond(
    snapshot: &Snapshot,
    octets: &[u8],
    asked: &Asked,
    space: &mut KeySpace,
    out: &mut Vec<u8>,
) -> Handled {
    let query = match Query::read(octets, space) {
        Ok(query) => query,
        Err(Unfit::Silent) => return Handled::Silent,
        Err(Unfit::Header(head, rcode)) => {
            Message::begin(out, None, STREAM_MAX).finish(head, Flags::default(), rcode, None, STREAM_MAX);
            return Handled::Replied(Reply::error(rcode, None));
        }
    };
    let now = u64::from(asked.now);
    let mut responder = Responder::new(snapshot, &query, asked);
    let verified = query.tsig_at.map(|at| snapshot.plan.tsig.verify(octets, at, now)).transpose();
    let reply = match verified {
        Ok(None) => responder.run(&query, out),
        Ok(Some(mut verified)) => {
            responder.limit = responder.limit.saturating_sub(verified.length());
            let reply = responder.run(&query, out);
            verified.sign(now, out);
            reply
        }
        // RFC 8945 §5.2.
        Err(rejected) => {
            let rcode = if matches!(rejected, Rejected::Malformed) { Rcode::FormErr } else { Rcode::NotAuth };
            let question = query.question.as_ref().map(|question| question.octets);
            Message::begin(out, question, STREAM_MAX).finish(query.head, Flags::default(), rcode, None, STREAM_MAX);
            rejected.append(now, out);
            Reply::error(rcode, query.question.as_ref().map(|question| question.of_type))
        }
    };
    Handled::Replied(reply)
}

/// The messages of a zone transfer; `None`: the message asks for none, or may not have it, and is answered like any other.
pub(crate) fn transfer(snapshot: &Snapshot, octets: &[u8], asked: &Asked) -> Option<Vec<Vec<u8>>> {
    let mut space = KeySpace::default();
    let query = Query::read(octets, &mut space).ok()?;
    let question = query.question.as_ref()?;
    let is_transfer = matches!(question.of_type, RecordType::AXFR | RecordType::IXFR);
    if !is_transfer || !matches!(query.edns, EdnsPart::Absent | EdnsPart::Present(Edns { version: 0, .. })) {
        return None;
    }
    let now = u64::from(asked.now);
    let verified = query.tsig_at.map(|at| snapshot.plan.tsig.verify(octets, at, now)).transpose().ok()?;
    transfer::messages(snapshot, &query, question, asked, verified).ok()
}

/// The zone that a NOTIFY speaks of; `None`: the message is another.
pub(crate) fn notified(octets: &[u8]) -> Option<Name> {
    let header = octets.first_chunk::<HEADER>()?;
    // A request, opcode NOTIFY, one question (RFC 1996 §3.7).
    if header[2] & 0xf8 != query::OPCODE_NOTIFY << 3 || header[4..6] != [0, 1] {
        return None;
    }
    let behind = octets.get(HEADER..)?;
    let length = name::wire_length(behind)?;
    let is_soa = behind.get(length..length + 2)? == RecordType::SOA.0.to_be_bytes();
    let key = behind.get(..length)?.to_ascii_lowercase();
    is_soa.then(|| Name::from_wire(&key).ok()).flatten()
}

/// RFC 1996 §3.12: the same message with QR and AA, and nothing behind the question.
pub(crate) fn acknowledge(octets: &[u8], apex: &Name, out: &mut Vec<u8>) -> Reply {
    out.clear();
    out.extend(octets.iter().take(HEADER + apex.as_wire().len() + 4));
    if let Some([_, _, flags0, flags1, _, _, counts @ ..]) = out.first_chunk_mut::<HEADER>() {
        (*flags0, *flags1) = (0x84 | query::OPCODE_NOTIFY << 3, 0);
        *counts = [0; 6];
    }
    Reply::error(Rcode::NoError, Some(RecordType::SOA))
}

impl Reply {
    /// Whether it is the same to every metric.
    pub(crate) fn counts_as(&self, other: &Self) -> bool {
        let of = |reply: &Self| (reply.rcode, reply.zone, reply.of_type, reply.service, reply.truncated);
        of(self) == of(other)
    }

    fn error(rcode: Rcode, of_type: Option<RecordType>) -> Self {
        Self {
            rcode,
            kind: ReplyKind::Error,
            zone: None,
            of_type,
            service: None,
            cookie: CookieState::Absent,
            truncated: Truncated::No,
            opt_length: 0,
        }
    }
}

/// Takes everything but question and OPT out of a reply and says that there is more by TCP.
pub(crate) fn truncate(out: &mut Vec<u8>, opt_length: usize) {
    let question = out.get(HEADER..).and_then(name::wire_length).map_or(0, |length| length + 4);
    let opt_at = out.len().saturating_sub(opt_length).max(HEADER + question);
    if opt_at > out.len() {
        return;
    }
    out.drain(HEADER + question..opt_at);
    if let Some([_, _, first, _, _, _, counts @ ..]) = out.first_chunk_mut::<HEADER>() {
        *first |= Flags::TRUNCATED;
        *counts = [0, 0, 0, 0, 0, u8::from(opt_length > 0)];
    }
}

/// Writes what is answered to anybody who asks without EDNS; gives the counts of its sections. `None`: the answer does not fit,
/// is no plain success, or is not the same for all.
pub(crate) fn plain(
    snapshot: &Snapshot,
    zone: usize,
    name: &Name,
    of_type: RecordType,
    question: &[u8],
    limit: usize,
    out: &mut Vec<u8>,
) -> Option<[u16; 3]> {
    let asked = Asked { client: IpAddr::from([0, 0, 0, 0]), transport: Transport::Udp, now: 0, draw: 0 };
    let zone = &snapshot.zones.zones.get(zone)?.zone;
    let mut answer = Answer::new(snapshot, zone, of_type, &asked, Message::begin(out, Some(question), limit));
    answer.run(name.as_wire()).ok()?;
    let is_plain = answer.rcode == Rcode::NoError
        && answer.kind == ReplyKind::Positive
        && answer.authoritative == Flags::AUTHORITATIVE
        && answer.service.is_none();
    is_plain.then(|| answer.message.records())
}

/// What all replies to one query share.
struct Responder<'s, 'q> {
    snapshot: &'s Snapshot,
    asked: &'q Asked,
    edns: Option<&'q Edns<'q>>,
    opt: Option<OptReply<'s>>,
    cookie: CookieState,
    limit: usize,
}

impl<'s, 'q> Responder<'s, 'q> {
    fn new(snapshot: &'s Snapshot, query: &'q Query<'q>, asked: &'q Asked) -> Self {
        let plan = &snapshot.plan;
        let mut opt = OptReply { payload: plan.udp_size, ..OptReply::default() };
        let mut cookie = CookieState::Absent;
        let (edns, payload) = match &query.edns {
            EdnsPart::Absent => (None, PAYLOAD_MIN),
            EdnsPart::Broken => (None, PAYLOAD_MIN),
            EdnsPart::Present(edns) => (Some(edns), edns.payload),
        };
        if let Some(edns) = edns.filter(|edns| edns.version == 0) {
            opt.dnssec = edns.dnssec;
            if edns.wants.has(Wants::NSID) {
                opt.nsid = snapshot.nsid();
            }
            // RFC 7828 §3.2.2: over streams only.
            let keeps = edns.wants.has(Wants::KEEPALIVE) && asked.transport.is_stream();
            opt.keepalive = keeps.then_some(plan.keepalive_tenths);
            if edns.wants.has(Wants::PADDING) && asked.transport.is_encrypted() {
                opt.padding = Padding::Block;
            }
            if let Some(option) = &edns.cookie {
                let (state, made) = plan.cookies.check(option, asked.client, asked.now);
                (cookie, opt.cookie) = (state, Some(made));
            }
            // RFC 7871 §7.2.1: an answer that is the same for all has scope 0.
            opt.subnet = edns.subnet.map(|subnet| (subnet, 0));
        }
        let limit = match asked.transport {
            Transport::Udp => usize::from(payload.min(plan.udp_size)),
            Transport::Tcp | Transport::Tls | Transport::Https | Transport::Quic => STREAM_MAX,
        };
        let opt = (!matches!(query.edns, EdnsPart::Absent)).then_some(opt);
        Self { snapshot, asked, edns, opt, cookie, limit }
    }

    fn run(mut self, query: &Query<'q>, out: &mut Vec<u8>) -> Reply {
        let Some(question) = &query.question else {
            // RFC 7873 §5.4: a cookie and no question asks for a cookie.
            Message::begin(out, None, self.limit).finish(
                query.head,
                Flags::default(),
                Rcode::NoError,
                self.opt.as_ref(),
                self.limit,
            );
            return Reply { kind: ReplyKind::NoData, cookie: self.cookie, ..Reply::error(Rcode::NoError, None) };
        };
        if let Some(rcode) = self.refusal(query, question) {
            return self.refuse(query.head, question, rcode, out);
        }
        if let Some(reply) = self.compiled(query.head, question, out) {
            return reply;
        }
        let Some((zone_index, served)) = self.snapshot.zones.find(question.key(), question.of_type) else {
            if let Some(opt) = &mut self.opt {
                opt.error = Some(ExtendedError::NotAuthoritative);
            }
            return self.refuse(query.head, question, Rcode::Refused, out);
        };
        // RFC 1034 §4.3.5: a copy that has expired is not answered from.
        if served.has_expired(self.asked.now) {
            return self.refuse(query.head, question, Rcode::ServFail, out);
        }
        let room = self.limit - self.opt.as_ref().map_or(0, OptReply::length).min(self.limit);
        let message = Message::begin(out, Some(question.octets), room);
        let mut answer = Answer::new(self.snapshot, &served.zone, question.of_type, self.asked, message);
        answer.dnssec = self.edns.map_or(Dnssec::Unaware, |edns| edns.dnssec);
        answer.subnet = self.edns.and_then(|edns| edns.subnet);
        let truncated = match answer.run(question.key()) {
            Ok(()) => Truncated::No,
            Err(Full) => Truncated::Yes,
        };
        let (rcode, kind, service) = (answer.rcode, answer.kind, answer.service);
        if let Some(opt) = &mut self.opt {
            // RFC 7871 §7.2.1: what holds for less than was told is cached for no more than was told.
            opt.subnet = opt.subnet.map(|(subnet, _)| (subnet, answer.scope.min(subnet.source)));
            opt.error = answer.error;
        }
        self.keep_signed(question, &answer, truncated);
        let mut flags = Flags(answer.authoritative);
        let message = match truncated {
            Truncated::No => answer.message,
            Truncated::Yes => {
                // RFC 2181 §9: what does not fit whole is fetched again by TCP; a part of it helps nobody.
                drop(answer);
                flags.0 |= Flags::TRUNCATED;
                Message::begin(out, Some(question.octets), room)
            }
        };
        message.finish(query.head, flags, rcode, self.opt.as_ref(), self.limit);
        Reply {
            rcode,
            kind,
            zone: Some(zone_index),
            of_type: Some(question.of_type),
            service,
            cookie: self.cookie,
            truncated,
            opt_length: self.opt.as_ref().map_or(0, OptReply::length),
        }
    }

    /// The answer that was made ahead, where there is one and it fits.
    fn compiled(&self, head: Head, question: &Question<'_>, out: &mut Vec<u8>) -> Option<Reply> {
        let answer = self.snapshot.compiled.get(question.key_with_type())?;
        let wants_signatures = self.edns.is_some_and(|edns| edns.dnssec == Dnssec::Ok);
        let signer = match wants_signatures {
            true => self.snapshot.zones.zones.get(answer.zone)?.zone.signer.as_ref(),
            false => None,
        };
        let opt_length = self.opt.as_ref().map_or(0, OptReply::length);
        let mut message = Message::begin_raw(out, Some(question.octets), self.limit.saturating_sub(opt_length));
        match signer {
            Some(signer) => answer.write_signed(signer.period(self.asked.now), &mut message).ok()?,
            None => answer.write(&mut message).ok()?,
        }
        message.finish(head, Flags(Flags::AUTHORITATIVE), Rcode::NoError, self.opt.as_ref(), self.limit);
        Some(Reply {
            rcode: Rcode::NoError,
            kind: ReplyKind::Positive,
            zone: Some(answer.zone),
            of_type: Some(question.of_type),
            service: None,
            cookie: self.cookie,
            truncated: Truncated::No,
            opt_length,
        })
    }

    /// An answer that was made with its signatures is good for all who ask in their time.
    fn keep_signed(&self, question: &Question<'_>, answer: &Answer<'_, '_>, truncated: Truncated) {
        // With less room, what need not be said is left out (RFC 9460 §4.1).
        let is_whole = truncated == Truncated::No && self.limit >= usize::from(self.snapshot.plan.udp_size);
        let is_signed = answer.dnssec == Dnssec::Ok && answer.rcode == Rcode::NoError && answer.service.is_none();
        if let Some(signer) = answer.zone.signer.as_ref().filter(|_| is_signed && is_whole)
            && let Some(kept) = self.snapshot.compiled.get(question.key_with_type())
        {
            let octets = answer.message.behind(HEADER + question.octets.len());
            kept.keep_signed(signer.period(self.asked.now), octets, answer.message.records());
        }
    }

    /// What is refused before any zone is looked at.
    fn refusal(&self, query: &Query<'_>, question: &Question<'_>) -> Option<Rcode> {
        if matches!(query.edns, EdnsPart::Broken) {
            return Some(Rcode::FormErr);
        }
        if self.edns.is_some_and(|edns| edns.version != 0) {
            return Some(Rcode::BadVers);
        }
        // CHAOS tells strangers what runs here: refused like every other class.
        if question.class != CLASS_IN {
            return Some(Rcode::Refused);
        }
        match question.of_type {
            // RFC 1035 §3.2.3: obsolete.
            RecordType::MAILA | RecordType::MAILB => Some(Rcode::NotImp),
            RecordType::ANY => None,
            // Those that may have a transfer do not come here.
            RecordType::AXFR if self.asked.transport == Transport::Udp => Some(Rcode::FormErr),
            RecordType::AXFR | RecordType::IXFR if self.snapshot.zones.at(question.key()).is_none() => {
                Some(Rcode::NotAuth)
            }
            RecordType::AXFR | RecordType::IXFR => Some(Rcode::Refused),
            of_type if of_type.is_meta() => Some(Rcode::FormErr),
            _ => None,
        }
    }

    fn refuse(&self, head: Head, question: &Question<'_>, rcode: Rcode, out: &mut Vec<u8>) -> Reply {
        let message = Message::begin(out, Some(question.octets), STREAM_MAX);
        message.finish(head, Flags::default(), rcode, self.opt.as_ref(), self.limit);
        Reply { cookie: self.cookie, ..Reply::error(rcode, Some(question.of_type)) }
    }
}

//! From a message to its reply: admit, find the zone, answer, size. Pure: the snapshot, the time and draws are arguments.

use crate::{
    Name, Rcode, RecordType,
    cookie::CookieState,
    edns::{Dnssec, Edns, ExtendedError, OptReply, PAYLOAD_MIN, Padding, Subnet, Wants},
    message::{Flags, Full, Message, Section},
    name::{self, is_suffix},
    query::{EdnsPart, HEADER, Head, Query, Question, Unfit},
    rdata,
    record_type::CLASS_IN,
    snapshot::Snapshot,
    steer::{Family, Mood, Outcome, Round},
    svcb,
    zone::{Found, Node, RrSet, Zone},
};
use std::{collections::BTreeMap, net::IpAddr};

/// How a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    Udp,
    Tcp,
    Tls,
    Https,
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
    NxDomain,
    Referral,
    Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Truncated {
    No,
    Yes,
}

/// Aliases that one answer follows.
const CHAIN_MAX: usize = 12;
/// What a stream can carry.
const STREAM_MAX: usize = 65_535;

impl Transport {
    pub const ALL: [Self; 4] = [Self::Udp, Self::Tcp, Self::Tls, Self::Https];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Https => "https",
        }
    }

    pub(crate) fn is_stream(self) -> bool {
        self != Self::Udp
    }

    fn is_encrypted(self) -> bool {
        matches!(self, Self::Tls | Self::Https)
    }
}

/// Answers one message into `out`, whose old content is lost.
pub(crate) fn respond(snapshot: &Snapshot, octets: &[u8], asked: &Asked, out: &mut Vec<u8>) -> Handled {
    let query = match Query::read(octets) {
        Ok(query) => query,
        Err(Unfit::Silent) => return Handled::Silent,
        Err(Unfit::Header(head, rcode)) => {
            Message::begin(out, None, STREAM_MAX).finish(head, Flags::default(), rcode, None, STREAM_MAX);
            return Handled::Replied(Reply::error(rcode, None));
        }
    };
    Handled::Replied(Responder::new(snapshot, &query, asked).run(&query, out))
}

impl Reply {
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
            opt.nsid = plan.nsid.as_deref().filter(|_| edns.wants.has(Wants::NSID));
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
            Transport::Tcp | Transport::Tls | Transport::Https => STREAM_MAX,
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
        let Some((zone_index, served)) = self.snapshot.zones.find(question.key(), question.of_type) else {
            if let Some(opt) = &mut self.opt {
                opt.error = Some(ExtendedError::NotAuthoritative);
            }
            return self.refuse(query.head, question, Rcode::Refused, out);
        };
        let room = self.limit - self.opt.as_ref().map_or(0, OptReply::length).min(self.limit);
        let mut answer = Answer {
            snapshot: self.snapshot,
            zone: &served.zone,
            of_type: question.of_type,
            dnssec: self.edns.map_or(Dnssec::Unaware, |edns| edns.dnssec),
            message: Message::begin(out, Some(question.octets), room),
            rcode: Rcode::NoError,
            kind: ReplyKind::Positive,
            authoritative: Flags::AUTHORITATIVE,
            asked: self.asked,
            subnet: self.edns.and_then(|edns| edns.subnet),
            scope: 0,
            service: None,
            error: None,
        };
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

/// One answer under way.
struct Answer<'s, 'b> {
    snapshot: &'s Snapshot,
    zone: &'s Zone,
    of_type: RecordType,
    dnssec: Dnssec,
    message: Message<'b>,
    rcode: Rcode,
    kind: ReplyKind,
    authoritative: u8,
    asked: &'s Asked,
    subnet: Option<Subnet>,
    scope: u8,
    service: Option<usize>,
    error: Option<ExtendedError>,
}

/// Where an answer goes on.
enum Next {
    Done,
    Follow(Name),
}

impl<'s> Answer<'s, '_> {
    /// RFC 1034 §4.3.2, from step 3 on, once for each alias.
    fn run(&mut self, key: &[u8]) -> Result<(), Full> {
        let mut next = self.step(key)?;
        let mut seen: Vec<Name> = Name::from_wire(key).into_iter().collect();
        while let Next::Follow(name) = next {
            // A loop is answered with what was found; the resolver sees it as well.
            if !self.zone.holds(name.as_wire()) || seen.contains(&name) || seen.len() >= CHAIN_MAX {
                return Ok(());
            }
            next = self.step(name.as_wire())?;
            seen.push(name);
        }
        Ok(())
    }

    fn step(&mut self, key: &[u8]) -> Result<Next, Full> {
        match self.zone.find(key) {
            Found::Exact(node) | Found::Wildcard { node, .. } => self.node(key, node),
            // RFC 4035 §3.1.4.1: DS at a cut is the parent's own data.
            Found::Cut { node, owner } if self.of_type == RecordType::DS && owner == key => self.node(key, node),
            Found::Cut { node, owner } => self.referral(owner, node).map(|()| Next::Done),
            Found::Dname { node, owner } => self.dname(key, owner, node),
            Found::Missing { .. } => {
                // RFC 6604 §3: also when an alias led here.
                (self.rcode, self.kind) = (Rcode::NxDomain, ReplyKind::NxDomain);
                self.negative().map(|()| Next::Done)
            }
        }
    }

    fn node(&mut self, owner: &[u8], node: &'s Node) -> Result<Next, Full> {
        if let Some(index) = node.service
            && let Some(next) = self.steered(owner, index)?
        {
            return Ok(next);
        }
        let set = match self.of_type {
            // RFC 8482 §4.1: one of the sets is an answer to ANY.
            RecordType::ANY => node.sets.first(),
            of_type => node.set(of_type),
        };
        if let Some(set) = set {
            self.set(Section::Answer, owner, set)?;
            self.targets(owner, set);
            return Ok(Next::Done);
        }
        let Some(alias) = node.set(RecordType::CNAME) else {
            if !self.message.has_answer() {
                self.kind = ReplyKind::NoData;
            }
            return self.negative().map(|()| Next::Done);
        };
        self.set(Section::Answer, owner, alias)?;
        let target = alias.data.first().and_then(|data| Name::from_wire(data).ok());
        Ok(target.map_or(Next::Done, Next::Follow))
    }

    /// What a published service answers; `None`: this type is not its business.
    fn steered(&mut self, owner: &[u8], index: usize) -> Result<Option<Next>, Full> {
        let services = &self.snapshot.services;
        let Some(served) = services.list.get(index) else { return Ok(None) };
        let service = &served.service;
        let of_type = self.of_type;
        let has_cname = service.sites.iter().any(|site| site.cname.is_some());
        let is_ours = match of_type {
            RecordType::A | RecordType::AAAA | RecordType::ANY => true,
            RecordType::HTTPS => service.https.is_some() || has_cname,
            _ => has_cname,
        };
        if !is_ours {
            return Ok(None);
        }
        let round = match of_type {
            RecordType::A => Round::V4,
            RecordType::AAAA => Round::V6,
            _ => Round::Other,
        };
        let view = served.view();
        let client = services.client(service, self.asked.client, self.subnet.as_ref());
        let draw = served.draw(self.asked.draw, round);
        let picked = served.pick(&view, &client, draw);
        self.service = Some(index);
        self.scope = self.scope.max(picked.scope);
        if picked.mood == Mood::AllDown {
            let is_answered = matches!(picked.outcome, Outcome::Site(_) | Outcome::Addresses);
            self.error = Some(if is_answered { ExtendedError::Fallback } else { ExtendedError::AllDown });
        }
        let site = match picked.outcome {
            Outcome::Refuse => {
                (self.rcode, self.kind, self.authoritative) = (Rcode::Refused, ReplyKind::Error, 0);
                return Ok(Some(Next::Done));
            }
            Outcome::Site(site) => service.sites.get(usize::from(site)),
            Outcome::Addresses | Outcome::Empty => None,
        };
        if let Some(target) = site.and_then(|site| site.cname.as_ref()) {
            self.message.record(Section::Answer, owner, RecordType::CNAME, picked.ttl, target.as_wire())?;
            let is_end = matches!(of_type, RecordType::CNAME | RecordType::ANY);
            return Ok(Some(if is_end { Next::Done } else { Next::Follow(target.clone()) }));
        }
        let addresses = |family| served.addresses(&picked, &view, &client, draw, family);
        let mut any = false;
        for (family, own) in [(Family::V4, RecordType::A), (Family::V6, RecordType::AAAA)] {
            if of_type == own || (of_type == RecordType::ANY && !any) {
                for address in addresses(family) {
                    self.address(owner, own, picked.ttl, address)?;
                    any = true;
                }
            }
        }
        if let (RecordType::HTTPS, Some(params)) = (of_type, &service.https) {
            let (v4, v6) = (addresses(Family::V4), addresses(Family::V6));
            if !v4.is_empty() || !v6.is_empty() {
                let rdata = https_data(params, &v4, &v6);
                self.message.record(Section::Answer, owner, RecordType::HTTPS, picked.ttl, &rdata)?;
                any = true;
            }
        }
        if !any {
            self.kind = ReplyKind::NoData;
            // An absence by health must end as soon as the service is back.
            self.negative_for(self.zone.negative_ttl.min(picked.ttl))?;
        }
        Ok(Some(Next::Done))
    }

    fn address(&mut self, owner: &[u8], of_type: RecordType, ttl: u32, address: IpAddr) -> Result<(), Full> {
        match address {
            IpAddr::V4(v4) => self.message.record(Section::Answer, owner, of_type, ttl, &v4.octets()),
            IpAddr::V6(v6) => self.message.record(Section::Answer, owner, of_type, ttl, &v6.octets()),
        }
    }

    fn dname(&mut self, key: &[u8], owner: &[u8], node: &'s Node) -> Result<Next, Full> {
        let Some((set, target)) = node.set(RecordType::DNAME).and_then(|set| Some((set, set.data.first()?))) else {
            return Ok(Next::Done);
        };
        self.set(Section::Answer, owner, set)?;
        let names = (Name::from_wire(key), Name::from_wire(owner), Name::from_wire(target));
        let (Ok(name), Ok(from), Ok(to)) = names else { return Ok(Next::Done) };
        let Some(moved) = name.substitute(&from, &to) else {
            self.rcode = Rcode::YxDomain;
            return Ok(Next::Done);
        };
        // RFC 6672 §3.1: the CNAME has the DNAME's time to live.
        self.message.record(Section::Answer, key, RecordType::CNAME, set.ttl, moved.as_wire())?;
        Ok(if self.of_type == RecordType::CNAME { Next::Done } else { Next::Follow(moved) })
    }

    fn set(&mut self, section: Section, owner: &[u8], set: &RrSet) -> Result<(), Full> {
        set.data.iter().try_for_each(|data| self.message.record(section, owner, set.of_type, set.ttl, data))
    }

    /// RFC 2308 §2 and §5.
    fn negative(&mut self) -> Result<(), Full> {
        self.negative_for(self.zone.negative_ttl)
    }

    fn negative_for(&mut self, ttl: u32) -> Result<(), Full> {
        let zone = self.zone;
        let mut data = zone.soa.data.iter();
        data.try_for_each(|data| {
            self.message.record(Section::Authority, zone.apex.as_wire(), RecordType::SOA, ttl, data)
        })
    }

    fn referral(&mut self, owner: &[u8], node: &'s Node) -> Result<(), Full> {
        if !self.message.has_answer() {
            self.authoritative = 0;
            self.kind = ReplyKind::Referral;
        }
        let Some(servers) = node.set(RecordType::NS) else { return Ok(()) };
        self.set(Section::Authority, owner, servers)?;
        if self.dnssec == Dnssec::Ok
            && let Some(signers) = node.set(RecordType::DS)
        {
            self.set(Section::Authority, owner, signers)?;
        }
        for server in &servers.data {
            let server = lowered(server);
            for set in self.zone.addresses(&server) {
                match self.set(Section::Additional, &server, set) {
                    Ok(()) => {}
                    // RFC 9471 §3: a name server below the cut cannot be reached without its glue.
                    Err(full) if is_suffix(&server, owner) => return Err(full),
                    Err(Full) => return Ok(()),
                }
            }
        }
        Ok(())
    }

    /// RFC 9460 §4.1: addresses of an HTTPS or SVCB target, as far as there is room. Nothing else is worth the octets.
    fn targets(&mut self, owner: &[u8], set: &RrSet) {
        if !matches!(set.of_type, RecordType::HTTPS | RecordType::SVCB) {
            return;
        }
        for data in &set.data {
            let target = rdata::names_in(set.of_type, data).into_iter().next().and_then(|range| data.get(range));
            let target = match target {
                Some([0]) => owner.to_vec(),
                Some(target) => lowered(target),
                None => continue,
            };
            if !self.zone.holds(&target) {
                continue;
            }
            let Found::Exact(_) = self.zone.find(&target) else { continue };
            for addresses in self.zone.addresses(&target) {
                let mark = self.message.mark();
                if self.set(Section::Additional, &target, addresses).is_err() {
                    return self.message.back_to(mark);
                }
            }
        }
    }
}

/// RFC 9460 §7.3: hints are the addresses that were chosen, so that they agree with the A and AAAA beside them.
fn https_data(params: &BTreeMap<u16, Vec<u8>>, v4: &[IpAddr], v6: &[IpAddr]) -> Vec<u8> {
    let mut params = params.clone();
    for (key, addresses) in [(svcb::IPV4HINT, v4), (svcb::IPV6HINT, v6)] {
        if !addresses.is_empty() {
            let octets = addresses.iter().flat_map(|address| match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            });
            params.insert(key, octets.collect());
        }
    }
    // Priority 1, and the owner itself as target (RFC 9460 §2.5).
    [&[0, 1, 0][..], &svcb::wire(&params)].concat()
}

/// The name at the head of data, as a key.
fn lowered(wire: &[u8]) -> Vec<u8> {
    let length = name::wire_length(wire).unwrap_or_default();
    wire.get(..length).unwrap_or_default().to_ascii_lowercase()
}

//! One answer under way: the walk of RFC 1034 §4.3.2 through a zone, with what is steered, and with signatures and proofs for who
//! wants them. Knows no headers, sizes or options: those are the responder's.

use super::{Asked, ReplyKind, denial::Denial};
use crate::{
    Name, Rcode, RecordType,
    dnssec::{Budget, Chain, DenialSpec, Proof, Signable, Signed, Signer, types_of_node},
    edns::{Dnssec, ExtendedError, Subnet},
    message::{Flags, Full, Message, Section},
    name::{self, is_suffix},
    rdata,
    snapshot::Snapshot,
    steer::{Family, Mood, Outcome, Round},
    svcb::{self, Params},
    zone::{Found, Node, RrSet, Zone},
};
use std::net::IpAddr;

/// One answer under way.
pub(super) struct Answer<'s, 'b> {
    pub(super) snapshot: &'s Snapshot,
    pub(super) zone: &'s Zone,
    pub(super) of_type: RecordType,
    pub(super) dnssec: Dnssec,
    pub(super) message: Message<'b>,
    pub(super) rcode: Rcode,
    pub(super) kind: ReplyKind,
    pub(super) authoritative: u8,
    pub(super) asked: &'s Asked,
    pub(super) subnet: Option<Subnet>,
    pub(super) scope: u8,
    pub(super) service: Option<usize>,
    pub(super) error: Option<ExtendedError>,
    /// What is not there, to be proved in the authority section.
    pub(super) proofs: Vec<Proof>,
}

/// Aliases that one answer follows.
const CHAIN_MAX: usize = 12;

/// Where an answer goes on.
enum Next {
    Done,
    Follow(Name),
}
impl<'s, 'b> Answer<'s, 'b> {
    pub(super) fn new(
        snapshot: &'s Snapshot,
        zone: &'s Zone,
        of_type: RecordType,
        asked: &'s Asked,
        message: Message<'b>,
    ) -> Self {
        Self {
            snapshot,
            zone,
            of_type,
            dnssec: Dnssec::Unaware,
            message,
            rcode: Rcode::NoError,
            kind: ReplyKind::Positive,
            authoritative: Flags::AUTHORITATIVE,
            asked,
            subnet: None,
            scope: 0,
            service: None,
            error: None,
            proofs: Vec::new(),
        }
    }

    /// RFC 1034 §4.3.2, from step 3 on, once for each alias.
    pub(super) fn run(&mut self, key: &[u8]) -> Result<(), Full> {
        let mut next = self.step(key)?;
        let mut seen: Vec<Name> = Vec::new();
        while let Next::Follow(name) = next {
            if seen.is_empty() {
                seen.extend(Name::from_wire(key));
            }
            // A loop is answered with what was found; the resolver sees it as well.
            if !self.zone.holds(name.as_wire()) || seen.contains(&name) || seen.len() >= CHAIN_MAX {
                break;
            }
            next = self.step(name.as_wire())?;
            seen.push(name);
        }
        self.prove()
    }

    fn step(&mut self, key: &[u8]) -> Result<Next, Full> {
        match self.zone.find(key) {
            Found::Exact(node) => self.node(key, node, None),
            Found::Wildcard { node, encloser } => self.node(key, node, Some(encloser)),
            // RFC 4035 §3.1.4.1: DS at a cut is the parent's own data.
            Found::Cut { node, owner } if self.of_type == RecordType::DS && owner == key => self.node(key, node, None),
            Found::Cut { node, owner } => self.referral(owner, node).map(|()| Next::Done),
            Found::Dname { node, owner } => self.dname(key, owner, node),
            Found::Missing { encloser } => {
                // RFC 6604 §3: also when an alias led here.
                (self.rcode, self.kind) = (Rcode::NxDomain, ReplyKind::NxDomain);
                self.deny(Denial::Name { key, encloser });
                self.negative(self.zone.negative_ttl).map(|()| Next::Done)
            }
        }
    }

    /// `encloser`: the node is the wildcard below it, and stands in for the name.
    fn node(&mut self, owner: &[u8], node: &'s Node, encloser: Option<&[u8]>) -> Result<Next, Full> {
        if encloser.is_some() {
            self.kind = ReplyKind::Expanded;
        }
        let wildcard = encloser.map(|encloser| [b"\x01*", encloser].concat());
        let signed_as = match &wildcard {
            // RFC 9824 §3.4: a name is signed as if it were there.
            Some(wildcard) if !self.is_compact() => wildcard,
            _ => owner,
        };
        if let Some(index) = node.service
            && let Some(next) = self.steered(owner, signed_as, index, node, encloser)?
        {
            return Ok(next);
        }
        if matches!(self.of_type, RecordType::RRSIG | RecordType::NSEC) && self.about(owner, signed_as, node)? {
            return Ok(Next::Done);
        }
        let set = match self.of_type {
            // RFC 8482 §4.1: one of the sets is an answer to ANY.
            RecordType::ANY => node.sets.first(),
            of_type => node.set(of_type),
        };
        let alias = || node.set(RecordType::CNAME);
        let Some(set) = set.or_else(alias) else {
            if !self.message.has_answer() && encloser.is_none() {
                self.kind = ReplyKind::NoData;
            }
            self.deny(Denial::Type { owner, node, encloser });
            return self.negative(self.zone.negative_ttl).map(|()| Next::Done);
        };
        if let Some(encloser) = encloser {
            self.deny(Denial::Expanded { key: owner, encloser });
        }
        self.set(Section::Answer, owner, signed_as, set, set.ttl)?;
        if set.of_type == RecordType::CNAME && !matches!(self.of_type, RecordType::CNAME | RecordType::ANY) {
            let target = set.data.first().and_then(|data| Name::from_wire(data).ok());
            return Ok(target.map_or(Next::Done, Next::Follow));
        }
        self.prove()?;
        self.targets(owner, set);
        Ok(Next::Done)
    }

    /// Signatures and links of the chain, asked for by type: a denial of them would deny what every other answer shows. One set's
    /// signatures are an answer to RRSIG as one set is to ANY (RFC 8482 §7). `false`: there is nothing of the kind.
    fn about(&mut self, owner: &[u8], signed_as: &[u8], node: &'s Node) -> Result<bool, Full> {
        let Some(signer) = &self.zone.signer else { return Ok(false) };
        self.dnssec = Dnssec::Ok;
        if self.of_type == RecordType::RRSIG {
            let Some(set) = node.sets.first() else { return Ok(false) };
            let data: Vec<&[u8]> = set.data.iter().map(|data| &**data).collect();
            self.signatures(Section::Answer, owner, signed_as, (set.of_type, set.ttl, &data), set.ttl)?;
            return Ok(true);
        }
        let proof = match signer.denial {
            DenialSpec::Nsec => signer.chain.at(&self.zone.apex, signed_as, None),
            DenialSpec::Compact => Chain::compact(owner, Some(self.types(node))),
            DenialSpec::Nsec3 => None,
        };
        let Some(proof) = proof else { return Ok(false) };
        self.records(owner, signed_as, RecordType::NSEC, self.zone.negative_ttl, &[&proof.rdata])?;
        Ok(true)
    }

    fn types(&self, node: &Node) -> Vec<RecordType> {
        let services = &self.snapshot.services.list;
        let of_service = |index: usize| services.get(index).map_or_else(Vec::new, |served| served.service.types());
        types_of_node(node, &of_service)
    }

    /// What a published service answers; `None`: this type is not its business.
    fn steered(
        &mut self,
        owner: &[u8],
        signed_as: &[u8],
        index: usize,
        node: &'s Node,
        encloser: Option<&[u8]>,
    ) -> Result<Option<Next>, Full> {
        let services = &self.snapshot.services;
        let Some(served) = services.list.get(index) else { return Ok(None) };
        let service = &served.service;
        let of_type = self.of_type;
        let has_cname = service.sites.iter().any(|site| site.cname.is_some());
        let is_ours = match of_type {
            RecordType::A | RecordType::AAAA | RecordType::ANY => true,
            of_type => service.binding(of_type).is_some() || has_cname,
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
        if let Some(encloser) = encloser {
            self.deny(Denial::Expanded { key: owner, encloser });
        }
        let site = match picked.outcome {
            Outcome::Refuse => {
                self.proofs.clear();
                (self.rcode, self.kind, self.authoritative) = (Rcode::Refused, ReplyKind::Error, 0);
                return Ok(Some(Next::Done));
            }
            Outcome::Site(site) => service.sites.get(usize::from(site)),
            Outcome::Addresses | Outcome::Empty => None,
        };
        if let Some(target) = site.and_then(|site| site.cname.as_ref()) {
            self.records(owner, signed_as, RecordType::CNAME, picked.ttl, &[target.as_wire()])?;
            let is_end = matches!(of_type, RecordType::CNAME | RecordType::ANY);
            return Ok(Some(if is_end { Next::Done } else { Next::Follow(target.clone()) }));
        }
        let addresses = |family| served.addresses(&picked, &view, &client, draw, family);
        let mut any = false;
        for (family, own) in [(Family::V4, RecordType::A), (Family::V6, RecordType::AAAA)] {
            if of_type == own || (of_type == RecordType::ANY && !any) {
                if self.signer().is_none() {
                    // Nobody signs them, so that they need not stand together first.
                    served.visit(&picked, &view, &client, draw, family, |address| {
                        any = true;
                        let (octets, length) = octets(address);
                        let data = octets.get(..length).unwrap_or_default();
                        self.message.record(Section::Answer, owner, own, picked.ttl, data)
                    })?;
                    continue;
                }
                let octets: Vec<_> = addresses(family).into_iter().map(octets).collect();
                let each = octets.iter().map(|(octets, length)| octets.get(..*length).unwrap_or_default());
                any |= !octets.is_empty();
                self.records(owner, signed_as, own, picked.ttl, &each.collect::<Vec<_>>())?;
            }
        }
        if let Some(params) = service.binding(of_type) {
            let (v4, v6) = (addresses(Family::V4), addresses(Family::V6));
            if !v4.is_empty() || !v6.is_empty() {
                self.records(owner, signed_as, of_type, picked.ttl, &[&binding(params, &v4, &v6)])?;
                any = true;
            }
        }
        if !any {
            if encloser.is_none() {
                self.kind = ReplyKind::NoData;
            }
            self.deny(Denial::Type { owner, node, encloser });
            // An absence by health must end as soon as the service is back.
            self.negative(self.zone.negative_ttl.min(picked.ttl))?;
        }
        Ok(Some(Next::Done))
    }

    fn dname(&mut self, key: &[u8], owner: &[u8], node: &'s Node) -> Result<Next, Full> {
        let Some((set, target)) = node.set(RecordType::DNAME).and_then(|set| Some((set, set.data.first()?))) else {
            return Ok(Next::Done);
        };
        self.set(Section::Answer, owner, owner, set, set.ttl)?;
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

    /// A set with its signatures. `ttl` is what it is served with; signed is its own.
    fn set(&mut self, section: Section, owner: &[u8], signed_as: &[u8], set: &RrSet, ttl: u32) -> Result<(), Full> {
        self.bare(section, owner, set, ttl)?;
        if self.signer().is_none() {
            return Ok(());
        }
        let data: Vec<&[u8]> = set.data.iter().map(|data| &**data).collect();
        self.signatures(section, owner, signed_as, (set.of_type, set.ttl, &data), ttl)
    }

    /// A set that is not ours to sign: a cut's name servers and glue (RFC 4035 §2.2).
    fn bare(&mut self, section: Section, owner: &[u8], set: &RrSet, ttl: u32) -> Result<(), Full> {
        set.data.iter().try_for_each(|data| self.message.record(section, owner, set.of_type, ttl, data))
    }

    /// A set of the answer that stands in no zone.
    fn records(
        &mut self,
        owner: &[u8],
        signed_as: &[u8],
        of_type: RecordType,
        ttl: u32,
        data: &[&[u8]],
    ) -> Result<(), Full> {
        data.iter().try_for_each(|data| self.message.record(Section::Answer, owner, of_type, ttl, data))?;
        if data.is_empty() {
            return Ok(());
        }
        self.signatures(Section::Answer, owner, signed_as, (of_type, ttl, data), ttl)
    }

    /// The signer of the zone, for a client that wants signatures.
    fn signer(&self) -> Option<&'s Signer> {
        self.zone.signer.as_ref().filter(|_| self.dnssec == Dnssec::Ok)
    }

    fn is_compact(&self) -> bool {
        self.signer().is_some_and(|signer| signer.denial == DenialSpec::Compact)
    }

    fn signatures(
        &mut self,
        section: Section,
        owner: &[u8],
        signed_as: &[u8],
        (of_type, signed_ttl, data): (RecordType, u32, &[&[u8]]),
        ttl: u32,
    ) -> Result<(), Full> {
        let Some(signer) = self.signer() else { return Ok(()) };
        let set = Signable { apex: &self.zone.apex, owner: signed_as, of_type, ttl: signed_ttl, data };
        let budget = if self.asked.transport.is_stream() { Budget::Free } else { Budget::Bounded };
        match signer.sign(&set, self.asked.now, budget) {
            Signed::With(signatures) => signatures
                .iter()
                .try_for_each(|signature| self.message.record(section, owner, RecordType::RRSIG, ttl, signature)),
            // Who is real comes again by TCP.
            Signed::Spent => Err(Full),
        }
    }

    /// RFC 2308 §2 and §5.
    fn negative(&mut self, ttl: u32) -> Result<(), Full> {
        let zone = self.zone;
        self.set(Section::Authority, zone.apex.as_wire(), zone.apex.as_wire(), &zone.soa, ttl)
    }

    /// Notes what proves an absence; [`Answer::prove`] writes it when the section's turn has come.
    fn deny(&mut self, denial: Denial<'_>) {
        let Some(signer) = self.signer() else { return };
        let proofs = match signer.denial {
            DenialSpec::Compact => self.compact(&denial).into_iter().collect(),
            DenialSpec::Nsec | DenialSpec::Nsec3 => denial.proofs(&signer.chain, &self.zone.apex, self.of_type),
        };
        for proof in proofs {
            if !self.proofs.contains(&proof) {
                self.proofs.push(proof);
            }
        }
    }

    /// RFC 9824 §3.
    fn compact(&mut self, denial: &Denial<'_>) -> Option<Proof> {
        match denial {
            Denial::Name { key, .. } => {
                // A name is denied by saying that it is there and has no type.
                self.rcode = Rcode::NoError;
                Chain::compact(key, None)
            }
            Denial::Type { owner, node, .. } => {
                let mut types = self.types(node);
                types.retain(|of_type| *of_type != self.of_type);
                Chain::compact(owner, Some(types))
            }
            Denial::Expanded { .. } => None,
            Denial::Signer { owner } => Chain::compact(owner, Some(vec![RecordType::NS])),
        }
    }

    fn prove(&mut self) -> Result<(), Full> {
        for proof in std::mem::take(&mut self.proofs) {
            let owner = proof.owner.as_wire();
            // RFC 9077 §3: as long as an absence is believed.
            let ttl = self.zone.negative_ttl;
            self.message.record(Section::Authority, owner, proof.of_type, ttl, &proof.rdata)?;
            self.signatures(Section::Authority, owner, owner, (proof.of_type, ttl, &[&proof.rdata]), ttl)?;
        }
        Ok(())
    }

    fn referral(&mut self, owner: &[u8], node: &'s Node) -> Result<(), Full> {
        if !self.message.has_answer() {
            self.authoritative = 0;
            self.kind = ReplyKind::Referral;
        }
        let Some(servers) = node.set(RecordType::NS) else { return Ok(()) };
        self.bare(Section::Authority, owner, servers, servers.ttl)?;
        if self.signer().is_some() {
            match node.set(RecordType::DS) {
                Some(signers) => self.set(Section::Authority, owner, owner, signers, signers.ttl)?,
                None => self.deny(Denial::Signer { owner }),
            }
        }
        // Behind it comes the additional section.
        self.prove()?;
        for server in &servers.data {
            let server = lowered(server);
            for set in self.zone.addresses(&server) {
                match self.bare(Section::Additional, &server, set, set.ttl) {
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
                if self.bare(Section::Additional, &target, addresses, addresses.ttl).is_err() {
                    return self.message.back_to(mark);
                }
            }
        }
    }
}
/// RFC 9460 §7.3: hints are the addresses that were chosen, so that they agree with the A and AAAA beside them.
fn binding(params: &Params, v4: &[IpAddr], v6: &[IpAddr]) -> Vec<u8> {
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

/// An address as data, and how much of it counts.
fn octets(address: IpAddr) -> ([u8; 16], usize) {
    let mut octets = [0; 16];
    match address {
        IpAddr::V4(v4) => {
            octets[..4].copy_from_slice(&v4.octets());
            (octets, 4)
        }
        IpAddr::V6(v6) => (v6.octets(), 16),
    }
}

/// The name at the head of data, as a key.
fn lowered(wire: &[u8]) -> Vec<u8> {
    let length = name::wire_length(wire).unwrap_or_default();
    wire.get(..length).unwrap_or_default().to_ascii_lowercase()
}

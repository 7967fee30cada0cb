//! One zone, checked as a whole and ready to be looked up (RFC 1034 §4.3.2, RFC 4592, RFC 6672). Knows no messages.

use crate::{
    Name, RecordType,
    dnssec::{Budget, Chain, Signable, Signed, Signer},
    name::{Suffixes, is_suffix},
    rdata,
    zone_file::{Origin, Record},
};
use foldhash::fast::FixedState;
use portcullis_config::{Context, Path};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

/// Records of one owner and type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RrSet {
    pub(crate) of_type: RecordType,
    pub(crate) ttl: u32,
    pub(crate) data: Vec<Box<[u8]>>,
}

/// One name of a zone. Without sets it is an empty non-terminal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    /// By type, rising.
    pub(crate) sets: Vec<RrSet>,
    pub(crate) kind: NodeKind,
    /// A published service that answers for addresses here; an index into those of the snapshot.
    pub(crate) service: Option<usize>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) enum NodeKind {
    #[default]
    Plain,
    /// NS below the apex: the zone ends here.
    Cut,
    /// Redirects what is below it.
    Dname,
    /// Below a cut or a DNAME: glue at best, never an answer.
    Occluded,
}

/// By name. What is in the table is the operator's choice, or a primary's: who asks cannot make its buckets longer.
pub(crate) type Nodes = HashMap<Name, Node, FixedState>;

/// A zone that serves.
#[derive(Debug)]
pub(crate) struct Zone {
    pub(crate) apex: Name,
    pub(crate) nodes: Nodes,
    pub(crate) soa: RrSet,
    /// RFC 2308 §5: the lesser of the SOA's own time to live and its last field.
    pub(crate) negative_ttl: u32,
    pub(crate) serial: u32,
    pub(crate) signer: Option<Signer>,
    /// Signatures and chain as records, of a zone that is given away signed.
    pub(crate) signed: Vec<(Name, RrSet)>,
}

/// Whether a service may answer with an alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alias {
    Never,
    Possible,
}

/// Where a name leads.
#[derive(Debug)]
pub(crate) enum Found<'z, 'k> {
    Exact(&'z Node),
    /// RFC 4592: the node of `*` below the closest encloser.
    Wildcard {
        node: &'z Node,
        encloser: &'k [u8],
    },
    Cut {
        node: &'z Node,
        owner: &'k [u8],
    },
    Dname {
        node: &'z Node,
        owner: &'k [u8],
    },
    Missing {
        encloser: &'k [u8],
    },
}

/// RRsets whose members go beyond a message can never be answered.
const SET_MAX: usize = 1_000;

impl Node {
    pub(crate) fn set(&self, of_type: RecordType) -> Option<&RrSet> {
        self.sets.iter().find(|set| set.of_type == of_type)
    }
}

impl Zone {
    pub(crate) fn find<'k>(&self, key: &'k [u8]) -> Found<'_, 'k> {
        match self.nodes.get(key) {
            Some(node) => match node.kind {
                NodeKind::Plain | NodeKind::Dname => Found::Exact(node),
                NodeKind::Cut => Found::Cut { node, owner: key },
                NodeKind::Occluded => self.walk(key),
            },
            None => self.walk(key),
        }
    }

    /// From the apex down: what ends the zone or redirects first, wins.
    fn walk<'k>(&self, key: &'k [u8]) -> Found<'_, 'k> {
        let mut path = [0u8; 128];
        let mut depth = 0;
        for suffix in Suffixes(key).take_while(|suffix| suffix.len() > self.apex.as_wire().len()) {
            if let Some(place) = path.get_mut(depth) {
                // A name has at most 255 octets.
                *place = (key.len() - suffix.len()) as u8;
            }
            depth += 1;
        }
        let mut encloser = self.apex.as_wire();
        let mut encloser_of_key = key.get(key.len().saturating_sub(encloser.len())..).unwrap_or_default();
        for offset in path.get(..depth).unwrap_or_default().iter().rev() {
            let suffix = key.get(usize::from(*offset)..).unwrap_or_default();
            if let Some(node) = self.nodes.get(encloser).filter(|node| node.kind == NodeKind::Dname) {
                return Found::Dname { node, owner: encloser_of_key };
            }
            let Some((name, node)) = self.nodes.get_key_value(suffix) else {
                return self.wildcard(encloser_of_key);
            };
            if node.kind == NodeKind::Cut {
                return Found::Cut { node, owner: suffix };
            }
            encloser = name.as_wire();
            encloser_of_key = suffix;
        }
        self.nodes.get(key).map_or(Found::Missing { encloser: encloser_of_key }, Found::Exact)
    }

    /// RFC 4592 §3.3.1: only directly below the closest encloser.
    fn wildcard<'k>(&self, encloser: &'k [u8]) -> Found<'_, 'k> {
        let mut key = [0u8; Name::OCTETS_MAX + 2];
        let length = encloser.len() + 2;
        key[..2].copy_from_slice(b"\x01*");
        if let Some(rest) = key.get_mut(2..length) {
            rest.copy_from_slice(encloser);
        }
        match key.get(..length).and_then(|key| self.nodes.get(key)) {
            Some(node) => Found::Wildcard { node, encloser },
            None => Found::Missing { encloser },
        }
    }

    /// Takes the keys of a zone in; the chain is made by [`Zone::link`] when all names are known.
    pub(crate) fn sign_with(&mut self, signer: Signer) {
        if let Some(node) = self.nodes.get_mut(&self.apex) {
            node.sets.extend(signer.apex_sets.iter().cloned());
            node.sets.sort_by_key(|set| set.of_type);
        }
        self.signer = Some(signer);
    }

    /// Makes the chain of names that denials are taken from. `services` gives the types that a published service may answer.
    pub(crate) fn link(&mut self, services: &dyn Fn(usize) -> Vec<RecordType>) {
        if let Some(signer) = self.signer.as_mut().filter(|signer| signer.presigned().is_none()) {
            signer.chain = Chain::new(&self.apex, &self.nodes, signer.denial, services);
        }
    }

    /// Makes the records that a secondary without our keys needs. Those of the SOA come with its serial, by [`Zone::sign_soa`].
    pub(crate) fn sign_all(&mut self, now: u32) {
        let Some(signer) = self.signer.as_ref().filter(|signer| signer.presigned().is_none()) else { return };
        let mut signed = Vec::new();
        for name in self.names() {
            let Some(node) = self.nodes.get(name) else { continue };
            let is_ours = |set: &&RrSet| match node.kind {
                NodeKind::Plain | NodeKind::Dname => set.of_type != RecordType::SOA,
                // RFC 4035 §2.2: of a cut only what is the parent's own.
                NodeKind::Cut => set.of_type == RecordType::DS,
                NodeKind::Occluded => false,
            };
            let sets = node.sets.iter().filter(is_ours);
            signed.extend(sets.map(|set| (name.clone(), signatures(signer, &self.apex, name, set, now))));
        }
        for proof in signer.chain.proofs(&self.apex) {
            let set = RrSet { of_type: proof.of_type, ttl: self.negative_ttl, data: vec![proof.rdata.into()] };
            let signatures = signatures(signer, &self.apex, &proof.owner, &set, now);
            signed.extend([(proof.owner.clone(), set), (proof.owner, signatures)]);
        }
        self.signed = signed;
    }

    pub(crate) fn sign_soa(&mut self, now: u32) {
        let Some(signer) = self.signer.as_ref().filter(|_| !self.signed.is_empty()) else { return };
        let signatures = signatures(signer, &self.apex, &self.apex, &self.soa, now);
        self.signed.push((self.apex.clone(), signatures));
    }

    /// Lets a published service answer at a name. An error says why it cannot.
    pub(crate) fn publish(&mut self, host: &Name, service: usize, alias: Alias) -> Result<(), String> {
        let node = self.nodes.entry(host.clone()).or_default();
        if node.kind != NodeKind::Plain {
            return Err(format!("{host} is delegated or redirected away"));
        }
        let taken = match alias {
            Alias::Never => [RecordType::A, RecordType::AAAA, RecordType::CNAME, RecordType::HTTPS]
                .into_iter()
                .find(|of_type| node.set(*of_type).is_some()),
            // RFC 2181 §10.1: an alias stands alone.
            Alias::Possible => node.sets.first().map(|set| set.of_type),
        };
        if let Some(of_type) = taken {
            return Err(format!("{host} has {of_type} records in the zone: both cannot be answered"));
        }
        node.service = Some(service);
        let mut above = host.parent();
        while let Some(name) = above.filter(|name| name.is_at_or_under(&self.apex)) {
            let node = self.nodes.entry(name.clone()).or_default();
            if matches!(node.kind, NodeKind::Cut | NodeKind::Dname | NodeKind::Occluded) {
                return Err(format!("{host} is below {name}, where the zone ends"));
            }
            above = name.parent();
        }
        Ok(())
    }

    /// Addresses that a referral or an additional section may carry, occluded or not.
    pub(crate) fn addresses(&self, name: &[u8]) -> impl Iterator<Item = &RrSet> {
        let node = self.nodes.get(name);
        [RecordType::A, RecordType::AAAA].into_iter().filter_map(move |of_type| node?.set(of_type))
    }

    pub(crate) fn holds(&self, name: &[u8]) -> bool {
        is_suffix(name, self.apex.as_wire())
    }

    /// Names in the order of RFC 4034 §6.1, for transfers and denials.
    pub(crate) fn names(&self) -> Vec<&Name> {
        let mut names: Vec<_> = self.nodes.keys().collect();
        names.sort_unstable();
        names
    }
}

fn signatures(signer: &Signer, apex: &Name, owner: &Name, set: &RrSet, now: u32) -> RrSet {
    let data: Vec<&[u8]> = set.data.iter().map(|data| &**data).collect();
    let signable = Signable { apex, owner: owner.as_wire(), of_type: set.of_type, ttl: set.ttl, data: &data };
    let made = match signer.sign(&signable, now, Budget::Free) {
        Signed::With(made) => made.iter().map(|made| made.clone().into()).collect(),
        Signed::Spent => Vec::new(),
    };
    RrSet { of_type: RecordType::RRSIG, ttl: set.ttl, data: made }
}

/// Puts records together and judges them as a zone. Problems are reported where a record was written.
pub(crate) struct ZoneBuilder<'c> {
    pub(crate) cx: &'c mut Context,
    /// The zone's table.
    pub(crate) at: &'c Path,
    pub(crate) apex: &'c Name,
    pub(crate) written: Written,
}

/// Whose zone it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    Here,
    /// Fetched: what its signer put at the apex is its own affair.
    Elsewhere,
}

struct Draft {
    sets: BTreeMap<RecordType, (RrSet, Origin)>,
}

impl ZoneBuilder<'_> {
    fn problem(&mut self, origin: &Origin, message: impl fmt::Display) {
        let message = format!("{origin}{message}");
        match origin {
            Origin::File { .. } => self.cx.error(&self.at.key("file"), message),
            Origin::Document(at) => self.cx.error(at, message),
            Origin::Made | Origin::Update => self.cx.error(self.at, message),
        };
    }

    fn advice(&mut self, origin: &Origin, message: impl fmt::Display) {
        let message = format!("{origin}{message}");
        match origin {
            Origin::File { .. } => self.cx.warning(&self.at.key("file"), message),
            Origin::Document(at) => self.cx.warning(at, message),
            Origin::Made | Origin::Update => self.cx.warning(self.at, message),
        };
    }

    /// `None`: not a zone that can be served; the report says why.
    pub(crate) fn build(mut self, records: Vec<Record>) -> Option<Zone> {
        let mut drafts: BTreeMap<Name, Draft> = BTreeMap::new();
        for record in records {
            let draft = drafts.entry(record.owner.clone()).or_insert_with(|| Draft { sets: BTreeMap::new() });
            self.add(draft, record);
        }
        self.check_apex(&drafts);
        for (owner, draft) in &drafts {
            self.check_owner(owner, draft);
        }
        let mut nodes = Nodes::with_capacity_and_hasher(drafts.len(), FixedState::default());
        for (owner, draft) in &drafts {
            let kind = match () {
                () if owner == self.apex => match draft.sets.contains_key(&RecordType::DNAME) {
                    true => NodeKind::Dname,
                    false => NodeKind::Plain,
                },
                () if draft.sets.contains_key(&RecordType::NS) => NodeKind::Cut,
                () if draft.sets.contains_key(&RecordType::DNAME) => NodeKind::Dname,
                () => NodeKind::Plain,
            };
            let sets = draft.sets.values().map(|(set, _)| set.clone()).collect();
            nodes.insert(owner.clone(), Node { sets, kind, service: None });
        }
        for owner in drafts.keys() {
            // RFC 4592 §2.2.2: names that only lead to others exist as well.
            let mut above = owner.parent();
            while let Some(name) = above.filter(|name| name.is_at_or_under(self.apex)) {
                nodes.entry(name.clone()).or_default();
                above = name.parent();
            }
        }
        self.occlude(&mut nodes, &drafts);
        self.check_targets(&nodes, &drafts);
        let soa = nodes.get(self.apex)?.set(RecordType::SOA)?.clone();
        let data = soa.data.first()?;
        let minimum = u32::from_be_bytes(*data.last_chunk()?);
        let [serial0, serial1, serial2, serial3, ..] = *data.last_chunk::<20>()?;
        let serial = u32::from_be_bytes([serial0, serial1, serial2, serial3]);
        let negative_ttl = soa.ttl.min(minimum);
        Some(Zone { apex: self.apex.clone(), nodes, soa, negative_ttl, serial, signer: None, signed: Vec::new() })
    }

    fn add(&mut self, draft: &mut Draft, record: Record) {
        let Record { owner, of_type, ttl, rdata, origin } = record;
        let Some((set, _)) = draft.sets.get_mut(&of_type) else {
            draft.sets.insert(of_type, (RrSet { of_type, ttl, data: vec![rdata] }, origin));
            return;
        };
        let canonical = rdata::canonical(of_type, &rdata);
        if set.data.iter().any(|other| rdata::canonical(of_type, other) == canonical) {
            return self.advice(&origin, format_args!("{owner} {of_type} is given twice"));
        }
        if ttl != set.ttl {
            // RFC 2181 §5.2: one time to live a set; the lesser is safe.
            let lesser = ttl.min(set.ttl);
            set.ttl = lesser;
            self.advice(&origin, format_args!("{owner} {of_type} has two times to live; {lesser} is used"));
        }
        if set.data.len() >= SET_MAX {
            return self.problem(&origin, format_args!("{owner} {of_type} has more than {SET_MAX} records"));
        }
        set.data.push(rdata);
    }

    /// RFC 1035 §5.2: one SOA, at the apex, and name servers.
    fn check_apex(&mut self, drafts: &BTreeMap<Name, Draft>) {
        let (apex, at) = (self.apex, self.at);
        let sets = drafts.get(apex).map(|draft| &draft.sets);
        match sets.and_then(|sets| sets.get(&RecordType::SOA)) {
            None => {
                self.cx
                    .error(at, format!("zone {apex} has no SOA"))
                    .help("give `soa = { mname = \"…\", rname = \"…\" }`");
            }
            Some((set, origin)) if set.data.len() > 1 => {
                self.problem(&origin.clone(), format_args!("zone {apex} has {} SOAs; one is right", set.data.len()));
            }
            Some(_) => {}
        }
        if !sets.is_some_and(|sets| sets.contains_key(&RecordType::NS)) {
            self.cx.error(at, format!("zone {apex} has no NS")).help("give `ns = [\"ns1.example.com\", …]`");
        }
    }

    fn check_owner(&mut self, owner: &Name, draft: &Draft) {
        let apex = self.apex;
        for (of_type, (set, origin)) in &draft.sets {
            let alone = matches!(*of_type, RecordType::CNAME | RecordType::DNAME);
            if alone && set.data.len() > 1 {
                self.problem(origin, format_args!("{owner} has {} {of_type} records; one is right", set.data.len()));
            }
            if *of_type == RecordType::SOA && owner != apex {
                self.problem(origin, format_args!("{owner}: a SOA stands at the apex {apex} only"));
            }
            let is_about = matches!(*of_type, RecordType::RRSIG | RecordType::NSEC | RecordType::NSEC3);
            let is_ours = self.written == Written::Here && *of_type == RecordType::NSEC3PARAM;
            if is_about || is_ours {
                self.problem(
                    origin,
                    format_args!("{owner} {of_type}: zones are signed here; leave it out, give `dnssec`"),
                );
            }
            if *of_type == RecordType::DS && (owner == apex || !draft.sets.contains_key(&RecordType::NS)) {
                self.problem(origin, format_args!("{owner}: DS needs NS beside it, below the apex (RFC 4035 §2.4)"));
            }
        }
        // RFC 2181 §10.1, RFC 4034 §3 and §4: nothing beside a CNAME but its signature and its NSEC.
        let others =
            |of_type: &&RecordType| !matches!(**of_type, RecordType::CNAME | RecordType::RRSIG | RecordType::NSEC);
        if let Some((_, origin)) = draft.sets.get(&RecordType::CNAME)
            && let Some(other) = draft.sets.keys().find(others)
        {
            self.problem(origin, format_args!("{owner} has a CNAME and {other} beside it (RFC 2181 §10.1)"));
        }
        // RFC 6672 §2.4.
        if let Some((_, origin)) = draft.sets.get(&RecordType::DNAME)
            && (owner != self.apex && draft.sets.contains_key(&RecordType::NS))
        {
            self.problem(origin, format_args!("{owner} has a DNAME and NS beside it (RFC 6672 §2.3)"));
        }
    }

    /// Marks what is below cuts and DNAMEs.
    fn occlude(&mut self, nodes: &mut Nodes, drafts: &BTreeMap<Name, Draft>) {
        let ends = nodes.iter().filter(|(_, node)| matches!(node.kind, NodeKind::Cut | NodeKind::Dname));
        let ends: HashMap<Name, NodeKind> = ends.map(|(name, node)| (name.clone(), node.kind)).collect();
        if ends.is_empty() {
            return;
        }
        let below = |name: &Name| {
            let mut above = name.parent();
            while let Some(here) = above {
                if let Some(kind) = ends.get(&here) {
                    return Some((here, *kind));
                }
                above = here.parent();
            }
            None
        };
        for (name, node) in nodes.iter_mut() {
            let Some((end, kind)) = below(name) else { continue };
            node.kind = NodeKind::Occluded;
            let Some((of_type, (_, origin))) = drafts.get(name).and_then(|draft| draft.sets.first_key_value()) else {
                continue;
            };
            match kind {
                NodeKind::Dname => {
                    self.problem(origin, format_args!("{name} is below the DNAME at {end} (RFC 6672 §2.4)"));
                }
                _ if !matches!(*of_type, RecordType::A | RecordType::AAAA) => {
                    self.advice(origin, format_args!("{name} {of_type} is below the delegation {end}: never answered"));
                }
                _ => {}
            }
        }
    }

    /// Name servers and mail hosts in the zone must have addresses and be no aliases (RFC 2181 §10.3).
    fn check_targets(&mut self, nodes: &Nodes, drafts: &BTreeMap<Name, Draft>) {
        for (owner, draft) in drafts {
            for of_type in [RecordType::NS, RecordType::MX] {
                let Some((set, origin)) = draft.sets.get(&of_type) else { continue };
                for data in &set.data {
                    let target = rdata::names_in(of_type, data).into_iter().next().and_then(|range| data.get(range));
                    let Some(target) = target.and_then(|wire| Name::from_wire(wire).ok()) else { continue };
                    // A cut's name server below it cannot be found without glue; others are only likely mistakes.
                    if of_type == RecordType::NS && owner != self.apex && target.is_at_or_under(owner) {
                        if !has_address(nodes.get(&target)) {
                            self.problem(origin, format_args!("{owner} {of_type} {target} has no address (glue)"));
                        }
                    } else if let Some(problem) = target_problem(&target, nodes, self.apex) {
                        self.advice(origin, format_args!("{owner} {of_type} {target} {problem}"));
                    }
                }
            }
        }
    }
}

fn target_problem(target: &Name, nodes: &Nodes, apex: &Name) -> Option<&'static str> {
    if target.is_root() || !target.is_at_or_under(apex) {
        return None;
    }
    let Some(node) = nodes.get(target) else {
        let covered = std::iter::successors(target.parent(), Name::parent)
            .any(|above| above.wildcard().is_ok_and(|name| nodes.contains_key(&name)) || is_end(nodes.get(&above)));
        return (!covered).then_some("has no address");
    };
    if node.set(RecordType::CNAME).is_some() {
        return Some("is an alias");
    }
    (!has_address(Some(node))).then_some("has no address")
}

fn has_address(node: Option<&Node>) -> bool {
    node.is_some_and(|node| node.set(RecordType::A).or(node.set(RecordType::AAAA)).is_some())
}

/// Below it, somebody else may have the address.
fn is_end(node: Option<&Node>) -> bool {
    node.is_some_and(|node| matches!(node.kind, NodeKind::Cut | NodeKind::Dname))
}

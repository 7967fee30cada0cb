//! All zones of a snapshot: compiled from their tables, found by the longest name.

use crate::{
    Name, RecordType,
    dnssec::{self, DenialSpec, DnssecSpec, RollPlan, Signer},
    journal::{Entry, Journal, Step},
    journals::Journals,
    kept::Kept,
    name::Suffixes,
    secondary::SecondaryPlan,
    spec::{SecondarySpec, SoaSpec, ZoneSpec},
    steer::Services,
    transfer::{self, TransferPlan},
    updater::UpdatePlan,
    zone::{RrSet, Written, Zone, ZoneBuilder},
    zone_file::{Origin, Record, ZoneReader},
};
use foldhash::fast::FixedState;
use portcullis_config::{Context, Path};
use portcullis_names::{ObjectName, TimeSpan};
use prometheus::IntCounter;
use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::OnceLock,
    time::Duration,
};

/// The zones that are served.
#[derive(Debug, Default)]
pub(crate) struct Zones {
    pub(crate) zones: Vec<ServedZone>,
    by_apex: HashMap<Name, usize, FixedState>,
}

#[derive(Debug)]
pub(crate) struct ServedZone {
    pub(crate) name: ObjectName,
    pub(crate) zone: Zone,
    pub(crate) transfer: Option<TransferPlan>,
    /// `None`: the zone is our own.
    pub(crate) secondary: Option<SecondaryPlan>,
    /// `None`: nobody may change it from outside.
    pub(crate) update: Option<UpdatePlan>,
    /// `None`: its keys are given, or it has none.
    pub(crate) roll: Option<RollPlan>,
    /// Of a zone that is given away signed: what its signatures are good for.
    signed_in: Option<u32>,
    serial_by: SerialBy,
    pub(crate) journal: Journal,
    /// Of everything but the serial: tells whether a reload changed the zone.
    content: u64,
    /// By code; resolved when the zone answers first.
    pub(crate) counters: OnceLock<Vec<IntCounter>>,
}

/// Who counts a zone's changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SerialBy {
    /// We: it moves when the zone does.
    Us,
    /// Whoever wrote the SOA.
    Author,
}

const ZONES_MAX: usize = 10_000;

impl Zones {
    /// `keys` are the names of shared secrets. `now` in seconds since 1970: serials that nobody gave are made from it.
    pub(crate) fn compile(
        specs: &BTreeMap<ObjectName, ZoneSpec>,
        previous: Option<&Self>,
        keys: &[&str],
        kept: &Kept,
        now: u32,
        cx: &mut Context,
    ) -> Self {
        let mut zones = Self::default();
        let root = Path::root().key("zone");
        if specs.len() > ZONES_MAX {
            cx.error(&root, format!("more than {ZONES_MAX} zones"));
            return zones;
        }
        let mut seen = HashMap::new();
        for (name, spec) in specs {
            let at = root.key(name);
            let Some(apex) = domain(&spec.name, &at.key("name"), cx) else { continue };
            if let Some(twin) = seen.insert(apex.clone(), name) {
                let other = root.key(twin).key("name");
                cx.error(&at.key("name"), format!("zone {apex} is defined twice")).also(&other, "here as well");
                continue;
            }
            let before = previous.and_then(|previous| previous.get(&apex));
            if let Some(zone) = compile_zone(name, spec, &apex, before, keys, kept, now, &at, cx) {
                zones.by_apex.insert(apex, zones.zones.len());
                zones.zones.push(zone);
            }
        }
        zones
    }

    pub(crate) fn get(&self, apex: &Name) -> Option<&ServedZone> {
        self.zones.get(*self.by_apex.get(apex)?)
    }

    pub(crate) fn gives_any(&self) -> bool {
        self.zones.iter().any(|zone| zone.transfer.is_some())
    }

    /// The zone of exactly this apex.
    pub(crate) fn at(&self, key: &[u8]) -> Option<&ServedZone> {
        self.zones.get(*self.by_apex.get(key)?)
    }

    /// The zone with the longest apex that holds a name. DS is the parent's data (RFC 4035 §3.1.4.1).
    pub(crate) fn find(&self, key: &[u8], of_type: RecordType) -> Option<(usize, &ServedZone)> {
        let mut own = None;
        for suffix in Suffixes(key) {
            let Some(index) = self.by_apex.get(suffix) else { continue };
            let found = self.zones.get(*index).map(|zone| (*index, zone));
            if of_type == RecordType::DS && suffix.len() == key.len() {
                own = found;
                continue;
            }
            return found;
        }
        own
    }

    /// The zone in which a new name would lie, to change it while a snapshot is being compiled.
    pub(crate) fn find_mut(&mut self, key: &[u8]) -> Option<&mut ServedZone> {
        let index = Suffixes(key).find_map(|suffix| self.by_apex.get(suffix))?;
        self.zones.get_mut(*index)
    }
}

/// A name as TOML has it; a mistake is reported.
pub(crate) fn domain(text: &str, at: &Path, cx: &mut Context) -> Option<Name> {
    match Name::absolute(text) {
        Ok(name) => Some(name),
        Err(error) => {
            cx.error(at, format!("`{text}` is not a domain name: {error}"));
            None
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "each is one independent input of the compilation")]
fn compile_zone(
    name: &ObjectName,
    spec: &ZoneSpec,
    apex: &Name,
    previous: Option<&ServedZone>,
    keys: &[&str],
    kept: &Kept,
    now: u32,
    at: &Path,
    cx: &mut Context,
) -> Option<ServedZone> {
    if let Some(secondary) = &spec.secondary {
        return compile_secondary(name, spec, secondary, apex, previous, keys, kept, now, at, cx);
    }
    let ttl = whole_seconds(spec.ttl, Duration::from_secs(300), &at.key("ttl"), cx);
    let mut reader = ZoneReader::new(apex, at.key("file"), cx);
    if let Some(file) = &spec.file {
        reader.file(file, spec.ttl.is_some().then_some(ttl));
    }
    reader.lines(&spec.records, &at.key("records"), Some(ttl));
    let mut records = reader.finish();
    let has = |of_type| records.iter().any(|record| record.of_type == of_type && record.owner == *apex);
    let (has_soa, has_ns) = (has(RecordType::SOA), has(RecordType::NS));
    let made = |of_type, ttl, rdata: Vec<u8>| Record {
        owner: apex.clone(),
        of_type,
        ttl,
        rdata: rdata.into(),
        origin: Origin::Made,
    };
    let mut makes_serial = false;
    if let Some(soa) = &spec.soa {
        if has_soa {
            cx.error(&at.key("soa"), "the SOA stands in the records as well").help("give it in one place");
        }
        makes_serial = soa.serial.is_none();
        let (rdata, ttl) = soa_data(soa, &at.key("soa"), cx)?;
        records.push(made(RecordType::SOA, ttl, rdata));
    }
    if !spec.ns.is_empty() && has_ns {
        cx.error(&at.key("ns"), "name servers stand in the records as well").help("give them in one place");
    }
    for (index, server) in spec.ns.iter().enumerate() {
        if let Some(server) = domain(server, &at.key("ns").index(index), cx) {
            records.push(made(RecordType::NS, ttl, server.as_wire().to_vec()));
        }
    }
    let mut update = spec.update.as_ref().map(|update| UpdatePlan::compile(update, keys, &at.key("update"), cx));
    if let Some(plan) = &mut update {
        match kept.updates.get(apex) {
            Ok(overlay) => plan.overlay = overlay,
            // What clients sent must not be forgotten because of a file that can be mended.
            Err(message) => _ = cx.error(&at.key("update"), message),
        }
        plan.base = records.clone();
        if let Some(overlay) = &plan.overlay {
            records = overlay.apply(records);
        }
    }
    let zone = ZoneBuilder { cx, at, apex, written: Written::Here }.build(records)?;
    let serial_by = if makes_serial { SerialBy::Us } else { SerialBy::Author };
    let transfer =
        spec.transfer.as_ref().map(|transfer| TransferPlan::compile(transfer, keys, &at.key("transfer"), cx));
    let mut served = ServedZone::new(name, zone, serial_by);
    served.content = content(&served.zone);
    (served.transfer, served.update) = (transfer, update);
    served.sign(spec.dnssec.as_ref(), ttl, previous, (kept, now), at, cx);
    if makes_serial {
        served.set_serial(match previous {
            Some(before) if before.content == served.content => before.zone.serial,
            // RFC 1982: a change moves on, even when the clock was set back.
            Some(before) => now.max(before.zone.serial.wrapping_add(1)),
            None => now,
        });
    }
    let sent = served.update.as_ref().and_then(|plan| Some(plan.overlay.as_ref()?.serial));
    // RFC 1982: what was told to secondaries with the last change is not gone back on.
    if let Some(serial) = sent.filter(|serial| serial.wrapping_sub(served.zone.serial) as i32 > 0) {
        served.set_serial(serial);
    }
    Some(served)
}

#[expect(clippy::too_many_arguments, reason = "each is one independent input of the compilation")]
fn compile_secondary(
    name: &ObjectName,
    spec: &ZoneSpec,
    secondary: &SecondarySpec,
    apex: &Name,
    previous: Option<&ServedZone>,
    keys: &[&str],
    kept: &Kept,
    now: u32,
    at: &Path,
    cx: &mut Context,
) -> Option<ServedZone> {
    let own = [
        ("file", spec.file.is_some()),
        ("records", !spec.records.is_empty()),
        ("ttl", spec.ttl.is_some()),
        ("soa", spec.soa.is_some()),
        ("ns", !spec.ns.is_empty()),
        ("update", spec.update.is_some()),
    ];
    for (key, _) in own.into_iter().filter(|(_, given)| *given) {
        cx.error(&at.key(key), format!("`{key}` is the primary's affair in a zone with `secondary`"));
    }
    let copy = kept.fetched.get(apex);
    let built = copy.as_ref().and_then(|copy| {
        // What somebody else wrote must not keep our own document from being served: it is told, and not answered from.
        let mut scratch = Context::default();
        let (records, presigned) = match spec.dnssec {
            Some(_) => (dnssec::strip(copy.records.clone()), None),
            None => dnssec::split(apex, copy.records.clone()),
        };
        let zone = ZoneBuilder { cx: &mut scratch, at, apex, written: Written::Elsewhere }.build(records);
        let (report, _) = scratch.finish();
        match report.has_errors() {
            false => zone.map(|zone| Zone { signer: presigned.map(Signer::elsewhere), ..zone }),
            true => {
                let first = report.lines().into_iter().next().unwrap_or_default();
                cx.warning(at, format!("zone {apex} was fetched and cannot be served: {first}"));
                None
            }
        }
    });
    let plan =
        SecondaryPlan::compile(secondary, keys, copy.as_deref().filter(|_| built.is_some()), &at.key("secondary"), cx);
    let zone = match built {
        Some(zone) => zone,
        None => placeholder(apex, at)?,
    };
    let mut served = ServedZone::new(name, zone, SerialBy::Author);
    served.transfer =
        spec.transfer.as_ref().map(|transfer| TransferPlan::compile(transfer, keys, &at.key("transfer"), cx));
    served.secondary = Some(plan);
    served.sign(spec.dnssec.as_ref(), 300, previous, (kept, now), at, cx);
    Some(served)
}

/// A zone of which nothing is known yet: it is there to be answered SERVFAIL.
fn placeholder(apex: &Name, at: &Path) -> Option<Zone> {
    let record = |of_type, rdata: Vec<u8>| Record {
        owner: apex.clone(),
        of_type,
        ttl: 0,
        rdata: rdata.into(),
        origin: Origin::Made,
    };
    let soa = [apex.as_wire(), apex.as_wire(), &[0; 20]].concat();
    let records = vec![record(RecordType::SOA, soa), record(RecordType::NS, vec![0])];
    ZoneBuilder { cx: &mut Context::default(), at, apex, written: Written::Elsewhere }.build(records)
}

impl ServedZone {
    fn new(name: &ObjectName, zone: Zone, serial_by: SerialBy) -> Self {
        Self {
            name: name.clone(),
            zone,
            transfer: None,
            secondary: None,
            update: None,
            roll: None,
            signed_in: None,
            serial_by,
            journal: Journal::default(),
            content: 0,
            counters: OnceLock::new(),
        }
    }

    /// Takes the keys of the zone in. `ttl` is that of its DNSKEY set.
    fn sign(
        &mut self,
        spec: Option<&DnssecSpec>,
        ttl: u32,
        previous: Option<&Self>,
        (kept, now): (&Kept, u32),
        at: &Path,
        cx: &mut Context,
    ) {
        let Some(spec) = spec else { return };
        let dnssec_at = at.key("dnssec");
        if let Some(automatic) = &spec.automatic {
            let at = dnssec_at.key("automatic");
            if !spec.keys.is_empty() {
                cx.error(&at, "keys are given and made as well").help("leave out `keys` or `automatic`");
            }
            let ttls = self.zone.nodes.values().flat_map(|node| &node.sets).map(|set| set.ttl);
            let plan = RollPlan::compile(automatic, ttl, ttls.max().unwrap_or(ttl), &at, cx);
            if let Some((conflict, file)) = kept.keys.conflict(&self.zone.apex, &plan) {
                return conflict.report(&self.zone.apex, file.as_deref(), &at, cx);
            }
            self.roll = Some(plan);
        }
        let apex = self.zone.apex.clone();
        let state = self.roll.as_ref().map(|plan| kept.keys.get(&apex, plan, now.into()));
        let rolled = self.roll.as_ref().zip(state.as_ref());
        let Some(mut signer) = Signer::compile(spec, &apex, ttl, rolled, &dnssec_at, cx) else { return };
        if let Some(before) = previous.and_then(|previous| previous.zone.signer.as_ref()) {
            signer.adopt(before);
            if signer.leaves_its_parent(before, &apex) {
                cx.warning(&dnssec_at, format!("zone {apex} has none of the keys left that its parent may point to"))
                    .help("keep the old one beside the new one until the parent has the new one's DS and no cache the old one's");
            }
        }
        if self.transfer.is_some() {
            if signer.denial == DenialSpec::Compact {
                let message = "absences that are proved one by one cannot be given to secondaries with the zone";
                cx.error(&dnssec_at.key("denial"), message).help("denial = \"nsec\" or \"nsec3\"");
            }
            if self.serial_by == SerialBy::Author {
                let message =
                    "a zone that is signed here and given away counts its own serial: signatures change by themselves";
                cx.error(&at.key("transfer"), message).help("give `soa` without `serial`, and no SOA in the records");
            }
        }
        self.zone.sign_with(signer);
    }

    /// Whether secondaries get it with signatures of ours.
    pub(crate) fn is_given_signed(&self) -> bool {
        self.transfer.is_some() && self.zone.signer.as_ref().is_some_and(|signer| signer.presigned().is_none())
    }

    /// Makes the signatures that secondaries get.
    pub(crate) fn sign_all(&mut self, now: u32) {
        if self.is_given_signed() {
            self.zone.sign_all(now);
            self.signed_in = self.zone.signer.as_ref().map(|signer| signer.period(now));
        }
    }

    /// Whether the signatures that secondaries get are of an earlier time than those that would be made now.
    pub(crate) fn is_signed_before(&self, now: u32) -> bool {
        self.signed_in.is_some() && self.signed_in != self.zone.signer.as_ref().map(|signer| signer.period(now))
    }

    /// Of a change that is made now.
    pub(crate) fn next_serial(&self, now: u32) -> u32 {
        let next = self.zone.serial.wrapping_add(1);
        match self.serial_by {
            SerialBy::Us => now.max(next),
            SerialBy::Author => next,
        }
    }

    /// Goes on from what an earlier process noted, if nothing has changed since.
    pub(crate) fn resume(&mut self, services: &Services, journals: &Journals) {
        if !self.keeps_journal() {
            return;
        }
        let Some(journal) = journals.get(&self.zone.apex, &self.content_given(services)) else { return };
        let Some(serial) = journal.serial() else { return };
        let counted = self.zone.serial;
        if self.serial_by == SerialBy::Us {
            self.set_serial(serial);
        }
        match journal.leads_to(&self.zone.soa) {
            true => self.journal = journal,
            false => self.set_serial(counted),
        }
    }

    /// Notes for the next process what changed.
    pub(crate) fn keep_journal(&self, services: &Services, journals: &Journals) {
        match self.keeps_journal() {
            true => journals.put(&self.zone.apex, &self.journal, || self.content_given(services)),
            false => journals.put(&self.zone.apex, &Journal::default(), String::new),
        }
    }

    /// Signatures are made anew when a process starts: no journal leads to them.
    fn keeps_journal(&self) -> bool {
        self.transfer.is_some() && !self.is_given_signed()
    }

    /// A digest of what secondaries get.
    fn content_given(&self, services: &Services) -> String {
        Entry::digest(&Entry::all_of(&transfer::sets(services, &self.zone)))
    }

    /// Goes on from an earlier version: a zone that is given away notes what changed, published services included.
    pub(crate) fn follow(
        &mut self,
        services: &Services,
        (before, services_before): (&Self, &Services),
        now: u32,
        cx: &mut Context,
    ) {
        if self.transfer.is_none() || before.transfer.is_none() {
            return self.zone.sign_soa(now);
        }
        let old = Entry::all_of(&transfer::sets(services_before, &before.zone));
        let new = Entry::all_of(&transfer::sets(services, &self.zone));
        // Ours are not signed over the SOA yet: its serial is about to be found.
        let unsigned: Vec<_> = match self.is_given_signed() {
            true => old.iter().filter(|entry| !entry.signs(RecordType::SOA)).cloned().collect(),
            false => old.clone(),
        };
        let is_same = Step::between((&before.zone, &unsigned), (&self.zone, &new)).is_empty();
        if !is_same && self.zone.serial == before.zone.serial {
            if self.serial_by == SerialBy::Author && self.update.is_none() {
                let at = Path::root().key("zone").key(&self.name);
                let message = format!("zone {} has changed and its serial has not", self.zone.apex);
                cx.warning(&at, message).help("secondaries will not follow: count the serial up, or leave it to `soa`");
                return;
            }
            self.set_serial(before.next_serial(now));
        }
        let new = match self.is_given_signed() {
            true => {
                self.zone.sign_soa(now);
                Entry::all_of(&transfer::sets(services, &self.zone))
            }
            false => new,
        };
        let is_ahead = self.zone.serial.wrapping_sub(before.zone.serial) as i32 > 0;
        self.journal = match self.zone.serial == before.zone.serial {
            true => before.journal.clone(),
            false if is_ahead => before.journal.with(Step::between((&before.zone, &old), (&self.zone, &new))),
            // RFC 1982: a serial that went back begins anew.
            false => Journal::default(),
        };
    }

    /// Whether it may be answered from.
    pub(crate) fn has_expired(&self, now: u32) -> bool {
        self.secondary.as_ref().is_some_and(|secondary| secondary.has_expired(now))
    }

    fn set_serial(&mut self, serial: u32) {
        let zone = &mut self.zone;
        zone.serial = serial;
        let node = zone.nodes.get_mut(&zone.apex);
        let set = node.and_then(|node| node.sets.iter_mut().find(|set| set.of_type == RecordType::SOA));
        for soa in set.into_iter().chain([&mut zone.soa]) {
            for data in &mut soa.data {
                // RFC 1035 §3.3.13: five numbers stand at the end, the serial first.
                let begin = data.len().saturating_sub(20);
                if let Some(place) = data.get_mut(begin..begin + 4) {
                    place.copy_from_slice(&serial.to_be_bytes());
                }
            }
        }
    }
}

/// Equal for zones that answer alike but for the SOA's serial.
fn content(zone: &Zone) -> u64 {
    let mut hasher = DefaultHasher::new();
    for name in zone.names() {
        let Some(node) = zone.nodes.get(name) else { continue };
        name.hash(&mut hasher);
        for RrSet { of_type, ttl, data } in &node.sets {
            (of_type, ttl).hash(&mut hasher);
            for data in data {
                let hidden = if *of_type == RecordType::SOA { 20 } else { 0 };
                data.get(..data.len().saturating_sub(hidden)).hash(&mut hasher);
                if hidden > 0 {
                    data.last_chunk::<16>().hash(&mut hasher);
                }
            }
        }
    }
    hasher.finish()
}

fn soa_data(spec: &SoaSpec, at: &Path, cx: &mut Context) -> Option<(Vec<u8>, u32)> {
    let mname = domain(&spec.mname, &at.key("mname"), cx);
    let rname = match spec.rname.split_once('@') {
        // RFC 1035 §8: dots of the mailbox's own part are escaped.
        Some((user, host)) => domain(&format!("{}.{host}", user.replace('.', "\\.")), &at.key("rname"), cx),
        None => domain(&spec.rname, &at.key("rname"), cx),
    };
    let mut time = |key: &str, value: Option<TimeSpan>, default: u64| {
        whole_seconds(value, Duration::from_secs(default), &at.key(key), cx)
    };
    let times = [
        time("refresh", spec.refresh, 3_600),
        time("retry", spec.retry, 900),
        time("expire", spec.expire, 604_800),
        time("minimum", spec.minimum, 60),
    ];
    let mut data = [mname?.as_wire(), rname?.as_wire()].concat();
    data.extend(spec.serial.unwrap_or_default().to_be_bytes());
    times.iter().for_each(|seconds| data.extend(seconds.to_be_bytes()));
    let [_, _, _, minimum] = times;
    Some((data, minimum.max(60)))
}

/// DNS counts in seconds (RFC 2181 §8: 31 bits of them).
pub(crate) fn whole_seconds(value: Option<TimeSpan>, default: Duration, at: &Path, cx: &mut Context) -> u32 {
    let span = value.map_or(default, TimeSpan::get);
    if span.subsec_nanos() != 0 {
        cx.error(at, "DNS counts in whole seconds");
    }
    u32::try_from(span.as_secs()).ok().filter(|seconds| *seconds <= i32::MAX as u32).unwrap_or(i32::MAX as u32)
}

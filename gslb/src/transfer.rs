//! Zones sent to secondaries: whole (RFC 5936), or what changed since the serial that they have (RFC 1995), as far as that is
//! known.

use crate::{
    Name, Rcode, RecordType,
    answer::{Asked, Transport},
    dnssec::Signer,
    message::{Flags, Full, Message, Section},
    query::{Query, Question},
    record_type::CLASS_IN,
    snapshot::Snapshot,
    spec::TransferSpec,
    steer::{Service, Services},
    tsig::Verified,
    zone::{Node, RrSet, Zone},
    zones::ServedZone,
};
use portcullis_config::{Context, Path};
use portcullis_names::{CidrSet, ObjectName};
use std::net::{IpAddr, SocketAddr};

/// Who may have a zone, and who is told of changes.
#[derive(Debug, Default)]
pub(crate) struct TransferPlan {
    to: Option<CidrSet>,
    keys: Vec<ObjectName>,
    pub(crate) notify: Vec<SocketAddr>,
}

/// Octets of one message of a transfer: what compression pointers reach.
const MESSAGE_MAX: usize = 16_000;
const NOTIFY_MAX: usize = 64;

impl TransferPlan {
    pub(crate) fn compile(spec: &TransferSpec, known: &[&str], at: &Path, cx: &mut Context) -> Self {
        if spec.to.is_empty() && spec.keys.is_empty() {
            cx.error(at, "the zone would be given to anybody").help("give `to`, `keys` or both");
        }
        for (index, key) in spec.keys.iter().enumerate().filter(|(_, key)| !known.contains(&key.as_str())) {
            cx.undefined(&at.key("keys").index(index), "tsig", key.as_str(), known.iter().copied());
        }
        if spec.notify.len() > NOTIFY_MAX {
            cx.error(&at.key("notify"), format!("more than {NOTIFY_MAX} addresses"));
        }
        Self {
            to: (!spec.to.is_empty()).then(|| CidrSet::new(&spec.to)),
            keys: spec.keys.clone(),
            notify: spec.notify.clone(),
        }
    }

    fn allows(&self, client: IpAddr, key: Option<&ObjectName>) -> bool {
        let by_address = self.to.as_ref().is_none_or(|to| to.contains(client));
        let by_key = self.keys.is_empty() || key.is_some_and(|key| self.keys.contains(key));
        by_address && by_key
    }
}

/// The messages of a transfer. An error is the one reply there is.
pub(crate) fn messages(
    snapshot: &Snapshot,
    query: &Query<'_>,
    question: &Question<'_>,
    asked: &Asked,
    mut verified: Option<Verified<'_>>,
) -> Result<Vec<Vec<u8>>, Rcode> {
    if question.class != CLASS_IN {
        return Err(Rcode::Refused);
    }
    // RFC 5936 §2.2.1: only a zone's own name.
    let served = snapshot.zones.at(question.key()).ok_or(Rcode::NotAuth)?;
    let key = verified.as_ref().map(|verified| &verified.key.name);
    let plan = served.transfer.as_ref().filter(|plan| plan.allows(asked.client, key));
    plan.ok_or(Rcode::Refused)?;
    if served.has_expired(asked.now) {
        return Err(Rcode::ServFail);
    }
    let zone = &served.zone;
    let is_ixfr = question.of_type == RecordType::IXFR;
    if !is_ixfr && asked.transport == Transport::Udp {
        // RFC 5936 §4.2: not defined.
        return Err(Rcode::FormErr);
    }
    // RFC 1982: what is not behind us is as new as can be.
    let is_current = query.ixfr_serial.is_some_and(|serial| (zone.serial.wrapping_sub(serial) as i32) <= 0);
    let only_soa = is_ixfr && (is_current || asked.transport == Transport::Udp);
    let soa = || (zone.apex.clone(), zone.soa.clone());
    let sets = if only_soa {
        vec![soa()]
    } else {
        let whole = sets(&snapshot.services, zone);
        match query.ixfr_serial.filter(|_| is_ixfr).and_then(|serial| difference(served, serial, whole.len())) {
            Some(difference) => [vec![soa()], difference, vec![soa()]].concat(),
            None => whole.into_iter().map(|(owner, set)| (owner.clone(), set)).collect(),
        }
    };
    let mut sender = Sender { query, question, messages: Vec::new(), room: 0 };
    sender.room = verified.as_ref().map_or(0, Verified::length);
    sender.send(&sets)?;
    let mut messages = sender.messages;
    if let Some(verified) = &mut verified {
        messages.iter_mut().for_each(|message| verified.sign(u64::from(asked.now), message));
    }
    Ok(messages)
}

fn difference(served: &ServedZone, serial: u32, whole: usize) -> Option<Vec<(Name, RrSet)>> {
    served.journal.since(&served.zone.apex, serial, whole)
}

/// All of a zone, SOA first and last. A secondary does not steer: it has every member of a published service.
pub(crate) fn sets<'z>(services: &Services, zone: &'z Zone) -> Vec<(&'z Name, RrSet)> {
    let soa = || (&zone.apex, zone.soa.clone());
    let mut all = vec![soa()];
    for name in zone.names() {
        let Some(node) = zone.nodes.get(name) else { continue };
        let sets = node.sets.iter().filter(|set| set.of_type != RecordType::SOA);
        all.extend(sets.map(|set| (name, set.clone())));
        all.extend(steered(services, node).into_iter().map(|set| (name, set)));
    }
    let elsewhere = zone.signer.as_ref().and_then(Signer::presigned).map_or(&[][..], |presigned| &presigned.records);
    all.extend(zone.signed.iter().chain(elsewhere).map(|(name, set)| (name, set.clone())));
    all.push(soa());
    all
}

fn steered(services: &Services, node: &Node) -> Vec<RrSet> {
    let service: Option<&Service> = node.service.and_then(|index| Some(&services.list.get(index)?.service));
    let Some(service) = service else { return Vec::new() };
    let members = || service.sites.iter().flat_map(|site| &site.members).map(|member| member.address);
    let v4 = members().filter_map(|address| match address {
        IpAddr::V4(v4) => Some(Box::from(v4.octets())),
        IpAddr::V6(_) => None,
    });
    let v6 = members().filter_map(|address| match address {
        IpAddr::V6(v6) => Some(Box::from(v6.octets())),
        IpAddr::V4(_) => None,
    });
    let set = |of_type, data| RrSet { of_type, ttl: service.ttl, data };
    let sets = [set(RecordType::A, v4.collect()), set(RecordType::AAAA, v6.collect())];
    sets.into_iter().filter(|set| !set.data.is_empty()).collect()
}

struct Sender<'q, 'd> {
    query: &'q Query<'d>,
    question: &'q Question<'d>,
    messages: Vec<Vec<u8>>,
    /// Octets of the signature.
    room: usize,
}

impl Sender<'_, '_> {
    fn send(&mut self, sets: &[(Name, RrSet)]) -> Result<(), Rcode> {
        let mut records = sets
            .iter()
            .flat_map(|(owner, set)| set.data.iter().map(move |data| (owner, set.of_type, set.ttl, data)))
            .peekable();
        while records.peek().is_some() {
            let mut out = Vec::new();
            // A record larger than a usual message has one of its own.
            let limit = usize::from(u16::MAX) - self.room;
            let mut message = Message::begin(&mut out, Some(self.question.octets), limit);
            while let Some((owner, of_type, ttl, data)) = records.peek() {
                if message.has_answer() && message.length() + data.len() > MESSAGE_MAX {
                    break;
                }
                match message.record(Section::Answer, owner.as_wire(), *of_type, *ttl, data) {
                    Ok(()) => _ = records.next(),
                    Err(Full) if message.has_answer() => break,
                    Err(Full) => return Err(Rcode::ServFail),
                }
            }
            message.finish(self.query.head, Flags(Flags::AUTHORITATIVE), Rcode::NoError, None, limit);
            self.messages.push(out);
        }
        Ok(())
    }
}

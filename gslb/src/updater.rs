//! Puts changes that clients send in force: who may send them, one after the other, and answered only when they are kept and
//! served.

use crate::{
    Name, Rcode,
    answer::Asked,
    message::{Flags, Message},
    server::Republish,
    snapshot::Snapshot,
    spec::UpdateSpec,
    steer::Clocks,
    tsig::{Rejected, Verified},
    update::{self, OVERLAY_MAX, Request, Sets},
    updates::{Job, Updates},
    zone_file::Record,
    zones::ServedZone,
};
use portcullis_config::{Context, Live, Path};
use portcullis_names::{CidrSet, ObjectName};
use std::{net::IpAddr, sync::Arc};

/// Who may change a zone, and what it was before anybody did.
#[derive(Debug)]
pub(crate) struct UpdatePlan {
    keys: Vec<ObjectName>,
    from: Option<CidrSet>,
    pub(crate) base: Vec<Record>,
    pub(crate) overlay: Option<Arc<update::Overlay>>,
}

impl UpdatePlan {
    pub(crate) fn compile(spec: &UpdateSpec, known: &[&str], at: &Path, cx: &mut Context) -> Self {
        if spec.keys.is_empty() {
            cx.error(&at.key("keys"), "anybody could change the zone").help("give `keys`, names of `[dns.tsig]`");
        }
        for (index, key) in spec.keys.iter().enumerate().filter(|(_, key)| !known.contains(&key.as_str())) {
            cx.undefined(&at.key("keys").index(index), "tsig", key.as_str(), known.iter().copied());
        }
        let from = (!spec.from.is_empty()).then(|| CidrSet::new(&spec.from));
        Self { keys: spec.keys.clone(), from, base: Vec::new(), overlay: None }
    }

    /// Security: both must hold.
    fn allows(&self, client: IpAddr, key: &ObjectName) -> bool {
        self.keys.contains(key) && self.from.as_ref().is_none_or(|from| from.contains(client))
    }
}

/// A look at a request before it is given a place in the queue: strangers get their answer at once.
pub(crate) fn admit(snapshot: &Snapshot, octets: &[u8], asked: &Asked) -> Result<(), Vec<u8>> {
    match judge(snapshot, octets, asked.client, asked.now.into()) {
        Ok(_) => Ok(()),
        Err(reply) => Err(reply),
    }
}

type Judged<'s, 'd> = (Request<'d>, &'s ServedZone, Verified<'s>);

fn judge<'s, 'd>(
    snapshot: &'s Snapshot,
    octets: &'d [u8],
    client: IpAddr,
    now: u64,
) -> Result<Judged<'s, 'd>, Vec<u8>> {
    let Some(request) = Request::read(octets) else { return Err(bare(octets, Rcode::FormErr)) };
    let refuse = |rcode| answer(&request, rcode);
    let Some(at) = request.tsig_at else { return Err(refuse(Rcode::Refused)) };
    let mut verified = match snapshot.plan.tsig.verify(octets, at, now) {
        Ok(verified) => verified,
        Err(rejected) => {
            let rcode = if matches!(rejected, Rejected::Malformed) { Rcode::FormErr } else { Rcode::NotAuth };
            let mut out = refuse(rcode);
            rejected.append(now, &mut out);
            return Err(out);
        }
    };
    let served = snapshot.zones.at(request.apex.as_wire());
    let rcode = match served {
        None => Rcode::NotAuth,
        Some(served) => match &served.update {
            Some(plan) if plan.allows(client, &verified.key.name) => return Ok((request, served, verified)),
            _ => Rcode::Refused,
        },
    };
    let mut out = refuse(rcode);
    verified.sign(now, &mut out);
    Err(out)
}

/// RFC 2136 §3.8: the header with the answer's code, and the zone section.
fn answer(request: &Request<'_>, rcode: Rcode) -> Vec<u8> {
    let mut out = Vec::new();
    let limit = usize::from(u16::MAX);
    let message = Message::begin(&mut out, Some(request.zone_section), limit);
    message.finish(request.head, Flags::default(), rcode, None, limit);
    out
}

fn bare(octets: &[u8], rcode: Rcode) -> Vec<u8> {
    let mut out = octets.get(..12).unwrap_or_default().to_vec();
    if let Some([_, _, flags0, flags1, counts @ ..]) = out.first_chunk_mut::<12>() {
        (*flags0, *flags1) = (*flags0 & 0x78 | 0x80, rcode.low());
        *counts = [0; 8];
    }
    out
}

/// Until the runtime ends.
pub(crate) async fn run(live: Live<Snapshot>, republish: Republish) {
    let updates = live.load().snapshot.kept.updates.clone();
    loop {
        let job = updates.next().await;
        let (live, republish) = (live.clone(), republish.clone());
        // It compiles, and may wait for locks: not on this thread.
        tokio::task::spawn_blocking(move || work(&live, &republish, job)).await.ok();
    }
}

fn work(live: &Live<Snapshot>, republish: &Republish, job: Job) {
    let snapshot = live.load().snapshot.clone();
    let now = Clocks::read().unix;
    let reply = match judge(&snapshot, &job.octets, job.client, now) {
        Err(reply) => reply,
        Ok((request, served, mut verified)) => {
            let outcome = change(live, republish, &snapshot, served, &request);
            let rcode = outcome.err().unwrap_or(Rcode::NoError);
            tracing::info!(zone = %request.apex, client = %job.client, key = %verified.key.name, rcode = rcode.as_str(), "zone update");
            let mut out = answer(&request, rcode);
            verified.sign(now, &mut out);
            out
        }
    };
    (job.reply)(reply);
}

fn change(
    live: &Live<Snapshot>,
    republish: &Republish,
    snapshot: &Snapshot,
    served: &ServedZone,
    request: &Request<'_>,
) -> Result<(), Rcode> {
    let zone = &served.zone;
    let Some(plan) = &served.update else { return Err(Rcode::Refused) };
    let before = Sets::of(zone);
    request.check(&before)?;
    request.scan(|owner, of_type| {
        let is_steered = zone.nodes.get(owner).is_some_and(|node| node.service.is_some());
        let is_free = !is_steered && update::may_change(zone, of_type);
        if is_free { Ok(()) } else { Err(Rcode::Refused) }
    })?;
    let mut after = before.clone();
    request.apply(&mut after);
    if after == before {
        return Ok(());
    }
    let serial = served.next_serial(Clocks::read().unix as u32);
    let overlay = after.overlay(&plan.base, serial);
    if overlay.len() > OVERLAY_MAX {
        tracing::warn!(zone = %zone.apex, most = OVERLAY_MAX, "too many records were sent to a zone");
        return Err(Rcode::Refused);
    }
    let (updates, overlay) = (&snapshot.kept.updates, Arc::new(overlay));
    keep(updates, &zone.apex, Some(overlay.clone()))?;
    republish.tell();
    let serves = live.load().snapshot.zones.get(&zone.apex).and_then(|zone| zone.update.as_ref()?.overlay.clone());
    if serves.is_some_and(|serves| Arc::ptr_eq(&serves, &overlay)) {
        return Ok(());
    }
    // It is no zone with this change; the host has told why.
    keep(updates, &zone.apex, plan.overlay.clone())?;
    Err(Rcode::Refused)
}

fn keep(updates: &Updates, apex: &Name, overlay: Option<Arc<update::Overlay>>) -> Result<(), Rcode> {
    updates.put(apex, overlay).map_err(|error| {
        // RFC 2136 §3.5: what cannot be kept is not confirmed.
        tracing::error!(zone = %apex, %error, "an update cannot be kept");
        Rcode::ServFail
    })
}

//! CONNECT over HTTP/1: authenticate, decide, dial, answer, and carry; or say why not, and wait for another try on the same
//! connection, as git and curl make one after a 407.

use super::{
    CallerFacts, Ended, FlowRecord, Octets, Tunnel,
    admission::{self, Refused},
    answer::{self, ESTABLISHED, Next},
    auth, inspect, local_process,
    tunnel::Around,
};
use crate::{
    conn::{Conn, ConnFacts, EdgeIo, Speaks},
    core::Core,
    listen::{ListenerPlan, PlanProtocol},
    snapshot::Edge,
};
use bytes::BytesMut;
use portcullis_auth::AuthRule;
use portcullis_egress::{FirstWord, Reason, Target, TlsMode, TunnelPlace, Verdict};
use portcullis_wire::proxy_request::ConnectHead;
use std::sync::Arc;

/// Serves one CONNECT whose head of `len` octets is in front of the connection. Gives the connection back when a request may
/// follow: after a refusal, or inside the tunnel where the gateway reads the requests itself; then with what is spoken there.
pub(crate) async fn serve(
    mut io: Box<EdgeIo>,
    conn: &Conn,
    head: ConnectHead,
    len: usize,
) -> Option<(Box<EdgeIo>, Speaks)> {
    io.consume(len);
    let plan = conn.plan();
    let facts = io.facts().clone();
    let mut record = FlowRecord::new("CONNECT");
    record.target = shown(head.authority());
    let asked = Asked { authority: head.authority(), authorization: head.proxy_authorization() };
    // Boxed, and gone when it is open: an idle tunnel pays for its own future only.
    match Box::pin(open(&plan, &conn.core, &facts, asked, &mut record)).await {
        Ok(opened) => {
            if io.send(ESTABLISHED).await.is_err() {
                record.tell(conn.core.edge(), &facts, Ended::Broken, None, Octets::default());
                return None;
            }
            opened.go_on(io, conn, record).await
        }
        Err((refused, challenges)) => {
            // What follows was meant for the tunnel: taken for a request, it would be one that nobody checked. A client of
            // HTTP/1.0 does not expect a second chance.
            let next = if head.minor_version() == 0 || !io.ahead().is_empty() || conn.is_draining() {
                Next::Close
            } else {
                Next::Request
            };
            record.tell(conn.core.edge(), &facts, Ended::Refused(refused.reason), None, Octets::default());
            io.send(answer::refusal(&refused, &record.request_id(), &challenges, next).as_bytes()).await.ok()?;
            match next {
                Next::Request => Some((io, Speaks::H1)),
                Next::Close => {
                    io.close().await;
                    None
                }
            }
        }
    }
}

/// A target as it may stand in a log before it was understood.
pub(crate) fn shown(target: &str) -> String {
    target.chars().filter(|c| !c.is_control()).take(TARGET_SHOWN).collect()
}

/// Longest target that is logged before it was understood.
const TARGET_SHOWN: usize = 300;

/// What all requests of a connection have in common, where the client did not write it into each of them.
#[derive(Debug)]
pub(crate) enum Pinned {
    /// They are inside a tunnel.
    Tunnel(ReadTunnel),
    /// A connection that was caught on its way: they are for this port, and Host says the name.
    Port(u16),
}

/// A tunnel whose inside the gateway reads: its requests are for this target, by this user.
#[derive(Debug)]
pub(crate) struct ReadTunnel {
    pub(crate) target: Target,
    pub(crate) user: Option<String>,
    /// Among the caller's tunnels, to its end.
    pub(crate) _place: Option<TunnelPlace>,
}

pub(crate) enum Opened {
    Tunnel(Box<Tunnel>),
    /// The destination's requests pass through the gateway's hands, each decided about by itself.
    Requests(ReadTunnel),
    /// The same, behind TLS that the gateway answers in the destination's place.
    Inspected(ReadTunnel),
}

/// What matters of a CONNECT, over whichever version of HTTP.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) authority: &'a str,
    pub(crate) authorization: Option<&'a [u8]>,
}

pub(crate) async fn open(
    plan: &ListenerPlan,
    core: &Core,
    facts: &Arc<ConnFacts>,
    asked: Asked<'_>,
    record: &mut FlowRecord,
) -> Result<Opened, (Refused, Vec<String>)> {
    let plain = |refused: Refused| (refused, Vec::new());
    let user = user_of(plan, facts, asked.authorization).await?;
    learn_process(core.edge(), facts).await;
    let caller = CallerFacts::new(facts, user);
    record.caller = Some(caller.clone());
    let target = Target::parse(asked.authority).map_err(|reason| plain(reason.into()))?;
    open_to(target, caller, core, record).await.map_err(plain)
}

/// Lets a caller to a target, however it was asked for.
pub(crate) async fn open_to(
    target: Target,
    caller: CallerFacts,
    core: &Core,
    record: &mut FlowRecord,
) -> Result<Opened, Refused> {
    record.set_target(&target);
    let snapshot = core.edge().snapshot();
    let Some(egress) = snapshot.egress.clone() else { return Err(Reason::NoDestination.into()) };
    let ahead = admission::look_ahead(&egress, &caller, &target);
    let sees = ahead.destination.as_ref().is_some_and(|destination| destination.sees_requests());
    if sees && opens_for_requests(ahead.verdict) {
        let tls = ahead.destination.as_ref().map(|destination| destination.tls());
        let place = admission::take_place(&egress, &caller, &ahead);
        let place = place.inspect_err(|_| record.decision = Some(ahead.clone()))?;
        let tunnel = ReadTunnel { target, user: caller.user(), _place: place };
        return Ok(match tls {
            Some(TlsMode::Inspect) => Opened::Inspected(tunnel),
            Some(TlsMode::Originate | TlsMode::Passthrough) | None => Opened::Requests(tunnel),
        });
    }
    let tunnel = Tunnel::open(egress, caller, &target, FirstWord::Awaited, record).await?;
    Ok(Opened::Tunnel(Box::new(tunnel)))
}

impl Opened {
    /// Carries the tunnel of a connection whose client was told that it is open; or gives the connection back, with what is spoken
    /// there, where the gateway reads the requests inside.
    pub(crate) async fn go_on(
        self,
        io: Box<EdgeIo>,
        conn: &Conn,
        record: Box<FlowRecord>,
    ) -> Option<(Box<EdgeIo>, Speaks)> {
        let (facts, patience) = (io.facts().clone(), conn.plan().limits.header_timeout);
        match self {
            Self::Tunnel(tunnel) => {
                let (transport, early, permit) = io.into_parts()?;
                let around = Around { core: &conn.core, facts: &facts, drain: conn.drain.clone(), patience };
                facts.open_tunnel();
                Box::pin(tunnel.carry(transport, early, around, record)).await;
                drop(permit);
                None
            }
            Self::Requests(tunnel) => {
                facts.pin(Pinned::Tunnel(tunnel));
                Some((io, Speaks::ByPreface))
            }
            Self::Inspected(tunnel) => {
                let (transport, early, permit) = io.into_parts()?;
                let opening = inspect::open(transport, early, &tunnel.target, &conn.core, patience);
                let inspected = Box::pin(opening).await;
                let (transport, speaks) = match inspected {
                    Ok(opened) => opened,
                    Err(ended) => {
                        record.tell(conn.core.edge(), &facts, ended, None, Octets::default());
                        return None;
                    }
                };
                facts.pin(Pinned::Tunnel(tunnel));
                Some((Box::new(EdgeIo::new(transport, BytesMut::new(), facts, permit)), speaks))
            }
        }
    }
}

/// What only the requests can tell is decided with them.
pub(crate) fn opens_for_requests(verdict: Verdict) -> bool {
    match verdict {
        Verdict::Allow | Verdict::Report(_) | Verdict::Deny(Reason::RequestUnseen) => true,
        Verdict::Deny(_) => false,
    }
}

/// The user that the listener's `auth` finds, or a refusal with its challenges.
pub(crate) async fn user_of(
    plan: &ListenerPlan,
    facts: &ConnFacts,
    authorization: Option<&[u8]>,
) -> Result<Option<String>, (Refused, Vec<String>)> {
    let Some(rule) = auth_of(plan) else { return Ok(None) };
    let identity = facts.tls.as_ref().and_then(|tls| tls.identity.as_ref());
    auth::authenticate(rule, authorization, identity)
        .await
        .map_err(|refusal| (Reason::ProxyAuthRequired.into(), rule.challenges(refusal)))
}

pub(crate) fn auth_of(plan: &ListenerPlan) -> Option<&Arc<AuthRule>> {
    match &plan.protocol {
        PlanProtocol::Proxy(proxy) => proxy.auth.as_ref(),
        PlanProtocol::Http
        | PlanProtocol::Https(_)
        | PlanProtocol::Tcp(_)
        | PlanProtocol::Tls(_)
        | PlanProtocol::Intercept(_)
        | PlanProtocol::Mesh(_) => None,
    }
}

/// Finds out whose process is at the other end, once a connection and only if a rule asks for it.
pub(crate) async fn learn_process(edge: &Edge, facts: &Arc<ConnFacts>) {
    let snapshot = edge.snapshot();
    let asks = snapshot.egress.as_ref().is_some_and(|egress| egress.plan.policy.asks_for_processes());
    let (Some(client), Some(ours)) = (facts.peer, facts.local) else { return };
    if !asks || facts.process_is_known() {
        return;
    }
    // Reads the kernel's tables: not on the core's thread. Without an answer no such rule matches: fails closed.
    let found = tokio::task::spawn_blocking(move || local_process::find(client, ours)).await;
    facts.set_process(found.ok().flatten());
}

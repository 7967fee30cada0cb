//! Connections that do not know of a proxy: the name is in their first octets, or there is none and the address they were for
//! must be one that a destination names.
//!
//! The address that the client had found for a name is never dialled: it may have been told another, or chosen another.

use super::{
    CallerFacts, Ended, FlowRecord, LiveEgress, Octets, Pinned, Refused, Tunnel, admission,
    connect::{self, ReadTunnel, learn_process},
    inspect,
    tunnel::{Around, ClientEnd, HELLO_BYTES},
};
use crate::{
    conn::{ConnFacts, Prefixed, Socket, Speaks, Transport, canonical},
    core::Core,
};
use bytes::{Bytes, BytesMut};
use portcullis_egress::{FirstOctets, FirstWord, Host, Protocol, Reason, SNIFF_MAX, Target, TlsMode, sniff};
use portcullis_wire::Parse;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{io, net::SocketAddr, num::NonZeroU16, rc::Rc, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{Instant, timeout_at},
};

/// An `sni` or `transparent` listener.
#[derive(Debug, Clone, Copy)]
pub enum InterceptPlan {
    /// Names lead here by DNS: which port was meant is configured.
    Named(Option<NonZeroU16>),
    Transparent(Capture),
}

/// How the packet filter leads connections here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Capture {
    /// By changing their destination (REDIRECT, DNAT); the kernel remembers the original one.
    #[default]
    Redirect,
    /// As they are, on a socket that takes any address (TPROXY). Needs CAP_NET_ADMIN.
    Tproxy,
}

/// A connection that speaks http, in the clear or inside TLS that was opened in its destination's place.
pub(crate) struct Caught {
    pub(crate) transport: Transport,
    pub(crate) front: BytesMut,
    pub(crate) facts: Arc<ConnFacts>,
    pub(crate) speaks: Speaks,
}

/// What a connection turned out to be.
pub(crate) enum Intercepted {
    Http(Caught),
    /// Open, and to be carried. Apart from what found it out, which is then gone.
    Tunnel(Box<Ready>),
}

pub(crate) struct Ready {
    tunnel: Tunnel,
    stream: Socket,
    front: BytesMut,
    record: Box<FlowRecord>,
    facts: Arc<ConnFacts>,
}

impl Ready {
    pub(crate) async fn carry(self, core: &Rc<Core>, drain: watch::Receiver<bool>) {
        let Self { tunnel, stream, front, record, facts } = self;
        let around = Around { core, facts: &facts, drain, patience: SERVER_FIRST };
        let tunnel = Box::new(tunnel);
        match stream {
            Socket::Tcp(tcp) => tunnel.run(ClientEnd::<TcpStream>::Socket(tcp), front, around, record).await,
            Socket::Unix(unix) => tunnel.run(ClientEnd::Stream(unix), front, around, record).await,
        }
    }
}

/// Longer than any client needs that speaks first, shorter than what a person notices.
const SERVER_FIRST: Duration = Duration::from_millis(150);
/// access_denied (RFC 8446 §6.2), fatal.
const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// Finds out what it is, and opens the way where it is a tunnel. `None`: it is over, and told.
pub(crate) async fn serve(
    mut stream: Socket,
    mut front: BytesMut,
    facts: ConnFacts,
    plan: &InterceptPlan,
    core: &Rc<Core>,
    deadline: Instant,
) -> Option<Intercepted> {
    let mut record = FlowRecord::new(match plan {
        InterceptPlan::Named(_) => "SNI",
        InterceptPlan::Transparent(_) => "TRANSPARENT",
    });
    let original = match plan {
        InterceptPlan::Named(_) => None,
        InterceptPlan::Transparent(capture) => match original_destination(&stream, *capture) {
            Some(original) => Some(original),
            None => {
                facts.metrics.connection_refused("no_original_destination");
                return None;
            }
        },
    };
    let snapshot = core.edge().snapshot();
    let facts = Arc::new(facts);
    learn_process(core.edge(), &facts).await;
    let caller = CallerFacts::new(&facts, None);
    record.caller = Some(caller.clone());
    let refused = |reason: Reason| Refused::from(reason);
    let Some(egress) = snapshot.egress.clone() else {
        record.tell(core.edge(), &facts, Ended::Refused(Reason::NoDestination), None, Octets::default());
        return None;
    };
    drop(snapshot);
    let silent = silence_is_allowed(&egress, &caller, original);
    let first = first_octets(&mut stream, &mut front, deadline, silent).await?;
    if first == FirstOctets::Http {
        let port = match (original, plan) {
            (Some(original), _) => original.port(),
            (None, InterceptPlan::Named(Some(port))) => port.get(),
            (None, _) => 80,
        };
        facts.pin(Pinned::Port(port));
        let transport = Transport::Clear(Prefixed::new(Bytes::new(), stream));
        return Some(Intercepted::Http(Caught { transport, front, facts, speaks: Speaks::ByPreface }));
    }
    if let FirstOctets::Tls(hello) = &first {
        record.sni.clone_from(&hello.sni);
    }
    if let Some(target) = inspected(&first, original, plan, &egress, &caller) {
        record.set_target(&target);
        let ahead = admission::look_ahead(&egress, &caller, &target);
        let place = match admission::take_place(&egress, &caller, &ahead) {
            Ok(place) => place,
            Err(refusal) => {
                // Best effort: who is refused may be gone.
                let _ = stream.write_all(&ALERT).await;
                record.decision = Some(ahead);
                record.tell(core.edge(), &facts, Ended::Refused(refusal.reason), None, Octets::default());
                return None;
            }
        };
        let transport = Transport::Clear(Prefixed::new(Bytes::new(), stream));
        let patience = deadline.saturating_duration_since(Instant::now());
        return match Box::pin(inspect::open(transport, front, &target, core, patience)).await {
            Ok((transport, speaks)) => {
                facts.pin(Pinned::Tunnel(ReadTunnel { target, user: None, _place: place }));
                Some(Intercepted::Http(Caught { transport, front: BytesMut::new(), facts, speaks }))
            }
            Err(ended) => {
                record.tell(core.edge(), &facts, ended, None, Octets::default());
                None
            }
        };
    }
    let outcome = match target(&first, original, plan) {
        Ok(target) => {
            record.set_target(&target);
            let word = if front.is_empty() { FirstWord::Awaited } else { FirstWord::Ready };
            Box::pin(Tunnel::open(egress, caller, &target, word, &mut record)).await
        }
        Err(reason) => Err(refused(reason)),
    };
    match outcome {
        Ok(tunnel) => Some(Intercepted::Tunnel(Box::new(Ready { tunnel, stream, front, record, facts }))),
        Err(refusal) => {
            if matches!(first, FirstOctets::Tls(_) | FirstOctets::BrokenHello) {
                // Best effort: who is refused may be gone.
                let _ = stream.write_all(&ALERT).await;
            }
            record.tell(core.edge(), &facts, Ended::Refused(refusal.reason), None, Octets::default());
            None
        }
    }
}

/// The name that is asked for, where its destination is one whose TLS the gateway opens.
fn inspected(
    first: &FirstOctets,
    original: Option<SocketAddr>,
    plan: &InterceptPlan,
    egress: &LiveEgress,
    caller: &CallerFacts,
) -> Option<Target> {
    // Without a certificate to sign with no destination is inspected.
    if !matches!(first, FirstOctets::Tls(_)) || egress.plan.inspection.is_none() {
        return None;
    }
    let target = target(first, original, plan).ok()?;
    let ahead = admission::look_ahead(egress, caller, &target);
    let inspects = ahead.destination.as_ref().is_some_and(|destination| destination.tls() == TlsMode::Inspect);
    (inspects && connect::opens_for_requests(ahead.verdict)).then_some(target)
}

/// The name that is asked for; where there is none, the address, which only a destination of addresses can allow.
fn target(first: &FirstOctets, original: Option<SocketAddr>, plan: &InterceptPlan) -> Result<Target, Reason> {
    let port = match (original, plan) {
        (Some(original), _) => original.port(),
        (None, InterceptPlan::Named(Some(port))) => port.get(),
        (None, _) => 443,
    };
    let by_address = |reason| original.map(|original| Target::new(Host::Address(original.ip()), port)).ok_or(reason);
    match first {
        FirstOctets::Tls(hello) => match &hello.sni {
            Some(name) => match Host::parse_bare(name) {
                Ok(Host::Name(name)) => Ok(Target::new(Host::Name(name), port)),
                Ok(Host::Address(_)) | Err(_) => Err(Reason::SniAddress),
            },
            None => by_address(Reason::SniMissing),
        },
        FirstOctets::BrokenHello => Err(Reason::HelloMalformed),
        FirstOctets::Silence => by_address(Reason::Silent),
        FirstOctets::Http | FirstOctets::Ssh | FirstOctets::Postgres | FirstOctets::Unknown => {
            by_address(Reason::ProtocolMismatch)
        }
    }
}

/// Whether the address belongs to somebody who may speak first: then a silent client is not waited for.
fn silence_is_allowed(egress: &LiveEgress, caller: &CallerFacts, original: Option<SocketAddr>) -> Patience {
    let Some(original) = original else { return Patience::Whole };
    let target = Target::new(Host::Address(original.ip()), original.port());
    let decision = admission::look_ahead(egress, caller, &target);
    let speaks_first = decision.destination.as_ref().is_some_and(|destination| match destination.protocol() {
        Protocol::Opaque | Protocol::Ssh => true,
        Protocol::Tls | Protocol::Http | Protocol::Postgres => false,
    });
    if speaks_first { Patience::Short } else { Patience::Whole }
}

#[derive(Clone, Copy)]
enum Patience {
    Short,
    Whole,
}

/// What the client says first; `None` when it is gone.
async fn first_octets(
    stream: &mut Socket,
    front: &mut BytesMut,
    deadline: Instant,
    patience: Patience,
) -> Option<FirstOctets> {
    let deadline = match patience {
        Patience::Whole => deadline,
        Patience::Short => deadline.min(Instant::now() + SERVER_FIRST),
    };
    loop {
        if let Parse::Complete { head, .. } = sniff(front) {
            return Some(head);
        }
        if front.len() > SNIFF_MAX {
            return Some(FirstOctets::Unknown);
        }
        front.reserve(HELLO_BYTES);
        match timeout_at(deadline, stream.read_buf(front)).await {
            Ok(Ok(1..)) => {}
            Ok(_) => return None,
            Err(_) if front.is_empty() => return Some(FirstOctets::Silence),
            Err(_) if front.first() == Some(&22) => return Some(FirstOctets::BrokenHello),
            Err(_) => return Some(FirstOctets::Unknown),
        }
    }
}

/// Where a connection was for before it was led here. `None`: it came by itself, and would be led in a circle.
pub(crate) fn original_destination(stream: &Socket, capture: Capture) -> Option<SocketAddr> {
    let Socket::Tcp(tcp) = stream else { return None };
    let local = canonical(tcp.local_addr().ok()?);
    match capture {
        Capture::Tproxy => Some(local),
        Capture::Redirect => {
            let socket = socket2::SockRef::from(tcp);
            // A socket of both families has IPv4 peers as mapped addresses, and only IPv4's table knows of them.
            let v4 = || -> io::Result<Option<SocketAddr>> { Ok(socket.original_dst_v4()?.as_socket()) };
            let v6 = || -> io::Result<Option<SocketAddr>> { Ok(socket.original_dst_v6()?.as_socket()) };
            let found = if local.is_ipv4() { v4() } else { v6() };
            found.ok().flatten().map(canonical).filter(|original| *original != local)
        }
    }
}

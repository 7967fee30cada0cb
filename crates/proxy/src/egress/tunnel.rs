//! One tunnel: opened by our own answers, its first octets compared with what was asked for, then carried until somebody is
//! done or it may not go on.

use super::{
    CallerFacts, EgressPlan, EgressState, Ended, FlowRecord, LiveEgress, Octets,
    admission::{self, Refused},
    outbound::{self, Held, Outbound},
    relay_any::relay_any,
    revoked::revoked,
};
use crate::{
    conn::{ConnFacts, Socket, Transport},
    core::Core,
};
use bytes::{Bytes, BytesMut};
use portcullis_egress::{
    Binding, CallerName, Destination, FirstOctets, FirstWord, LiveFlow, Moved, Permit, Protocol, Reason, Request,
    Resolved, SNIFF_MAX, Target, TunnelEnd, TunnelPlace, bind, relay, sniff,
};
use portcullis_ops::OpenTunnel;
use portcullis_wire::Parse;
use std::{
    rc::Rc,
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};

/// A tunnel whose destination has taken the connection; the client was not answered yet.
#[derive(Debug)]
pub(crate) struct Tunnel {
    egress: Arc<LiveEgress>,
    caller: CallerFacts,
    permit: Permit,
    resolved: Resolved,
    origin: Socket,
    /// What the destination said before anybody asked it.
    front: Bytes,
    held: Option<Held>,
    place: Option<TunnelPlace>,
}

/// A tunnel whose names were compared, and what is kept of it while octets flow.
struct Flow<S> {
    client: ClientEnd<S>,
    origin: Socket,
    live: LiveFlow,
    grant_end: Option<SystemTime>,
    idle: Duration,
    state: Arc<EgressState>,
    decided_by: Weak<EgressPlan>,
    held: Option<Held>,
    _place: Option<TunnelPlace>,
    _open: OpenTunnel,
    budget: Option<Budget>,
    moved: Moved,
    /// What it would have been refused for.
    reported: Option<Reason>,
    record: Box<FlowRecord>,
}

/// Where octets are counted, by caller and destination.
struct Budget {
    destination: Arc<Destination>,
    caller: CallerName,
    /// Octets that were counted.
    spent: u64,
}

/// What a tunnel runs beside.
pub(crate) struct Around<'a> {
    pub(crate) core: &'a Rc<Core>,
    pub(crate) facts: &'a ConnFacts,
    pub(crate) drain: watch::Receiver<bool>,
    /// How long a client may take to say its first octets.
    pub(crate) patience: Duration,
}

/// The client's end, as it can be moved best.
pub(crate) enum ClientEnd<S> {
    /// Spliced in the kernel.
    Socket(TcpStream),
    Stream(S),
}

/// Under a rule that reports and with no destination to say what is spoken: who speaks first is found out.
const SERVER_FIRST: Duration = Duration::from_millis(150);
/// Read in one go while a hello is waited for: one with post-quantum key shares has some 1.7 KiB.
pub(super) const HELLO_BYTES: usize = 2 << 10;
/// How often octets are counted against a budget.
const SPEND: Duration = Duration::from_millis(250);
/// access_denied (RFC 8446 §6.2), fatal, in a TLS 1.2 record, which every client understands.
const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

impl Tunnel {
    /// Decides, resolves, dials. `record` learns the grounds on the way.
    pub(crate) async fn open(
        egress: Arc<LiveEgress>,
        caller: CallerFacts,
        target: &Target,
        first: FirstWord,
        record: &mut FlowRecord,
    ) -> Result<Self, Refused> {
        let admitted = admission::admit(&egress, &caller, target, Request::Unseen);
        let permit = match admitted {
            Ok(admitted) => admitted.permit,
            Err(refused) => {
                record.decision = refused.decision.as_deref().cloned();
                return Err(refused);
            }
        };
        record.decision = Some(permit.decision().clone());
        let place = admission::take_place(&egress, &caller, permit.decision())?;
        let Outbound { socket: origin, front, resolved, to, held } =
            outbound::open(&egress, &permit, caller.address(), first).await?;
        record.endpoint = to;
        Ok(Self { egress, caller, permit, resolved, origin, front, held, place })
    }

    /// To its end. `early`: what the client has said already.
    pub(crate) async fn carry(
        self: Box<Self>,
        client: Transport,
        early: BytesMut,
        around: Around<'_>,
        record: Box<FlowRecord>,
    ) {
        match client {
            Transport::Clear(prefixed) => {
                let (front, socket) = prefixed.into_parts();
                let mut early = early;
                early.extend_from_slice(&front);
                match socket {
                    Socket::Tcp(tcp) => self.run(ClientEnd::<TcpStream>::Socket(tcp), early, around, record).await,
                    Socket::Unix(unix) => self.run(ClientEnd::Stream(unix), early, around, record).await,
                }
            }
            inside => self.run(ClientEnd::Stream(inside), early, around, record).await,
        }
    }

    pub(crate) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
        self: Box<Self>,
        client: ClientEnd<S>,
        early: BytesMut,
        around: Around<'_>,
        record: Box<FlowRecord>,
    ) {
        // Boxed, and gone when octets flow: a tunnel is idle for most of its life, and pays for what is left of it then.
        let Some(flow) = Box::pin(self.begin(client, early, &around, record)).await else { return };
        flow.run(around).await;
    }

    /// Compares the names, and passes on what both have said already. `None`: it is over, and told.
    async fn begin<S: AsyncRead + AsyncWrite + Unpin>(
        mut self: Box<Self>,
        mut client: ClientEnd<S>,
        mut early: BytesMut,
        around: &Around<'_>,
        record: Box<FlowRecord>,
    ) -> Option<Box<Flow<S>>> {
        let (edge, mut record) = (around.core.edge(), record);
        let Some(first) = self.first_octets(&mut client, &mut early, around.patience).await else {
            record.tell(edge, around.facts, Ended::Broken, None, Octets::default());
            return None;
        };
        let reported = match bind(self.permit.clone(), &first, &self.resolved) {
            Binding::Bound(_) => self.permit.decision().reason(),
            Binding::Reported(_, reason) => Some(reason),
            Binding::Refused(reason) => {
                if matches!(first, FirstOctets::Tls(_) | FirstOctets::BrokenHello) {
                    client.say_last(&ALERT).await;
                }
                record.learn_sni(first);
                record.tell(edge, around.facts, Ended::Refused(reason), None, Octets::default());
                return None;
            }
        };
        if reported.is_some() {
            let target = self.permit.target();
            self.egress.state.lock_learned().observe(&self.caller.borrow(), target, &first);
        }
        record.learn_sni(first);
        let moved = Moved::default();
        if self.pass_on(&mut client, &early, &moved).await.is_err() {
            let octets = Octets { up: moved.up.load(Relaxed), down: moved.down.load(Relaxed) };
            if let Some(held) = self.held.take() {
                held.judge(&moved);
            }
            record.tell(edge, around.facts, Ended::Broken, reported, octets);
            return None;
        }
        let destination = self.permit.destination();
        let budget = destination.filter(|destination| destination.counts_octets()).map(|destination| Budget {
            destination: destination.clone(),
            caller: self.caller.name(),
            spent: 0,
        });
        let open = edge.metrics.egress.tunnel_opened(destination.map(|destination| destination.name().as_str()));
        // Of the egress it keeps what lives on: a tunnel may last for days and must not keep an old configuration alive.
        Some(Box::new(Flow {
            client,
            live: LiveFlow::new(&self.caller.borrow(), &self.permit, Request::Unseen),
            grant_end: self.permit.grant_end(),
            idle: self.egress.plan.idle,
            state: self.egress.state.clone(),
            decided_by: Arc::downgrade(&self.egress.plan),
            origin: self.origin,
            held: self.held,
            _place: self.place,
            _open: open,
            budget,
            moved,
            reported,
            record,
        }))
    }

    async fn pass_on<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        client: &mut ClientEnd<S>,
        early: &[u8],
        moved: &Moved,
    ) -> std::io::Result<()> {
        self.origin.write_all(early).await?;
        moved.up.fetch_add(early.len() as u64, Relaxed);
        let front = std::mem::take(&mut self.front);
        if !front.is_empty() {
            client.say(&front).await?;
            moved.down.fetch_add(front.len() as u64, Relaxed);
        }
        Ok(())
    }

    /// What the client says first; `None` when it is gone.
    async fn first_octets<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        client: &mut ClientEnd<S>,
        early: &mut BytesMut,
        patience: Duration,
    ) -> Option<FirstOctets> {
        let patience = match self.permit.destination().map(|destination| destination.protocol()) {
            Some(Protocol::Opaque) => return Some(FirstOctets::Silence),
            Some(Protocol::Tls | Protocol::Http | Protocol::Ssh | Protocol::Postgres) => patience,
            None => SERVER_FIRST,
        };
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            if let Parse::Complete { head, .. } = sniff(early) {
                return Some(head);
            }
            if early.len() > SNIFF_MAX {
                return Some(FirstOctets::Unknown);
            }
            early.reserve(HELLO_BYTES);
            match tokio::time::timeout_at(deadline, client.read_some(early)).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return None,
                Err(_) if early.is_empty() => return Some(FirstOctets::Silence),
                Err(_) if early.first() == Some(&22) => return Some(FirstOctets::BrokenHello),
                Err(_) => return Some(FirstOctets::Unknown),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Flow<S> {
    async fn run(self: Box<Self>, around: Around<'_>) {
        let Self {
            client,
            origin,
            live,
            grant_end,
            idle,
            state,
            decided_by,
            held,
            _place,
            _open,
            mut budget,
            moved,
            ..
        } = *self;
        let (reported, record) = (self.reported, self.record);
        let Around { core, facts, mut drain, patience: _ } = around;
        let end = {
            // Lent to whoever carries: what is given away takes its place once in each future that it passes through.
            let mut cut = std::pin::pin!(async {
                tokio::select! {
                    reason = revoked(&live, grant_end, core.edge(), state.changes(), &decided_by) => reason,
                    reason = used_up(budget.as_mut(), &state, &moved) => reason,
                }
            });
            let drained = async {
                let _ = drain.wait_for(|draining| *draining).await;
                tokio::time::sleep(core.drain().streams).await;
            };
            let carried = async {
                match (client, origin) {
                    (ClientEnd::Socket(tcp), Socket::Tcp(origin)) => {
                        relay(tcp, origin, &state.pipes, &moved, idle, cut.as_mut()).await
                    }
                    (ClientEnd::Socket(tcp), origin @ Socket::Unix(_)) => {
                        relay_any(tcp, origin, &moved, idle, cut.as_mut()).await
                    }
                    (ClientEnd::Stream(stream), origin) => relay_any(stream, origin, &moved, idle, cut.as_mut()).await,
                }
            };
            tokio::select! {
                end = carried => Some(end),
                () = drained => None,
            }
        };
        // What was moved since the last count is spent as well; the tunnel is over either way.
        if let Some(budget) = &mut budget {
            let _: Result<(), Reason> = budget.spend(&state, &moved);
        }
        if let Some(held) = held {
            held.judge(&moved);
        }
        let ended = match end {
            Some(TunnelEnd::Finished) => Ended::Finished,
            Some(TunnelEnd::Broken(_)) => Ended::Broken,
            Some(TunnelEnd::Idle) => Ended::Idle,
            Some(TunnelEnd::Cut(reason)) => Ended::Cut(reason),
            None => Ended::Drained,
        };
        let octets = Octets { up: moved.up.load(Relaxed), down: moved.down.load(Relaxed) };
        record.tell(core.edge(), facts, ended, reported, octets);
    }
}

impl Budget {
    /// Counts what was moved since the last time.
    fn spend(&mut self, state: &EgressState, moved: &Moved) -> Result<(), Reason> {
        let total = moved.up.load(Relaxed).saturating_add(moved.down.load(Relaxed));
        let growth = total.saturating_sub(std::mem::replace(&mut self.spent, total));
        state.quotas.spend(&self.destination, &self.caller, growth, Instant::now(), SystemTime::now())
    }
}

async fn used_up(budget: Option<&mut Budget>, state: &EgressState, moved: &Moved) -> Reason {
    let Some(budget) = budget else { return std::future::pending().await };
    loop {
        tokio::time::sleep(SPEND).await;
        if let Err(reason) = budget.spend(state, moved) {
            return reason;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientEnd<S> {
    async fn read_some(&mut self, into: &mut BytesMut) -> std::io::Result<usize> {
        match self {
            Self::Socket(tcp) => tcp.read_buf(into).await,
            Self::Stream(stream) => stream.read_buf(into).await,
        }
    }

    async fn say(&mut self, octets: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Socket(tcp) => tcp.write_all(octets).await,
            Self::Stream(stream) => {
                stream.write_all(octets).await?;
                stream.flush().await
            }
        }
    }

    /// Best effort: who is refused may not listen any more.
    async fn say_last(&mut self, octets: &[u8]) {
        const LAST: Duration = Duration::from_secs(2);
        let said = async {
            match self {
                Self::Socket(tcp) => {
                    tcp.write_all(octets).await?;
                    tcp.shutdown().await
                }
                Self::Stream(stream) => {
                    stream.write_all(octets).await?;
                    stream.flush().await?;
                    stream.shutdown().await
                }
            }
        };
        let _ = tokio::time::timeout(LAST, said).await;
    }
}

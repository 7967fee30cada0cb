//! What the application sends: which service it is for, and how that one is reached.

use super::{
    Beyond, How, LiveMesh, MeshFacts, MeshListener, OutboundTarget, Security, Towards,
    board::Sighting,
    carrier::{Dialling, NotOpened, Opened, connect_reason},
    dialling::connect,
    first::{First, Patience, first, host},
    gateway,
    h2_stream::{self, Caller},
    record::{Ended, TunnelRecord},
    tunnels::{IDLE, until_drained, until_over},
};
use crate::{
    conn::{ConnFacts, Prefixed, Socket, Speaks, Transport},
    core::Core,
    egress::intercept::{Caught, original_destination},
    listen::Direction,
};
use bytes::{Bytes, BytesMut};
use portcullis_egress::{Moved, Reason as Cut};
use portcullis_health::TryOutcome;
use portcullis_mesh::{GlobalName, Protocol, SERVER_FIRST_AFTER};
use portcullis_names::{EndpointAddress, ObjectName};
use portcullis_policy::Reason;
use portcullis_upstream::{Cluster, NotPicked, Tried, Wish};
use portcullis_wire::{Parse, client_hello};
use std::{
    future::pending,
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::watch, time::Instant};

/// Tries at endpoints before giving up.
const TRIES: u32 = 3;

/// The way to an endpoint's application.
enum Way {
    Carried(Opened),
    Direct(TcpStream),
}

/// What is known of a connection by its first octets.
struct Sent {
    protocol: Protocol,
    /// Nothing came: the server is expected to speak.
    silent: bool,
}

/// Carries streams of octets to their end, or gives an http connection back.
pub(crate) async fn serve(
    mut stream: Socket,
    mut front: BytesMut,
    mut facts: ConnFacts,
    listener: &MeshListener,
    core: &Rc<Core>,
    drain: watch::Receiver<bool>,
    deadline: Instant,
) -> Option<Caught> {
    let MeshListener::Outbound { to, opaque, beyond } = listener else { return None };
    let live = core.edge().snapshot().mesh.clone()?;
    let original = match to {
        OutboundTarget::Service(_) => None,
        OutboundTarget::Captured(capture) => match original_destination(&stream, *capture) {
            Some(original) => Some(original),
            None => {
                facts.metrics.connection_refused("no_original_destination");
                return None;
            }
        },
    };
    let pinned = match to {
        OutboundTarget::Service(name) => Some(name.clone()),
        OutboundTarget::Captured(_) => original.and_then(|original| by_address(&live, core, original)),
    };
    let port = original.or(facts.local).map_or(0, |address| address.port());
    let sent = if opaque.contains(port) {
        Sent { protocol: Protocol::Opaque, silent: true }
    } else {
        match find_out(&mut stream, &mut front, &live, port, deadline).await {
            Some(sent) => sent,
            None => {
                facts.metrics.connection_refused("client_gone");
                return None;
            }
        }
    };
    if sent.silent && !opaque.contains(port) {
        core.edge().metrics.mesh.server_first();
        tracing::info!(listener = %facts.listener.name, port, "a client was silent: its server is taken to speak first");
    }
    let named = named(&live, &front, sent.protocol);
    let is_http = matches!(sent.protocol, Protocol::Http1 | Protocol::Http2);
    let known = pinned.is_some() || named.is_some() || live.plan.is_routed(host(&front).as_deref());
    let by_hbone = |name: &GlobalName| live.plan.services.get(name).is_some_and(|service| service.hbone.is_some());
    let as_octets = pinned.as_ref().or(named.as_ref()).is_some_and(by_hbone);
    if is_http && !as_octets && (known || matches!(beyond, Beyond::Refuse)) {
        let mut mesh = MeshFacts::new(Direction::Outbound, Security::Plain, port);
        (mesh.target, mesh.service) = (original, pinned);
        facts.set_mesh(mesh);
        let transport = Transport::Clear(Prefixed::new(Bytes::new(), stream));
        return Some(Caught { transport, front, facts: Arc::new(facts), speaks: Speaks::ByPreface });
    }
    let mut record = TunnelRecord::new(Direction::Outbound, "tcp", &live);
    record.sni = sni(&front, sent.protocol);
    let Socket::Tcp(client) = stream else { return None };
    let silent = (sent.silent && !opaque.contains(port)).then_some(port);
    let carried = Carried { live: &live, core, facts: &facts, drain, silent };
    match (pinned.or(named), beyond, original) {
        (Some(service), _, _) => carried.carry_to(client, front, &service, record).await,
        (None, Beyond::Refuse, _) | (None, Beyond::Pass, None) => {
            record.destination = "none".to_owned();
            record.endpoint = original;
            record.tell(core.edge(), &facts, Ended::Refused("no_service"), (0, 0));
        }
        (None, Beyond::Pass, Some(original)) => {
            record.destination = "none".to_owned();
            record.endpoint = Some(original);
            let way = connect(original, live.plan.mark, CONNECT_BEYOND).await.map(Way::Direct);
            match way {
                Ok(way) => carried.carry(client, front, way, record).await,
                Err(error) => record.tell(core.edge(), &facts, Ended::Failed(connect_reason(&error)), (0, 0)),
            }
        }
        (None, Beyond::Gateway(upstream), original) => {
            let authority = authority(&front, &sent, original);
            carried.beyond(client, front, upstream, authority, record).await;
        }
    }
    None
}

/// Whoever of the two speaks first on a connection whose client was silent; what the server says is passed on.
async fn first_word(
    live: &LiveMesh,
    silent: Option<u16>,
    client: &mut TcpStream,
    recv: &mut h2::RecvStream,
    moved: &Moved,
) -> Result<(), Ended> {
    let Some(port) = silent else { return Ok(()) };
    let frame = tokio::select! {
        _ = client.readable() => {
            live.state.outbound_ports(|ports| ports.client_spoke_first(port));
            return Ok(());
        }
        frame = recv.data() => frame,
        () = tokio::time::sleep(IDLE) => return Err(Ended::Idle),
    };
    let Some(Ok(frame)) = frame else { return Err(Ended::Broken) };
    live.state.outbound_ports(|ports| ports.server_spoke_first(port, Instant::now().into_std()));
    client.write_all(&frame).await.map_err(|_| Ended::Broken)?;
    moved.down.fetch_add(frame.len() as u64, Relaxed);
    recv.flow_control().release_capacity(frame.len()).map_err(|_| Ended::Broken)
}

const CONNECT_BEYOND: std::time::Duration = std::time::Duration::from_secs(5);

/// The service whose name, endpoint or address a captured connection was for.
fn by_address(live: &LiveMesh, core: &Rc<Core>, original: SocketAddr) -> Option<GlobalName> {
    if let Some((name, _)) = live.plan.services.at(original.ip()) {
        return Some(name.clone());
    }
    let snapshot = core.edge().snapshot();
    let wanted = EndpointAddress::Ip(original);
    let has = |upstream: &ObjectName| {
        let cluster = snapshot.clusters.find(upstream.as_str());
        cluster.is_some_and(|(_, cluster)| cluster.endpoints.iter().any(|endpoint| endpoint.address == wanted))
    };
    let mut all = live.plan.services.iter();
    all.find(|(_, service)| service.upstream.as_ref().is_some_and(has)).map(|(name, _)| name.clone())
}

async fn find_out(
    stream: &mut Socket,
    front: &mut BytesMut,
    live: &LiveMesh,
    port: u16,
    deadline: Instant,
) -> Option<Sent> {
    let now = Instant::now();
    let known = live.state.outbound_ports(|ports| ports.patience(port, SERVER_FIRST_AFTER, now.into_std()));
    let patience = Patience { first: (now + known).min(deadline), whole: deadline };
    match first(stream, front, patience).await {
        First::Gone => None,
        First::Silence => Some(Sent { protocol: Protocol::Opaque, silent: true }),
        First::Is(protocol) => {
            live.state.outbound_ports(|ports| ports.client_spoke_first(port));
            if protocol == Protocol::Tls {
                // For the name in it; what it is for is known without.
                super::first::whose(stream, front, deadline).await;
            }
            Some(Sent { protocol, silent: false })
        }
    }
}

fn sni(front: &[u8], protocol: Protocol) -> Option<String> {
    if protocol != Protocol::Tls {
        return None;
    }
    match client_hello::peek(front) {
        Ok(Parse::Complete { head, .. }) => head.sni,
        Ok(Parse::Incomplete) | Err(_) => None,
    }
}

/// The service that the first octets name.
fn named(live: &LiveMesh, front: &[u8], protocol: Protocol) -> Option<GlobalName> {
    let name = match protocol {
        Protocol::Tls => sni(front, protocol)?,
        Protocol::Http1 => host(front)?,
        Protocol::Http2 | Protocol::Opaque => return None,
    };
    live.plan.services.resolve(&name).map(|(name, _)| name.clone())
}

/// What an egress gateway is asked for.
fn authority(front: &[u8], sent: &Sent, original: Option<SocketAddr>) -> Option<String> {
    let default = match sent.protocol {
        Protocol::Http1 | Protocol::Http2 => 80,
        Protocol::Tls | Protocol::Opaque => 443,
    };
    let port = original.map_or(default, |original| original.port());
    let name = match sent.protocol {
        Protocol::Tls => sni(front, sent.protocol),
        Protocol::Http1 => host(front),
        Protocol::Http2 | Protocol::Opaque => None,
    };
    match name {
        Some(name) => Some(format!("{name}:{port}")),
        None => original.map(|original| original.to_string()),
    }
}

struct Carried<'c> {
    live: &'c Arc<LiveMesh>,
    core: &'c Rc<Core>,
    facts: &'c ConnFacts,
    drain: watch::Receiver<bool>,
    /// The port of a client that has not spoken: who speaks first is remembered.
    silent: Option<u16>,
}

impl Carried<'_> {
    async fn carry_to(self, client: TcpStream, front: BytesMut, service: &GlobalName, mut record: TunnelRecord) {
        record.destination = service.to_string();
        let snapshot = self.core.edge().snapshot();
        let upstream = self.live.plan.services.get(service).and_then(|service| service.upstream.clone());
        let found = upstream.as_ref().and_then(|upstream| {
            let (_, cluster) = snapshot.clusters.find(upstream.as_str())?;
            Some((cluster, self.live.plan.towards(upstream)?))
        });
        let Some((cluster, towards)) = found else {
            return record.tell(self.core.edge(), self.facts, Ended::Refused("no_service"), (0, 0));
        };
        record.upstream = upstream.clone();
        record.entry = Some(self.live.state.board.entry(Direction::Outbound, &record.destination));
        match self.way(cluster, towards, &mut record).await {
            Ok((way, pick)) => {
                self.carry(client, front, way, record).await;
                drop(pick);
            }
            Err(ended) => record.tell(self.core.edge(), self.facts, ended, (0, 0)),
        }
    }

    /// Opened to an endpoint that the balancer chose; another one when it cannot be reached.
    async fn way(
        &self,
        cluster: &Arc<Cluster>,
        towards: &Arc<Towards>,
        record: &mut TunnelRecord,
    ) -> Result<(Way, portcullis_upstream::Pick), Ended> {
        let mut tried = Tried::default();
        let mut last = None;
        loop {
            let now = std::time::Instant::now();
            let pick = cluster.pick(Wish::plain(fastrand::u64(..), now), &mut tried).map_err(|refused| {
                Ended::Failed(last.unwrap_or(match refused {
                    NotPicked::NoEndpoint => Reason::NoEndpoint,
                    NotPicked::Overflow => Reason::CircuitOpen,
                }))
            })?;
            record.attempts += 1;
            let Some(EndpointAddress::Ip(address)) = cluster.endpoints.get(pick.index).map(|found| &found.address)
            else {
                return Err(Ended::Failed(Reason::Internal));
            };
            record.endpoint = Some(*address);
            let reason = match self.reach(*address, cluster, towards, record).await {
                Ok(way) => {
                    let micros = u64::try_from(now.elapsed().as_micros()).unwrap_or(u64::MAX);
                    cluster.record(&pick, TryOutcome::Answered { status: 200, micros }, std::time::Instant::now());
                    return Ok((way, pick));
                }
                Err(Ended::Failed(reason)) => reason,
                // It is well, and says no: so would the others.
                Err(refused) => return Err(refused),
            };
            cluster.record(&pick, TryOutcome::NotConnected, std::time::Instant::now());
            last = Some(reason);
            if record.attempts >= TRIES {
                return Err(Ended::Failed(reason));
            }
        }
    }

    async fn reach(
        &self,
        endpoint: SocketAddr,
        cluster: &Cluster,
        towards: &Arc<Towards>,
        record: &mut TunnelRecord,
    ) -> Result<Way, Ended> {
        let (plan, state) = (&self.live.plan, &self.live.state);
        let now = std::time::Instant::now();
        let in_clear = match towards.how {
            How::Plain => true,
            How::MeshOrPlain => state.is_plain(endpoint, now),
            How::Mesh => false,
        };
        if !in_clear {
            let entry = state.board.entry(Direction::Outbound, &record.destination);
            let within = cluster.connect_timeout;
            let to = Dialling { plan, towards, endpoint, within, entry: &entry };
            record.security = Security::Mtls;
            match self.core.carriers().open(to).await {
                Ok(opened) => return Ok(Way::Carried(opened)),
                Err(NotOpened::NotTls) if towards.how == How::MeshOrPlain => state.found_plain(endpoint, now),
                Err(NotOpened::NotTls) => return Err(Ended::Failed(Reason::UpstreamTls)),
                Err(NotOpened::Refused(403)) => return Err(Ended::Refused("refused_by_peer")),
                Err(NotOpened::Refused(_)) => return Err(Ended::Failed(Reason::ConnectFailed)),
                Err(NotOpened::NotConnected(reason, error)) => {
                    tracing::debug!(%endpoint, service = %towards.name(), %error, "no stream to a service's endpoint");
                    return Err(Ended::Failed(reason));
                }
            }
        }
        record.security = Security::Plain;
        let direct = connect(endpoint, plan.mark, cluster.connect_timeout).await;
        let direct = direct.map_err(|error| Ended::Failed(connect_reason(&error)))?;
        state.board.entry(Direction::Outbound, &record.destination).sighted(Sighting {
            mode: Some(towards.mode.as_str()),
            security: Some(Security::Plain),
            protocol: Some("tcp"),
            ..Sighting::default()
        });
        Ok(Way::Direct(direct))
    }

    async fn carry(self, client: TcpStream, front: BytesMut, way: Way, record: TunnelRecord) {
        let Self { live, core, facts, drain, silent } = self;
        let mut client = client;
        let moved = Moved::default();
        moved.up.fetch_add(front.len() as u64, Relaxed);
        let state = live.state.clone();
        let ended = match way {
            Way::Direct(mut endpoint) => {
                if endpoint.write_all(&front).await.is_err() {
                    Ended::Broken
                } else {
                    drop(front);
                    if let Some(port) = silent {
                        tokio::select! {
                            _ = client.readable() => state.outbound_ports(|ports| ports.client_spoke_first(port)),
                            _ = endpoint.readable() => {
                                state.outbound_ports(|ports| ports.server_spoke_first(port, Instant::now().into_std()));
                            }
                            () = tokio::time::sleep(IDLE) => {}
                        }
                    }
                    let uncut = pending::<Cut>();
                    let relayed = pin!(portcullis_egress::relay(client, endpoint, &state.pipes, &moved, IDLE, uncut));
                    until_drained(relayed, core, drain).await
                }
            }
            Way::Carried(opened) => {
                let (mut ends, place) = opened.into_parts();
                if h2_stream::send_whole(&mut ends.send, front.freeze()).await.is_err() {
                    Ended::Broken
                } else if let Err(ended) = first_word(live, silent, &mut client, &mut ends.recv, &moved).await {
                    ended
                } else {
                    let relayed = pin!(h2_stream::relay(client, ends, Caller::Tcp, &moved, IDLE, pending::<Cut>()));
                    let drained = pin!(until_drained(relayed, core, drain));
                    until_over(Some(place.lifetime()), drained).await
                }
            }
        };
        record.tell(core.edge(), facts, ended, (moved.up.load(Relaxed), moved.down.load(Relaxed)));
    }

    /// Through the egress gateway, which decides by our identity.
    async fn beyond(
        self,
        client: TcpStream,
        front: BytesMut,
        upstream: &ObjectName,
        authority: Option<String>,
        mut record: TunnelRecord,
    ) {
        record.destination = "none".to_owned();
        record.upstream = Some(upstream.clone());
        let snapshot = self.core.edge().snapshot();
        let (Some((_, cluster)), Some(authority)) = (snapshot.clusters.find(upstream.as_str()), authority) else {
            return record.tell(self.core.edge(), self.facts, Ended::Refused("no_service"), (0, 0));
        };
        let Self { live, core, facts, mut drain, .. } = self;
        let opened = gateway::open(cluster, &authority, live.plan.mark, &mut record).await;
        let opened = match opened {
            Ok(opened) => opened,
            Err(ended) => return record.tell(core.edge(), facts, ended, (0, 0)),
        };
        let moved = Moved::default();
        let relayed = gateway::relay(client, front, opened, &moved);
        let ended = tokio::select! {
            ended = relayed => ended,
            () = async {
                let _ = drain.wait_for(|draining| *draining).await;
                tokio::time::sleep(core.drain().streams).await;
            } => Ended::Drained,
        };
        record.tell(core.edge(), facts, ended, (moved.up.load(Relaxed), moved.down.load(Relaxed)));
    }
}

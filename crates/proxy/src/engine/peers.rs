//! What pingora is told to reach each endpoint: made once per snapshot, copied per request.

use super::{
    bridge::{Bridge, Bridges, Offer},
    dial::{self, Dial, DialTls, Dialer, MeshDial},
    upstream_io::UpstreamIo,
};
use crate::mesh::LiveMesh;
use bytes::Bytes;
use pingora::{
    Result,
    protocols::{ALPN, l4::socket::SocketAddr as PeerAddress},
    upstreams::peer::HttpPeer,
};
use portcullis_health::EjectReason;
use portcullis_names::EndpointAddress;
use portcullis_ops::metrics::{EndpointMetrics, Metrics, UpstreamMetrics};
use portcullis_upstream::{Cluster, ClusterId, Clusters, HttpProtocol};
use std::{
    collections::hash_map::DefaultHasher,
    fmt,
    hash::{Hash, Hasher},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

/// The templates of a snapshot's endpoints.
#[derive(Debug)]
pub struct Peers(Vec<ClusterPeers>);

#[derive(Debug)]
pub(crate) struct ClusterPeers {
    pub(crate) metrics: UpstreamMetrics,
    pub(crate) endpoints: Vec<EndpointPeer>,
}

pub(crate) struct EndpointPeer {
    pub(crate) metrics: EndpointMetrics,
    pub(crate) dialer: Arc<Dialer>,
    template: HttpPeer,
    /// h2 inside TLS.
    bridged: bool,
    /// Tells the connections of the lane apart; `None`: it does not speak HTTP/1.1.
    way: Option<u64>,
}

/// How one request gets to an endpoint.
pub(super) struct Reach {
    pub(super) peer: Box<HttpPeer>,
    /// Over h2 by a connection of our own making.
    bridge: Option<(Arc<Dialer>, Offer)>,
}

/// How one request gets to an endpoint without the engine: by HTTP/1.1 on a connection of the lane's.
pub(super) struct Straight<'e> {
    dialer: &'e Arc<Dialer>,
    /// In the place of the dialer's own address.
    to: Option<SocketAddr>,
    /// Tells connections apart: those that are pooled by the same are as good as one another.
    pub(super) way: u64,
    /// How long one is kept.
    pub(super) rest: Duration,
}

impl Peers {
    pub fn new(clusters: &Clusters, metrics: &Arc<Metrics>, mesh: Option<&LiveMesh>) -> Self {
        Self(clusters.iter().map(|cluster| ClusterPeers::new(cluster, metrics, mesh)).collect())
    }

    /// Brings the endpoints' series up to what was counted.
    pub fn sync_metrics(&self, clusters: &Clusters, now: Instant) {
        for (peers, cluster) in self.0.iter().zip(clusters.iter()) {
            for (peer, endpoint) in peers.endpoints.iter().zip(&cluster.endpoints) {
                peer.metrics.up(endpoint.state.state(now).is_usable());
                peer.metrics.sync(endpoint.state.requests(), endpoint.state.active());
            }
        }
    }

    /// Makes an ejection known.
    pub fn ejected(&self, id: ClusterId, index: usize, reason: EjectReason) {
        let Some(endpoint) = self.cluster(id).and_then(|peers| peers.endpoints.get(index)) else { return };
        endpoint.metrics.ejected(reason.as_str());
        tracing::warn!(endpoint = %endpoint.dialer.address, %reason, "endpoint ejected");
    }

    pub(crate) fn cluster(&self, id: ClusterId) -> Option<&ClusterPeers> {
        self.0.get(id)
    }
}

impl ClusterPeers {
    fn new(cluster: &Cluster, metrics: &Arc<Metrics>, mesh: Option<&LiveMesh>) -> Self {
        let h2 = cluster.protocol != HttpProtocol::H1;
        let alpn: &[u8] = if h2 { b"h2" } else { b"http/1.1" };
        let service = mesh.and_then(|mesh| MeshDial::new(mesh, &cluster.name, metrics));
        let tls = cluster.tls.as_ref().map(|tls| DialTls {
            config: tls.config(alpn),
            server_name: tls.server_name.clone(),
            mesh: service.clone(),
        });
        // pingora's pool key knows neither our TLS settings nor whose connection it is. As long as neither changes, pooled
        // connections live on over reloads.
        let group = hash((&cluster.name, cluster.tls.as_ref().map(portcullis_tls::UpstreamTls::group_key)));
        let endpoints = cluster.endpoints.iter().map(|endpoint| {
            let handles = metrics.endpoint(cluster.name.as_str(), &endpoint.address.to_string());
            let dialer = Arc::new(Dialer {
                address: endpoint.address.clone(),
                tls: tls.clone(),
                connect_timeout: cluster.connect_timeout,
                head_timeout: cluster.read_timeout,
                write_timeout: cluster.write_timeout,
                load: cluster.load.clone(),
                breaker: cluster.circuit_breaker,
                through: None,
                mark: mesh.and_then(|mesh| mesh.plan.mark),
            });
            EndpointPeer {
                metrics: handles,
                template: template(cluster, &dialer, group),
                bridged: h2 && tls.is_some(),
                way: (!h2).then(|| hash((group, endpoint.address.to_string()))),
                dialer,
            }
        });
        Self { metrics: metrics.upstream(cluster.name.as_str()), endpoints: endpoints.collect() }
    }
}

/// What one client that does not read its download can make us hold of it; 256 MB a second over a way of a millisecond.
const STREAM_WINDOW: u32 = 256 << 10;
/// RFC 9113 §6.9.1.
const WINDOW_MAX: u32 = (1 << 31) - 1;

/// Room for all streams of a connection: those that stand still leave the others theirs. pingora's own default is that of a
/// single stream.
fn connection_window(streams: u32) -> u32 {
    STREAM_WINDOW.saturating_mul(streams).min(WINDOW_MAX)
}

fn template(cluster: &Cluster, dialer: &Arc<Dialer>, group: u64) -> HttpPeer {
    let nowhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 1);
    let mut peer = match &dialer.address {
        EndpointAddress::Ip(address) => HttpPeer::new(*address, false, String::new()),
        EndpointAddress::Unix(path) => HttpPeer::new_uds(&path.to_string_lossy(), false, String::new())
            .unwrap_or_else(|_| HttpPeer::new(nowhere, false, String::new())),
    };
    peer.group_key = group;
    let options = &mut peer.options;
    options.connection_timeout = Some(cluster.connect_timeout);
    options.total_connection_timeout = Some(cluster.connect_timeout * 2);
    options.read_timeout = Some(cluster.read_timeout);
    options.write_timeout = Some(cluster.write_timeout);
    options.idle_timeout = Some(cluster.idle_timeout);
    options.max_h2_streams = cluster.streams as usize;
    match cluster.protocol {
        HttpProtocol::H1 => {
            options.alpn = dial::marker();
            options.proxy_digest_user_data_hook =
                Some(dial::carry(Dial { dialer: dialer.clone(), proxy_header: Bytes::new() }));
        }
        HttpProtocol::H2 | HttpProtocol::H2c => {
            options.alpn = ALPN::H2;
            options.h2_stream_window_size = Some(STREAM_WINDOW);
            options.h2_connection_window_size = Some(connection_window(cluster.streams));
            if dialer.tls.is_some() {
                peer.group_key = hash((group, dialer.address.to_string()));
            }
        }
    }
    peer
}

/// The version of HTTP that a destination is asked to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum By {
    H1,
    H2,
}

/// Requests at one time on a connection to a destination; its SETTINGS may say less.
const STREAMS: usize = 100;

/// The way to an address that was found for one request; `group` has all that tells its connections apart: they are pooled with those
/// of the same `group`.
pub(super) fn outgoing(
    dialer: Arc<Dialer>,
    address: SocketAddr,
    group: u64,
    idle: Duration,
    silence: Duration,
    by: By,
) -> Reach {
    let mut peer = HttpPeer::new(address, false, String::new());
    peer.group_key = group;
    let options = &mut peer.options;
    // Behind a parent there are its steps as well, each with a timeout of its own.
    let steps = if dialer.through.is_some() { 8 } else { 2 };
    options.connection_timeout = Some(dialer.connect_timeout * (steps / 2));
    options.total_connection_timeout = Some(dialer.connect_timeout * steps);
    options.read_timeout = Some(silence);
    options.write_timeout = Some(silence);
    options.idle_timeout = Some(idle);
    let bridge = match by {
        By::H1 => {
            options.alpn = dial::marker();
            options.proxy_digest_user_data_hook = Some(dial::carry(Dial { dialer, proxy_header: Bytes::new() }));
            None
        }
        By::H2 => {
            options.alpn = ALPN::H2;
            options.max_h2_streams = STREAMS;
            Some((dialer, Offer::AnyHttp))
        }
    };
    Reach { peer: Box::new(peer), bridge }
}

impl Reach {
    /// Whether the engine speaks h2 in clear text to what is inside our TLS.
    pub(super) fn is_h2_in_tls(&self) -> bool {
        self.bridge.as_ref().is_some_and(|(dialer, _)| dialer.tls.is_some())
    }

    pub(super) fn peer(self, bridges: &Bridges) -> Box<HttpPeer> {
        let mut peer = self.peer;
        if let Some((dialer, offer)) = self.bridge {
            // See `bridge`: for this address the connection stays in the pool, and the group tells connections apart.
            peer._address = PeerAddress::Inet(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 1));
            peer.options.custom_l4 = Some(Arc::new(Bridge { dialer, offer, bridges: bridges.clone() }));
        }
        peer
    }
}

impl Straight<'_> {
    /// A new connection.
    pub(super) async fn dial(&self) -> Result<Box<UpstreamIo>> {
        let dialer = self.to.map_or_else(|| self.dialer.clone(), |to| towards(self.dialer, to));
        let io = Dial { dialer, proxy_header: Bytes::new() }.connect().await?;
        Ok(Box::new(io))
    }

    /// The longest time in which the upstream takes nothing.
    pub(super) fn write_timeout(&self) -> Duration {
        self.dialer.write_timeout
    }
}

fn towards(dialer: &Dialer, to: SocketAddr) -> Arc<Dialer> {
    Arc::new(Dialer { address: EndpointAddress::Ip(to), ..dialer.clone() })
}

fn hash(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

impl EndpointPeer {
    pub(super) fn reach(&self) -> Reach {
        Reach { peer: self.peer(), bridge: self.bridged.then(|| (self.dialer.clone(), Offer::H2)) }
    }

    fn peer(&self) -> Box<HttpPeer> {
        Box::new(self.template.clone())
    }

    /// The application behind a sidecar: at the address that its connection was for, by the version that the caller speaks.
    pub(super) fn application(&self, to: Option<SocketAddr>, version: http::Version) -> Reach {
        let Some(to) = to else { return self.reach() };
        let mut peer = self.peer();
        peer.group_key = hash((peer.group_key, version == http::Version::HTTP_2));
        peer._address = PeerAddress::Inet(to);
        if version == http::Version::HTTP_2 {
            peer.options.alpn = ALPN::H2;
            peer.options.proxy_digest_user_data_hook = None;
            return Reach { peer, bridge: None };
        }
        let dial = Dial { dialer: towards(&self.dialer, to), proxy_header: Bytes::new() };
        peer.options.proxy_digest_user_data_hook = Some(dial::carry(dial));
        Reach { peer, bridge: None }
    }

    /// `to`: the address of the application behind a sidecar.
    pub(super) fn straight(&self, to: Option<SocketAddr>) -> Option<Straight<'_>> {
        let way = to.map_or(self.way?, |to| hash((self.way, to)));
        Some(Straight { dialer: &self.dialer, to, way, rest: Duration::ZERO })
    }

    /// A connection for one client: it begins with the client's PROXY header and is nobody else's.
    pub(super) fn reach_for(&self, proxy_header: Bytes) -> Reach {
        let mut peer = self.peer();
        peer.group_key = fastrand::u64(..);
        peer.options.idle_timeout = Some(Duration::ZERO);
        peer.options.proxy_digest_user_data_hook =
            Some(dial::carry(Dial { dialer: self.dialer.clone(), proxy_header }));
        Reach { peer, bridge: None }
    }
}

impl fmt::Debug for EndpointPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointPeer").field("dialer", &self.dialer).finish_non_exhaustive()
    }
}

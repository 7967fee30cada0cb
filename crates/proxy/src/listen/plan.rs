//! A listener, compiled: what its connections are served by.

use super::{Limits, Underscores};
use crate::{
    egress::{Capture, InterceptPlan, ProxyPlan},
    mesh::MeshListener,
    tunnel::{SniRoutes, TcpRoute},
};
use portcullis_names::{CidrSet, ListenAddress, ObjectName};
use portcullis_policy::{ClientIp, ListenerId};
use portcullis_tls::ServerTls;
use std::{net::IpAddr, sync::Arc};

/// Immutable; a reload replaces it as a whole.
#[derive(Debug)]
pub struct ListenerPlan {
    pub id: ListenerId,
    pub name: ObjectName,
    pub address: ListenAddress,
    pub protocol: PlanProtocol,
    /// Peers that must begin with a PROXY header.
    pub proxy_protocol: Option<CidrSet>,
    pub client_ip: ClientIp,
    pub underscores: Underscores,
    pub limits: Limits,
    pub h1: bool,
    pub h2: bool,
    /// Port 80 beside an https listener: every request is answered by 308.
    pub redirects_to_https: bool,
}

/// What is spoken.
#[derive(Debug)]
pub enum PlanProtocol {
    Http,
    Https(ServerTls),
    Tcp(Arc<TcpRoute>),
    Tls(Arc<SniRoutes>),
    /// CONNECT, absolute form and SOCKS 5: the explicit way out.
    Proxy(ProxyPlan),
    /// Connections that do not know of us: by SNI, by Host, by their original destination.
    Intercept(InterceptPlan),
    /// A sidecar's.
    Mesh(MeshListener),
}

impl PlanProtocol {
    /// What opens the client's TLS, where the listener does.
    pub fn server_tls(&self) -> Option<&ServerTls> {
        match self {
            Self::Https(tls) => Some(tls),
            Self::Proxy(proxy) => proxy.tls.as_ref(),
            Self::Http | Self::Tcp(_) | Self::Tls(_) | Self::Intercept(_) | Self::Mesh(_) => None,
        }
    }
}

impl ListenerPlan {
    /// Whether the peer is a relay that speaks the PROXY protocol to us.
    pub(crate) fn is_relay(&self, peer: IpAddr) -> bool {
        self.proxy_protocol.as_ref().is_some_and(|relays| relays.contains(peer))
    }

    /// Whether its sockets take connections to addresses that are not ours.
    pub fn is_tproxy(&self) -> bool {
        match &self.protocol {
            PlanProtocol::Intercept(InterceptPlan::Transparent(capture)) => *capture == Capture::Tproxy,
            PlanProtocol::Mesh(mesh) => mesh.is_tproxy(),
            PlanProtocol::Intercept(InterceptPlan::Named(_))
            | PlanProtocol::Http
            | PlanProtocol::Https(_)
            | PlanProtocol::Tcp(_)
            | PlanProtocol::Tls(_)
            | PlanProtocol::Proxy(_) => false,
        }
    }

    /// Whether its requests and tunnels leave by the policy of the way out.
    pub(crate) fn goes_out(&self) -> bool {
        match self.protocol {
            PlanProtocol::Proxy(_) | PlanProtocol::Intercept(_) => true,
            PlanProtocol::Http
            | PlanProtocol::Https(_)
            | PlanProtocol::Tcp(_)
            | PlanProtocol::Tls(_)
            | PlanProtocol::Mesh(_) => false,
        }
    }

    pub(crate) fn speaks_h2(&self) -> bool {
        self.h2
    }
}

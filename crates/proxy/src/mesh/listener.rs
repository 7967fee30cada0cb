//! A sidecar's listener, compiled.

use crate::{egress::Capture, listen::Direction};
use portcullis_mesh::{GlobalName, OpaquePorts};
use portcullis_names::ObjectName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// What becomes of connections that are for no service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Otherwise {
    #[default]
    Refuse,
    /// They go where they were for, as if nothing had been captured.
    Pass,
}

/// What its connections are for.
#[derive(Debug)]
pub enum MeshListener {
    Inbound {
        to: InboundTarget,
        opaque: OpaquePorts,
        /// The upstream that stands for the application.
        application: ObjectName,
    },
    /// Nothing but HBONE, on a port of its own.
    Hbone {
        /// The application; `None`: each stream is for a port of the address that it came to.
        to: Option<SocketAddr>,
        application: ObjectName,
    },
    Outbound {
        to: OutboundTarget,
        opaque: OpaquePorts,
        beyond: Beyond,
    },
}

/// Where the application is.
#[derive(Debug, Clone, Copy)]
pub enum InboundTarget {
    At(SocketAddr),
    /// Where the captured connection was for.
    Captured(Capture),
}

#[derive(Debug, Clone)]
pub enum OutboundTarget {
    Service(GlobalName),
    Captured(Capture),
}

/// What becomes of what is for no service.
#[derive(Debug, Clone)]
pub enum Beyond {
    Refuse,
    Pass,
    /// Through this upstream, an egress gateway.
    Gateway(ObjectName),
}

impl MeshListener {
    pub fn direction(&self) -> Direction {
        match self {
            Self::Inbound { .. } | Self::Hbone { .. } => Direction::Inbound,
            Self::Outbound { .. } => Direction::Outbound,
        }
    }

    pub(crate) fn is_tproxy(&self) -> bool {
        match self {
            Self::Inbound { to: InboundTarget::Captured(capture), .. }
            | Self::Outbound { to: OutboundTarget::Captured(capture), .. } => *capture == Capture::Tproxy,
            Self::Inbound { to: InboundTarget::At(_), .. }
            | Self::Hbone { .. }
            | Self::Outbound { to: OutboundTarget::Service(_), .. } => false,
        }
    }
}

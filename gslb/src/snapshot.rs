//! Everything that answers are made from, compiled from a document and never changed.

use crate::{
    cookie::CookieSecrets,
    spec::GslbSpec,
    zones::Zones,
};
use portcullis_config::Context;
use std::sync::Arc;

/// What serves. Replaced as a whole.
#[derive(Debug)]
pub struct Snapshot {
    pub(crate) zones: Zones,
    pub(crate) plan: ServerPlan,
}

/// `[dns]` with every value settled.
#[derive(Debug)]
pub(crate) struct ServerPlan {
    /// Octets of the largest UDP reply.
    pub(crate) udp_size: u16,
    pub(crate) nsid: Option<Vec<u8>>,
    pub(crate) cookies: CookieSecrets,
    pub(crate) keepalive_tenths: u16,
}

impl Snapshot {
    /// Compiles the tables of a document; problems go to `cx`. `previous` lends serials and states; `now` is in seconds since 1970.
    pub fn compile(spec: &GslbSpec, previous: Option<&Self>, now: u32, cx: &mut Context) -> Arc<Self> {
        let zones = Zones::compile(&spec.zone, previous.map(|previous| &previous.zones), now, cx);
        let plan = ServerPlan {
            udp_size: 1232,
            nsid: None,
            cookies: CookieSecrets { current: [0; 16], others: Vec::new() },
            keepalive_tenths: 100,
        };
        Arc::new(Self { zones, plan })
    }
}

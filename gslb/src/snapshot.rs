//! Everything that answers are made from, compiled from a document and never changed.

use crate::{
    answer::{self, Asked, Handled},
    plan::ServerPlan,
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

impl Snapshot {
    /// Compiles the tables of a document; problems go to `cx`. `previous` lends what survives a reload: serials, states,
    /// secrets. `now` is in seconds since 1970.
    pub fn compile(spec: &GslbSpec, previous: Option<&Self>, now: u32, cx: &mut Context) -> Arc<Self> {
        let zones = Zones::compile(&spec.zone, previous.map(|previous| &previous.zones), now, cx);
        let plan = ServerPlan::compile(spec.dns.as_ref(), previous.map(|previous| &previous.plan), cx);
        Arc::new(Self { zones, plan })
    }

    /// The reply to one message, as the wire has it; `None`: it gets none. What the server does but for rate limits.
    pub fn answer(&self, message: &[u8], asked: &Asked) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match answer::respond(self, message, asked, &mut out) {
            Handled::Replied(_) => Some(out),
            Handled::Silent => None,
        }
    }

    pub(crate) fn service_name(&self, _: usize) -> Option<&str> {
        None
    }
}

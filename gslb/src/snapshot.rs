//! Everything that answers are made from, compiled from a document and never changed.

use crate::{plan::ServerPlan, spec::GslbSpec, zones::Zones};
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

    pub(crate) fn service_name(&self, _: usize) -> Option<&str> {
        None
    }
}

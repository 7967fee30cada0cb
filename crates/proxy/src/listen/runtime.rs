//! A listener at run time: what all its sockets and connections share, across cores and reloads.

use super::{
    ListenerPlan,
    per_address::{AddressPermit, PerAddress},
};
use crate::conn::ConnFacts;
use arc_swap::ArcSwap;
use portcullis_names::ObjectName;
use portcullis_ops::metrics::ListenerMetrics;
use portcullis_policy::ListenerId;
use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};
use tokio::sync::watch;

/// One named listener. Its plan is swapped on reload; its identity, counts and metrics stay.
#[derive(Debug)]
pub struct ListenerRuntime {
    pub id: ListenerId,
    pub name: ObjectName,
    pub metrics: Arc<ListenerMetrics>,
    plan: ArcSwap<ListenerPlan>,
    drain: watch::Sender<bool>,
    open: AtomicU32,
    per_address: Arc<PerAddress>,
}

/// The right to one connection; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct ConnPermit {
    listener: Arc<ListenerRuntime>,
    _address: Option<AddressPermit>,
}

/// Which limit turned a connection away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TurnedAway {
    ListenerFull,
    AddressFull,
}

impl ListenerRuntime {
    pub fn new(plan: Arc<ListenerPlan>, metrics: Arc<ListenerMetrics>) -> Self {
        Self {
            id: plan.id,
            name: plan.name.clone(),
            metrics,
            plan: ArcSwap::new(plan),
            drain: watch::Sender::new(false),
            open: AtomicU32::new(0),
            per_address: Arc::default(),
        }
    }

    pub(crate) fn plan(&self) -> Arc<ListenerPlan> {
        self.plan.load_full()
    }

    /// Connections that begin from now on follow `plan`; open ones take its limits with their next request.
    pub fn replace_plan(&self, plan: Arc<ListenerPlan>) {
        self.plan.store(plan);
    }

    /// No new connections; open ones end after what they are doing.
    pub fn drain(&self) {
        self.drain.send_replace(true);
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.drain.borrow()
    }

    pub(crate) fn drain_watch(&self) -> watch::Receiver<bool> {
        self.drain.subscribe()
    }

    pub fn open_connections(&self) -> u32 {
        self.open.load(Relaxed)
    }

    pub(crate) fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Result<ConnPermit, TurnedAway> {
        let plan = self.plan.load();
        if self.open.fetch_add(1, Relaxed) >= plan.limits.connections {
            self.open.fetch_sub(1, Relaxed);
            return Err(TurnedAway::ListenerFull);
        }
        let address = match address {
            None => None,
            Some(address) => match self.per_address.admit(address, plan.limits.connections_per_ip) {
                Some(permit) => Some(permit),
                None => {
                    self.open.fetch_sub(1, Relaxed);
                    return Err(TurnedAway::AddressFull);
                }
            },
        };
        self.metrics.connection_opened();
        Ok(ConnPermit { listener: self.clone(), _address: address })
    }

    pub(crate) fn facts(self: &Arc<Self>) -> ConnFacts {
        ConnFacts::new(self.clone())
    }
}

impl Drop for ConnPermit {
    fn drop(&mut self) {
        self.listener.open.fetch_sub(1, Relaxed);
        self.listener.metrics.connection_closed();
    }
}

//! The sockets of the running configuration: opened before a change is published, drained after.

use crate::compile::CompiledListener;
use portcullis_names::{ListenAddress, ObjectName};
use portcullis_ops::{handover::NamedSocket, metrics::Metrics};
use portcullis_proxy::{
    CoreThread,
    listen::{BoundSocket, Direction, ListenerPlan, ListenerRuntime, PlanProtocol, take_for_anybody},
};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    os::fd::{BorrowedFd, OwnedFd},
    sync::Arc,
};

/// Listeners that accept now.
#[derive(Debug, Default)]
pub(crate) struct LiveListeners {
    live: BTreeMap<ObjectName, LiveListener>,
}

#[derive(Debug)]
pub(crate) struct LiveListener {
    pub(crate) runtime: Arc<ListenerRuntime>,
    pub(crate) plan: Arc<ListenerPlan>,
    pub(crate) bound: Option<SocketAddr>,
    /// Second handles of the sockets that the cores accept on: what a successor is given.
    sockets: Vec<OwnedFd>,
}

/// Sockets opened for a configuration that is not published yet.
pub(crate) struct Opened(Vec<(Arc<ListenerPlan>, Vec<BoundSocket>)>);

/// Sockets that somebody else opened, by listener name.
pub(crate) struct Inherited(HashMap<String, Vec<OwnedFd>>);

impl LiveListener {
    fn is_outbound(&self) -> bool {
        matches!(&self.plan.protocol, PlanProtocol::Mesh(mesh) if mesh.direction() == Direction::Outbound)
    }
}

impl Inherited {
    pub(crate) fn new(sockets: Vec<NamedSocket>) -> Self {
        let mut by_name: HashMap<String, Vec<OwnedFd>> = HashMap::new();
        for (name, fd) in sockets {
            by_name.entry(name).or_default().push(fd);
        }
        Self(by_name)
    }

    pub(crate) fn take(&mut self, name: &ObjectName) -> Option<Vec<OwnedFd>> {
        self.0.remove(name.as_str())
    }

    pub(crate) fn leftovers(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl Opened {
    /// Where these sockets are bound.
    pub(crate) fn bound(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.iter().filter_map(|(_, sockets)| sockets.first().and_then(BoundSocket::local_addr))
    }
}

impl LiveListeners {
    /// Where the sockets that accept now are bound.
    pub(crate) fn bound(&self) -> impl Iterator<Item = SocketAddr> {
        self.live.values().filter_map(|live| live.bound)
    }

    /// Opens what the new configuration needs and is not open. Changes nothing; an error names listener and address.
    pub(crate) fn open(
        &self,
        listeners: &[CompiledListener],
        inherited: &mut Inherited,
        cores: usize,
    ) -> Result<Opened, String> {
        let mut opened = Vec::new();
        for CompiledListener { plan } in listeners {
            let refused = |error: io::Error| {
                format!(
                    "listener \"{}\": cannot listen on {}: {}",
                    plan.name,
                    plan.address,
                    advice(&error, &plan.address)
                )
            };
            if let Some(live) = self.live.get(&plan.name).filter(|live| live.plan.address == plan.address) {
                if plan.is_tproxy() && !live.plan.is_tproxy() {
                    live.sockets.iter().try_for_each(take_for_anybody).map_err(refused)?;
                }
                continue;
            }
            let sockets = match inherited.take(&plan.name) {
                Some(fds) => BoundSocket::adopt(fds, cores),
                None => BoundSocket::bind(&plan.address, cores),
            };
            let sockets = sockets.and_then(|sockets| {
                if plan.is_tproxy() {
                    sockets.iter().try_for_each(BoundSocket::set_transparent)?;
                }
                Ok(sockets)
            });
            opened.push((plan.clone(), sockets.map_err(refused)?));
        }
        Ok(Opened(opened))
    }

    /// Makes the listeners those of `listeners`: new ones accept, changed ones follow, gone ones drain.
    pub(crate) fn apply(
        &mut self,
        listeners: &[CompiledListener],
        opened: Opened,
        cores: &[CoreThread],
        metrics: &Metrics,
    ) -> io::Result<()> {
        for CompiledListener { plan } in listeners {
            if let Some(live) = self.live.get_mut(&plan.name) {
                live.runtime.replace_plan(plan.clone());
                if live.plan.address == plan.address {
                    live.plan = plan.clone();
                }
            }
        }
        let gone: Vec<_> = self
            .live
            .keys()
            .filter(|name| !listeners.iter().any(|listener| listener.plan.name == **name))
            .cloned()
            .collect();
        for name in gone {
            self.drain(name.as_str());
        }
        for (plan, sockets) in opened.0 {
            // The same name on another address: the old sockets drain, the new ones take over.
            self.drain(plan.name.as_str());
            let runtime = Arc::new(ListenerRuntime::new(plan.clone(), metrics.listener(plan.name.as_str())));
            let bound = sockets.first().and_then(BoundSocket::local_addr);
            let mut kept = Vec::with_capacity(sockets.len());
            for (index, socket) in sockets.into_iter().enumerate() {
                kept.push(socket.try_clone()?.into());
                if let Some(core) = cores.get(index % cores.len().max(1)) {
                    core.listen(socket, runtime.clone());
                }
            }
            tracing::info!(listener = %plan.name, address = %plan.address, bound = ?bound, "listening");
            self.live.insert(plan.name.clone(), LiveListener { runtime, plan, bound, sockets: kept });
        }
        Ok(())
    }

    /// Stops accepting on one listener. `false`: there is none of that name.
    pub(crate) fn drain(&mut self, name: &str) -> bool {
        let Some(live) = self.live.remove(name) else { return false };
        live.runtime.drain();
        tracing::info!(listener = name, "draining");
        if let ListenAddress::Unix(path) = &live.plan.address {
            let _ = std::fs::remove_file(path);
        }
        true
    }

    pub(crate) fn drain_all(&mut self) {
        let names: Vec<_> = self.live.keys().cloned().collect();
        for name in names {
            self.drain(name.as_str());
        }
    }

    /// All but what a sidecar's application goes out by.
    pub(crate) fn drain_but_outbound(&mut self) {
        let names: Vec<_> =
            self.live.iter().filter(|(_, live)| !live.is_outbound()).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.drain(name.as_str());
        }
    }

    /// Connections that a sidecar's application has open.
    pub(crate) fn open_outbound(&self) -> usize {
        let outbound = self.live.values().filter(|live| live.is_outbound());
        outbound.map(|live| usize::try_from(live.runtime.open_connections()).unwrap_or(usize::MAX)).sum()
    }

    /// After a hand-over: the sockets live on in the successor, their files must stay.
    pub(crate) fn leave_all(&mut self) {
        for live in std::mem::take(&mut self.live).into_values() {
            live.runtime.drain();
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &LiveListener> {
        self.live.values()
    }

    pub(crate) fn sockets(&self) -> Vec<(String, BorrowedFd<'_>)> {
        use std::os::fd::AsFd;
        let mut all = Vec::new();
        for live in self.live.values() {
            all.extend(live.sockets.iter().map(|socket| (live.plan.name.to_string(), socket.as_fd())));
        }
        all
    }
}

pub(crate) fn advice(error: &io::Error, address: &ListenAddress) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("{error} (another process has it; `ss -ltnp` shows which)"),
        io::ErrorKind::PermissionDenied if address.port().is_some_and(|port| port < 1024) => {
            format!("{error} (ports below 1024 need CAP_NET_BIND_SERVICE, or sockets given by systemd)")
        }
        io::ErrorKind::AddrNotAvailable => format!("{error} (no interface of this machine has it)"),
        _ => error.to_string(),
    }
}

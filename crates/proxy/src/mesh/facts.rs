//! What is known of a sidecar's connection, beside what any connection has.

use super::{Lifetime, LiveMesh, MeshPlan, PeerEntry};
use crate::listen::Direction;
use portcullis_mesh::{Attributes, Call, Decision, GlobalName, Mode, Peer, Relation, Request, Verdict};
use portcullis_names::{ObjectName, SpiffeId};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// One connection of a sidecar's listener.
#[derive(Debug)]
pub(crate) struct MeshFacts {
    pub(crate) direction: Direction,
    pub(crate) security: Security,
    /// Inbound: who calls; nobody in clear text.
    pub(crate) peer: Option<SpiffeId>,
    /// Inbound: the caller's global namespace, as it follows from its id.
    pub(crate) namespace: Option<String>,
    /// Inbound: where the caller is.
    pub(crate) address: Option<IpAddr>,
    /// Inbound: the application's port.
    pub(crate) port: u16,
    /// Inbound: the application; `None` where each stream says it. Outbound: where a captured connection was for.
    pub(crate) target: Option<SocketAddr>,
    /// Inbound: the upstream whose endpoint `target` stands in for.
    pub(crate) application: Option<ObjectName>,
    /// Outbound: the service that the connection is for, whatever its requests say.
    pub(crate) service: Option<GlobalName>,
    /// Of mTLS: how long the certificates let it live.
    pub(crate) lifetime: Option<Lifetime>,
    /// Inbound: the caller on the board.
    pub(crate) entry: Option<Arc<PeerEntry>>,
    /// Inbound: the plan by which it was let in.
    pub(crate) decided_by: Weak<MeshPlan>,
    /// Requests that were let in and are not answered, to be asked about anew when the policy changes.
    calls: Mutex<Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    next: u64,
    open: HashMap<u64, (String, String, Option<serde_json::Map<String, serde_json::Value>>)>,
}

/// Of a request: what the policy said.
#[derive(Debug)]
pub(crate) struct MeshCall {
    pub(crate) verdict: &'static str,
    pub(crate) rule: Option<ObjectName>,
    facts: Arc<crate::conn::ConnFacts>,
    number: u64,
}

/// What protects a connection between workloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    Mtls,
    /// The applications' own TLS.
    AppTls,
    Plain,
}

impl Security {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mtls => "mtls",
            Self::AppTls => "app_tls",
            Self::Plain => "plain",
        }
    }
}

impl MeshFacts {
    pub(crate) fn new(direction: Direction, security: Security, port: u16) -> Self {
        Self {
            direction,
            security,
            peer: None,
            namespace: None,
            address: None,
            port,
            target: None,
            application: None,
            service: None,
            lifetime: None,
            entry: None,
            decided_by: Weak::new(),
            calls: Mutex::default(),
        }
    }

    /// Of a stream of HBONE, which says for itself where it is for.
    pub(crate) fn of_stream(&self, target: SocketAddr) -> Self {
        Self {
            peer: self.peer.clone(),
            namespace: self.namespace.clone(),
            address: self.address,
            target: Some(target),
            application: self.application.clone(),
            lifetime: self.lifetime,
            entry: self.entry.clone(),
            decided_by: self.decided_by.clone(),
            ..Self::new(self.direction, self.security, target.port())
        }
    }

    /// What the policy says about a call of this peer.
    pub(crate) fn decide(&self, live: &LiveMesh, request: Request<'_>) -> Decision {
        let plan = &live.plan;
        let nothing = Attributes::new();
        let known = self.peer.as_ref().zip(self.namespace.as_ref()).and_then(|(id, namespace)| {
            plan.services.get(&GlobalName { service: id.service()?.to_owned(), namespace: namespace.clone() })
        });
        let peer = Peer {
            id: self.peer.as_ref(),
            namespace: self.namespace.as_deref(),
            attributes: known.map_or(&nothing, |service| &service.attributes),
        };
        // Asked anew under another plan, the mode is that of the new one.
        let mode = plan.modes.of(&plan.own.namespace, &plan.own.service, self.port);
        plan.authorisation.decide(&peer, Call { port: self.port, request }, mode, self.relation(live))
    }

    /// Whose namespace no identity says is of that of its address.
    pub(crate) fn relation(&self, live: &LiveMesh) -> Relation {
        let by_address = || live.plan.modes.namespace_at(self.address?);
        live.plan.services.relation(self.namespace.as_deref().or_else(by_address))
    }

    /// How the caller is called in metrics and on the board.
    pub(crate) fn source(&self) -> String {
        peer_label(self.peer.as_ref(), self.namespace.as_deref())
    }

    /// What makes the connection end now: its peer is in quarantine, clear text is no longer taken, or a request that was let
    /// in would not be now.
    pub(crate) fn may_stay(&self, live: &LiveMesh) -> bool {
        let plan = &live.plan;
        let mode = plan.modes.of(&plan.own.namespace, &plan.own.service, self.port);
        if self.security != Security::Mtls && (mode == Mode::Strict || self.relation(live) == Relation::Other) {
            return false;
        }
        if matches!(self.decide(live, Request::Unseen).verdict, Verdict::Quarantined(_)) {
            return false;
        }
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.open.values().all(|(method, path, claims)| {
            self.decide(live, Request::Seen { method, path, claims: claims.as_ref() }).verdict.lets_through()
        })
    }
}

/// `cart.acme.lab`, the whole id where it has no service, `clear` for nobody.
pub(crate) fn peer_label(peer: Option<&SpiffeId>, namespace: Option<&str>) -> String {
    match (peer, namespace) {
        (None, _) => "clear".to_owned(),
        (Some(id), Some(namespace)) => match id.service() {
            Some(service) => format!("{service}.{namespace}"),
            None => id.as_str().to_owned(),
        },
        (Some(id), None) => id.as_str().to_owned(),
    }
}

impl MeshCall {
    /// `None`: the connection is no inbound one of a sidecar.
    pub(crate) fn open(
        facts: &Arc<crate::conn::ConnFacts>,
        decision: &Decision,
        method: &str,
        path: &str,
        claims: Option<serde_json::Map<String, serde_json::Value>>,
    ) -> Option<Self> {
        let mesh = facts.mesh()?;
        let mut calls = mesh.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.next += 1;
        let number = calls.next;
        calls.open.insert(number, (method.to_owned(), path.to_owned(), claims));
        let (verdict, rule) = (decision.verdict.as_str(), decision.verdict.rule().cloned());
        Some(Self { verdict, rule, facts: facts.clone(), number })
    }
}

impl Drop for MeshCall {
    fn drop(&mut self) {
        if let Some(mesh) = self.facts.mesh() {
            mesh.calls.lock().unwrap_or_else(PoisonError::into_inner).open.remove(&self.number);
        }
    }
}

//! What stands around a sidecar's pipeline while it runs: the follower of its identity, probes, the resolver of its application,
//! and the application itself.

use crate::{Compiled, spec::Spec};
use portcullis_config::{Context, Path};
use portcullis_enrol::{Clock, Follower, Pace, Progress};
use portcullis_mesh::OwnIdentity;
use portcullis_ops::metrics::Metrics;
use portcullis_proxy::MeshPlan;
use portcullis_sidecar::{
    Applications, DnsServer, LocalDns, LocalDnsSpec, Names, PreparedDns, PreparedProbes, ProbeServer, Probes,
    ProbesSpec,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::sync::watch;

/// `[sidecar]`: what a sidecar does for its application beside carrying its connections.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct SidecarSpec {
    /// Health probes that get to the application past mTLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probes: Option<ProbesSpec>,
    /// Names of services, for applications whose DNS is captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<LocalDnsSpec>,
}

/// Compiled.
#[derive(Debug, Clone, Default)]
pub struct SidecarPlan {
    probes: Option<Probes>,
    dns: Option<LocalDns>,
}

/// What runs.
#[derive(Debug)]
pub(crate) struct Around {
    follower: Option<Follower>,
    probes: Option<ProbeServer>,
    dns: Option<DnsServer>,
    pub(crate) applications: Applications,
    quit: watch::Sender<bool>,
}

const LOOK: Duration = Duration::from_secs(10);

pub(crate) fn compile(spec: &Spec, cx: &mut Context) -> SidecarPlan {
    let Some(sidecar) = &spec.sidecar else { return SidecarPlan::default() };
    let at = Path::root().key("sidecar");
    if spec.workload.is_none() {
        cx.error_at_key(&at, "`sidecar` is a sidecar's, and there is no [workload]");
    }
    SidecarPlan {
        probes: sidecar.probes.as_ref().and_then(|probes| probes.compile(&at.key("probes"), cx)),
        dns: sidecar.dns.as_ref().and_then(|dns| dns.compile(&at.key("dns"), cx)),
    }
}

/// Sockets that are open for what is to run.
#[derive(Debug)]
pub(crate) struct OpenedAround {
    probes: Option<PreparedProbes>,
    dns: Option<PreparedDns>,
}

impl Default for Around {
    fn default() -> Self {
        Self {
            follower: None,
            probes: None,
            dns: None,
            applications: Applications::default(),
            quit: watch::Sender::new(false),
        }
    }
}

impl Around {
    /// Opens what `compiled` has and does not run yet. Nothing that runs changes by it. Needs a tokio runtime.
    pub(crate) fn open(&self, compiled: &Compiled) -> Result<OpenedAround, String> {
        let plan = &compiled.sidecar;
        let probes = match &plan.probes {
            Some(probes) if self.probes.as_ref().is_none_or(|running| running.probes() != probes) => {
                let opened = ProbeServer::prepare(probes.clone(), self.probes.as_ref());
                let why = |error| format!("sidecar.probes: cannot listen on {}: {error}", probes.address);
                Some(opened.map_err(why)?)
            }
            Some(_) | None => None,
        };
        let dns = match &plan.dns {
            Some(dns) if self.dns.as_ref().is_none_or(|running| running.settings() != dns) => {
                let opened = DnsServer::prepare(dns.clone(), self.dns.as_ref());
                let why = |error| format!("sidecar.dns: cannot listen on {}: {error}", dns.address);
                Some(opened.map_err(why)?)
            }
            Some(_) | None => None,
        };
        Ok(OpenedAround { probes, dns })
    }

    /// Starts what was opened, lets go of what `compiled` has not, and gives what goes on the names of now.
    pub(crate) fn apply(&mut self, compiled: &Compiled, opened: OpenedAround) {
        match (&compiled.sidecar.probes, opened.probes) {
            (None, _) => self.probes = None,
            (Some(_), None) => {}
            (Some(_), Some(opened)) => self.probes = Some(opened.start()),
        }
        match (&compiled.sidecar.dns, compiled.mesh.as_deref(), opened.dns) {
            (None, _, _) | (_, None, _) => self.dns = None,
            (Some(dns), Some(mesh), None) => {
                if let Some(running) = &self.dns {
                    running.replace(names(mesh, dns));
                }
            }
            (Some(dns), Some(mesh), Some(opened)) => {
                let mark = mesh.mark.and_then(NonZeroU32::new);
                self.dns = Some(opened.start(names(mesh, dns), mark));
            }
        }
    }

    /// Follows the identity of what is published now.
    pub(crate) fn follow(&mut self, compiled: &Compiled, metrics: &Arc<Metrics>) {
        let Some(mesh) = &compiled.mesh else { return self.follower = None };
        if self.follower.as_ref().is_some_and(|running| running.is_of(&mesh.source, &mesh.identity)) {
            return;
        }
        let follower = Follower::start(mesh.source.clone(), mesh.identity.clone(), Clock::system(), Pace::default());
        tokio::spawn(tell_of_identity(mesh.identity.clone(), follower.changes(), metrics.clone()));
        self.follower = Some(follower);
    }

    pub(crate) fn status(&self) -> Value {
        json!({
            "applications": self.applications.running(),
            "identity_trouble": self.follower.as_ref().and_then(|follower| follower.progress().trouble),
            "probes": self.probes.as_ref().map(|probes| probes.bound().to_string()),
            "dns": self.dns.as_ref().map(|dns| dns.bound().to_string()),
        })
    }

    pub(crate) fn quit(&self) {
        self.quit.send_replace(true);
    }

    pub(crate) fn quits(&self) -> watch::Receiver<bool> {
        self.quit.subscribe()
    }
}

/// What becomes of the identity, to the operator. It ends with the follower.
async fn tell_of_identity(own: Arc<OwnIdentity>, mut changes: watch::Receiver<Progress>, metrics: Arc<Metrics>) {
    let (mut taken, mut trouble) = (0, None);
    loop {
        let end = own.current().map(|svid| svid.not_after());
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                let progress = changes.borrow_and_update().clone();
                if progress.taken != taken {
                    metrics.mesh.renewed("taken");
                }
                if progress.trouble.is_some() && progress.trouble != trouble {
                    metrics.mesh.renewed("trouble");
                }
                (taken, trouble) = (progress.taken, progress.trouble);
            }
            () = over(end) => {
                metrics.mesh.renewed("expired");
                tracing::error!(id = %own.id(), ?trouble, "the identity is over: no mTLS is spoken until there is another");
                // Once; then only another identity is news.
                if changes.wait_for(|progress| progress.taken != taken).await.is_err() {
                    return;
                }
                changes.mark_changed();
            }
        }
    }
}

/// Returns when an identity is over. A machine that slept finds its clock ahead of its timers, so it is looked at again.
async fn over(end: Option<SystemTime>) {
    let Some(end) = end else { return std::future::pending().await };
    while let Ok(left) = end.duration_since(SystemTime::now())
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(LOOK)).await;
    }
}

/// Every service by its name, with the address that stands for it here.
fn names(mesh: &MeshPlan, dns: &LocalDns) -> Names {
    let services = mesh.services.iter().map(|(name, _)| (name.to_string(), mesh.services.address_of(name)));
    Names::new(mesh.services.own_namespace(), services.collect(), dns.ttl)
}

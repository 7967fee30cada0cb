//! What stands around a sidecar's pipeline while it runs: the follower of its identity, probes, the resolver of its application,
//! and the application itself.

use crate::{Compiled, spec::Spec};
use portcullis_config::{Context, Path};
use portcullis_enrol::{Clock, Follower, Pace};
use portcullis_mesh::IdentitySource;
use portcullis_ops::metrics::Metrics;
use portcullis_proxy::MeshPlan;
use portcullis_sidecar::{Applications, DnsServer, LocalDns, LocalDnsSpec, Names, ProbeServer, Probes, ProbesSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{num::NonZeroU32, sync::Arc};
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
    /// Opens what `compiled` has and did not run, and lets go of what it has not. Needs a tokio runtime.
    pub(crate) fn open(&mut self, compiled: &Compiled) -> Result<(), String> {
        let (plan, mesh) = (&compiled.sidecar, compiled.mesh.as_deref());
        match &plan.probes {
            None => self.probes = None,
            Some(probes) if self.probes.as_ref().is_some_and(|running| running.probes() == probes) => {}
            Some(probes) => {
                // The old one's socket may be the new one's address.
                self.probes = None;
                let started = ProbeServer::start(probes.clone());
                let why = |error| format!("sidecar.probes: cannot listen on {}: {error}", probes.address);
                self.probes = Some(started.map_err(why)?);
            }
        }
        match (&plan.dns, mesh) {
            (None, _) | (_, None) => self.dns = None,
            (Some(dns), Some(mesh)) => {
                let names = names(mesh, dns);
                match &self.dns {
                    Some(running) if running.settings() == dns => running.replace(names),
                    Some(_) | None => {
                        self.dns = None;
                        let mark = mesh.mark.and_then(NonZeroU32::new);
                        let started = DnsServer::start(dns.clone(), names, mark);
                        let why = |error| format!("sidecar.dns: cannot listen on {}: {error}", dns.address);
                        self.dns = Some(started.map_err(why)?);
                    }
                }
            }
        }
        Ok(())
    }

    /// Follows the identity of what is published now.
    pub(crate) fn follow(&mut self, compiled: &Compiled, metrics: &Arc<Metrics>) {
        let Some(mesh) = &compiled.mesh else { return self.follower = None };
        if let IdentitySource::Files(_) = mesh.source {
            self.follower = None;
            return;
        }
        if self.follower.as_ref().is_some_and(|running| running.is_of(&mesh.source, &mesh.identity)) {
            return;
        }
        let follower = Follower::start(mesh.source.clone(), mesh.identity.clone(), Clock::system(), Pace::default());
        let (mut changes, metrics) = (follower.changes(), metrics.clone());
        tokio::spawn(async move {
            let (mut taken, mut trouble) = (0, None);
            // It ends with the follower.
            while changes.changed().await.is_ok() {
                let progress = changes.borrow_and_update().clone();
                if progress.taken != taken {
                    metrics.mesh.renewed("taken");
                }
                if progress.trouble.is_some() && progress.trouble != trouble {
                    metrics.mesh.renewed("trouble");
                }
                (taken, trouble) = (progress.taken, progress.trouble);
            }
        });
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

/// Every service by its name, with the address that stands for it here.
fn names(mesh: &MeshPlan, dns: &LocalDns) -> Names {
    let services = mesh.services.iter().map(|(name, _)| (name.to_string(), mesh.services.address_of(name)));
    Names::new(mesh.services.own_namespace(), services.collect(), dns.ttl)
}

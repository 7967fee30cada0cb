//! What a service says about whose word counts: which nodes check it, what is assumed before anybody knows, whether operators
//! may interfere, and how much load a site takes.

use super::{Initial, Policy, PublicServiceSpec};
use crate::fleet::{FleetPlan, Word};
use portcullis_config::{Context, Path};
use portcullis_names::{ObjectName, Percent};

#[derive(Debug)]
pub(crate) struct Terms {
    /// Names of nodes or sites; empty: all.
    pub(crate) vantages: Vec<ObjectName>,
    pub(crate) initial: Word,
    pub(crate) lock: Lock,
    pub(crate) load_target: Option<Percent>,
    pub(crate) needs: Vec<ObjectName>,
}

/// Who may take members out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lock {
    Operators,
    /// The configuration alone.
    Configuration,
}

impl Terms {
    pub(crate) fn compile(spec: &PublicServiceSpec, at: &Path, cx: &mut Context) -> Self {
        let weighted = spec.policy.as_ref().is_some_and(|policies| policies.0.contains(&Policy::Weighted));
        if spec.load_target.is_some() && !weighted {
            cx.error(&at.key("load_target"), "`load_target` has no effect without policy \"weighted\"")
                .help("policy = \"weighted\", or [\"geo\", \"weighted\"]");
        }
        if spec.load_target.is_some_and(|target| target.fraction() <= 0.0) {
            cx.error(&at.key("load_target"), "a site with a target of nothing would give all its clients away");
        }
        Self {
            vantages: spec.vantages.clone(),
            initial: match spec.initial {
                None | Some(Initial::Up) => Word::Up,
                Some(Initial::Down) => Word::Down,
            },
            lock: if spec.locked == Some(true) { Lock::Configuration } else { Lock::Operators },
            load_target: spec.load_target,
            needs: spec.needs.clone(),
        }
    }

    /// What can only be checked beside the fleet.
    pub(crate) fn check(&self, fleet: Option<&FleetPlan>, at: &Path, cx: &mut Context) {
        let Some(fleet) = fleet else {
            if !self.vantages.is_empty() {
                cx.error(&at.key("vantages"), "`vantages` has no effect without `[dns.fleet]`");
            }
            return;
        };
        for (index, name) in self.vantages.iter().enumerate().filter(|(_, name)| !fleet.knows(name)) {
            let nodes = std::iter::once(&fleet.node).chain(fleet.peers.keys()).map(ObjectName::as_str);
            cx.undefined(&at.key("vantages").index(index), "node", name.as_str(), nodes.collect::<Vec<_>>());
        }
    }
}

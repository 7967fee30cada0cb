//! Who may call this workload, decided where the call arrives; with the reason of every decision.

use crate::{
    Mode, Relation,
    authorise_rule::{Attributes, Call, Rule, RuleMode, RuleOutcome},
    namespace::GlobalName,
};
use portcullis_config::{Context, Path};
use portcullis_names::{ObjectName, SpiffeId};
use portcullis_policy::{AccessAction, AccessSpec};
use std::{collections::BTreeMap, fmt};

/// Who calls. In clear text, nobody: `id` and `namespace` are `None`.
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a> {
    pub id: Option<&'a SpiffeId>,
    /// The global namespace that follows from the id.
    pub namespace: Option<&'a str>,
    pub attributes: &'a Attributes,
}

/// All rules for one workload.
#[derive(Debug, Clone)]
pub struct Authorisation {
    rules: Vec<Rule>,
}

/// What is done with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// By this rule.
    Allowed(ObjectName),
    /// Let through and counted: enforcing would refuse it. By a rule that reports, or for want of any rule.
    Reported(Option<ObjectName>),
    /// By this rule, or for want of one that allows.
    Denied(Option<ObjectName>),
    Quarantined(ObjectName),
}

/// A verdict with what was considered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub verdict: Verdict,
    /// Deny and quarantine rules that only report, and would have refused.
    pub would_refuse: Vec<ObjectName>,
    pub considered: Vec<Considered>,
}

/// One rule and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Considered {
    pub rule: ObjectName,
    pub action: AccessAction,
    pub outcome: RuleOutcome,
}

impl Authorisation {
    /// Of all rules those that are about `own`; mistakes are found in the others as well.
    pub fn compile(own: &GlobalName, specs: &BTreeMap<ObjectName, AccessSpec>, at: &Path, cx: &mut Context) -> Self {
        let rules = specs.iter().filter_map(|(name, spec)| Rule::compile(name, spec, own, &at.key(name), cx)).collect();
        Self { rules }
    }

    /// Quarantine beats deny, deny beats allow, allow beats the default of the mode.
    pub fn decide(&self, peer: &Peer<'_>, call: Call<'_>, mode: Mode, relation: Relation) -> Decision {
        let mut considered = Vec::with_capacity(self.rules.len());
        let mut would_refuse = Vec::new();
        let (mut quarantine, mut deny, mut allow, mut report) = (None, None, None, None);
        for rule in &self.rules {
            let outcome = rule.judge(peer, call);
            considered.push(Considered { rule: rule.name.clone(), action: rule.action, outcome });
            let place = match (outcome, rule.action) {
                (RuleOutcome::OtherPeer | RuleOutcome::OtherAttributes | RuleOutcome::OtherCall, _) => continue,
                // Fails closed, both ways: what cannot be seen is not allowed, and may be what is denied.
                (RuleOutcome::CannotTell, AccessAction::Allow | AccessAction::Report) => continue,
                (RuleOutcome::Applies | RuleOutcome::CannotTell, AccessAction::Quarantine) => &mut quarantine,
                (RuleOutcome::Applies | RuleOutcome::CannotTell, AccessAction::Deny) => &mut deny,
                (RuleOutcome::Applies, AccessAction::Report) => &mut report,
                (RuleOutcome::Applies, AccessAction::Allow) => &mut allow,
            };
            if rule.mode == RuleMode::Report {
                would_refuse.push(rule.name.clone());
            } else {
                place.get_or_insert_with(|| rule.name.clone());
            }
        }
        let verdict = match (quarantine, deny, allow, report) {
            (Some(rule), ..) => Verdict::Quarantined(rule),
            (_, Some(rule), ..) => Verdict::Denied(Some(rule)),
            (_, _, Some(rule), _) => Verdict::Allowed(rule),
            (.., Some(rule)) => Verdict::Reported(Some(rule)),
            (None, None, None, None) => default(mode, relation),
        };
        Decision { verdict, would_refuse, considered }
    }

    /// Whether any rule asks what the caller's token says.
    pub fn needs_claims(&self) -> bool {
        self.rules.iter().any(Rule::needs_claims)
    }

    /// For the log at start: what becomes of a call that no rule is about.
    pub fn default_in_words(mode: Mode) -> &'static str {
        match mode {
            Mode::Strict => "strict: what no access rule allows is denied",
            Mode::Permissive => {
                "permissive: what no access rule allows is let through and reported; from other namespaces it is denied"
            }
            Mode::Off => {
                "off: what no access rule allows is let through and reported; from other namespaces it is denied"
            }
        }
    }
}

/// Namespaces are isolated in every mode: only a rule opens one to another.
fn default(mode: Mode, relation: Relation) -> Verdict {
    match (mode, relation) {
        (Mode::Strict, Relation::Same | Relation::Other) | (Mode::Permissive | Mode::Off, Relation::Other) => {
            Verdict::Denied(None)
        }
        (Mode::Permissive | Mode::Off, Relation::Same) => Verdict::Reported(None),
    }
}

impl Verdict {
    pub fn lets_through(&self) -> bool {
        match self {
            Self::Allowed(_) | Self::Reported(_) => true,
            Self::Denied(_) | Self::Quarantined(_) => false,
        }
    }

    /// The rule that decided, if one did.
    pub fn rule(&self) -> Option<&ObjectName> {
        match self {
            Self::Allowed(rule) | Self::Quarantined(rule) => Some(rule),
            Self::Reported(rule) | Self::Denied(rule) => rule.as_ref(),
        }
    }

    /// The label in metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Allowed(_) => "allowed",
            Self::Reported(_) => "reported",
            Self::Denied(_) => "denied",
            Self::Quarantined(_) => "quarantined",
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.verdict.rule() {
            Some(rule) => writeln!(f, "{} by access rule \"{rule}\"", self.verdict.as_str())?,
            None => writeln!(f, "{}: no access rule allows it", self.verdict.as_str())?,
        }
        for rule in &self.would_refuse {
            writeln!(f, "  \"{rule}\" would refuse it, and only reports")?;
        }
        for Considered { rule, outcome, .. } in &self.considered {
            writeln!(f, "  \"{rule}\": {}", outcome.as_str())?;
        }
        Ok(())
    }
}

impl RuleOutcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applies => "applies",
            Self::OtherPeer => "is about other peers",
            Self::OtherAttributes => "is about peers with other attributes",
            Self::OtherCall => "is about other calls",
            Self::CannotTell => "is about requests, and this one cannot be judged",
        }
    }
}

#[cfg(test)]
mod tests;

//! Why a flow would be let through or not, rule by rule. By the very function that decides, so it cannot say otherwise.

use crate::{Decision, EgressPolicy, Facts, RuleOutcome};
use portcullis_names::ObjectName;
use portcullis_policy::AccessAction;
use std::{fmt, time::SystemTime};

/// A decision with every rule that was looked at on the way, in that order.
#[derive(Debug)]
pub struct Explanation {
    pub decision: Decision,
    pub considered: Vec<Considered>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Considered {
    pub rule: ObjectName,
    pub action: AccessAction,
    /// None for a rule about everywhere.
    pub destination: Option<ObjectName>,
    pub outcome: RuleOutcome,
}

impl EgressPolicy {
    pub fn explain(&self, facts: &Facts<'_>, now: SystemTime) -> Explanation {
        let mut considered = Vec::new();
        let decision = self.decide_with(facts, now, &mut |rule, destination, outcome| {
            considered.push(Considered {
                rule: rule.name.clone(),
                action: rule.action,
                destination: destination.map(|destination| destination.name.clone()),
                outcome,
            });
        });
        Explanation { decision, considered }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = &self.decision.target;
        match self.decision.verdict {
            crate::Verdict::Allow => write!(f, "{target}: allowed")?,
            crate::Verdict::Report(reason) => write!(f, "{target}: let through on report; else denied: {reason}")?,
            crate::Verdict::Deny(reason) => write!(f, "{target}: denied: {reason}")?,
        }
        if let Some(rule) = &self.decision.rule {
            write!(f, " [access.{rule}]")?;
        }
        if let Some(why) = &self.decision.why {
            write!(f, " ({why})")?;
        }
        if let Some(destination) = &self.decision.destination {
            write!(f, "\n  destination {}", destination.name())?;
        }
        for considered in &self.considered {
            let action = match considered.action {
                AccessAction::Allow => "allow",
                AccessAction::Deny | AccessAction::Quarantine => "deny",
                AccessAction::Report => "report",
            };
            let outcome = match considered.outcome {
                RuleOutcome::Applies => "applies",
                RuleOutcome::OtherCaller => "is for other callers",
                RuleOutcome::Expired => "is over",
                RuleOutcome::OtherRequest => "is about other requests",
                RuleOutcome::RequestUnseen => "is about requests, and this one cannot be seen",
            };
            write!(f, "\n  [access.{}] {action}: {outcome}", considered.rule)?;
        }
        Ok(())
    }
}

//! A rule while the rule files are still being read: its actions as written, open to later updates.

use std::sync::Arc;

use crate::error::Origin;
use crate::operator::Pattern;
use crate::seclang::action::{self, Action, Control, Disruptive, Phase, RuleSelector, Switch};
use crate::seclang::target::{Target, TargetPart, Use};

use super::operator::Read;
use super::rule::{Actions, Effect, Measure, Rule, RuleTarget, Test, Verdict};
use super::rule_set::RuleSet;

/// A rule or link as written, with the defaults that held where it stands.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) origin: Origin,
    pub(super) id: u32,
    pub(super) phase: Phase,
    pub(super) test: Option<DraftTest>,
    /// Links do not inherit the defaults: their disruptive part and logging are the head's.
    pub(super) defaults: Vec<Action>,
    pub(super) actions: Vec<Action>,
    /// The head, for links: its index among the drafts.
    pub(super) head: Option<usize>,
}

pub(super) struct DraftTest {
    pub(super) parts: Vec<TargetPart>,
    pub(super) operator: Read,
}

impl std::fmt::Debug for DraftTest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DraftTest").field("parts", &self.parts).finish_non_exhaustive()
    }
}

impl Draft {
    pub(super) fn chains_on(&self) -> bool {
        self.actions.iter().any(|action| matches!(action, Action::Chain))
    }

    fn tags(&self) -> impl Iterator<Item = &str> {
        self.actions.iter().filter_map(|action| match action {
            Action::Tag(tag) => Some(&**tag),
            _ => None,
        })
    }

    /// The text of the message, macros left out.
    fn message(&self) -> Option<Vec<u8>> {
        self.actions.iter().rev().find_map(|action| match action {
            Action::Message(message) => message.fixed().map(<[u8]>::to_vec),
            _ => None,
        })
    }
}

/// Which heads a selector means.
pub(super) fn select(selector: &RuleSelector, drafts: &[Draft]) -> Result<RuleSet, String> {
    let heads = drafts.iter().enumerate().filter(|(_, draft)| draft.head.is_none());
    Ok(match selector {
        RuleSelector::Ids(ranges) => heads
            .filter(|(_, draft)| ranges.iter().any(|(low, high)| (*low..=*high).contains(&draft.id)))
            .map(|(at, _)| at)
            .collect(),
        RuleSelector::Tag(pattern) => {
            let pattern = Pattern::compile(pattern)?;
            heads
                .filter(|(_, draft)| draft.tags().any(|tag| pattern.is_match(tag.as_bytes())))
                .map(|(at, _)| at)
                .collect()
        }
        RuleSelector::Message(pattern) => {
            let pattern = Pattern::compile(pattern)?;
            let meant = |draft: &Draft| draft.message().is_some_and(|message| pattern.is_match(&message));
            heads.filter(|(_, draft)| meant(draft)).map(|(at, _)| at).collect()
        }
    })
}

/// Turns all drafts into rules. Selectors of exclusions are resolved against the whole set.
pub(super) fn finish(drafts: Vec<Draft>, mut failed: impl FnMut(&Origin, String)) -> Vec<Rule> {
    let mut effects: Vec<Vec<Effect>> = Vec::with_capacity(drafts.len());
    for draft in &drafts {
        let own = draft.actions.iter().filter_map(|action| match action {
            Action::Effect(effect) => {
                resolve(effect, &drafts).map_err(|error| failed(&draft.origin, error)).ok().flatten()
            }
            _ => None,
        });
        effects.push(own.collect());
    }
    drafts.into_iter().zip(effects).map(|(draft, effects)| rule(draft, effects)).collect()
}

fn resolve(effect: &action::Effect, drafts: &[Draft]) -> Result<Option<Effect>, String> {
    Ok(Some(match effect.clone() {
        action::Effect::SetVar(set) => Effect::SetVar(set),
        action::Effect::ExpireVar { variable, member, seconds } => Effect::ExpireVar { variable, member, seconds },
        action::Effect::InitCollection { variable, key } => Effect::InitCollection { variable, key },
        action::Effect::SetEnv { name, value } => Effect::SetEnv { name, value },
        action::Effect::Control(control) => match control {
            Control::AuditEngine(mode) => Effect::AuditEngine(mode),
            Control::Engine(mode) => Effect::Engine(mode),
            Control::ForceRequestBody(switch) => Effect::ForceRequestBody(switch),
            Control::RequestBodyAccess(switch) => Effect::RequestBodyAccess(switch),
            Control::ResponseBodyAccess(switch) => Effect::ResponseBodyAccess(switch),
            Control::RequestBodyLimit(bytes) => Effect::RequestBodyLimit(bytes),
            Control::ResponseBodyLimit(bytes) => Effect::ResponseBodyLimit(bytes),
            Control::BodyProcessor(processor) => Effect::BodyProcessor(processor),
            Control::RemoveRules(rules) => Effect::RemoveRules(select(&rules, drafts)?),
            Control::RemoveTarget(rules, target) => Effect::RemoveTarget(Arc::new((select(&rules, drafts)?, target))),
            Control::Nothing => return Ok(None),
        },
    }))
}

fn rule(draft: Draft, effects: Vec<Effect>) -> Rule {
    let (actions, transforms) = settle(&draft, effects);
    let test = draft.test.map(|test| {
        let excluded: Vec<Target> = of_purpose(&test.parts, Use::Exclude).cloned().collect();
        let measured = |part: &TargetPart| {
            let measure = match part.purpose {
                Use::Value => Measure::Value,
                Use::Count => Measure::Count,
                Use::Exclude => return None,
            };
            Some(RuleTarget { target: part.target.clone(), measure })
        };
        Test {
            targets: test.parts.iter().filter_map(measured).collect(),
            excluded,
            transforms,
            operator: test.operator.operator,
            sense: test.operator.sense,
        }
    });
    Rule { origin: draft.origin, id: draft.id, phase: draft.phase, test, actions }
}

fn of_purpose(parts: &[TargetPart], purpose: Use) -> impl Iterator<Item = &Target> {
    parts.iter().filter(move |part| part.purpose == purpose).map(|part| &part.target)
}

/// Merges defaults and own actions; later ones win.
fn settle(draft: &Draft, effects: Vec<Effect>) -> (Actions, Vec<crate::transform::Transform>) {
    let (mut transforms, mut tags) = (Vec::new(), Vec::new());
    let mut blocked = Verdict::Pass;
    let mut actions = Actions {
        log: Switch::On,
        audit: Switch::On,
        message: None,
        log_data: None,
        tags: Arc::from([]),
        version: None,
        revision: None,
        severity: None,
        maturity: None,
        accuracy: None,
        capture: false,
        multi_match: false,
        chained: false,
        status: DEFAULT_STATUS,
        verdict: Verdict::Pass,
        skip: 0,
        skip_after: None,
        effects,
    };
    for (own, action) in
        draft.defaults.iter().map(|action| (false, action)).chain(draft.actions.iter().map(|action| (true, action)))
    {
        match action {
            Action::Id(_) | Action::Phase(_) | Action::Effect(_) => {}
            Action::Message(message) => actions.message = Some(message.clone()),
            Action::LogData(data) => actions.log_data = Some(data.clone()),
            Action::Tag(tag) => tags.push(tag.clone()),
            Action::Version(version) => actions.version = Some(version.clone()),
            Action::Revision(revision) => actions.revision = Some(revision.clone()),
            Action::Severity(severity) => actions.severity = Some(*severity),
            Action::Maturity(maturity) => actions.maturity = Some(*maturity),
            Action::Accuracy(accuracy) => actions.accuracy = Some(*accuracy),
            Action::Log(switch) => {
                actions.log = *switch;
                // `nolog` also keeps a match out of the audit log, unless `auditlog` follows.
                actions.audit = *switch;
            }
            Action::AuditLog(switch) => actions.audit = *switch,
            Action::Capture => actions.capture = true,
            Action::MultiMatch => actions.multi_match = true,
            Action::Chain => actions.chained = true,
            Action::ForgetTransforms => transforms.clear(),
            Action::Transform(transform) => transforms.push(*transform),
            Action::Status(status) => actions.status = *status,
            Action::Disruptive(disruptive) => {
                actions.verdict = match disruptive {
                    Disruptive::Block => blocked.clone(),
                    Disruptive::Pass => Verdict::Pass,
                    Disruptive::Deny => Verdict::Deny,
                    Disruptive::Drop => Verdict::Drop,
                    Disruptive::Redirect(to) => Verdict::Redirect(to.clone()),
                    Disruptive::Allow(allowed) => Verdict::Allow(*allowed),
                };
                if !own {
                    blocked = actions.verdict.clone();
                }
            }
            Action::Skip(count) => actions.skip = *count,
            Action::SkipAfter(marker) => actions.skip_after = Some(marker.clone()),
        }
    }
    actions.tags = Arc::from(tags);
    (actions, transforms)
}

/// What `deny` answers when no `status` is given.
const DEFAULT_STATUS: u16 = 403;

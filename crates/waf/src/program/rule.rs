//! A rule as the evaluator runs it.

use std::sync::Arc;

use crate::error::Origin;
use crate::operator::{Operator, TextTest};
use crate::program::Gate;
use crate::program::rule_set::RuleSet;
use crate::seclang::action::{Allowed, AuditMode, EngineMode, Phase, Processor, SetVar, Severity, Switch};
use crate::seclang::target::{Selector, Target};
use crate::seclang::template::Template;
use crate::seclang::variable::Variable;
use crate::transform::Transform;

/// The head of a chain, a link of one, or a rule on its own.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) origin: Origin,
    /// Zero for links.
    pub(crate) id: u32,
    pub(crate) phase: Phase,
    /// `None` for `SecAction`.
    pub(crate) test: Option<Test>,
    pub(crate) actions: Actions,
}

impl Rule {
    /// Whether it is nothing but a comparison of a member of TX with a number.
    pub(crate) fn gate(&self) -> Option<Gate> {
        let (test, actions) = (self.test.as_ref()?, &self.actions);
        let [RuleTarget { target: Target { selector: Selector::Slot(slot), .. }, measure: Measure::Value }] =
            test.targets.as_slice()
        else {
            return None;
        };
        let Operator::Text(TextTest::Less, bound) = &test.operator else { return None };
        let bare = test.transforms.is_empty() && test.excluded.is_empty() && test.sense == Sense::Plain;
        let silent = actions.log == Switch::Off
            && actions.effects.is_empty()
            && actions.severity.is_none()
            && !(actions.capture || actions.multi_match || actions.chained)
            && matches!(actions.verdict, Verdict::Pass);
        let below = crate::operator::integer(bound.fixed()?);
        (bare && silent).then_some(Gate { slot: *slot, below })
    }
}

/// What a rule looks at and how.
#[derive(Debug)]
pub(crate) struct Test {
    pub(crate) targets: Vec<RuleTarget>,
    pub(crate) excluded: Vec<Target>,
    pub(crate) transforms: Vec<Transform>,
    pub(crate) operator: Operator,
    pub(crate) sense: Sense,
}

#[derive(Debug, Clone)]
pub(crate) struct RuleTarget {
    pub(crate) target: Target,
    pub(crate) measure: Measure,
}

/// The values themselves or how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    Value,
    Count,
}

/// Whether a rule matches when its operator does or when it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sense {
    Plain,
    Negated,
}

/// What a match does, defaults merged in.
#[derive(Debug)]
pub(crate) struct Actions {
    pub(crate) log: Switch,
    pub(crate) audit: Switch,
    pub(crate) message: Option<Template>,
    pub(crate) log_data: Option<Template>,
    pub(crate) tags: Arc<[Box<str>]>,
    pub(crate) version: Option<Box<str>>,
    pub(crate) revision: Option<Box<str>>,
    pub(crate) severity: Option<Severity>,
    pub(crate) maturity: Option<u8>,
    pub(crate) accuracy: Option<u8>,
    pub(crate) capture: bool,
    pub(crate) multi_match: bool,
    /// Whether the next rule is a link of this chain.
    pub(crate) chained: bool,
    pub(crate) status: u16,
    pub(crate) verdict: Verdict,
    pub(crate) skip: u32,
    pub(crate) skip_after: Option<Box<str>>,
    pub(crate) effects: Vec<Effect>,
}

/// The disruptive part, `block` resolved.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    Pass,
    Deny,
    Drop,
    Redirect(Template),
    Allow(Allowed),
}

/// What a match changes, rules resolved.
#[derive(Debug, Clone)]
pub(crate) enum Effect {
    SetVar(SetVar),
    ExpireVar { variable: Variable, member: Template, seconds: Template },
    InitCollection { variable: Variable, key: Template },
    SetEnv { name: Template, value: Template },
    AuditEngine(AuditMode),
    Engine(EngineMode),
    ForceRequestBody(Switch),
    RequestBodyAccess(Switch),
    ResponseBodyAccess(Switch),
    RequestBodyLimit(usize),
    ResponseBodyLimit(usize),
    BodyProcessor(Processor),
    RemoveRules(RuleSet),
    RemoveTarget(Arc<(RuleSet, Target)>),
}

//! Runs the rules of a phase, plainly: every rule, every value, in file order.

use std::borrow::Cow;
use std::sync::Arc;

use super::audit::{Cause, EXCERPT_BYTES, FINDINGS, Finding, Intervention, Response, RuleMatch};
use super::effects;
use super::state::State;
use super::values::{Sources, Value};
use crate::operator::{Capture, Captured};
use crate::program::rule::{Measure, Rule, Sense, Test, Verdict};
use crate::seclang::action::{Allowed, EngineMode, Phase, Switch};
use crate::seclang::target::Selector;

/// Runs one phase to its end, or to the first rule that ends it.
pub(super) fn phase(sources: Sources<'_>, state: &mut State, phase: Phase) {
    let entries = sources.program.phase(phase);
    let mut position = 0;
    while let Some(entry) = entries.get(position) {
        if state.engine == EngineMode::Off {
            return;
        }
        position += 1;
        if state.removed_rules.contains(entry.rule) {
            continue;
        }
        if !(Run { sources, state, head: entry.rule, findings: Vec::new() }).chain() {
            continue;
        }
        position = entry.skip_to.unwrap_or(position);
        let ended = phase != Phase::Logging && (state.intervention.is_some() || state.allowed.is_some());
        if ended {
            return;
        }
    }
}

/// One head and its links.
struct Run<'r, 't> {
    sources: Sources<'t>,
    state: &'r mut State,
    head: usize,
    findings: Vec<Finding>,
}

impl<'t> Run<'_, 't> {
    /// Whether the whole chain matched.
    fn chain(mut self) -> bool {
        let rules = self.sources.program.chain(self.head);
        self.state.current = Some(self.head);
        self.state.matched.clear();
        let matched = rules.iter().all(|rule| self.rule(rule));
        if matched {
            self.conclude();
        }
        matched
    }

    fn head_rule(&self) -> Option<&'t Rule> {
        self.sources.program.rules.get(self.head)
    }

    fn rule(&mut self, rule: &'t Rule) -> bool {
        let Some(test) = &rule.test else {
            self.on_match(rule, None);
            return true;
        };
        let argument = match test.operator.template() {
            Some(template) => match template.fixed() {
                Some(fixed) => Cow::Borrowed(fixed),
                None => Cow::Owned(self.sources.expand(template, self.state)),
            },
            None => Cow::Borrowed(&b""[..]),
        };
        let mut matched = false;
        for value in self.values(rule, test) {
            matched |= self.value(rule, test, value, &argument);
        }
        matched
    }

    /// All values a rule looks at, exclusions applied. They are collected first: a match may change TX.
    fn values(&self, rule: &Rule, test: &'t Test) -> Vec<Value<'t>> {
        let mut values = Vec::new();
        let removals: Vec<_> = match rule.id {
            0 => Vec::new(),
            _ => self.state.removed_targets.iter().filter(|(rules, _)| rules.contains(self.head)).map(|(_, target)| target).collect(),
        };
        for wanted in &test.targets {
            let excluded = |value: &Value<'_>| {
                test.excluded.iter().chain(removals.iter().copied()).any(|target| {
                    target.variable == value.variable
                        && match &value.member {
                            Some(member) => target.selector.admits(member),
                            None => matches!(target.selector, Selector::All),
                        }
                })
            };
            let mut count = 0usize;
            self.sources.visit(&wanted.target, self.state, &mut |value| {
                if excluded(&value) {
                    return;
                }
                match wanted.measure {
                    Measure::Value => values.push(value),
                    Measure::Count => count += 1,
                }
            });
            if wanted.measure == Measure::Count {
                let member = match &wanted.target.selector {
                    Selector::Name(name) => Some(Cow::Borrowed(&**name)),
                    Selector::All | Selector::Pattern(_) => None,
                };
                let bytes = Cow::Owned(count.to_string().into_bytes());
                values.push(Value { variable: wanted.target.variable, member, bytes });
            }
        }
        values
    }

    /// Transforms and tests one value.
    fn value(&mut self, rule: &'t Rule, test: &Test, mut value: Value<'t>, argument: &[u8]) -> bool {
        let map = &self.sources.program.settings.unicode_map;
        let mut matched = false;
        if rule.actions.multi_match {
            matched |= self.test(rule, test, &value, argument);
        }
        for transform in &test.transforms {
            let before = rule.actions.multi_match.then(|| value.bytes.clone());
            value.bytes = transform.apply(value.bytes, map);
            if before.is_some_and(|before| before != value.bytes) {
                matched |= self.test(rule, test, &value, argument);
            }
        }
        if !rule.actions.multi_match {
            matched = self.test(rule, test, &value, argument);
        }
        matched
    }

    fn test(&mut self, rule: &'t Rule, test: &Test, value: &Value<'t>, argument: &[u8]) -> bool {
        let capture = if rule.actions.capture { Capture::Wanted } else { Capture::NotWanted };
        let captured = match (test.operator.test(&value.bytes, argument, capture), test.sense) {
            (Some(captured), Sense::Plain) | (Some(captured @ Captured::Undecided), Sense::Negated) => captured,
            (None, Sense::Negated) => Captured::Nothing,
            (None, Sense::Plain) | (Some(_), Sense::Negated) => return false,
        };
        if rule.actions.capture {
            self.capture(captured, &value.bytes);
        }
        self.on_match(rule, Some(value));
        true
    }

    fn capture(&mut self, captured: Captured, value: &[u8]) {
        match captured {
            Captured::Nothing | Captured::Undecided => {}
            Captured::Text(text) => self.state.set_captures([Some(text)]),
            Captured::Groups(groups) => {
                let text = |range| value.get(range).map(<[u8]>::to_vec);
                self.state.set_captures(groups.into_iter().map(|group| group.and_then(text)));
            }
        }
    }

    /// What happens at each value that matches.
    fn on_match(&mut self, rule: &'t Rule, value: Option<&Value<'t>>) {
        if let Some(value) = value {
            self.state.note_match(value.full_name(), &value.bytes);
        }
        if let Some(severity) = self.head_rule().and_then(|head| head.actions.severity) {
            self.state.note_severity(severity);
        }
        effects::apply(self.sources, self.state, &rule.actions.effects);
        if !rule.actions.chained && self.findings.len() < FINDINGS {
            self.find(value);
        }
    }

    /// Notes a value at which the last link matched.
    fn find(&mut self, value: Option<&Value<'t>>) {
        let Some(head) = self.head_rule().filter(|head| head.actions.log == Switch::On) else { return };
        let data = head.actions.log_data.as_ref().map(|data| self.sources.expand(data, self.state));
        let excerpt = value.map(|value| value.bytes.get(..EXCERPT_BYTES).unwrap_or(&value.bytes).to_vec());
        self.findings.push(Finding {
            variable: value.map(|value| lossy(&value.full_name())).unwrap_or_default(),
            excerpt: excerpt.unwrap_or_default(),
            data: data.map(|data| lossy(&data)).unwrap_or_default(),
        });
    }

    /// The whole chain matched: log and decide.
    fn conclude(&mut self) {
        let Some(head) = self.head_rule() else { return };
        if head.actions.log == Switch::On {
            let message = head.actions.message.as_ref().map(|message| self.sources.expand(message, self.state));
            self.state.matches.push(RuleMatch {
                id: head.id,
                phase: head.phase,
                message: message.map(|message| lossy(&message)).unwrap_or_default(),
                severity: head.actions.severity,
                tags: Arc::from(head.actions.tags.as_slice()),
                version: head.actions.version.clone(),
                place: head.origin.to_string(),
                findings: std::mem::take(&mut self.findings),
            });
        }
        if self.state.engine == EngineMode::On {
            self.decide(head);
        }
    }

    fn decide(&mut self, head: &Rule) {
        let response = match &head.actions.verdict {
            Verdict::Pass => return,
            Verdict::Allow(Allowed::Phase) => {
                self.state.allowed = Some(Allowed::Phase);
                return;
            }
            Verdict::Allow(allowed) => {
                self.state.allowed = Some(*allowed);
                return;
            }
            Verdict::Deny => Response::Deny { status: head.actions.status },
            Verdict::Drop => Response::Drop,
            Verdict::Redirect(location) => {
                let given = head.actions.status;
                let status = if (300..400).contains(&given) { given } else { 302 };
                Response::Redirect { status, location: lossy(&self.sources.expand(location, self.state)) }
            }
        };
        // In the logging phase the answer is long gone.
        if head.phase != Phase::Logging {
            self.state.intervention = Some(Intervention { response, cause: Cause::Rule(head.id), phase: head.phase });
        }
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

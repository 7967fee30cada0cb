//! Runs the rules of a phase in file order.
//!
//! What the prefilter has ruled out is passed over; whatever is left is tested here, plainly, and in the rules' own order.
//! Without a prefilter every rule sees every value: the answers are the same.

use std::sync::Arc;

use super::audit::{Cause, EXCERPT_BYTES, FINDINGS, Finding, Intervention, Response, RuleMatch};
use super::collect::{Collect, Count, Exclusions, Value, Values, View, emptied, write_name};
use super::effects::{self, Scratch};
use super::origin::ValueId;
use super::state::State;
use super::trace::{TraceOutcome, Tracer};
use super::values::{Decimal, Sources};
use super::work::Work;
use crate::accelerate::{Scan, Verdict as Filtered};
use crate::operator::{Capture, Captured, Operator, Pattern};
use crate::program::rule::{Measure, Rule, RuleTarget, Sense, Test, Verdict};
use crate::program::{Entry, Gate};
use crate::seclang::action::{EngineMode, Phase, Switch};
use crate::seclang::target::Selector;
use crate::seclang::template::Template;
use crate::seclang::variable::Variable;

/// What evaluation needs besides facts and state; kept from one transaction to the next.
#[derive(Debug, Default)]
pub(crate) struct Workshop {
    pub(super) scan: Scan,
    pub(super) work: Work,
    scratch: Scratch,
    argument: Vec<u8>,
    kept: Vec<u8>,
    /// Of the value being transformed.
    forms: [Vec<u8>; 2],
    list: Vec<Value<'static>>,
    only: Vec<ValueId>,
    pub(super) tracer: Option<Box<Tracer>>,
    /// Whether a detector left out the ends of words.
    pub(super) shortened: bool,
    /// The pattern with macros compiled last, by its text.
    pattern: Option<(Vec<u8>, Pattern)>,
}

impl Workshop {
    pub(super) fn begin(&mut self) {
        self.scan.begin();
        self.work.begin();
        self.tracer = None;
        self.shortened = false;
    }

    /// Bytes kept for the next transaction.
    pub(super) fn kept_bytes(&self) -> usize {
        let forms: usize = self.forms.iter().map(Vec::capacity).sum();
        self.argument.capacity() + self.kept.capacity() + forms + self.scan.kept_bytes()
    }
}

/// Runs one phase to its end, or to the first rule that ends it.
pub(super) fn phase(sources: Sources<'_>, state: &mut State, workshop: &mut Workshop, phase: Phase) {
    let values = Values { list: emptied(std::mem::take(&mut workshop.list)), kept: std::mem::take(&mut workshop.kept) };
    let mut run = Run { sources, state, workshop, head: 0, findings: Vec::new(), values };
    run.phase(phase);
    let Run { workshop, values, .. } = run;
    workshop.list = emptied(values.list);
    workshop.kept = values.kept;
}

/// One phase; then, inside it, one head with its links after the other.
struct Run<'r, 't> {
    sources: Sources<'t>,
    state: &'r mut State,
    workshop: &'r mut Workshop,
    head: usize,
    findings: Vec<Finding>,
    values: Values<'t>,
}

impl<'t> Run<'_, 't> {
    fn phase(&mut self, phase: Phase) {
        let entries = self.sources.program.phase(phase);
        let mut position = 0;
        while let Some(entry) = entries.get(position) {
            if self.state.engine == EngineMode::Off {
                return;
            }
            position += 1;
            if self.state.removed_rules.contains(entry.rule) {
                self.trace_rule(entry, TraceOutcome::Removed);
                continue;
            }
            let matched = match self.workshop.tracer {
                None => self.entry(entry, phase),
                Some(_) => self.traced(entry, phase),
            };
            if !matched {
                continue;
            }
            position = entry.skip_to.unwrap_or(position);
            let ended = phase != Phase::Logging && (self.state.intervention.is_some() || self.state.allowed.is_some());
            if ended {
                return;
            }
        }
    }

    #[inline]
    fn trace_rule(&mut self, entry: &Entry, outcome: TraceOutcome) {
        if let Some(tracer) = &mut self.workshop.tracer {
            tracer.begin(self.sources.program.chain(entry.rule), outcome);
        }
    }

    /// Runs an entry and notes what came of it.
    #[cold]
    fn traced(&mut self, entry: &Entry, phase: Phase) -> bool {
        self.trace_rule(entry, TraceOutcome::NotMatched);
        let names = &self.sources.program.tx_names;
        let before = self.state.scores(names);
        let matched = self.entry(entry, phase);
        let after = self.state.scores(names);
        if let Some(tracer) = &mut self.workshop.tracer {
            tracer.scores(&before, after);
        }
        if matched {
            self.trace_outcome(TraceOutcome::Matched);
        }
        matched
    }

    #[inline]
    fn trace_outcome(&mut self, outcome: TraceOutcome) {
        if let Some(tracer) = &mut self.workshop.tracer {
            tracer.end(outcome);
        }
    }

    /// Notes one test; `rule` is the head or the link that made it.
    #[inline]
    fn trace_test(&mut self, rule: &Rule, value: &View<'_>, bytes: &[u8], matched: bool) {
        if let Some(tracer) = &mut self.workshop.tracer {
            let chain = self.sources.program.chain(self.head);
            let link = chain.iter().position(|own| std::ptr::eq(own, rule)).unwrap_or(0);
            let mut name = Vec::new();
            value.write_name(&mut name);
            tracer.test(link, &name, bytes, matched);
        }
    }

    /// Whether the rule, or the whole chain, matched.
    fn entry(&mut self, entry: &Entry, phase: Phase) -> bool {
        self.state.current = Some(entry.rule);
        self.state.matched.clear();
        self.state.gained = None;
        self.head = entry.rule;
        if let Some(gate) = &entry.gate {
            return self.gate(gate);
        }
        let Some(content) = entry.content else { return self.chain(Only::Everything) };
        let Workshop { scan, work, only, .. } = &mut *self.workshop;
        scan.catch_up(self.sources.program, self.sources.facts, self.state, phase, work);
        let verdict = scan.verdict(content, only);
        let volatile = self.sources.program.accelerator.volatile(content);
        match verdict {
            Filtered::RuledOut if volatile.iter().any(|slot| self.state.slot(*slot).is_some()) => {
                only.clear();
                self.chain(Only::Candidates)
            }
            Filtered::RuledOut => {
                self.trace_outcome(TraceOutcome::RuledOut);
                false
            }
            Filtered::Unknown => self.chain(Only::Everything),
            Filtered::Candidates => self.chain(Only::Candidates),
        }
    }

    /// A rule that compares a member of TX with a number and does nothing but skip.
    fn gate(&mut self, gate: &Gate) -> bool {
        let Some(value) = self.state.slot(gate.slot) else { return false };
        if crate::operator::integer(value) >= gate.below {
            return false;
        }
        // MATCHED_VAR shows it from here on.
        let name = self.sources.program.tx_names.name(gate.slot);
        self.state.note_slot_match(|full| write_name(full, Variable::Tx, Some(name)), gate.slot);
        true
    }

    fn chain(&mut self, only: Only) -> bool {
        self.findings.clear();
        let rules = self.sources.program.chain(self.head);
        let mut only = only;
        let matched = rules.iter().all(|rule| self.rule(rule, std::mem::replace(&mut only, Only::Everything)));
        if matched {
            self.conclude();
        }
        matched
    }

    fn head_rule(&self) -> Option<&'t Rule> {
        self.sources.program.rules.get(self.head)
    }

    fn rule(&mut self, rule: &'t Rule, only: Only) -> bool {
        let Some(test) = &rule.test else {
            self.on_match(rule, None);
            return true;
        };
        let mut filled = std::mem::take(&mut self.workshop.argument);
        filled.clear();
        let fixed = match test.operator.template() {
            None => Some(&b""[..]),
            Some(template) => template.fixed().or_else(|| {
                self.sources.expand(template, self.state, &mut filled);
                None
            }),
        };
        let argument = fixed.unwrap_or(&filled);
        if self.plainly_fails(test, argument) {
            self.workshop.argument = filled;
            return false;
        }
        let mut values = std::mem::replace(&mut self.values, Values { list: Vec::new(), kept: Vec::new() });
        self.collect(rule, test, only, &mut values);
        let mut matched = false;
        for value in &values.list {
            matched |= self.value(rule, test, &value.view(&values.kept), argument);
        }
        self.values = values;
        self.workshop.argument = filled;
        matched
    }

    /// Whether a rule about one member of TX does not match, told without copying the member. Most such rules do not, and
    /// there are many; all others take the long way.
    fn plainly_fails(&self, test: &Test, argument: &[u8]) -> bool {
        let ([RuleTarget { target, measure: Measure::Value }], true) =
            (test.targets.as_slice(), test.transforms.is_empty())
        else {
            return false;
        };
        let (Selector::Slot(slot), Operator::Text(comparison, _)) = (&target.selector, &test.operator) else {
            return false;
        };
        let matched = self.state.slot(*slot).map(|value| comparison.test(value, argument));
        self.workshop.tracer.is_none() && matched.is_none_or(|matched| matched != (test.sense == Sense::Plain))
    }

    /// All values a rule looks at, exclusions applied. They are collected first: a match may change TX.
    fn collect(&self, rule: &Rule, test: &'t Test, only: Only, values: &mut Values<'t>) {
        values.list.clear();
        values.kept.clear();
        let removed = if rule.id == 0 { &[][..] } else { self.state.removed_targets.as_slice() };
        let exclusions = Exclusions { written: &test.excluded, removed, head: self.head };
        let only = (only == Only::Candidates).then_some(self.workshop.only.as_slice());
        for wanted in &test.targets {
            match wanted.measure {
                Measure::Value => {
                    let mut sink = Collect { values: &mut *values, exclusions };
                    self.sources.visit(&wanted.target, self.state, only, &mut sink);
                }
                Measure::Count => {
                    let mut sink = Count { count: 0, exclusions };
                    self.sources.visit(&wanted.target, self.state, None, &mut sink);
                    let member = match &wanted.target.selector {
                        Selector::Name(name) => Some(&**name),
                        Selector::Slot(slot) => Some(self.sources.program.tx_names.name(*slot)),
                        Selector::All | Selector::Pattern(_) => None,
                    };
                    values.keep(wanted.target.variable, member, Decimal::of(sink.count).text());
                }
            }
        }
    }

    /// Transforms and tests one value.
    fn value(&mut self, rule: &'t Rule, test: &Test, value: &View<'_>, argument: &[u8]) -> bool {
        if test.transforms.is_empty() {
            return self.test(rule, test, value, value.bytes, argument);
        }
        let mut forms = std::mem::take(&mut self.workshop.forms);
        let matched = self.transformed(rule, test, value, argument, &mut forms);
        self.workshop.forms = forms;
        matched
    }

    /// `forms` is memory for two forms of the value: the one at hand, and the next.
    fn transformed(
        &mut self,
        rule: &'t Rule,
        test: &Test,
        value: &View<'_>,
        argument: &[u8],
        forms: &mut [Vec<u8>; 2],
    ) -> bool {
        let map = &self.sources.program.settings.unicode_map;
        let multi_match = rule.actions.multi_match;
        let [current, next] = forms;
        let mut matched = multi_match && self.test(rule, test, value, value.bytes, argument);
        let mut changed = false;
        for transform in &test.transforms {
            let source = if changed { current.as_slice() } else { value.bytes };
            if !self.workshop.work.spend(source.len()) {
                return matched;
            }
            next.clear();
            if transform.write(source, map, next).is_none() {
                continue;
            }
            let differs = next != source;
            std::mem::swap(current, next);
            changed = true;
            if multi_match && differs {
                matched |= self.test(rule, test, value, current, argument);
            }
        }
        if multi_match {
            return matched;
        }
        self.test(rule, test, value, if changed { current } else { value.bytes }, argument)
    }

    fn test(&mut self, rule: &'t Rule, test: &Test, value: &View<'_>, bytes: &[u8], argument: &[u8]) -> bool {
        if !self.workshop.work.spend(bytes.len().saturating_mul(test.operator.cost())) {
            return false;
        }
        if matches!(test.operator, Operator::DetectSqli) {
            self.workshop.shortened |= crate::operator::is_shortened(bytes);
        }
        let capture = if rule.actions.capture { Capture::Wanted } else { Capture::NotWanted };
        let found = match &test.operator {
            Operator::PatternTemplate(_) => self.test_template(bytes, argument, capture),
            operator => operator.test(bytes, argument, capture),
        };
        let captured = match (found, test.sense) {
            (Some(captured), Sense::Plain) | (Some(captured @ Captured::Undecided), Sense::Negated) => captured,
            (None, Sense::Negated) => Captured::Nothing,
            (None, Sense::Plain) | (Some(_), Sense::Negated) => {
                self.trace_test(rule, value, bytes, false);
                return false;
            }
        };
        self.trace_test(rule, value, bytes, true);
        if rule.actions.capture {
            self.capture(captured, bytes);
        }
        self.on_match(rule, Some((value, bytes)));
        true
    }

    /// A pattern with macros is compiled when its text has changed.
    fn test_template(&mut self, bytes: &[u8], argument: &[u8], capture: Capture) -> Option<Captured> {
        let current = self.workshop.pattern.as_ref().is_some_and(|(text, _)| text == argument);
        if !current {
            self.workshop.work.spend(COMPILE_COST);
            let pattern = Pattern::compile(&String::from_utf8_lossy(argument)).ok()?;
            self.workshop.pattern = Some((argument.to_vec(), pattern));
        }
        self.workshop.pattern.as_ref()?.1.test(bytes, capture)
    }

    fn capture(&mut self, captured: Captured, value: &[u8]) {
        match captured {
            Captured::Nothing | Captured::Undecided => {}
            Captured::Whole => self.state.set_captures([Some(value)]),
            Captured::Text(text) => self.state.set_captures([Some(text.as_slice())]),
            Captured::Groups(groups) => {
                self.state.set_captures(groups.into_iter().map(|group| group.and_then(|range| value.get(range))));
            }
        }
    }

    /// What happens at each value that matches: the value as it came, and as it was tested.
    fn on_match(&mut self, rule: &'t Rule, value: Option<(&View<'_>, &[u8])>) {
        if let Some((value, bytes)) = value {
            self.state.note_match(|full| value.write_name(full), bytes);
        }
        if let Some(severity) = self.head_rule().and_then(|head| head.actions.severity) {
            self.state.note_severity(severity);
        }
        effects::apply(self.sources, self.state, &rule.actions.effects, &mut self.workshop.scratch);
        if !rule.actions.chained && self.findings.len() < FINDINGS {
            self.find(value);
        }
    }

    /// Notes a value at which the last link matched.
    fn find(&mut self, value: Option<(&View<'_>, &[u8])>) {
        let Some(head) = self.head_rule().filter(|head| head.actions.log == Switch::On) else { return };
        let data = head.actions.log_data.as_ref().map(|data| self.expand_for_log(data));
        let mut variable = Vec::new();
        value.iter().for_each(|(value, _)| value.write_name(&mut variable));
        let excerpt = value.map(|(_, bytes)| bytes.get(..EXCERPT_BYTES).unwrap_or(bytes).to_vec());
        self.findings.push(Finding {
            variable: String::from_utf8_lossy(&variable).into_owned(),
            excerpt: excerpt.unwrap_or_default(),
            data: data.unwrap_or_default(),
        });
    }

    /// A message may quote whole values; logs take no more than ModSecurity's.
    fn expand_for_log(&self, template: &Template) -> String {
        let mut text = self.sources.expand_lossy(template, self.state);
        if text.len() > LOG_BYTES {
            text.truncate(text.floor_char_boundary(LOG_BYTES));
        }
        text
    }

    /// The whole chain matched: log and decide.
    fn conclude(&mut self) {
        let Some(head) = self.head_rule() else { return };
        if head.actions.log == Switch::On {
            let message = head.actions.message.as_ref().map(|message| self.expand_for_log(message));
            self.state.matches.push(RuleMatch {
                id: head.id,
                phase: head.phase,
                message: message.unwrap_or_default(),
                severity: head.actions.severity,
                tags: Arc::clone(&head.actions.tags),
                version: head.actions.version.clone(),
                place: head.origin.to_string(),
                score: self.state.gained.map_or(0, |(_, sum)| sum),
                findings: std::mem::take(&mut self.findings),
            });
        }
        match (self.state.engine, &head.actions.verdict) {
            (EngineMode::On, _) => self.decide(head),
            (EngineMode::DetectionOnly, Verdict::Deny | Verdict::Drop | Verdict::Redirect(_))
                if head.phase != Phase::Logging =>
            {
                self.state.would_refuse.get_or_insert(head.id);
            }
            (EngineMode::DetectionOnly | EngineMode::Off, _) => {}
        }
    }

    fn decide(&mut self, head: &Rule) {
        let response = match &head.actions.verdict {
            Verdict::Pass => return,
            Verdict::Allow(allowed) => {
                self.state.allowed = Some(*allowed);
                return;
            }
            Verdict::Deny => Response::Deny { status: head.actions.status },
            Verdict::Drop => Response::Drop,
            Verdict::Redirect(location) => {
                let given = head.actions.status;
                let status = if (300..400).contains(&given) { given } else { 302 };
                Response::Redirect { status, location: self.sources.expand_lossy(location, self.state) }
            }
        };
        // In the logging phase the answer is long gone.
        if head.phase != Phase::Logging {
            self.state.intervention = Some(Intervention { response, cause: Cause::Rule(head.id), phase: head.phase });
        }
    }
}

/// The longest message or `logdata` kept.
const LOG_BYTES: usize = 512;

/// Work counted for compiling a pattern with macros.
const COMPILE_COST: usize = 100_000;

/// Whether a rule looks at all its values or at those the prefilter left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Only {
    Everything,
    Candidates,
}

//! The prefilter at work in one transaction: which rules may match, and at which values.

use super::content::{Chains, Side};
use super::forms::Forms;
use super::plan::{Load, Plan};
use super::{ContentId, Mask};
use crate::operator::{ByteSet, integer};
use crate::program::Program;
use crate::seclang::action::Phase;
use crate::transaction::facts::Facts;
use crate::transaction::origin::{Origin, ValueId, stable_scalar};
use crate::transaction::state::State;
use crate::transaction::work::Work;
use crate::transform::UnicodeMap;

/// Kinds of values that are collections.
const COLLECTIONS: usize = Origin::COLLECTIONS.len();

/// What the prefilter says of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No value can match.
    RuledOut,
    /// Only the values handed over can match.
    Candidates,
    /// The prefilter has not looked.
    Unknown,
}

/// Whether rules are ruled out at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Gear {
    #[default]
    Accelerated,
    Plain,
}

/// The state of the search.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) gear: Gear,
    current: bool,
    begun: bool,
    /// How many values of each collection have been looked at.
    counts: [usize; COLLECTIONS],
    /// The scalars that have been looked at, by their place among all stable ones.
    scalars: u32,
    /// Rules that were searched for in every value so far.
    covered: Mask,
    /// Rules with candidates.
    hits: Mask,
    /// The last candidate of each rule, as an index into `candidates`, plus one.
    last: Vec<u32>,
    candidates: Vec<(ValueId, u32)>,
    string_hits: Mask,
    forms: Forms,
}

impl Scan {
    pub(crate) fn begin(&mut self) {
        self.gear = Gear::Accelerated;
        self.current = false;
        self.begun = false;
        self.counts = [0; COLLECTIONS];
        self.scalars = 0;
        self.candidates.clear();
    }

    /// There may be new values.
    pub(crate) fn outdate(&mut self) {
        self.current = false;
    }

    pub(crate) fn kept_bytes(&self) -> usize {
        self.candidates.capacity() * size_of::<(ValueId, u32)>() + self.forms.kept_bytes()
    }

    /// Looks at values that are new since the last time.
    #[inline]
    pub(crate) fn catch_up(&mut self, program: &Program, facts: &Facts, state: &State, phase: Phase, work: &mut Work) {
        if self.current || self.gear == Gear::Plain {
            return;
        }
        let accelerator = &program.accelerator;
        let level = accelerator.level.and_then(|slot| state.slot(slot)).map(integer);
        if accelerator.is_early(phase, level) {
            return;
        }
        self.current = true;
        if let Some(plan) = accelerator.plan(level) {
            self.look(program, facts, plan, work);
        }
    }

    fn look(&mut self, program: &Program, facts: &Facts, plan: &Plan, work: &mut Work) {
        let accelerator = &program.accelerator;
        let words = plan.active.0.len();
        if !std::mem::replace(&mut self.begun, true) {
            self.covered.reset(words, u64::MAX);
            self.hits.reset(words, 0);
            self.string_hits.reset(words, 0);
            self.last.clear();
            self.last.resize(accelerator.len(), 0);
        }
        self.covered.keep(&plan.active);
        let context = Context { plan, chains: &accelerator.chains, map: &program.settings.unicode_map };
        for (place, (origin, looked_at)) in Origin::COLLECTIONS.into_iter().zip(self.counts).enumerate() {
            let count = origin.count(facts);
            for index in looked_at..count {
                let Some((name, value)) = origin.value(facts, index) else { continue };
                let Some(load) = plan.member(place, name) else { continue };
                let id = ValueId { origin, index: u32::try_from(index).unwrap_or(u32::MAX) };
                self.value(context, load, id, value, work);
            }
            if let Some(place) = self.counts.get_mut(place) {
                *place = count;
            }
        }
        for (variable, load) in plan.scalars() {
            let Some(value) = stable_scalar(*variable, facts) else { continue };
            if !self.take_scalar(*variable as u32) {
                continue;
            }
            let id = ValueId { origin: Origin::Scalar, index: *variable as u32 };
            self.value(context, load, id, value, work);
        }
    }

    /// Whether a scalar has not been looked at yet.
    fn take_scalar(&mut self, variable: u32) -> bool {
        let place = crate::transaction::origin::STABLE_SCALARS.iter().position(|known| *known as u32 == variable);
        let bit = place.and_then(|place| 1u32.checked_shl(u32::try_from(place).ok()?)).unwrap_or(0);
        let fresh = self.scalars & bit == 0;
        self.scalars |= bit;
        fresh
    }

    /// Looks at one value in all its forms.
    fn value(&mut self, context: Context<'_>, load: &Load, id: ValueId, value: &[u8], work: &mut Work) {
        if !work.spend(value.len()) {
            // What was not looked at is not ruled out.
            self.covered.reset(self.covered.0.len(), 0);
            return;
        }
        let present = ByteSet::of(value);
        let plain = !value.starts_with(b".");
        if plain && load.triggers.is_some_and(|triggers| !triggers.meets(present)) {
            self.string(context, load.side, id, value, present, &load.all);
            return;
        }
        let mut forms = std::mem::take(&mut self.forms);
        forms.begin(value, present, &load.all);
        for group in &load.groups {
            if plain && group.triggers.is_some_and(|triggers| !triggers.meets(present)) {
                continue;
            }
            for (chain, rules) in &group.chains {
                forms.withdraw(rules);
                match context.chains.get(*chain).map(|chain| forms.walk(chain, context.map, work)) {
                    Some(Some(form)) => forms.add(form, rules),
                    Some(None) => self.covered.reset(self.covered.0.len(), 0),
                    None => {}
                }
            }
        }
        forms.add(0, &load.several);
        for form in forms.used() {
            self.string(context, load.side, id, &form.text, form.present, &form.rules);
        }
        self.forms = forms;
    }

    /// Looks for all that some rules need in one form of a value.
    fn string(&mut self, context: Context<'_>, side: Side, id: ValueId, text: &[u8], present: ByteSet, rules: &Mask) {
        context.plan.search(side, present).run(text, present, rules, &mut self.string_hits);
        for (at, word) in self.string_hits.0.iter_mut().enumerate() {
            for bit in super::bits(std::mem::take(word)) {
                let rule = at * 64 + bit;
                self.hits.insert(rule);
                if let Some(last) = self.last.get_mut(rule) {
                    // With `multiMatch` several forms of a value may be candidates; the value is tested in all anyway.
                    let again = usize::try_from(*last).ok().and_then(|last| self.candidates.get(last.wrapping_sub(1)));
                    if again.is_none_or(|(known, _)| *known != id) {
                        self.candidates.push((id, *last));
                        *last = u32::try_from(self.candidates.len()).unwrap_or(0);
                    }
                }
            }
        }
    }

    /// Says whether a rule can match; its candidates are put into `only`, in order.
    #[inline]
    pub(crate) fn verdict(&self, content: ContentId, only: &mut Vec<ValueId>) -> Verdict {
        let rule = usize::from(content.0);
        if self.gear == Gear::Plain || !self.begun || !self.covered.contains(rule) {
            return Verdict::Unknown;
        }
        if !self.hits.contains(rule) {
            return Verdict::RuledOut;
        }
        only.clear();
        let mut next = self.last.get(rule).copied().unwrap_or(0);
        while let Some((id, before)) = usize::try_from(next).ok().and_then(|at| self.candidates.get(at.wrapping_sub(1)))
        {
            only.push(*id);
            next = *before;
        }
        only.reverse();
        Verdict::Candidates
    }
}

#[derive(Clone, Copy)]
struct Context<'p> {
    plan: &'p Plan,
    chains: &'p Chains,
    map: &'p UnicodeMap,
}

//! The prefilter at work in one transaction: which rules may match, and at which values.

use super::content::Chains;
use super::forms::Forms;
use super::plan::{Load, Plan};
use super::recurring::Recurring;
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
    /// Of the value at hand.
    found: Mask,
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
            Recurring::with(|recurring| self.look(program, facts, plan, recurring, work));
        }
    }

    fn look(&mut self, program: &Program, facts: &Facts, plan: &Plan, recurring: &mut Recurring, work: &mut Work) {
        let accelerator = &program.accelerator;
        let words = plan.active.0.len();
        if !std::mem::replace(&mut self.begun, true) {
            self.covered.reset(words, u64::MAX);
            self.hits.reset(words, 0);
            self.found.reset(words, 0);
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
                self.value(context, load, id, value, recurring, work);
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
            self.value(context, load, id, value, recurring, work);
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

    /// Looks at one value, unless what is in it is remembered.
    fn value(
        &mut self,
        context: Context<'_>,
        load: &Load,
        id: ValueId,
        value: &[u8],
        recurring: &mut Recurring,
        work: &mut Work,
    ) {
        if !work.spend(value.len()) {
            // What was not looked at is not ruled out.
            self.covered.reset(self.covered.0.len(), 0);
            return;
        }
        if let Some(found) = load.audience.and_then(|audience| recurring.found(audience, value)) {
            found.iter().for_each(|rule| self.note(usize::from(*rule), id));
            return;
        }
        let searched = self.search(context, load, value, work);
        if let (Some(audience), Ok(())) = (load.audience, searched) {
            recurring.keep(audience, value, self.found.members().filter_map(|rule| u16::try_from(rule).ok()));
        }
        for at in 0..self.found.0.len() {
            let word = self.found.0.get_mut(at).map_or(0, std::mem::take);
            super::bits(word).for_each(|bit| self.note(at * 64 + bit, id));
        }
    }

    /// Looks at one value in all its forms: the rules that it may satisfy are in `found` then.
    fn search(&mut self, context: Context<'_>, load: &Load, value: &[u8], work: &mut Work) -> Result<(), Exhausted> {
        let present = ByteSet::of(value);
        let plain = !value.starts_with(b".");
        if plain && load.triggers.is_some_and(|triggers| !triggers.meets(present)) {
            context.plan.search(load.side, present).run(value, present, &load.all, &mut self.found);
            return Ok(());
        }
        let Self { forms, covered, found, .. } = self;
        let mut searched = Ok(());
        forms.begin(value, present, &load.all);
        for group in &load.groups {
            if plain && group.triggers.is_some_and(|triggers| !triggers.meets(present)) {
                continue;
            }
            for (chain, rules) in &group.chains {
                forms.withdraw(rules);
                match context.chains.get(*chain).map(|chain| forms.walk(chain, context.map, work)) {
                    Some(Some(form)) => forms.add(form, rules),
                    Some(None) => {
                        covered.reset(covered.0.len(), 0);
                        searched = Err(Exhausted);
                    }
                    None => {}
                }
            }
        }
        forms.add(0, &load.several);
        for form in forms.used() {
            context.plan.search(load.side, form.present).run(&form.text, form.present, &form.rules, found);
        }
        searched
    }

    /// Notes that a value may satisfy a rule.
    #[inline]
    fn note(&mut self, rule: usize, id: ValueId) {
        self.hits.insert(rule);
        if let Some(last) = self.last.get_mut(rule) {
            self.candidates.push((id, *last));
            *last = u32::try_from(self.candidates.len()).unwrap_or(0);
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

/// The work was used up before a value had been looked at in all its forms.
struct Exhausted;

#[derive(Clone, Copy)]
struct Context<'p> {
    plan: &'p Plan,
    chains: &'p Chains,
    map: &'p UnicodeMap,
}

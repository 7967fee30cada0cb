//! The prefilter: finds out, in one pass over the values of a request, which rules cannot match.
//!
//! A pure accelerator. It rules out and never rules in: what it leaves is tested by the evaluator as if it were not there.
//! Rules whose targets can change while rules run, and those that match by what is *not* there, are not its business.

mod content;
mod factors;
mod forms;
mod grams;
mod plan;
mod recurring;
mod scan;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::OnceLock;

pub(crate) use scan::{Gear, Scan, Verdict};

use crate::program::rule::{Effect, Rule};
use crate::program::{Entry, Gate};
use crate::seclang::action::Phase;
use crate::seclang::target::Slot;
use content::{Chains, Content, Filter, Filters};
use plan::Plan;

/// Number of a rule that the prefilter knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ContentId(u16);

/// What a value must hold before a rule runs on it, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    Literals { count: usize, shortest: usize },
    Bytes { count: usize },
    Sql,
}

/// Rules beyond this are run plainly.
const CONTENTS: usize = u16::MAX as usize;

/// Everything the prefilter has worked out about a rule set.
#[derive(Debug, Default)]
pub(crate) struct Accelerator {
    contents: Vec<Content>,
    chains: Chains,
    /// The member of TX that most rules are gated by: the paranoia level.
    level: Option<Slot>,
    /// Whether a rule of the first phase sets that member: until it has, there is nothing to search by.
    level_is_set: bool,
    /// The values at which gates open, ascending.
    thresholds: Vec<i64>,
    /// One for each number of open gates; made when first needed.
    plans: Box<[OnceLock<Plan>]>,
}

impl Accelerator {
    /// Sorts the rules out and tells the entries which of them the prefilter knows.
    pub(crate) fn new(rules: &[Rule], phases: &mut [Vec<Entry>; 5]) -> Self {
        let mut this = Self::default();
        let mut gates: BTreeMap<Slot, usize> = BTreeMap::new();
        for gate in phases.iter().flatten().filter_map(|entry| entry.gate) {
            *gates.entry(gate.slot).or_default() += 1;
        }
        this.level = gates.into_iter().max_by_key(|(_, count)| *count).map(|(slot, _)| slot);
        let sets_level = |rule: &Rule| {
            let set =
                |effect: &Effect| matches!(effect, Effect::SetVar(set) if set.slot.is_some() && set.slot == this.level);
            rule.phase == Phase::RequestHeaders && rule.actions.effects.iter().any(set)
        };
        this.level_is_set = rules.iter().any(sets_level);
        let mut filters = filters_of(rules);
        for phase in phases.iter_mut() {
            this.add_phase(rules, &mut filters, phase);
        }
        this.thresholds = this.contents.iter().filter_map(|content| content.level).collect();
        this.thresholds.sort_unstable();
        this.thresholds.dedup();
        this.plans = (0..=this.thresholds.len()).map(|_| OnceLock::new()).collect();
        this
    }

    fn add_phase(&mut self, rules: &[Rule], filters: &mut [Option<Filters>], phase: &mut [Entry]) {
        let mut open: Vec<(usize, Gate)> = Vec::new();
        for (position, entry) in phase.iter_mut().enumerate() {
            open.retain(|(end, _)| *end > position);
            if let (Some(gate), Some(end)) = (entry.gate, entry.skip_to) {
                open.push((end, gate));
            }
            let Some(rule) = rules.get(entry.rule) else { continue };
            let level = open.iter().map(|(_, gate)| gate).filter(|gate| Some(gate.slot) == self.level);
            let level = level.map(|gate| gate.below).max();
            let Some(filters) = filters.get_mut(entry.rule).and_then(Option::take) else { continue };
            let Some(content) = Content::of(rule, filters, level, &mut self.chains) else { continue };
            if let (true, Ok(number)) = (self.contents.len() < CONTENTS, u16::try_from(self.contents.len())) {
                self.contents.push(content);
                entry.content = Some(ContentId(number));
            }
        }
    }

    /// Members of TX that a rule looks at besides what the prefilter saw.
    pub(crate) fn volatile(&self, content: ContentId) -> &[Slot] {
        self.contents.get(usize::from(content.0)).map_or(&[], |content| &content.volatile)
    }

    /// Whether the level is still to be set.
    fn is_early(&self, phase: Phase, level: Option<i64>) -> bool {
        self.level_is_set && level.is_none() && phase == Phase::RequestHeaders
    }

    /// The plan for a paranoia level: all rules whose gates are open at it.
    fn plan(&self, level: Option<i64>) -> Option<&Plan> {
        let open = level.map_or(self.thresholds.len(), |level| self.thresholds.partition_point(|gate| *gate <= level));
        let most = match open.checked_sub(1) {
            Some(last) => self.thresholds.get(last).copied(),
            None => None,
        };
        let place = self.plans.get(open)?;
        Some(place.get_or_init(|| {
            let active = |content: &Content| content.level.is_none_or(|level| most.is_some_and(|most| level <= most));
            Plan::new(&self.contents, &self.chains, active)
        }))
    }

    /// Bytes of memory the plans made so far take.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.plans.iter().filter_map(OnceLock::get).map(Plan::memory_bytes).sum()
    }

    /// What keeps a rule from running.
    pub(crate) fn hold(&self, content: ContentId) -> Option<Hold> {
        let [_, _, widest] = &self.contents.get(usize::from(content.0))?.filters;
        Some(match widest {
            Filter::Literals(literals) => {
                Hold::Literals { count: literals.len(), shortest: literals.iter().map(|literal| literal.len()).min()? }
            }
            Filter::Bytes(bytes) => Hold::Bytes { count: (0..=255u8).filter(|byte| bytes.contains(*byte)).count() },
            Filter::Sql => Hold::Sql,
            Filter::Never => Hold::Literals { count: 0, shortest: 0 },
        })
    }

    /// How many rules the prefilter knows.
    pub(crate) fn len(&self) -> usize {
        self.contents.len()
    }
}

/// Works the filters of all heads out, on as many threads as help: most of the time of a compilation goes here.
fn filters_of(rules: &[Rule]) -> Vec<Option<Filters>> {
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get).min(WORKERS);
    let of_rule =
        |rule: &Rule| rule.test.as_ref().filter(|_| rule.id != 0).and_then(|test| content::filters(&test.operator));
    // Neighbours are alike in cost, so each worker takes every n-th rule.
    let share = |worker: usize| rules.iter().skip(worker).step_by(workers).map(of_rule).collect::<Vec<_>>();
    let shares: Vec<Vec<_>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|worker| scope.spawn(move || share(worker))).collect();
        // A worker that panicked only leaves rules to be run plainly.
        handles.into_iter().map(|handle| handle.join().unwrap_or_default()).collect()
    });
    let mut shares: Vec<_> = shares.into_iter().map(Vec::into_iter).collect();
    (0..rules.len()).map(|rule| shares.get_mut(rule % workers).and_then(Iterator::next).flatten()).collect()
}

/// Threads of a compilation.
const WORKERS: usize = 4;

/// A set of rules as the prefilter numbers them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Mask(Vec<u64>);

impl Mask {
    fn empty(words: usize) -> Self {
        Self(vec![0; words])
    }

    fn insert(&mut self, number: usize) {
        if let Some(word) = self.0.get_mut(number / 64) {
            *word |= 1 << (number % 64);
        }
    }

    #[inline]
    fn contains(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    #[inline]
    fn join(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(own, other)| *own |= other);
    }

    fn leave(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(own, other)| *own &= !other);
    }

    fn keep(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(own, other)| *own &= other);
    }

    fn reset(&mut self, words: usize, value: u64) {
        self.0.clear();
        self.0.resize(words, value);
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn meets(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(own, other)| own & other != 0)
    }

    /// The members, ascending.
    fn members(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(at, word)| bits(*word).map(move |bit| at * 64 + bit))
    }
}

/// The bits of a word, ascending.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros();
        word &= word.wrapping_sub(1);
        (bit < 64).then_some(bit as usize)
    })
}

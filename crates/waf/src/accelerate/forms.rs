//! The forms one value takes under the transformations of the rules that look at it, each worked out once.

use super::Mask;
use super::content::Chain;
use crate::operator::ByteSet;
use crate::transaction::work::Work;
use crate::transform::{Transform, UnicodeMap};

/// Every form of the value at hand; the memory stays from value to value.
#[derive(Debug, Default)]
pub(super) struct Forms {
    forms: Vec<Form>,
    used: usize,
    /// What a transformation makes of a form.
    known: Vec<(usize, Transform, usize)>,
}

/// One form, and the rules that look at it.
#[derive(Debug, Default)]
pub(super) struct Form {
    pub(super) text: Vec<u8>,
    pub(super) present: ByteSet,
    pub(super) rules: Mask,
    /// An earlier form that differs from this one in case alone.
    like: Option<usize>,
}

impl Forms {
    /// Begins with the value as it came, at which all rules look until they are withdrawn.
    pub(super) fn begin(&mut self, value: &[u8], present: ByteSet, all: &Mask) {
        self.used = 0;
        self.known.clear();
        let place = self.next(all.0.len());
        place.rules.join(all);
        place.text.extend_from_slice(value);
        place.present = present;
    }

    fn next(&mut self, words: usize) -> &mut Form {
        if self.used == self.forms.len() {
            self.forms.push(Form::default());
        }
        let at = self.used;
        self.used += 1;
        let place = &mut self.forms[at];
        place.text.clear();
        place.rules.reset(words, 0);
        place.like = None;
        place
    }

    /// The form at the end of a chain; `None` when the work is used up.
    pub(super) fn walk(&mut self, chain: &Chain, map: &UnicodeMap, work: &mut Work) -> Option<usize> {
        let mut at = 0;
        for (transform, triggers) in &chain.steps {
            let form = self.forms.get(at)?;
            if triggers.is_some_and(|triggers| !triggers.meets(form.present)) && !form.text.starts_with(b".") {
                continue;
            }
            let known = self.known.iter().find(|(from, by, _)| *from == at && by == transform);
            at = match known {
                Some((_, _, to)) => *to,
                None => {
                    let to = self.transform(at, *transform, map, work)?;
                    self.known.push((at, *transform, to));
                    to
                }
            };
        }
        Some(at)
    }

    fn transform(&mut self, from: usize, transform: Transform, map: &UnicodeMap, work: &mut Work) -> Option<usize> {
        let words = self.forms.get(from)?.rules.0.len();
        self.next(words);
        let to = self.used - 1;
        let (before, after) = self.forms.split_at_mut(to);
        let (source, target) = (before.get(from)?, after.first_mut()?);
        if !work.spend(source.text.len()) {
            self.used -= 1;
            return None;
        }
        let changed = transform.write(&source.text, map, &mut target.text);
        let same = before.iter().position(|form| form.text == target.text);
        match (changed, same) {
            (None, _) => {
                self.used -= 1;
                Some(from)
            }
            (Some(()), Some(same)) => {
                self.used -= 1;
                Some(same)
            }
            (Some(()), None) => {
                target.present = ByteSet::of(&target.text);
                target.like = before.iter().position(|form| form.text.eq_ignore_ascii_case(&target.text));
                Some(to)
            }
        }
    }

    /// Says that some rules do not look at the value as it came.
    pub(super) fn withdraw(&mut self, rules: &Mask) {
        if let Some(form) = self.forms.first_mut() {
            form.rules.leave(rules);
        }
    }

    /// Says that some rules look at a form.
    pub(super) fn add(&mut self, form: usize, rules: &Mask) {
        let form = self.forms.get(form).and_then(|form| form.like).unwrap_or(form);
        if let Some(form) = self.forms.get_mut(form) {
            form.rules.join(rules);
        }
    }

    /// The forms that rules look at.
    pub(super) fn used(&self) -> impl Iterator<Item = &Form> {
        self.forms.iter().take(self.used).filter(|form| !form.rules.is_empty())
    }

    pub(super) fn kept_bytes(&self) -> usize {
        self.forms.iter().map(|form| form.text.capacity()).sum()
    }
}

//! The members of TX that rules name, numbered: a transaction keeps them in an array instead of a map.

use std::collections::{BTreeSet, HashMap};

use super::rule::{Effect, Rule, Verdict};
use crate::operator::Operator;
use crate::seclang::action::{Change, SetVar};
use crate::seclang::target::{Selector, Slot, Target};
use crate::seclang::template::{Piece, Template};
use crate::seclang::variable::Variable;

/// Names beyond this are looked up at run time.
const MOST: usize = u16::MAX as usize;

/// All names, lower case, in order.
#[derive(Debug, Default)]
pub(crate) struct TxNames {
    names: Vec<Box<[u8]>>,
    slots: HashMap<Box<[u8]>, Slot>,
}

impl TxNames {
    /// Numbers every name that the rules hold and puts the numbers into them.
    pub(super) fn assign(rules: &mut [Rule]) -> Self {
        let mut found = BTreeSet::new();
        visit(rules, &mut |place| {
            if let Some(name) = place.name() {
                found.insert(name);
            }
        });
        let names: Vec<Box<[u8]>> = found.into_iter().take(MOST).collect();
        let slots = (0u16..).map(Slot);
        let slots: HashMap<_, _> = names.iter().cloned().zip(slots).collect();
        let this = Self { names, slots };
        visit(rules, &mut |place| {
            if let Some(slot) = place.name().and_then(|name| this.slot(&name)) {
                place.set(slot);
            }
        });
        this
    }

    /// The slot of a lower-case name.
    pub(crate) fn slot(&self, name: &[u8]) -> Option<Slot> {
        self.slots.get(name).copied()
    }

    pub(crate) fn name(&self, slot: Slot) -> &[u8] {
        self.names.get(usize::from(slot.0)).map_or(b"", |name| name)
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }
}

/// A place in a rule that names a member of TX.
enum Place<'r> {
    Target(&'r mut Target),
    Variable(&'r mut SetVar),
}

impl Place<'_> {
    fn name(&self) -> Option<Box<[u8]>> {
        let name = match self {
            Self::Target(Target { variable: Variable::Tx, selector: Selector::Name(name) }) => name,
            Self::Variable(SetVar { variable: Variable::Tx, member, .. }) => member.fixed()?,
            Self::Target(_) | Self::Variable(_) => return None,
        };
        // `0` to `9` are captures.
        let capture = matches!(name, [b'0'..=b'9']);
        (!capture).then(|| name.to_ascii_lowercase().into())
    }

    fn set(self, slot: Slot) {
        match self {
            Self::Target(target) => target.selector = Selector::Slot(slot),
            Self::Variable(set) => set.slot = Some(slot),
        }
    }
}

fn visit(rules: &mut [Rule], found: &mut dyn FnMut(Place<'_>)) {
    for rule in rules {
        if let Some(test) = &mut rule.test {
            test.targets.iter_mut().for_each(|target| found(Place::Target(&mut target.target)));
            match &mut test.operator {
                Operator::Text(_, template) | Operator::PatternTemplate(template) => in_template(template, found),
                Operator::Address(_)
                | Operator::ByteRange(_)
                | Operator::DetectSqli
                | Operator::DetectXss
                | Operator::Identity(..)
                | Operator::Never
                | Operator::Phrases(_)
                | Operator::Pattern(_)
                | Operator::UnconditionalMatch
                | Operator::ValidateUrlEncoding
                | Operator::ValidateUtf8 => {}
            }
        }
        let actions = &mut rule.actions;
        for template in actions.message.iter_mut().chain(&mut actions.log_data) {
            in_template(template, found);
        }
        if let Verdict::Redirect(to) = &mut actions.verdict {
            in_template(to, found);
        }
        actions.effects.iter_mut().for_each(|effect| in_effect(effect, found));
    }
}

fn in_effect(effect: &mut Effect, found: &mut dyn FnMut(Place<'_>)) {
    match effect {
        Effect::SetVar(set) => {
            found(Place::Variable(set));
            in_template(&mut set.member, found);
            match &mut set.change {
                Change::Set(value) | Change::Add(value) | Change::Subtract(value) => in_template(value, found),
                Change::Remove => {}
            }
        }
        Effect::ExpireVar { member, seconds, .. } => {
            in_template(member, found);
            in_template(seconds, found);
        }
        Effect::InitCollection { key, .. } => in_template(key, found),
        Effect::SetEnv { name, value } => {
            in_template(name, found);
            in_template(value, found);
        }
        Effect::AuditEngine(_)
        | Effect::Engine(_)
        | Effect::ForceRequestBody(_)
        | Effect::RequestBodyAccess(_)
        | Effect::ResponseBodyAccess(_)
        | Effect::RequestBodyLimit(_)
        | Effect::ResponseBodyLimit(_)
        | Effect::BodyProcessor(_)
        | Effect::RemoveRules(_)
        | Effect::RemoveTarget(..) => {}
    }
}

fn in_template(template: &mut Template, found: &mut dyn FnMut(Place<'_>)) {
    for piece in &mut template.pieces {
        if let Piece::Macro(target) = piece {
            found(Place::Target(target));
        }
    }
}

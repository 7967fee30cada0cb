//! What a match changes: variables, persistent collections, the engine itself.

use std::sync::Arc;
use std::time::Duration;

use super::state::State;
use super::values::{Decimal, Sources};
use crate::operator::integer;
use crate::program::rule::Effect;
use crate::seclang::action::{Change, SetVar};
use crate::seclang::template::Template;
use crate::seclang::variable::Variable;

/// Memory for filled-in templates, kept from rule to rule.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    member: Vec<u8>,
    value: Vec<u8>,
}

/// Applies effects in the order written.
pub(super) fn apply(sources: Sources<'_>, state: &mut State, effects: &[Effect], scratch: &mut Scratch) {
    for effect in effects {
        match effect {
            Effect::SetVar(set) => set_var(sources, state, set, scratch),
            Effect::ExpireVar { variable, member, seconds } => {
                let member = expanded(sources, state, member).to_ascii_lowercase();
                let seconds = u64::try_from(integer(&expanded(sources, state, seconds))).unwrap_or(0);
                // A member of TX ends with the transaction anyway.
                if let Some(key) = state.collection(*variable) {
                    sources.store.expire(
                        key,
                        &member,
                        sources.connection.now.saturating_add(Duration::from_secs(seconds)),
                    );
                }
            }
            Effect::InitCollection { variable, key } => {
                let key = (*variable, expanded(sources, state, key));
                sources.store.open(&key, sources.connection.now, sources.program.settings.collection_timeout);
                state.collections.push(key);
            }
            Effect::SetEnv { name, value } => {
                let (name, value) = (expanded(sources, state, name), expanded(sources, state, value));
                state.env.insert(name, value);
            }
            Effect::AuditEngine(mode) => state.audit = *mode,
            Effect::Engine(mode) => state.engine = *mode,
            Effect::ForceRequestBody(switch) => state.force_request_body = *switch,
            Effect::RequestBodyAccess(switch) => state.request_body = *switch,
            Effect::ResponseBodyAccess(switch) => state.response_body = *switch,
            Effect::RequestBodyLimit(bytes) => state.request_limit_bytes = *bytes,
            Effect::ResponseBodyLimit(bytes) => state.response_limit_bytes = *bytes,
            Effect::BodyProcessor(processor) => state.processor = Some(*processor),
            Effect::RemoveRules(rules) => state.removed_rules.extend(rules),
            Effect::RemoveTarget(removal) => state.removed_targets.push(Arc::clone(removal)),
        }
    }
}

fn expanded(sources: Sources<'_>, state: &State, template: &Template) -> Vec<u8> {
    let mut text = Vec::new();
    sources.expand(template, state, &mut text);
    text
}

fn set_var(sources: Sources<'_>, state: &mut State, set: &SetVar, scratch: &mut Scratch) {
    let Scratch { member, value: filled } = scratch;
    filled.clear();
    let value = match &set.change {
        Change::Set(template) | Change::Add(template) | Change::Subtract(template) => match template.fixed() {
            Some(fixed) => fixed,
            None => {
                sources.expand(template, state, filled);
                filled.as_slice()
            }
        },
        Change::Remove => b"",
    };
    if let Some(slot) = set.slot {
        if let Change::Add(_) = &set.change {
            state.gain(&sources.program.tx_names, slot, integer(value));
        }
        let sum = match &set.change {
            Change::Remove => return state.set_slot(slot, None),
            Change::Set(_) => return state.set_slot(slot, Some(value)),
            Change::Add(_) => sum(state.slot(slot), integer(value)),
            Change::Subtract(_) => sum(state.slot(slot), integer(value).saturating_neg()),
        };
        return state.set_slot(slot, Some(sum.text()));
    }
    member.clear();
    sources.expand(&set.member, state, member);
    if set.variable == Variable::Tx {
        let names = &sources.program.tx_names;
        let sum = match &set.change {
            Change::Remove => return state.set_tx(names, member, None),
            Change::Set(_) => return state.set_tx(names, member, Some(value)),
            Change::Add(_) => sum(state.tx(names, member), integer(value)),
            Change::Subtract(_) => sum(state.tx(names, member), integer(value).saturating_neg()),
        };
        return state.set_tx(names, member, Some(sum.text()));
    }
    if let Some(key) = state.collection(set.variable) {
        let change = |old: Option<&[u8]>| match &set.change {
            Change::Remove => None,
            Change::Set(_) => Some(value.to_vec()),
            Change::Add(_) => Some(sum(old, integer(value)).text().to_vec()),
            Change::Subtract(_) => Some(sum(old, integer(value).saturating_neg()).text().to_vec()),
        };
        sources.store.change(key, &member.to_ascii_lowercase(), sources.connection.now, change);
    }
}

/// The sum of a number in text and another.
fn sum(old: Option<&[u8]>, amount: i64) -> Decimal {
    Decimal::of_signed(old.map_or(0, integer).saturating_add(amount))
}

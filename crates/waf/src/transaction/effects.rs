//! What a match changes: variables, persistent collections, the engine itself.

use std::time::Duration;

use super::state::State;
use super::values::{Sources, add};
use crate::operator::integer;
use crate::program::rule::Effect;
use crate::seclang::action::{Change, SetVar};
use crate::seclang::variable::Variable;

/// Applies effects in the order written.
pub(super) fn apply(sources: Sources<'_>, state: &mut State, effects: &[Effect]) {
    for effect in effects {
        match effect {
            Effect::SetVar(set) => set_var(sources, state, set),
            Effect::ExpireVar { variable, member, seconds } => {
                let member = sources.expand(member, state).to_ascii_lowercase();
                let seconds = u64::try_from(integer(&sources.expand(seconds, state))).unwrap_or(0);
                // A member of TX ends with the transaction anyway.
                if let Some(key) = state.collection(*variable) {
                    sources.store.expire(key, &member, sources.connection.now.saturating_add(Duration::from_secs(seconds)));
                }
            }
            Effect::InitCollection { variable, key } => {
                let key = (*variable, sources.expand(key, state));
                sources.store.open(&key, sources.connection.now, sources.program.settings.collection_timeout);
                state.collections.push(key);
            }
            Effect::SetEnv { name, value } => {
                let (name, value) = (sources.expand(name, state), sources.expand(value, state));
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
            Effect::RemoveTarget(rules, target) => state.removed_targets.push((rules.clone(), target.clone())),
        }
    }
}

fn set_var(sources: Sources<'_>, state: &mut State, set: &SetVar) {
    let member = sources.expand(&set.member, state);
    let changed: Box<dyn FnOnce(Option<&[u8]>) -> Option<Vec<u8>>> = match &set.change {
        Change::Remove => Box::new(|_| None),
        Change::Set(value) => {
            let value = sources.expand(value, state);
            Box::new(move |_| Some(value))
        }
        Change::Add(amount) => {
            let amount = integer(&sources.expand(amount, state));
            Box::new(move |old| Some(add(old, amount)))
        }
        Change::Subtract(amount) => {
            let amount = integer(&sources.expand(amount, state)).saturating_neg();
            Box::new(move |old| Some(add(old, amount)))
        }
    };
    if set.variable == Variable::Tx {
        let value = changed(state.tx(&member));
        state.set_tx(&member, value);
    } else if let Some(key) = state.collection(set.variable) {
        sources.store.change(key, &member.to_ascii_lowercase(), sources.connection.now, changed);
    }
}

//! What rules write while a transaction runs: TX, captures, matched variables, exclusions, findings.

use std::collections::HashMap;

use crate::program::rule_set::RuleSet;
use crate::program::settings::Settings;
use crate::seclang::action::{Allowed, AuditMode, EngineMode, Processor, Severity, Switch};
use crate::seclang::target::Target;
use crate::seclang::variable::Variable;
use crate::store::Key;

use super::audit::{Intervention, RuleMatch};

/// Members of TX beyond this are not kept: names can come from arguments.
const TX_MEMBERS: usize = 4096;

/// Values kept for `MATCHED_VARS` of one rule.
const MATCHED_VARS: usize = 1024;

/// The changing half of a transaction.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) engine: EngineMode,
    pub(crate) audit: AuditMode,
    pub(crate) request_body: Switch,
    pub(crate) response_body: Switch,
    pub(crate) force_request_body: Switch,
    pub(crate) request_limit_bytes: usize,
    pub(crate) response_limit_bytes: usize,
    pub(crate) processor: Option<Processor>,
    tx: HashMap<Box<[u8]>, Vec<u8>>,
    captures: [Option<Vec<u8>>; 10],
    pub(crate) env: HashMap<Vec<u8>, Vec<u8>>,
    /// Full names with values, of the rule or chain being run.
    pub(crate) matched: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) last_matched: Option<(Vec<u8>, Vec<u8>)>,
    pub(crate) removed_rules: RuleSet,
    /// Rules of the program and the target each of them no longer looks at; by rule index and effect index.
    pub(crate) removed_targets: Vec<(RuleSet, Target)>,
    pub(crate) highest_severity: Option<Severity>,
    pub(crate) collections: Vec<Key>,
    /// The rule that runs.
    pub(crate) current: Option<usize>,
    pub(crate) intervention: Option<Intervention>,
    pub(crate) allowed: Option<Allowed>,
    pub(crate) matches: Vec<RuleMatch>,
}

impl State {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            engine: settings.engine,
            audit: settings.audit,
            request_body: settings.request_body,
            response_body: settings.response_body,
            force_request_body: Switch::Off,
            request_limit_bytes: settings.request_body_limit_bytes,
            response_limit_bytes: settings.response_body_limit_bytes,
            processor: None,
            tx: HashMap::new(),
            captures: Default::default(),
            env: HashMap::new(),
            matched: Vec::new(),
            last_matched: None,
            removed_rules: RuleSet::default(),
            removed_targets: Vec::new(),
            highest_severity: None,
            collections: Vec::new(),
            current: None,
            intervention: None,
            allowed: None,
            matches: Vec::new(),
        }
    }

    /// A member of TX; `0` to `9` are captures. Names are matched in any case.
    pub(crate) fn tx(&self, name: &[u8]) -> Option<&[u8]> {
        if let Some(capture) = capture_index(name).and_then(|index| self.captures.get(index)) {
            if let Some(captured) = capture {
                return Some(captured);
            }
        }
        match name.iter().any(u8::is_ascii_uppercase) {
            true => self.tx.get(name.to_ascii_lowercase().as_slice()),
            false => self.tx.get(name),
        }
        .map(Vec::as_slice)
    }

    /// All members, captures first.
    pub(crate) fn all_tx(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let digits = [b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8", b"9"];
        let captures = digits.into_iter().zip(&self.captures);
        let captures = captures.filter_map(|(name, value)| Some((&name[..], value.as_deref()?)));
        captures.chain(self.tx.iter().map(|(name, value)| (&**name, value.as_slice())))
    }

    pub(crate) fn set_tx(&mut self, name: &[u8], value: Option<Vec<u8>>) {
        if let Some(place) = capture_index(name).and_then(|index| self.captures.get_mut(index)) {
            *place = value;
            return;
        }
        let name = name.to_ascii_lowercase();
        match value {
            None => {
                self.tx.remove(name.as_slice());
            }
            Some(value) if self.tx.len() < TX_MEMBERS || self.tx.contains_key(name.as_slice()) => {
                self.tx.insert(name.into(), value);
            }
            Some(_) => {}
        }
    }

    /// Sets TX.0 to TX.9; those without a group are unset.
    pub(crate) fn set_captures(&mut self, captured: impl IntoIterator<Item = Option<Vec<u8>>>) {
        let mut captured = captured.into_iter();
        for place in &mut self.captures {
            *place = captured.next().flatten();
        }
    }

    pub(crate) fn note_match(&mut self, name: Vec<u8>, value: &[u8]) {
        if self.matched.len() < MATCHED_VARS {
            self.matched.push((name.clone(), value.to_vec()));
        }
        self.last_matched = Some((name, value.to_vec()));
    }

    pub(crate) fn note_severity(&mut self, severity: Severity) {
        // The lowest number is the worst.
        self.highest_severity = Some(self.highest_severity.map_or(severity, |worst| worst.min(severity)));
    }

    /// The key under which a persistent collection was opened.
    pub(crate) fn collection(&self, variable: Variable) -> Option<&Key> {
        self.collections.iter().rev().find(|(opened, _)| *opened == variable)
    }
}

fn capture_index(name: &[u8]) -> Option<usize> {
    match name {
        [digit @ b'0'..=b'9'] => Some(usize::from(digit - b'0')),
        _ => None,
    }
}

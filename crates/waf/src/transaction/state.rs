//! What rules write while a transaction runs: TX, captures, matched variables, exclusions, findings.
//!
//! Everything that grows is kept from one transaction to the next and only emptied: an ordinary request allocates
//! nothing here.

use std::collections::HashMap;
use std::sync::Arc;

use crate::operator::integer;
use crate::pairs::Pairs;
use crate::program::Program;
use crate::program::rule_set::RuleSet;
use crate::program::tx_names::TxNames;
use crate::seclang::action::{Allowed, AuditMode, EngineMode, Processor, Severity, Switch};
use crate::seclang::target::{Slot, Target};
use crate::seclang::variable::Variable;
use crate::store::Key;

use super::audit::{Intervention, RuleMatch};

/// Members of TX beyond those that rules name; their names can come from arguments.
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
    slots: Vec<Text>,
    /// Members that no rule names, by name.
    others: Vec<(Text, Text)>,
    spare: Vec<(Text, Text)>,
    captures: [Text; 10],
    pub(crate) env: HashMap<Vec<u8>, Vec<u8>>,
    /// Full names with values, of the rule or chain being run.
    pub(crate) matched: Pairs,
    last_name: Text,
    last_value: Text,
    pub(crate) removed_rules: RuleSet,
    /// Rules, and the target each of them no longer looks at.
    pub(crate) removed_targets: Vec<Arc<(RuleSet, Target)>>,
    pub(crate) highest_severity: Option<Severity>,
    pub(crate) collections: Vec<Key>,
    /// The rule that runs.
    pub(crate) current: Option<usize>,
    /// What that rule has added to the first score it touched.
    pub(crate) gained: Option<(Slot, i64)>,
    pub(crate) intervention: Option<Intervention>,
    /// In detection: the rule that would have ended the transaction first.
    pub(crate) would_refuse: Option<u32>,
    pub(crate) allowed: Option<Allowed>,
    pub(crate) matches: Vec<RuleMatch>,
}

/// A value that is there or not, in memory that stays.
#[derive(Debug, Clone, Default)]
struct Text {
    live: bool,
    /// Rules cannot change it.
    pinned: bool,
    bytes: Vec<u8>,
}

impl Text {
    fn get(&self) -> Option<&[u8]> {
        self.live.then_some(self.bytes.as_slice())
    }

    fn set(&mut self, value: &[u8]) {
        self.live = true;
        self.bytes.clear();
        self.bytes.extend_from_slice(value);
    }

    fn unset(&mut self) {
        self.live = false;
        self.pinned = false;
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            engine: EngineMode::On,
            audit: AuditMode::Off,
            request_body: Switch::Off,
            response_body: Switch::Off,
            force_request_body: Switch::Off,
            request_limit_bytes: 0,
            response_limit_bytes: 0,
            processor: None,
            slots: Vec::new(),
            others: Vec::new(),
            spare: Vec::new(),
            captures: Default::default(),
            env: HashMap::new(),
            matched: Pairs::default(),
            last_name: Text::default(),
            last_value: Text::default(),
            removed_rules: RuleSet::default(),
            removed_targets: Vec::new(),
            highest_severity: None,
            collections: Vec::new(),
            current: None,
            gained: None,
            intervention: None,
            would_refuse: None,
            allowed: None,
            matches: Vec::new(),
        }
    }
}

impl State {
    /// Empties everything and takes the settings over.
    pub(crate) fn begin(&mut self, program: &Program) {
        let settings = &program.settings;
        self.engine = settings.engine;
        self.audit = settings.audit;
        self.request_body = settings.request_body;
        self.response_body = settings.response_body;
        self.force_request_body = Switch::Off;
        self.request_limit_bytes = settings.request_body_limit_bytes;
        self.response_limit_bytes = settings.response_body_limit_bytes;
        self.processor = None;
        self.slots.iter_mut().for_each(Text::unset);
        self.slots.resize_with(program.tx_names.len(), Text::default);
        self.spare.append(&mut self.others);
        self.captures.iter_mut().for_each(Text::unset);
        self.env.clear();
        self.matched.clear();
        self.last_name.unset();
        self.last_value.unset();
        self.removed_rules.clear();
        self.removed_targets.clear();
        self.highest_severity = None;
        self.collections.clear();
        self.current = None;
        self.gained = None;
        self.intervention = None;
        self.would_refuse = None;
        self.allowed = None;
        self.matches.clear();
    }

    /// The member of TX in a slot.
    pub(crate) fn slot(&self, slot: Slot) -> Option<&[u8]> {
        self.slots.get(usize::from(slot.0))?.get()
    }

    pub(crate) fn set_slot(&mut self, slot: Slot, value: Option<&[u8]>) {
        let Some(place) = self.slots.get_mut(usize::from(slot.0)).filter(|place| !place.pinned) else { return };
        match value {
            Some(value) => place.set(value),
            None => place.unset(),
        }
    }

    /// Sets a member of TX that rules name, for good.
    pub(crate) fn pin(&mut self, slot: Slot, value: &[u8]) {
        if let Some(place) = self.slots.get_mut(usize::from(slot.0)) {
            place.set(value);
            place.pinned = true;
        }
    }

    /// A member of TX; `0` to `9` are captures. Names are matched in any case.
    pub(crate) fn tx(&self, names: &TxNames, name: &[u8]) -> Option<&[u8]> {
        if let Some(captured) = capture_index(name).and_then(|index| self.captures.get(index)) {
            return captured.get();
        }
        let lower;
        let name = match name.iter().any(u8::is_ascii_uppercase) {
            true => {
                lower = name.to_ascii_lowercase();
                lower.as_slice()
            }
            false => name,
        };
        match names.slot(name) {
            Some(slot) => self.slot(slot),
            None => self.others.get(self.place(name).ok()?).and_then(|(_, value)| value.get()),
        }
    }

    fn place(&self, name: &[u8]) -> Result<usize, usize> {
        self.others.binary_search_by(|(other, _)| other.bytes.as_slice().cmp(name))
    }

    /// All members by name; captures come first.
    pub(crate) fn all_tx<'s>(&'s self, names: &'s TxNames) -> impl Iterator<Item = (&'s [u8], &'s [u8])> {
        let digits = [b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8", b"9"];
        let captures = digits.into_iter().zip(&self.captures);
        let captures = captures.filter_map(|(name, value)| Some((&name[..], value.get()?)));
        let slots = (0u16..).map(Slot).zip(&self.slots);
        let mut slots = slots.filter_map(|(slot, value)| Some((names.name(slot), value.get()?))).peekable();
        let mut others =
            self.others.iter().filter_map(|(name, value)| Some((name.bytes.as_slice(), value.get()?))).peekable();
        let merged = std::iter::from_fn(move || match (slots.peek(), others.peek()) {
            (Some((slot, _)), Some((other, _))) if other < slot => others.next(),
            (Some(_), _) => slots.next(),
            (None, _) => others.next(),
        });
        captures.chain(merged)
    }

    /// Notes what a rule adds to a score. The Core Rule Set adds the same to several: for its class, and for the whole.
    pub(crate) fn gain(&mut self, names: &TxNames, slot: Slot, amount: i64) {
        match &mut self.gained {
            Some((first, sum)) if *first == slot => *sum = sum.saturating_add(amount),
            Some(_) => {}
            None if memchr::memmem::find(names.name(slot), b"score").is_some() => self.gained = Some((slot, amount)),
            None => {}
        }
    }

    /// The numbers whose names speak of a score, sorted.
    pub(crate) fn scores(&self, names: &TxNames) -> Vec<(String, i64)> {
        let named = self.all_tx(names).filter(|(name, _)| memchr::memmem::find(name, b"score").is_some());
        let mut scores: Vec<_> =
            named.map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), integer(value))).collect();
        scores.sort();
        scores
    }

    pub(crate) fn set_tx(&mut self, names: &TxNames, name: &[u8], value: Option<&[u8]>) {
        if let Some(place) = capture_index(name).and_then(|index| self.captures.get_mut(index)) {
            match value {
                Some(value) => place.set(value),
                None => place.unset(),
            }
            return;
        }
        let (mut own, mut text) = self.spare.pop().unwrap_or_default();
        own.set(name);
        own.bytes.make_ascii_lowercase();
        if let Some(slot) = names.slot(&own.bytes) {
            self.set_slot(slot, value);
            self.spare.push((own, text));
            return;
        }
        match (self.place(&own.bytes), value) {
            (Ok(at), Some(value)) => {
                if let Some((_, place)) = self.others.get_mut(at) {
                    place.set(value);
                }
            }
            (Ok(at), None) => {
                let removed = self.others.remove(at);
                self.spare.push(removed);
            }
            (Err(at), Some(value)) if self.others.len() < TX_MEMBERS => {
                text.set(value);
                self.others.insert(at, (own, text));
                return;
            }
            (Err(_), _) => {}
        }
        self.spare.push((own, text));
    }

    /// Sets TX.0 to TX.9; those without a group are unset.
    pub(crate) fn set_captures<'v>(&mut self, captured: impl IntoIterator<Item = Option<&'v [u8]>>) {
        let mut captured = captured.into_iter();
        for place in &mut self.captures {
            match captured.next().flatten() {
                Some(text) => place.set(text),
                None => place.unset(),
            }
        }
    }

    /// Keeps a value that matched, for `MATCHED_VAR` and `MATCHED_VARS`; `name` writes its full name.
    pub(crate) fn note_match(&mut self, name: impl Fn(&mut Vec<u8>), value: &[u8]) {
        self.last_value.set(value);
        self.note_name(name);
    }

    /// The same for the member of TX in a slot.
    pub(crate) fn note_slot_match(&mut self, name: impl Fn(&mut Vec<u8>), slot: Slot) {
        let Self { slots, last_value, .. } = self;
        last_value.set(slots.get(usize::from(slot.0)).and_then(Text::get).unwrap_or_default());
        self.note_name(name);
    }

    fn note_name(&mut self, name: impl Fn(&mut Vec<u8>)) {
        self.last_name.set(b"");
        name(&mut self.last_name.bytes);
        if self.matched.len() < MATCHED_VARS {
            self.matched.push(&self.last_name.bytes, &self.last_value.bytes);
        }
    }

    /// Full name and value of what matched last.
    pub(crate) fn last_matched(&self) -> Option<(&[u8], &[u8])> {
        self.last_name.get().zip(self.last_value.get())
    }

    pub(crate) fn note_severity(&mut self, severity: Severity) {
        // The lowest number is the worst.
        self.highest_severity = Some(self.highest_severity.map_or(severity, |worst| worst.min(severity)));
    }

    /// The key under which a persistent collection was opened.
    pub(crate) fn collection(&self, variable: Variable) -> Option<&Key> {
        self.collections.iter().rev().find(|(opened, _)| *opened == variable)
    }

    /// Bytes kept for the next transaction.
    pub(crate) fn kept_bytes(&self) -> usize {
        let text = |text: &Text| text.bytes.capacity();
        let pair = |(name, value): &(Text, Text)| text(name) + text(value);
        self.slots.iter().map(text).sum::<usize>()
            + self.others.iter().chain(&self.spare).map(pair).sum::<usize>()
            + self.captures.iter().map(text).sum::<usize>()
            + text(&self.last_value)
            + self.matched.kept_bytes()
    }
}

fn capture_index(name: &[u8]) -> Option<usize> {
    match name {
        [digit @ b'0'..=b'9'] => Some(usize::from(digit - b'0')),
        _ => None,
    }
}

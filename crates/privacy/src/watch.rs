//! Everything that is looked for in one direction of a route, all levels taken together.

use crate::{Detector, PrivacyAction, Scanner, Until};
use std::sync::Arc;

/// A detector and what is done about what it finds.
#[derive(Debug, Clone)]
pub struct Rule {
    pub detector: Arc<Detector>,
    pub action: PrivacyAction,
}

/// Immutable, and shared by all requests of a route.
#[derive(Debug, Default)]
pub struct Watch {
    rules: Vec<Rule>,
    strictest: Option<PrivacyAction>,
}

impl Watch {
    /// Where two levels look for the same, the stricter one holds.
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        let mut watch = Self::default();
        for rule in rules.into_iter().filter(|rule| rule.action != PrivacyAction::Off) {
            watch.strictest = watch.strictest.max(Some(rule.action));
            match watch.rules.iter_mut().find(|known| known.detector.same(&rule.detector)) {
                Some(known) => known.action = known.action.max(rule.action),
                None => watch.rules.push(rule),
            }
        }
        watch
    }

    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// `None`: nobody looks.
    pub fn strictest(&self) -> Option<PrivacyAction> {
        self.strictest
    }

    /// Whether what passes may leave in another form than it came, or not at all.
    pub fn withholds(&self) -> bool {
        self.strictest >= Some(PrivacyAction::Mask)
    }

    /// Looks at a text that is there as a whole: its masked form, and how often each rule found something.
    pub fn look(self: &Arc<Self>, text: &[u8]) -> (Vec<u8>, Scanner) {
        let mut scanner = Scanner::new(self.clone());
        let mut out = Vec::new();
        scanner.feed(text, Until::End, &mut out);
        (out, scanner)
    }
}

//! Looks through octets that come in pieces. What may still become a match is held back, a few hundred octets at most, so that one
//! that is split between pieces is found and covered like any other.

use crate::{
    PrivacyAction, Watch,
    boundary::{CONTEXT, Search},
    json_strings::JsonStrings,
};
use std::sync::Arc;

/// One text on its way.
#[derive(Debug)]
pub struct Scanner {
    watch: Arc<Watch>,
    /// What was passed on last, for context, and what was not passed on yet.
    buffer: Vec<u8>,
    /// How much of the buffer was passed on.
    passed: usize,
    /// Per rule: where in the buffer its search goes on.
    next: Vec<usize>,
    /// Per rule: what it found.
    found: Vec<u32>,
    /// To be covered, in the buffer.
    covers: Vec<(usize, usize)>,
    json: Option<JsonStrings>,
    blocked: bool,
}

/// What comes after a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// More, at once or soon: what is undecided waits for it.
    More,
    /// More some day: nothing waits, and what is split here is not put together.
    Pause,
    /// Nothing.
    End,
}

impl Scanner {
    pub fn new(watch: Arc<Watch>) -> Self {
        let rules = watch.rules().len();
        Self {
            watch,
            buffer: Vec::new(),
            passed: 0,
            next: vec![0; rules],
            found: vec![0; rules],
            covers: Vec::new(),
            json: None,
            blocked: false,
        }
    }

    /// The text is JSON: numbers in it are covered by digits, so that it stays JSON.
    pub fn of_json(watch: Arc<Watch>) -> Self {
        Self { json: Some(JsonStrings::default()), ..Self::new(watch) }
    }

    /// Takes in a piece, and adds to `out` what may pass on: as many octets as came, sooner or later.
    pub fn feed(&mut self, piece: &[u8], until: Until, out: &mut Vec<u8>) {
        self.buffer.extend_from_slice(piece);
        let whole = until != Until::More;
        let watch = self.watch.clone();
        for (index, rule) in watch.rules().iter().enumerate() {
            let (Some(next), Some(found)) = (self.next.get_mut(index), self.found.get_mut(index)) else { continue };
            loop {
                match rule.detector.search(&self.buffer, *next, whole) {
                    Search::Found(begin, end) => {
                        *next = end;
                        *found = found.saturating_add(1);
                        match rule.action {
                            PrivacyAction::Off | PrivacyAction::Log => {}
                            PrivacyAction::Mask => {
                                self.covers.push((begin, covered(&self.buffer, begin, end, rule.detector.shown())))
                            }
                            PrivacyAction::Block => self.blocked = true,
                        }
                    }
                    Search::ClearUpTo(at) => {
                        *next = at.max(*next);
                        break;
                    }
                }
            }
        }
        let decided =
            if whole { self.buffer.len() } else { self.next.iter().copied().min().unwrap_or(self.buffer.len()) };
        self.pass_on(decided, out);
    }

    /// Something was found that must not pass.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// How often each rule of the watch found something.
    pub fn found(&self) -> impl Iterator<Item = (usize, u32)> {
        self.found.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }

    pub fn has_found(&self) -> bool {
        self.found.iter().any(|count| *count > 0)
    }

    /// Octets that wait for more.
    pub fn waiting(&self) -> usize {
        self.buffer.len() - self.passed
    }

    fn pass_on(&mut self, until: usize, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(self.buffer.get(self.passed..until).unwrap_or_default());
        self.covers.sort_unstable();
        let mut followed = self.passed;
        for (first, last) in &self.covers {
            let (first, last) = ((*first).max(self.passed), (*last).min(until));
            if first >= last {
                continue;
            }
            if let Some(json) = &mut self.json {
                json.pass(self.buffer.get(followed..first).unwrap_or_default());
                followed = followed.max(first);
            }
            let cover = if self.json.is_some_and(|json| !json.is_inside()) { b'9' } else { b'*' };
            let range = begin + first - self.passed..begin + last - self.passed;
            for (index, octet) in out.get_mut(range).unwrap_or_default().iter_mut().enumerate() {
                // Punctuation stays: it is the form, which the reader's parser needs. So do escapes in URLs.
                let escaped = (1..3).any(|back| {
                    let before = (first + index).checked_sub(back).and_then(|at| self.buffer.get(at));
                    before == Some(&b'%')
                });
                if (octet.is_ascii_alphanumeric() || !octet.is_ascii()) && !escaped {
                    *octet = cover;
                }
            }
        }
        if let Some(json) = &mut self.json {
            json.pass(self.buffer.get(followed..until).unwrap_or_default());
        }
        self.covers.retain(|(_, last)| *last > until);
        self.passed = until.max(self.passed);
        self.forget();
    }

    /// Keeps of what was passed on only what searches look back on.
    fn forget(&mut self) {
        let gone = self.passed.saturating_sub(CONTEXT);
        self.buffer.drain(..gone);
        self.passed -= gone;
        self.next.iter_mut().for_each(|next| *next = next.saturating_sub(gone).max(self.passed));
        for (first, last) in &mut self.covers {
            *first = first.saturating_sub(gone);
            *last = last.saturating_sub(gone);
        }
    }
}

/// Where the cover of a match ends, so that its last `shown` letters and digits can be seen.
fn covered(text: &[u8], begin: usize, end: usize, shown: usize) -> usize {
    let mut left = shown;
    let mut at = end;
    while left > 0 && at > begin {
        at -= 1;
        if text.get(at).is_some_and(u8::is_ascii_alphanumeric) {
            left -= 1;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Detector, Rule, detector::Custom, pattern::Pattern};

    fn watch(action: PrivacyAction) -> Arc<Watch> {
        let pattern = Pattern::compile(r"\bB[0-9]{7}\b").unwrap();
        let badge = Custom { name: "badge".to_owned(), text: String::new(), pattern };
        let detectors = [Detector::Card, Detector::Iban, Detector::UsSsn, Detector::Custom(badge)];
        Arc::new(Watch::new(detectors.map(|detector| Rule { detector: Arc::new(detector), action })))
    }

    fn masked(text: &str) -> String {
        let (out, _) = watch(PrivacyAction::Mask).look(text.as_bytes());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_found_is_covered_and_all_else_stays() {
        for (text, expected) in [
            ("", ""),
            ("nothing of the kind", "nothing of the kind"),
            ("pan 4111 1111 1111 1111, thanks", "pan **** **** **** 1111, thanks"),
            ("DE89370400440532013000", "******************3000"),
            ("ssn 536-90-4399", "ssn ***-**-****"),
            ("badge B1234567!", "badge ********!"),
            ("n=4111%201111%201111%201111&", "n=****%20****%20****%201111&"),
            ("4111111111111111 5555555555554444", "************1111 ************4444"),
        ] {
            assert_eq!(masked(text), expected);
            assert_eq!(masked(text).len(), text.len());
        }
    }

    #[test]
    fn json_stays_json() {
        let mut scanner = Scanner::of_json(watch(PrivacyAction::Mask));
        let mut out = Vec::new();
        let text = br#"{"a":4111111111111111,"b":"4111111111111111","c\"":[ 5555555555554444 ]}"#;
        for octet in text {
            scanner.feed(&[*octet], Until::More, &mut out);
        }
        scanner.feed(b"", Until::End, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, r#"{"a":9999999999991111,"b":"************1111","c\"":[ 9999999999994444 ]}"#);
    }

    #[test]
    fn any_split_gives_the_same_and_holds_little_back() {
        let mut draw = fastrand::Rng::with_seed(7);
        let parts = [
            "4111111111111111",
            "4111 1111 1111 1111",
            "DE89370400440532013000",
            "GB29 NWBK 6016 1331 9268 19",
            "536-90-4399",
            "B1234567",
            "text",
            " ",
            "\n",
            ",",
            "\"",
            "12",
            "-",
            "DE",
            "4111",
            ".",
            "%20",
            "\\n",
            "378282246310005",
        ];
        for _ in 0..3000 {
            let text: String = (0..draw.usize(1..12)).map(|_| parts[draw.usize(..parts.len())]).collect();
            let (whole, scanner) = watch(PrivacyAction::Mask).look(text.as_bytes());
            let expected: Vec<_> = scanner.found().collect();
            let mut scanner = Scanner::new(watch(PrivacyAction::Mask));
            let (mut out, mut rest) = (Vec::new(), text.as_bytes());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(draw.usize(1..=rest.len().min(9)));
                scanner.feed(piece, Until::More, &mut out);
                assert!(scanner.waiting() <= 64, "{} wait of {text:?}", scanner.waiting());
                rest = after;
            }
            scanner.feed(b"", Until::End, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&whole), "{text:?}");
            assert_eq!(scanner.found().collect::<Vec<_>>(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_ends_with_its_line_never_waits() {
        let mut scanner = Scanner::new(watch(PrivacyAction::Mask));
        for event in ["data: {\"n\":1}\n\n", "data: B1234567\n\n", "data: 4111111111111111\n\n"] {
            let mut out = Vec::new();
            scanner.feed(event.as_bytes(), Until::More, &mut out);
            assert_eq!((out.len(), scanner.waiting()), (event.len(), 0), "{event}");
        }
        let mut out = Vec::new();
        scanner.feed(b"4111", Until::Pause, &mut out);
        assert_eq!(out, b"4111", "a pause waits for nothing");
    }

    #[test]
    fn levels_that_look_for_the_same_take_the_stricter_action() {
        let rule = |action| Rule { detector: Arc::new(Detector::Card), action };
        let watch = Watch::new([PrivacyAction::Mask, PrivacyAction::Log, PrivacyAction::Off].map(rule));
        assert_eq!((watch.rules().len(), watch.strictest()), (1, Some(PrivacyAction::Mask)));
        assert!(!Watch::new([rule(PrivacyAction::Log)]).withholds());
        let blocking = Arc::new(Watch::new([rule(PrivacyAction::Block)]));
        assert!(blocking.look(b"4111111111111111").1.is_blocked());
        assert!(!blocking.look(b"4111111111111112").1.is_blocked());
    }

    #[test]
    fn a_megabyte_of_almost_numbers_is_read_in_time() {
        let text: Vec<u8> = b"4111 1111 1111 1112 DE89 3704 0044 ".iter().copied().cycle().take(1 << 20).collect();
        let mut scanner = Scanner::new(watch(PrivacyAction::Mask));
        let mut out = Vec::new();
        for piece in text.chunks(16 << 10) {
            scanner.feed(piece, Until::More, &mut out);
        }
        scanner.feed(b"", Until::End, &mut out);
        assert!(out == text);
    }
}

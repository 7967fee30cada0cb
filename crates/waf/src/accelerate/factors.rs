//! What a value must hold for a pattern to match it: one of some literals, or at least one of some bytes.
//!
//! Letters are folded to lower case throughout: the searches that use these factors ignore case.

use std::collections::{BTreeSet, HashSet};

use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, Hir, HirKind, Repetition};

use crate::operator::ByteSet;

/// Literals of one pattern; with more of them a byte set says as much for less.
const MOST: usize = 3_000;

/// Strings an expression is spelled out to.
const SPELLED: usize = 512;

/// Strings of which every pair is spelled out.
const SPELLED_TWICE: usize = 40;

/// How long a spelled-out string may be.
const SPELLED_BYTES: usize = 24;

/// Bytes of a class that is spelled out.
const CLASS: usize = 24;

/// What is searched for is no longer than this: longer literals find little more.
pub(super) const WINDOW_BYTES: usize = 6;

/// What every match must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Factor {
    /// One of these, in any case.
    Literals(Vec<Box<[u8]>>),
    /// One of these bytes.
    Bytes(ByteSet),
    /// There is nothing to look for.
    Anything,
    /// There is no match.
    Never,
}

/// A pattern in the dialect of the `regex` crate, taken apart.
pub(super) struct Expression(Hir);

impl Expression {
    pub(super) fn parse(pattern: &str) -> Option<Self> {
        let mut parser =
            regex_syntax::ParserBuilder::new().unicode(false).utf8(false).dot_matches_new_line(true).build();
        parser.parse(pattern).ok().map(Self)
    }

    /// The factor among values that consist of these bytes, both cases of every letter included or neither.
    pub(super) fn factor_within(&self, alphabet: ByteSet) -> Factor {
        let pruned;
        let hir = if alphabet == ByteSet::default().inverse() {
            &self.0
        } else {
            match prune(&self.0, alphabet) {
                Some(left) => pruned = left,
                None => return Factor::Never,
            }
            &pruned
        };
        let literals = required(&info(hir)).and_then(|literals| of_literals(literals.iter().map(Vec::as_slice)));
        match (literals, needed(hir)) {
            (Some(literals), _) => Factor::Literals(literals),
            (None, Some(bytes)) => Factor::Bytes(bytes),
            (None, None) => Factor::Anything,
        }
    }
}

/// What is left of an expression that only ever sees some bytes: the same matches, and nothing that cannot be one.
fn prune(hir: &Hir, alphabet: ByteSet) -> Option<Hir> {
    Some(match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => hir.clone(),
        HirKind::Literal(literal) if literal.0.iter().all(|byte| alphabet.contains(*byte)) => hir.clone(),
        HirKind::Literal(_) => return None,
        HirKind::Class(class) => match bytes_of(class) {
            Some(bytes) => {
                let left = (0..=255u8).filter(|byte| bytes.contains(*byte) && alphabet.contains(*byte));
                let class = ClassBytes::new(left.map(|byte| ClassBytesRange::new(byte, byte)));
                if class.ranges().is_empty() {
                    return None;
                }
                Hir::class(Class::Bytes(class))
            }
            None => hir.clone(),
        },
        HirKind::Repetition(repetition) => match prune(&repetition.sub, alphabet) {
            Some(sub) => Hir::repetition(Repetition { sub: Box::new(sub), ..repetition.clone() }),
            None if repetition.min == 0 => Hir::empty(),
            None => return None,
        },
        HirKind::Capture(capture) => prune(&capture.sub, alphabet)?,
        HirKind::Concat(parts) => {
            Hir::concat(parts.iter().map(|part| prune(part, alphabet)).collect::<Option<Vec<_>>>()?)
        }
        HirKind::Alternation(branches) => {
            let left: Vec<Hir> = branches.iter().filter_map(|branch| prune(branch, alphabet)).collect();
            if left.is_empty() {
                return None;
            }
            Hir::alternation(left)
        }
    })
}

/// The literals cut to what is searched for; `None` when they are too many or too common to help.
pub(super) fn of_literals<'l>(literals: impl Iterator<Item = &'l [u8]>) -> Option<Vec<Box<[u8]>>> {
    let cut: HashSet<Box<[u8]>> = literals.map(|literal| window(&literal.to_ascii_lowercase())).collect();
    if cut.is_empty() || cut.len() > MOST || cut.iter().any(|literal| is_common(literal)) {
        return None;
    }
    let redundant =
        |literal: &[u8]| (1..literal.len()).any(|length| literal.windows(length).any(|part| cut.contains(part)));
    let mut kept: Vec<_> = cut.iter().filter(|literal| !redundant(literal)).cloned().collect();
    kept.sort();
    Some(kept)
}

/// The part of a literal that is least likely to occur by chance.
fn window(literal: &[u8]) -> Box<[u8]> {
    let best = literal.windows(WINDOW_BYTES).rev().max_by_key(|part| weight(part));
    best.unwrap_or(literal).into()
}

fn is_common(literal: &[u8]) -> bool {
    match literal {
        [] => true,
        [byte] => !is_rare(*byte),
        _ => false,
    }
}

fn is_rare(byte: u8) -> bool {
    matches!(
        byte,
        b'\''
            | b'"'
            | b'<'
            | b'>'
            | b'`'
            | b'$'
            | b'{'
            | b'}'
            | b'|'
            | b'\\'
            | b'^'
            | b'!'
            | b'#'
            | b'['
            | b']'
            | b'@'
            | b'~'
            | b'*'
            | b'\r'
            | b'\n'
    ) || byte >= 0x80
        || (byte < 0x20 && byte != b'\t')
}

/// How unlikely a string is in ordinary text.
pub(super) fn weight(text: &[u8]) -> u32 {
    let byte = |byte: &u8| match byte {
        byte if is_rare(*byte) => 4,
        b'e' | b't' | b'a' | b'o' | b'i' | b'n' | b's' | b'r' => 2,
        byte if byte.is_ascii_alphanumeric() => 3,
        _ => 1,
    };
    text.iter().map(byte).sum()
}

type Strings = BTreeSet<Vec<u8>>;

/// What is known of a part of a pattern.
struct Info {
    /// All it can match, when that is a short list.
    exact: Option<Strings>,
    /// One of these is in every match.
    best: Option<Strings>,
}

fn only(text: &[u8]) -> Info {
    Info { exact: Some(BTreeSet::from([text.to_vec()])), best: None }
}

const UNKNOWN: Info = Info { exact: None, best: None };

fn required(info: &Info) -> Option<Strings> {
    let exact = info.exact.clone().filter(|exact| !exact.contains(&b""[..]));
    better(exact, info.best.clone())
}

fn better(one: Option<Strings>, other: Option<Strings>) -> Option<Strings> {
    match (one, other) {
        (None, only) | (only, None) => only,
        (Some(one), Some(other)) => Some(if score(&one) >= score(&other) { one } else { other }),
    }
}

/// The weakest member decides; fewer are better.
fn score(strings: &Strings) -> i64 {
    let weakest = strings.iter().map(|text| if text.is_empty() { 0 } else { i64::from(weight(text)) }).min();
    let count = i64::try_from(strings.len()).unwrap_or(i64::MAX).min(99);
    weakest.unwrap_or(0) * 100 - count
}

fn info(hir: &Hir) -> Info {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => only(b""),
        HirKind::Literal(literal) => only(&literal.0.to_ascii_lowercase()),
        HirKind::Class(class) => match spelled(class) {
            Some(strings) => Info { exact: Some(strings), best: None },
            None => UNKNOWN,
        },
        HirKind::Repetition(repetition) => {
            let inner = info(&repetition.sub);
            match (repetition.min, repetition.max) {
                (1, Some(1)) => inner,
                (0, Some(1)) => match inner.exact {
                    Some(mut exact) if exact.len() < 32 => {
                        exact.insert(Vec::new());
                        Info { exact: Some(exact), best: None }
                    }
                    Some(_) | None => UNKNOWN,
                },
                (0, _) => UNKNOWN,
                (2.., _) => {
                    Info { exact: None, best: inner.exact.as_ref().and_then(twice).or_else(|| required(&inner)) }
                }
                _ => Info { exact: None, best: required(&inner) },
            }
        }
        HirKind::Capture(capture) => info(&capture.sub),
        HirKind::Concat(parts) => concatenation(parts),
        HirKind::Alternation(branches) => alternation(branches),
    }
}

/// What a repetition holds at least, where one occurrence alone is too common to look for: two dots, two slashes.
fn twice(strings: &Strings) -> Option<Strings> {
    let single = |text: &&Vec<u8>| text.len() == 1;
    let common = |text: &Vec<u8>| text.iter().all(|byte| byte.is_ascii_punctuation() && !is_rare(*byte));
    let helps = strings.iter().any(|text| text.len() == 1) && strings.iter().filter(single).all(common);
    if !helps || strings.contains(&b""[..]) || strings.len() > SPELLED_TWICE {
        return None;
    }
    Some(strings.iter().flat_map(|left| strings.iter().map(move |right| [left.as_slice(), right].concat())).collect())
}

fn spelled(class: &Class) -> Option<Strings> {
    let bytes = bytes_of(class)?;
    let members: Strings =
        (0..=255u8).filter(|byte| bytes.contains(*byte)).map(|byte| vec![byte.to_ascii_lowercase()]).collect();
    (!members.is_empty() && members.len() <= CLASS).then_some(members)
}

fn concatenation(parts: &[Hir]) -> Info {
    let mut best = None;
    // What the parts since the last one that could not be spelled out come to.
    let mut run: Strings = BTreeSet::from([Vec::new()]);
    let mut whole = true;
    for part in parts {
        let inner = info(part);
        let Some(exact) = &inner.exact else {
            whole = false;
            best = better(best, usable(std::mem::replace(&mut run, BTreeSet::from([Vec::new()]))));
            best = better(best, inner.best);
            continue;
        };
        let longest = |strings: &Strings| strings.iter().map(Vec::len).max().unwrap_or(0);
        if run.len() * exact.len() <= SPELLED && longest(&run) + longest(exact) <= SPELLED_BYTES {
            run =
                run.iter().flat_map(|left| exact.iter().map(move |right| [left.as_slice(), right].concat())).collect();
        } else {
            whole = false;
            best = better(best, usable(std::mem::replace(&mut run, exact.clone())));
        }
    }
    if whole {
        return Info { exact: Some(run), best: None };
    }
    Info { exact: None, best: better(best, usable(run)) }
}

fn usable(strings: Strings) -> Option<Strings> {
    (!strings.contains(&b""[..])).then_some(strings)
}

fn alternation(branches: &[Hir]) -> Info {
    let mut exact = Some(Strings::new());
    let mut best = Some(Strings::new());
    for branch in branches {
        let inner = info(branch);
        best = best.zip(required(&inner)).map(|(mut all, own)| {
            all.extend(own);
            all
        });
        exact = exact.zip(inner.exact).map(|(mut all, own)| {
            all.extend(own);
            all
        });
        exact = exact.filter(|all| all.len() <= SPELLED);
    }
    Info { exact, best }
}

/// The bytes of a class; characters beyond ASCII are not asked for here.
fn bytes_of(class: &Class) -> Option<ByteSet> {
    let mut set = ByteSet::default();
    match class {
        Class::Bytes(ranges) => {
            for range in ranges.iter() {
                (range.start()..=range.end()).for_each(|byte| set.insert(byte));
            }
        }
        Class::Unicode(ranges) => {
            for range in ranges.iter() {
                for char in range.start()..=range.end() {
                    set.insert(u8::try_from(char).ok().filter(u8::is_ascii)?);
                }
            }
        }
    }
    Some(set)
}

/// The rarest set of bytes of which every match holds one; folded.
fn needed(hir: &Hir) -> Option<ByteSet> {
    let found = match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => None,
        HirKind::Literal(literal) => {
            let rarest = literal.0.iter().min_by_key(|byte| frequency(ByteSet::of(&[**byte])))?;
            Some(ByteSet::of(&[*rarest]))
        }
        HirKind::Class(class) => bytes_of(class),
        HirKind::Repetition(repetition) if repetition.min > 0 => needed(&repetition.sub),
        HirKind::Repetition(_) => None,
        HirKind::Capture(capture) => needed(&capture.sub),
        HirKind::Concat(parts) => parts.iter().filter_map(needed).min_by_key(|set| frequency(*set)),
        HirKind::Alternation(branches) => {
            branches.iter().map(needed).try_fold(ByteSet::default(), |all, own| Some(all.union(own?)))
        }
    };
    found.map(ByteSet::fold_case)
}

/// How often one of these bytes is met in ordinary values.
fn frequency(set: ByteSet) -> u32 {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' => 60,
        b'A'..=b'Z' | b'0'..=b'9' => 25,
        b' ' | b'.' | b'/' | b'-' | b'_' => 20,
        b',' | b';' | b'=' | b':' | b'(' | b')' | b'&' | b'?' | b'%' | b'+' => 6,
        byte if is_rare(byte) => 1,
        _ => 3,
    };
    (0..=255).filter(|member| set.contains(*member)).map(byte).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_pattern(pattern: &str) -> Factor {
        Expression::parse(pattern).unwrap().factor_within(ByteSet::default().inverse())
    }

    #[test]
    fn a_small_alphabet_leaves_less_to_look_for() {
        let words = ByteSet::OUTSIDE_WORDS.inverse();
        let within = |pattern: &str| Expression::parse(pattern).unwrap().factor_within(words);
        assert_eq!(within("<script|[(]x"), Factor::Never);
        assert_eq!(within("(?:<a|evil)[;=]?"), Factor::Literals(vec![b"evil"[..].into()]));
        assert_eq!(within("(?:[a-z;]{2})+(?:<|x)"), Factor::Bytes(ByteSet::of(b"Xx")));
        assert_eq!(within("'*"), Factor::Anything);
    }

    #[track_caller]
    fn literals(pattern: &str, expected: &[&str]) {
        let Factor::Literals(found) = of_pattern(pattern) else { panic!("{pattern}: {:?}", of_pattern(pattern)) };
        let found: Vec<_> = found.iter().map(|literal| String::from_utf8_lossy(literal).into_owned()).collect();
        assert_eq!(found, expected, "{pattern}");
    }

    #[test]
    fn literals_are_taken_from_every_branch() {
        literals("(?i)union\\s+select", &["select"]);
        literals("a(?:bc|de)f", &["abcf", "adef"]);
        literals("(?:foo|bar)[0-9]*x?", &["bar", "foo"]);
        literals("<script[^>]*>", &["<scrip"]);
        literals("ab?c", &["abc", "ac"]);
        literals("(?:evil){2,}", &["evil"]);
        literals("[/;](?:\\.|%2e){2,3}[/;]", &["%2e%2e", "%2e.", ".%2e", ".."]);
        literals("[0-9]{2,}x?'", &["'"]);
        literals("averyverylongliteral", &["yveryl"]);
    }

    #[test]
    fn bytes_stand_in_where_there_are_no_literals() {
        let bytes = |pattern: &str| match of_pattern(pattern) {
            Factor::Bytes(set) => (0..=255u8).filter(|byte| set.contains(*byte)).map(char::from).collect(),
            other => format!("{other:?}"),
        };
        assert_eq!(bytes("[0-9]+[();]"), "();");
        assert_eq!(bytes("[a-z]=|[(]"), "(=");
        assert_eq!(of_pattern("^.*$"), Factor::Anything);
        assert_eq!(of_pattern("a*"), Factor::Anything);
    }

    /// Whatever matches holds its factor.
    #[test]
    fn factors_are_sound() {
        let patterns = [
            ("(?i)a[b-d]{2}|x(?:y|z)+w", &["ABC", "qaddq", "xyzw", "XZW"][..]),
            ("[^a-z]+\\(|'", &["9(", "'"]),
            ("(?:a|b|c)(?:d|)(?:e|f)", &["ae", "bdf"]),
            ("x(?:[.?]|%2e){2,3}y?", &["x..", "x.%2e.y", "x?%2E"]),
        ];
        for (pattern, matching) in patterns {
            for text in matching {
                let holds = match of_pattern(pattern) {
                    Factor::Literals(literals) => {
                        let text = text.to_ascii_lowercase();
                        literals.iter().any(|literal| memchr::memmem::find(text.as_bytes(), literal).is_some())
                    }
                    Factor::Bytes(set) => text.bytes().any(|byte| set.contains(byte)),
                    Factor::Anything => true,
                    Factor::Never => false,
                };
                assert!(holds, "{pattern} {text}");
            }
        }
    }
}

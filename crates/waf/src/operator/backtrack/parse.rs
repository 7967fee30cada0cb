//! Reads a PCRE pattern and lays it out as steps.

use std::collections::BTreeSet;

use super::{Assertion, Case, Sense, Step};
use crate::operator::ByteSet;
use crate::operator::translate::{Escape, Translator, counted};

/// Groups inside each other.
const DEPTH: usize = 64;

/// Steps of one pattern.
const SIZE: usize = 50_000;

/// Lengths a look-behind may have.
const LENGTHS: usize = 64;

/// Groups that back-references may name.
const REFERRED: usize = 2;

/// The steps of a pattern, and the groups its back-references name.
pub(super) fn parse(pattern: &[u8]) -> Result<(Vec<Step>, Vec<usize>), String> {
    let mut parser =
        Parser { text: Translator::new(pattern), groups: 0, depth: 0, case: Case::Sensitive, referred: Vec::new() };
    let node = parser.alternatives()?;
    if parser.text.next().is_some() {
        return Err("a group is closed that was never opened".to_owned());
    }
    if parser.referred.len() > REFERRED {
        return Err(format!("back-references to more than {REFERRED} groups are not supported"));
    }
    let mut steps = Vec::new();
    lay_out(&node, &mut steps)?;
    steps.push(Step::Accept);
    Ok((steps, parser.referred))
}

enum Node {
    Bytes(ByteSet),
    Assert(Assertion),
    BackReference { group: usize, case: Case },
    Group { number: usize, inner: Box<Node> },
    Look { sense: Sense, ahead: bool, inner: Box<Node> },
    Atomic(Box<Node>),
    Repeat { inner: Box<Node>, least: usize, most: Option<usize>, lazy: bool },
    Sequence(Vec<Node>),
    Either(Vec<Node>),
}

struct Parser<'p> {
    text: Translator<'p>,
    groups: usize,
    depth: usize,
    case: Case,
    referred: Vec<usize>,
}

impl Parser<'_> {
    fn alternatives(&mut self) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(format!("groups are nested more than {DEPTH} deep"));
        }
        let case = self.case;
        let mut branches = vec![self.sequence()?];
        while self.text.take(b"|") {
            branches.push(self.sequence()?);
        }
        self.case = case;
        self.depth -= 1;
        Ok(if branches.len() == 1 { branches.remove(0) } else { Node::Either(branches) })
    }

    fn sequence(&mut self) -> Result<Node, String> {
        let mut nodes = Vec::new();
        while !matches!(self.text.rest.first(), None | Some(b'|' | b')')) {
            if let Some(node) = self.atom()? {
                nodes.push(self.repeated(node)?);
            }
        }
        Ok(Node::Sequence(nodes))
    }

    fn bytes(&self, set: ByteSet) -> Node {
        Node::Bytes(if self.case == Case::Ignored { set.fold_case() } else { set })
    }

    fn atom(&mut self) -> Result<Option<Node>, String> {
        let byte = self.text.next().ok_or("the pattern ends where something is expected")?;
        Ok(Some(match byte {
            b'(' => return self.group(),
            b'[' => {
                let (set, negated) = self.text.bracket_set()?;
                let set = if self.case == Case::Ignored { set.fold_case() } else { set };
                Node::Bytes(if negated { set.inverse() } else { set })
            }
            b'.' => Node::Bytes(ByteSet::default().inverse()),
            b'^' => Node::Assert(Assertion::Start),
            b'$' => Node::Assert(Assertion::End),
            b'\\' => return self.escape(),
            b'*' | b'+' | b'?' => return Err("a repeat stands where there is nothing to repeat".to_owned()),
            literal => self.bytes(ByteSet::of(&[literal])),
        }))
    }

    fn escape(&mut self) -> Result<Option<Node>, String> {
        if let Some(digit @ b'1'..=b'9') = self.text.rest.first() {
            let group = usize::from(digit - b'0');
            if group > self.groups {
                return Err(format!("back-reference \\{group} names a group that does not precede it"));
            }
            self.text.next();
            if !self.referred.contains(&group) {
                self.referred.push(group);
            }
            return Ok(Some(Node::BackReference { group, case: self.case }));
        }
        Ok(Some(match self.text.escape()? {
            Escape::Byte(byte) => self.bytes(ByteSet::of(&[byte])),
            Escape::Set(set) => self.bytes(set),
            Escape::Assertion(name) => Node::Assert(match name {
                "\\A" => Assertion::Start,
                "\\z" => Assertion::End,
                "\\b" => Assertion::WordBoundary,
                "\\B" => Assertion::NoWordBoundary,
                "(?:\\n?\\z)" => Assertion::EndOrNewline,
                "" => return Ok(None),
                other => return Err(format!("{other} beside look-around or back-references is not supported")),
            }),
        }))
    }

    fn group(&mut self) -> Result<Option<Node>, String> {
        if !self.text.take(b"?") {
            self.groups += 1;
            let number = self.groups;
            let inner = Box::new(self.closed()?);
            return Ok(Some(Node::Group { number, inner }));
        }
        let looks = [
            (&b"="[..], Sense::Wanted, true),
            (b"!", Sense::Unwanted, true),
            (b"<=", Sense::Wanted, false),
            (b"<!", Sense::Unwanted, false),
        ];
        for (mark, sense, ahead) in looks {
            if self.text.take(mark) {
                let inner = Box::new(self.closed()?);
                return Ok(Some(Node::Look { sense, ahead, inner }));
            }
        }
        if self.text.take(b">") {
            return Ok(Some(Node::Atomic(Box::new(self.closed()?))));
        }
        let before = self.case;
        while let Some(flag) = self.text.next() {
            match flag {
                b'i' => self.case = Case::Ignored,
                b's' => {}
                b'-' if self.text.take(b"i") => self.case = Case::Sensitive,
                // To the end of the group around.
                b')' => return Ok(None),
                b':' => {
                    let inner = self.closed()?;
                    self.case = before;
                    return Ok(Some(inner));
                }
                _ => break,
            }
        }
        Err("a group of this kind beside look-around or back-references is not supported".to_owned())
    }

    fn closed(&mut self) -> Result<Node, String> {
        let inner = self.alternatives()?;
        if self.text.take(b")") { Ok(inner) } else { Err("a group is never closed".to_owned()) }
    }

    fn repeated(&mut self, mut node: Node) -> Result<Node, String> {
        loop {
            let (least, most) = match self.text.rest.first() {
                Some(b'*') => (0, None),
                Some(b'+') => (1, None),
                Some(b'?') => (0, Some(1)),
                Some(b'{') => match counted(self.text.rest.get(1..).unwrap_or_default()) {
                    Some(length) => {
                        let inside = self.text.rest.get(1..length).unwrap_or_default();
                        let (bounds, rest) = (bounds(inside)?, self.text.rest.get(length..).unwrap_or_default());
                        self.text.rest = rest;
                        bounds
                    }
                    None => return Ok(node),
                },
                Some(_) | None => return Ok(node),
            };
            self.text.next();
            let inner = Box::new(node);
            node = if self.text.take(b"+") {
                Node::Atomic(Box::new(Node::Repeat { inner, least, most, lazy: false }))
            } else {
                let lazy = self.text.take(b"?");
                Node::Repeat { inner, least, most, lazy }
            };
        }
    }
}

/// `2`, `2,` or `2,5`.
fn bounds(text: &[u8]) -> Result<(usize, Option<usize>), String> {
    let text = String::from_utf8_lossy(text);
    let number = |text: &str| text.parse::<usize>().map_err(|_| format!("repeat {{{text}}} is too large"));
    match text.split_once(',') {
        None => number(&text).map(|count| (count, Some(count))),
        Some((least, "")) => Ok((number(least)?, None)),
        Some((least, most)) => Ok((number(least)?, Some(number(most)?))),
    }
}

fn lay_out(node: &Node, steps: &mut Vec<Step>) -> Result<(), String> {
    if steps.len() > SIZE {
        return Err(format!("the pattern has more than {SIZE} steps"));
    }
    match node {
        Node::Bytes(set) => steps.push(Step::Bytes(*set)),
        Node::Assert(assertion) => steps.push(Step::Assert(*assertion)),
        Node::BackReference { group, case } => steps.push(Step::BackReference { group: *group, case: *case }),
        Node::Group { number, inner } => {
            steps.push(Step::Save(number * 2));
            lay_out(inner, steps)?;
            steps.push(Step::Save(number * 2 + 1));
        }
        Node::Look { sense, ahead, inner } => {
            let behind = if *ahead { Vec::new() } else { lengths(inner)?.into_iter().collect() };
            let at = steps.len();
            steps.push(Step::Accept);
            lay_out(inner, steps)?;
            let end = steps.len();
            set(steps, at, Step::Look { sense: *sense, behind, end });
        }
        Node::Atomic(inner) => {
            let at = steps.len();
            steps.push(Step::Accept);
            lay_out(inner, steps)?;
            let end = steps.len();
            set(steps, at, Step::Atomic { end });
        }
        Node::Sequence(nodes) => nodes.iter().try_for_each(|node| lay_out(node, steps))?,
        Node::Either(branches) => either(branches, steps)?,
        Node::Repeat { inner, least, most, lazy } => repeat(inner, *least, *most, *lazy, steps)?,
    }
    Ok(())
}

fn set(steps: &mut [Step], at: usize, step: Step) {
    if let Some(place) = steps.get_mut(at) {
        *place = step;
    }
}

fn either(branches: &[Node], steps: &mut Vec<Step>) -> Result<(), String> {
    let mut jumps = Vec::new();
    for (number, branch) in branches.iter().enumerate() {
        let last = number + 1 == branches.len();
        let at = steps.len();
        if !last {
            steps.push(Step::Accept);
        }
        lay_out(branch, steps)?;
        if !last {
            jumps.push(steps.len());
            steps.push(Step::Accept);
            let next = steps.len();
            set(steps, at, Step::Split(at + 1, next));
        }
    }
    let end = steps.len();
    jumps.into_iter().for_each(|at| set(steps, at, Step::Jump(end)));
    Ok(())
}

fn repeat(inner: &Node, least: usize, most: Option<usize>, lazy: bool, steps: &mut Vec<Step>) -> Result<(), String> {
    let split = |into: usize, past: usize| if lazy { Step::Split(past, into) } else { Step::Split(into, past) };
    (0..least).try_for_each(|_| lay_out(inner, steps))?;
    match most {
        None => {
            let at = steps.len();
            steps.push(Step::Accept);
            lay_out(inner, steps)?;
            steps.push(Step::Jump(at));
            let past = steps.len();
            set(steps, at, split(at + 1, past));
        }
        Some(most) => {
            let mut splits = Vec::new();
            for _ in least..most {
                splits.push(steps.len());
                steps.push(Step::Accept);
                lay_out(inner, steps)?;
            }
            let end = steps.len();
            splits.into_iter().for_each(|at| set(steps, at, split(at + 1, end)));
        }
    }
    Ok(())
}

/// How long a part can be, for looking behind.
fn lengths(node: &Node) -> Result<BTreeSet<usize>, String> {
    let unbounded = || "a look-behind must have a length that is known beforehand".to_owned();
    let found: BTreeSet<usize> = match node {
        Node::Bytes(_) => BTreeSet::from([1]),
        Node::Assert(_) | Node::Look { .. } => BTreeSet::from([0]),
        Node::BackReference { .. } => return Err(unbounded()),
        Node::Group { inner, .. } | Node::Atomic(inner) => lengths(inner)?,
        Node::Either(branches) => {
            let each = branches.iter().map(lengths).collect::<Result<Vec<_>, _>>()?;
            each.into_iter().flatten().collect()
        }
        Node::Sequence(nodes) => {
            nodes.iter().try_fold(BTreeSet::from([0]), |sums, node| sum(&sums, &lengths(node)?))?
        }
        Node::Repeat { inner, least, most, .. } => {
            let (inner, most) = (lengths(inner)?, most.ok_or_else(unbounded)?);
            if most > LENGTHS {
                return Err(unbounded());
            }
            let mut sums = BTreeSet::from([0]);
            let mut found = BTreeSet::new();
            for count in 0..=most {
                if count >= *least {
                    found.extend(&sums);
                }
                sums = sum(&sums, &inner)?;
            }
            found
        }
    };
    if found.len() > LENGTHS { Err(unbounded()) } else { Ok(found) }
}

fn sum(left: &BTreeSet<usize>, right: &BTreeSet<usize>) -> Result<BTreeSet<usize>, String> {
    if left.len() > LENGTHS || right.len() > LENGTHS {
        return Err(format!("a look-behind has more than {LENGTHS} lengths"));
    }
    Ok(left.iter().flat_map(|left| right.iter().map(move |right| left + right)).collect())
}

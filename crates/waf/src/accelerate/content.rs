//! A rule the prefilter can rule out: what it looks at, and what a value must hold for it to match.

use super::factors::{self, Expression, Factor};
use crate::operator::{ByteSet, Operator, TextTest};
use crate::program::rule::{Measure, Rule, Sense};
use crate::seclang::target::{Selector, Slot, Target};
use crate::seclang::variable::Variable;
use crate::transaction::origin::{Origin, STABLE_SCALARS};
use crate::transform::Transform;

/// A rule, as far as the prefilter is concerned.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) targets: Vec<Target>,
    /// Members of TX that it looks at besides: they change while rules run, so that where one is set the rule has to look.
    pub(super) volatile: Vec<Slot>,
    pub(super) excluded: Vec<Target>,
    /// The forms of a value that the rule tests: one, or with `multiMatch` several.
    pub(super) chains: Vec<ChainId>,
    /// By [`Alphabet`].
    pub(super) filters: Filters,
    /// The paranoia level from which it runs.
    pub(super) level: Option<i64>,
    pub(super) side: Side,
}

/// Which half of a transaction the rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Request,
    Response,
}

/// What a value must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Filter {
    /// One of these, in any case.
    Literals(Vec<Box<[u8]>>),
    /// One of these bytes; both cases of a letter count.
    Bytes(ByteSet),
    /// More than one SQL token.
    Sql,
    /// There is no such value.
    Never,
}

/// Values that consist of few different bytes satisfy few rules, and most values do: each alphabet is searched on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alphabet {
    /// Identifiers, numbers, file names.
    Name,
    /// Also blanks and what stands in sentences and addresses.
    Text,
    /// All bytes.
    Any,
}

impl Alphabet {
    pub(super) const ALL: [Self; 3] = [Self::Name, Self::Text, Self::Any];

    pub(super) fn bytes(self) -> ByteSet {
        let more: &[u8] = match self {
            Self::Name => b".-",
            Self::Text => b".- ,/:@=?!+%",
            Self::Any => return ByteSet::default().inverse(),
        };
        ByteSet::OUTSIDE_WORDS.inverse().union(ByteSet::of(more))
    }
}

impl Content {
    /// `None` when the rule is to be run plainly; `filters` are those of its operator.
    pub(super) fn of(rule: &Rule, filters: Filters, level: Option<i64>, chains: &mut Chains) -> Option<Self> {
        let test = rule.test.as_ref()?;
        if test.sense == Sense::Negated || test.targets.iter().any(|target| target.measure == Measure::Count) {
            return None;
        }
        let all = test.targets.iter().map(|target| target.target.clone());
        let (targets, others): (Vec<Target>, Vec<Target>) = all.partition(|target| is_stable(target.variable));
        let slot = |target: &Target| match target.selector {
            Selector::Slot(slot) if target.variable == Variable::Tx => Some(slot),
            Selector::Slot(_) | Selector::All | Selector::Name(_) | Selector::Pattern(_) => None,
        };
        let volatile: Vec<Slot> = others.iter().map(slot).collect::<Option<_>>()?;
        if targets.is_empty() {
            return None;
        }
        let response = |target: &Target| is_of_response(target.variable);
        let side = match (targets.iter().all(response), targets.iter().any(response)) {
            (true, _) => Side::Response,
            (false, false) => Side::Request,
            (false, true) => return None,
        };
        let stages = if rule.actions.multi_match { 0 } else { test.transforms.len() };
        let forms = (stages..=test.transforms.len()).filter_map(|length| test.transforms.get(..length));
        let mut ids: Vec<ChainId> = forms.map(|form| chains.intern(form)).collect();
        ids.sort_unstable();
        ids.dedup();
        Some(Self { targets, volatile, excluded: test.excluded.clone(), chains: ids, filters, level, side })
    }

    /// Whether the rule looks at the member `name` of a kind of values; with `None` at any member no rule names.
    pub(super) fn looks_at(&self, origin: Origin, name: Option<&[u8]>) -> bool {
        let fixed: Option<&[u8]> = match origin {
            Origin::XmlText => Some(b"/*"),
            Origin::XmlAttribute => Some(b"//@*"),
            _ => name,
        };
        self.targets.iter().filter(|target| origin.variables().contains(&target.variable)).any(|target| {
            let wanted = match (&target.selector, fixed) {
                (Selector::All | Selector::Pattern(_), None) => true,
                (Selector::Name(_) | Selector::Slot(_), None) => false,
                (selector, Some(name)) => selector.admits(name),
            };
            let excludes = |excluded: &Target| {
                excluded.variable == target.variable && fixed.is_some_and(|name| excluded.selector.admits(name))
            };
            wanted && !self.excluded.iter().any(excludes)
        })
    }

    /// Whether the rule looks at a variable with one value.
    pub(super) fn looks_at_scalar(&self, variable: Variable) -> bool {
        self.targets.iter().any(|target| target.variable == variable)
    }

    /// Names that targets and exclusions speak of, among these kinds of values.
    pub(super) fn names(&self, origin: Origin) -> impl Iterator<Item = &[u8]> {
        let of_origin = move |target: &&Target| origin.variables().contains(&target.variable);
        self.targets.iter().chain(&self.excluded).filter(of_origin).filter_map(|target| match &target.selector {
            Selector::Name(name) => Some(&**name),
            Selector::All | Selector::Pattern(_) | Selector::Slot(_) => None,
        })
    }
}

/// Whether the values of a variable stay what they are once they are known.
fn is_stable(variable: Variable) -> bool {
    STABLE_SCALARS.contains(&variable)
        || Origin::COLLECTIONS.iter().any(|origin| origin.variables().contains(&variable))
}

fn is_of_response(variable: Variable) -> bool {
    matches!(
        variable,
        Variable::ResponseBody
            | Variable::ResponseContentType
            | Variable::ResponseHeaders
            | Variable::ResponseHeadersNames
    )
}

/// What a value must hold, by its [`Alphabet`].
pub(super) type Filters = [Filter; Alphabet::ALL.len()];

/// The filters of an operator; `None` when there is nothing to look for even in the largest alphabet.
pub(super) fn filters(operator: &Operator) -> Option<Filters> {
    let by_bytes = |bytes: ByteSet| Alphabet::ALL.map(|alphabet| Filter::Bytes(bytes.common(alphabet.bytes())));
    let found = match operator {
        Operator::Pattern(pattern) | Operator::Identity(_, pattern) => {
            let expression = Expression::parse(pattern.linear()?)?;
            Alphabet::ALL.map(|alphabet| match expression.factor_within(alphabet.bytes()) {
                Factor::Literals(literals) => Filter::Literals(literals),
                Factor::Bytes(bytes) => Filter::Bytes(bytes),
                Factor::Never => Filter::Never,
                Factor::Anything => Filter::Bytes(ByteSet::default().inverse()),
            })
        }
        Operator::Phrases(phrases) => {
            let all = factors::of_literals(phrases.list())?;
            Alphabet::ALL.map(|alphabet| within(&all, alphabet.bytes()))
        }
        Operator::Text(
            TextTest::BeginsWith
            | TextTest::Contains
            | TextTest::ContainsWord
            | TextTest::EndsWith
            | TextTest::StringEqual,
            template,
        ) => {
            let all = factors::of_literals(std::iter::once(template.fixed()?))?;
            Alphabet::ALL.map(|alphabet| within(&all, alphabet.bytes()))
        }
        Operator::ByteRange(allowed) => by_bytes(allowed.inverse().fold_case()),
        Operator::ValidateUrlEncoding => by_bytes(ByteSet::of(b"%")),
        Operator::ValidateUtf8 => by_bytes(ascii().inverse()),
        // Script needs a tag or an attribute.
        Operator::DetectXss => by_bytes(ByteSet::of(b"<=")),
        Operator::DetectSqli => Alphabet::ALL.map(|_| Filter::Sql),
        Operator::Text(
            TextTest::Equal
            | TextTest::Greater
            | TextTest::GreaterOrEqual
            | TextTest::Less
            | TextTest::LessOrEqual
            | TextTest::Within,
            _,
        )
        | Operator::Address(_)
        | Operator::Never
        | Operator::PatternTemplate(_)
        | Operator::UnconditionalMatch => return None,
    };
    // An empty value has no bytes to look for: a rule that matches it cannot be ruled out.
    let everything = Filter::Bytes(ByteSet::default().inverse());
    let [_, _, widest] = &found;
    (*widest != everything).then_some(found)
}

fn within(literals: &[Box<[u8]>], alphabet: ByteSet) -> Filter {
    let left = literals.iter().filter(|literal| literal.iter().all(|byte| alphabet.contains(*byte)));
    let left: Vec<_> = left.cloned().collect();
    if left.is_empty() { Filter::Never } else { Filter::Literals(left) }
}

fn ascii() -> ByteSet {
    let mut set = ByteSet::default();
    (0..0x80).for_each(|byte| set.insert(byte));
    set
}

/// Number of a sequence of transformations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ChainId(usize);

/// The sequences of transformations that rules use, each once.
#[derive(Debug, Default)]
pub(super) struct Chains {
    chains: Vec<Chain>,
}

/// A sequence of transformations, as far as it matters to a search that ignores case.
#[derive(Debug)]
pub(super) struct Chain {
    transforms: Vec<Transform>,
    /// Each with the bytes without which it changes nothing that matters; `None` when any value may change.
    pub(super) steps: Vec<(Transform, Option<ByteSet>)>,
    /// The bytes without which the whole chain changes nothing that matters.
    pub(super) triggers: Option<ByteSet>,
}

impl Chains {
    fn intern(&mut self, transforms: &[Transform]) -> ChainId {
        let transforms = without_case(transforms);
        if let Some(known) = self.chains.iter().position(|chain| chain.transforms == transforms) {
            return ChainId(known);
        }
        let steps: Vec<_> = transforms
            .iter()
            .enumerate()
            .map(|(at, step)| (*step, triggers(*step, transforms.get(at + 1..))))
            .collect();
        let all = steps.iter().try_fold(ByteSet::default(), |all, (_, own)| Some(all.union((*own)?)));
        self.chains.push(Chain { transforms, steps, triggers: all });
        ChainId(self.chains.len() - 1)
    }

    pub(super) fn get(&self, id: ChainId) -> Option<&Chain> {
        self.chains.get(id.0)
    }
}

/// Letters change nothing but case, which does not matter unless it does to a later transformation.
fn triggers(step: Transform, later: Option<&[Transform]>) -> Option<ByteSet> {
    let blind = later.unwrap_or_default().iter().all(|later| later.is_blind_to_case());
    let set = step.triggers()?;
    Some(if blind && step == Transform::CmdLine { set.without(letters()) } else { set })
}

fn letters() -> ByteSet {
    let mut set = ByteSet::default();
    (0..=255u8).filter(u8::is_ascii_alphabetic).for_each(|byte| set.insert(byte));
    set
}

/// Leaves out changes of case after which nothing depends on case.
fn without_case(transforms: &[Transform]) -> Vec<Transform> {
    let mut kept: Vec<Transform> = Vec::new();
    let mut blind = true;
    for transform in transforms.iter().rev() {
        let changes_case = matches!(transform, Transform::Lowercase | Transform::Uppercase);
        if !(changes_case && blind) {
            kept.push(*transform);
        }
        blind &= transform.is_blind_to_case();
    }
    kept.reverse();
    kept
}

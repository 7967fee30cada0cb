//! What each rule costs and why: for whoever writes rules, and for `check`.

use serde::Serialize;

use crate::accelerate::Hold;
use crate::operator::Operator;
use crate::program::Program;
use crate::program::rule::Rule;
use crate::seclang::action::Phase;

/// How a rule is kept from running on every value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Filtering {
    /// It runs where one of some literals occurs.
    Literals {
        /// How many.
        count: usize,
        /// The length of the shortest in bytes: short ones occur by chance.
        shortest: usize,
    },
    /// It runs on values with one of some bytes.
    Bytes {
        /// How many.
        count: usize,
    },
    /// It runs on what may be SQL.
    Sql,
    /// It runs on each of its values. Cheap for scalars and counters, dear for collections.
    None,
}

/// A rule and its cost.
#[derive(Debug, Clone, Serialize)]
pub struct RuleCost {
    /// The rule's id.
    pub id: u32,
    /// `file:line`.
    pub place: String,
    /// When it runs.
    pub phase: Phase,
    /// What keeps it from running on every value.
    pub filtering: Filtering,
    /// Transformations a value passes before the test.
    pub transforms: usize,
    /// An estimate of bytes looked at for each kilobyte of the values it targets; 100,000 and more is worth a thought.
    pub cost: usize,
    /// What could be better, in words.
    pub advice: Vec<String>,
}

/// The costs of all rules in file order.
pub(crate) fn lint(program: &Program) -> Vec<RuleCost> {
    let costs = Phase::ALL.iter().flat_map(|phase| program.phase(*phase)).filter_map(|entry| {
        let rule = program.rules.get(entry.rule)?;
        let hold = entry.content.and_then(|content| program.accelerator.hold(content));
        Some((entry.rule, cost(rule, hold)))
    });
    let mut costs: Vec<_> = costs.collect();
    costs.sort_by_key(|(place, _)| *place);
    costs.into_iter().map(|(_, cost)| cost).collect()
}

fn cost(rule: &Rule, hold: Option<Hold>) -> RuleCost {
    let filtering = match hold {
        None => Filtering::None,
        Some(Hold::Literals { count, shortest }) => Filtering::Literals { count, shortest },
        Some(Hold::Bytes { count }) => Filtering::Bytes { count },
        Some(Hold::Sql) => Filtering::Sql,
    };
    let mut advice = Vec::new();
    let collection = rule.test.as_ref().is_some_and(|test| {
        test.targets.iter().any(|target| target.target.variable.shape() == crate::seclang::variable::Shape::Collection)
    });
    let pattern = rule.test.as_ref().map(|test| &test.operator);
    let is_pattern = matches!(pattern, Some(Operator::Pattern(_) | Operator::Phrases(_)));
    let backtracks = matches!(pattern, Some(Operator::Pattern(pattern)) if pattern.linear().is_none());
    match filtering {
        Filtering::None if is_pattern && collection => advice
            .push("runs on every value: no literal of two bytes or more and no rare byte is in every match".to_owned()),
        Filtering::Literals { shortest, .. } if shortest < 3 => {
            advice.push(format!("its shortest literal has {shortest} bytes and occurs by chance"));
        }
        Filtering::Bytes { count } if count > 40 => {
            advice.push(format!("runs on every value with one of {count} bytes, which is most of them"));
        }
        Filtering::None | Filtering::Literals { .. } | Filtering::Bytes { .. } | Filtering::Sql => {}
    }
    if backtracks {
        advice.push("looks around or refers back: matched by backtracking".to_owned());
    }
    if matches!(pattern, Some(Operator::PatternTemplate(_))) {
        advice.push("its pattern holds a macro and is compiled per request".to_owned());
    }
    let transforms = rule.test.as_ref().map_or(0, |test| test.transforms.len());
    let per_byte = rule.test.as_ref().map_or(0, |test| test.operator.cost() * if backtracks { 50 } else { 1 });
    let share = match filtering {
        Filtering::Literals { shortest, .. } => [200, 100, 20][shortest.clamp(1, 3) - 1],
        Filtering::Bytes { count } => (count * 4).min(1000),
        Filtering::Sql => 100,
        Filtering::None => 1000,
    };
    RuleCost {
        id: rule.id,
        place: rule.origin.to_string(),
        phase: rule.phase,
        filtering,
        transforms,
        cost: (per_byte + transforms) * share,
        advice,
    }
}

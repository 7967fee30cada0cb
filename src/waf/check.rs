//! `portcullis waf check`: whether rules can be run, and what each of them costs.

use super::{RuleChoice, Unanswered, shown};
use crate::cli::{Format, REFUSED};
use anyhow::Result;
use clap::Args;
use portcullis_waf::{Filtering, RuleCost, Waf};
use serde::Serialize;
use std::{collections::BTreeMap, fmt, process::ExitCode};

#[derive(Debug, Args)]
pub(crate) struct Rules {
    /// Rule files in this order, `builtin` for our own. Without: the rule set of --config.
    #[arg(value_name = "RULES", conflicts_with_all = ["config", "rules"])]
    positional: Vec<String>,
    #[command(flatten)]
    rules: RuleChoice,
    /// So many of the dearest rules are listed.
    #[arg(long, default_value_t = 10)]
    dearest: usize,
    /// Exit code 1 when a rule costs more than this: bytes looked at for each kilobyte it is given.
    #[arg(long)]
    max_cost: Option<usize>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn check(rules: Rules) -> Result<ExitCode> {
    let format = rules.format;
    match run(rules) {
        Ok(found) => {
            match format {
                Format::Text => print!("{found}"),
                Format::Json => println!("{:#}", serde_json::to_value(&found)?),
            }
            Ok(if found.too_dear.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
        }
        Err(unanswered) => unanswered.code(),
    }
}

fn run(asked: Rules) -> Result<Found, Unanswered> {
    let mut choice = asked.rules;
    if !asked.positional.is_empty() {
        choice.rules = asked.positional;
    }
    let compiled = choice.compiled()?;
    let guard = choice.guard(compiled.as_ref())?;
    Ok(Found::new(&guard.waf, asked.dearest, asked.max_cost))
}

#[derive(Serialize)]
struct Found {
    rules: usize,
    /// Rules by what keeps them from running on every value.
    filtered: BTreeMap<&'static str, usize>,
    /// What is accepted and does less than elsewhere.
    notes: Vec<String>,
    advice: Vec<Advice>,
    dearest: Vec<RuleCost>,
    too_dear: Vec<u32>,
}

#[derive(Serialize)]
struct Advice {
    place: String,
    id: u32,
    text: String,
}

impl Found {
    fn new(waf: &Waf, dearest: usize, max_cost: Option<usize>) -> Self {
        let mut costs = waf.lint();
        let mut filtered = BTreeMap::new();
        for cost in &costs {
            *filtered.entry(word(cost.filtering)).or_default() += 1;
        }
        let advice = costs.iter().flat_map(|cost| {
            cost.advice.iter().map(|text| Advice { place: cost.place.clone(), id: cost.id, text: text.clone() })
        });
        let advice = advice.collect();
        let too_dear = costs.iter().filter(|cost| max_cost.is_some_and(|most| cost.cost > most)).map(|cost| cost.id);
        let too_dear = too_dear.collect();
        let rules = costs.len();
        costs.sort_by_key(|cost| std::cmp::Reverse(cost.cost));
        costs.truncate(dearest);
        let notes = waf.notes().iter().map(|note| format!("{}: {}", note.origin, note.message)).collect();
        Self { rules, filtered, notes, advice, dearest: costs, too_dear }
    }
}

fn word(filtering: Filtering) -> &'static str {
    match filtering {
        Filtering::Literals { .. } => "where a literal occurs",
        Filtering::Bytes { .. } => "where a byte occurs",
        Filtering::Sql => "on what may be SQL",
        Filtering::None => "on each of their values",
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))?;
        for advice in &self.advice {
            writeln!(f, "{}: rule {} {}", advice.place, advice.id, advice.text)?;
        }
        if !self.dearest.is_empty() {
            writeln!(
                f,
                "\n    cost  phase              rule    runs            (cost: bytes looked at for each kB it is given)"
            )?;
        }
        for cost in &self.dearest {
            let runs = match cost.filtering {
                Filtering::Literals { count, shortest } => {
                    format!("where one of {count} literals of {shortest} bytes or more occurs")
                }
                Filtering::Bytes { count } => format!("where one of {count} bytes occurs"),
                Filtering::Sql => "on what may be SQL".to_owned(),
                Filtering::None => "on each of its values".to_owned(),
            };
            let phase = format!("{:?}", cost.phase);
            let mark = if self.too_dear.contains(&cost.id) { "  TOO DEAR" } else { "" };
            writeln!(f, "{:>8}  {phase:<17}  {:<6}  {runs}  {}{mark}", cost.cost, cost.id, shown(&cost.place))?;
        }
        let kinds = self.filtered.iter().map(|(kind, count)| format!("{count} {kind}"));
        writeln!(f, "\n{} rules are fit to run: {}", self.rules, kinds.collect::<Vec<_>>().join(", "))?;
        if !self.too_dear.is_empty() {
            writeln!(f, "too dear: {:?}", self.too_dear)?;
        }
        Ok(())
    }
}

//! `portcullis waf …`: questions to the web application firewall that need no traffic, answered by the data path's own functions.

mod check;
mod explain;
mod request;
mod suggest;
mod test;

use crate::{
    cli::{FAILED, REFUSED},
    command::colour,
};
use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use portcullis_gateway::{Compiled, check as check_config, compile_rules};
use portcullis_proxy::WafGuard;
use portcullis_waf::{EngineMode, ProfileSpec};
use std::{fmt::Write, path::PathBuf, process::ExitCode, sync::Arc};

#[derive(Debug, Subcommand)]
pub(crate) enum WafCommand {
    /// Say what would be made of a request: every rule that matches, those that nearly do, the scores, and the decision.
    Explain(explain::Question),
    /// Run tests in go-ftw's format against a rule set, in process. Exit code 1 when one fails.
    Test(test::Suite),
    /// Propose the narrowest exclusions for what audit lines say was matched.
    Suggest(suggest::Wish),
    /// Find every mistake in rules, and what each rule costs. Exit code 1 when they are not fit to run.
    Check(check::Rules),
}

pub(crate) fn run(what: WafCommand) -> Result<ExitCode> {
    match what {
        WafCommand::Explain(question) => explain::explain(&question),
        WafCommand::Test(suite) => test::test(&suite),
        WafCommand::Suggest(wish) => suggest::suggest(&wish),
        WafCommand::Check(rules) => check::check(rules),
    }
}

/// Which rules are asked.
#[derive(Debug, Args)]
pub(crate) struct RuleChoice {
    /// The rule set of this configuration: the one its route wants, unless --waf names another.
    #[arg(long)]
    config: Vec<PathBuf>,
    /// A `[waf.NAME]` of that configuration.
    #[arg(long, requires = "config")]
    waf: Option<String>,
    /// Instead: rule files in this order, `builtin` for our own (which is the default).
    #[arg(long, num_args = 1.., conflicts_with = "config")]
    rules: Vec<String>,
}

/// Why a question cannot be answered: shown already, or still to be.
enum Unanswered {
    Shown(ExitCode),
    Failed(anyhow::Error),
}

impl Unanswered {
    fn code(self) -> Result<ExitCode> {
        match self {
            Self::Shown(code) => Ok(code),
            Self::Failed(error) => Err(error),
        }
    }
}

impl From<anyhow::Error> for Unanswered {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl RuleChoice {
    fn is_given(&self) -> bool {
        !self.config.is_empty() || !self.rules.is_empty()
    }

    /// The configuration, if one is asked about.
    fn compiled(&self) -> Result<Option<Compiled>, Unanswered> {
        if self.config.is_empty() {
            return Ok(None);
        }
        check_config(&self.config).map(Some).map_err(|report| {
            eprint!("{}", report.render(colour()));
            Unanswered::Shown(ExitCode::from(REFUSED))
        })
    }

    /// The rule set by itself, blocking, at its own paranoia.
    fn guard(&self, compiled: Option<&Compiled>) -> Result<Arc<WafGuard>, Unanswered> {
        if let Some(compiled) = compiled {
            let guard = compiled.waf(self.waf.as_deref()).map_err(|error| anyhow!(error))?;
            return Ok(Arc::new(guard));
        }
        let builtin = ["builtin".to_owned()];
        let rules = if self.rules.is_empty() { &builtin[..] } else { &self.rules };
        let waf = compile_rules(rules).map_err(|errors| {
            errors.iter().for_each(|error| eprintln!("error: {error}"));
            Unanswered::Shown(ExitCode::from(REFUSED))
        })?;
        let wanted = ProfileSpec { mode: Some(EngineMode::On), ..ProfileSpec::default() };
        let guard = WafGuard::new(rules.join(" "), Arc::new(waf), wanted, usize::MAX);
        guard.map(Arc::new).map_err(|errors| Unanswered::Failed(anyhow!("{errors:?}")))
    }
}

/// A mistake in the question: said, with the exit code for it.
fn cannot(message: impl std::fmt::Display) -> Unanswered {
    eprintln!("error: {message}");
    Unanswered::Shown(ExitCode::from(FAILED))
}

/// A value on one line, and not a longer one than a screen has.
fn shown(value: &str) -> String {
    const CHARS: usize = 100;
    let mut text = String::from("`");
    for char in value.chars().take(CHARS) {
        match char {
            '\n' | '\r' | '\t' | '\\' => text.extend(char.escape_default()),
            char if char.is_control() => {
                let _ = write!(text, "\\x{:02x}", u32::from(char));
            }
            char => text.push(char),
        }
    }
    text.push_str(if value.chars().count() > CHARS { "…`" } else { "`" });
    text
}

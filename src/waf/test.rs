//! `portcullis waf test`: tests in go-ftw's format, run against a rule set in process.

use super::{RuleChoice, Unanswered, cannot};
use crate::cli::{Format, REFUSED};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use portcullis_proxy::WafGuard;
use portcullis_waf::{
    Connection, EngineMode,
    ftw::{Outcome, Test},
};
use serde::Serialize;
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

#[derive(Debug, Args)]
pub(crate) struct Suite {
    /// Files in go-ftw's YAML, or folders of them.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    rules: RuleChoice,
    /// What rules may do. The tests of the Core Rule Set are written for detect; statuses are judged in block only.
    #[arg(long, value_enum, default_value_t = Mode::Detect)]
    mode: Mode,
    /// At this paranoia level, whatever the rules say.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=4))]
    paranoia: Option<u8>,
    /// Only tests whose name begins so, like 942100.
    #[arg(long)]
    only: Option<String>,
    /// Tests that may fail, by name; failing is said, passing as well.
    #[arg(long, num_args = 1..)]
    ignore: Vec<String>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Mode {
    Detect,
    Block,
}

pub(super) fn test(suite: &Suite) -> Result<ExitCode> {
    let ran = match run(suite) {
        Ok(ran) => ran,
        Err(unanswered) => return unanswered.code(),
    };
    match suite.format {
        Format::Text => print!("{ran}"),
        Format::Json => println!("{:#}", serde_json::to_value(&ran)?),
    }
    Ok(if ran.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
}

fn run(suite: &Suite) -> Result<Ran, Unanswered> {
    let compiled = suite.rules.compiled()?;
    let mode = match suite.mode {
        Mode::Detect => EngineMode::DetectionOnly,
        Mode::Block => EngineMode::On,
    };
    let guard = suite.rules.guard(compiled.as_ref())?.with(|wanted| {
        wanted.mode = Some(mode);
        wanted.paranoia = suite.paranoia;
    });
    let guard = guard.map_err(|errors| cannot(format!("{errors:?}")))?;
    let mut files = Vec::new();
    for file in &suite.files {
        collect(file, &mut files)?;
    }
    let began = Instant::now();
    let mut ran = Ran::default();
    for file in files {
        let text = std::fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        let tests = Test::read(&file.display().to_string(), &text).map_err(cannot)?;
        let wanted = |test: &&Test| suite.only.as_ref().is_none_or(|only| test.name.starts_with(only.as_str()));
        for test in tests.iter().filter(wanted) {
            let outcome = test.run(|| (guard.waf.transaction_with(connection(), &guard.profile), mode));
            ran.note(test, outcome, &suite.ignore);
        }
    }
    if ran.count() == 0 {
        return Err(cannot("there is no test to run"));
    }
    ran.millis = began.elapsed().as_millis();
    ran.rule_set = rule_set(&guard);
    Ok(ran)
}

fn rule_set(guard: &WafGuard) -> String {
    format!("{} ({} rules)", guard.name, guard.waf.rule_count())
}

/// The same for every test, so that outcomes do not depend on when and where they ran.
fn connection() -> Connection {
    Connection {
        client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        client_port: 40_000,
        server: IpAddr::V4(Ipv4Addr::LOCALHOST),
        server_port: 80,
        unique_id: "test".to_owned(),
        now: Duration::from_secs(1_700_000_000),
    }
}

/// Folders are read to the bottom, in order.
fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Unanswered> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let cannot_read = || format!("{} cannot be read", path.display());
    let entries = std::fs::read_dir(path).with_context(cannot_read)?;
    let mut entries: Vec<PathBuf> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().with_context(cannot_read)?;
    entries.sort();
    for entry in entries {
        let is_test = entry.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
        if is_test || entry.is_dir() {
            collect(&entry, files)?;
        }
    }
    Ok(())
}

#[derive(Default, Serialize)]
struct Ran {
    rule_set: String,
    passed: usize,
    failed: Vec<Failed>,
    ignored: Vec<Failed>,
    /// Named to be ignored, and passing.
    needlessly_ignored: Vec<String>,
    not_judged: Vec<String>,
    millis: u128,
}

#[derive(Serialize)]
struct Failed {
    test: String,
    file: String,
    why: String,
}

impl Ran {
    fn note(&mut self, test: &Test, outcome: Outcome, ignore: &[String]) {
        let ignored = ignore.contains(&test.name);
        let failed = |why| Failed { test: test.name.clone(), file: test.file.clone(), why };
        match outcome {
            Outcome::Passed => {
                self.passed += 1;
                if ignored {
                    self.needlessly_ignored.push(test.name.clone());
                }
            }
            Outcome::Failed(why) if ignored => self.ignored.push(failed(why)),
            Outcome::Failed(why) => self.failed.push(failed(why)),
            Outcome::NotJudged(_) => self.not_judged.push(test.name.clone()),
        }
    }

    fn count(&self) -> usize {
        self.passed + self.failed.len() + self.ignored.len() + self.not_judged.len()
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failed in &self.failed {
            writeln!(f, "FAILED   {} ({}): {}", failed.test, failed.file, failed.why)?;
        }
        for failed in &self.ignored {
            writeln!(f, "ignored  {}: {}", failed.test, failed.why)?;
        }
        self.needlessly_ignored
            .iter()
            .try_for_each(|name| writeln!(f, "passes, though it is to be ignored: {name}"))?;
        if !self.not_judged.is_empty() {
            writeln!(f, "not judged, as they expect something of the server alone: {}", self.not_judged.join(", "))?;
        }
        writeln!(
            f,
            "{} of {} passed, {} failed, {} ignored, {} not judged; rules: {}; {} ms",
            self.passed,
            self.count(),
            self.failed.len(),
            self.ignored.len(),
            self.not_judged.len(),
            self.rule_set,
            self.millis
        )
    }
}

//! Tests in the format of go-ftw, in which the Core Rule Set and others keep theirs, run in process.
//!
//! A request is made as go-ftw makes it, answered as the Core Rule Set's own backend would, and shown to a transaction; then what
//! the rules logged is judged. There is no network: what a test expects of a front end cannot be judged, and is said to be so.

mod document;
mod exchange;

pub use exchange::{Exchange, Request};

use document::{Document, Output, Stage};
use regex::Regex;

use crate::{Audit, EngineMode, Response, Transaction};

/// One test: every stage of it must hold.
#[derive(Debug)]
pub struct Test {
    /// The file it stands in.
    pub file: String,
    /// `920100-4`.
    pub name: String,
    stages: Vec<Stage>,
}

/// What became of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is as expected.
    Passed,
    /// What is not.
    Failed(String),
    /// Nothing that it expects shows in what the rules do.
    NotJudged(&'static str),
}

impl Test {
    /// Reads the tests of a file; `file` is for messages.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn read(file: &str, text: &str) -> Result<Vec<Self>, String> {
        let document: Option<Document> =
            serde_yaml_ng::from_str(text).map_err(|error| format!("{file}: not a file of tests: {error}"))?;
        // Some files hold nothing but comments.
        let Some(document) = document else { return Ok(Vec::new()) };
        let rule = document.rule_id.map(|id| id.to_string());
        let tests = document.tests.into_iter().enumerate().map(|(index, test)| {
            let number = test.test_id.unwrap_or_else(|| u32::try_from(index + 1).unwrap_or(u32::MAX));
            let name = match (test.test_title, &rule) {
                (Some(title), _) => title,
                (None, Some(rule)) => format!("{rule}-{number}"),
                (None, None) => format!("{file}-{number}"),
            };
            Self { file: file.to_owned(), name, stages: test.stages.into_iter().map(document::Staged::stage).collect() }
        });
        Ok(tests.collect())
    }

    /// The exchanges of its stages.
    ///
    /// # Errors
    /// What cannot be sent.
    pub fn exchanges(&self) -> Result<Vec<Exchange>, String> {
        self.stages.iter().map(|stage| Ok(Request::build(&stage.input)?.answered())).collect()
    }

    /// Runs all stages; `begin` gives a new transaction for each, and the mode that it runs in.
    pub fn run<'w>(&self, begin: impl Fn() -> (Transaction<'w>, EngineMode)) -> Outcome {
        let mut judged = false;
        for stage in &self.stages {
            let exchange = match Request::build(&stage.input) {
                Ok(request) => request.answered(),
                Err(error) => return Outcome::Failed(error),
            };
            let (transaction, mode) = begin();
            let audit = exchange.play(transaction);
            let verdict = judge_log(&stage.output, &audit)
                .and_then(|by_log| Ok(judge_answer(&stage.output, mode, &exchange, &audit)? || by_log));
            match verdict {
                Ok(by_stage) => judged |= by_stage,
                Err(why) => return Outcome::Failed(why),
            }
        }
        if judged { Outcome::Passed } else { Outcome::NotJudged("it expects something of the server alone") }
    }
}

/// Whether anything was expected of the log; the error says what is not as expected.
fn judge_log(output: &Output, audit: &Audit) -> Result<bool, String> {
    let expected = &output.log;
    let ids: Vec<u32> = audit.matches.iter().map(|matched| matched.id).collect();
    if let Some(missing) = expected.expect_ids.iter().find(|id| !ids.contains(id)) {
        return Err(format!("{missing} did not match; these did: {ids:?}"));
    }
    if let Some(unwanted) = expected.no_expect_ids.iter().find(|id| ids.contains(id)) {
        let found = audit.matches.iter().filter(|matched| matched.id == *unwanted);
        let found = found.flat_map(|found| &found.findings).map(|finding| {
            format!("{} = {}", finding.variable, String::from_utf8_lossy(&finding.excerpt).escape_debug())
        });
        return Err(format!("{unwanted} matched: {}", found.collect::<Vec<_>>().join(", ")));
    }
    let log = log_lines(audit);
    let patterns = [
        (&expected.match_regex, true),
        (&expected.no_match_regex, false),
        (&output.log_contains, true),
        (&output.no_log_contains, false),
    ];
    for (pattern, wanted) in patterns {
        let Some(pattern) = pattern else { continue };
        let regex = Regex::new(pattern).map_err(|error| format!("{pattern} is not a pattern: {error}"))?;
        if regex.is_match(&log) != wanted {
            let which = if wanted { "no line of the log matches" } else { "the log matches" };
            return Err(format!("{which} {pattern}: {log}"));
        }
    }
    let by_pattern = patterns.iter().any(|(pattern, _)| pattern.is_some());
    Ok(by_pattern || !expected.expect_ids.is_empty() || !expected.no_expect_ids.is_empty())
}

/// Statuses mean something only where rules may refuse; who expects one in detection means the server's own.
fn judge_answer(output: &Output, mode: EngineMode, exchange: &Exchange, audit: &Audit) -> Result<bool, String> {
    let Some(expected) = output.status.as_ref().filter(|_| mode == EngineMode::On) else { return Ok(false) };
    let status = match audit.intervention.as_ref().map(|intervention| &intervention.response) {
        Some(Response::Deny { status } | Response::Redirect { status, .. }) => *status,
        Some(Response::Drop) => return Err("the connection was closed without an answer".to_owned()),
        None => exchange.status,
    };
    if expected.admits(status) { Ok(true) } else { Err(format!("the status is {status}, expected {expected}")) }
}

/// The log as ModSecurity would write it, one line per finding.
fn log_lines(audit: &Audit) -> String {
    let lines = audit.matches.iter().flat_map(|matched| {
        matched.findings.iter().map(|finding| {
            format!(
                "matched at {}. [file \"{}\"] [id \"{}\"] [msg \"{}\"] [data \"{}\"]\n",
                finding.variable,
                matched.place,
                matched.id,
                matched.message,
                finding.data.escape_debug()
            )
        })
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Connection, InMemory, Source, Waf};
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    const RULES: &str =
        "SecRequestBodyAccess On\nSecRule ARGS:q \"@rx evil\" \"id:1,phase:2,deny,status:406,log,msg:'evil'\"\n";

    fn outcomes(mode: EngineMode, tests: &str) -> Vec<Outcome> {
        let source = Source::Text { name: "rules".to_owned(), text: RULES.to_owned() };
        let waf = Waf::compile(&[source], &InMemory::new()).unwrap();
        let tests = Test::read("a.yaml", tests).unwrap();
        let begin = || {
            let mut transaction = waf.transaction(Connection {
                client: IpAddr::V4(Ipv4Addr::LOCALHOST),
                client_port: 1,
                server: IpAddr::V4(Ipv4Addr::LOCALHOST),
                server_port: 80,
                unique_id: String::new(),
                now: Duration::ZERO,
            });
            transaction.set_mode(mode);
            (transaction, mode)
        };
        tests.iter().map(|test| test.run(begin)).collect()
    }

    #[test]
    fn old_and_new_forms_are_read_and_judged() {
        let tests = "rule_id: 1\ntests:\n\
            - test_id: 1\n  stages:\n  - input: {uri: '/?q=evil'}\n    output: {log: {expect_ids: [1]}}\n\
            - test_title: 1-2\n  stages:\n  - stage:\n      input: {uri: '/?q=good'}\n      output: {no_log_contains: 'id \"1\"', status: [200, 204]}\n\
            - test_id: 3\n  stages:\n  - input: {method: POST, data: 'q=evil'}\n    output: {status: 406}\n\
            - test_id: 4\n  stages:\n  - input: {uri: '/?q=good'}\n    output: {log: {expect_ids: [1]}}\n";
        use Outcome::{Failed, NotJudged, Passed};
        let blocking = outcomes(EngineMode::On, tests);
        assert!(
            matches!(blocking.as_slice(), [Passed, Passed, Passed, Failed(why)] if why.contains("1 did not match"))
        );
        let detecting = outcomes(EngineMode::DetectionOnly, tests);
        assert!(matches!(detecting.as_slice(), [Passed, Passed, NotJudged(_), Failed(_)]), "{detecting:?}");
    }

    #[test]
    fn what_is_not_a_test_is_refused_with_its_place() {
        for (text, words) in [
            ("rule_id: 1\ntests: 7", "a.yaml: not a file of tests"),
            (
                "rule_id: 1\ntests:\n- test_id: 1\n  stages:\n  - input: {}\n    output: {expect_nothing: true}",
                "expect_nothing",
            ),
        ] {
            assert!(Test::read("a.yaml", text).unwrap_err().contains(words), "{text}");
        }
        assert!(Test::read("a.yaml", "# nothing yet\n").unwrap().is_empty());
        let broken = "tests:\n- stages:\n  - input: {encoded_request: '???'}\n    output: {log: {expect_ids: [1]}}";
        assert!(matches!(&outcomes(EngineMode::On, broken)[..], [Outcome::Failed(why)] if why.contains("base64")));
    }
}

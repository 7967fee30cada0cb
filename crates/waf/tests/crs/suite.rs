//! Reads the test files and judges what the engine logged.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use portcullis_waf::{Audit, Connection, Waf};
use regex::Regex;
use serde::Deserialize;

use crate::request::{Exchange, Request, respond};

/// One test, ready to run.
pub(crate) struct Test {
    pub(crate) file: String,
    /// `920100-4`.
    pub(crate) name: String,
    stages: Vec<Stage>,
}

#[derive(Deserialize)]
struct Document {
    rule_id: u32,
    #[serde(default)]
    tests: Vec<DocumentTest>,
}

#[derive(Deserialize)]
struct DocumentTest {
    test_id: u32,
    stages: Vec<Stage>,
}

#[derive(Deserialize)]
struct Stage {
    input: Input,
    #[serde(default)]
    output: Output,
}

/// What to send.
#[derive(Deserialize)]
pub(crate) struct Input {
    pub(crate) method: Option<String>,
    pub(crate) uri: Option<String>,
    pub(crate) version: Option<String>,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) data: Option<String>,
    pub(crate) encoded_request: Option<String>,
    pub(crate) autocomplete_headers: Option<bool>,
}

#[derive(Deserialize, Default)]
struct Output {
    #[serde(default)]
    log: Log,
}

#[derive(Deserialize, Default)]
struct Log {
    #[serde(default)]
    expect_ids: Vec<u32>,
    #[serde(default)]
    no_expect_ids: Vec<u32>,
    match_regex: Option<String>,
    no_match_regex: Option<String>,
}

/// All tests below a folder, in the order of their files.
pub(crate) fn load(folder: &Path) -> Vec<Test> {
    let mut tests = Vec::new();
    let mut folders: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    for folder in folders.iter().filter(|path| path.is_dir()) {
        let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for path in files.iter().filter(|path| path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml")) {
            let text = fs::read_to_string(path).unwrap();
            let document: Option<Document> =
                serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            // One file holds nothing but comments.
            let Some(document) = document else { continue };
            let file = path.file_name().unwrap().to_string_lossy().into_owned();
            tests.extend(document.tests.into_iter().map(|test| Test {
                file: file.clone(),
                name: format!("{}-{}", document.rule_id, test.test_id),
                stages: test.stages,
            }));
        }
    }
    tests
}

/// Runs all stages; every one must hold.
pub(crate) fn run(waf: &Waf, test: &Test) -> Result<(), String> {
    test.stages.iter().try_for_each(|stage| {
        let request = Request::build(&stage.input);
        let exchange = respond(request);
        judge(&stage.output.log, &inspect(waf, &exchange, Gear::Accelerated))
    })
}

/// Whether the prefilter is used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gear {
    Accelerated,
    Plain,
}

/// The requests of a test.
pub(crate) fn requests(test: &Test) -> Vec<Exchange> {
    test.stages.iter().map(|stage| respond(Request::build(&stage.input))).collect()
}

/// Runs one exchange at the paranoia level of the rules.
pub(crate) fn inspect(waf: &Waf, exchange: &Exchange, gear: Gear) -> Audit {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let connection = Connection {
        client: IpAddr::V4(Ipv4Addr::new(172, 18, 0, 1)),
        client_port: 40_000,
        server: loopback,
        server_port: 80,
        unique_id: "test".to_owned(),
        now: Duration::from_secs(1_700_000_000),
    };
    let Exchange { request, status, response_headers, response_body } = exchange;
    let mut transaction = waf.transaction(connection);
    if gear == Gear::Plain {
        transaction.run_plainly();
    }
    transaction.request_line(&request.method, &request.uri, &request.version);
    for (name, value) in &request.headers {
        transaction.request_header(name, value);
    }
    transaction.request_headers_done();
    // In pieces, as a server would.
    for chunk in request.body.chunks(1000) {
        transaction.request_body_chunk(chunk);
    }
    transaction.request_body_done();
    transaction.response_line(*status, b"HTTP/1.1");
    for (name, value) in response_headers {
        transaction.response_header(name.as_bytes(), value.as_bytes());
    }
    transaction.response_headers_done();
    for chunk in response_body.chunks(1000) {
        transaction.response_body_chunk(chunk);
    }
    transaction.response_body_done();
    transaction.finish()
}

/// The log as ModSecurity would write it, one line per finding.
fn log_lines(audit: &Audit) -> String {
    let mut log = String::new();
    for matched in &audit.matches {
        for finding in &matched.findings {
            log.push_str(&format!(
                "matched at {}. [file \"{}\"] [id \"{}\"] [msg \"{}\"] [data \"{}\"]\n",
                finding.variable,
                matched.place,
                matched.id,
                matched.message,
                finding.data.escape_debug()
            ));
        }
    }
    log
}

fn judge(expected: &Log, audit: &Audit) -> Result<(), String> {
    let ids: Vec<u32> = audit.matches.iter().map(|matched| matched.id).collect();
    if let Some(missing) = expected.expect_ids.iter().find(|id| !ids.contains(id)) {
        return Err(format!("{missing} did not match; these did: {ids:?}"));
    }
    if let Some(unwanted) = expected.no_expect_ids.iter().find(|id| ids.contains(id)) {
        let found = audit.matches.iter().find(|matched| matched.id == *unwanted);
        return Err(format!("{unwanted} matched: {:?}", found.map(|found| &found.findings)));
    }
    let log = log_lines(audit);
    let matches = |pattern: &str| Regex::new(pattern).unwrap().is_match(&log);
    match &expected.match_regex {
        Some(pattern) if !matches(pattern) => return Err(format!("no line of the log matches {pattern}: {log}")),
        Some(_) | None => {}
    }
    match &expected.no_match_regex {
        Some(pattern) if matches(pattern) => return Err(format!("the log matches {pattern}: {log}")),
        Some(_) | None => {}
    }
    Ok(())
}

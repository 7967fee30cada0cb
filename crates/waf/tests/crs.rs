//! Runs the regression tests of the OWASP Core Rule Set straight against the engine, as go-ftw does through a server.
//!
//! `PORTCULLIS_CRS` names a checkout of coreruleset/coreruleset; without it the test says so and passes.
#![allow(clippy::unwrap_used)]

#[path = "crs/overrides.rs"]
mod overrides;
#[path = "crs/rules.rs"]
mod rules;
#[path = "crs/suite.rs"]
mod suite;

use portcullis_waf::EngineMode;
use portcullis_waf::ftw::Outcome;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

/// Tests of CRS 4.29 that pass without our overrides; the suite must not fall below.
const FLOOR: usize = 5057;

#[test]
fn the_core_rule_set_suite_passes() {
    let Some(folder) = std::env::var_os("PORTCULLIS_CRS").map(PathBuf::from) else {
        println!("PORTCULLIS_CRS is not set: the Core Rule Set suite was NOT run");
        return;
    };
    let compiling = Instant::now();
    let waf = rules::compile(&folder);
    println!("{} rules compiled in {:?}", waf.rule_count(), compiling.elapsed());
    let only = std::env::var("PORTCULLIS_CRS_ONLY").ok();
    let tests = suite::load(&folder.join("tests/regression/tests"));
    let mut files: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let (mut failures, mut not_judged) = (Vec::new(), Vec::new());
    let running = Instant::now();
    for test in tests.iter().filter(|test| only.as_ref().is_none_or(|only| test.name.starts_with(only.as_str()))) {
        let outcome = test.run(|| (suite::begin(&waf), EngineMode::DetectionOnly));
        let counts = files.entry(test.file.clone()).or_default();
        match outcome {
            Outcome::Passed => counts.0 += 1,
            Outcome::NotJudged(_) => not_judged.push(test.name.as_str()),
            Outcome::Failed(why) => {
                counts.1 += 1;
                failures.push(format!("{}: {why}", test.name));
            }
        }
    }
    for (file, (passed, failed)) in &files {
        println!("{file}: {passed} passed, {failed} failed");
    }
    let known = |failure: &&String| overrides::reason(failure).is_some();
    for failure in &failures {
        println!("FAILED {failure} ({})", overrides::reason(failure).unwrap_or("NOT EXPECTED"));
    }
    let passed: usize = files.values().map(|(passed, _)| passed).sum();
    let all = passed + failures.len() + not_judged.len();
    println!("{passed} of {all} passed, {} are the front end's, in {:?}", not_judged.len(), running.elapsed());
    assert!(failures.iter().all(|failure| known(&failure)), "a test fails that is not in the list of overrides");
    if only.is_none() {
        assert!(passed >= FLOOR, "{passed} tests passed, {FLOOR} are known to");
        not_judged.sort_unstable();
        assert_eq!(not_judged, overrides::FRONT_END, "tests/it/waf_front_end.rs must judge the same");
        assert_eq!(failures.len(), overrides::OVERRIDES.len(), "an override is no longer needed");
    }
}

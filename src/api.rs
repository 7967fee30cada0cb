//! `portcullis api learn`: a document proposed from an access log.

use anyhow::{Context, Result};
use portcullis_api::Learner;
use serde_json::Value;
use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::ExitCode,
};

/// A longer line is no record of ours.
const LINE_MAX: u64 = 1 << 20;

/// Prints the document; says beside it what it rests on.
pub(crate) fn learn(files: &[PathBuf], route: Option<&str>, title: &str) -> Result<ExitCode> {
    let mut learner = Learner::default();
    let mut left_out = 0_u64;
    for file in files {
        let opened = File::open(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let mut reader = BufReader::new(opened);
        loop {
            let mut line = Vec::new();
            let read = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut line);
            if read.with_context(|| format!("{} cannot be read", file.display()))? == 0 {
                break;
            }
            if !take(&mut learner, &line, route) {
                left_out += 1;
            }
        }
    }
    print!("{}", learner.propose(title));
    eprintln!("{} requests taken, {left_out} lines left out (errors, other routes, no records)", learner.taken());
    Ok(ExitCode::SUCCESS)
}

fn take(learner: &mut Learner, line: &[u8], route: Option<&str>) -> bool {
    let Ok(record) = serde_json::from_slice::<Value>(line) else { return false };
    let text = |key: &str| record.get(key).and_then(Value::as_str);
    // A route's own rules belong to it: `shop` and `shop/cart`.
    let of_route = |wanted: &str| {
        text("route").is_some_and(|route| {
            route.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    let (Some(method), Some(path)) = (text("method"), text("path")) else { return false };
    let status = record.get("status").and_then(Value::as_u64).and_then(|status| u16::try_from(status).ok());
    route.is_none_or(of_route) && learner.add(method, path, text("query"), status.unwrap_or(0))
}

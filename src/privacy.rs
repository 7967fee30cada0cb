//! `portcullis privacy`: which route leaks what.

use crate::{
    cli::{AdminSocket, Format},
    command::ask,
};
use anyhow::Result;
use serde_json::Value;
use std::{fmt::Write, process::ExitCode};

pub(crate) fn privacy(admin: &AdminSocket, format: Format) -> Result<ExitCode> {
    ask(admin, "GET", "/privacy", &Value::Null, |answer| match format {
        Format::Json => format!("{answer:#}\n"),
        Format::Text => text(answer),
    })
}

fn text(answer: &Value) -> String {
    let leaks = answer["leaks"].as_array().cloned().unwrap_or_default();
    if leaks.is_empty() {
        return "nothing was found since the process began\n".to_owned();
    }
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut text = String::new();
    for leak in &leaks {
        let place = format!("{} {}", word(&leak["direction"]), word(&leak["part"]));
        let (route, detector, action) = (word(&leak["route"]), word(&leak["detector"]), word(&leak["action"]));
        let _ = writeln!(text, "{route:<24} {place:<16} {detector:<16} {action:<6} {}", leak["count"]);
    }
    text
}

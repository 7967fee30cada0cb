//! The commands about what leaves: explain, learn, doctor.

use crate::{
    cli::{EgressCommand, FAILED, Format},
    command::{ask, refused, text_of},
    egress_doctor,
};
use anyhow::Result;
use portcullis_gateway::{EgressQuestion, check, explain_egress};
use serde_json::{Value, json};
use std::{path::PathBuf, process::ExitCode};

pub(crate) fn egress(what: EgressCommand) -> Result<ExitCode> {
    match what {
        EgressCommand::Explain { url, from, method, files, format, admin } => {
            let question = EgressQuestion { url, from, method };
            if files.is_empty() {
                return ask(&admin, "POST", "/egress/explain", &json!(question), |answer| show(answer, format));
            }
            Ok(explain_files(&files, &question, format))
        }
        EgressCommand::Learn { admin } => ask(&admin, "GET", "/egress/learned", &Value::Null, |answer| {
            let more = answer["overflowed"].as_u64().unwrap_or(0);
            let note = if more > 0 { format!("# {more} more were seen and not kept\n") } else { String::new() };
            let text = text_of(&answer["text"]);
            if text.trim().is_empty() { "# nothing was let through on report yet\n".to_owned() } else { note + &text }
        }),
        EgressCommand::Doctor { proxy, only_connect: true, .. } => Ok(egress_doctor::only_connect(proxy)),
        EgressCommand::Doctor { proxy, outside, name, uid, only_connect: false } => {
            egress_doctor::run(&egress_doctor::Questions { proxy, outside, name, uids: uid })
        }
    }
}

fn explain_files(files: &[PathBuf], question: &EgressQuestion, format: Format) -> ExitCode {
    let compiled = match check(files) {
        Ok(compiled) => compiled,
        Err(report) => return refused(&report),
    };
    match explain_egress(&compiled, question) {
        Ok(explained) => {
            print!("{}", show(&explained, format));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn show(explained: &Value, format: Format) -> String {
    match format {
        Format::Text => text_of(&explained["text"]),
        Format::Json => format!("{explained:#}\n"),
    }
}

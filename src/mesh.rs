//! The commands about a sidecar: who talks with whom, and how.

use crate::{
    Program,
    cli::{Format, MeshCommand},
    command::ask,
};
use anyhow::Result;
use serde_json::Value;
use std::{ffi::OsString, fmt::Write as _, process::ExitCode};

/// A sidecar's own commands, which `mesh-proxy` knows without the word before them.
const OWN: [&str; 5] = ["status", "graph", "capture", "wait", "quit"];

/// The arguments as `portcullis` would be given them.
pub(crate) fn arguments(program: Program, given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut all: Vec<_> = given.collect();
    let is_own = all.get(1).and_then(|word| word.to_str()).is_some_and(|word| OWN.contains(&word));
    if program == Program::MeshProxy && is_own {
        all.insert(1, "mesh".into());
    }
    all
}

pub(crate) fn mesh(what: MeshCommand) -> Result<ExitCode> {
    match what {
        MeshCommand::Status { format, admin } => ask(&admin, "GET", "/mesh", &Value::Null, |status| match format {
            Format::Json => format!("{status:#}\n"),
            Format::Text => status_text(status),
        }),
        MeshCommand::Capture { what } => {
            portcullis_sidecar::capture(&what)?;
            Ok(ExitCode::SUCCESS)
        }
        MeshCommand::Wait(arguments) => {
            portcullis_sidecar::wait(&arguments)?;
            Ok(ExitCode::SUCCESS)
        }
        MeshCommand::Quit { admin } => ask(&admin, "POST", "/quit", &Value::Null, |_| "the sidecar ends\n".to_owned()),
        MeshCommand::Graph { dot, admin } => {
            ask(
                &admin,
                "GET",
                "/mesh/graph",
                &Value::Null,
                |graph| {
                    if dot { dot_text(graph) } else { format!("{graph:#}\n") }
                },
            )
        }
    }
}

fn status_text(status: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let own = &status["workload"];
    let expiry = match own["seconds_to_expiry"].as_i64() {
        Some(left) if left >= 0 => format!("certificate good for {left} s"),
        Some(past) => format!("certificate OVER since {} s: no mTLS is spoken until there is another", -past),
        None => "no identity yet".to_owned(),
    };
    let mut text = format!(
        "{} ({}), {}, {expiry}\n{}\n",
        word(&own["service"]),
        word(&own["spiffe"]),
        word(&own["mode"]),
        word(&own["default"]),
    );
    let shown = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut rows = vec![
        [
            "", "PEER", "SECURITY", "MODE", "PROTOCOL", "CIPHER", "EXPIRY", "CALLS", "REPORTED", "REFUSED", "FAILED",
            "IDENTITY",
        ]
        .map(str::to_owned),
    ];
    let peers = status["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
    for peer in peers {
        let arrow = if peer["direction"] == "inbound" { "<-" } else { "->" };
        let expiry = peer["seconds_to_expiry"].as_i64().map_or("-".to_owned(), |left| format!("{left}s"));
        let keys = ["peer", "security", "mode", "protocol", "cipher"].map(|key| shown(&peer[key]));
        let [name, security, mode, protocol, cipher] = keys;
        let [calls, reported, refused, failed] =
            ["calls", "reported", "refused", "failed"].map(|key| shown(&peer[key]));
        let (arrow, identity) = (arrow.to_owned(), shown(&peer["identity"]));
        rows.push([arrow, name, security, mode, protocol, cipher, expiry, calls, reported, refused, failed, identity]);
    }
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    for peer in peers.iter().filter(|peer| !peer["last_deny"].is_null()) {
        let deny = &peer["last_deny"];
        let rule = deny["rule"].as_str().map_or_else(String::new, |rule| format!(" by access rule \"{rule}\""));
        let (name, reason) = (word(&peer["peer"]), word(&deny["reason"]));
        let _ = writeln!(text, "last refused, {} {name}: {reason}{rule}", word(&peer["direction"]));
    }
    text
}

fn dot_text(graph: &Value) -> String {
    let mut text = "digraph mesh {\n  rankdir=LR;\n".to_owned();
    for edge in graph["edges"].as_array().into_iter().flatten() {
        let end = |key: &str| edge[key].as_str().unwrap_or_default().replace('"', "");
        let style = if edge["security"] == "mtls" { "solid" } else { "dashed" };
        let colour = if edge["refused"].as_u64().unwrap_or(0) > 0 { "red" } else { "black" };
        let _ = writeln!(
            text,
            "  \"{}\" -> \"{}\" [label=\"{} calls, {} refused, {} failed\", style={style}, color={colour}];",
            end("from"),
            end("to"),
            edge["calls"],
            edge["refused"],
            edge["failed"],
        );
    }
    text + "}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sidecars_own_commands_need_no_word_before_them() {
        let said = |program, line: &str| -> String {
            let words = arguments(program, line.split(' ').map(OsString::from));
            words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
        };
        for (program, line, expected) in [
            (Program::MeshProxy, "x status", "x mesh status"),
            (Program::MeshProxy, "x wait --exec app", "x mesh wait --exec app"),
            (Program::MeshProxy, "x run a.toml", "x run a.toml"),
            (Program::Portcullis, "x status", "x status"),
            (Program::MeshProxy, "x", "x"),
        ] {
            assert_eq!(said(program, line), expected);
        }
    }

    #[test]
    fn a_graph_is_drawn_with_its_refusals() {
        let edge = serde_json::json!({ "from": "cart.acme.lab", "to": "pay.acme.lab", "calls": 3, "refused": 1, "failed": 0,
            "security": "mtls" });
        let drawn = dot_text(&serde_json::json!({ "edges": [edge] }));
        assert!(
            drawn.contains("\"cart.acme.lab\" -> \"pay.acme.lab\" [label=\"3 calls, 1 refused, 0 failed\""),
            "{drawn}"
        );
    }
}

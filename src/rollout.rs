//! `portcullis rollout …`: what an operator sees of releases, and says about them.

use crate::{
    cli::{AdminSocket, Format, RolloutCommand, RolloutWish},
    command::{ask, call},
};
use anyhow::Result;
use serde_json::{Value, json};
use std::{fmt::Write, process::ExitCode};

pub(crate) fn rollout(what: RolloutCommand) -> Result<ExitCode> {
    match what {
        RolloutCommand::Status { format, admin } => status(&admin, format),
        RolloutCommand::Pause(wish) => say("pause", &wish),
        RolloutCommand::Resume(wish) => say("resume", &wish),
        RolloutCommand::Promote(wish) => say("promote", &wish),
        RolloutCommand::Abort(wish) => say("abort", &wish),
    }
}

fn say(command: &str, wish: &RolloutWish) -> Result<ExitCode> {
    let body = json!({ "rollout": wish.rollout, "command": command, "why": wish.why });
    ask(&wish.admin, "POST", "/rollout", &body, |answer| {
        let warning = answer["warning"].as_str().map_or_else(String::new, |text| format!("warning: {text}\n"));
        line(&answer["rollout"]) + &warning
    })
}

fn status(admin: &AdminSocket, format: Format) -> Result<ExitCode> {
    let (_, objectives) = call(admin, "GET", "/objectives", &Value::Null)?;
    ask(admin, "GET", "/rollouts", &Value::Null, |rollouts| match format {
        Format::Json => {
            format!("{:#}\n", json!({ "rollouts": rollouts["rollouts"], "objectives": objectives["objectives"] }))
        }
        Format::Text => text(rollouts, &objectives),
    })
}

fn text(rollouts: &Value, objectives: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut text = String::new();
    for rollout in list(&rollouts["rollouts"]) {
        text.push_str(&line(&rollout));
        for version in ["old", "new"] {
            let seen = &rollout[version];
            let _ = writeln!(
                text,
                "    {version} {}: {} requests, {} errors, p99 {} ms",
                word(&seen["upstream"]),
                seen["requests"],
                seen["errors"],
                seen["p99_millis"].as_f64().map_or_else(|| "-".to_owned(), |millis| format!("{millis:.1}"))
            );
        }
    }
    for objective in list(&objectives["objectives"]) {
        let left = objective["budget_left"].as_f64().unwrap_or(1.0) * 100.0;
        let _ = writeln!(
            text,
            "objective {} of route {}: {left:.1}% of the error budget left, {} requests",
            word(&objective["slo"]),
            word(&objective["route"]),
            objective["requests"]
        );
    }
    if text.is_empty() { "no rollouts and no objectives\n".to_owned() } else { text }
}

fn line(rollout: &Value) -> String {
    let why = |key: &str, before: &str| rollout[key].as_str().map_or_else(String::new, |why| format!("{before}{why}"));
    format!(
        "rollout {}: {} at {} of {}{}{}\n",
        word(&rollout["name"]),
        word(&rollout["state"]),
        word(&rollout["share"]),
        word(&rollout["route"]),
        why("reason", "; "),
        why("waits_for", "; waits for ")
    )
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

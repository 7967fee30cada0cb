//! `portcullis waf explain`: what would be made of one request, and why.
//!
//! The answer is a report of facts; deciding is left to the very functions that decide about traffic.

use super::{RuleChoice, Unanswered, cannot, request, shown};
use crate::cli::Format;
use anyhow::Result;
use clap::Args;
use portcullis_gateway::{Question as RouteQuestion, waf_of};
use portcullis_proxy::WafGuard;
use portcullis_waf::{Audit, Cause, Connection, EngineMode, Response, RuleTrace, TraceOutcome};
use request::Asked;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

#[derive(Debug, Args)]
pub(crate) struct Question {
    /// A file with a request as it goes over the wire (`-`: standard input), or a method and a URL.
    #[arg(required = true, num_args = 1..=2, value_name = "FILE | METHOD URL")]
    request: Vec<String>,
    /// A request header, like 'Content-Type: application/json'.
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,
    /// The body, or @FILE; a form, unless a header says otherwise.
    #[arg(short = 'd', long)]
    data: Option<String>,
    /// The client's address.
    #[arg(long, default_value = "127.0.0.1")]
    from: IpAddr,
    #[command(flatten)]
    rules: RuleChoice,
    /// At this paranoia level, whatever the configuration says.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=4))]
    paranoia: Option<u8>,
    /// Every test that this rule made.
    #[arg(long)]
    rule: Option<u32>,
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn explain(question: &Question) -> Result<ExitCode> {
    match answer(question) {
        Ok(answer) => {
            match question.format {
                Format::Text => print!("{answer}"),
                Format::Json => println!("{:#}", serde_json::to_value(&answer)?),
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(unanswered) => unanswered.code(),
    }
}

/// The highest paranoia level there is.
const LEVELS: std::ops::RangeInclusive<u8> = 1..=4;

fn answer(question: &Question) -> Result<Answer, Unanswered> {
    let mut asked = match question.request.as_slice() {
        [method, url] => request::compose(method, url, &question.headers, question.data.as_deref())?,
        [file] if question.headers.is_empty() && question.data.is_none() => request::from_file(file)?,
        _ => return Err(cannot("-H and -d go with a method and a URL; a file says everything itself")),
    };
    let compiled = question.rules.compiled()?;
    let (route, guard) = match &compiled {
        Some(compiled) if question.rules.waf.is_none() => {
            let view = waf_of(compiled, &route_question(&asked, question.from)).map_err(cannot)?;
            let Some(guard) = view.guard else {
                return Err(cannot(format!("route {} takes this request, and no rule set looks at it", view.route)));
            };
            asked.drop_fields(view.dropped);
            (Some(view.route), guard)
        }
        compiled => (None, question.rules.guard(compiled.as_ref())?),
    };
    let at = |level: Option<u8>| {
        let guard = guard.with(|wanted| {
            wanted.mode = Some(EngineMode::On);
            if let Some(level) = level {
                (wanted.paranoia, wanted.detection_paranoia) = (Some(level), None);
            }
        });
        guard.map_err(|errors| cannot(format!("{errors:?}")))
    };
    let (head, target, body) = (&asked.head, asked.target.as_bytes(), asked.body.as_slice());
    let audit = at(question.paranoia)?.judge(connection(question.from), head, target, body);
    let mut passes_at = Vec::new();
    for level in LEVELS {
        if !at(Some(level))?.objects(connection(question.from), head, target, body) {
            passes_at.push(level);
        }
    }
    Ok(Answer::new(question, &asked, route, &guard, audit, passes_at))
}

fn route_question(asked: &Asked, from: IpAddr) -> RouteQuestion {
    RouteQuestion { method: asked.head.method.to_string(), url: asked.url.clone(), headers: asked.header_lines(), from }
}

fn connection(from: IpAddr) -> Connection {
    Connection {
        client: from,
        client_port: 40_000,
        server: IpAddr::V4(Ipv4Addr::LOCALHOST),
        server_port: 443,
        unique_id: "explain".to_owned(),
        now: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
    }
}

/// Everything there is to say.
#[derive(Serialize)]
struct Answer {
    method: String,
    url: String,
    notes: Vec<&'static str>,
    route: Option<String>,
    rule_set: String,
    /// `detect` writes down what `block` would refuse.
    mode: &'static str,
    paranoia: Option<u8>,
    refused: Option<Refused>,
    /// Levels at which nothing refuses this request.
    passes_at_paranoia: Vec<u8>,
    scores: Vec<(String, i64)>,
    categories: BTreeMap<String, i64>,
    matches: Vec<Match>,
    near_misses: Vec<NearMiss>,
    /// Rules that exclusions or other rules took out.
    removed: Vec<u32>,
    /// Exclusions that applied, with their reasons.
    exclusions: Vec<String>,
    cut: Vec<String>,
    /// Rules that ran, and those that the prefilter spared.
    ran: usize,
    spared: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<RuleTrace>,
}

#[derive(Serialize)]
struct Refused {
    status: u16,
    phase: portcullis_waf::Phase,
    why: String,
}

#[derive(Serialize)]
struct Match {
    id: u32,
    score: i64,
    message: String,
    place: String,
    tags: Vec<String>,
    found: Vec<(String, String)>,
}

#[derive(Serialize)]
struct NearMiss {
    id: u32,
    message: String,
    place: String,
    /// Of its conditions, how many held.
    held: usize,
    conditions: usize,
    by: String,
    value: String,
}

impl Answer {
    fn new(
        question: &Question,
        asked: &Asked,
        route: Option<String>,
        guard: &WafGuard,
        audit: Audit,
        passes_at_paranoia: Vec<u8>,
    ) -> Self {
        let matches: Vec<Match> = audit.matches.iter().map(Match::new).collect();
        let mut categories: BTreeMap<String, i64> = BTreeMap::new();
        for matched in matches.iter().filter(|matched| matched.score != 0) {
            let is_category = |tag: &&String| tag.starts_with("class/") || tag.starts_with("attack-");
            let category = matched.tags.iter().find(is_category).map_or("other", String::as_str);
            *categories.entry(category.to_owned()).or_default() += matched.score;
        }
        let count = |outcome| audit.trace.iter().filter(|rule| rule.outcome == outcome).count();
        let reasons = audit.exclusions.iter().filter_map(|number| guard.wanted.exclusions.get(*number));
        Self {
            method: asked.head.method.to_string(),
            url: asked.url.clone(),
            notes: asked.notes.clone(),
            route,
            rule_set: guard.name.clone(),
            mode: if guard.wanted.mode == Some(EngineMode::DetectionOnly) { "detect" } else { "block" },
            paranoia: question.paranoia.or(guard.wanted.paranoia),
            refused: audit.intervention.as_ref().map(|intervention| Refused::new(intervention, &audit)),
            passes_at_paranoia,
            scores: audit.scores.iter().filter(|(name, score)| *score != 0 && !is_weight(name)).cloned().collect(),
            categories,
            near_misses: near_misses(&audit),
            removed: audit
                .trace
                .iter()
                .filter(|rule| rule.outcome == TraceOutcome::Removed)
                .map(|rule| rule.rule)
                .collect(),
            exclusions: reasons.map(|exclusion| exclusion.reason.clone()).collect(),
            cut: audit.cut.iter().map(|cut| serde_json::to_string(cut).unwrap_or_default().replace('"', "")).collect(),
            ran: count(TraceOutcome::Matched) + count(TraceOutcome::NotMatched),
            spared: count(TraceOutcome::RuledOut),
            rule: question.rule.and_then(|id| audit.trace.iter().find(|rule| rule.rule == id).cloned()),
            matches,
        }
    }
}

/// What the Core Rule Set gives for a match of each severity.
fn is_weight(name: &str) -> bool {
    let severity = name.strip_suffix("_anomaly_score");
    severity.is_some_and(|severity| matches!(severity, "critical" | "error" | "warning" | "notice"))
}

impl Refused {
    fn new(intervention: &portcullis_waf::Intervention, audit: &Audit) -> Self {
        let status = match intervention.response {
            Response::Deny { status } | Response::Redirect { status, .. } => status,
            Response::Drop => 403,
        };
        let why = match &intervention.cause {
            Cause::Rule(id) => {
                let message = audit.matches.iter().rev().find(|matched| matched.id == *id);
                format!("rule {id}: {}", message.map_or("", |matched| matched.message.as_str()))
            }
            Cause::RequestBodyLimit => "the body is larger than the rule set allows".to_owned(),
            Cause::ResponseBodyLimit => "the response is larger than the rule set allows".to_owned(),
            Cause::Work => "it costs more to look at than its size earns".to_owned(),
        };
        Self { status, phase: intervention.phase, why }
    }
}

impl Match {
    fn new(matched: &portcullis_waf::RuleMatch) -> Self {
        let found = matched
            .findings
            .iter()
            .map(|finding| (finding.variable.clone(), String::from_utf8_lossy(&finding.excerpt).into_owned()));
        Self {
            id: matched.id,
            score: matched.score,
            message: matched.message.clone(),
            place: matched.place.clone(),
            tags: matched.tags.iter().map(ToString::to_string).collect(),
            found: found.collect(),
        }
    }
}

/// Near misses shown; a large rule set has hundreds of rules whose first condition any request fulfils.
const NEAR_MISSES: usize = 8;

/// Conditions that say nothing about what was sent: the method, the protocol, the rules' own notes.
const IDLE: [&str; 5] = ["REQUEST_METHOD", "REQUEST_PROTOCOL", "TX", "REQBODY_PROCESSOR", "IP"];

fn near_misses(audit: &Audit) -> Vec<NearMiss> {
    let mut near: Vec<_> = audit
        .near_misses()
        .filter_map(|rule| {
            let telling = |test: &&portcullis_waf::TestTrace| {
                test.matched && !IDLE.contains(&test.variable.split(':').next().unwrap_or_default())
            };
            let last = rule.tests.iter().filter(telling).max_by_key(|test| test.link)?;
            Some(NearMiss {
                id: rule.rule,
                message: rule.message.clone(),
                place: rule.place.clone(),
                held: last.link + 1,
                conditions: rule.links,
                by: last.variable.clone(),
                value: last.value.clone(),
            })
        })
        .filter(|near| near.held < near.conditions && !near.message.is_empty())
        .collect();
    // The ones that came closest first.
    near.sort_by_key(|near| (near.conditions - near.held, near.id));
    near.truncate(NEAR_MISSES);
    near
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "request    {} {}", self.method, self.url)?;
        self.notes.iter().try_for_each(|note| writeln!(f, "           note: {note}"))?;
        let route = self.route.as_ref().map_or_else(String::new, |route| format!("route {route}, "));
        let paranoia = self.paranoia.map_or_else(String::new, |level| format!(", paranoia {level}"));
        writeln!(f, "rules      {route}rule set {}, mode {}{paranoia}", self.rule_set, self.mode)?;
        match (&self.refused, self.mode) {
            (None, _) => writeln!(f, "decision   passes")?,
            (Some(refused), "detect") => {
                writeln!(
                    f,
                    "decision   passes, as nothing is refused in detect; block would answer {}",
                    refused.status
                )?;
            }
            (Some(refused), _) => writeln!(f, "decision   refused with {}", refused.status)?,
        }
        if let Some(refused) = &self.refused {
            writeln!(f, "           by {}", refused.why)?;
        }
        writeln!(f, "           passes at paranoia {}", levels(&self.passes_at_paranoia))?;
        self.scores.iter().try_for_each(|(name, score)| writeln!(f, "score      {score:>4}  {name}"))?;
        self.categories.iter().try_for_each(|(name, score)| writeln!(f, "category   {score:>4}  {name}"))?;
        for matched in &self.matches {
            writeln!(f, "match      {:>+4}  {} {}", matched.score, matched.id, matched.message)?;
            writeln!(f, "                 {}", matched.place)?;
            for (variable, value) in &matched.found {
                writeln!(f, "                 {variable} = {}", shown(value))?;
            }
        }
        for near in &self.near_misses {
            writeln!(f, "near miss  {} of {}  {} {}", near.held, near.conditions, near.id, near.message)?;
            writeln!(f, "                 {} = {}", near.by, shown(&near.value))?;
        }
        self.exclusions.iter().try_for_each(|reason| writeln!(f, "exclusion  {reason}"))?;
        if !self.removed.is_empty() {
            writeln!(f, "removed    {:?}", self.removed)?;
        }
        self.cut.iter().try_for_each(|cut| writeln!(f, "not seen   {cut}"))?;
        writeln!(f, "rules run  {}, and {} that the prefilter spared", self.ran, self.spared)?;
        self.rule.iter().try_for_each(|rule| write_trace(f, rule))
    }
}

fn levels(levels: &[u8]) -> String {
    match levels {
        [] => "1 to 4: at none of them".to_owned(),
        levels => levels.iter().map(u8::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn write_trace(f: &mut fmt::Formatter<'_>, rule: &RuleTrace) -> fmt::Result {
    let outcome = match rule.outcome {
        TraceOutcome::Matched => "matched",
        TraceOutcome::NotMatched => "did not match",
        TraceOutcome::Removed => "was taken out by an exclusion or another rule",
        TraceOutcome::RuledOut => "was spared: nothing in the request can match it",
    };
    writeln!(f, "rule {} {} {}: {outcome}", rule.rule, rule.place, rule.message)?;
    for test in &rule.tests {
        let verdict = if test.matched { "yes" } else { "no " };
        writeln!(f, "  {verdict}  condition {}  {} = {}", test.link + 1, test.variable, shown(&test.value))?;
    }
    if rule.more > 0 {
        writeln!(f, "  and {} tests more", rule.more)?;
    }
    Ok(())
}

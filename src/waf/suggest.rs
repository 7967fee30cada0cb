//! `portcullis waf suggest`: from audit lines to the narrowest exclusions that would have kept them from being written.
//!
//! It proposes and changes nothing: whether a match was a mistake of the rules only somebody who knows the site can tell.

use super::{RuleChoice, Unanswered, cannot, shown};
use anyhow::{Context, Result};
use clap::Args;
use portcullis_waf::{ExcludedRules, ExclusionSpec, ProfileSpec};
use serde::{Deserialize, de::IgnoredAny};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt::Write,
    io::{BufRead, BufReader},
    net::IpAddr,
    path::PathBuf,
    process::ExitCode,
};

#[derive(Debug, Args)]
pub(crate) struct Wish {
    /// Files of audit lines (`telemetry.audit_log`); `-` is standard input.
    #[arg(long, required = true, num_args = 1..)]
    from: Vec<PathBuf>,
    /// Only for this route, or this rule of a route like shop/api.
    #[arg(long)]
    route: Option<String>,
    /// Only for these rules.
    #[arg(long, num_args = 1..)]
    rule: Vec<u32>,
    /// A match has to come from so many clients.
    #[arg(long, default_value_t = 1)]
    min_clients: usize,
    /// And so many times.
    #[arg(long, default_value_t = 1)]
    min_requests: u64,
    /// A client that matched more different rules than this is taken for an attacker, and proves nothing.
    #[arg(long, default_value_t = 8)]
    hostile_rules: usize,
    #[command(flatten)]
    rules: RuleChoice,
}

pub(super) fn suggest(wish: &Wish) -> Result<ExitCode> {
    match answer(wish) {
        Ok(text) => {
            print!("{text}");
            Ok(ExitCode::SUCCESS)
        }
        Err(unanswered) => unanswered.code(),
    }
}

fn answer(wish: &Wish) -> Result<String, Unanswered> {
    let mut log = Log::default();
    for file in &wish.from {
        let reader: Box<dyn BufRead> = if file.as_os_str() == "-" {
            Box::new(std::io::stdin().lock())
        } else {
            let opened = std::fs::File::open(file).with_context(|| format!("{} cannot be read", file.display()))?;
            Box::new(BufReader::new(opened))
        };
        for line in reader.lines() {
            let line = line.with_context(|| format!("{} cannot be read", file.display()))?;
            log.take(&line);
        }
    }
    if log.lines == 0 {
        return Err(cannot("there is no audit line"));
    }
    let proposals = log.proposals(wish);
    if !wish.rules.is_given() {
        return Ok(write(&log, &proposals));
    }
    let compiled = wish.rules.compiled()?;
    let guard = wish.rules.guard(compiled.as_ref())?;
    let spec = ProfileSpec { exclusions: proposals.iter().map(Proposal::spec).collect(), ..ProfileSpec::default() };
    match guard.waf.profile(&spec) {
        Ok(_) => Ok(write(&log, &proposals)),
        Err(errors) => Err(cannot(format!(
            "the lines were not written by these rules: {}",
            errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        ))),
    }
}

/// What of an audit line is of interest.
#[derive(Deserialize)]
struct Line {
    time: String,
    client: IpAddr,
    method: String,
    path: String,
    route: Option<String>,
    audit: Audit,
    shadow: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Audit {
    matches: Vec<Match>,
}

#[derive(Deserialize)]
struct Match {
    id: u32,
    message: String,
    findings: Vec<Finding>,
}

#[derive(Deserialize)]
struct Finding {
    variable: String,
    excerpt: String,
}

/// All lines, by what an exclusion could be about.
#[derive(Default)]
struct Log {
    lines: u64,
    unreadable: u64,
    /// Matches that no exclusion is proposed for, by why.
    passed_over: BTreeMap<&'static str, BTreeSet<u32>>,
    /// Rules matched by each client.
    by_client: HashMap<IpAddr, HashSet<u32>>,
    groups: BTreeMap<Group, Vec<Seen>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    route: String,
    rule: u32,
    target: String,
}

struct Seen {
    time: String,
    client: IpAddr,
    method: String,
    path: String,
    message: String,
    excerpt: String,
}

/// Lines kept of one group; more of the same teach nothing.
const KEPT: usize = 10_000;

impl Log {
    fn take(&mut self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        self.lines += 1;
        let line = match serde_json::from_str::<Line>(line) {
            // What only looked on refused nobody.
            Ok(line) if line.shadow.is_some() => return,
            Ok(line) => line,
            Err(_) => {
                self.unreadable += 1;
                return;
            }
        };
        for matched in &line.audit.matches {
            self.by_client.entry(line.client).or_default().insert(matched.id);
            for finding in &matched.findings {
                self.finding(&line, matched, finding);
            }
        }
    }

    fn finding(&mut self, line: &Line, matched: &Match, finding: &Finding) {
        let target = match target(&finding.variable) {
            Ok(target) => target,
            Err(why) => {
                self.passed_over.entry(why).or_default().insert(matched.id);
                return;
            }
        };
        let Some(route) = &line.route else { return };
        let group = Group { route: route.clone(), rule: matched.id, target };
        let seen = self.groups.entry(group).or_default();
        if seen.len() < KEPT {
            seen.push(Seen {
                time: line.time.clone(),
                client: line.client,
                method: line.method.clone(),
                path: line.path.clone(),
                message: matched.message.clone(),
                excerpt: finding.excerpt.clone(),
            });
        }
    }

    fn hostile(&self, client: IpAddr, most: usize) -> bool {
        self.by_client.get(&client).is_some_and(|rules| rules.len() > most)
    }

    fn proposals(&self, wish: &Wish) -> Vec<Proposal> {
        let wanted = |group: &Group| {
            wish.route.as_ref().is_none_or(|route| *route == group.route)
                && (wish.rule.is_empty() || wish.rule.contains(&group.rule))
        };
        let mut proposals: Vec<Proposal> = Vec::new();
        for (group, seen) in self.groups.iter().filter(|(group, _)| wanted(group)) {
            let share = if seen.len() < KEPT { Share::All } else { Share::TheFirst };
            let mut by_path: BTreeMap<String, Vec<&Seen>> = BTreeMap::new();
            let harmless = seen.iter().filter(|seen| !self.hostile(seen.client, wish.hostile_rules));
            harmless.for_each(|seen| by_path.entry(seen.path.clone()).or_default().push(seen));
            for (path, seen) in merged(by_path) {
                let clients: BTreeSet<IpAddr> = seen.iter().map(|seen| seen.client).collect();
                if clients.len() >= wish.min_clients && seen.len() as u64 >= wish.min_requests {
                    proposals.push(Proposal::new(group.clone(), path, &seen, clients.len(), share));
                }
            }
        }
        // By route, for each is a table; what was seen most often first.
        proposals.sort_by(|a, b| (&a.group.route, b.requests, &a.group).cmp(&(&b.group.route, a.requests, &b.group)));
        proposals
    }
}

/// What an exclusion would name, from the variable that a match names; the error says why there is none.
fn target(variable: &str) -> Result<String, &'static str> {
    // A chain's last link looks again at what its head found.
    let variable = variable.strip_prefix("MATCHED_VARS:").or(variable.strip_prefix("MATCHED_VAR:")).unwrap_or(variable);
    let (collection, member) = match variable.split_once(':') {
        Some((collection, member)) => (collection, Some(member)),
        None => (variable, None),
    };
    if matches!(collection, "TX" | "IP" | "GLOBAL" | "SESSION" | "MATCHED_VAR" | "MATCHED_VAR_NAME" | "DURATION" | "") {
        return Err("they look at what other rules noted: look at those");
    }
    let Some(member) = member else { return Ok(collection.to_owned()) };
    // Names are the client's: one that could be read as anything but a name is not put into a configuration.
    let plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | '.' | '[' | ']');
    if collection == "XML" {
        return Ok(variable.to_owned());
    }
    if member.is_empty() || member.len() > 100 || !member.chars().all(plain) {
        return Err("their argument's name is not a plain one");
    }
    if !member.split('.').any(is_number) {
        return Ok(variable.to_owned());
    }
    // Places in a list: all of them.
    let parts = member.split('.').map(|part| if is_number(part) { "[0-9]+".to_owned() } else { escaped(part) });
    Ok(format!("{collection}:/^{}$/", parts.collect::<Vec<_>>().join("\\.")))
}

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
}

fn escaped(part: &str) -> String {
    part.replace('[', "\\[").replace(']', "\\]").replace('-', "\\-")
}

/// Paths that differ in one place only, from this many on, are one pattern with a star there.
const ALIKE: usize = 3;

/// Paths that are alike become one with `*`, where numbers, ids and names stand.
fn merged(paths: BTreeMap<String, Vec<&Seen>>) -> Vec<(String, Vec<&Seen>)> {
    let mut exact: Vec<(String, Vec<&Seen>)> = Vec::new();
    let mut starred: BTreeMap<String, Vec<(String, Vec<&Seen>)>> = BTreeMap::new();
    for (path, seen) in paths {
        let identified = |part: &str| if is_id(part) { "*".to_owned() } else { part.to_owned() };
        let pattern = path.split('/').map(identified).collect::<Vec<_>>().join("/");
        starred.entry(pattern).or_default().push((path, seen));
    }
    for (pattern, group) in starred {
        if group.len() < ALIKE && pattern.contains('*') {
            exact.extend(group);
        } else {
            exact.push((pattern, group.into_iter().flat_map(|(_, seen)| seen).collect()));
        }
    }
    // What is left and has one parent folder in common: pages with names.
    let mut folders: BTreeMap<String, Vec<(String, Vec<&Seen>)>> = BTreeMap::new();
    for (path, seen) in exact {
        let folder = path.rfind('/').and_then(|at| path.get(..=at)).unwrap_or("/").to_owned();
        folders.entry(folder).or_default().push((path, seen));
    }
    let mut all = Vec::new();
    for (folder, group) in folders {
        if group.len() < ALIKE || folder == "/" {
            all.extend(group);
        } else {
            all.push((format!("{folder}*"), group.into_iter().flat_map(|(_, seen)| seen).collect()));
        }
    }
    all
}

/// Numbers, UUIDs, hashes: what stands for one of many.
fn is_id(part: &str) -> bool {
    is_number(part) || (part.len() >= 16 && part.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-'))
}

/// How many lines of a group a proposal was made from.
#[derive(Clone, Copy)]
enum Share {
    All,
    TheFirst,
}

struct Proposal {
    group: Group,
    path: String,
    methods: BTreeSet<String>,
    requests: u64,
    share: Share,
    clients: usize,
    message: String,
    excerpt: String,
    first: String,
    last: String,
}

impl Proposal {
    fn new(group: Group, path: String, seen: &[&Seen], clients: usize, share: Share) -> Self {
        let times = || seen.iter().map(|seen| seen.time.as_str());
        let example = seen.last();
        Self {
            group,
            path,
            methods: seen.iter().map(|seen| seen.method.clone()).collect(),
            requests: seen.len() as u64,
            share,
            clients,
            message: example.map_or_else(String::new, |seen| seen.message.clone()),
            excerpt: example.map_or_else(String::new, |seen| seen.excerpt.clone()),
            first: times().min().unwrap_or_default().to_owned(),
            last: times().max().unwrap_or_default().to_owned(),
        }
    }

    fn reason(&self) -> String {
        let day = |time: &str| time.get(..10).unwrap_or(time).to_owned();
        let of = match self.share {
            Share::All => String::new(),
            Share::TheFirst => format!(" of the first {KEPT}"),
        };
        let (first, last) = (day(&self.first), day(&self.last));
        format!("{}{of} requests from {} clients, {first} to {last}", self.requests, self.clients)
    }

    fn spec(&self) -> ExclusionSpec {
        ExclusionSpec {
            rules: ExcludedRules::Ids(self.group.rule.to_string()),
            target: Some(self.group.target.clone()),
            path: Some(self.path.clone()),
            methods: self.methods.iter().cloned().collect(),
            expires: None,
            reason: self.reason(),
        }
    }
}

fn write(log: &Log, proposals: &[Proposal]) -> String {
    let mut text = format!(
        "# From {} audit lines. Each of these lets something pass: keep those that were mistakes.\n",
        log.lines
    );
    if log.unreadable > 0 {
        let _ = writeln!(text, "# {} lines could not be read.", log.unreadable);
    }
    let mut route = None;
    for proposal in proposals {
        if route != Some(&proposal.group.route) {
            if route.is_some() {
                text.push_str("]\n");
            }
            route = Some(&proposal.group.route);
            let _ = write!(text, "\n[{}]\nexclude = [\n", table(&proposal.group.route));
        }
        let methods: Vec<String> = proposal.methods.iter().map(|method| quoted(method)).collect();
        let _ = writeln!(text, "  # {}: {}", proposal.group.rule, shown(&proposal.message));
        let _ = writeln!(text, "  # {} was {}", proposal.group.target, shown(&proposal.excerpt));
        let _ = writeln!(
            text,
            "  {{ rule = \"{}\", target = {}, path = {}, methods = [{}], reason = {} }},",
            proposal.group.rule,
            quoted(&proposal.group.target),
            quoted(&proposal.path),
            methods.join(", "),
            quoted(&proposal.reason())
        );
    }
    text.push_str(if route.is_some() { "]\n" } else { "# Nothing to propose.\n" });
    for (why, rules) in &log.passed_over {
        let rules: Vec<String> = rules.iter().map(u32::to_string).collect();
        let _ = writeln!(text, "# Nothing for rules {}: {why}.", rules.join(", "));
    }
    text
}

/// `shop/api` is a rule of a route.
fn table(route: &str) -> String {
    match route.split_once('/') {
        Some((route, rule)) => format!("route.{route}.rule.{rule}.waf"),
        None => format!("route.{route}.waf"),
    }
}

/// A basic string of TOML: what a client sent stays within it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            char if char.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(char));
            }
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_what_an_exclusion_can_name() {
        for (variable, expected) in [
            ("ARGS:q", Some("ARGS:q")),
            ("MATCHED_VARS:ARGS:q", Some("ARGS:q")),
            ("REQUEST_URI", Some("REQUEST_URI")),
            ("REQUEST_COOKIES:a_b-c", Some("REQUEST_COOKIES:a_b-c")),
            ("ARGS:json.items.17.text", Some("ARGS:/^json\\.items\\.[0-9]+\\.text$/")),
            ("TX:blocking_inbound_anomaly_score", None),
            ("ARGS:a|b", None),
            ("ARGS:\"", None),
        ] {
            assert_eq!(target(variable).ok().as_deref(), expected, "{variable}");
        }
    }

    #[test]
    fn paths_that_are_alike_are_one() {
        for (paths, expected) in [
            (&["/a"][..], &["/a"][..]),
            (&["/a/1/b"], &["/a/1/b"]),
            (&["/a/1/b", "/a/2/b", "/a/3/b"], &["/a/*/b"]),
            (&["/a", "/b", "/c", "/d"], &["/a", "/b", "/c", "/d"]),
            (&["/blog/x", "/blog/y", "/blog/z", "/c"], &["/c", "/blog/*"]),
        ] {
            let seen = paths.iter().map(|path| ((*path).to_owned(), Vec::new())).collect();
            let found: Vec<String> = merged(seen).into_iter().map(|(path, _)| path).collect();
            assert_eq!(found, expected, "{paths:?}");
        }
    }

    #[test]
    fn what_clients_sent_stays_within_its_quotes() {
        assert_eq!(quoted("a\"]\n#\\"), "\"a\\\"]\\u000A#\\\\\"");
    }
}

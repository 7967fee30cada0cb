//! `portcullis gslb …`: what an operator sees of DNS, and orders over it.

use crate::{
    cli::{AdminSocket, FAILED, Format, GslbCommand, GslbOrder, GslbState, GslbWord, KeyAlgorithm},
    command::{ask, call, refused},
    gslb_parent,
};
use anyhow::{Context, Result, anyhow};
use portcullis_gateway::{DnsQuestion, check};
use portcullis_gslb::{Algorithm, SKEW_SHOWN, generate_key};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fmt::Write,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write as _},
    net::{IpAddr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

pub(crate) fn gslb(what: GslbCommand) -> Result<ExitCode> {
    match what {
        GslbCommand::Status { format, admin } => ask(&admin, "GET", "/gslb", &Value::Null, |answer| match format {
            Format::Json => format!("{answer:#}\n"),
            Format::Text => status(answer),
        }),
        GslbCommand::Explain { name, from, subnet, down, files, format, admin } => {
            let question = json!({ "name": name, "from": from, "subnet": subnet, "down": down });
            explain(&question, &files, format, &admin)
        }
        GslbCommand::Delegate { zone, parent, files, admin } => delegate(&zone, parent, &files, &admin),
        GslbCommand::Replay { log, files, format, admin } => replay(&log, &files, format, &admin),
        GslbCommand::Key { file, algorithm } => make_key(&file, algorithm),
        GslbCommand::Drain(order) => one("drain", &order),
        GslbCommand::Disable(order) => one("down", &order),
        GslbCommand::Force { state: GslbState::Up, order } => one("up", &order),
        GslbCommand::Force { state: GslbState::Down, order } => one("down", &order),
        GslbCommand::SiteOff { site, word } => say("down", &json!({ "site": site }), &word),
    }
}

fn one(forced: &str, order: &GslbOrder) -> Result<ExitCode> {
    let target = json!({ "service": order.service, "site": order.site, "member": order.member });
    say(forced, &target, &order.word)
}

fn say(forced: &str, target: &Value, word: &GslbWord) -> Result<ExitCode> {
    let author = word.author.clone().unwrap_or_else(logged_in);
    if word.undo {
        let body = json!({ "target": target, "author": author });
        return ask(&word.admin, "POST", "/gslb/withdraw", &body, |answer| {
            let each = list(&answer["withdrawn"])
                .into_iter()
                .map(|target| format!("{}: as its health says\n", place(&target)));
            each.collect()
        });
    }
    let body = json!({
        "target": target,
        "forced": forced,
        "author": author,
        "reason": word.why,
        "for": word.span,
        "after": word.after,
    });
    ask(&word.admin, "POST", "/gslb/order", &body, |answer| list(&answer["orders"]).iter().map(order_line).collect())
}

/// The name that the shell has for whoever sits there; without one, the number that the kernel has.
fn logged_in() -> String {
    let mut names = ["SUDO_USER", "USER", "LOGNAME"].into_iter().filter_map(|name| std::env::var(name).ok());
    names.find(|name| !name.is_empty()).unwrap_or_else(|| {
        let uid = std::fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own));
        uid.map_or_else(|_| "unknown".to_owned(), |uid| format!("uid {uid}"))
    })
}

fn status(answer: &Value) -> String {
    let mut text = String::new();
    for zone in list(&answer["zones"]) {
        let signed = if zone["signed"] == true { ", signed" } else { "" };
        let name = word(&zone["name"]);
        let copy = match zone["holds_for_seconds"].as_u64() {
            None => String::new(),
            Some(0) => ", NOT ANSWERED: no primary gives it".to_owned(),
            Some(seconds) => format!(", fetched, holds for {seconds} s"),
        };
        let _ = writeln!(text, "zone {name} serial {}, {} names{signed}{copy}", zone["serial"], zone["names"]);
    }
    for site in list(&answer["sites"]) {
        let fit = if site["fit"] == true { "serves" } else { "OUT" };
        let forced = site["forced"].as_str().map_or_else(String::new, |forced| format!(", ordered {forced}"));
        let planned = site["maintenance"].as_str().map_or_else(String::new, |why| format!(", in maintenance ({why})"));
        let lacks = if site["lacks"] == true { ", a service that it needs is out" } else { "" };
        let load = site["load"].as_u64().map_or_else(String::new, |load| {
            format!(", load {}%, keeps {}% of its clients", load / 10, site["load_share"].as_u64().unwrap_or(0) / 10)
        });
        let mood = match site["mood"].as_str() {
            Some("held") => ", too many fell at once: health is not believed",
            Some(_) => ", all sites are down",
            None => "",
        };
        let _ = writeln!(
            text,
            "service {} ({}) site {}: {fit}, {} of {} members{forced}{planned}{lacks}{load}{mood}",
            word(&site["service"]),
            word(&site["host"]),
            word(&site["site"]),
            site["up"],
            site["members"]
        );
        let own = list(&answer["members"]);
        for member in own.iter().filter(|m| m["service"] == site["service"] && m["site"] == site["site"]) {
            text.push_str(&member_line(member));
        }
    }
    text.push_str(&fleet(&answer["fleet"]));
    for order in list(&answer["orders"]) {
        text.push_str(&order_line(&order));
    }
    if text.is_empty() { "no zones and no published services\n".to_owned() } else { text }
}

fn member_line(member: &Value) -> String {
    let why = member["reason"].as_str().filter(|_| member["state"] != "Up" && member["state"] != "up");
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    let share = member["share"].as_u64().unwrap_or(0) / 10;
    let state = word(&member["state"]).to_lowercase();
    let votes = member["votes"].as_object().map_or_else(String::new, |votes| {
        format!(
            " (down by {} of {}, {}; here {})",
            votes["down"],
            votes["of"],
            word(&votes["why"]),
            word(&votes["own"])
        )
    });
    format!("    {} {state} for {} s, share {share}%{why}{votes}\n", word(&member["member"]), member["for_seconds"])
}

fn fleet(fleet: &Value) -> String {
    let mut text = String::new();
    if fleet.is_null() {
        return text;
    }
    let alone =
        if fleet["isolated"] == true { ", ISOLATED: too few nodes are heard, its own checks alone count" } else { "" };
    let blind = if fleet["sight"] == "blind" { ", BLIND: all that it checks fell at once" } else { "" };
    let _ = writeln!(text, "node {} at site {}{alone}{blind}", word(&fleet["node"]), word(&fleet["site"]));
    for peer in list(&fleet["peers"]) {
        let heard =
            peer["heard_seconds_ago"].as_u64().map_or_else(|| "never heard".to_owned(), |s| format!("heard {s} s ago"));
        let skew = peer["skew_seconds"].as_i64().unwrap_or(0);
        let skew =
            if skew.unsigned_abs() > SKEW_SHOWN { format!(", ITS CLOCK IS {skew} s AHEAD") } else { String::new() };
        let config = if peer["config_differs"] == true { ", OTHER ZONES OR SERVICES" } else { "" };
        let draining = if peer["gateway"]["presence"] == "draining" { ", draining" } else { "" };
        let (node, site, state) = (word(&peer["node"]), word(&peer["site"]), word(&peer["state"]));
        let _ = writeln!(text, "    peer {node} at site {site}: {state}, {heard}{skew}{config}{draining}");
    }
    text
}

fn order_line(order: &Value) -> String {
    format!(
        "order: {} {} from {} until {} (seconds since 1970), by {}: {}\n",
        place(&order["target"]),
        word(&order["forced"]),
        order["from"],
        order["until"],
        word(&order["author"]),
        word(&order["reason"])
    )
}

fn place(target: &Value) -> String {
    let member = target["member"].as_str().map_or_else(String::new, |member| format!("/{member}"));
    format!("{}/{}{member}", word(&target["service"]), word(&target["site"]))
}

fn explain(question: &Value, files: &[PathBuf], format: Format, admin: &AdminSocket) -> Result<ExitCode> {
    let show = |explanation: &Value| match format {
        Format::Json => format!("{explanation:#}\n"),
        Format::Text => explanation_text(explanation),
    };
    if files.is_empty() {
        return ask(admin, "POST", "/gslb/explain", question, |answer| show(&answer["explanation"]));
    }
    let question: DnsQuestion = serde_json::from_value(question.clone())?;
    let compiled = match check(files) {
        Ok(compiled) => compiled,
        Err(report) => return Ok(refused(&report)),
    };
    Ok(finish(compiled.explain_dns(&question), |explanation| show(&json!(explanation))))
}

fn finish<T>(outcome: Result<T, String>, show: impl Fn(&T) -> String) -> ExitCode {
    match outcome {
        Ok(value) => {
            print!("{}", show(&value));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn explanation_text(explanation: &Value) -> String {
    let mut text = format!("service {}\n", word(&explanation["service"]));
    for step in list(&explanation["steps"]) {
        let _ = writeln!(text, "  {}", word(&step));
    }
    let addresses = list(&explanation["ipv4"]).into_iter().chain(list(&explanation["ipv6"]));
    let addresses: Vec<_> = addresses.map(|address| word(&address).to_owned()).collect();
    let answer = match explanation["cname"].as_str() {
        Some(cname) => format!("CNAME {cname}"),
        None if explanation["refused"] == true => "REFUSED".to_owned(),
        None if addresses.is_empty() => "no address".to_owned(),
        None => addresses.join(" "),
    };
    let site = explanation["site"].as_str().map_or_else(String::new, |site| format!("site {site}: "));
    let _ = writeln!(text, "{site}{answer}, ttl {}, for /{} of the client", explanation["ttl"], explanation["scope"]);
    text
}

fn delegate(zone: &str, parent: Option<SocketAddr>, files: &[PathBuf], admin: &AdminSocket) -> Result<ExitCode> {
    let delegation = if files.is_empty() {
        let (status, answer) = call(admin, "POST", "/gslb/delegation", &json!({ "zone": zone }))?;
        if status != 200 {
            return Err(anyhow!("{}", answer["error"].as_str().unwrap_or("no answer of the admin socket")));
        }
        answer["delegation"].clone()
    } else {
        match check(files) {
            Ok(compiled) => json!(compiled.delegation(zone).map_err(|error| anyhow!(error))?),
            Err(report) => return Ok(refused(&report)),
        }
    };
    let lines = |key: &str| list(&delegation[key]).iter().map(|line| word(line).to_owned()).collect::<Vec<_>>();
    println!("; for the parent of {zone}");
    for line in ["ns", "glue", "ds"].into_iter().flat_map(lines) {
        println!("{line}");
    }
    for server in lines("missing") {
        eprintln!("error: {server} is a server inside the zone and has no address there: nobody will find it");
    }
    let Some(parent) = parent else { return Ok(ExitCode::SUCCESS) };
    let wanted: Vec<_> = ["ns", "glue", "ds"].into_iter().flat_map(lines).collect();
    let differences = gslb_parent::compare(zone, &wanted, parent)?;
    for difference in &differences {
        println!("{difference}");
    }
    if differences.is_empty() {
        println!("; {parent} has the same");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

fn make_key(file: &Path, algorithm: KeyAlgorithm) -> Result<ExitCode> {
    let algorithm = match algorithm {
        KeyAlgorithm::Ecdsap256 => Algorithm::EcdsaP256Sha256,
        KeyAlgorithm::Ed25519 => Algorithm::Ed25519,
    };
    let key = generate_key(algorithm)?;
    let failed = || format!("cannot write {}", file.display());
    // A key that is there may sign a zone: it is never written over.
    let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).with_context(failed)?;
    made.write_all(key.as_bytes()).with_context(failed)?;
    println!("wrote {}; `portcullis gslb delegate ZONE` prints the DS once a zone is signed with it", file.display());
    Ok(ExitCode::SUCCESS)
}

fn replay(log: &Path, files: &[PathBuf], format: Format, admin: &AdminSocket) -> Result<ExitCode> {
    let queries = gather(log)?;
    let files: Vec<_> = files.iter().map(|file| std::path::absolute(file).unwrap_or_else(|_| file.clone())).collect();
    let body = json!({ "files": files, "queries": queries });
    ask(admin, "POST", "/gslb/replay", &body, |answer| match format {
        Format::Json => format!("{:#}\n", answer["replay"]),
        Format::Text => replay_text(&answer["replay"]),
    })
}

/// Like queries of a log, counted. Lines that are no query are passed over: a log may be cut anywhere.
fn gather(log: &Path) -> Result<Vec<Value>> {
    let file = File::open(log).with_context(|| format!("cannot read {}", log.display()))?;
    let mut counted: HashMap<(String, IpAddr, Option<String>), u64> = HashMap::new();
    for line in BufReader::new(file).lines() {
        let Ok(line) = serde_json::from_str::<Value>(&line?) else { continue };
        let client = line["client"].as_str().and_then(|client| client.parse::<SocketAddr>().ok());
        let (Some(name), Some(client)) = (line["name"].as_str(), client) else { continue };
        let subnet = line["subnet"].as_str().map(str::to_owned);
        *counted.entry((name.to_owned(), client.ip(), subnet)).or_default() += 1;
    }
    let mut counted: Vec<_> = counted.into_iter().collect();
    // In a fixed order: two replays of a log say the same.
    counted.sort_unstable();
    let query = |((name, from, subnet), count)| json!({ "name": name, "from": from, "subnet": subnet, "count": count });
    Ok(counted.into_iter().map(query).collect())
}

fn replay_text(replay: &Value) -> String {
    let mut text = String::new();
    let count = |value: &Value| value.as_u64().unwrap_or(0);
    let sites = list(&replay["sites"]);
    for site in &sites {
        let all = |key: &str| {
            let own = sites.iter().filter(|other| other["service"] == site["service"]);
            own.map(|other| count(&other[key])).sum::<u64>().max(1)
        };
        let percent = |key: &str| count(&site[key]) as f64 * 100.0 / all(key) as f64;
        let (now, then) = (percent("now"), percent("then"));
        let _ = writeln!(
            text,
            "service {} site {}: {} queries ({now:.1}%) -> {} ({then:.1}%), {:+.1} points",
            word(&site["service"]),
            word(&site["site"]),
            site["now"],
            site["then"],
            then - now
        );
    }
    let (all, changed) = (count(&replay["queries"]), count(&replay["changed"]));
    let share = changed as f64 * 100.0 / all.max(1) as f64;
    let _ =
        writeln!(text, "{all} queries, {changed} go elsewhere ({share:.1}%), {} are for other names", replay["others"]);
    text
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

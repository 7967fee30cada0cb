//! Judges the gateway's own rules, `waf-rules/`: every rule by the examples above it, the set by two corpora.
//!
//! The corpora are grown here from the seeds in `waf-rules/corpus/`; how, its README says. Nothing is random: the same
//! seeds make the same requests.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis_waf::{Audit, Connection, Disk, EngineMode, Source, Waf};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../waf-rules")
}

fn waf() -> &'static Waf {
    static WAF: OnceLock<Waf> = OnceLock::new();
    WAF.get_or_init(|| {
        Waf::compile(&[Source::File(folder().join("*.conf"))], &Disk).unwrap_or_else(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            panic!("the rules do not compile:\n{}", lines.join("\n"))
        })
    })
}

/// A request, and the response if the rule looks at that.
#[derive(Debug, Clone)]
struct Exchange {
    method: String,
    uri: Vec<u8>,
    version: String,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    response: Option<Answer>,
}

#[derive(Debug, Clone)]
struct Answer {
    status: u16,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
}

impl Exchange {
    fn new(method: &str, uri: &[u8]) -> Self {
        let defaults = [("Host", "www.example.com"), ("User-Agent", BROWSER), ("Accept", "*/*")];
        let headers = defaults.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect();
        Self { method: method.to_owned(), uri: uri.to_vec(), version: "HTTP/1.1".to_owned(), headers, body: Vec::new(), response: None }
    }

    fn query(name: &str, value: &[u8]) -> Self {
        Self::new("GET", format!("/find?{name}={}", percent(value)).as_bytes())
    }

    fn with_body(content_type: &str, body: &[u8]) -> Self {
        let mut exchange = Self::new("POST", b"/submit").set("Content-Type", content_type.as_bytes());
        exchange = exchange.set("Content-Length", body.len().to_string().as_bytes());
        exchange.body = body.to_vec();
        exchange
    }

    fn form(name: &str, value: &[u8]) -> Self {
        Self::with_body(FORM, format!("{name}={}", percent(value)).as_bytes())
    }

    fn upload(file: &[u8]) -> Self {
        let head = b"--x\r\nContent-Disposition: form-data; name=\"f\"; filename=\"".as_slice();
        let body = [head, file, b"\"\r\nContent-Type: application/octet-stream\r\n\r\ndata\r\n--x--\r\n"].concat();
        Self::with_body("multipart/form-data; boundary=x", &body)
    }

    fn set(mut self, name: &str, value: &[u8]) -> Self {
        self.headers.retain(|(own, _)| !own.eq_ignore_ascii_case(name.as_bytes()));
        self.add(name, value)
    }

    fn add(mut self, name: &str, value: &[u8]) -> Self {
        self.headers.push((name.as_bytes().to_vec(), value.to_vec()));
        self
    }

    fn inspect(&self, mode: EngineMode, level: u8) -> Audit {
        let connection = Connection {
            client: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
            client_port: 40_000,
            server: IpAddr::V4(Ipv4Addr::LOCALHOST),
            server_port: 80,
            unique_id: "own".to_owned(),
            now: Duration::from_secs(1_700_000_000),
        };
        let mut transaction = waf().transaction(connection);
        transaction.set_mode(mode);
        transaction.set_tx("blocking_paranoia_level", &level.to_string());
        transaction.request_line(self.method.as_bytes(), &self.uri, self.version.as_bytes());
        for (name, value) in &self.headers {
            transaction.request_header(name, value);
        }
        transaction.request_headers_done();
        transaction.request_body_chunk(&self.body);
        transaction.request_body_done();
        if let Some(answer) = &self.response {
            transaction.response_line(answer.status, b"HTTP/1.1");
            for (name, value) in &answer.headers {
                transaction.response_header(name, value);
            }
            transaction.response_headers_done();
            transaction.response_body_chunk(&answer.body);
            transaction.response_body_done();
        }
        transaction.finish()
    }

    fn is_refused(&self, level: u8) -> bool {
        self.inspect(EngineMode::On, level).intervention.is_some()
    }

    fn show(&self) -> String {
        let head = format!("{} {}", self.method, self.uri.escape_ascii());
        let headers = self.headers.iter().skip(3).map(|(name, value)| format!(" | {}: {}", name.escape_ascii(), value.escape_ascii()));
        let body = if self.body.is_empty() { String::new() } else { format!(" || {}", self.body.escape_ascii()) };
        format!("{head}{}{body}", headers.collect::<String>())
    }
}

const BROWSER: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36";
const FORM: &str = "application/x-www-form-urlencoded";

/// As browsers encode a query.
fn percent(text: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.iter().map(|byte| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// `⟦0d0a⟧` stands for the bytes it spells.
fn spelled(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('⟦') {
        let (digits, tail) = after.split_once('⟧').unwrap();
        bytes.extend(before.bytes());
        bytes.extend((0..digits.len() / 2).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()));
        rest = tail;
    }
    bytes.extend(rest.bytes());
    bytes
}

/// Reads an example: a word for the place, then what stands there.
fn example(text: &str) -> Exchange {
    let (place, rest) = text.split_once(' ').unwrap_or((text, ""));
    let bytes = spelled(rest);
    let word_and_rest = || rest.split_once(' ').unwrap_or((rest, ""));
    match place {
        "arg" => Exchange::query("q", &bytes),
        "form" => Exchange::form("text", &bytes),
        "raw" => Exchange::with_body(FORM, &bytes),
        "uri" => Exchange::new("GET", &bytes),
        "version" => Exchange { version: rest.to_owned(), ..Exchange::new("GET", b"/") },
        "host" => Exchange::new("GET", b"/").set("Host", &bytes),
        "header" => {
            let (name, value) = rest.split_once(": ").unwrap_or((rest.trim_end_matches(':'), ""));
            Exchange::new("GET", b"/").set(&String::from_utf8(spelled(name)).unwrap(), &spelled(value))
        }
        "cookie" => Exchange::new("GET", b"/").set("Cookie", &bytes),
        "json" => Exchange::with_body("application/json", &bytes),
        "xml" => Exchange::with_body("application/xml", &bytes),
        "body" => {
            let (content_type, body) = match rest.strip_prefix("multipart/form-data; boundary=x ") {
                Some(body) => ("multipart/form-data; boundary=x", body),
                None => word_and_rest(),
            };
            Exchange::with_body(content_type, &spelled(body))
        }
        "file" => Exchange::upload(&bytes),
        "args" => {
            let args: Vec<String> = (0..rest.parse::<usize>().unwrap()).map(|at| format!("a{at}=1")).collect();
            Exchange::new("GET", format!("/?{}", args.join("&")).as_bytes())
        }
        "long" => Exchange::query(&"n".repeat(rest.parse().unwrap()), b"1"),
        "request" => request(rest),
        "response" => {
            let (head, body) = word_and_rest();
            let status = head.parse().unwrap();
            answered(status, vec![(b"Content-Type".to_vec(), b"text/html".to_vec())], &spelled(body))
        }
        "response-header" => {
            let (name, value) = rest.split_once(": ").unwrap();
            answered(200, vec![(name.as_bytes().to_vec(), spelled(value))], b"")
        }
        other => panic!("an example begins with \"{other}\", which is no place"),
    }
}

/// `POST /path | Header: value | -Header`.
fn request(text: &str) -> Exchange {
    let mut parts = text.split(" | ");
    let (method, uri) = parts.next().unwrap().split_once(' ').unwrap();
    parts.fold(Exchange::new(method, &spelled(uri)), |mut exchange, part| match part.strip_prefix('-') {
        Some(name) => {
            exchange.headers.retain(|(own, _)| !own.eq_ignore_ascii_case(name.as_bytes()));
            exchange
        }
        None => {
            let (name, value) = part.split_once(": ").unwrap();
            exchange.add(name, &spelled(value))
        }
    })
}

fn answered(status: u16, headers: Vec<(Vec<u8>, Vec<u8>)>, body: &[u8]) -> Exchange {
    let response = Some(Answer { status, headers, body: body.to_vec() });
    Exchange { response, ..Exchange::new("GET", b"/") }
}

/// A rule with the examples above it.
struct Judged {
    place: String,
    id: u32,
    attacks: Vec<String>,
    benign: Vec<String>,
}

impl Judged {
    /// The third digit from the right: `1CCLNN`. Zero is control flow.
    fn level(&self) -> u8 {
        u8::try_from(self.id / 100 % 10).unwrap()
    }

    fn class(&self) -> u32 {
        self.id / 1000 % 100
    }
}

/// All rules of all files, in order; links of chains belong to their heads.
fn rules() -> Vec<Judged> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    files.sort();
    let mut rules = Vec::new();
    for path in files {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let (mut attacks, mut benign) = (Vec::new(), Vec::new());
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            if let Some(text) = line.strip_prefix("# attack ") {
                attacks.push(text.to_owned());
            } else if let Some(text) = line.strip_prefix("# benign ") {
                benign.push(text.to_owned());
            } else if let Some((_, after)) = line.split_once("\"id:").filter(|_| !line.starts_with('#')) {
                let id = after.split(',').next().unwrap().parse().unwrap();
                let place = format!("{file}:{}", number + 1);
                rules.push(Judged { place, id, attacks: std::mem::take(&mut attacks), benign: std::mem::take(&mut benign) });
            }
        }
    }
    rules
}

#[test]
fn every_rule_is_judged_by_its_examples() {
    let mut faults = Vec::new();
    let mut classes: BTreeMap<u32, [usize; 3]> = BTreeMap::new();
    for rule in rules().iter().filter(|rule| rule.level() > 0) {
        classes.entry(rule.class()).or_default()[usize::from(rule.level()) - 1] += 1;
        let mut fault = |why: String| faults.push(format!("{} rule {}: {why}", rule.place, rule.id));
        if rule.attacks.len() < 3 || rule.benign.len() < 3 {
            fault(format!("{} attacks and {} benign examples, three of each are due", rule.attacks.len(), rule.benign.len()));
        }
        let matches = |exchange: &Exchange, level: u8| -> Vec<u32> {
            exchange.inspect(EngineMode::DetectionOnly, level).matches.iter().map(|matched| matched.id).collect()
        };
        for attack in &rule.attacks {
            let exchange = example(attack);
            if !matches(&exchange, rule.level()).contains(&rule.id) {
                fault(format!("does not match: {attack}"));
            }
            if rule.level() > 1 && matches(&exchange, rule.level() - 1).contains(&rule.id) {
                fault("runs below its level".to_owned());
            }
        }
        for benign in &rule.benign {
            let exchange = example(benign);
            if matches(&exchange, 3).contains(&rule.id) {
                fault(format!("matches: {benign}"));
            }
            let audit = exchange.inspect(EngineMode::On, 1);
            if audit.intervention.is_some() {
                let ids: Vec<u32> = audit.matches.iter().map(|matched| matched.id).collect();
                fault(format!("{ids:?} refuse at level 1: {benign}"));
            }
        }
    }
    for (class, levels) in &classes {
        println!("class {class}: {} rules, {levels:?} by level", levels.iter().sum::<usize>());
    }
    println!("{} rules", classes.values().flatten().sum::<usize>());
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

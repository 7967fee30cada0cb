//! Our own rules against payloads that others collected: what share of attacks level 1 refuses, and of ordinary text.
//!
//! `PORTCULLIS_GOTESTWAF` names the `testcases` folder of GoTestWAF, `PORTCULLIS_LIBINJECTION` the `data` folder of libinjection's
//! repository, `PORTCULLIS_PAYLOADS` a folder of classes with the lists `true-positives.txt` and `false-positives.txt`, such as `nuclei/payloads` of
//! mgm's WAF-Payload-Collection; without them the tests say so and pass. With `PORTCULLIS_MISSED=<class>` what was judged
//! wrongly in that class is printed. The floors are what was reached when they were written down.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use portcullis_waf::{Connection, Disk, EngineMode, Source, Waf};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Duration,
};

static WAF: LazyLock<Waf> = LazyLock::new(|| {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../waf-rules/*.conf");
    Waf::compile(&[Source::File(rules)], &Disk).unwrap_or_else(|errors| panic!("{}", errors[0]))
});

/// One request on its way to the rules.
struct Request {
    method: &'static str,
    target: String,
    field: Option<(&'static str, Vec<u8>)>,
    body: Option<(&'static str, Vec<u8>)>,
}

impl Request {
    fn get(target: String) -> Self {
        Self { method: "GET", target, field: None, body: None }
    }

    fn post(kind: &'static str, body: Vec<u8>) -> Self {
        Self { method: "POST", target: "/".to_owned(), field: None, body: Some((kind, body)) }
    }

    /// The part that differs from one to the next.
    fn shown(&self) -> String {
        let part = self.field.as_ref().or(self.body.as_ref());
        part.map_or_else(|| self.target.clone(), |(_, value)| String::from_utf8_lossy(value).into_owned())
    }

    fn is_refused(&self) -> bool {
        let mut transaction = WAF.transaction(Connection {
            client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            client_port: 1,
            server: IpAddr::V4(Ipv4Addr::LOCALHOST),
            server_port: 443,
            unique_id: String::new(),
            now: Duration::from_secs(1),
        });
        transaction.set_mode(EngineMode::On);
        transaction.request_line(self.method.as_bytes(), self.target.as_bytes(), b"HTTP/1.1");
        let agent = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";
        let own = |name: &str| self.field.as_ref().is_some_and(|(field, _)| *field == name);
        for (name, value) in [("Host", "www.example.com"), ("User-Agent", agent), ("Accept", "*/*")] {
            if !own(name) {
                transaction.request_header(name.as_bytes(), value.as_bytes());
            }
        }
        if let Some((name, value)) = &self.field {
            transaction.request_header(name.as_bytes(), value);
        }
        if let Some((kind, body)) = &self.body {
            transaction.request_header(b"Content-Type", kind.as_bytes());
            transaction.request_header(b"Content-Length", body.len().to_string().as_bytes());
        }
        let by_head = transaction.request_headers_done().is_some();
        let body = self.body.as_ref().map_or(&b""[..], |(_, body)| body);
        by_head || transaction.request_body_chunk(body).is_some() || transaction.request_body_done().is_some()
    }
}

fn percent(text: &[u8]) -> String {
    let one = |byte: &u8| match byte {
        b'-' | b'_' | b'.' | b'~' => char::from(*byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(*byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.iter().map(one).collect()
}

fn encoded(encoder: &str, payload: &str) -> String {
    match encoder {
        "Base64" => STANDARD.encode(payload),
        "Base64Flat" => STANDARD.encode(payload).trim_end_matches('=').to_owned(),
        "JSUnicode" => payload.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect(),
        "XMLEntity" => {
            let entities = [('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&#34;"), ('\'', "&#39;")];
            let one = |char| entities.iter().find(|(own, _)| *own == char).map(|(_, text)| (*text).to_owned());
            payload.chars().map(|char| one(char).unwrap_or_else(|| char.to_string())).collect()
        }
        _ => payload.to_owned(),
    }
}

/// As GoTestWAF sends it; `None` for places that are none of an HTTP/1.1 request without a schema.
fn placed(place: &str, encoder: &str, payload: &str) -> Option<Request> {
    let text = encoded(encoder, payload);
    let in_url = if encoder == "Plain" { text.clone() } else { percent(text.as_bytes()) };
    Some(match place {
        "URLParam" => Request::get(format!("/?a1b2={in_url}")),
        "URLPath" => Request::get(format!("/{in_url}")),
        "Header" | "UserAgent" => {
            let name = if place == "Header" { "X-Abc123" } else { "User-Agent" };
            let value = if encoder == "URL" && place == "Header" { in_url } else { text };
            Request { field: Some((name, value.into_bytes())), ..Request::get("/".to_owned()) }
        }
        "HTMLForm" => {
            Request::post("application/x-www-form-urlencoded", format!("abc={}", percent(text.as_bytes())).into())
        }
        "HTMLMultipartForm" => {
            let part = format!("--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n{text}\r\n--x--\r\n");
            Request::post("multipart/form-data; boundary=x", part.into())
        }
        "JSONBody" | "JSONRequest" if encoder == "JSUnicode" => {
            Request::post("application/json", format!("{{\"test\":true,\"abc\":\"{text}\"}}").into())
        }
        "JSONBody" | "JSONRequest" => {
            Request::post("application/json", serde_json::json!({"test": true, "abc": text}).to_string().into())
        }
        "SOAPBody" | "XMLBody" => {
            let document = format!("<?xml version=\"1.0\"?><s:E xmlns:s=\"http://e\"><s:B><x>{text}</x></s:B></s:E>");
            Request::post("text/xml", document.into())
        }
        "RequestBody" => Request::post("text/plain", text.into()),
        "GraphQL" => Request::post("application/json", serde_json::json!({ "query": text }).to_string().into()),
        _ => return None,
    })
}

#[derive(Deserialize)]
struct Cases {
    payload: Vec<serde_yaml_ng::Value>,
    encoder: Vec<String>,
    placeholder: Vec<serde_yaml_ng::Value>,
}

impl Cases {
    fn requests(&self) -> Vec<Request> {
        let texts = |values: &[serde_yaml_ng::Value]| -> Vec<String> {
            values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
        };
        let places = texts(&self.placeholder);
        let all = texts(&self.payload).into_iter().flat_map(|payload| {
            let ways = self.encoder.iter().flat_map(|encoder| places.iter().map(move |place| (place, encoder)));
            ways.filter_map(|(place, encoder)| placed(place, encoder, &payload)).collect::<Vec<_>>()
        });
        all.collect()
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Refused and all, by class.
#[derive(Default)]
struct Score(BTreeMap<String, (usize, usize)>);

impl Score {
    fn add(&mut self, class: String, requests: &[Request]) {
        let refused = requests.iter().filter(|request| request.is_refused()).count();
        if std::env::var("PORTCULLIS_MISSED").is_ok_and(|wanted| class.contains(&wanted)) {
            let wrong = requests.iter().filter(|request| request.is_refused() == class.contains("false"));
            wrong.for_each(|request| println!("{class}: wrong: {}", request.shown()));
        }
        println!("{class}: {refused} of {}", requests.len());
        self.0.insert(class, (refused, requests.len()));
    }

    /// Percent of all requests, and the mean of the classes' own.
    fn shares(&self) -> (f64, f64) {
        let (refused, all) = self.0.values().fold((0, 0), |sum, class| (sum.0 + class.0, sum.1 + class.1));
        let own = |(refused, all): &(usize, usize)| *refused as f64 / (*all).max(1) as f64;
        let mean = self.0.values().map(own).sum::<f64>() / self.0.len().max(1) as f64;
        (100.0 * refused as f64 / all.max(1) as f64, 100.0 * mean)
    }
}

#[test]
fn payloads_of_gotestwaf_are_refused() {
    let Some(folder) = std::env::var_os("PORTCULLIS_GOTESTWAF").map(PathBuf::from) else {
        println!("PORTCULLIS_GOTESTWAF is not set: our rules were NOT held against its payloads");
        return;
    };
    let (mut attacks, mut texts) = (Score::default(), Score::default());
    for set in ["owasp", "owasp-api", "community", "false-pos"] {
        for file in files(&folder.join(set)) {
            // Some describe whole requests in a way of their own.
            let Ok(cases) = serde_yaml_ng::from_str::<Cases>(&fs::read_to_string(&file).unwrap()) else { continue };
            let class = format!("{set}/{}", file.file_stem().unwrap().to_string_lossy());
            let score = if set == "false-pos" { &mut texts } else { &mut attacks };
            let requests = cases.requests();
            if !requests.is_empty() {
                score.add(class, &requests);
            }
        }
    }
    let ((micro, macro_), (false_positives, _)) = (attacks.shares(), texts.shares());
    println!("refused: {micro:.1} % of attacks, {macro_:.1} % by class; {false_positives:.1} % of texts");
    assert!(micro >= 96.0 && macro_ >= 92.0, "{micro} {macro_}");
    assert!(false_positives <= 0.5, "{false_positives}");
}

#[test]
fn payloads_of_libinjection_are_refused() {
    let Some(folder) = std::env::var_os("PORTCULLIS_LIBINJECTION").map(PathBuf::from) else {
        println!("PORTCULLIS_LIBINJECTION is not set: our rules were NOT held against its payloads");
        return;
    };
    let mut kinds: BTreeMap<&str, Score> = BTreeMap::new();
    for file in files(&folder).into_iter().filter(|file| file.extension().is_some_and(|own| own == "txt")) {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let kind = ["sqli", "xss", "false"].into_iter().find(|kind| name.starts_with(kind)).unwrap_or("other");
        let text = fs::read(&file).unwrap();
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && !line.starts_with(b"#"));
        // As they stand: most are encoded already.
        let one = |byte: &u8| match byte {
            b' ' | b'#' | b'&' | 0..0x20 | 0x7f.. => format!("%{byte:02X}"),
            byte => char::from(*byte).to_string(),
        };
        let target = |line: &[u8]| Request::get(format!("/?id={}", line.iter().map(one).collect::<String>()));
        let requests: Vec<Request> = lines.map(target).collect();
        // Of lists of tens of thousands, which vary one theme, every tenth does.
        let step = if requests.len() > 1_500 { 10 } else { 1 };
        kinds.entry(kind).or_default().add(name, &requests.into_iter().step_by(step).collect::<Vec<_>>());
    }
    let share = |kind: &str| kinds.get(kind).map_or(0.0, |score| score.shares().0);
    println!("refused: SQL {:.1} %, script {:.1} %, neither {:.1} %", share("sqli"), share("xss"), share("false"));
    assert!(share("sqli") >= 94.0 && share("xss") >= 95.5, "{} {}", share("sqli"), share("xss"));
    assert!(share("false") <= 0.5, "{}", share("false"));
}

/// At most so many of a class; of longer lists, which vary one theme, evenly spread ones.
const OF_A_CLASS: usize = 1_500;

/// A payload in the places where its class does harm, as mgm's collection sends it: what is percent-encoded already stays so.
fn of_class(class: &str, payload: &str) -> Vec<Request> {
    let escaped = percent(payload.as_bytes()).replace("%25", "%");
    let query = || Request::get(format!("/?tp_param={escaped}"));
    let form = || Request::post("application/x-www-form-urlencoded", format!("tp_param={escaped}").into_bytes());
    let agent =
        || Request { field: Some(("User-Agent", payload.as_bytes().to_vec())), ..Request::get("/?a=b".to_owned()) };
    match class {
        "log4shell" => vec![agent()],
        "shellshock" => vec![agent(), form()],
        "xxe" => vec![Request::post("application/xml", payload.as_bytes().to_vec())],
        _ => vec![query(), form()],
    }
}

fn lines(file: &Path) -> Vec<String> {
    let text = fs::read(file).unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n').map(|line| String::from_utf8_lossy(line).trim_end().to_owned());
    let lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    let step = lines.len().div_ceil(OF_A_CLASS).max(1);
    lines.into_iter().step_by(step).collect()
}

#[test]
fn listed_payloads_are_refused_and_listed_texts_are_not() {
    let Some(folder) = std::env::var_os("PORTCULLIS_PAYLOADS").map(PathBuf::from) else {
        println!("PORTCULLIS_PAYLOADS is not set: our rules were NOT held against lists of payloads");
        return;
    };
    let (mut attacks, mut texts) = (Score::default(), Score::default());
    for class in files(&folder) {
        let name = class.file_name().unwrap().to_string_lossy().into_owned();
        let lists = [("attacks", "true-positives.txt", &mut attacks), ("false", "false-positives.txt", &mut texts)];
        for (kind, list, score) in lists {
            let requests: Vec<Request> =
                lines(&class.join(list)).iter().flat_map(|line| of_class(&name, line)).collect();
            if !requests.is_empty() {
                score.add(format!("{name}, {kind}"), &requests);
            }
        }
    }
    let ((micro, macro_), (wrong, _)) = (attacks.shares(), texts.shares());
    println!("refused: {micro:.1} % of listed attacks, {macro_:.1} % by class; {wrong:.2} % of listed texts");
    assert!(micro >= 90.0 && macro_ >= 75.0, "{micro} {macro_}");
    assert!(wrong <= 2.0, "{wrong}");
}

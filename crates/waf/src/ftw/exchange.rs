//! Builds requests as go-ftw does, and answers them as the Core Rule Set's backend does.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use regex::Regex;
use serde::Deserialize;
use std::collections::BTreeMap;

use super::document::Input;
use crate::{Audit, Transaction};

/// A request as the engine gets it.
#[derive(Debug, Clone)]
pub struct Request {
    /// As in the request line, and so are the next two.
    pub method: Vec<u8>,
    /// The target.
    pub uri: Vec<u8>,
    /// The protocol.
    pub version: Vec<u8>,
    /// In order.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// Without framing.
    pub body: Vec<u8>,
}

/// A request with its answer.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// What is sent.
    pub request: Request,
    /// What is answered.
    pub status: u16,
    /// With these fields.
    pub response_headers: Vec<(String, String)>,
    /// And this body.
    pub response_body: Vec<u8>,
}

impl Exchange {
    /// Shows all of it to a transaction, whatever that says to it, and gives the report.
    pub fn play(&self, mut transaction: Transaction<'_>) -> Audit {
        let request = &self.request;
        transaction.request_line(&request.method, &request.uri, &request.version);
        for (name, value) in &request.headers {
            transaction.request_header(name, value);
        }
        transaction.request_headers_done();
        // In pieces, as a server would.
        for chunk in request.body.chunks(1000) {
            transaction.request_body_chunk(chunk);
        }
        transaction.request_body_done();
        transaction.response_line(self.status, b"HTTP/1.1");
        for (name, value) in &self.response_headers {
            transaction.response_header(name.as_bytes(), value.as_bytes());
        }
        transaction.response_headers_done();
        for chunk in self.response_body.chunks(1000) {
            transaction.response_body_chunk(chunk);
        }
        transaction.response_body_done();
        transaction.finish()
    }
}

impl Request {
    /// Sends what the test says, with the headers go-ftw adds.
    pub(super) fn build(input: &Input) -> Result<Self, String> {
        match &input.encoded_request {
            Some(encoded) => Ok(Self::parse(&decode(encoded)?)),
            None => Ok(Self::compose(input)),
        }
    }

    fn compose(input: &Input) -> Self {
        let method = input.method.clone().unwrap_or_else(|| "GET".to_owned());
        let mut headers = input.headers.clone();
        let mut data = fill(input.data.as_deref().unwrap_or_default()).into_bytes();
        let complete_it = input.autocomplete_headers.or(input.stop_magic.map(|stop| !stop));
        if complete_it.unwrap_or(true) {
            complete(&mut headers, &method, &mut data);
        }
        // RFC 9112 §6.3: a request without a length has no body.
        if get(&headers, "Content-Length").is_none() && get(&headers, "Transfer-Encoding").is_none() {
            data.clear();
        }
        Self {
            method: method.into_bytes(),
            uri: input.uri.clone().unwrap_or_else(|| "/".to_owned()).into_bytes(),
            version: input.version.clone().unwrap_or_else(|| "HTTP/1.1".to_owned()).into_bytes(),
            headers: headers.into_iter().map(|(name, value)| (name.into_bytes(), value.into_bytes())).collect(),
            body: data,
        }
    }

    /// Reads a raw request the way a lenient server would.
    fn parse(raw: &[u8]) -> Self {
        let end = find(raw, b"\r\n\r\n").map_or(raw.len(), |at| at + 4);
        let (head, body) = raw.split_at(end);
        let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let mut words = lines.next().unwrap_or_default().splitn(3, |byte| *byte == b' ').map(<[u8]>::to_vec);
        let mut word = || words.next().unwrap_or_default();
        let (method, uri, version) = (word(), word(), word());
        let headers: Vec<_> = lines
            .filter_map(|line| {
                let colon = line.iter().position(|byte| *byte == b':')?;
                let (name, value) = line.split_at_checked(colon)?;
                Some((name.to_vec(), value.strip_prefix(b":")?.trim_ascii().to_vec()))
            })
            .collect();
        let chunked = headers.iter().any(|(name, value)| {
            name.eq_ignore_ascii_case(b"transfer-encoding") && value.eq_ignore_ascii_case(b"chunked")
        });
        let body = if chunked { dechunk(body) } else { body.to_vec() };
        Self { method, uri, version, headers, body }
    }
}

fn decode(encoded: &str) -> Result<Vec<u8>, String> {
    let text: String = encoded.chars().filter(|char| !char.is_whitespace()).collect();
    STANDARD.decode(text).map_err(|error| format!("not base64: {error}"))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn dechunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some((line, rest)) = find(body, b"\r\n").and_then(|end| Some((body.get(..end)?, body.get(end + 2..)?))) {
        let size = usize::from_str_radix(String::from_utf8_lossy(line).trim(), 16).unwrap_or(0);
        let Some(data) = rest.get(..size).filter(|data| !data.is_empty()) else { break };
        whole.extend_from_slice(data);
        body = rest.get(size.saturating_add(2)..).unwrap_or_default();
    }
    whole
}

/// What one repetition may come to: larger tests are not about rules.
const REPEATED_BYTES: usize = 16 << 20;

/// The one function that test data uses: `{{ "1" | repeat 64200 }}`.
fn fill(data: &str) -> String {
    let Ok(template) = Regex::new(r#"\{\{ "([^"]*)" \| repeat ([0-9]+) \}\}"#) else { return data.to_owned() };
    let repeat = |found: &regex::Captures<'_>| {
        let text = found.get(1).map_or("", |text| text.as_str());
        let times: usize = found.get(2).and_then(|times| times.as_str().parse().ok()).unwrap_or(0);
        text.repeat(times.min(REPEATED_BYTES / text.len().max(1)))
    };
    template.replace_all(data, repeat).into_owned()
}

fn get<'h>(headers: &'h BTreeMap<String, String>, name: &str) -> Option<&'h str> {
    headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// What go-ftw adds unless told not to.
fn complete(headers: &mut BTreeMap<String, String>, method: &str, data: &mut Vec<u8>) {
    if get(headers, "Connection").is_none() {
        headers.insert("Connection".to_owned(), "close".to_owned());
    }
    if !data.is_empty() && get(headers, "Content-Type").is_none() {
        headers.insert("Content-Type".to_owned(), FORM.to_owned());
    }
    let content_type = get(headers, "Content-Type").unwrap_or_default().to_owned();
    if content_type == FORM {
        form_encode(data);
    }
    if content_type.starts_with("multipart/form-data") {
        let text = String::from_utf8_lossy(data).replace("\r\n", "\n").replace('\n', "\r\n");
        *data = text.into_bytes();
    }
    let with_body = !data.is_empty() || matches!(method, "POST" | "PUT" | "PATCH");
    if with_body && get(headers, "Content-Length").is_none() {
        headers.insert("Content-Length".to_owned(), data.len().to_string());
    }
}

const FORM: &str = "application/x-www-form-urlencoded";

/// Data that is not encoded is taken apart, sorted by name and encoded, as Go's `url.Values` does it.
fn form_encode(data: &mut Vec<u8>) {
    let encoded_already = data.contains(&b'+') || data.contains(&b'%') || data.contains(&b';');
    if encoded_already {
        return;
    }
    let mut fields: Vec<(Vec<u8>, Vec<u8>)> = data
        .split(|byte| *byte == b'&')
        .filter(|field| !field.is_empty())
        .map(|field| {
            let mut halves = field.splitn(2, |byte| *byte == b'=').map(<[u8]>::to_vec);
            (halves.next().unwrap_or_default(), halves.next().unwrap_or_default())
        })
        .collect();
    if fields.is_empty() {
        return;
    }
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    let encoded = fields.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value)));
    *data = encoded.collect::<Vec<_>>().join("&").into_bytes();
}

fn escape(text: &[u8]) -> String {
    let one = |byte: &u8| match byte {
        b' ' => "+".to_owned(),
        b'-' | b'_' | b'.' | b'~' => char::from(*byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(*byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.iter().map(one).collect()
}

impl Request {
    /// With what the backend of the Core Rule Set's tests answers: `/reflect` says what the request body asks for.
    pub(super) fn answered(self) -> Exchange {
        #[derive(Deserialize, Default)]
        #[serde(default, rename_all = "camelCase")]
        struct Wanted {
            status: Option<u16>,
            headers: BTreeMap<String, String>,
            body: String,
            encoded_body: String,
        }
        let reflects = self.uri.starts_with(b"/reflect");
        let wanted: Wanted =
            if reflects { serde_json::from_slice(&self.body).unwrap_or_default() } else { Wanted::default() };
        let body = match wanted.encoded_body.is_empty() {
            true => wanted.body.into_bytes(),
            false => decode(&wanted.encoded_body).unwrap_or_default(),
        };
        let mut headers: Vec<(String, String)> = wanted.headers.into_iter().collect();
        if !body.is_empty() && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            headers.push(("Content-Type".to_owned(), sniff(&body).to_owned()));
        }
        Exchange { request: self, status: wanted.status.unwrap_or(200), response_headers: headers, response_body: body }
    }
}

/// Go's content sniffing, as far as the suite needs it.
fn sniff(body: &[u8]) -> &'static str {
    let start = String::from_utf8_lossy(body.trim_ascii_start()).to_ascii_lowercase();
    let html = [
        "<!doctype html",
        "<html",
        "<head",
        "<script",
        "<iframe",
        "<h1",
        "<div",
        "<font",
        "<table",
        "<a",
        "<style",
        "<title",
        "<b",
        "<body",
        "<br",
        "<p",
        "<!--",
    ];
    if html.iter().any(|tag| start.strip_prefix(tag).is_some_and(|rest| rest.starts_with([' ', '>']))) {
        return "text/html; charset=utf-8";
    }
    if start.starts_with("<?xml") {
        return "text/xml; charset=utf-8";
    }
    let binary = body.iter().take(512).any(|byte| matches!(byte, 0..=8 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f));
    if binary { "application/octet-stream" } else { "text/plain; charset=utf-8" }
}

//! Builds requests as go-ftw does, and answers them as the suite's backend does.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use regex::Regex;
use serde::Deserialize;
use std::collections::BTreeMap;

use crate::suite::Input;

/// A request as the engine gets it.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) method: Vec<u8>,
    pub(crate) uri: Vec<u8>,
    pub(crate) version: Vec<u8>,
    pub(crate) headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

/// A request with its answer.
#[derive(Clone)]
pub(crate) struct Exchange {
    pub(crate) request: Request,
    pub(crate) status: u16,
    pub(crate) response_headers: Vec<(String, String)>,
    pub(crate) response_body: Vec<u8>,
}

impl Request {
    /// Sends what the test says, with the headers go-ftw adds.
    pub(crate) fn build(input: &Input) -> Self {
        match &input.encoded_request {
            Some(encoded) => Self::parse(&decode(encoded)),
            None => Self::compose(input),
        }
    }

    fn compose(input: &Input) -> Self {
        let method = input.method.clone().unwrap_or_else(|| "GET".to_owned());
        let mut headers = input.headers.clone();
        let mut data = fill(input.data.as_deref().unwrap_or_default()).into_bytes();
        if input.autocomplete_headers.unwrap_or(true) {
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
                let (name, value) = line.split_at(colon);
                Some((name.to_vec(), value[1..].trim_ascii().to_vec()))
            })
            .collect();
        let chunked = headers.iter().any(|(name, value)| {
            name.eq_ignore_ascii_case(b"transfer-encoding") && value.eq_ignore_ascii_case(b"chunked")
        });
        let body = if chunked { dechunk(body) } else { body.to_vec() };
        Self { method, uri, version, headers, body }
    }
}

fn decode(encoded: &str) -> Vec<u8> {
    let text: String = encoded.chars().filter(|char| !char.is_whitespace()).collect();
    STANDARD.decode(text).unwrap()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn dechunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = find(body, b"\r\n") {
        let size = usize::from_str_radix(String::from_utf8_lossy(&body[..end]).trim(), 16).unwrap_or(0);
        let data = &body[end + 2..];
        if size == 0 || data.len() < size {
            break;
        }
        whole.extend_from_slice(&data[..size]);
        body = data.get(size + 2..).unwrap_or_default();
    }
    whole
}

/// The one function that test data uses: `{{ "1" | repeat 64200 }}`.
fn fill(data: &str) -> String {
    let template = Regex::new(r#"\{\{ "([^"]*)" \| repeat ([0-9]+) \}\}"#).unwrap();
    let repeat = |found: &regex::Captures<'_>| found[1].repeat(found[2].parse().unwrap());
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
    let encoded_already = data.contains(&b'+')
        || data.windows(3).any(|w| w[0] == b'%' && w[1].is_ascii_hexdigit() && w[2].is_ascii_hexdigit());
    if encoded_already || data.contains(&b'%') || data.contains(&b';') {
        return;
    }
    let mut fields: Vec<(Vec<u8>, Vec<u8>)> = data
        .split(|byte| *byte == b'&')
        .filter(|field| !field.is_empty())
        .map(|field| match field.iter().position(|byte| *byte == b'=') {
            Some(at) => (field[..at].to_vec(), field[at + 1..].to_vec()),
            None => (field.to_vec(), Vec::new()),
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

/// What the backend of the suite answers: `/reflect` says what the request body asks for.
pub(crate) fn respond(request: Request) -> Exchange {
    #[derive(Deserialize, Default)]
    #[serde(default, rename_all = "camelCase")]
    struct Wanted {
        status: Option<u16>,
        headers: BTreeMap<String, String>,
        body: String,
        encoded_body: String,
    }
    let reflects = request.uri.starts_with(b"/reflect");
    let wanted: Wanted =
        if reflects { serde_json::from_slice(&request.body).unwrap_or_default() } else { Wanted::default() };
    let body = match wanted.encoded_body.is_empty() {
        true => wanted.body.into_bytes(),
        false => decode(&wanted.encoded_body),
    };
    let mut headers: Vec<(String, String)> = wanted.headers.into_iter().collect();
    if !body.is_empty() && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
        headers.push(("Content-Type".to_owned(), sniff(&body).to_owned()));
    }
    Exchange { request, status: wanted.status.unwrap_or(200), response_headers: headers, response_body: body }
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

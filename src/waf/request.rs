//! A request that is only asked about: read from a file by the wire's own parser, or put together as curl would.

use super::{Unanswered, cannot};
use anyhow::{Context, anyhow};
use http::{HeaderName, HeaderValue, Request, header, request::Parts};
use portcullis_wire::{BodyLimits, BodyScanner, Cursor, Framing, HeadLimits, Parse, Refusal, parse_head};
use std::{io::Read, path::Path};

/// What the WAF is shown.
pub(super) struct Asked {
    pub(super) head: Parts,
    /// As it stands in the request line, in origin form.
    pub(super) target: String,
    /// Where it would go: `http://host/path`.
    pub(super) url: String,
    pub(super) body: Vec<u8>,
    /// What was put right before it was read.
    pub(super) notes: Vec<&'static str>,
}

impl Asked {
    /// Takes out what a listener would.
    pub(super) fn drop_fields(&mut self, dropped: fn(&str) -> bool) {
        let names: Vec<HeaderName> = self.head.headers.keys().filter(|name| dropped(name.as_str())).cloned().collect();
        if !names.is_empty() {
            self.notes.push("fields that the listener drops for their underscores were left out");
        }
        names.iter().for_each(|name| _ = self.head.headers.remove(name));
    }

    /// The request's fields, as routes are asked with them.
    pub(super) fn header_lines(&self) -> Vec<String> {
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
        };
        self.head.headers.iter().map(line).collect()
    }
}

/// What curl says of itself, unless told otherwise.
const LIKE_CURL: [(&str, &str); 2] = [("user-agent", "curl/8.10.1"), ("accept", "*/*")];

/// METHOD, URL, `-H` and `-d`.
pub(super) fn compose(method: &str, url: &str, headers: &[String], data: Option<&str>) -> Result<Asked, Unanswered> {
    let uri: http::Uri = url.parse().map_err(|error| cannot(format!("`{url}` is not a URL: {error}")))?;
    let Some(authority) = uri.authority() else { return Err(cannot(format!("`{url}` names no host"))) };
    let target = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
    let body = match data {
        None => Vec::new(),
        Some(data) => match data.strip_prefix('@') {
            Some(file) => read(file)?,
            None => data.as_bytes().to_vec(),
        },
    };
    let mut fields = Vec::new();
    for line in headers {
        let (name, value) = line.split_once(':').ok_or_else(|| cannot(format!("`{line}` is not `Name: value`")))?;
        fields.push((name.trim().to_ascii_lowercase(), value.trim().as_bytes().to_vec()));
    }
    let mut default = |name: &str, value: &str| {
        if !fields.iter().any(|(known, _)| known == name) {
            fields.push((name.to_owned(), value.as_bytes().to_vec()));
        }
    };
    default("host", authority.as_str());
    LIKE_CURL.iter().for_each(|(name, value)| default(name, value));
    if data.is_some() {
        default("content-type", "application/x-www-form-urlencoded");
        default("content-length", &body.len().to_string());
    }
    let head = parts(method, http::Version::HTTP_11, fields)?;
    Ok(Asked { head, target, url: url.to_owned(), body, notes: Vec::new() })
}

/// A file that holds a request as it goes over the wire; `-` is standard input.
pub(super) fn from_file(file: &str) -> Result<Asked, Unanswered> {
    let mut octets = read(file)?;
    let mut notes = Vec::new();
    put_right(&mut octets, &mut notes);
    // A file is as long as it is: what listeners limit is said by `portcullis explain`.
    let limits = HeadLimits { bytes: 1 << 20, headers: 1000, target: 1 << 20 };
    let refused = |refusal: Refusal| {
        cannot(format!(
            "the request is refused with {} before any rule sees it: {}",
            refusal.status(),
            refusal.as_str()
        ))
    };
    let (head, length) = match parse_head(&octets, &limits, &mut Cursor::default()).map_err(refused)? {
        Parse::Complete { head, len } => (head, len),
        Parse::Incomplete => return Err(cannot(format!("{file}: the head has no end, which is an empty line"))),
    };
    let body = unframed(octets.get(length..).unwrap_or_default(), head.framing()).map_err(refused)?;
    let fields: Vec<_> =
        head.fields(&octets).map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec())).collect();
    let target = head.target(&octets).to_owned();
    let version = if head.minor_version() == 0 { http::Version::HTTP_10 } else { http::Version::HTTP_11 };
    let host = fields.iter().find(|(name, _)| name == "host");
    let host = host.map_or_else(|| "localhost".into(), |(_, value)| String::from_utf8_lossy(value).into_owned());
    let (url, target) = match target.split_once("://") {
        Some((_, rest)) => (target.clone(), rest.find('/').map_or("/", |at| &rest[at..]).to_owned()),
        None => (format!("http://{host}{target}"), target),
    };
    let head = parts(head.method(&octets), version, fields)?;
    Ok(Asked { head, target, url, body, notes })
}

/// Editors end lines with LF, and whoever writes a body by hand does not count it.
fn put_right(octets: &mut Vec<u8>, notes: &mut Vec<&'static str>) {
    if !octets.windows(2).any(|pair| pair == b"\r\n") {
        let end = octets.windows(2).position(|pair| pair == b"\n\n").map_or(octets.len(), |at| at + 2);
        let body = octets.split_off(end);
        let mut head = String::from_utf8_lossy(octets).trim_end_matches('\n').replace('\n', "\r\n").into_bytes();
        head.extend(b"\r\n\r\n");
        *octets = head;
        octets.extend(body);
        notes.push("lines that ended with LF were ended with CRLF");
    }
    let Some(end) = octets.windows(4).position(|four| four == b"\r\n\r\n") else { return };
    let head = String::from_utf8_lossy(octets.get(..end).unwrap_or_default()).to_ascii_lowercase();
    let framed = ["\r\ncontent-length:", "\r\ntransfer-encoding:"].iter().any(|name| head.contains(name));
    let length = octets.len() - end - 4;
    if !framed && length > 0 {
        octets.splice(end..end, format!("\r\nContent-Length: {length}").into_bytes());
        notes.push("a Content-Length was added for the body");
    }
}

/// The content of a body, by the scanner that listeners use.
fn unframed(octets: &[u8], framing: Framing) -> Result<Vec<u8>, Refusal> {
    let mut scanner = BodyScanner::new(framing, BodyLimits::default());
    let mut body = Vec::new();
    // Octet by octet: content is what makes the count of it grow.
    for octet in octets {
        let before = scanner.payload();
        if scanner.advance(std::slice::from_ref(octet))?.taken == 0 {
            break;
        }
        if scanner.payload() > before {
            body.push(*octet);
        }
    }
    Ok(body)
}

/// Everything but the target, which goes to the WAF as it was written.
fn parts(method: &str, version: http::Version, fields: Vec<(String, Vec<u8>)>) -> Result<Parts, Unanswered> {
    let mut request = Request::builder().method(method).version(version);
    for (name, value) in fields {
        let value =
            HeaderValue::from_bytes(&value).map_err(|_| cannot(format!("the value of {name} cannot be sent")))?;
        let name =
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| cannot(format!("`{name}` is not a field name")))?;
        request = request.header(name, value);
    }
    let (mut parts, ()) =
        request.body(()).map_err(|error| cannot(format!("this request cannot be sent: {error}")))?.into_parts();
    // A second Host would be refused long before; the first one counts.
    if let Some(host) = parts.headers.get(header::HOST).cloned() {
        parts.headers.insert(header::HOST, host);
    }
    Ok(parts)
}

/// Bodies are held in memory here; no limit of a rule set is larger.
const FILE_MAX: u64 = 64 << 20;

fn read(file: &str) -> Result<Vec<u8>, Unanswered> {
    let mut octets = Vec::new();
    let read = if file == "-" {
        std::io::stdin().take(FILE_MAX + 1).read_to_end(&mut octets).context("standard input cannot be read")
    } else {
        let opened = std::fs::File::open(Path::new(file));
        opened
            .and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut octets))
            .context(format!("{file} cannot be read"))
    };
    read?;
    if octets.len() as u64 > FILE_MAX {
        return Err(anyhow!("{file} has more than 64MiB").into());
    }
    Ok(octets)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn files_written_by_hand_are_put_right() {
        let mut octets = b"POST /a HTTP/1.1\nHost: a.test\n\nx=1\n2".to_vec();
        let mut notes = Vec::new();
        put_right(&mut octets, &mut notes);
        assert_eq!(octets, b"POST /a HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nx=1\n2");
        assert_eq!(notes.len(), 2);
        let exact = octets.clone();
        put_right(&mut octets, &mut notes);
        assert_eq!((octets, notes.len()), (exact, 2));
    }

    #[test]
    fn chunks_are_taken_apart_and_what_follows_a_body_is_not_of_it() {
        assert_eq!(unframed(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\nGET", Framing::Chunked).unwrap(), b"abcde");
        assert_eq!(unframed(b"abcdef", Framing::Length(3)).unwrap(), b"abc");
        assert_eq!(unframed(b"abcdef", Framing::None).unwrap(), b"");
    }
}

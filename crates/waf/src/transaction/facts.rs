//! What is known of a request and its response; rules read it and never change it.

use std::net::IpAddr;
use std::time::Duration;

use crate::body::Contents;
use crate::pairs::Pairs;

/// What is known of a transaction before its first byte.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Who sent the request.
    pub client: IpAddr,
    /// From which port.
    pub client_port: u16,
    /// The address it came to.
    pub server: IpAddr,
    /// And the port.
    pub server_port: u16,
    /// The request's id, as logs and the answer carry it.
    pub unique_id: String,
    /// When it began, since the Unix epoch.
    pub now: Duration,
}

/// Everything that variables show, apart from what rules write.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) method: Vec<u8>,
    /// As it stood in the request line.
    pub(crate) uri_raw: Vec<u8>,
    /// Without scheme and authority.
    pub(crate) uri: Vec<u8>,
    /// Decoded once, as servers map it to files.
    pub(crate) path: Vec<u8>,
    pub(crate) query: Vec<u8>,
    pub(crate) protocol: Vec<u8>,
    pub(crate) request_line: Vec<u8>,
    pub(crate) headers: Pairs,
    pub(crate) cookies: Pairs,
    pub(crate) args_get: Pairs,
    pub(crate) invalid_escapes: bool,
    /// The body when rules may see it as a whole.
    pub(crate) body: Option<Vec<u8>>,
    pub(crate) body_bytes: usize,
    pub(crate) body_truncated: bool,
    pub(crate) contents: Contents,
    pub(crate) status: Option<u16>,
    pub(crate) response_protocol: Vec<u8>,
    pub(crate) response_headers: Pairs,
    pub(crate) response_body: Option<Vec<u8>>,
    pub(crate) response_truncated: bool,
    pub(crate) elapsed: Duration,
}

impl Facts {
    /// Takes a request line apart.
    pub(crate) fn set_request_line(&mut self, method: &[u8], uri: &[u8], protocol: &[u8]) {
        refill(&mut self.method, method);
        refill(&mut self.uri_raw, uri);
        // RFC 1945 §4.1: a request line without a version is HTTP/0.9.
        refill(&mut self.protocol, if protocol.is_empty() { b"HTTP/0.9" } else { protocol });
        refill(&mut self.request_line, method);
        for part in [uri, protocol] {
            self.request_line.push(b' ');
            self.request_line.extend_from_slice(part);
        }
        refill(&mut self.uri, origin_form(uri));
        let end = memchr::memchr(b'#', &self.uri).unwrap_or(self.uri.len());
        let without_fragment = self.uri.get(..end).unwrap_or_default();
        let (path, query) = match memchr::memchr(b'?', without_fragment) {
            Some(at) => (without_fragment.get(..at), without_fragment.get(at + 1..)),
            None => (Some(without_fragment), None),
        };
        self.path.clear();
        crate::transform::decode_path(path.unwrap_or_default(), &mut self.path);
        refill(&mut self.query, query.unwrap_or_default());
    }

    /// Forgets everything but the memory.
    pub(crate) fn begin(&mut self) {
        let texts = [
            &mut self.method,
            &mut self.uri_raw,
            &mut self.uri,
            &mut self.path,
            &mut self.query,
            &mut self.protocol,
            &mut self.request_line,
            &mut self.response_protocol,
        ];
        texts.into_iter().for_each(Vec::clear);
        let pairs = [&mut self.headers, &mut self.cookies, &mut self.args_get, &mut self.response_headers];
        pairs.into_iter().for_each(Pairs::clear);
        self.contents = Contents::default();
        self.body = None;
        self.response_body = None;
        self.status = None;
        self.body_bytes = 0;
        self.elapsed = Duration::ZERO;
        self.invalid_escapes = false;
        self.body_truncated = false;
        self.response_truncated = false;
    }

    /// Bytes received so far.
    pub(crate) fn received_bytes(&self) -> usize {
        let head = self.request_line.len() + self.headers.combined_bytes();
        let response = self.response_headers.combined_bytes() + self.response_body.as_ref().map_or(0, Vec::len);
        head.saturating_add(self.body_bytes).saturating_add(response)
    }

    /// Bytes of memory that stay.
    pub(crate) fn kept_bytes(&self) -> usize {
        let pairs = [&self.headers, &self.cookies, &self.args_get, &self.response_headers];
        let texts = [&self.uri_raw, &self.uri, &self.path, &self.query, &self.request_line];
        pairs.into_iter().map(Pairs::kept_bytes).sum::<usize>() + texts.into_iter().map(Vec::capacity).sum::<usize>()
    }

    /// The last part of the path, after a slash of either kind.
    pub(crate) fn basename(&self) -> &[u8] {
        let start = memchr::memrchr2(b'/', b'\\', &self.path).map_or(0, |at| at + 1);
        self.path.get(start..).unwrap_or_default()
    }
}

fn refill(place: &mut Vec<u8>, text: &[u8]) {
    place.clear();
    place.extend_from_slice(text);
}

/// The part of a target that origin servers see: `http://host/a?b` is `/a?b`.
fn origin_form(uri: &[u8]) -> &[u8] {
    let Some(scheme) = memchr::memmem::find(uri, b"://") else { return uri };
    let named = uri.get(..scheme).is_some_and(|name| !name.is_empty() && name.iter().all(u8::is_ascii_alphanumeric));
    if !named {
        return uri;
    }
    let after = uri.get(scheme + 3..).unwrap_or_default();
    match after.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')) {
        Some(at) => after.get(at..).unwrap_or_default(),
        None => b"/",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines_are_taken_apart() {
        let cases = [
            ("/a/b.php?x=1#f", "/a/b.php", "x=1", "b.php"),
            ("http://h:80/a?b=http://c", "/a", "b=http://c", "a"),
            ("http://h", "/", "", ""),
            ("/redirect?to=http://x/", "/redirect", "to=http://x/", "redirect"),
            ("*", "*", "", "*"),
            ("/a\\b?", "/a\\b", "", "b"),
            ("/a%20b+c%2", "/a b+c%2", "", "a b+c%2"),
        ];
        for (uri, path, query, basename) in cases {
            let mut facts = Facts::default();
            facts.set_request_line(b"GET", uri.as_bytes(), b"HTTP/1.1");
            assert_eq!(
                (facts.path.as_slice(), facts.query.as_slice(), facts.basename()),
                (path.as_bytes(), query.as_bytes(), basename.as_bytes())
            );
            assert_eq!(facts.request_line, format!("GET {uri} HTTP/1.1").as_bytes());
        }
    }
}

//! A strict reader of HTTP/1 request heads.
//!
//! It decides, in one pass and without building a map, whether a head can be read in only one way, and where its parts
//! are. It does not allocate beyond a list of offsets and never looks at what a field means past framing and routing.

use crate::{
    Framing, Refusal,
    fields::{self, Field},
    host,
};

/// What came of a try to parse.
#[derive(Debug)]
pub enum Parse<T> {
    Incomplete,
    Complete {
        head: T,
        /// Octets of the head, final empty line included.
        len: usize,
    },
}

/// How much a head may hold.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// Octets in all.
    pub bytes: usize,
    /// Header fields.
    pub headers: usize,
    /// Octets of the request target.
    pub target: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { bytes: 16 << 10, headers: 100, target: 8 << 10 }
    }
}

/// Remembers how far the search for the head's end has come, so that a head which drips in is not read again and again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cursor {
    pub(crate) searched: usize,
}

/// A head that can be read in one way only. Borrows from nothing: its parts are ranges of the buffer it was read from.
#[derive(Debug, Clone)]
pub struct Head {
    method: (usize, usize),
    target: (usize, usize),
    fields: Vec<Field>,
    framing: Framing,
    minor: u8,
}

impl Head {
    pub fn method<'b>(&self, buf: &'b [u8]) -> &'b str {
        text(buf, self.method)
    }

    pub fn target<'b>(&self, buf: &'b [u8]) -> &'b str {
        text(buf, self.target)
    }

    pub(crate) fn target_range(&self) -> (usize, usize) {
        self.target
    }

    /// Where the value of Host stands.
    pub(crate) fn host_range(&self, buf: &[u8]) -> Option<(usize, usize)> {
        let host = self.fields.iter().find(|field| text(buf, field.name).eq_ignore_ascii_case("host"))?;
        Some(host.value)
    }

    /// Name and value of every field, in order; names as they came.
    pub fn fields<'b>(&self, buf: &'b [u8]) -> impl Iterator<Item = (&'b str, &'b [u8])> {
        self.fields
            .iter()
            .map(move |field| (text(buf, field.name), buf.get(field.value.0..field.value.1).unwrap_or_default()))
    }

    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// 1 for HTTP/1.1, 0 for HTTP/1.0.
    pub fn minor_version(&self) -> u8 {
        self.minor
    }
}

/// The ranges were checked to be ASCII when they were made.
fn text(buf: &[u8], (start, end): (usize, usize)) -> &str {
    buf.get(start..end).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
}

/// Reads a request head from the front of `buf`, with at most one empty line before it (RFC 9112 §2.2).
pub fn parse_head(buf: &[u8], limits: &HeadLimits, cursor: &mut Cursor) -> Result<Parse<Head>, Refusal> {
    let skipped = if buf.starts_with(b"\r\n") { 2 } else { 0 };
    let Some(end) = fields::find_end(buf, skipped, cursor, limits.bytes)? else {
        // A request line that is already wrong is refused before the rest is waited for.
        return Ok(Parse::Incomplete);
    };
    let line_end = skipped + fields::line_len(buf.get(skipped..end).unwrap_or_default());
    let line = buf.get(skipped..line_end).unwrap_or_default();
    if line.is_empty() {
        return Err(Refusal::EmptyLines);
    }
    let (method, target, minor) = request_line(line, limits)?;
    let mut reader = RequestFields::new(minor);
    let mut found = Vec::with_capacity(16);
    fields::each(buf, line_end + 2, end, limits.headers, |field| {
        reader.see(buf, &field)?;
        found.push(field);
        Ok(())
    })?;
    let shift = |(start, end): (usize, usize)| (start + skipped, end + skipped);
    let method_text = line.get(method.0..method.1).unwrap_or_default();
    let target_text = line.get(target.0..target.1).unwrap_or_default();
    let framing = reader.finish(method_text, target_text)?;
    let head = Head { method: shift(method), target: shift(target), fields: found, framing, minor };
    Ok(Parse::Complete { head, len: end })
}

type Range = (usize, usize);

/// `method SP target SP HTTP/1.x`, with exactly one space each (RFC 9112 §3).
fn request_line(line: &[u8], limits: &HeadLimits) -> Result<(Range, Range, u8), Refusal> {
    let method_end = memchr::memchr(b' ', line).ok_or(Refusal::BadRequestLine)?;
    let target_end = memchr::memrchr(b' ', line).filter(|at| *at > method_end).ok_or(Refusal::BadRequestLine)?;
    let (method, target) = (line.get(..method_end), line.get(method_end + 1..target_end));
    let (method, target) = (method.unwrap_or_default(), target.unwrap_or_default());
    let version = line.get(target_end + 1..).unwrap_or_default();
    if method.is_empty()
        || method.len() > METHOD_MAX
        || !method.iter().all(|b| b.is_ascii_uppercase() || matches!(b, b'-' | b'_'))
    {
        return Err(Refusal::BadMethod);
    }
    let minor = match version {
        b"HTTP/1.1" => 1,
        b"HTTP/1.0" => 0,
        _ if version.starts_with(b"HTTP/") => return Err(Refusal::BadVersion),
        _ => return Err(Refusal::BadRequestLine),
    };
    if target.len() > limits.target {
        return Err(Refusal::TargetTooLong);
    }
    if target.is_empty() || !target.iter().all(|b| TARGET[usize::from(*b)]) {
        return Err(Refusal::BadTarget);
    }
    Ok(((0, method_end), (method_end + 1, target_end), minor))
}

const METHOD_MAX: usize = 32;

/// What a target may hold: RFC 3986's characters, and `" < > ^ ` { | }` besides, which browsers and old clients send
/// raw and every reader takes alike or refuses (see [`Head::respelt`]). Refused: controls, space, DEL, octets above ASCII, `#` (a fragment, which readers
/// cut off or keep) and `\` (which some readers take for `/`).
const TARGET: [bool; 256] = {
    let mut table = [false; 256];
    let mut octet = 0x21;
    while octet < 0x7f {
        table[octet] = octet != b'#' as usize && octet != b'\\' as usize;
        octet += 1;
    }
    table
};

/// What is learnt from the fields as they pass.
struct RequestFields {
    minor: u8,
    host: Option<Range>,
    host_text: Vec<u8>,
    length: Option<u64>,
    chunked: bool,
}

impl RequestFields {
    fn new(minor: u8) -> Self {
        Self { minor, host: None, host_text: Vec::new(), length: None, chunked: false }
    }

    fn see(&mut self, buf: &[u8], field: &Field) -> Result<(), Refusal> {
        let name = buf.get(field.name.0..field.name.1).unwrap_or_default();
        let value = buf.get(field.value.0..field.value.1).unwrap_or_default();
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                if self.host.replace(field.value).is_some() {
                    return Err(Refusal::DuplicateHost);
                }
                if !value.is_empty() && !host::is_valid(value) {
                    return Err(Refusal::BadHost);
                }
                self.host_text = value.to_ascii_lowercase();
            }
            6 if name.eq_ignore_ascii_case(b"expect") && !value.eq_ignore_ascii_case(b"100-continue") => {
                return Err(Refusal::BadExpect);
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.replace(fields::content_length(value)?).is_some() {
                    return Err(Refusal::DuplicateContentLength);
                }
            }
            // Readers that turn `_` into `-` (CGI, WSGI) would see these as framing; nobody honest sends them.
            14 if name.eq_ignore_ascii_case(b"content_length") => return Err(Refusal::BadContentLength),
            17 if name.eq_ignore_ascii_case(b"transfer_encoding") => return Err(Refusal::BadTransferEncoding),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.minor == 0 {
                    return Err(Refusal::OldTransferEncoding);
                }
                if std::mem::replace(&mut self.chunked, true) || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::BadTransferEncoding);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self, method: &[u8], target: &[u8]) -> Result<Framing, Refusal> {
        if self.minor == 1 && self.host.is_none() {
            return Err(Refusal::MissingHost);
        }
        let authority = target_authority(method, target)?;
        if let (Some(authority), Some(_)) = (authority, self.host)
            && !authority.eq_ignore_ascii_case(&self.host_text)
        {
            return Err(Refusal::HostMismatch);
        }
        if self.minor == 1 && authority.is_none() && self.host_text.is_empty() && method != b"OPTIONS" {
            // An http(s) URI always has a host (RFC 9110 §4.2.1), so an empty Host names nothing we could serve.
            return Err(Refusal::BadHost);
        }
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Refusal::LengthAndChunked),
            (true, None) => Ok(Framing::Chunked),
            (false, None | Some(0)) => Ok(Framing::None),
            (false, Some(length)) => Ok(Framing::Length(length)),
        }
    }
}

/// Where the authority of an absolute target stands; of no other form.
pub(crate) fn authority_range(target: &[u8]) -> Option<(usize, usize)> {
    let start = ["http://", "https://"].iter().find_map(|scheme| {
        let front = target.get(..scheme.len())?;
        front.eq_ignore_ascii_case(scheme.as_bytes()).then_some(scheme.len())
    })?;
    let length = target.iter().skip(start).position(|b| matches!(b, b'/' | b'?'));
    Some((start, length.map_or(target.len(), |length| start + length)))
}

/// Checks the form of the target against the method (RFC 9112 §3.2) and gives the authority where one is in it.
fn target_authority<'t>(method: &[u8], target: &'t [u8]) -> Result<Option<&'t [u8]>, Refusal> {
    if method == b"CONNECT" {
        let has_port = memchr::memrchr(b':', target).is_some_and(|at| at + 1 < target.len());
        return if has_port && host::is_valid(target) { Ok(Some(target)) } else { Err(Refusal::BadTarget) };
    }
    match target {
        [b'/', ..] => Ok(None),
        b"*" if method == b"OPTIONS" => Ok(None),
        _ => {
            let (start, end) = authority_range(target).ok_or(Refusal::BadTarget)?;
            let authority = target.get(start..end).unwrap_or_default();
            // No user information: RFC 9110 §4.2.4 has it treated as an error.
            if host::is_valid(authority) { Ok(Some(authority)) } else { Err(Refusal::BadTarget) }
        }
    }
}

//! Looks for personal data in the two messages of an exchange, and covers or withholds it.
//!
//! Bodies are looked at as they pass. Only those that must not pass with a finding in them are held, up to a limit; what comes
//! after it is looked at too, and a finding there cuts the body short. Never held are event streams and gRPC. Responses that are
//! to be covered or withheld are asked for unpacked and whole (no Accept-Encoding, no Range): packing costs the upstream what
//! unpacking costs us, and half a number is not found. What comes packed nevertheless goes on unpacked.

use super::{
    contract::is_bodyless,
    decode::{Coded, Decoder, Unreadable},
};
use crate::privacy_guard::PrivacyGuard;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use portcullis_policy::Reason;
use portcullis_privacy::{Scanner, Until, Watch};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc};

/// One exchange's findings so far.
#[derive(Debug)]
pub(crate) struct Redactor {
    guard: Arc<PrivacyGuard>,
    heads: Heads,
    request: BodyScan,
    response: BodyScan,
}

/// What a request's or response's head had in it: direction, part and rule.
type Heads = BTreeMap<(Direction, Part, usize), u32>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Direction {
    Request,
    Response,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Part {
    Url,
    Header,
    Body,
}

/// Without the value: that is the point of it.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) direction: Direction,
    pub(crate) part: Part,
    pub(crate) detector: String,
    pub(crate) action: &'static str,
    pub(crate) count: u32,
}

/// How one body is looked at.
#[derive(Debug, Default)]
enum BodyScan {
    /// Not at all, or no more.
    #[default]
    Off,
    On(Box<Reading>),
}

#[derive(Debug)]
struct Reading {
    form: Form,
    scanner: Scanner,
    decoder: Option<Decoder>,
    /// Octets that the decoder was given, and that it gave.
    packed: u64,
    unpacked: u64,
    /// Until the verdict.
    held: Option<Vec<u8>>,
    /// It cannot be read any further, and need not be.
    given_up: bool,
}

/// All that a reading begins with.
#[derive(Debug, Clone)]
struct Form {
    watch: Arc<Watch>,
    coded: Coded,
    kind: Kind,
    direction: Direction,
    /// Most that a packed body may come to.
    unpacked_max: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Events,
    Grpc,
    Other,
}

/// Held until the verdict; longer ones are looked at as they pass.
const REQUEST_HELD_MAX: usize = 128 << 10;
const RESPONSE_HELD_MAX: usize = 512 << 10;
/// A response that is only looked at is not unpacked beyond this.
const LOOKED_AT_MAX: u64 = 64 << 20;

impl Redactor {
    /// Looks at a request's head; `body`: there is one, which may come to so much.
    pub(super) fn begin(
        guard: Arc<PrivacyGuard>,
        header: &RequestHeader,
        body: Option<u64>,
    ) -> (Self, Result<(), Reason>) {
        let mut heads = Heads::new();
        let mut blocked = false;
        if guard.request.strictest().is_some() {
            let target = header.raw_path();
            blocked |= look(&guard.request, target, &mut heads, (Direction::Request, Part::Url));
            for value in header.headers.values() {
                blocked |= look(&guard.request, value.as_bytes(), &mut heads, (Direction::Request, Part::Header));
            }
        }
        let request = match body {
            Some(limit) => BodyScan::begin(&guard.request, Direction::Request, &header.headers, limit),
            None => Ok(BodyScan::Off),
        };
        let verdict = if blocked {
            Err(found(Direction::Request))
        } else {
            request.as_ref().map(|_| ()).map_err(|reason| *reason)
        };
        (Self { guard, heads, request: request.unwrap_or_default(), response: BodyScan::Off }, verdict)
    }

    /// Whether nothing of the request's body may pass yet.
    pub(super) fn holds_request(&self) -> bool {
        matches!(&self.request, BodyScan::On(reading) if reading.held.is_some())
    }

    /// A new attempt sends the body from its first octet.
    pub(crate) fn begin_attempt(&mut self) {
        if let BodyScan::On(reading) = &mut self.request {
            **reading = Reading::new(reading.form.clone());
        }
    }

    /// Changes the head that the upstream is sent.
    pub(super) fn shape_request(&self, request: &mut RequestHeader) {
        if self.guard.response.withholds() {
            for name in [header::ACCEPT_ENCODING, header::RANGE, header::IF_RANGE] {
                request.remove_header(&name);
            }
        }
        if !self.guard.request.withholds() {
            return;
        }
        if self.heads.keys().any(|(direction, _, _)| *direction == Direction::Request) {
            let (target, _) = self.guard.request.look(request.raw_path());
            if target != request.raw_path()
                && let Some(uri) = retargeted(&request.uri, &target)
            {
                request.set_uri(uri);
            }
            for (name, values) in covered(&self.guard.request, &request.headers) {
                request.remove_header(&name);
                values.into_iter().for_each(|value| drop(request.append_header(name.clone(), value)));
            }
        }
        if self.request.unpacks() {
            request.remove_header(&header::CONTENT_ENCODING);
            request.remove_header(&header::CONTENT_LENGTH);
            if request.version == http::Version::HTTP_11 {
                let _ = request.insert_header(header::TRANSFER_ENCODING, "chunked");
            }
        }
        if matches!(self.request, BodyScan::On(_)) {
            remove_digests(|name| drop(request.remove_header(name)));
        }
    }

    pub(super) fn request_chunk(&mut self, body: &mut Option<Bytes>, end: bool) -> Result<(), Reason> {
        self.request.pass(body, end)?;
        if body.is_none() && !end {
            // No chunk at all would end the body upstream.
            *body = Some(Bytes::new());
        }
        Ok(())
    }

    /// Looks at a response's head.
    pub(super) fn response_head(
        &mut self,
        response: &mut ResponseHeader,
        request: &RequestHeader,
    ) -> Result<(), Reason> {
        let watch = self.guard.response.clone();
        if watch.strictest().is_none() || response.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        let mut blocked = false;
        let before = self.heads.len();
        for value in response.headers.values() {
            blocked |= look(&watch, value.as_bytes(), &mut self.heads, (Direction::Response, Part::Header));
        }
        if blocked {
            return Err(found(Direction::Response));
        }
        if self.heads.len() > before && watch.withholds() {
            for (name, values) in covered(&watch, &response.headers) {
                response.remove_header(&name);
                values.into_iter().for_each(|value| drop(response.append_header(name.clone(), value)));
            }
        }
        if is_bodyless(response, request) {
            return Ok(());
        }
        let limit = if watch.withholds() { u64::MAX } else { LOOKED_AT_MAX };
        self.response = BodyScan::begin(&watch, Direction::Response, &response.headers, limit)?;
        if watch.withholds() && matches!(self.response, BodyScan::On(_)) {
            remove_digests(|name| drop(response.remove_header(name)));
        }
        if self.response.unpacks() {
            unpack_head(response, request);
        }
        Ok(())
    }

    /// The head may be with the client by then: what is refused here is withheld, and the connection ends.
    pub(super) fn response_chunk(&mut self, body: &mut Option<Bytes>, end: bool) -> Result<(), Reason> {
        self.response.pass(body, end)
    }

    pub(crate) fn guard(&self) -> &Arc<PrivacyGuard> {
        &self.guard
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        let mut counts = self.heads.clone();
        for (direction, scan) in [(Direction::Request, &self.request), (Direction::Response, &self.response)] {
            if let BodyScan::On(reading) = scan {
                counts.extend(reading.scanner.found().map(|(rule, count)| ((direction, Part::Body, rule), count)));
            }
        }
        let each = counts.into_iter().filter_map(|((direction, part, rule), count)| {
            let watch = match direction {
                Direction::Request => &self.guard.request,
                Direction::Response => &self.guard.response,
            };
            let rule = watch.rules().get(rule)?;
            let (detector, action) = (rule.detector.name().to_owned(), rule.action.as_str());
            Some(Finding { direction, part, detector, action, count })
        });
        each.collect()
    }
}

impl Direction {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Response => "response",
        }
    }
}

impl Part {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Url => "url",
            Self::Header => "header",
            Self::Body => "body",
        }
    }
}

impl BodyScan {
    fn begin(watch: &Arc<Watch>, direction: Direction, headers: &HeaderMap, unpacked_max: u64) -> Result<Self, Reason> {
        let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        let coded = Coded::of(headers);
        if watch.strictest().is_none() || is_no_text(content_type) {
            return Ok(Self::Off);
        }
        if coded == Coded::Unknown {
            // Security fails closed: what cannot be read cannot be said to be clean.
            return if watch.withholds() { Err(unreadable(direction)) } else { Ok(Self::Off) };
        }
        let form = Form { watch: watch.clone(), coded, kind: Kind::of(content_type), direction, unpacked_max };
        Ok(Self::On(Box::new(Reading::new(form))))
    }

    /// Whether the body goes on in another coding than it came.
    fn unpacks(&self) -> bool {
        matches!(self, Self::On(reading) if reading.form.watch.withholds() && reading.form.coded != Coded::Plain)
    }

    fn pass(&mut self, body: &mut Option<Bytes>, end: bool) -> Result<(), Reason> {
        match self {
            Self::Off => Ok(()),
            Self::On(reading) => reading.pass(body, end),
        }
    }
}

impl Reading {
    fn new(form: Form) -> Self {
        let decoder = match form.coded {
            Coded::Packed(packing) => Decoder::new(packing).ok(),
            Coded::Plain | Coded::Unknown => None,
        };
        let scanner = match form.kind {
            Kind::Json => Scanner::of_json(form.watch.clone()),
            Kind::Events | Kind::Grpc | Kind::Other => Scanner::new(form.watch.clone()),
        };
        let holds = form.watch.rules().iter().any(|rule| rule.action == portcullis_privacy::PrivacyAction::Block);
        let streams = matches!(form.kind, Kind::Events | Kind::Grpc);
        Self {
            form,
            scanner,
            decoder,
            packed: 0,
            unpacked: 0,
            held: (holds && !streams).then(Vec::new),
            given_up: false,
        }
    }

    fn pass(&mut self, body: &mut Option<Bytes>, end: bool) -> Result<(), Reason> {
        if self.given_up {
            return Ok(());
        }
        let withholds = self.form.watch.withholds();
        let unpacked = match self.unpack(body.as_deref().unwrap_or_default(), end) {
            Ok(unpacked) => unpacked,
            // Availability: a body that is only looked at passes, readable or not.
            Err(_) if !withholds => {
                self.given_up = true;
                return Ok(());
            }
            Err(reason) => return Err(reason),
        };
        let piece = unpacked.as_deref().or(body.as_deref()).unwrap_or_default();
        let until = match self.form.kind {
            _ if end => Until::End,
            Kind::Grpc => Until::Pause,
            Kind::Json | Kind::Events | Kind::Other => Until::More,
        };
        let mut out = Vec::with_capacity(if withholds { piece.len() + self.scanner.waiting() } else { 0 });
        self.scanner.feed(piece, until, &mut out);
        if !withholds {
            return Ok(());
        }
        if self.scanner.is_blocked() {
            return Err(found(self.form.direction));
        }
        let held_max = match self.form.direction {
            Direction::Request => REQUEST_HELD_MAX,
            Direction::Response => RESPONSE_HELD_MAX,
        };
        if let Some(held) = &mut self.held {
            held.append(&mut out);
            if end || held.len() > held_max {
                out = self.held.take().unwrap_or_default();
            }
        }
        *body = (!out.is_empty()).then(|| out.into());
        Ok(())
    }

    /// `None`: the body is not packed.
    fn unpack(&mut self, piece: &[u8], end: bool) -> Result<Option<Vec<u8>>, Reason> {
        let Some(decoder) = &mut self.decoder else { return Ok(None) };
        let direction = self.form.direction;
        self.packed += piece.len() as u64;
        let read = decoder.piece(piece).and_then(|read| {
            // An empty body has no end to come to.
            if end && self.packed > 0 {
                decoder.finish()?
            }
            Ok(read)
        });
        let read = read.map_err(|unreadable_| match unreadable_ {
            Unreadable::TooLarge if direction == Direction::Request => Reason::BodyTooLarge,
            Unreadable::TooLarge | Unreadable::Broken => unreadable(direction),
        })?;
        self.unpacked += read.len() as u64;
        if self.unpacked > self.form.unpacked_max {
            return Err(Reason::BodyTooLarge);
        }
        Ok(Some(read))
    }
}

impl Kind {
    fn of(content_type: &[u8]) -> Self {
        let kind = essence(content_type);
        match kind.as_slice() {
            b"application/json" | b"text/json" => Self::Json,
            b"text/event-stream" => Self::Events,
            kind if kind.starts_with(b"application/grpc") => Self::Grpc,
            kind if kind.ends_with(b"+json") => Self::Json,
            _ => Self::Other,
        }
    }
}

fn essence(content_type: &[u8]) -> Vec<u8> {
    content_type.split(|octet| *octet == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase()
}

/// Pictures, sound, fonts and archives: digits in them are not numbers, and covering some would break the whole.
fn is_no_text(content_type: &[u8]) -> bool {
    let kind = essence(content_type);
    const KINDS: [&[u8]; 7] = [
        b"application/zip",
        b"application/gzip",
        b"application/x-gzip",
        b"application/zstd",
        b"application/x-7z-compressed",
        b"application/pdf",
        b"application/wasm",
    ];
    let families: [&[u8]; 4] = [b"image/", b"audio/", b"video/", b"font/"];
    (families.iter().any(|family| kind.starts_with(family)) && kind != b"image/svg+xml") || KINDS.contains(&&*kind)
}

/// Counts what a text has in it; whether it must not pass.
fn look(watch: &Arc<Watch>, text: &[u8], heads: &mut Heads, place: (Direction, Part)) -> bool {
    // The shortest of them is a social security number; patterns can be shorter.
    if text.len() < SHORTEST && watch.rules().iter().all(|rule| !rule.detector.is_custom()) {
        return false;
    }
    let (_, scanner) = watch.look(text);
    for (rule, count) in scanner.found() {
        *heads.entry((place.0, place.1, rule)).or_default() += count;
    }
    scanner.is_blocked()
}

const SHORTEST: usize = 11;

/// Fields with something to cover in them, each with all of its values as they may pass.
fn covered(watch: &Arc<Watch>, headers: &HeaderMap) -> Vec<(HeaderName, Vec<HeaderValue>)> {
    let mut changed = Vec::new();
    for name in headers.keys() {
        let before: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        let after: Vec<Vec<u8>> = before.iter().map(|value| watch.look(value).0).collect();
        if after != before {
            // Asterisks are fit for a field's value.
            let values = after.iter().filter_map(|value| HeaderValue::from_bytes(value).ok()).collect();
            changed.push((name.clone(), values));
        }
    }
    changed
}

/// The head of a response that came packed and goes on unpacked.
fn unpack_head(response: &mut ResponseHeader, request: &RequestHeader) {
    for name in [header::CONTENT_ENCODING, header::CONTENT_LENGTH, header::ACCEPT_RANGES] {
        response.remove_header(&name);
    }
    // Two forms do not share a strong validator (RFC 9110 §8.8.1).
    let etag = response.headers.get(header::ETAG).map(|etag| etag.as_bytes().to_vec());
    if let Some(weak) = etag.filter(|etag| !etag.starts_with(b"W/")).map(|etag| [b"W/", &etag[..]].concat())
        && let Ok(weak) = HeaderValue::from_bytes(&weak)
    {
        let _ = response.insert_header(header::ETAG, weak);
    }
    if request.version == http::Version::HTTP_11 {
        let _ = response.insert_header(header::TRANSFER_ENCODING, "chunked");
    }
}

/// Sums of a body that may leave in another form (RFC 9530).
fn remove_digests(mut remove: impl FnMut(&str)) {
    ["content-digest", "repr-digest", "digest", "content-md5"].into_iter().for_each(&mut remove);
}

/// The same request for the covered target. Over h2 the authority is part of it, and stays.
fn retargeted(uri: &http::Uri, target: &[u8]) -> Option<http::Uri> {
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(http::uri::PathAndQuery::try_from(target).ok()?);
    http::Uri::from_parts(parts).ok()
}

fn found(direction: Direction) -> Reason {
    let status = match direction {
        Direction::Request => 403,
        Direction::Response => 502,
    };
    Reason::Denied { label: "privacy", status }
}

fn unreadable(direction: Direction) -> Reason {
    let status = match direction {
        Direction::Request => 415,
        Direction::Response => 502,
    };
    Reason::Denied { label: "privacy_unreadable", status }
}

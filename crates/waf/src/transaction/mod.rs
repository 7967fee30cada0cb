//! One request and its response, fed in pieces; the rules run at the end of each phase.

pub(crate) mod audit;
mod clock;
mod effects;
mod evaluate;
pub(crate) mod facts;
mod state;
mod values;

use std::time::Duration;

use crate::Waf;
use crate::body::{self, Contents, Multipart, MultipartLimits};
use crate::operator::integer;
use crate::program::settings::LimitAction;
use crate::seclang::action::{Allowed, AuditMode, EngineMode, Phase, Processor, Switch};
use audit::{Audit, Cause, Intervention, Response};
use facts::{Connection, Facts};
use state::State;
use values::Sources;

/// A transaction in progress.
///
/// The calls are to be made in the order of the methods below; each phase that is told to be done runs its rules. After
/// an [`Intervention`] only [`Transaction::finish`] has anything left to do.
#[derive(Debug)]
pub struct Transaction<'w> {
    waf: &'w Waf,
    connection: Connection,
    facts: Facts,
    state: State,
    request_body: RequestBody,
    response_body: Vec<u8>,
}

/// How the request body is being read.
#[derive(Debug)]
enum RequestBody {
    /// Nothing of it has come.
    Unread,
    /// Held whole, up to a limit.
    Held(Vec<u8>),
    /// Read as it comes; files are not kept.
    Streamed(Box<Multipart>),
}

impl<'w> Transaction<'w> {
    pub(crate) fn new(waf: &'w Waf, connection: Connection) -> Self {
        Self {
            waf,
            connection,
            facts: Facts::default(),
            state: State::new(&waf.program.settings),
            request_body: RequestBody::Unread,
            response_body: Vec::new(),
        }
    }

    /// Runs this transaction in another mode than `SecRuleEngine` says.
    pub fn set_mode(&mut self, mode: EngineMode) {
        self.state.engine = mode;
    }

    /// Sets a member of TX before the rules run, such as `blocking_paranoia_level`.
    pub fn set_tx(&mut self, name: &str, value: &str) {
        self.state.set_tx(name.as_bytes(), Some(value.as_bytes().to_vec()));
    }

    /// The request line: for HTTP/2 the pseudo-headers, with `HTTP/2.0` as protocol.
    pub fn request_line(&mut self, method: &[u8], uri: &[u8], protocol: &[u8]) {
        self.facts.set_request_line(method, uri, protocol);
    }

    /// One header line of the request.
    pub fn request_header(&mut self, name: &[u8], value: &[u8]) {
        self.facts.headers.push(name, value);
    }

    /// All headers are there: phase 1.
    pub fn request_headers_done(&mut self) -> Option<Intervention> {
        let settings = &self.waf.program.settings;
        let Facts { headers, cookies, query, args_get, .. } = &mut self.facts;
        for (_, cookie) in headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(b"cookie")) {
            body::form::read_cookies(cookie, settings.arguments, cookies);
        }
        let faults = body::form::read(query, settings.argument_separator, settings.arguments, args_get);
        self.facts.invalid_escapes = faults.invalid_escapes;
        if faults.too_many {
            self.facts.contents.error = Some(format!("more than {} arguments", settings.arguments));
        }
        self.state.processor = self.processor_by_type();
        self.run(Phase::RequestHeaders)
    }

    /// ModSecurity itself only knows the two types of forms; JSON and XML are chosen by rules.
    fn processor_by_type(&self) -> Option<Processor> {
        let content_type = self.facts.headers.get(b"content-type")?.to_ascii_lowercase();
        if content_type.starts_with(b"application/x-www-form-urlencoded") {
            Some(Processor::UrlEncoded)
        } else if content_type.starts_with(b"multipart/form-data") {
            Some(Processor::Multipart)
        } else {
            None
        }
    }

    /// Whether the request body is to be handed in; known after phase 1.
    #[must_use]
    pub fn wants_request_body(&self) -> bool {
        self.state.request_body == Switch::On && self.is_running()
    }

    /// A piece of the request body.
    pub fn request_body_chunk(&mut self, chunk: &[u8]) -> Option<Intervention> {
        if !self.wants_request_body() || chunk.is_empty() {
            return None;
        }
        if matches!(self.request_body, RequestBody::Unread) {
            self.request_body = self.begin_body();
        }
        let limit = match self.request_body {
            RequestBody::Streamed(_) => self.state.request_limit_bytes,
            RequestBody::Unread | RequestBody::Held(_) => {
                self.state.request_limit_bytes.min(self.waf.program.settings.request_body_no_files_limit_bytes)
            }
        };
        let room = limit.saturating_sub(self.facts.body_bytes);
        self.facts.body_bytes = self.facts.body_bytes.saturating_add(chunk.len());
        let kept = chunk.get(..room).unwrap_or(chunk);
        match &mut self.request_body {
            RequestBody::Unread => {}
            RequestBody::Held(body) => body.extend_from_slice(kept),
            RequestBody::Streamed(reader) => reader.feed(kept),
        }
        if kept.len() == chunk.len() {
            return None;
        }
        self.facts.body_truncated = true;
        let reject = self.waf.program.settings.request_body_limit_action == LimitAction::Reject;
        if !reject || self.state.engine != EngineMode::On || self.state.intervention.is_some() {
            return None;
        }
        // RFC 9110 §15.5.14: content too large.
        let response = Response::Deny { status: 413 };
        self.state.intervention =
            Some(Intervention { response, cause: Cause::RequestBodyLimit, phase: Phase::RequestBody });
        self.state.intervention.clone()
    }

    fn begin_body(&mut self) -> RequestBody {
        // A body of no known type is read as a form when a rule wants to see it, as ModSecurity 2 does.
        if self.state.processor.is_none() && self.state.force_request_body == Switch::On {
            self.state.processor = Some(Processor::UrlEncoded);
        }
        if self.state.processor != Some(Processor::Multipart) {
            return RequestBody::Held(Vec::new());
        }
        let settings = &self.waf.program.settings;
        let limits = MultipartLimits {
            fields: settings.arguments,
            files: settings.upload_files,
            field_bytes: settings.request_body_no_files_limit_bytes,
        };
        let content_type = self.facts.headers.get(b"content-type").unwrap_or_default();
        match Multipart::new(content_type, limits) {
            Ok(reader) => RequestBody::Streamed(Box::new(reader)),
            Err((flags, error)) => {
                self.facts.contents.multipart = flags;
                self.facts.contents.error = Some(error);
                RequestBody::Held(Vec::new())
            }
        }
    }

    /// The request body is complete, or there is none: phase 2.
    pub fn request_body_done(&mut self) -> Option<Intervention> {
        match std::mem::replace(&mut self.request_body, RequestBody::Unread) {
            RequestBody::Unread => {}
            RequestBody::Streamed(reader) => self.merge(reader.finish()),
            RequestBody::Held(body) => self.read_held(body),
        }
        self.run(Phase::RequestBody)
    }

    fn read_held(&mut self, held: Vec<u8>) {
        let settings = &self.waf.program.settings;
        let mut contents = Contents::default();
        let visible = match self.state.processor {
            Some(Processor::UrlEncoded) => {
                let room = settings.arguments.saturating_sub(self.facts.args_get.len());
                let faults = body::form::read(&held, settings.argument_separator, room, &mut contents.args);
                contents.invalid_escapes = faults.invalid_escapes;
                if faults.too_many {
                    contents.error = Some(format!("more than {} arguments", settings.arguments));
                }
                true
            }
            Some(Processor::Json) => {
                body::read_json(&held, settings.json_depth, settings.arguments, &mut contents);
                false
            }
            Some(Processor::Xml) => {
                body::read_xml(&held, settings.arguments, &mut contents);
                false
            }
            Some(Processor::Multipart) | None => false,
        };
        if visible || self.state.force_request_body == Switch::On {
            self.facts.body = Some(held);
        }
        self.merge(contents);
    }

    /// Takes over what a body held; an earlier error stays.
    fn merge(&mut self, mut contents: Contents) {
        let earlier = std::mem::take(&mut self.facts.contents);
        if earlier.error.is_some() {
            contents.error = earlier.error;
            contents.multipart.unreadable |= earlier.multipart.unreadable;
        }
        self.facts.contents = contents;
    }

    /// The status line of the response.
    pub fn response_line(&mut self, status: u16, protocol: &[u8]) {
        self.facts.status = Some(status);
        self.facts.response_protocol = protocol.to_vec();
    }

    /// One header line of the response.
    pub fn response_header(&mut self, name: &[u8], value: &[u8]) {
        self.facts.response_headers.push(name, value);
    }

    /// All response headers are there: phase 3.
    pub fn response_headers_done(&mut self) -> Option<Intervention> {
        self.run(Phase::ResponseHeaders)
    }

    /// Whether the response body is to be handed in; known after phase 3.
    #[must_use]
    pub fn wants_response_body(&self) -> bool {
        if self.state.response_body == Switch::Off || !self.is_running() {
            return false;
        }
        let content_type = self.facts.response_headers.get(b"content-type").unwrap_or_default();
        let media_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let types = &self.waf.program.settings.response_types;
        types.iter().any(|wanted| media_type.eq_ignore_ascii_case(wanted.as_bytes()) || (wanted == "null" && media_type.is_empty()))
    }

    /// A piece of the response body.
    pub fn response_body_chunk(&mut self, chunk: &[u8]) -> Option<Intervention> {
        if !self.wants_response_body() {
            return None;
        }
        let room = self.state.response_limit_bytes.saturating_sub(self.response_body.len());
        let kept = chunk.get(..room).unwrap_or(chunk);
        self.response_body.extend_from_slice(kept);
        if kept.len() == chunk.len() {
            return None;
        }
        self.facts.response_truncated = true;
        let reject = self.waf.program.settings.response_body_limit_action == LimitAction::Reject;
        if !reject || self.state.engine != EngineMode::On || self.state.intervention.is_some() {
            return None;
        }
        let response = Response::Deny { status: 500 };
        self.state.intervention =
            Some(Intervention { response, cause: Cause::ResponseBodyLimit, phase: Phase::ResponseBody });
        self.state.intervention.clone()
    }

    /// The response body is complete, or is not inspected: phase 4.
    pub fn response_body_done(&mut self) -> Option<Intervention> {
        if self.wants_response_body() {
            self.facts.response_body = Some(std::mem::take(&mut self.response_body));
        }
        self.run(Phase::ResponseBody)
    }

    /// Tells how long the transaction took, for `DURATION`.
    pub fn set_elapsed(&mut self, elapsed: Duration) {
        self.facts.elapsed = elapsed;
    }

    /// Phase 5, and the report.
    #[must_use]
    pub fn finish(mut self) -> Audit {
        self.run(Phase::Logging);
        let mut scores: Vec<(String, i64)> = self
            .state
            .all_tx()
            .filter(|(name, _)| memchr::memmem::find(name, b"score").is_some())
            .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), integer(value)))
            .collect();
        scores.sort();
        let relevant = match self.state.audit {
            AuditMode::On => true,
            AuditMode::Off => false,
            AuditMode::RelevantOnly => !self.state.matches.is_empty() || self.status_is_relevant(),
        };
        Audit { matches: self.state.matches, scores, intervention: self.state.intervention, relevant }
    }

    fn status_is_relevant(&self) -> bool {
        let (Some(pattern), Some(status)) = (&self.waf.program.settings.audit_statuses, self.facts.status) else {
            return false;
        };
        pattern.is_match(status.to_string().as_bytes())
    }

    fn is_running(&self) -> bool {
        self.state.engine != EngineMode::Off && self.state.intervention.is_none()
    }

    /// Runs a phase, unless the transaction is over or what `allow` spares.
    fn run(&mut self, phase: Phase) -> Option<Intervention> {
        let over = self.state.intervention.is_some() && phase != Phase::Logging;
        let spared = match self.state.allowed {
            None => false,
            Some(Allowed::Phase) => {
                self.state.allowed = None;
                false
            }
            Some(Allowed::Request) => phase <= Phase::RequestBody,
            Some(Allowed::Everything) => phase != Phase::Logging,
        };
        if over || spared || self.state.engine == EngineMode::Off {
            return None;
        }
        let sources = Sources {
            program: &self.waf.program,
            store: &self.waf.store,
            connection: &self.connection,
            facts: &self.facts,
        };
        evaluate::phase(sources, &mut self.state, phase);
        self.state.intervention.clone().filter(|_| phase != Phase::Logging)
    }
}

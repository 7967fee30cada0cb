//! One request and its response, fed in pieces; the rules run at the end of each phase.

pub(crate) mod audit;
mod clock;
mod collect;
mod effects;
mod evaluate;
pub(crate) mod facts;
pub(crate) mod held;
mod memory;
pub(crate) mod origin;
pub(crate) mod state;
pub(crate) mod trace;
mod values;
pub(crate) mod work;

use std::sync::Arc;
use std::time::Duration;

use crate::Waf;
use crate::accelerate::Gear;
use crate::body::content_encoding::{Fault, Unpacker};
use crate::body::grpc::Packing;
use crate::body::{self, Contents, Multipart, MultipartLimits};
use crate::profile::{ExclusionEffect, Profile};
use crate::program::settings::LimitAction;
use crate::seclang::action::{Allowed, AuditMode, EngineMode, Phase, Processor, Switch};
use audit::{Audit, Cause, Cut, Intervention, Response};
use facts::{Connection, Facts};
use held::Held;
use memory::{Lent, Memory};
use values::Sources;

/// A transaction in progress.
///
/// The calls are to be made in the order of the methods below; each phase that is told to be done runs its rules. After
/// an [`Intervention`] only [`Transaction::finish`] has anything left to do.
#[derive(Debug)]
pub struct Transaction<'w> {
    waf: Held<'w, Waf>,
    connection: Connection,
    /// Handed back when the transaction ends.
    memory: Lent,
    request_body: RequestBody,
    request_unpacker: Unpacker,
    response_body: Vec<u8>,
    response_unpacker: Option<Unpacker>,
    cut: Vec<Cut>,
    profile: Option<Held<'w, Profile>>,
    /// The exclusions of the profile that apply.
    exclusions: Vec<usize>,
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
    pub(crate) fn new(waf: Held<'w, Waf>, connection: Connection) -> Self {
        Self {
            memory: Lent::new(&waf.program),
            waf,
            connection,
            request_body: RequestBody::Unread,
            request_unpacker: Unpacker::Plain,
            response_body: Vec::new(),
            response_unpacker: None,
            cut: Vec::new(),
            profile: None,
            exclusions: Vec::new(),
        }
    }

    pub(crate) fn with_profile(mut self, profile: Held<'w, Profile>) -> Self {
        if let Some(mode) = profile.mode {
            self.set_mode(mode);
        }
        let names = &self.waf.program.tx_names;
        for (name, value) in &profile.tx {
            // A name that no rule mentions needs no value.
            if let Some(slot) = names.slot(name.as_bytes()) {
                self.memory.state.pin(slot, value.as_bytes());
            }
        }
        self.profile = Some(profile);
        self
    }

    /// Takes out what the profile excludes from this request.
    fn exclude(&mut self) {
        let Some(profile) = &self.profile else { return };
        let Memory { facts, state, .. } = &mut *self.memory;
        for (number, exclusion) in profile.exclusions.iter().enumerate() {
            if !exclusion.applies(&facts.method, &facts.path, self.connection.now) {
                continue;
            }
            self.exclusions.push(number);
            match &exclusion.effect {
                ExclusionEffect::Rules(rules) => state.removed_rules.extend(rules),
                ExclusionEffect::Target(removal) => state.removed_targets.push(Arc::clone(removal)),
            }
        }
    }

    fn note_cut(&mut self, cut: Cut) {
        if !self.cut.contains(&cut) {
            self.cut.push(cut);
        }
    }

    /// Runs this transaction in another mode than `SecRuleEngine` says.
    pub fn set_mode(&mut self, mode: EngineMode) {
        self.memory.state.engine = mode;
    }

    /// Runs every rule on every value, without the prefilter. The outcome is the same, only later: for tests.
    #[doc(hidden)]
    pub fn run_plainly(&mut self) {
        self.memory.workshop.scan.gear = Gear::Plain;
    }

    /// Notes what becomes of every rule, for [`Audit::trace`]. Costs far more than the transaction itself.
    pub fn trace(&mut self) {
        self.memory.workshop.tracer = Some(Box::default());
    }

    /// Sets a member of TX before the rules run, such as `blocking_paranoia_level`.
    pub fn set_tx(&mut self, name: &str, value: &str) {
        self.memory.state.set_tx(&self.waf.program.tx_names, name.as_bytes(), Some(value.as_bytes()));
    }

    /// The request line: for HTTP/2 the pseudo-headers, with `HTTP/2.0` as protocol.
    pub fn request_line(&mut self, method: &[u8], uri: &[u8], protocol: &[u8]) {
        self.memory.facts.set_request_line(method, uri, protocol);
    }

    /// One header line of the request.
    pub fn request_header(&mut self, name: &[u8], value: &[u8]) {
        self.memory.facts.headers.push(name, value);
    }

    /// All headers are there: phase 1.
    pub fn request_headers_done(&mut self) -> Option<Intervention> {
        let settings = &self.waf.program.settings;
        let mut too_many_cookies = false;
        let Facts { headers, cookies, query, args_get, .. } = &mut self.memory.facts;
        for (_, cookie) in headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case(b"cookie")) {
            too_many_cookies |= body::form::read_cookies(cookie, settings.arguments, cookies);
        }
        let faults = body::form::read(query, settings.argument_separator, settings.arguments, args_get);
        self.memory.facts.invalid_escapes = faults.invalid_escapes;
        if faults.too_many {
            self.memory.facts.contents.error = Some(format!("more than {} arguments", settings.arguments));
        }
        if too_many_cookies || faults.too_many {
            self.note_cut(Cut::Arguments);
        }
        self.memory.state.processor = self.processor_by_type();
        self.exclude();
        self.run(Phase::RequestHeaders)
    }

    /// ModSecurity itself only knows the two types of forms; JSON and XML are chosen by rules. GraphQL and gRPC it does not
    /// know at all.
    fn processor_by_type(&self) -> Option<Processor> {
        let content_type = self.memory.facts.headers.get(b"content-type")?;
        let begins =
            |prefix: &[u8]| content_type.get(..prefix.len()).is_some_and(|own| own.eq_ignore_ascii_case(prefix));
        if begins(b"application/x-www-form-urlencoded") {
            Some(Processor::UrlEncoded)
        } else if begins(b"multipart/form-data") {
            Some(Processor::Multipart)
        } else if begins(b"application/graphql") {
            Some(Processor::GraphQl)
        } else if begins(b"application/grpc") {
            Some(Processor::Grpc)
        } else {
            None
        }
    }

    /// Whether the request body is to be handed in; known after phase 1.
    #[must_use]
    pub fn wants_request_body(&self) -> bool {
        self.memory.state.request_body == Switch::On && self.is_running()
    }

    /// A piece of the request body, compressed or not.
    pub fn request_body_chunk(&mut self, chunk: &[u8]) -> Option<Intervention> {
        if !self.wants_request_body() || chunk.is_empty() {
            return None;
        }
        if matches!(self.request_body, RequestBody::Unread) {
            self.request_body = self.begin_body();
            let encoding = self.memory.facts.headers.get(b"content-encoding").unwrap_or_default();
            self.request_unpacker = Unpacker::new(encoding);
            if matches!(self.request_unpacker, Unpacker::Unknown) {
                self.note_cut(Cut::Encoding);
            }
        }
        // One byte more than there is room for tells that the limit is passed.
        let room = self.request_room().saturating_add(1);
        match self.request_unpacker.unpack(chunk, room) {
            None => self.take_request_body(chunk),
            Some(Ok(unpacked)) => self.take_request_body(&unpacked),
            Some(Err(Fault::TooLarge)) => self.request_too_large(),
            Some(Err(Fault::Broken)) => {
                self.note_cut(Cut::Encoding);
                let contents = &mut self.memory.facts.contents;
                contents.error.get_or_insert_with(|| "the body is not what its Content-Encoding says".to_owned());
                None
            }
        }
    }

    /// How much of the request body may still come.
    fn request_room(&self) -> usize {
        let limit = match self.request_body {
            RequestBody::Streamed(_) => self.memory.state.request_limit_bytes,
            RequestBody::Unread | RequestBody::Held(_) => {
                self.memory.state.request_limit_bytes.min(self.waf.program.settings.request_body_no_files_limit_bytes)
            }
        };
        limit.saturating_sub(self.memory.facts.body_bytes)
    }

    fn take_request_body(&mut self, chunk: &[u8]) -> Option<Intervention> {
        let room = self.request_room();
        self.memory.facts.body_bytes = self.memory.facts.body_bytes.saturating_add(chunk.len());
        let kept = chunk.get(..room).unwrap_or(chunk);
        match &mut self.request_body {
            RequestBody::Unread => {}
            RequestBody::Held(body) => body.extend_from_slice(kept),
            RequestBody::Streamed(reader) => reader.feed(kept),
        }
        if kept.len() == chunk.len() { None } else { self.request_too_large() }
    }

    fn request_too_large(&mut self) -> Option<Intervention> {
        self.memory.facts.body_truncated = true;
        self.note_cut(Cut::RequestBody);
        let reject = self.waf.program.settings.request_body_limit_action == LimitAction::Reject;
        if !reject || self.memory.state.engine != EngineMode::On || self.memory.state.intervention.is_some() {
            return None;
        }
        // RFC 9110 §15.5.14: content too large.
        let response = Response::Deny { status: 413 };
        self.memory.state.intervention =
            Some(Intervention { response, cause: Cause::RequestBodyLimit, phase: Phase::RequestBody });
        self.memory.state.intervention.clone()
    }

    fn begin_body(&mut self) -> RequestBody {
        // A body of no known type is read as a form when a rule wants to see it, as ModSecurity 2 does.
        if self.memory.state.processor.is_none() && self.memory.state.force_request_body == Switch::On {
            self.memory.state.processor = Some(Processor::UrlEncoded);
        }
        if self.memory.state.processor != Some(Processor::Multipart) {
            return RequestBody::Held(Vec::new());
        }
        let settings = &self.waf.program.settings;
        let limits = MultipartLimits {
            fields: settings.arguments,
            files: settings.upload_files,
            field_bytes: settings.request_body_no_files_limit_bytes,
            file_contents: self.waf.program.file_contents,
        };
        let content_type = self.memory.facts.headers.get(b"content-type").unwrap_or_default();
        match Multipart::new(content_type, limits) {
            Ok(reader) => RequestBody::Streamed(Box::new(reader)),
            Err((flags, error)) => {
                self.memory.facts.contents.multipart = flags;
                self.memory.facts.contents.error = Some(error);
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
        let visible = match self.memory.state.processor {
            Some(Processor::UrlEncoded) => {
                let room = settings.arguments.saturating_sub(self.memory.facts.args_get.len());
                let faults = body::form::read(&held, settings.argument_separator, room, &mut contents.args);
                contents.invalid_escapes = faults.invalid_escapes;
                contents.truncated = faults.too_many;
                if faults.too_many {
                    contents.error = Some(format!("more than {} arguments", settings.arguments));
                }
                true
            }
            Some(Processor::Json) => {
                body::read_json(&held, settings.json_depth, settings.arguments, &mut contents);
                let query = contents.args.get(b"json.query").filter(|query| body::graphql::is_document(query));
                if let Some(query) = query.map(<[u8]>::to_vec) {
                    body::graphql::read(&query, b"json.query", settings.arguments, &mut contents);
                }
                false
            }
            Some(Processor::Xml) => {
                body::read_xml(&held, settings.arguments, &mut contents);
                false
            }
            Some(Processor::GraphQl) => {
                body::graphql::read(&held, b"graphql", settings.arguments, &mut contents);
                true
            }
            Some(Processor::Grpc) => {
                let packing = match self.memory.facts.headers.get(b"grpc-encoding") {
                    Some(name) if name.eq_ignore_ascii_case(b"gzip") => Packing::Gzip,
                    Some(_) | None => Packing::Unknown,
                };
                let room = settings.request_body_no_files_limit_bytes;
                body::grpc::read(&held, packing, room, settings.arguments, &mut contents);
                false
            }
            Some(Processor::Multipart) | None => false,
        };
        if visible || self.memory.state.force_request_body == Switch::On {
            self.memory.facts.body = Some(held);
        }
        self.merge(contents);
    }

    /// Takes over what a body held; an earlier error stays.
    fn merge(&mut self, mut contents: Contents) {
        let earlier = std::mem::take(&mut self.memory.facts.contents);
        if contents.truncated {
            self.note_cut(Cut::Arguments);
        }
        if contents.files_cut {
            self.note_cut(Cut::Files);
        }
        if earlier.error.is_some() {
            contents.error = earlier.error;
            contents.multipart.unreadable |= earlier.multipart.unreadable;
        }
        self.memory.facts.contents = contents;
    }

    /// The status line of the response.
    pub fn response_line(&mut self, status: u16, protocol: &[u8]) {
        self.memory.facts.status = Some(status);
        self.memory.facts.response_protocol.clear();
        self.memory.facts.response_protocol.extend_from_slice(protocol);
    }

    /// One header line of the response.
    pub fn response_header(&mut self, name: &[u8], value: &[u8]) {
        self.memory.facts.response_headers.push(name, value);
    }

    /// All response headers are there: phase 3.
    pub fn response_headers_done(&mut self) -> Option<Intervention> {
        self.run(Phase::ResponseHeaders)
    }

    /// Whether the response body is to be handed in; known after phase 3.
    #[must_use]
    pub fn wants_response_body(&self) -> bool {
        if self.memory.state.response_body == Switch::Off || !self.is_running() {
            return false;
        }
        let content_type = self.memory.facts.response_headers.get(b"content-type").unwrap_or_default();
        let media_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let types = &self.waf.program.settings.response_types;
        types.iter().any(|wanted| {
            media_type.eq_ignore_ascii_case(wanted.as_bytes()) || (wanted == "null" && media_type.is_empty())
        })
    }

    /// A piece of the response body, compressed or not.
    pub fn response_body_chunk(&mut self, chunk: &[u8]) -> Option<Intervention> {
        if !self.wants_response_body() {
            return None;
        }
        if self.response_unpacker.is_none() {
            let encoding = self.memory.facts.response_headers.get(b"content-encoding").unwrap_or_default();
            let unpacker = Unpacker::new(encoding);
            if matches!(unpacker, Unpacker::Unknown) {
                self.note_cut(Cut::Encoding);
            }
            self.response_unpacker = Some(unpacker);
        }
        let room = self.memory.state.response_limit_bytes.saturating_sub(self.response_body.len());
        let unpacked =
            self.response_unpacker.as_mut().and_then(|unpacker| unpacker.unpack(chunk, room.saturating_add(1)));
        match unpacked {
            None => self.take_response_body(chunk, room),
            Some(Ok(unpacked)) => self.take_response_body(&unpacked, room),
            Some(Err(Fault::TooLarge)) => self.response_too_large(),
            Some(Err(Fault::Broken)) => {
                self.note_cut(Cut::Encoding);
                None
            }
        }
    }

    fn take_response_body(&mut self, chunk: &[u8], room: usize) -> Option<Intervention> {
        let kept = chunk.get(..room).unwrap_or(chunk);
        self.response_body.extend_from_slice(kept);
        if kept.len() == chunk.len() { None } else { self.response_too_large() }
    }

    fn response_too_large(&mut self) -> Option<Intervention> {
        self.memory.facts.response_truncated = true;
        self.note_cut(Cut::ResponseBody);
        let reject = self.waf.program.settings.response_body_limit_action == LimitAction::Reject;
        if !reject || self.memory.state.engine != EngineMode::On || self.memory.state.intervention.is_some() {
            return None;
        }
        let response = Response::Deny { status: 500 };
        self.memory.state.intervention =
            Some(Intervention { response, cause: Cause::ResponseBodyLimit, phase: Phase::ResponseBody });
        self.memory.state.intervention.clone()
    }

    /// The response body is complete, or is not inspected: phase 4.
    pub fn response_body_done(&mut self) -> Option<Intervention> {
        if self.wants_response_body() {
            self.memory.facts.response_body = Some(std::mem::take(&mut self.response_body));
        }
        self.run(Phase::ResponseBody)
    }

    /// Tells how long the transaction took, for `DURATION`.
    pub fn set_elapsed(&mut self, elapsed: Duration) {
        self.memory.facts.elapsed = elapsed;
    }

    /// Phase 5, and the report.
    #[must_use]
    pub fn finish(mut self) -> Audit {
        self.run(Phase::Logging);
        let relevant = match self.memory.state.audit {
            AuditMode::On => true,
            AuditMode::Off => false,
            AuditMode::RelevantOnly => !self.memory.state.matches.is_empty() || self.status_is_relevant(),
        };
        let state = &mut self.memory.state;
        // Where nothing matched the scores say nothing, and ordinary requests are spared the work.
        let mut scores: Vec<(String, i64)> = Vec::new();
        if !state.matches.is_empty() {
            scores = state.scores(&self.waf.program.tx_names);
        }
        let trace = self.memory.workshop.tracer.take().map(|tracer| tracer.finish()).unwrap_or_default();
        let mut cut = std::mem::take(&mut self.cut);
        if self.memory.workshop.shortened {
            cut.push(Cut::Words);
        }
        let refused = self.memory.workshop.work.refused();
        if refused > 0 {
            cut.push(Cut::Work { tests: refused });
        }
        let work = self.memory.workshop.work.spent();
        let state = &mut self.memory.state;
        Audit {
            cut,
            work,
            exclusions: std::mem::take(&mut self.exclusions),
            trace,
            matches: std::mem::take(&mut state.matches),
            scores,
            intervention: state.intervention.take(),
            would_refuse: state.would_refuse,
            relevant,
        }
    }

    fn status_is_relevant(&self) -> bool {
        let (Some(pattern), Some(status)) = (&self.waf.program.settings.audit_statuses, self.memory.facts.status)
        else {
            return false;
        };
        pattern.is_match(status.to_string().as_bytes())
    }

    fn is_running(&self) -> bool {
        self.memory.state.engine != EngineMode::Off && self.memory.state.intervention.is_none()
    }

    /// Runs a phase, unless the transaction is over or what `allow` spares.
    fn run(&mut self, phase: Phase) -> Option<Intervention> {
        let over = self.memory.state.intervention.is_some() && phase != Phase::Logging;
        let spared = match self.memory.state.allowed {
            None => false,
            Some(Allowed::Phase) => {
                self.memory.state.allowed = None;
                false
            }
            Some(Allowed::Request) => phase <= Phase::RequestBody,
            Some(Allowed::Everything) => phase != Phase::Logging,
        };
        if over || spared || self.memory.state.engine == EngineMode::Off {
            return None;
        }
        let Memory { facts, state, workshop } = &mut *self.memory;
        let sources =
            Sources { program: &self.waf.program, store: &self.waf.store, connection: &self.connection, facts };
        workshop.scan.outdate();
        workshop.work.earn(facts.received_bytes());
        let refused = workshop.work.refused();
        evaluate::phase(sources, state, workshop, phase);
        let exhausted = workshop.work.refused() > refused;
        if exhausted && state.engine == EngineMode::On && state.intervention.is_none() && phase != Phase::Logging {
            // What was not inspected may hold anything: fail closed.
            let response = Response::Deny { status: 403 };
            state.intervention = Some(Intervention { response, cause: Cause::Work, phase });
        }
        state.intervention.clone().filter(|_| phase != Phase::Logging)
    }
}

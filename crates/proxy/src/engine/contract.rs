//! Holds an exchange against the documents of its API.
//!
//! Bodies that have a schema are gathered up to the document's limit, and held where a violation is to be blocked; nothing else
//! is ever held: uploads, event streams and gRPC have no schema that could be looked into.

use super::decode::{Coded, Decoder};
use crate::{api_guard::ApiGuard, stage::Exchange};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use portcullis_api::{Api, ApiMode, Operation, Presence, RequestHead, Violation, ViolationGroup, ViolationKind};
use portcullis_policy::Reason;
use serde::Serialize;
use std::sync::Arc;

/// The documents' side of one exchange.
#[derive(Debug)]
pub(crate) struct Contract {
    guard: Arc<ApiGuard>,
    /// By the guard's APIs.
    operations: Vec<Option<Arc<Operation>>>,
    request: Gathering,
    response: Gathering,
    status: u16,
    told: Vec<Breach>,
}

/// A violation, of which document, and what was done about it.
#[derive(Debug, Serialize)]
pub(crate) struct Breach {
    pub(crate) api: String,
    pub(crate) operation: Option<String>,
    #[serde(flatten)]
    pub(crate) violation: Violation,
    pub(crate) action: &'static str,
}

/// One body on its way.
#[derive(Debug, Default)]
enum Gathering {
    /// Nobody asks for it, or the verdict is there.
    #[default]
    Off,
    On(Box<Gathered>),
}

#[derive(Debug)]
struct Gathered {
    group: ViolationGroup,
    content_type: String,
    coded: Coded,
    max: usize,
    holds: Holds,
    decoder: Option<Decoder>,
    /// Unpacked.
    plain: Vec<u8>,
    /// As it came.
    held: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Back,
    Nothing,
}

/// Told of one exchange.
const TOLD_MAX: usize = 20;

impl Contract {
    pub(super) fn begin(
        guard: Arc<ApiGuard>,
        header: &RequestHeader,
        exchange: &mut Exchange,
        presence: Presence,
    ) -> (Self, Result<(), Reason>) {
        let mut contract = Self {
            operations: vec![None; guard.apis.len()],
            guard,
            request: Gathering::Off,
            response: Gathering::Off,
            status: 0,
            told: Vec::new(),
        };
        let verdict = contract.head(header, exchange, presence);
        (contract, verdict)
    }

    fn head(&mut self, header: &RequestHeader, exchange: &mut Exchange, presence: Presence) -> Result<(), Reason> {
        let values = |name: &str| -> Vec<String> {
            let all = header.headers.get_all(name).iter();
            all.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
        };
        let path = exchange.path.clone();
        let head =
            RequestHead { method: header.method.as_str(), path: &path, query: header.uri.query(), header: &values };
        let content_type = text_of(&header.headers);
        let guard = self.guard.clone();
        for (index, (_, api)) in guard.apis.iter().enumerate() {
            let (operation, violations) = api.check_head(&head);
            if let Some(slot) = self.operations.get_mut(index) {
                *slot = operation.clone();
            }
            if violations.iter().any(|violation| violation.kind == ViolationKind::UnknownMethod) {
                exchange.allow = Some(api.allowed(&path));
            }
            self.tell(index, violations)?;
            if let Some(operation) = operation {
                self.tell(index, operation.check_body_head(content_type.as_deref(), presence))?;
            }
        }
        let Some(content_type) = content_type.filter(|_| presence == Presence::Present) else { return Ok(()) };
        self.request = self.gather(ViolationGroup::Request, &header.headers, content_type)?;
        Ok(())
    }

    /// Begins to gather a body that at least one document looks into.
    fn gather(
        &mut self,
        group: ViolationGroup,
        headers: &HeaderMap,
        content_type: String,
    ) -> Result<Gathering, Reason> {
        let looking: Vec<usize> =
            (0..self.guard.apis.len()).filter(|index| self.looks(*index, group, &content_type)).collect();
        let apis = || looking.iter().filter_map(|index| self.guard.apis.get(*index)).map(|(_, api)| api);
        let Some(max) = apis().map(|api| api.body_max()).min() else { return Ok(Gathering::Off) };
        let holds = if apis().any(|api| api.mode(group) == ApiMode::Block) { Holds::Back } else { Holds::Nothing };
        let coded = Coded::of(headers);
        if coded == Coded::Unknown {
            let kind = body_kind(group);
            for index in looking {
                self.tell(index, vec![Violation::new(kind, "body", "it is packed in a way that cannot be read")])?;
            }
            return Ok(Gathering::Off);
        }
        let mut gathered =
            Gathered { group, content_type, coded, max, holds, decoder: None, plain: Vec::new(), held: Vec::new() };
        gathered.restart();
        Ok(Gathering::On(Box::new(gathered)))
    }

    fn looks(&self, index: usize, group: ViolationGroup, content_type: &str) -> bool {
        let (Some((_, api)), Some(Some(operation))) = (self.guard.apis.get(index), self.operations.get(index)) else {
            return false;
        };
        api.mode(group) != ApiMode::Off
            && match group {
                ViolationGroup::Response | ViolationGroup::ResponseUnsupported => {
                    operation.looks_into_response(self.status, Some(content_type))
                }
                ViolationGroup::Request | ViolationGroup::Unknown | ViolationGroup::Unsupported => {
                    operation.looks_into_body(Some(content_type))
                }
            }
    }

    /// Whether nothing of the request's body may pass yet.
    pub(super) fn holds_request(&self) -> bool {
        matches!(&self.request, Gathering::On(gathered) if gathered.holds == Holds::Back)
    }

    /// A new attempt sends the body from its first octet.
    pub(crate) fn begin_attempt(&mut self) {
        if let Gathering::On(gathered) = &mut self.request {
            gathered.restart();
        }
    }

    pub(super) fn request_chunk(&mut self, body: &mut Option<Bytes>, end: bool) -> Result<(), Reason> {
        let mut gathering = std::mem::take(&mut self.request);
        let verdict = self.chunk(&mut gathering, body, end);
        self.request = gathering;
        if body.is_none() && !end {
            // No chunk at all would end the body upstream.
            *body = Some(Bytes::new());
        }
        verdict
    }

    /// Looks at a response's head.
    pub(super) fn response_head(&mut self, response: &ResponseHeader, request: &RequestHeader) -> Result<(), Reason> {
        self.status = response.status.as_u16();
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        let is_empty = response.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() == b"0");
        let presence = if is_empty || is_bodyless(response, request) { Presence::Absent } else { Presence::Present };
        let content_type = text_of(&response.headers);
        for (index, operation) in self.operations.clone().into_iter().enumerate() {
            let Some(operation) = operation else { continue };
            self.tell(index, operation.check_response_head(self.status, content_type.as_deref(), presence))?;
        }
        if let Some(content_type) = content_type.filter(|_| presence == Presence::Present) {
            self.response = self.gather(ViolationGroup::Response, &response.headers, content_type)?;
        }
        Ok(())
    }

    pub(super) fn response_chunk(&mut self, body: &mut Option<Bytes>, end: bool) -> Result<(), Reason> {
        let mut gathering = std::mem::take(&mut self.response);
        let verdict = self.chunk(&mut gathering, body, end);
        self.response = gathering;
        verdict
    }

    fn chunk(&mut self, gathering: &mut Gathering, body: &mut Option<Bytes>, end: bool) -> Result<(), Reason> {
        let Gathering::On(gathered) = gathering else { return Ok(()) };
        let group = gathered.group;
        let fault = gathered.take(body, end).err();
        if fault.is_none() && !end {
            return Ok(());
        }
        for index in 0..self.guard.apis.len() {
            if !self.looks(index, group, &gathered.content_type) {
                continue;
            }
            let violations = match (&fault, self.operations.get(index)) {
                (Some(violation), _) => vec![violation.clone()],
                (None, Some(Some(operation))) => gathered.differences(operation, self.status),
                (None, _) => Vec::new(),
            };
            self.tell(index, violations)?;
        }
        // Nobody objects: what was held goes on, and the rest after it.
        if gathered.holds == Holds::Back {
            let held = std::mem::take(&mut gathered.held);
            *body = (!held.is_empty()).then(|| held.into());
        }
        *gathering = Gathering::Off;
        Ok(())
    }

    /// Notes violations as far as the document's mode wants; the first one that is to be blocked is the verdict.
    fn tell(&mut self, index: usize, violations: Vec<Violation>) -> Result<(), Reason> {
        let Some((name, api)) = self.guard.apis.get(index) else { return Ok(()) };
        let (name, api): (String, Arc<Api>) = (name.clone(), api.clone());
        let operation = self.operations.get(index).and_then(|operation| operation.as_ref());
        let operation = operation.map(|operation| operation.name().to_owned());
        let mut verdict = Ok(());
        for violation in violations {
            let mode = api.mode(violation.kind.group());
            if mode == ApiMode::Off {
                continue;
            }
            if mode == ApiMode::Block && verdict.is_ok() {
                let (status, label) = violation.kind.refusal();
                verdict = Err(Reason::Denied { label, status });
            }
            if self.told.len() < TOLD_MAX {
                let action = mode.as_str();
                self.told.push(Breach { api: name.clone(), operation: operation.clone(), violation, action });
            }
        }
        verdict
    }

    pub(crate) fn into_breaches(self) -> Vec<Breach> {
        self.told
    }
}

impl Gathered {
    fn restart(&mut self) {
        self.decoder = match self.coded {
            Coded::Packed(packing) => Decoder::new(packing).ok(),
            Coded::Plain | Coded::Unknown => None,
        };
        self.plain = Vec::new();
        self.held = Vec::new();
    }

    /// Takes in a chunk, and what is held of it out of `body`.
    fn take(&mut self, body: &mut Option<Bytes>, end: bool) -> Result<(), Violation> {
        let (group, max) = (self.group, self.max);
        let chunk = if self.holds == Holds::Back { body.take() } else { body.clone() }.unwrap_or_default();
        if self.holds == Holds::Back {
            self.held.extend_from_slice(&chunk);
        }
        let broken = |_| Violation::new(body_kind(group), "body", "it cannot be unpacked");
        match &mut self.decoder {
            None => self.plain.extend_from_slice(&chunk),
            Some(decoder) => {
                self.plain.extend(decoder.piece(&chunk).map_err(broken)?);
                if end {
                    decoder.finish().map_err(broken)?;
                }
            }
        }
        if self.plain.len() > max {
            let kind = match group {
                ViolationGroup::Response | ViolationGroup::ResponseUnsupported => ViolationKind::ResponseBody,
                ViolationGroup::Request | ViolationGroup::Unknown | ViolationGroup::Unsupported => {
                    ViolationKind::BodyTooLarge
                }
            };
            return Err(Violation::new(
                kind,
                "body",
                format!("it has more than {max} octets, which are not looked into"),
            ));
        }
        Ok(())
    }

    fn differences(&self, operation: &Operation, status: u16) -> Vec<Violation> {
        let content_type = Some(self.content_type.as_str());
        match self.group {
            ViolationGroup::Response | ViolationGroup::ResponseUnsupported => {
                operation.check_response_body(status, content_type, &self.plain)
            }
            ViolationGroup::Request | ViolationGroup::Unknown | ViolationGroup::Unsupported => {
                operation.check_body(content_type, &self.plain)
            }
        }
    }
}

fn body_kind(group: ViolationGroup) -> ViolationKind {
    match group {
        ViolationGroup::Response | ViolationGroup::ResponseUnsupported => ViolationKind::ResponseBody,
        ViolationGroup::Request | ViolationGroup::Unknown | ViolationGroup::Unsupported => ViolationKind::Body,
    }
}

fn text_of(headers: &HeaderMap) -> Option<String> {
    headers
        .get(header::CONTENT_TYPE)
        .map(HeaderValue::as_bytes)
        .map(|value| String::from_utf8_lossy(value).into_owned())
}

/// Nothing follows the head, whatever it says (RFC 9112 §6.3).
pub(super) fn is_bodyless(response: &ResponseHeader, request: &RequestHeader) -> bool {
    request.method == http::Method::HEAD || matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

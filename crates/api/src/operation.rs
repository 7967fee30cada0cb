//! One method of one path: its parameters, its body, its responses.

use crate::{
    Violation, ViolationKind,
    content::{Content, Media, table},
    document::{Document, Fault, escape},
    parameter::{Parameter, Place},
    schemas::Schemas,
};
use serde_json::Value;
use std::collections::BTreeMap;

/// Whether a message has a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Present,
    Absent,
}

#[derive(Debug)]
pub struct Operation {
    /// `GET /pets/{id}`
    name: String,
    pub(crate) parameters: Vec<Parameter>,
    body: Option<Body>,
    /// By `200`, `2XX` or `default`.
    responses: BTreeMap<String, Content>,
}

#[derive(Debug)]
struct Body {
    required: bool,
    content: Content,
}

const UNSUPPORTED: &str = "its format is not looked into, so that its schema says nothing";

impl Operation {
    /// `pointer`: of the operation; `shared`: where the parameters of its path are.
    pub(crate) fn compile(
        document: &Document,
        schemas: &Schemas,
        name: String,
        pointer: &str,
        shared: &str,
        faults: &mut Vec<Fault>,
    ) -> Self {
        let mut parameters: Vec<Parameter> = Vec::new();
        for at in [format!("{pointer}/parameters"), format!("{shared}/parameters")] {
            let count = document.value.pointer(&at).and_then(Value::as_array).map_or(0, Vec::len);
            for index in 0..count {
                let Some(one) = Parameter::compile(document, schemas, &format!("{at}/{index}"), faults) else {
                    continue;
                };
                // The operation's own replace those of the path.
                if !parameters.iter().any(|known| known.place == one.place && known.name == one.name) {
                    parameters.push(one);
                }
            }
        }
        let body_at = format!("{pointer}/requestBody");
        let body = document.value.pointer(&body_at).and_then(|_| {
            let (at, body) = document.follow(&body_at).map_err(|fault| faults.push(fault)).ok()?;
            let required = body.get("required").and_then(Value::as_bool).unwrap_or(false);
            Some(Body { required, content: Content::compile(document, schemas, &format!("{at}/content"), faults) })
        });
        let mut responses = BTreeMap::new();
        let operation = document.value.pointer(pointer).unwrap_or(&Value::Null);
        for (status, _) in table(operation, "responses") {
            let at = format!("{pointer}/responses/{}", escape(status));
            match document.follow(&at) {
                Ok((at, _)) => {
                    let content = Content::compile(document, schemas, &format!("{at}/content"), faults);
                    responses.insert(status.to_ascii_uppercase(), content);
                }
                Err(fault) => faults.push(fault),
            }
        }
        Self { name, parameters, body, responses }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What of a request's body the head alone tells.
    pub fn check_body_head(&self, content_type: Option<&str>, presence: Presence) -> Vec<Violation> {
        let one = |kind, message: &str| vec![Violation::new(kind, "body", message)];
        match (&self.body, presence) {
            (None, Presence::Absent) => Vec::new(),
            (None, Presence::Present) => one(ViolationKind::BodyUnexpected, "the operation has none"),
            (Some(body), Presence::Absent) if body.required => one(ViolationKind::BodyMissing, "it is required"),
            (Some(_), Presence::Absent) => Vec::new(),
            (Some(body), Presence::Present) => match content_type.map(|kind| body.content.find(kind)) {
                Some(Some(media)) if media.is_unsupported() => one(ViolationKind::BodyUnsupported, UNSUPPORTED),
                Some(Some(_)) => Vec::new(),
                None => one(ViolationKind::ContentType, "the request does not say what its body is"),
                Some(None) => one(ViolationKind::ContentType, "the operation does not take this content type"),
            },
        }
    }

    /// Whether a body of this type has to be there as a whole.
    pub fn looks_into_body(&self, content_type: Option<&str>) -> bool {
        self.media(content_type).is_some_and(Media::is_looked_into)
    }

    pub fn check_body(&self, content_type: Option<&str>, body: &[u8]) -> Vec<Violation> {
        told(self.media(content_type), ViolationKind::Body, content_type, body)
    }

    fn media(&self, content_type: Option<&str>) -> Option<&Media> {
        self.body.as_ref()?.content.find(content_type?)
    }

    pub fn check_response_head(&self, status: u16, content_type: Option<&str>, presence: Presence) -> Vec<Violation> {
        let one = |kind, message: &str| vec![Violation::new(kind, "response", message)];
        match self.response(status) {
            None => one(ViolationKind::ResponseStatus, "the operation does not have this status"),
            Some(content) if presence == Presence::Present && !content.is_empty() => match content_type
                .map(|kind| content.find(kind))
            {
                Some(Some(media)) if media.is_unsupported() => one(ViolationKind::ResponseBodyUnsupported, UNSUPPORTED),
                Some(Some(_)) => Vec::new(),
                _ => one(ViolationKind::ResponseContentType, "the operation does not answer with this content type"),
            },
            Some(_) => Vec::new(),
        }
    }

    pub fn looks_into_response(&self, status: u16, content_type: Option<&str>) -> bool {
        self.response_media(status, content_type).is_some_and(Media::is_looked_into)
    }

    pub fn check_response_body(&self, status: u16, content_type: Option<&str>, body: &[u8]) -> Vec<Violation> {
        told(self.response_media(status, content_type), ViolationKind::ResponseBody, content_type, body)
    }

    fn response_media(&self, status: u16, content_type: Option<&str>) -> Option<&Media> {
        self.response(status)?.find(content_type?)
    }

    fn response(&self, status: u16) -> Option<&Content> {
        let exact = self.responses.get(&status.to_string());
        exact.or_else(|| self.responses.get(&format!("{}XX", status / 100))).or_else(|| self.responses.get("DEFAULT"))
    }

    pub(crate) fn of(&self, place: Place) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter().filter(move |parameter| parameter.place == place)
    }
}

fn told(media: Option<&Media>, kind: ViolationKind, content_type: Option<&str>, body: &[u8]) -> Vec<Violation> {
    let found = media.map(|media| media.differences(content_type.unwrap_or_default(), body)).unwrap_or_default();
    found
        .into_iter()
        .map(|(place, message)| Violation::new(kind, format!("body {place}").trim_end(), message))
        .collect()
}

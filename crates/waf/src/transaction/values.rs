//! What each variable holds: the one place that maps names to facts and state.

use std::borrow::Cow;

use super::facts::{Connection, Facts};
use super::state::State;
use crate::operator::integer;
use crate::pairs::Pairs;
use crate::program::Program;
use crate::seclang::target::{Selector, Target};
use crate::seclang::template::{Piece, Template};
use crate::seclang::variable::Variable;
use crate::store::Store;

/// A value of a variable, with its member name if it is one of many.
#[derive(Debug, Clone)]
pub(super) struct Value<'t> {
    pub(super) variable: Variable,
    pub(super) member: Option<Cow<'t, [u8]>>,
    pub(super) bytes: Cow<'t, [u8]>,
}

impl Value<'_> {
    /// `ARGS:q`.
    pub(super) fn full_name(&self) -> Vec<u8> {
        let mut name = self.variable.name().as_bytes().to_vec();
        if let Some(member) = &self.member {
            name.push(b':');
            name.extend_from_slice(member);
        }
        name
    }
}

/// Everything a value can come from.
#[derive(Clone, Copy)]
pub(super) struct Sources<'t> {
    pub(super) program: &'t Program,
    pub(super) store: &'t Store,
    pub(super) connection: &'t Connection,
    pub(super) facts: &'t Facts,
}

impl<'t> Sources<'t> {
    /// Fills a template in.
    pub(super) fn expand(&self, template: &Template, state: &State) -> Vec<u8> {
        let mut text = Vec::new();
        for piece in &template.pieces {
            match piece {
                Piece::Text(fixed) => text.extend_from_slice(fixed),
                Piece::Macro(target) => {
                    let mut first = None;
                    self.visit(target, state, &mut |value| {
                        first.get_or_insert(value.bytes.into_owned());
                    });
                    text.extend(first.unwrap_or_default());
                }
            }
        }
        text
    }

    /// Hands every value of a target to `found`.
    pub(super) fn visit(&self, target: &Target, state: &State, found: &mut dyn FnMut(Value<'t>)) {
        let Target { variable, selector } = target;
        let mut collection = Collection { variable: *variable, selector, found };
        self.collections(*variable, state, &mut collection);
    }

    fn collections(&self, variable: Variable, state: &State, out: &mut Collection<'_, 't>) {
        let facts = self.facts;
        let contents = &facts.contents;
        match variable {
            Variable::Args => {
                out.pairs(&facts.args_get);
                out.pairs(&contents.args);
            }
            Variable::ArgsNames => {
                out.names(&facts.args_get);
                out.names(&contents.args);
            }
            Variable::ArgsGet => out.pairs(&facts.args_get),
            Variable::ArgsGetNames => out.names(&facts.args_get),
            Variable::ArgsPost => out.pairs(&contents.args),
            Variable::ArgsPostNames => out.names(&contents.args),
            Variable::Files => out.pairs(&contents.files),
            Variable::FilesNames => out.names(&contents.files),
            Variable::FilesSizes => {
                contents.file_sizes.iter().for_each(|(name, size)| out.member(name, number(*size)));
            }
            Variable::MultipartPartHeaders => out.pairs(&contents.part_headers),
            Variable::RequestCookies => out.pairs(&facts.cookies),
            Variable::RequestCookiesNames => out.names(&facts.cookies),
            Variable::RequestHeaders => out.pairs(&facts.headers),
            Variable::RequestHeadersNames => out.names(&facts.headers),
            Variable::ResponseHeaders => out.pairs(&facts.response_headers),
            Variable::ResponseHeadersNames => out.names(&facts.response_headers),
            Variable::Xml => {
                if let Some((text, attributes)) = &contents.xml {
                    if out.selector.admits(b"/*") {
                        out.member(b"/*", Cow::Borrowed(text));
                    }
                    if out.selector.admits(b"//@*") {
                        attributes.iter().for_each(|(_, value)| out.member(b"//@*", Cow::Borrowed(value)));
                    }
                }
            }
            Variable::Tx => match out.selector {
                Selector::Name(name) => {
                    if let Some(value) = state.tx(name) {
                        out.owned(name, value);
                    }
                }
                Selector::All | Selector::Pattern(_) => {
                    // The order of a hash map is no order; rules and logs want one.
                    let mut members: Vec<_> = state.all_tx().collect();
                    members.sort_unstable();
                    members.into_iter().for_each(|(name, value)| out.owned(name, value));
                }
            },
            Variable::Env => state.env.iter().for_each(|(name, value)| out.owned(name, value)),
            Variable::MatchedVars => state.matched.iter().for_each(|(name, value)| out.owned(name, value)),
            Variable::MatchedVarsNames => state.matched.iter().for_each(|(name, _)| out.owned(name, name)),
            Variable::Global | Variable::Ip | Variable::Resource | Variable::Session | Variable::User => {
                self.persistent(variable, state, out);
            }
            Variable::Rule => self.rule(state, out),
            Variable::Geo => {}
            scalar => {
                if let Some(value) = self.scalar(scalar, state) {
                    (out.found)(Value { variable: scalar, member: None, bytes: value });
                }
            }
        }
    }

    fn persistent(&self, variable: Variable, state: &State, out: &mut Collection<'_, 't>) {
        let Some(key) = state.collection(variable) else { return };
        let now = self.connection.now;
        match out.selector {
            Selector::Name(name) => {
                let name = name.to_ascii_lowercase();
                if let Some(value) = self.store.get(key, &name, now) {
                    out.owned(&name, &value);
                }
            }
            Selector::All | Selector::Pattern(_) => {
                self.store.all(key, now).into_iter().for_each(|(name, value)| out.owned(&name, &value));
            }
        }
    }

    fn rule(&self, state: &State, out: &mut Collection<'_, 't>) {
        let Some(rule) = state.current.and_then(|at| self.program.rules.get(at)) else { return };
        out.owned(b"id", rule.id.to_string().as_bytes());
        if let Some(severity) = rule.actions.severity {
            out.owned(b"severity", severity.number().to_string().as_bytes());
        }
        if let Some(revision) = &rule.actions.revision {
            out.owned(b"rev", revision.as_bytes());
        }
        for (name, template) in [(&b"msg"[..], &rule.actions.message), (b"logdata", &rule.actions.log_data)] {
            if let Some(text) = template.as_ref().and_then(Template::fixed) {
                out.owned(name, text);
            }
        }
    }

    fn scalar(&self, variable: Variable, state: &State) -> Option<Cow<'t, [u8]>> {
        let facts = self.facts;
        let text = |bytes: &'t [u8]| Some(Cow::Borrowed(bytes));
        match variable {
            Variable::ArgsCombinedSize => {
                Some(number(facts.args_get.combined_bytes() + facts.contents.args.combined_bytes()))
            }
            Variable::AuthType => facts.headers.get(b"authorization").and_then(|value| value.split(|byte| *byte == b' ').next()).and_then(text),
            Variable::Duration => Some(Cow::Owned(facts.elapsed.as_millis().to_string().into_bytes())),
            Variable::FilesCombinedSize => Some(number(facts.contents.file_sizes.iter().map(|(_, size)| size).sum())),
            Variable::FullRequest => Some(Cow::Owned(self.full_request())),
            Variable::FullRequestLength => Some(number(self.full_request().len())),
            Variable::HighestSeverity => {
                Some(number(state.highest_severity.map_or(255, |severity| usize::from(severity.number()))))
            }
            Variable::InboundDataError => Some(flag(facts.body_truncated)),
            Variable::OutboundDataError => Some(flag(facts.response_truncated)),
            Variable::MatchedVar => state.last_matched.as_ref().map(|(_, value)| Cow::Owned(value.clone())),
            Variable::MatchedVarName => state.last_matched.as_ref().map(|(name, _)| Cow::Owned(name.clone())),
            Variable::PathInfo | Variable::RequestFilename => text(&facts.path),
            Variable::QueryString => text(&facts.query),
            Variable::RemoteAddr | Variable::RemoteHost => Some(display(self.connection.client.to_canonical())),
            Variable::RemotePort => Some(display(self.connection.client_port)),
            Variable::RemoteUser => None,
            Variable::ReqbodyError | Variable::ReqbodyProcessorError => Some(flag(facts.contents.error.is_some())),
            Variable::ReqbodyErrorMsg | Variable::ReqbodyProcessorErrorMsg => {
                facts.contents.error.as_ref().map(|error| Cow::Borrowed(error.as_bytes()))
            }
            Variable::ReqbodyProcessor => text(state.processor.map_or(b"", |processor| processor.name().as_bytes())),
            Variable::RequestBasename => text(facts.basename()),
            Variable::RequestBody => facts.body.as_deref().and_then(text),
            Variable::RequestBodyLength => Some(number(facts.body_bytes)),
            Variable::RequestLine => text(&facts.request_line),
            Variable::RequestMethod => text(&facts.method),
            Variable::RequestProtocol => text(&facts.protocol),
            Variable::RequestUri => text(&facts.uri),
            Variable::RequestUriRaw => text(&facts.uri_raw),
            Variable::ResponseBody => facts.response_body.as_deref().and_then(text),
            Variable::ResponseContentLength => {
                facts.response_body.as_ref().map(|body| number(body.len()))
            }
            Variable::ResponseContentType => facts.response_headers.get(b"content-type").and_then(text),
            Variable::ResponseProtocol => text(&facts.response_protocol),
            Variable::ResponseStatus | Variable::StatusLine => facts.status.map(display),
            Variable::ServerAddr => Some(display(self.connection.server.to_canonical())),
            Variable::ServerName => facts.headers.get(b"host").map(|host| Cow::Borrowed(without_port(host))),
            Variable::ServerPort => Some(display(self.connection.server_port)),
            Variable::SessionId => state.collection(Variable::Session).map(|(_, key)| Cow::Owned(key.clone())),
            Variable::UserId => state.collection(Variable::User).map(|(_, key)| Cow::Owned(key.clone())),
            Variable::UniqueId => text(self.connection.unique_id.as_bytes()),
            Variable::UrlencodedError => Some(flag(facts.invalid_escapes || facts.contents.invalid_escapes)),
            Variable::WebAppId => text(self.program.settings.web_app_id.as_bytes()),
            Variable::MultipartFilename => facts.contents.files.iter().last().and_then(|(_, file)| text(file)),
            Variable::MultipartName => facts.contents.part_headers.iter().last().and_then(|(name, _)| text(name)),
            Variable::Time
            | Variable::TimeDay
            | Variable::TimeEpoch
            | Variable::TimeHour
            | Variable::TimeMin
            | Variable::TimeMon
            | Variable::TimeSec
            | Variable::TimeWday
            | Variable::TimeYear => Some(super::clock::read(variable, self.connection.now).into()),
            multipart => self.multipart(multipart).map(flag),
        }
    }

    fn multipart(&self, variable: Variable) -> Option<bool> {
        let flags = self.facts.contents.multipart;
        Some(match variable {
            Variable::MultipartBoundaryQuoted => flags.boundary_quoted,
            Variable::MultipartBoundaryWhitespace => flags.boundary_whitespace,
            Variable::MultipartCrlfLfLines => flags.crlf_line && flags.lf_line,
            Variable::MultipartDataAfter => flags.data_after,
            Variable::MultipartDataBefore => flags.data_before,
            Variable::MultipartFileLimitExceeded => flags.file_limit_exceeded,
            Variable::MultipartHeaderFolding => flags.header_folding,
            Variable::MultipartInvalidHeaderFolding => flags.invalid_header_folding,
            Variable::MultipartInvalidPart => flags.invalid_part,
            Variable::MultipartInvalidQuoting => flags.invalid_quoting,
            Variable::MultipartLfLine => flags.lf_line,
            Variable::MultipartMissingSemicolon => flags.missing_semicolon,
            Variable::MultipartStrictError => flags.strict_error(),
            Variable::MultipartUnmatchedBoundary => flags.unmatched_boundary,
            _ => return None,
        })
    }

    fn full_request(&self) -> Vec<u8> {
        let mut request = self.facts.request_line.clone();
        request.extend(b"\r\n");
        for (name, value) in self.facts.headers.iter() {
            request.extend([name, b": ", value, b"\r\n"].concat());
        }
        request.extend(b"\r\n");
        request.extend(self.facts.body.as_deref().unwrap_or_default());
        request
    }
}

/// Hands on the members that the selector admits.
struct Collection<'o, 't> {
    variable: Variable,
    selector: &'o Selector,
    found: &'o mut dyn FnMut(Value<'t>),
}

impl<'t> Collection<'_, 't> {
    fn pairs(&mut self, pairs: &'t Pairs) {
        for (name, value) in pairs.iter().filter(|(name, _)| self.selector.admits(name)) {
            self.member(name, Cow::Borrowed(value));
        }
    }

    fn names(&mut self, pairs: &'t Pairs) {
        for (name, _) in pairs.iter().filter(|(name, _)| self.selector.admits(name)) {
            self.member(name, Cow::Borrowed(name));
        }
    }

    fn member(&mut self, name: &'t [u8], bytes: Cow<'t, [u8]>) {
        if self.selector.admits(name) {
            (self.found)(Value { variable: self.variable, member: Some(Cow::Borrowed(name)), bytes });
        }
    }

    /// A member that rules may change while this one runs.
    fn owned(&mut self, name: &[u8], value: &[u8]) {
        if self.selector.admits(name) {
            let (member, bytes) = (Some(Cow::Owned(name.to_vec())), Cow::Owned(value.to_vec()));
            (self.found)(Value { variable: self.variable, member, bytes });
        }
    }
}

/// The sum of a number in text and another.
pub(super) fn add(old: Option<&[u8]>, amount: i64) -> Vec<u8> {
    old.map_or(0, integer).saturating_add(amount).to_string().into_bytes()
}

fn number<'t>(number: usize) -> Cow<'t, [u8]> {
    Cow::Owned(number.to_string().into_bytes())
}

fn display<'t>(value: impl std::fmt::Display) -> Cow<'t, [u8]> {
    Cow::Owned(value.to_string().into_bytes())
}

fn flag<'t>(set: bool) -> Cow<'t, [u8]> {
    Cow::Borrowed(if set { b"1" } else { b"0" })
}

/// `[::1]:80` is `[::1]`, `a:80` is `a`.
fn without_port(host: &[u8]) -> &[u8] {
    match memchr::memrchr(b':', host) {
        Some(at) if host.get(at + 1..).is_some_and(|port| port.iter().all(u8::is_ascii_digit)) => {
            host.get(..at).unwrap_or(host)
        }
        Some(_) | None => host,
    }
}

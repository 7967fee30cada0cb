//! What each variable holds: the one place that maps names to facts and state.

use std::fmt::Write;

use super::facts::{Connection, Facts};
use super::origin::{Origin, ValueId, stable_scalar};
use super::state::State;
use crate::program::Program;
use crate::seclang::target::{Selector, Target};
use crate::seclang::template::{Piece, Template};
use crate::seclang::variable::Variable;
use crate::store::Store;

/// Takes the values of a target.
pub(super) trait Sink<'t> {
    /// A value that lives as long as the facts do.
    fn fact(&mut self, variable: Variable, member: Option<&'t [u8]>, bytes: &'t [u8]);

    /// A value made for this moment.
    fn fleeting(&mut self, variable: Variable, member: Option<&[u8]>, bytes: &[u8]);
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
    pub(super) fn expand(&self, template: &Template, state: &State, text: &mut Vec<u8>) {
        for piece in &template.pieces {
            match piece {
                Piece::Text(fixed) => text.extend_from_slice(fixed),
                Piece::Macro(target) => self.visit(target, state, None, &mut First { text, done: false }),
            }
        }
    }

    /// Fills a template in for a log.
    pub(super) fn expand_lossy(&self, template: &Template, state: &State) -> String {
        let mut text = Vec::new();
        self.expand(template, state, &mut text);
        match String::from_utf8(text) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }

    /// Hands every value of a target to `out`; with `only`, of the values that have an id just those.
    pub(super) fn visit<S: Sink<'t>>(&self, target: &Target, state: &State, only: Option<&[ValueId]>, out: &mut S) {
        let Target { variable, selector } = target;
        let mut found = Found { facts: self.facts, variable: *variable, selector, only, out };
        self.collections(*variable, state, &mut found);
    }

    fn collections<S: Sink<'t>>(&self, variable: Variable, state: &State, out: &mut Found<'_, 't, S>) {
        match variable {
            Variable::Args => out.members(&[Origin::ArgGetValue, Origin::ArgPostValue]),
            Variable::ArgsNames => out.members(&[Origin::ArgGetName, Origin::ArgPostName]),
            Variable::ArgsGet => out.members(&[Origin::ArgGetValue]),
            Variable::ArgsGetNames => out.members(&[Origin::ArgGetName]),
            Variable::ArgsPost => out.members(&[Origin::ArgPostValue]),
            Variable::ArgsPostNames => out.members(&[Origin::ArgPostName]),
            Variable::Files => out.members(&[Origin::FileName]),
            Variable::FilesTmpContent => out.members(&[Origin::FileContent]),
            Variable::FilesNames => out.members(&[Origin::FileField]),
            Variable::FilesSizes => {
                for (name, size) in &self.facts.contents.file_sizes {
                    out.fleeting(name, Decimal::of(*size).text());
                }
            }
            Variable::MultipartPartHeaders => out.members(&[Origin::PartHeader]),
            Variable::RequestCookies => out.members(&[Origin::CookieValue]),
            Variable::RequestCookiesNames => out.members(&[Origin::CookieName]),
            Variable::RequestHeaders => out.members(&[Origin::HeaderValue]),
            Variable::RequestHeadersNames => out.members(&[Origin::HeaderName]),
            Variable::ResponseHeaders => out.members(&[Origin::ResponseHeaderValue]),
            Variable::ResponseHeadersNames => out.members(&[Origin::ResponseHeaderName]),
            Variable::Xml => out.members(&[Origin::XmlText, Origin::XmlAttribute]),
            Variable::Tx => self.tx(state, out),
            Variable::Env => state.env.iter().for_each(|(name, value)| out.fleeting(name, value)),
            Variable::MatchedVars => state.matched.iter().for_each(|(name, value)| out.fleeting(name, value)),
            Variable::MatchedVarsNames => state.matched.iter().for_each(|(name, _)| out.fleeting(name, name)),
            Variable::Global | Variable::Ip | Variable::Resource | Variable::Session | Variable::User => {
                self.persistent(variable, state, out);
            }
            Variable::Rule => self.rule(state, out),
            Variable::Geo => {}
            scalar => match stable_scalar(scalar, self.facts) {
                Some(value) => out.scalar(value),
                None => self.computed(scalar, state, out),
            },
        }
    }

    fn tx<S: Sink<'t>>(&self, state: &State, out: &mut Found<'_, 't, S>) {
        let names = &self.program.tx_names;
        match out.selector {
            Selector::Slot(slot) => {
                if let Some(value) = state.slot(*slot) {
                    out.out.fleeting(Variable::Tx, Some(names.name(*slot)), value);
                }
            }
            Selector::Name(name) => {
                if let Some(value) = state.tx(names, name) {
                    out.fleeting(name, value);
                }
            }
            Selector::All | Selector::Pattern(_) => {
                state.all_tx(names).for_each(|(name, value)| out.fleeting(name, value));
            }
        }
    }

    fn persistent<S: Sink<'t>>(&self, variable: Variable, state: &State, out: &mut Found<'_, 't, S>) {
        let Some(key) = state.collection(variable) else { return };
        let now = self.connection.now;
        match out.selector {
            Selector::Name(name) => {
                let name = name.to_ascii_lowercase();
                if let Some(value) = self.store.get(key, &name, now) {
                    out.fleeting(&name, &value);
                }
            }
            Selector::All | Selector::Pattern(_) => {
                self.store.all(key, now).into_iter().for_each(|(name, value)| out.fleeting(&name, &value));
            }
            Selector::Slot(_) => {}
        }
    }

    fn rule<S: Sink<'t>>(&self, state: &State, out: &mut Found<'_, 't, S>) {
        let Some(rule) = state.current.and_then(|at| self.program.rules.get(at)) else { return };
        out.fleeting(b"id", rule.id.to_string().as_bytes());
        if let Some(severity) = rule.actions.severity {
            out.fleeting(b"severity", severity.number().to_string().as_bytes());
        }
        if let Some(revision) = &rule.actions.revision {
            out.fleeting(b"rev", revision.as_bytes());
        }
        for (name, template) in [(&b"msg"[..], &rule.actions.message), (b"logdata", &rule.actions.log_data)] {
            if let Some(text) = template.as_ref().and_then(Template::fixed) {
                out.fleeting(name, text);
            }
        }
    }

    /// Scalars that change, or are made from others.
    fn computed<S: Sink<'t>>(&self, variable: Variable, state: &State, out: &mut Found<'_, 't, S>) {
        let facts = self.facts;
        match variable {
            Variable::ArgsCombinedSize => {
                out.number(facts.args_get.combined_bytes() + facts.contents.args.combined_bytes())
            }
            Variable::Duration => out.display(facts.elapsed.as_millis()),
            Variable::FilesCombinedSize => out.number(facts.contents.file_sizes.iter().map(|(_, size)| size).sum()),
            Variable::FullRequest => out.single(&self.full_request()),
            Variable::FullRequestLength => out.number(self.full_request().len()),
            Variable::HighestSeverity => {
                out.number(state.highest_severity.map_or(255, |severity| usize::from(severity.number())));
            }
            Variable::InboundDataError => out.flag(facts.body_truncated),
            Variable::OutboundDataError => out.flag(facts.response_truncated),
            Variable::MatchedVar => state.last_matched().into_iter().for_each(|(_, value)| out.single(value)),
            Variable::MatchedVarName => state.last_matched().into_iter().for_each(|(name, _)| out.single(name)),
            Variable::RemoteAddr | Variable::RemoteHost => out.display(self.connection.client.to_canonical()),
            Variable::RemotePort => out.number(usize::from(self.connection.client_port)),
            Variable::RemoteUser => {}
            Variable::ReqbodyError | Variable::ReqbodyProcessorError => out.flag(facts.contents.error.is_some()),
            Variable::ReqbodyErrorMsg | Variable::ReqbodyProcessorErrorMsg => {
                facts.contents.error.iter().for_each(|error| out.single(error.as_bytes()));
            }
            Variable::ReqbodyProcessor => {
                out.single(state.processor.map_or(b"", |processor| processor.name().as_bytes()));
            }
            Variable::RequestBodyLength => out.number(facts.body_bytes),
            Variable::ResponseContentLength => {
                facts.response_body.iter().for_each(|body| out.number(body.len()));
            }
            Variable::ResponseProtocol => out.single(&facts.response_protocol),
            Variable::ResponseStatus | Variable::StatusLine => {
                facts.status.into_iter().for_each(|status| out.number(usize::from(status)));
            }
            Variable::ServerAddr => out.display(self.connection.server.to_canonical()),
            Variable::ServerPort => out.number(usize::from(self.connection.server_port)),
            Variable::SessionId => state.collection(Variable::Session).into_iter().for_each(|(_, key)| out.single(key)),
            Variable::UserId => state.collection(Variable::User).into_iter().for_each(|(_, key)| out.single(key)),
            Variable::UniqueId => out.single(self.connection.unique_id.as_bytes()),
            Variable::UrlencodedError => out.flag(facts.invalid_escapes || facts.contents.invalid_escapes),
            Variable::WebAppId => out.single(self.program.settings.web_app_id.as_bytes()),
            Variable::MultipartFilename => {
                facts.contents.files.iter().last().into_iter().for_each(|(_, file)| out.single(file));
            }
            Variable::MultipartName => {
                facts.contents.part_headers.iter().last().into_iter().for_each(|(name, _)| out.single(name));
            }
            Variable::Time
            | Variable::TimeDay
            | Variable::TimeEpoch
            | Variable::TimeHour
            | Variable::TimeMin
            | Variable::TimeMon
            | Variable::TimeSec
            | Variable::TimeWday
            | Variable::TimeYear => out.single(&super::clock::read(variable, self.connection.now)),
            multipart => self.multipart(multipart).into_iter().for_each(|set| out.flag(set)),
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
struct Found<'o, 't, S> {
    facts: &'t Facts,
    variable: Variable,
    selector: &'o Selector,
    only: Option<&'o [ValueId]>,
    out: &'o mut S,
}

impl<'t, S: Sink<'t>> Found<'_, 't, S> {
    fn members(&mut self, origins: &[Origin]) {
        for origin in origins {
            match self.only {
                None => (0..origin.count(self.facts)).for_each(|index| self.member(*origin, index)),
                Some(only) => {
                    for id in only.iter().filter(|id| id.origin == *origin) {
                        self.member(*origin, id.index as usize);
                    }
                }
            }
        }
    }

    fn member(&mut self, origin: Origin, index: usize) {
        if let Some((name, value)) = origin.value(self.facts, index)
            && self.selector.admits(name)
        {
            self.out.fact(self.variable, Some(name), value);
        }
    }

    fn scalar(&mut self, value: &'t [u8]) {
        let id = ValueId { origin: Origin::Scalar, index: self.variable as u32 };
        if self.only.is_none_or(|only| only.contains(&id)) {
            self.out.fact(self.variable, None, value);
        }
    }

    /// A member that rules may change while this one runs.
    fn fleeting(&mut self, name: &[u8], value: &[u8]) {
        if self.selector.admits(name) {
            self.out.fleeting(self.variable, Some(name), value);
        }
    }

    fn single(&mut self, value: &[u8]) {
        self.out.fleeting(self.variable, None, value);
    }

    fn number(&mut self, number: usize) {
        self.single(Decimal::of(number).text());
    }

    fn display(&mut self, value: impl std::fmt::Display) {
        let mut text = Short { bytes: [0; 64], len: 0 };
        // An address or a number; longer text would be cut.
        let _ = write!(text, "{value}");
        self.single(text.bytes.get(..text.len).unwrap_or_default());
    }

    fn flag(&mut self, set: bool) {
        self.single(if set { b"1" } else { b"0" });
    }
}

/// Text that is short, without an allocation.
struct Short {
    bytes: [u8; 64],
    len: usize,
}

impl std::fmt::Write for Short {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len.saturating_add(text.len());
        self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Takes the first value only.
struct First<'o> {
    text: &'o mut Vec<u8>,
    done: bool,
}

impl<'t> Sink<'t> for First<'_> {
    fn fact(&mut self, variable: Variable, member: Option<&'t [u8]>, bytes: &'t [u8]) {
        self.fleeting(variable, member, bytes);
    }

    fn fleeting(&mut self, _: Variable, _: Option<&[u8]>, bytes: &[u8]) {
        if !std::mem::replace(&mut self.done, true) {
            self.text.extend_from_slice(bytes);
        }
    }
}

/// A number in text, without an allocation.
pub(super) struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    pub(super) fn of(number: usize) -> Self {
        Self::of_signed(i64::try_from(number).unwrap_or(i64::MAX))
    }

    pub(super) fn of_signed(number: i64) -> Self {
        let (mut this, mut rest) = (Self { digits: [0; 20], start: 20 }, number.unsigned_abs());
        loop {
            this.put(b'0' + (rest % 10) as u8);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            this.put(b'-');
        }
        this
    }

    fn put(&mut self, byte: u8) {
        self.start = self.start.saturating_sub(1);
        if let Some(place) = self.digits.get_mut(self.start) {
            *place = byte;
        }
    }

    pub(super) fn text(&self) -> &[u8] {
        self.digits.get(self.start..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_without_allocating() {
        for number in [0, 7, 10, -1, i64::MAX, i64::MIN] {
            assert_eq!(Decimal::of_signed(number).text(), number.to_string().as_bytes());
        }
    }
}

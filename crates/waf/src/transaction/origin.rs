//! Where a value that rules cannot change comes from: the handle by which the prefilter and the evaluator speak of it.

use super::facts::Facts;
use crate::pairs::Pairs;
use crate::seclang::variable::Variable;

/// A kind of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Origin {
    ArgGetName,
    ArgGetValue,
    ArgPostName,
    ArgPostValue,
    CookieName,
    CookieValue,
    FileContent,
    FileField,
    FileName,
    HeaderName,
    HeaderValue,
    PartHeader,
    ResponseHeaderName,
    ResponseHeaderValue,
    XmlAttribute,
    XmlText,
    /// The index is the number of the variable.
    Scalar,
}

/// One value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ValueId {
    pub(crate) origin: Origin,
    pub(crate) index: u32,
}

impl Origin {
    /// All but the scalars.
    pub(crate) const COLLECTIONS: [Self; 16] = [
        Self::ArgGetName,
        Self::ArgGetValue,
        Self::ArgPostName,
        Self::ArgPostValue,
        Self::CookieName,
        Self::CookieValue,
        Self::FileContent,
        Self::FileField,
        Self::FileName,
        Self::HeaderName,
        Self::HeaderValue,
        Self::PartHeader,
        Self::ResponseHeaderName,
        Self::ResponseHeaderValue,
        Self::XmlAttribute,
        Self::XmlText,
    ];

    /// The variables that show these values.
    pub(crate) fn variables(self) -> &'static [Variable] {
        match self {
            Self::ArgGetName => &[Variable::ArgsNames, Variable::ArgsGetNames],
            Self::ArgGetValue => &[Variable::Args, Variable::ArgsGet],
            Self::ArgPostName => &[Variable::ArgsNames, Variable::ArgsPostNames],
            Self::ArgPostValue => &[Variable::Args, Variable::ArgsPost],
            Self::CookieName => &[Variable::RequestCookiesNames],
            Self::CookieValue => &[Variable::RequestCookies],
            Self::FileContent => &[Variable::FilesTmpContent],
            Self::FileField => &[Variable::FilesNames],
            Self::FileName => &[Variable::Files],
            Self::HeaderName => &[Variable::RequestHeadersNames],
            Self::HeaderValue => &[Variable::RequestHeaders],
            Self::PartHeader => &[Variable::MultipartPartHeaders],
            Self::ResponseHeaderName => &[Variable::ResponseHeadersNames],
            Self::ResponseHeaderValue => &[Variable::ResponseHeaders],
            Self::XmlAttribute | Self::XmlText => &[Variable::Xml],
            Self::Scalar => &[],
        }
    }

    /// Whether these are names, which recur and are no secret.
    pub(crate) fn is_name(self) -> bool {
        matches!(
            self,
            Self::ArgGetName
                | Self::ArgPostName
                | Self::CookieName
                | Self::HeaderName
                | Self::FileField
                | Self::ResponseHeaderName
        )
    }

    pub(crate) fn is_header_value(self) -> bool {
        matches!(self, Self::HeaderValue | Self::ResponseHeaderValue)
    }

    /// The collection, and which half of its pairs is meant.
    fn pairs(self, facts: &Facts) -> Option<(&Pairs, Half)> {
        Some(match self {
            Self::ArgGetName => (&facts.args_get, Half::Name),
            Self::ArgGetValue => (&facts.args_get, Half::Value),
            Self::ArgPostName => (&facts.contents.args, Half::Name),
            Self::ArgPostValue => (&facts.contents.args, Half::Value),
            Self::CookieName => (&facts.cookies, Half::Name),
            Self::CookieValue => (&facts.cookies, Half::Value),
            Self::FileContent => (&facts.contents.file_contents, Half::Value),
            Self::FileField => (&facts.contents.files, Half::Name),
            Self::FileName => (&facts.contents.files, Half::Value),
            Self::HeaderName => (&facts.headers, Half::Name),
            Self::HeaderValue => (&facts.headers, Half::Value),
            Self::PartHeader => (&facts.contents.part_headers, Half::Value),
            Self::ResponseHeaderName => (&facts.response_headers, Half::Name),
            Self::ResponseHeaderValue => (&facts.response_headers, Half::Value),
            Self::XmlAttribute | Self::XmlText | Self::Scalar => return None,
        })
    }

    /// How many values there are by now.
    pub(crate) fn count(self, facts: &Facts) -> usize {
        match self {
            Self::XmlText => usize::from(facts.contents.xml.is_some()),
            Self::XmlAttribute => facts.contents.xml.as_ref().map_or(0, |(_, attributes)| attributes.len()),
            other => other.pairs(facts).map_or(0, |(pairs, _)| pairs.len()),
        }
    }

    /// Member name and value.
    pub(crate) fn value(self, facts: &Facts, index: usize) -> Option<(&[u8], &[u8])> {
        match self {
            Self::XmlText => facts.contents.xml.as_ref().map(|(text, _)| (&b"/*"[..], text.as_slice())),
            Self::XmlAttribute => {
                let (_, attributes) = facts.contents.xml.as_ref()?;
                attributes.at(index).map(|(_, value)| (&b"//@*"[..], value))
            }
            other => {
                let (pairs, half) = other.pairs(facts)?;
                let (name, value) = pairs.at(index)?;
                Some((name, if half == Half::Name { name } else { value }))
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Name,
    Value,
}

/// The text of a scalar that does not change once it is known; `None` for all other variables and for what is not known
/// yet.
pub(crate) fn stable_scalar(variable: Variable, facts: &Facts) -> Option<&[u8]> {
    Some(match variable {
        Variable::AuthType => facts.headers.get(b"authorization")?.split(|byte| *byte == b' ').next()?,
        Variable::PathInfo | Variable::RequestFilename => &facts.path,
        Variable::QueryString => &facts.query,
        Variable::RequestBasename => facts.basename(),
        Variable::RequestBody => facts.body.as_deref()?,
        Variable::RequestLine => &facts.request_line,
        Variable::RequestMethod => &facts.method,
        Variable::RequestProtocol => &facts.protocol,
        Variable::RequestUri => &facts.uri,
        Variable::RequestUriRaw => &facts.uri_raw,
        Variable::ResponseBody => facts.response_body.as_deref()?,
        Variable::ResponseContentType => facts.response_headers.get(b"content-type")?,
        Variable::ServerName => without_port(facts.headers.get(b"host")?),
        _ => return None,
    })
}

/// The variables of [`stable_scalar`].
pub(crate) const STABLE_SCALARS: [Variable; 14] = [
    Variable::AuthType,
    Variable::PathInfo,
    Variable::RequestFilename,
    Variable::QueryString,
    Variable::RequestBasename,
    Variable::RequestBody,
    Variable::RequestLine,
    Variable::RequestMethod,
    Variable::RequestProtocol,
    Variable::RequestUri,
    Variable::RequestUriRaw,
    Variable::ResponseBody,
    Variable::ResponseContentType,
    Variable::ServerName,
];

/// `[::1]:80` is `[::1]`, `a:80` is `a`.
fn without_port(host: &[u8]) -> &[u8] {
    match memchr::memrchr(b':', host) {
        Some(at) if host.get(at + 1..).is_some_and(|port| port.iter().all(u8::is_ascii_digit)) => {
            host.get(..at).unwrap_or(host)
        }
        Some(_) | None => host,
    }
}

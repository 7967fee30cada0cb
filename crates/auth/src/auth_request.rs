//! What authentication can see of a request, whichever engine carries it.

use percent_encoding::percent_decode_str;
use std::borrow::Cow;

/// The places where a request can carry credentials.
pub trait AuthRequest {
    /// A field's value; `name` in lower case.
    fn header(&self, name: &str) -> Presented<'_>;
    /// A cookie's value; see [`Presented::cookie`].
    fn cookie(&self, name: &str) -> Presented<'_>;
    /// A query parameter's value; see [`Presented::query`].
    fn query(&self, name: &str) -> Presented<'_>;
    /// The names in the client's certificate, if it showed one and it was verified.
    fn tls_names(&self) -> Option<TlsNames<'_>>;
}

/// What a request has in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presented<'r> {
    Absent,
    One(Cow<'r, [u8]>),
    /// Which one counts would be a matter of taste, and the origin's may differ from ours.
    Many,
}

/// Who a verified client certificate belongs to.
#[derive(Debug, Clone, Copy)]
pub struct TlsNames<'r> {
    pub uris: &'r [String],
    /// In lower case.
    pub dns: &'r [String],
}

impl<'r> Presented<'r> {
    /// From every value that the place has.
    pub fn from_values(values: impl IntoIterator<Item = Cow<'r, [u8]>>) -> Self {
        let mut values = values.into_iter();
        match (values.next(), values.next()) {
            (None, _) => Self::Absent,
            (Some(one), None) => Self::One(one),
            (Some(_), Some(_)) => Self::Many,
        }
    }

    /// The cookie of that name in all Cookie fields: h2 may split them (RFC 9113 §8.2.3).
    pub fn cookie(fields: impl IntoIterator<Item = &'r [u8]>, name: &str) -> Self {
        let pairs = fields.into_iter().flat_map(|field| field.split(|octet| *octet == b';'));
        let values = pairs.filter_map(|pair| {
            let pair = pair.trim_ascii();
            let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            // RFC 6265 §4.1.1: a value may stand in quotes.
            let inner = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
            Some(Cow::Borrowed(inner.unwrap_or(value)))
        });
        Self::from_values(values)
    }

    /// The parameter of that name, percent-decoded.
    pub fn query(query: &'r str, name: &str) -> Self {
        let values = query.split('&').filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            // The name is decoded as well: `%61pi_key` is `api_key` to every origin.
            let same = Cow::from(percent_decode_str(key)) == name.as_bytes();
            same.then(|| Cow::from(percent_decode_str(value)))
        });
        Self::from_values(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Presented<'_> {
        Presented::One(text.as_bytes().into())
    }

    #[test]
    fn cookies_are_found_in_any_field_and_never_twice() {
        for (fields, expected) in [
            (vec!["t=a"], one("a")),
            (vec!["x=1; t=a; y=2"], one("a")),
            (vec!["x=1", "t=a"], one("a")),
            (vec!["t=\"a\""], one("a")),
            (vec!["t="], one("")),
            (vec!["t=a=b"], one("a=b")),
            (vec!["t=a; t=b"], Presented::Many),
            (vec!["t=a", "t=a"], Presented::Many),
            (vec!["tt=a; T=b; xt=c"], Presented::Absent),
            (vec!["t"], Presented::Absent),
            (vec![""], Presented::Absent),
            (vec![], Presented::Absent),
        ] {
            let found = Presented::cookie(fields.iter().map(|field| field.as_bytes()), "t");
            assert_eq!(found, expected, "{fields:?}");
        }
    }

    #[test]
    fn query_parameters_are_decoded_and_never_taken_twice() {
        for (query, expected) in [
            ("k=a", one("a")),
            ("x=1&k=a%2Bb", one("a+b")),
            ("%6b=a", one("a")),
            ("k", one("")),
            ("k=", one("")),
            ("k=%ZZ", one("%ZZ")),
            ("k=a&k=b", Presented::Many),
            ("k=a&%6B=b", Presented::Many),
            ("kk=a&K=b", Presented::Absent),
            ("", Presented::Absent),
        ] {
            assert_eq!(Presented::query(query, "k"), expected, "{query}");
        }
    }
}

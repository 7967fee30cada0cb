//! The data of records: from presentation text to wire octets and back over the wire form, by one table of fields a type.
//!
//! Types that are not in the table are opaque and are written in the form of RFC 3597 §5, which every type may use.

use crate::{
    RecordType, name,
    name::{Name, NameError},
    svcb,
    token::Token,
};
use data_encoding::{BASE32HEX_NOPAD, BASE64, HEXLOWER_PERMISSIVE, HEXUPPER};
use std::{
    fmt::Write,
    net::{Ipv4Addr, Ipv6Addr},
    ops::Range,
};

/// One part of a record's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    U8,
    U16,
    U32,
    /// Seconds, or `1h30m` as BIND writes it.
    Seconds,
    /// RRSIG's `20260101000000`.
    Moment,
    Algorithm,
    Type,
    Ipv4,
    Ipv6,
    Name,
    /// `<character-string>` (RFC 1035 §3.3).
    Text,
    /// One or more of them, to the end.
    Texts,
    /// Octets of a text to the end, without a length.
    RestText,
    /// Six or eight octets, `00-11-22-33-44-55`.
    Eui(usize),
    /// To the end.
    Hex,
    /// With a length octet; `-` is none.
    Salt,
    /// With a length octet, in base 32.
    Hash,
    Base64,
    /// RFC 4034 §4.1.2.
    Types,
    /// RFC 9460 §2.1.
    SvcParams,
}

/// Why data cannot be read: which token (`None`: what is missing at the end) and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RdataError {
    pub(crate) token: Option<usize>,
    pub(crate) message: String,
}

/// RDLENGTH is 16 bits; a record that is larger than a message can hold is of no use.
const RDATA_MAX: usize = 65_000;

fn fields(of_type: RecordType) -> Option<&'static [Field]> {
    use Field::*;
    use RecordType as T;
    Some(match of_type {
        T::A => &[Ipv4],
        T::AAAA => &[Ipv6],
        T::NS | T::CNAME | T::PTR | T::DNAME => &[Name],
        T::SOA => &[Name, Name, U32, Seconds, Seconds, Seconds, Seconds],
        T::HINFO => &[Text, Text],
        T::MX | T::AFSDB | T::KX => &[U16, Name],
        T::TXT | T::SPF => &[Texts],
        T::RP => &[Name, Name],
        T::SRV => &[U16, U16, U16, Name],
        T::NAPTR => &[U16, U16, Text, Text, Text, Name],
        T::CERT => &[U16, U16, Algorithm, Base64],
        T::DS | T::CDS => &[U16, Algorithm, U8, Hex],
        T::SSHFP => &[U8, U8, Hex],
        T::RRSIG => &[Type, Algorithm, U8, U32, Moment, Moment, U16, Name, Base64],
        T::NSEC => &[Name, Types],
        T::DNSKEY | T::CDNSKEY => &[U16, U8, Algorithm, Base64],
        T::DHCID | T::OPENPGPKEY => &[Base64],
        T::NSEC3 => &[U8, U8, U16, Salt, Hash, Types],
        T::NSEC3PARAM => &[U8, U8, U16, Salt],
        T::TLSA | T::SMIMEA => &[U8, U8, U8, Hex],
        T::CSYNC => &[U32, U16, Types],
        T::ZONEMD => &[U32, U8, U8, Hex],
        T::SVCB | T::HTTPS => &[U16, Name, SvcParams],
        T::EUI48 => &[Eui(6)],
        T::EUI64 => &[Eui(8)],
        T::URI => &[U16, U16, RestText],
        T::CAA => &[U8, Text, RestText],
        _ => return None,
    })
}

/// Reads the data of one record from its tokens.
pub(crate) fn parse(of_type: RecordType, tokens: &[Token], origin: &Name) -> Result<Vec<u8>, RdataError> {
    if tokens.first().is_some_and(|token| !token.quoted && token.text == b"\\#") {
        return generic(of_type, tokens);
    }
    let Some(fields) = fields(of_type) else {
        let message = format!("the data of {of_type} is written as `\\# length hex` (RFC 3597)");
        return Err(RdataError { token: Some(0).filter(|_| !tokens.is_empty()), message });
    };
    let mut input = Input { tokens, at: 0, origin };
    let mut out = Vec::new();
    for field in fields {
        input.read(*field, &mut out)?;
    }
    match tokens.get(input.at) {
        Some(_) => Err(RdataError { token: Some(input.at), message: format!("more data than {of_type} has") }),
        None if out.len() > RDATA_MAX => Err(RdataError { token: None, message: "data too large".to_owned() }),
        None => Ok(out),
    }
}

/// RFC 3597 §5: `\# length hex`. For a known type the octets must be right all the same.
fn generic(of_type: RecordType, tokens: &[Token]) -> Result<Vec<u8>, RdataError> {
    let wrong = |token, message: &str| RdataError { token, message: message.to_owned() };
    let length = tokens.get(1).and_then(|token| token.str()?.parse::<usize>().ok());
    let length = length.ok_or_else(|| wrong(Some(1), "a length follows `\\#`"))?;
    let hex: Vec<u8> = tokens.iter().skip(2).flat_map(|token| token.text.iter().copied()).collect();
    let octets = HEXLOWER_PERMISSIVE.decode(&hex).map_err(|_| wrong(Some(2), "not hexadecimal"))?;
    if octets.len() != length || length > RDATA_MAX {
        return Err(wrong(Some(1), &format!("the length is not that of the data, {}", octets.len())));
    }
    match is_wire_form(of_type, &octets) {
        true => Ok(octets),
        false => Err(wrong(Some(2), &format!("not the wire form of {of_type}"))),
    }
}

struct Input<'t> {
    tokens: &'t [Token],
    at: usize,
    origin: &'t Name,
}

impl<'t> Input<'t> {
    fn token(&mut self, expects: &str) -> Result<&'t Token, RdataError> {
        let token = self.tokens.get(self.at);
        let token = token.ok_or_else(|| RdataError { token: None, message: format!("{expects} is missing") })?;
        self.at += 1;
        Ok(token)
    }

    /// An error at the token read last.
    fn wrong(&self, message: impl Into<String>) -> RdataError {
        RdataError { token: self.at.checked_sub(1), message: message.into() }
    }

    fn number(&mut self, max: u32, expects: &str) -> Result<u32, RdataError> {
        let text = self.token(expects)?.str().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
        let number = text.and_then(|text| text.parse().ok()).filter(|number| *number <= max);
        number.ok_or_else(|| self.wrong(format!("expected {expects}")))
    }

    fn rest(&mut self) -> Vec<u8> {
        let rest = self.tokens.get(self.at..).unwrap_or_default();
        self.at = self.tokens.len();
        rest.iter().flat_map(|token| token.text.iter().copied()).collect()
    }

    fn read(&mut self, field: Field, out: &mut Vec<u8>) -> Result<(), RdataError> {
        match field {
            Field::U8 => out.push(self.number(255, "a number up to 255")? as u8),
            Field::U16 => out.extend((self.number(65_535, "a number up to 65535")? as u16).to_be_bytes()),
            Field::U32 => out.extend(self.number(u32::MAX, "a number up to 4294967295")?.to_be_bytes()),
            Field::Seconds => {
                let seconds = self.token("a time in seconds")?.str().and_then(seconds);
                out.extend(seconds.ok_or_else(|| self.wrong("expected seconds, like 3600 or 1h"))?.to_be_bytes());
            }
            Field::Moment => {
                let moment = self.token("a time")?.str().and_then(moment);
                out.extend(moment.ok_or_else(|| self.wrong("expected YYYYMMDDHHmmSS"))?.to_be_bytes());
            }
            Field::Algorithm => {
                let number = self.token("an algorithm")?.str().and_then(algorithm);
                out.push(number.ok_or_else(|| self.wrong("expected an algorithm by number or name"))?);
            }
            Field::Type => {
                let of_type = self.token("a type")?.str().and_then(|text| text.parse::<RecordType>().ok());
                out.extend(of_type.ok_or_else(|| self.wrong("expected a type"))?.0.to_be_bytes());
            }
            Field::Ipv4 => {
                let address = self.token("an IPv4 address")?.str().and_then(|text| text.parse::<Ipv4Addr>().ok());
                out.extend(address.ok_or_else(|| self.wrong("expected an IPv4 address"))?.octets());
            }
            Field::Ipv6 => {
                let address = self.token("an IPv6 address")?.str().and_then(|text| text.parse::<Ipv6Addr>().ok());
                out.extend(address.ok_or_else(|| self.wrong("expected an IPv6 address"))?.octets());
            }
            Field::Name => {
                let token = self.token("a name")?;
                let wire = name::wire_of_text(&token.text, Some(self.origin));
                out.extend(wire.map_err(|error: NameError| self.wrong(format!("expected a name: {error}")))?);
            }
            Field::Text => self.text(out)?,
            Field::Texts => {
                self.text(out)?;
                while self.at < self.tokens.len() {
                    self.text(out)?;
                }
            }
            Field::RestText => {
                let text = self.token("a text")?.unescaped();
                out.extend(text.ok_or_else(|| self.wrong("a wrong escape"))?);
            }
            Field::Eui(octets) => {
                let hex = self.token("an EUI")?.str().unwrap_or_default().replace('-', "");
                let decoded = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok().filter(|eui| eui.len() == octets);
                out.extend(decoded.ok_or_else(|| self.wrong("expected octets like 00-11-22-33-44-55"))?);
            }
            Field::Hex => {
                let hex = self.rest();
                let octets = HEXLOWER_PERMISSIVE.decode(&hex).ok().filter(|octets| !octets.is_empty());
                out.extend(octets.ok_or_else(|| self.wrong("expected hexadecimal data"))?);
            }
            Field::Salt => {
                let text = &self.token("a salt")?.text;
                let hex: &[u8] = if text == b"-" { b"" } else { text };
                let octets = HEXLOWER_PERMISSIVE.decode(hex).ok().filter(|octets| octets.len() <= 255);
                counted(&octets.ok_or_else(|| self.wrong("expected a hexadecimal salt or `-`"))?, out);
            }
            Field::Hash => {
                let text = self.token("a hash")?.text.to_ascii_uppercase();
                let octets = BASE32HEX_NOPAD.decode(&text).ok().filter(|octets| octets.len() <= 255);
                counted(&octets.ok_or_else(|| self.wrong("expected a hash in base 32"))?, out);
            }
            Field::Base64 => {
                let text = self.rest();
                let octets = BASE64.decode(&text).ok().filter(|octets| !octets.is_empty());
                out.extend(octets.ok_or_else(|| self.wrong("expected data in base 64"))?);
            }
            Field::Types => {
                let mut types = Vec::new();
                while let Some(token) = self.tokens.get(self.at) {
                    self.at += 1;
                    let of_type = token.str().and_then(|text| text.parse().ok());
                    types.push(of_type.ok_or_else(|| self.wrong("expected a type"))?);
                }
                out.extend(type_bitmap(types));
            }
            Field::SvcParams => {
                let params = self.tokens.get(self.at..).unwrap_or_default();
                let first = self.at;
                self.at = self.tokens.len();
                let wire = svcb::parse(params);
                out.extend(wire.map_err(|(token, message)| RdataError { token: Some(first + token), message })?);
            }
        }
        Ok(())
    }

    fn text(&mut self, out: &mut Vec<u8>) -> Result<(), RdataError> {
        let text = self.token("a text")?.unescaped().ok_or_else(|| self.wrong("a wrong escape"))?;
        if text.len() > 255 {
            return Err(self.wrong("a text is longer than 255 octets; split it into several"));
        }
        counted(&text, out);
        Ok(())
    }
}

/// With its length before it; the callers have seen to it that it is at most 255.
fn counted(octets: &[u8], out: &mut Vec<u8>) {
    out.push(octets.len() as u8);
    out.extend_from_slice(octets);
}

/// A time to live or an interval: `3600`, `1h`, `1w2d3h4m5s`.
pub(crate) fn seconds(text: &str) -> Option<u32> {
    let (mut total, mut number, mut digits) = (0u32, 0u32, 0);
    for b in text.bytes() {
        let unit = match b.to_ascii_lowercase() {
            b'0'..=b'9' => {
                number = number.checked_mul(10)?.checked_add(u32::from(b - b'0'))?;
                digits += 1;
                continue;
            }
            b's' => 1,
            b'm' => 60,
            b'h' => 3_600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return None,
        };
        if digits == 0 {
            return None;
        }
        total = total.checked_add(number.checked_mul(unit)?)?;
        (number, digits) = (0, 0);
    }
    if text.is_empty() { None } else { total.checked_add(number) }
}

/// RFC 4034 §3.2: `YYYYMMDDHHmmSS` in UTC, or seconds since 1970.
fn moment(text: &str) -> Option<u32> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    if text.len() != 14 {
        return text.parse().ok();
    }
    let part = |range: Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (part(0..4)?, part(4..6)?, part(6..8)?);
    let (hour, minute, second) = (part(8..10)?, part(10..12)?, part(12..14)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970 of a civil date: years that begin in March, so that a leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468;
    u32::try_from(days * 86_400 + hour * 3_600 + minute * 60 + second).ok()
}

fn algorithm(text: &str) -> Option<u8> {
    const NAMES: [(&str, u8); 7] = [
        ("RSASHA1", 5),
        ("RSASHA256", 8),
        ("RSASHA512", 10),
        ("ECDSAP256SHA256", 13),
        ("ECDSAP384SHA384", 14),
        ("ED25519", 15),
        ("ED448", 16),
    ];
    let named = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, number)| *number);
    named.or_else(|| text.parse().ok())
}

/// RFC 4034 §4.1.2: windows of 256 types, without trailing zeros.
pub(crate) fn type_bitmap(mut types: Vec<RecordType>) -> Vec<u8> {
    types.sort_unstable();
    let mut out = Vec::new();
    for window in types.chunk_by(|a, b| a.0 >> 8 == b.0 >> 8) {
        let mut bits = [0u8; 32];
        let mut used = 0;
        for of_type in window {
            let low = of_type.0 as u8;
            let octet = usize::from(low >> 3);
            if let Some(bits) = bits.get_mut(octet) {
                *bits |= 0x80 >> (low & 7);
            }
            used = used.max(octet + 1);
        }
        let number = window.first().map_or(0, |of_type| of_type.0 >> 8);
        out.push(number as u8);
        counted(bits.get(..used).unwrap_or_default(), &mut out);
    }
    out
}

/// Whether octets are what a type's data looks like on the wire. Opaque types always are.
pub(crate) fn is_wire_form(of_type: RecordType, octets: &[u8]) -> bool {
    match fields(of_type) {
        Some(fields) => spans(fields, octets).is_some(),
        None => true,
    }
}

/// Where the names stand in valid data, for compression, canonical form and the look at targets.
pub(crate) fn names_in(of_type: RecordType, octets: &[u8]) -> Vec<Range<usize>> {
    let fields = fields(of_type).unwrap_or_default();
    let spans = spans(fields, octets).unwrap_or_default();
    fields.iter().zip(spans).filter(|(field, _)| **field == Field::Name).map(|(_, span)| span).collect()
}

/// RFC 4034 §6.2 with RFC 6840 §5.1: the names in data of the old types in lower case.
pub(crate) fn canonical(of_type: RecordType, octets: &[u8]) -> Vec<u8> {
    use RecordType as T;
    let mut out = octets.to_vec();
    let is_listed = matches!(
        of_type,
        T::NS | T::CNAME | T::SOA | T::PTR | T::MX | T::RP | T::AFSDB | T::NAPTR | T::KX | T::SRV | T::DNAME | T::RRSIG
    );
    if is_listed {
        for name in names_in(of_type, octets) {
            if let Some(name) = out.get_mut(name) {
                name.make_ascii_lowercase();
            }
        }
    }
    out
}

/// The octets of each field; `None` when they do not fit.
fn spans(fields: &[Field], octets: &[u8]) -> Option<Vec<Range<usize>>> {
    let mut at = 0;
    let mut spans = Vec::with_capacity(fields.len());
    for field in fields {
        let rest = octets.get(at..)?;
        let length = match field {
            Field::U8 | Field::Algorithm => 1,
            Field::U16 | Field::Type => 2,
            Field::U32 | Field::Seconds | Field::Moment | Field::Ipv4 => 4,
            Field::Ipv6 => 16,
            Field::Eui(length) => *length,
            Field::Name => name::wire_length(rest)?,
            Field::Text | Field::Salt | Field::Hash => usize::from(*rest.first()?) + 1,
            Field::Texts => texts(rest)?.len().checked_sub(1).map(|_| rest.len())?,
            Field::Types => {
                if is_bitmap(rest) {
                    rest.len()
                } else {
                    return None;
                }
            }
            Field::SvcParams => {
                if svcb::is_wire_form(rest) {
                    rest.len()
                } else {
                    return None;
                }
            }
            Field::RestText => rest.len(),
            Field::Hex | Field::Base64 => {
                if rest.is_empty() {
                    return None;
                } else {
                    rest.len()
                }
            }
        };
        if length > rest.len() {
            return None;
        }
        spans.push(at..at + length);
        at += length;
    }
    (at == octets.len()).then_some(spans)
}

fn texts(mut rest: &[u8]) -> Option<Vec<&[u8]>> {
    let mut texts = Vec::new();
    while let Some((length, tail)) = rest.split_first() {
        texts.push(tail.get(..usize::from(*length))?);
        rest = tail.get(usize::from(*length)..)?;
    }
    Some(texts)
}

fn is_bitmap(mut rest: &[u8]) -> bool {
    let mut last = None;
    while let Some((window, tail)) = rest.split_first() {
        let Some((length @ 1..=32, tail)) = tail.split_first() else { return false };
        let Some(behind) = tail.get(usize::from(*length)..) else { return false };
        if last.is_some_and(|last| last >= *window) {
            return false;
        }
        last = Some(*window);
        rest = behind;
    }
    true
}

/// For people: addresses and names as texts, whatever else as RFC 3597 writes it.
pub(crate) fn display(of_type: RecordType, octets: &[u8]) -> String {
    use Field::*;
    let whole = fields(of_type).and_then(|fields| Some((fields, spans(fields, octets)?)));
    let Some((fields, spans)) = whole else { return generic_text(octets) };
    let mut parts = Vec::with_capacity(fields.len());
    for (field, span) in fields.iter().zip(spans) {
        let part = octets.get(span).unwrap_or_default();
        let number = || part.iter().fold(0u64, |sum, octet| sum << 8 | u64::from(*octet)).to_string();
        parts.push(match field {
            U8 | U16 | U32 | Seconds | Algorithm => number(),
            Ipv4 => <[u8; 4]>::try_from(part).map(Ipv4Addr::from).map(|a| a.to_string()).unwrap_or_default(),
            Ipv6 => <[u8; 16]>::try_from(part).map(Ipv6Addr::from).map(|a| a.to_string()).unwrap_or_default(),
            Name => crate::Name::from_wire(part).map(|name| name.to_string()).unwrap_or_default(),
            Text => quoted(part.get(1..).unwrap_or_default()),
            RestText => quoted(part),
            Texts => texts(part).unwrap_or_default().into_iter().map(quoted).collect::<Vec<_>>().join(" "),
            Hex => HEXUPPER.encode(part),
            Base64 => BASE64.encode(part),
            SvcParams => svcb::display(part),
            Moment | Type | Eui(_) | Salt | Hash | Types => return generic_text(octets),
        });
    }
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}

fn generic_text(octets: &[u8]) -> String {
    format!("\\# {} {}", octets.len(), HEXUPPER.encode(octets)).trim_end().to_owned()
}

fn quoted(text: &[u8]) -> String {
    let mut out = String::from("\"");
    for octet in text {
        match octet {
            b'"' | b'\\' => _ = write!(out, "\\{}", *octet as char),
            0x20..=0x7e => out.push(*octet as char),
            _ => _ = write!(out, "\\{octet:03}"),
        }
    }
    out.push('"');
    out
}

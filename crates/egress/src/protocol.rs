//! What is spoken: what a destination says it must be, and what the first octets of a flow show.

use portcullis_wire::{Parse, client_hello, encrypted_hello};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a destination speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    #[default]
    Tls,
    /// HTTP/1 or h2 in the clear.
    Http,
    Ssh,
    /// Clear or TLS by its own way of asking for it.
    Postgres,
    /// Whatever it is, also silence. Names inside are not compared, because none are looked for.
    Opaque,
}

/// What a flow's first octets are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstOctets {
    Tls(Hello),
    /// A TLS record, or SSL 2, without a ClientHello that can be read in one way.
    BrokenHello,
    Http,
    Ssh,
    Postgres,
    Unknown,
    /// Nothing came in the time that clients have: the server speaks first, or nobody.
    Silence,
}

/// Of a ClientHello, what is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// In lower case.
    pub sni: Option<String>,
    pub ech: Ech,
}

/// Whether the hello may hide another name. GREASE looks the same on purpose (RFC 9849 §6.2), so nothing tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ech {
    Absent,
    Present,
}

/// Octets that may have to be there before [`sniff`] decides; the caller's buffer needs no more.
pub const SNIFF_MAX: usize = 24 << 10;

/// Looks at the octets a flow began with; none is consumed. `Incomplete` wants more of them, never more than [`SNIFF_MAX`].
pub fn sniff(buf: &[u8]) -> Parse<FirstOctets> {
    let complete = |head: FirstOctets| Parse::Complete { head, len: 0 };
    match buf {
        [] => Parse::Incomplete,
        [HANDSHAKE, ..] => sniff_tls(buf),
        // SSL 2: a length with its top bit set, then CLIENT-HELLO. A TLS client has not sent one since RFC 6176.
        [first, _, 1, ..] if first & 0x80 != 0 => complete(FirstOctets::BrokenHello),
        [first, ..] if first & 0x80 != 0 && buf.len() < 3 => Parse::Incomplete,
        _ => match sniff_text(buf) {
            Some(found) => complete(found),
            None => Parse::Incomplete,
        },
    }
}

const HANDSHAKE: u8 = 22;

fn sniff_tls(buf: &[u8]) -> Parse<FirstOctets> {
    let head = match client_hello::peek(buf) {
        Ok(Parse::Complete { head, len }) => {
            let shown = buf.get(..len).unwrap_or(buf);
            let ech = if encrypted_hello::is_present(shown) { Ech::Present } else { Ech::Absent };
            FirstOctets::Tls(Hello { sni: head.sni, ech })
        }
        Ok(Parse::Incomplete) if buf.len() < SNIFF_MAX => return Parse::Incomplete,
        Ok(Parse::Incomplete) | Err(_) => FirstOctets::BrokenHello,
    };
    Parse::Complete { head, len: 0 }
}

/// `None`: it could still become one of them.
fn sniff_text(buf: &[u8]) -> Option<FirstOctets> {
    let could_be = |whole: &[u8]| whole.starts_with(buf) || buf.starts_with(whole);
    let is = |whole: &[u8]| buf.starts_with(whole);
    if is(b"SSH-") {
        return Some(FirstOctets::Ssh);
    }
    if POSTGRES.iter().any(|start| is_at(buf, 4, start)) {
        return Some(FirstOctets::Postgres);
    }
    if METHODS.iter().any(|method| is(method)) || is(H2_PREFACE) {
        return Some(FirstOctets::Http);
    }
    let undecided = could_be(b"SSH-")
        || could_be(H2_PREFACE)
        || METHODS.iter().any(|method| could_be(method))
        || (buf.first() == Some(&0) && buf.len() < 8);
    if undecided { None } else { Some(FirstOctets::Unknown) }
}

fn is_at(buf: &[u8], at: usize, what: &[u8]) -> bool {
    buf.get(at..).is_some_and(|rest| rest.starts_with(what))
}

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const METHODS: [&[u8]; 9] =
    [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"TRACE ", b"CONNECT "];
/// After the length: protocol 3.0, SSLRequest, GSSENCRequest, CancelRequest (PostgreSQL §55.7).
const POSTGRES: [[u8; 4]; 4] = [[0, 3, 0, 0], [4, 210, 22, 47], [4, 210, 22, 48], [4, 210, 22, 46]];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_octets_tell_the_protocol_as_soon_as_they_can() {
        use FirstOctets::{BrokenHello, Http, Postgres, Ssh, Unknown};
        for (octets, expected) in [
            (&b""[..], None),
            (b"G", None),
            (b"GET /", Some(Http)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Http)),
            (b"PRI * HTTP/2.0\r\n", None),
            (b"PROPFIND", Some(Unknown)),
            (b"SS", None),
            (b"SSH-2.0-x\r\n", Some(Ssh)),
            (b"SMTP", Some(Unknown)),
            (&[0, 0, 0, 8, 4, 210, 22, 47], Some(Postgres)),
            (&[0, 0, 0, 8, 4], None),
            (&[0, 0, 0, 30, 0, 3, 0, 0], Some(Postgres)),
            (&[0, 0, 0, 30, 9, 9, 9, 9], Some(Unknown)),
            (&[0x80, 0x2e, 1, 0, 2], Some(BrokenHello)),
            (&[0x80, 0x2e], None),
            (&[0x80, 0x2e, 4], Some(Unknown)),
            (&[22, 3, 1, 0, 4, 2, 0, 0, 0], Some(BrokenHello)),
            (&[22, 3], None),
            (&[22, 9, 9, 9, 9], Some(BrokenHello)),
            (&[0xff], None),
            (&[1, 2, 3], Some(Unknown)),
        ] {
            let found = match sniff(octets) {
                Parse::Complete { head, .. } => Some(head),
                Parse::Incomplete => None,
            };
            assert_eq!(found, expected, "{octets:?}");
        }
    }

    #[test]
    fn no_octets_are_waited_for_without_end() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..2_000 {
            let mut octets: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(SNIFF_MAX).collect();
            if random.bool() {
                octets.splice(..3, [22, 3, 1]);
            }
            assert!(matches!(sniff(&octets), Parse::Complete { .. }), "{:?}", &octets[..16]);
        }
    }
}

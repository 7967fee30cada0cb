//! Reads the server name out of a TLS ClientHello without answering it: for passing TLS through unopened.

use crate::Parse;

/// What a ClientHello says of where it wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// In lower case; `None` when the client sent none.
    pub sni: Option<String>,
    pub alpn: Vec<Vec<u8>>,
}

/// Why a stream does not begin with a ClientHello that can be routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotHello {
    #[error("the first record is not a TLS handshake record")]
    NotTls,
    #[error("the first handshake message is not a ClientHello")]
    NotClientHello,
    #[error("the ClientHello is larger than {HELLO_MAX} octets")]
    TooLarge,
    #[error("the ClientHello is malformed")]
    Malformed,
}

/// Post-quantum key shares make hellos of 2 KB, several of them at once 17; browsers stay far below this.
const HELLO_MAX: usize = 20 << 10;
/// RFC 8446 §5.1.
const RECORD_MAX: usize = 1 << 14;

/// Looks at the octets that a connection began with. The result's `len` counts the octets looked at; none is consumed.
pub fn peek(buf: &[u8]) -> Result<Parse<ClientHello>, NotHello> {
    let mut message = Vec::new();
    let mut at = 0;
    loop {
        let Some(header) = buf.get(at..at + 5) else {
            let begun = buf.get(at..).unwrap_or_default();
            return match begun.first() {
                Some(kind) if *kind != HANDSHAKE => Err(NotHello::NotTls),
                _ => Ok(Parse::Incomplete),
            };
        };
        let [kind, major, _, high, low] = <[u8; 5]>::try_from(header).map_err(|_| NotHello::Malformed)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if kind != HANDSHAKE || major != 3 || length == 0 || length > RECORD_MAX {
            return Err(NotHello::NotTls);
        }
        let available = buf.get(at + 5..).unwrap_or_default();
        message.extend_from_slice(available.get(..length.min(available.len())).unwrap_or_default());
        if let Some(body) = whole_message(&message)? {
            return Ok(Parse::Complete { head: hello(body)?, len: at + 5 + length.min(available.len()) });
        }
        if available.len() < length {
            return Ok(Parse::Incomplete);
        }
        at += 5 + length;
    }
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// The handshake message's body once all of it is there.
fn whole_message(message: &[u8]) -> Result<Option<&[u8]>, NotHello> {
    match message.first() {
        Some(kind) if *kind != CLIENT_HELLO => return Err(NotHello::NotClientHello),
        _ => {}
    }
    let Some(length) = message.get(1..4) else { return Ok(None) };
    let length = length.iter().fold(0_usize, |length, octet| length << 8 | usize::from(*octet));
    if length > HELLO_MAX {
        return Err(NotHello::TooLarge);
    }
    Ok(message.get(4..4 + length))
}

/// RFC 8446 §4.1.2.
fn hello(body: &[u8]) -> Result<ClientHello, NotHello> {
    let mut reader = Reader(body);
    reader.take(2 + 32)?;
    reader.vector8()?;
    reader.vector16()?;
    reader.vector8()?;
    let mut found = ClientHello { sni: None, alpn: Vec::new() };
    if reader.0.is_empty() {
        return Ok(found);
    }
    let mut extensions = Reader(reader.vector16()?);
    if !reader.0.is_empty() {
        return Err(NotHello::Malformed);
    }
    let mut alpn_seen = false;
    while !extensions.0.is_empty() {
        let kind = extensions.number16()?;
        let value = extensions.vector16()?;
        match kind {
            0 => {
                if found.sni.is_some() {
                    return Err(NotHello::Malformed);
                }
                found.sni = Some(server_name(value)?);
            }
            16 => {
                if std::mem::replace(&mut alpn_seen, true) {
                    return Err(NotHello::Malformed);
                }
                found.alpn = protocols(value)?;
            }
            _ => {}
        }
    }
    Ok(found)
}

/// RFC 6066 §3: exactly one name, of type host_name.
fn server_name(value: &[u8]) -> Result<String, NotHello> {
    let mut outer = Reader(value);
    let mut list = Reader(outer.vector16()?);
    let kind = list.take(1)?;
    let name = list.vector16()?;
    if kind != [0] || !list.0.is_empty() || !outer.0.is_empty() {
        return Err(NotHello::Malformed);
    }
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if name.is_empty() || name.len() > 253 || !name.iter().all(plain) {
        return Err(NotHello::Malformed);
    }
    let text = std::str::from_utf8(name).map_err(|_| NotHello::Malformed)?;
    // One dot at the end is the root's. An empty label is nobody's name, and a server that takes one out reads another.
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.split('.').any(str::is_empty) { Err(NotHello::Malformed) } else { Ok(text.to_ascii_lowercase()) }
}

/// RFC 7301 §3.1.
fn protocols(value: &[u8]) -> Result<Vec<Vec<u8>>, NotHello> {
    let mut outer = Reader(value);
    let mut list = Reader(outer.vector16()?);
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        protocols.push(list.vector8()?.to_vec());
    }
    if outer.0.is_empty() { Ok(protocols) } else { Err(NotHello::Malformed) }
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Result<&'b [u8], NotHello> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(NotHello::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number16(&mut self) -> Result<u16, NotHello> {
        self.take(2)?.try_into().map(u16::from_be_bytes).map_err(|_| NotHello::Malformed)
    }

    fn vector8(&mut self) -> Result<&'b [u8], NotHello> {
        let length = self.take(1)?.first().copied().unwrap_or_default();
        self.take(usize::from(length))
    }

    fn vector16(&mut self) -> Result<&'b [u8], NotHello> {
        let length = self.number16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ClientHello that rustls made.
    fn real_hello(name: &str) -> Vec<u8> {
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_real_hello_tells_its_name_at_its_last_octet_and_not_before() {
        let bytes = real_hello("Shop.Example.com");
        let Ok(Parse::Complete { head, .. }) = peek(&bytes) else { panic!("not read") };
        assert_eq!((head.sni.as_deref(), head.alpn.len()), (Some("shop.example.com"), 2));
        for cut in 0..bytes.len() {
            assert!(matches!(peek(&bytes[..cut]), Ok(Parse::Incomplete)), "{cut}");
        }
    }

    #[test]
    fn a_hello_in_many_records_is_put_together() {
        let whole = real_hello("a.test");
        let mut split = Vec::new();
        for part in whole[5..].chunks(7) {
            split.extend([22, 3, 1, 0, part.len() as u8]);
            split.extend(part);
        }
        let Ok(Parse::Complete { head, .. }) = peek(&split) else { panic!("not read") };
        assert_eq!(head.sni.as_deref(), Some("a.test"));
    }

    #[test]
    fn a_name_has_no_empty_labels() {
        let list = |name: &str| {
            let length = u8::try_from(name.len()).unwrap();
            [&[0, length + 3, 0, 0, length][..], name.as_bytes()].concat()
        };
        for (name, read) in [("a.test", Some("a.test")), ("A.test.", Some("a.test")), ("a", Some("a"))]
            .into_iter()
            .chain(["a.test..", "a..test", ".a.test", ".", "..", ""].map(|name| (name, None)))
        {
            assert_eq!(server_name(&list(name)).ok().as_deref(), read, "{name}");
        }
    }

    #[test]
    fn what_is_not_a_hello_is_refused_at_once() {
        assert_eq!(peek(b"GET / HTTP/1.1\r\n").unwrap_err(), NotHello::NotTls);
        assert_eq!(peek(b"G").unwrap_err(), NotHello::NotTls);
        assert_eq!(peek(&[22, 3, 1, 0, 4, 2, 0, 0, 0]).unwrap_err(), NotHello::NotClientHello);
        assert_eq!(peek(&[22, 3, 1, 0, 4, 1, 1, 0, 0]).unwrap_err(), NotHello::TooLarge);
        assert_eq!(peek(&[22, 3, 1, 0, 0]).unwrap_err(), NotHello::NotTls);
    }
}

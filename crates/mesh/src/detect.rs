//! What a connection speaks, by its first octets; and what is remembered of ports whose servers speak first.

use portcullis_wire::{Parse, client_hello};
use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Tls,
    Http1,
    Http2,
    /// Carried as it is.
    Opaque,
}

/// What the octets so far say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Is(Protocol),
    NeedsMore,
}

/// Whose TLS it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hello {
    Mesh,
    App,
    NeedsMore,
}

/// More is never peeked: a ClientHello with post-quantum shares has 2 KB, a request line far less than this.
pub const PEEK_MAX: usize = 16 << 10;
/// For how long a client may be silent before its server is taken to speak first.
pub const SERVER_FIRST_AFTER: Duration = Duration::from_millis(150);

/// RFC 9113 §3.4.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest registered method has 17 octets (UPDATEREDIRECTREF).
const METHOD_MAX: usize = 32;
/// A handshake record (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// What sidecars offer in ALPN. An application that offers `h2` alone is an application.
const MESH_ALPN: [&[u8]; 3] = [b"mesh-h2", b"mesh-h1", b"mesh-tunnel"];

/// Decides on `seen`, the first octets that a client sent.
pub fn detect(seen: &[u8]) -> Step {
    match seen {
        [] => Step::NeedsMore,
        [TLS_HANDSHAKE, 3, ..] => Step::Is(Protocol::Tls),
        [TLS_HANDSHAKE] => Step::NeedsMore,
        _ if seen.starts_with(H2_PREFACE) => Step::Is(Protocol::Http2),
        _ if H2_PREFACE.starts_with(seen) => Step::NeedsMore,
        _ => request_line(seen),
    }
}

/// `METHOD target HTTP/1.x`, RFC 9112 §3. SMTP's EHLO and Redis' GET end their line without a version.
fn request_line(seen: &[u8]) -> Step {
    let method = seen.iter().take_while(|b| b.is_ascii_uppercase() || **b == b'-').count();
    if method == 0 || method > METHOD_MAX {
        return Step::Is(Protocol::Opaque);
    }
    match (seen.get(method), seen.iter().position(|b| *b == b'\n')) {
        (None, _) => Step::NeedsMore,
        (Some(b' '), Some(end)) => {
            let line = seen.get(..end).unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let is_http = line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
            Step::Is(if is_http { Protocol::Http1 } else { Protocol::Opaque })
        }
        (Some(b' '), None) if seen.len() < PEEK_MAX => Step::NeedsMore,
        (Some(_), _) => Step::Is(Protocol::Opaque),
    }
}

/// Whether TLS is a sidecar's or the application's, by what its ClientHello offers. What cannot be read is the
/// application's: it goes on unopened or is refused, and never counts as the mesh's.
pub fn hello(seen: &[u8]) -> Hello {
    match client_hello::peek(seen) {
        Ok(Parse::Complete { head, .. }) if head.alpn.iter().any(|name| MESH_ALPN.contains(&name.as_slice())) => {
            Hello::Mesh
        }
        Ok(Parse::Incomplete) if seen.len() < PEEK_MAX => Hello::NeedsMore,
        Ok(_) | Err(_) => Hello::App,
    }
}

/// Ports whose connections are carried as they are, without a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpaquePorts(BTreeSet<u16>);

impl OpaquePorts {
    /// SMTP, submission, MySQL, Galera, PostgreSQL, Redis, Elasticsearch transport, memcached: their servers speak first
    /// or their clients speak nothing that is looked into. 443 is left out, unlike elsewhere: TLS tells itself at once.
    pub const DEFAULT: [u16; 8] = [25, 587, 3306, 4444, 5432, 6379, 9300, 11211];

    pub fn new(ports: impl IntoIterator<Item = u16>) -> Self {
        Self(ports.into_iter().collect())
    }

    pub fn contains(&self, port: u16) -> bool {
        self.0.contains(&port)
    }
}

impl Default for OpaquePorts {
    fn default() -> Self {
        Self::new(Self::DEFAULT)
    }
}

/// Ports at which clients were silent: the next connection does not wait. One client that speaks first ends that.
#[derive(Debug, Default)]
pub struct PortMemory(HashMap<u16, Instant>);

impl PortMemory {
    /// A host that listens on more has other troubles; the oldest is forgotten.
    pub const MOST: usize = 1024;
    /// A port may come to serve something else.
    pub const KEPT: Duration = Duration::from_secs(3600);

    /// How long to wait for a client's first octet. Zero: its server speaks first, as seen before.
    pub fn patience(&self, port: u16, after: Duration, now: Instant) -> Duration {
        let known = self.0.get(&port).is_some_and(|since| now.saturating_duration_since(*since) < Self::KEPT);
        if known { Duration::ZERO } else { after }
    }

    /// The client was silent, and then its server spoke.
    pub fn server_spoke_first(&mut self, port: u16, now: Instant) {
        if self.0.len() >= Self::MOST
            && !self.0.contains_key(&port)
            && let Some(oldest) = self.0.iter().min_by_key(|(_, since)| **since).map(|(port, _)| *port)
        {
            self.0.remove(&oldest);
        }
        self.0.insert(port, now);
    }

    pub fn client_spoke_first(&mut self, port: u16) {
        self.0.remove(&port);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_octets_tell_the_protocol() {
        use Protocol::{Http1, Http2, Opaque, Tls};
        let long = [b"GET /".to_vec(), vec![b'x'; PEEK_MAX]].concat();
        for (seen, expected) in [
            (&b""[..], Step::NeedsMore),
            (b"\x16", Step::NeedsMore),
            (b"\x16\x03", Step::Is(Tls)),
            (b"\x16\x03\x01\x02", Step::Is(Tls)),
            (b"\x16\x02", Step::Is(Opaque)),
            (b"\x80\x2e\x01", Step::Is(Opaque)),
            (b"P", Step::NeedsMore),
            (b"PRI * HTTP/2.0\r\n\r\n", Step::NeedsMore),
            (H2_PREFACE, Step::Is(Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Step::Is(Opaque)),
            (b"GET", Step::NeedsMore),
            (b"GET / HTTP/1.1", Step::NeedsMore),
            (b"GET / HTTP/1.1\r\nHost: a\r\n", Step::Is(Http1)),
            (b"M-SEARCH * HTTP/1.0\n", Step::Is(Http1)),
            (b"POST /charge HTTP/1.1\r\n", Step::Is(Http1)),
            (b"GET key\r\n", Step::Is(Opaque)),
            (b"EHLO a.example\r\n", Step::Is(Opaque)),
            (b"GET\r\n", Step::Is(Opaque)),
            (b"get / HTTP/1.1\r\n", Step::Is(Opaque)),
            (b"*1\r\n$4\r\nPING\r\n", Step::Is(Opaque)),
            (b"SSH-2.0-x", Step::Is(Opaque)),
            (&[b'A'; 33], Step::Is(Opaque)),
            (&long, Step::Is(Opaque)),
        ] {
            let shown = String::from_utf8_lossy(seen.get(..40).unwrap_or(seen)).into_owned();
            assert_eq!(detect(seen), expected, "{shown:?}");
        }
        // Whatever the cut, an answer does not change once it is there.
        for whole in [H2_PREFACE, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"EHLO x\r\n"] {
            let last = detect(whole);
            for cut in 0..whole.len() {
                assert!([Step::NeedsMore, last].contains(&detect(&whole[..cut])) || last == Step::Is(Opaque), "{cut}");
            }
        }
    }

    /// A ClientHello that offers `alpn` and nothing else.
    fn client_hello(alpn: &[&str]) -> Vec<u8> {
        let names: Vec<u8> = alpn.iter().flat_map(|name| [&[name.len() as u8], name.as_bytes()].concat()).collect();
        let two = |n: usize| (n as u16).to_be_bytes();
        let list = [&two(names.len())[..], &names].concat();
        let extension = [&[0, 16][..], &two(list.len()), &list].concat();
        let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &two(extension.len()), &extension].concat();
        let message = [&[1, 0][..], &two(body.len()), &body].concat();
        [&[0x16, 3, 1][..], &two(message.len()), &message].concat()
    }

    #[test]
    fn a_sidecars_hello_is_told_from_an_applications() {
        for (alpn, expected) in [
            (&["mesh-h2"][..], Hello::Mesh),
            (&["h2", "mesh-tunnel"], Hello::Mesh),
            (&["h2", "http/1.1"], Hello::App),
            (&["mesh-h3"], Hello::App),
        ] {
            let whole = client_hello(alpn);
            assert_eq!(hello(&whole), expected, "{alpn:?}");
            assert!((0..whole.len()).all(|cut| hello(&whole[..cut]) == Hello::NeedsMore), "{alpn:?}");
        }
        assert_eq!(hello(b"\x16\x03\x01\x00\x04junk"), Hello::App);
    }

    #[test]
    fn a_silent_port_is_waited_for_once_and_forgotten_when_a_client_speaks() {
        let (mut memory, start) = (PortMemory::default(), Instant::now());
        let wait = |memory: &PortMemory, port, at| memory.patience(port, SERVER_FIRST_AFTER, at);
        assert_eq!(wait(&memory, 2525, start), Duration::from_millis(150));
        memory.server_spoke_first(2525, start);
        assert_eq!(wait(&memory, 2525, start), Duration::ZERO);
        assert_eq!(wait(&memory, 2526, start), SERVER_FIRST_AFTER);
        assert_eq!(wait(&memory, 2525, start + PortMemory::KEPT), SERVER_FIRST_AFTER);
        memory.client_spoke_first(2525);
        assert_eq!(wait(&memory, 2525, start), SERVER_FIRST_AFTER);
        for port in 0..=PortMemory::MOST as u16 {
            memory.server_spoke_first(port, start + Duration::from_millis(u64::from(port)));
        }
        assert_eq!(memory.len(), PortMemory::MOST);
        assert!(wait(&memory, 0, start) == SERVER_FIRST_AFTER && wait(&memory, 1, start).is_zero());
    }

    #[test]
    fn default_opaque_ports_are_those_of_the_design() {
        let ports = OpaquePorts::default();
        assert!(OpaquePorts::DEFAULT.into_iter().all(|port| ports.contains(port)) && !ports.contains(443));
    }
}

//! Our reading of a ClientHello beside that of rustls, which answers such, and of tls-parser, which only looks: what two of them
//! take must be the same to both. We may refuse more, and never read another name.
#![allow(clippy::unwrap_used)]

use portcullis_wire::{Parse, client_hello};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion,
    client::{EchGreaseConfig, EchMode},
    crypto::{aws_lc_rs, hpke::Hpke},
    server::Acceptor,
    version::{TLS12, TLS13},
};
use std::sync::Arc;
use tls_parser::{SNIType, TlsExtension, TlsMessage, TlsMessageHandshake};

/// What one of them says of where a client wants to go.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    sni: Option<String>,
    alpn: Vec<Vec<u8>>,
}

impl Reading {
    fn new<'a>(sni: Option<&str>, alpn: impl IntoIterator<Item = &'a [u8]>) -> Self {
        // Case is no difference, nor is the dot of the root.
        let sni = sni.map(|name| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase());
        Self { sni, alpn: alpn.into_iter().map(<[u8]>::to_vec).collect() }
    }
}

fn ours(octets: &[u8]) -> Option<Reading> {
    match client_hello::peek(octets) {
        Ok(Parse::Complete { head, .. }) => Some(Reading { sni: head.sni, alpn: head.alpn }),
        Ok(Parse::Incomplete) | Err(_) => None,
    }
}

/// As much at a time as `piece`.
fn of_rustls(octets: &[u8], piece: usize) -> Option<Reading> {
    let mut acceptor = Acceptor::default();
    for mut part in octets.chunks(piece) {
        while !part.is_empty() {
            acceptor.read_tls(&mut part).ok().filter(|read| *read > 0)?;
            if let Some(accepted) = acceptor.accept().ok()? {
                let hello = accepted.client_hello();
                return Some(Reading::new(hello.server_name(), hello.alpn().into_iter().flatten()));
            }
        }
    }
    None
}

/// It reads records and messages; putting the one out of the other is left to its user.
fn of_tls_parser(octets: &[u8]) -> Option<Reading> {
    let (mut rest, mut message) = (octets, Vec::new());
    loop {
        let (behind, record) = tls_parser::parse_tls_raw_record(rest).ok()?;
        if record.hdr.record_type != tls_parser::TlsRecordType::Handshake {
            return None;
        }
        message.extend_from_slice(record.data);
        rest = behind;
        match tls_parser::parse_tls_message_handshake(&message) {
            Ok((_, TlsMessage::Handshake(TlsMessageHandshake::ClientHello(hello)))) => return extensions(hello.ext),
            Ok(_) | Err(tls_parser::nom::Err::Error(_) | tls_parser::nom::Err::Failure(_)) => return None,
            Err(tls_parser::nom::Err::Incomplete(_)) => {}
        }
    }
}

fn extensions(octets: Option<&[u8]>) -> Option<Reading> {
    // It stops at what it cannot read, and says so by what is left.
    let (left, extensions) = tls_parser::parse_tls_client_hello_extensions(octets.unwrap_or_default()).ok()?;
    if !left.is_empty() {
        return None;
    }
    let (mut sni, mut alpn) = (None, Vec::new());
    for extension in &extensions {
        match extension {
            TlsExtension::SNI(names) => {
                let name = names.iter().find(|(kind, _)| *kind == SNIType::HostName)?;
                sni = Some(std::str::from_utf8(name.1).ok()?);
            }
            TlsExtension::ALPN(protocols) => alpn.clone_from(protocols),
            _ => {}
        }
    }
    Some(Reading::new(sni, alpn))
}

/// How often two took the same octets: a comparison that never happens proves nothing.
#[derive(Debug, Default)]
struct Compared {
    with_rustls: u32,
    with_tls_parser: u32,
}

impl Compared {
    /// Whether we took it.
    fn compare(&mut self, octets: &[u8]) -> bool {
        let Some(ours) = ours(octets) else { return false };
        if let Some(theirs) = of_rustls(octets, octets.len()) {
            // It takes an address for no name. We say it, so that it can be refused (`sni_address`).
            let is_address = theirs.sni.is_none() && ours.sni.as_deref().is_some_and(is_address);
            assert!(
                ours == theirs || is_address && ours.alpn == theirs.alpn,
                "rustls: {}",
                told(&ours, &theirs, octets)
            );
            self.with_rustls += 1;
        }
        if let Some(theirs) = of_tls_parser(octets) {
            assert!(ours == theirs, "tls-parser: {}", told(&ours, &theirs, octets));
            self.with_tls_parser += 1;
        }
        true
    }
}

fn is_address(name: &str) -> bool {
    name.parse::<std::net::IpAddr>().is_ok()
}

fn told(ours: &Reading, theirs: &Reading, octets: &[u8]) -> String {
    let octets: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    format!("we read {ours:?}, it reads {theirs:?}, of {octets}")
}

/// Recorded from programs of Debian 12: openssl s_client, curl (OpenSSL) and wget (GnuTLS).
const RECORDED: [&[u8]; 5] = [
    include_bytes!("hellos/openssl-tls12.hello"),
    include_bytes!("hellos/openssl-tls13.hello"),
    include_bytes!("hellos/openssl-nameless.hello"),
    include_bytes!("hellos/curl.hello"),
    include_bytes!("hellos/gnutls.hello"),
];

/// A client of rustls as its configuration is changed.
fn made(name: &str, versions: &[&'static SupportedProtocolVersion], change: impl FnOnce(&mut ClientConfig)) -> Vec<u8> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_protocol_versions(versions).unwrap();
    let mut config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    change(&mut config);
    first_flight(config, name)
}

/// A client that pretends to hide its name (RFC 9849 §6.2).
fn greased(name: &str) -> Vec<u8> {
    let suite = aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_128;
    let (public, _) = suite.generate_key_pair().unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_ech(EchMode::Grease(EchGreaseConfig::new(suite, public))).unwrap();
    first_flight(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth(), name)
}

fn first_flight(config: ClientConfig, name: &str) -> Vec<u8> {
    let mut client = ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
    let mut octets = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut octets).unwrap();
    }
    octets
}

/// Real hellos, the last of 17 kilobytes.
fn corpus() -> Vec<Vec<u8>> {
    let protocols = |names: &[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>();
    let both = [&TLS13, &TLS12];
    let long = ["a".repeat(60).as_str(); 4].join(".");
    let mut corpus: Vec<Vec<u8>> = RECORDED.iter().map(|octets| octets.to_vec()).collect();
    corpus.extend([
        made("a.test", &both, |_| {}),
        made("Shop.Example.COM", &[&TLS12], |config| config.alpn_protocols = protocols(&["h2", "http/1.1"])),
        made("shop.example.com.", &[&TLS13], |config| config.alpn_protocols = protocols(&["h2"])),
        made("nameless.test", &both, |config| config.enable_sni = false),
        made("192.0.2.1", &both, |_| {}),
        made(&long, &both, |config| config.max_fragment_size = Some(100)),
        greased("front.test"),
        made("large.test", &both, |config| config.alpn_protocols = protocols(&["x".repeat(250).as_str(); 65])),
    ]);
    assert!(corpus.last().unwrap().len() > 17_000);
    corpus
}

/// The octets in records of their own: the message in them stays what it was.
fn records<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let record = |part: &[u8]| [&[22, 3, 1][..], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat();
    parts.into_iter().flat_map(record).collect()
}

/// The handshake message, out of its records.
fn message(octets: &[u8]) -> Vec<u8> {
    let (mut rest, mut message) = (octets, Vec::new());
    while let Some((header, behind)) = rest.split_at_checked(5) {
        let (part, behind) = behind.split_at(usize::from(u16::from_be_bytes([header[3], header[4]])));
        message.extend_from_slice(part);
        rest = behind;
    }
    message
}

#[test]
fn real_hellos_say_the_same_to_all_however_they_are_cut() {
    let mut compared = Compared::default();
    for octets in corpus() {
        let whole = ours(&octets);
        assert!(whole.is_some() && compared.compare(&octets), "{octets:02x?}");
        let message = message(&octets);
        // The large one does not fit one record, and is cut now and then.
        let step = if message.len() > 2_000 { 211 } else { 1 };
        for cut in (1..message.len()).step_by(step).filter(|cut| cut.max(&(message.len() - cut)) <= &(1 << 14)) {
            let (one, two) = message.split_at(cut);
            let octets = records([one, two]);
            assert!(compared.compare(&octets), "cut at {cut}");
            assert_eq!(ours(&octets), whole, "cut at {cut}");
        }
    }
    assert!(compared.with_rustls > 3_000 && compared.with_tls_parser > 3_000, "{compared:?}");
}

#[test]
fn octet_by_octet_nothing_is_said_too_early_and_the_same_at_the_end() {
    for octets in corpus() {
        let whole = ours(&octets);
        assert_eq!(of_rustls(&octets, 1).map(|read| read.alpn), whole.as_ref().map(|read| read.alpn.clone()));
        let step = if octets.len() > 2_000 { 53 } else { 1 };
        for end in (0..octets.len()).step_by(step) {
            assert!(matches!(client_hello::peek(&octets[..end]), Ok(Parse::Incomplete)), "{end} of {}", octets.len());
        }
        assert!(whole.is_some());
    }
}

/// A hello in its parts, so that it can be changed and still be well formed as a whole.
struct Parts {
    /// Version, random, session, suites and compressions.
    front: Vec<u8>,
    extensions: Vec<(u16, Vec<u8>)>,
}

impl Parts {
    fn of(octets: &[u8]) -> Self {
        let message = message(octets);
        let mut at = 4 + 2 + 32;
        at += 1 + usize::from(message[at]);
        at += 2 + usize::from(number(&message[at..]));
        at += 1 + usize::from(message[at]);
        let (front, mut rest) = (message[4..at].to_vec(), &message[at + 2..]);
        let mut extensions = Vec::new();
        while !rest.is_empty() {
            let length = usize::from(number(&rest[2..]));
            extensions.push((number(rest), rest[4..4 + length].to_vec()));
            rest = &rest[4 + length..];
        }
        Self { front, extensions }
    }

    fn message(&self) -> Vec<u8> {
        let extensions: Vec<u8> = self
            .extensions
            .iter()
            .flat_map(|(kind, value)| [&kind.to_be_bytes()[..], &vector(value)].concat())
            .collect();
        let body = [&self.front[..], &vector(&extensions)].concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[1][..], &length[1..], &body].concat()
    }

    /// One change to what the hello says.
    fn change(&mut self, random: &mut fastrand::Rng) {
        let count = self.extensions.len();
        if count == 0 {
            return self.extensions.push((0, odd_name(random)));
        }
        let (one, two) = (random.usize(..count), random.usize(..count));
        match random.u8(..9) {
            0 => self.extensions.swap(one, two),
            1 => drop(self.extensions.remove(one)),
            2 => self.extensions.insert(one, self.extensions[two].clone()),
            3 => self.extensions[one].0 = [0, 16, 0xfe0d, 0x0a0a][random.usize(..4)],
            4 => self.extensions.insert(one, (0, odd_name(random))),
            5 => mutate(&mut self.extensions[one].1, random),
            6 => mutate(&mut self.front, random),
            _ => {
                let name = self.extensions.iter_mut().find(|(kind, _)| *kind == 0);
                name.into_iter().for_each(|(_, value)| *value = odd_name(random));
            }
        }
    }
}

/// A value of `server_name` (RFC 6066 §3): often one name, sometimes none, several, or of another type.
fn odd_name(random: &mut fastrand::Rng) -> Vec<u8> {
    const NAMES: [&str; 16] = [
        "a.test",
        "B.TEST",
        "a.test.",
        "a.test..",
        ".",
        "",
        "192.0.2.1",
        "::1",
        "[::1]",
        "0x7f.1",
        "a..b",
        ".a",
        "a_b.test",
        "a.test\0.b.test",
        "-a-.test",
        "ä.test",
    ];
    let mut list = Vec::new();
    for _ in 0..[1, 1, 1, 1, 2, 0][random.usize(..6)] {
        list.push(if random.u8(..10) == 0 { random.u8(..3) } else { 0 });
        list.extend(vector(NAMES[random.usize(..NAMES.len())].as_bytes()));
    }
    let mut value = vector(&list);
    if random.u8(..10) == 0 {
        mutate(&mut value, random);
    }
    value
}

fn number(octets: &[u8]) -> u16 {
    u16::from_be_bytes([octets[0], octets[1]])
}

/// With its length in two octets.
fn vector(octets: &[u8]) -> Vec<u8> {
    [&u16::try_from(octets.len()).unwrap_or(u16::MAX).to_be_bytes()[..], octets].concat()
}

/// One octet is another, gone, or twice.
fn mutate(octets: &mut Vec<u8>, random: &mut fastrand::Rng) {
    if octets.is_empty() {
        return octets.push(random.u8(..));
    }
    let at = random.usize(..octets.len());
    match random.u8(..4) {
        0 => octets[at] ^= 1 << random.u8(..8),
        1 => octets[at] = random.u8(..),
        2 => drop(octets.remove(at)),
        _ => octets.insert(at, octets[at]),
    }
}

#[test]
fn whatever_becomes_of_a_hello_two_that_take_it_read_the_same() {
    let mut seeds = corpus();
    // The large one would take all of the time.
    seeds.pop();
    let mut random = fastrand::Rng::with_seed(0x5eed);
    let mut compared = Compared::default();
    for round in 0..40_000 {
        let seed = &seeds[random.usize(..seeds.len())];
        let mut octets = if round % 4 == 0 {
            seed.clone()
        } else {
            let mut parts = Parts::of(seed);
            (0..random.u8(1..4)).for_each(|_| parts.change(&mut random));
            let message = parts.message();
            let cut = random.usize(1..message.len());
            if random.bool() { records([&message[..]]) } else { records([&message[..cut], &message[cut..]]) }
        };
        if round % 4 < 2 {
            (0..random.u8(1..4)).for_each(|_| mutate(&mut octets, &mut random));
        }
        compared.compare(&octets);
    }
    assert!(compared.with_rustls > 5_000 && compared.with_tls_parser > 5_000, "{compared:?}");
}

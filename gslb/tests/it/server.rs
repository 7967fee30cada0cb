//! The server on real sockets: UDP, TCP with all its manners, TLS, reload, stop.

use crate::support::{NOW, compile, question, shown};
use hickory_proto::op::Message;
use portcullis_config::{ContentHash, Live};
use portcullis_gslb::{Checks, DnsMetrics, Host, Listeners, QueryRecord, Republish, Server, Snapshot, TlsSwitch};
use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

pub(crate) struct Running {
    live: Live<Snapshot>,
    udp: SocketAddr,
    tcp: SocketAddr,
    registry: prometheus::Registry,
    log: Arc<Mutex<Vec<String>>>,
    _server: Server,
    _checks: Checks,
}

fn document(address: &str, dns: &str) -> String {
    format!(
        "[dns]\n{dns}\n[zone.x]\nname = \"example.test\"\nns = [\"ns.other.test\"]\n\
         soa = {{ mname = \"ns.other.test\", rname = \"noc.other.test\", serial = 1 }}\n\
         records = [\"www 60 A {address}\", \"*.w 60 A {address}\", \"$GENERATE 1-100 big 60 A 10.0.0.$\"]\n"
    )
}

pub(crate) fn start(dns: &str) -> Running {
    let snapshot = compile(&document("192.0.2.1", dns), "").unwrap();
    let live = Live::new(snapshot, ContentHash([0; 32]), SystemTime::UNIX_EPOCH);
    let (udp, tcp) = (UdpSocket::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let (udp_at, tcp_at) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    let registry = prometheus::Registry::new();
    let log = Arc::new(Mutex::new(Vec::new()));
    let written = log.clone();
    let host = Host {
        metrics: Arc::new(DnsMetrics::new(&registry).unwrap()),
        log: Some(Arc::new(move |record: &QueryRecord<'_>| {
            written.lock().unwrap().push(serde_json::to_string(record).unwrap());
        })),
        republish: Republish::default(),
    };
    let listeners = Listeners { udp: vec![udp], tcp: vec![tcp], ..Listeners::default() };
    let checks = Checks::start(&live, &host).unwrap();
    let server = Server::start(listeners, &live, &host).unwrap();
    Running { live, udp: udp_at, tcp: tcp_at, registry, log, _server: server, _checks: checks }
}

impl Running {
    pub(crate) fn udp(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(self.udp).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    pub(crate) fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.tcp).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
    }

    pub(crate) fn metric(&self, line: &str) -> bool {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        text.lines().any(|one| one == line)
    }
}

fn exchange(socket: &UdpSocket, text: &str) -> Message {
    socket.send(&question(text).octets).unwrap();
    let mut reply = [0; 4_096];
    let length = socket.recv(&mut reply).unwrap();
    Message::from_vec(&reply[..length]).unwrap()
}

pub(crate) fn framed(text: &str) -> Vec<u8> {
    let octets = question(text).octets;
    [&(octets.len() as u16).to_be_bytes()[..], &octets].concat()
}

pub(crate) fn reply(stream: &mut TcpStream) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut octets = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut octets).unwrap();
    Message::from_vec(&octets).unwrap()
}

#[test]
fn a_query_is_answered_counted_and_logged_and_a_reload_changes_the_next() {
    let server = start("");
    let socket = server.udp();
    assert_eq!(shown(&exchange(&socket, "www A")), "NOERROR aa | www.~ 60 A 192.0.2.1;");
    assert!(server.metric("portcullis_dns_answers_total{rcode=\"NOERROR\",transport=\"udp\"} 1"));
    assert!(server.metric("portcullis_dns_zone_answers_total{rcode=\"NOERROR\",zone=\"x\"} 1"));
    assert!(server.metric("portcullis_dns_questions_total{type=\"A\"} 1"));
    let log = server.log.lock().unwrap().join("\n");
    assert!(log.contains("\"name\":\"www.example.test.\",\"type\":\"A\"") && log.contains("\"zone\":\"x\""), "{log}");
    let next = compile(&document("192.0.2.2", ""), "").unwrap();
    server.live.publish(next, ContentHash([1; 32]), "test", SystemTime::UNIX_EPOCH);
    assert_eq!(shown(&exchange(&socket, "www A")), "NOERROR aa | www.~ 60 A 192.0.2.2;");
    let _ = NOW;
}

#[test]
fn batches_of_datagrams_are_all_answered() {
    let server = start("rate_limit = { mode = \"off\" }");
    let socket = server.udp();
    for _ in 0..150 {
        socket.send(&question("www A").octets).unwrap();
    }
    let mut octets = [0; 512];
    for _ in 0..150 {
        socket.recv(&mut octets).unwrap();
    }
}

#[test]
fn over_its_rate_a_network_gets_every_second_reply_truncated() {
    let server = start("rate_limit = { responses = \"1/s\" }");
    let socket = server.udp();
    for _ in 0..9 {
        socket.send(&question("www A edns").octets).unwrap();
    }
    let mut truncated = 0;
    for _ in 0..5 {
        let mut octets = [0; 512];
        let length = socket.recv(&mut octets).unwrap();
        let message = Message::from_vec(&octets[..length]).unwrap();
        truncated += usize::from(message.metadata.truncation && message.answers.is_empty() && message.edns.is_some());
    }
    assert_eq!(truncated, 4);
}

#[test]
fn neither_the_case_of_letters_nor_names_below_a_wildcard_get_around_the_rate() {
    let server = start("rate_limit = { responses = \"1/s\", slip = 1 }");
    let socket = server.udp();
    for kind in ["case", "wildcard"] {
        let mut truncated = 0;
        for round in 0..9u8 {
            let mut octets =
                question(&if kind == "case" { "www A".to_owned() } else { format!("n{round}.w A") }).octets;
            if kind == "case" {
                octets[13..16].copy_from_slice([b"www", b"Www", b"wWw", b"WWw"][usize::from(round) % 4]);
            }
            socket.send(&octets).unwrap();
            let mut reply = [0; 512];
            let length = socket.recv(&mut reply).unwrap();
            truncated += usize::from(reply[..length][2] & 2 != 0);
        }
        assert!(truncated >= 5, "{kind}: {truncated}");
    }
}

#[test]
fn rfc7766_6_2_1_1_queries_on_one_connection_are_pipelined() {
    let server = start("");
    let mut stream = server.tcp();
    stream.write_all(&framed("www A").repeat(200)).unwrap();
    for _ in 0..200 {
        assert_eq!(reply(&mut stream).answers.len(), 1);
    }
    // Octet by octet, and the next right behind it.
    for octet in framed("big A") {
        stream.write_all(&[octet]).unwrap();
    }
    assert_eq!(reply(&mut stream).answers.len(), 100);
    // RFC 7766 §6.2.4: a half-closed connection is answered to its end.
    stream.write_all(&framed("www A")).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(reply(&mut stream).answers.len(), 1);
    assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0);
}

#[test]
fn rfc7766_6_2_3_sixty_connections_at_once_are_all_answered() {
    let server = start("");
    let mut open: Vec<_> = (0..60).map(|_| server.tcp()).collect();
    for round in 0..2 {
        for stream in &mut open {
            stream.write_all(&framed("www A")).unwrap();
        }
        // The last first: none waits for another.
        for stream in open.iter_mut().rev() {
            assert_eq!(reply(stream).answers.len(), 1, "{round}");
        }
    }
}

#[test]
fn silent_and_dripping_connections_are_closed() {
    let server = start("tcp = { first_timeout = \"100ms\", idle_timeout = \"150ms\" }");
    let mut silent = server.tcp();
    assert_eq!(silent.read(&mut [0; 16]).unwrap(), 0);
    let mut half = server.tcp();
    half.write_all(&framed("www A")[..7]).unwrap();
    assert_eq!(half.read(&mut [0; 16]).unwrap(), 0);
    let mut idle = server.tcp();
    idle.write_all(&framed("www A")).unwrap();
    assert_eq!(reply(&mut idle).answers.len(), 1);
    assert_eq!(idle.read(&mut [0; 16]).unwrap(), 0);
}

#[test]
fn connections_over_a_clients_cap_are_closed_at_once() {
    let server = start("tcp = { max_per_client = 2 }");
    let mut open: Vec<_> = (0..2).map(|_| server.tcp()).collect();
    for stream in &mut open {
        stream.write_all(&framed("www A")).unwrap();
        assert_eq!(reply(stream).answers.len(), 1);
    }
    let mut third = server.tcp();
    assert_eq!(third.read(&mut [0; 16]).unwrap_or(0), 0);
    assert!(server.metric("portcullis_dns_connections_refused_total 1"));
    drop(open);
}

/// A server for one snapshot on sockets given.
fn serve_on(listeners: Listeners, document: &str) -> (Live<Snapshot>, (Server, Checks)) {
    let snapshot = compile(document, "").unwrap();
    let live = Live::new(snapshot, ContentHash([0; 32]), SystemTime::UNIX_EPOCH);
    let host = Host {
        metrics: Arc::new(DnsMetrics::new(&prometheus::Registry::new()).unwrap()),
        log: None,
        republish: Republish::default(),
    };
    let server = Server::start(listeners, &live, &host).unwrap();
    let checks = Checks::start(&live, &host).unwrap();
    (live, (server, checks))
}

#[test]
fn a_socket_on_all_addresses_answers_from_the_one_that_was_asked() {
    for (bind, ask) in [("0.0.0.0:0", "127.0.0.2"), ("[::]:0", "127.0.0.3"), ("[::]:0", "::1")] {
        let udp = UdpSocket::bind(bind).unwrap();
        let port = udp.local_addr().unwrap().port();
        let listeners = Listeners { udp: vec![udp], ..Listeners::default() };
        let (_live, _server) = serve_on(listeners, &document("192.0.2.1", ""));
        let local = if ask.contains(':') { "[::1]:0" } else { "127.0.0.1:0" };
        let socket = UdpSocket::bind(local).unwrap();
        // A connected socket takes nothing from another address.
        socket.connect((ask, port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(exchange(&socket, "www A").answers.len(), 1, "{bind} {ask}");
    }
}

#[test]
fn rfc7858_queries_over_tls_are_answered_and_padded() {
    let made = rcgen::generate_simple_self_signed(vec!["dns.test".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    portcullis_tls::install_provider();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let tls = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tls.local_addr().unwrap();
    let listeners = Listeners { tls: vec![(tls, TlsSwitch::new(Arc::new(config)))], ..Listeners::default() };
    let (_live, _server) = serve_on(listeners, &document("192.0.2.1", ""));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let client = rustls::ClientConnection::new(Arc::new(config), "dns.test".try_into().unwrap()).unwrap();
    let mut stream = rustls::StreamOwned::new(client, TcpStream::connect(address).unwrap());
    stream.write_all(&framed("www A option=12:")).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    assert_eq!(u16::from_be_bytes(length), 468);
}

#[test]
fn a_member_that_stops_answering_is_withdrawn_and_comes_back() {
    // Two members on one port: the first accepts, the second does not yet.
    let first = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = first.local_addr().unwrap().port();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = udp.local_addr().unwrap();
    let service = format!(
        "{}[public_service.shop]\nhost = \"shop.example.test\"\nport = {port}\n\
         sites = {{ a = [\"127.0.0.1\"], b = [\"127.0.0.2\"] }}\n\
         health_check = {{ interval = \"100ms\", timeout = \"100ms\", healthy = 1, unhealthy = 2 }}\n",
        document("192.0.2.1", "rate_limit = { mode = \"off\" }")
    );
    let (_live, _server) = serve_on(Listeners { udp: vec![udp], ..Listeners::default() }, &service);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(at).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let await_answer = |expected: &str| {
        let begin = std::time::Instant::now();
        loop {
            let message = exchange(&socket, "shop A");
            let answer = message.answers.first().map(|record| (record.data.to_string(), record.ttl));
            if answer == Some((expected.to_owned(), 30)) {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "{expected}: {answer:?}");
            std::thread::yield_now();
        }
    };
    await_answer("127.0.0.1");
    drop(first);
    let second = TcpListener::bind(("127.0.0.2", port)).unwrap();
    await_answer("127.0.0.2");
    let _first = TcpListener::bind(("127.0.0.1", port)).unwrap();
    await_answer("127.0.0.1");
    drop(second);
}

/// A server of DNS over QUIC, and what its clients trust.
fn quic(dns: &str) -> (SocketAddr, rustls::RootCertStore, (Live<Snapshot>, (Server, Checks))) {
    let made = rcgen::generate_simple_self_signed(vec!["dns.test".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    portcullis_tls::install_provider();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = udp.local_addr().unwrap();
    let listeners = Listeners { quic: vec![(udp, TlsSwitch::new(Arc::new(config)))], ..Listeners::default() };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    (at, roots, serve_on(listeners, &document("192.0.2.1", dns)))
}

async fn quic_client(at: SocketAddr, roots: rustls::RootCertStore, alpn: &str) -> Result<quinn::Connection, String> {
    let mut tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    endpoint.connect(at, "dns.test").unwrap().await.map_err(|error| error.to_string())
}

/// The query with the id that RFC 9250 §4.2.1 wants.
fn quic_framed(text: &str) -> Vec<u8> {
    let mut octets = framed(text);
    octets[2..4].fill(0);
    octets
}

async fn quic_exchange(connection: &quinn::Connection, octets: &[u8]) -> Result<Vec<u8>, String> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(|error| error.to_string())?;
    send.write_all(octets).await.map_err(|error| error.to_string())?;
    send.finish().unwrap();
    receive.read_to_end(70_000).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn rfc9250_4_2_queries_over_quic_are_answered_a_stream_each_and_padded() {
    let (at, roots, _server) = quic("");
    let connection = quic_client(at, roots.clone(), "doq").await.unwrap();
    let queries =
        (0..150).map(|_| async { quic_exchange(&connection, &quic_framed("www A option=12:")).await.unwrap() });
    let mut tasks = Vec::new();
    for query in queries {
        tasks.push(query);
    }
    for task in tasks {
        let reply = task.await;
        assert_eq!((reply.len(), &reply[..2], reply[2..4] == [0, 0]), (470, &468u16.to_be_bytes()[..], true));
    }
    // More than a datagram, and whole.
    let big = quic_exchange(&connection, &quic_framed("big A")).await.unwrap();
    assert_eq!(Message::from_vec(&big[2..]).unwrap().answers.len(), 100);
    // RFC 9250 §8.1.1: nothing else is spoken here.
    assert!(quic_client(at, roots, "h3").await.is_err());
}

#[tokio::test]
async fn rfc9250_4_3_3_what_breaks_the_protocol_ends_the_connection() {
    let (at, roots, _server) = quic("");
    let with_id = framed("www A");
    let two = quic_framed("www A").repeat(2);
    let short = quic_framed("www A")[..9].to_vec();
    let keepalive = quic_framed("www A option=11:");
    for (what, octets) in [("an id", with_id), ("two messages", two), ("half of one", short), ("keepalive", keepalive)]
    {
        let connection = quic_client(at, roots.clone(), "doq").await.unwrap();
        quic_exchange(&connection, &octets).await.unwrap_err();
        let closed = connection.closed().await;
        let code = match &closed {
            quinn::ConnectionError::ApplicationClosed(close) => u64::from(close.error_code),
            _ => panic!("{what}: {closed}"),
        };
        assert_eq!(code, 2, "{what}: DOQ_PROTOCOL_ERROR");
    }
    let connection = quic_client(at, roots, "doq").await.unwrap();
    assert!(quic_exchange(&connection, &quic_framed("www A")).await.is_ok(), "others are served");
}

#[tokio::test]
async fn connections_by_quic_are_capped_and_end_when_they_are_idle() {
    let (at, roots, _server) = quic("tcp = { max_per_client = 2, idle_timeout = \"300ms\" }");
    let first = quic_client(at, roots.clone(), "doq").await.unwrap();
    let _second = quic_client(at, roots.clone(), "doq").await.unwrap();
    assert!(quic_client(at, roots.clone(), "doq").await.is_err(), "a third of one client");
    let closed = first.closed().await;
    assert!(matches!(closed, quinn::ConnectionError::TimedOut), "{closed}");
}

#[test]
fn a_dnstap_collector_gets_queries_with_their_replies_and_only_the_share_that_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("dnstap.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for (sample, expected) in [("0%", false), ("100%", true)] {
        let server = start(&format!("dnstap = {{ to = \"{}\", sample = \"{sample}\" }}", socket.display()));
        exchange(&server.udp(), "www A");
        if !expected {
            listener.set_nonblocking(true).unwrap();
            assert!(listener.accept().is_err(), "nobody connects to tell nothing");
            listener.set_nonblocking(false).unwrap();
            continue;
        }
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let content = b"protobuf:dnstap.Dnstap";
        // READY and START of frame streams, with the content type.
        let mut control = [0; 8 + 4 + 8 + 22];
        stream.read_exact(&mut control).unwrap();
        assert!(control[8..12] == [0, 0, 0, 4] && control.ends_with(content));
        control[11] = 1;
        stream.write_all(&control).unwrap();
        stream.read_exact(&mut control).unwrap();
        assert_eq!(control[8..12], [0, 0, 0, 2]);
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut frame).unwrap();
        let query = question("www A").octets;
        assert!(frame.windows(query.len()).any(|part| part == query), "the query");
        assert!(frame.windows(4).any(|part| part == [192, 0, 2, 1]), "the reply");
    }
}

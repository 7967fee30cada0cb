//! Zones given to secondaries, and messages signed with a shared secret. dig, kdig and NSD (as a secondary with TSIG and NOTIFY)
//! were used by hand on the same server.

use crate::support::{compile, compile_in, question};
use aws_lc_rs::hmac;
use hickory_proto::op::Message;
use portcullis_config::{ContentHash, Live};
use portcullis_gslb::{Checks, DnsMetrics, Host, Listeners, Republish, Server, Snapshot};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Arc,
    time::{Duration, SystemTime},
};

fn document(transfer: &str) -> String {
    format!(
        "[zone.x]\nname = \"example.test\"\nns = [\"ns.other.test\"]\n\
         soa = {{ mname = \"ns.other.test\", rname = \"noc.other.test\", serial = 7 }}\n\
         records = [\"$GENERATE 1-2000 host-$ 60 A 10.0.0.1\", \"sub 60 NS ns.sub\", \"ns.sub 60 A 192.0.2.9\"]\n{transfer}\n\
         [public_service.shop]\nhost = \"shop.example.test\"\nsites = {{ a = [\"192.0.2.1\"], b = [\"2001:db8::1\"] }}\n"
    )
}

pub(crate) fn serve(snapshot: Arc<Snapshot>) -> (Live<Snapshot>, (Server, Checks), TcpStream) {
    let live = Live::new(snapshot, ContentHash([0; 32]), SystemTime::UNIX_EPOCH);
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let host = Host {
        metrics: Arc::new(DnsMetrics::new(&prometheus::Registry::new()).unwrap()),
        log: None,
        republish: Republish::default(),
    };
    let listeners = Listeners { tcp: vec![tcp], ..Listeners::default() };
    let server = Server::start(listeners, &live, &host).unwrap();
    let checks = Checks::start(&live, &host).unwrap();
    (live, (server, checks), stream)
}

pub(crate) fn exchange(stream: &mut TcpStream, octets: &[u8]) -> Vec<u8> {
    stream.write_all(&[&(octets.len() as u16).to_be_bytes()[..], octets].concat()).unwrap();
    receive(stream)
}

pub(crate) fn receive(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut octets = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut octets).unwrap();
    octets
}

#[test]
fn rfc5936_2_2_a_zone_is_sent_between_two_soas_to_who_may_have_it() {
    let (_live, _server, mut stream) = serve(compile(&document("transfer = { to = [\"127.0.0.0/8\"] }"), "").unwrap());
    let mut records = Vec::new();
    let mut octets = exchange(&mut stream, &question("@ AXFR").octets);
    loop {
        assert!(octets.len() <= 17_000, "{}", octets.len());
        records.extend(Message::from_vec(&octets).unwrap().answers);
        if records.len() > 1 && records[0] == *records.last().unwrap() {
            break;
        }
        octets = receive(&mut stream);
    }
    let shown: Vec<_> = records.iter().map(|r| format!("{} {} {}", r.name, r.record_type(), r.data)).collect();
    // Two SOAs, NS, hosts, the cut with its glue, and both members of the service.
    assert_eq!(shown.len(), 2 + 1 + 2_000 + 2 + 2);
    for expected in
        ["shop.example.test. A 192.0.2.1", "shop.example.test. AAAA 2001:db8::1", "ns.sub.example.test. A 192.0.2.9"]
    {
        assert!(shown.iter().any(|line| line == expected), "{expected}");
    }
    let mut rcode = |text: &str| exchange(&mut stream, &question(text).octets)[3] & 15;
    assert_eq!((rcode("shop AXFR"), rcode("other.test. AXFR")), (9, 9), "RFC 5936 §2.2.1: not the name of a zone");
}

#[test]
fn rfc1995_4_who_is_current_gets_the_soa_alone() {
    let (_live, _server, mut stream) = serve(compile(&document("transfer = { to = [\"127.0.0.0/8\"] }"), "").unwrap());
    for (serial, whole) in [(7u32, false), (8, false), (6, true)] {
        let mut octets = question("@ IXFR").octets;
        octets[9] = 1;
        octets.extend(b"\xc0\x0c\0\x06\0\x01\0\0\0\0\0\x16\0\0");
        octets.extend(serial.to_be_bytes());
        octets.extend([0; 16]);
        let answers = Message::from_vec(&exchange(&mut stream, &octets)).unwrap().answers;
        assert_eq!(answers.len() > 1, whole, "{serial}");
    }
}

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn with_key(transfer: &str) -> Arc<Snapshot> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), data_encoding::BASE64.encode(SECRET)).unwrap();
    let text = format!("[dns.tsig.xfr]\nsecret = {{ file = \"key\" }}\n{}", document(transfer));
    compile_in(folder.path(), &text, None).0.unwrap()
}

/// Name and algorithm, then what RFC 8945 §4.3.3 adds to what is signed.
fn variables(time: u64) -> Vec<u8> {
    [&b"\x03xfr\0\0\xff\0\0\0\0\x0bhmac-sha256\0"[..], &time.to_be_bytes()[2..], &[1, 44, 0, 0, 0, 0]].concat()
}

fn sign(message: &mut Vec<u8>, secret: &[u8], time: u64) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let mac = hmac::sign(&key, &[&message[..], &variables(time)].concat()).as_ref().to_vec();
    let id = [message[0], message[1]];
    message.extend(b"\x03xfr\0\0\xfa\0\xff\0\0\0\0\0\x3d\x0bhmac-sha256\0");
    message.extend(&time.to_be_bytes()[2..]);
    message.extend([1, 44, 0, 32]);
    message.extend(&mac);
    message.extend(id);
    message.extend([0; 4]);
    message[11] += 1;
    mac
}

#[test]
fn rfc8945_5_3_a_signed_query_gets_a_signed_reply() {
    let server = with_key("");
    let mut question = question("host-1 A");
    let now = u64::from(question.asked.now);
    let mac = sign(&mut question.octets, SECRET, now);
    let reply = server.answer(&question.octets, &question.asked).unwrap();
    // The record at the end is as long as the one that was sent.
    let (body, record) = reply.split_at(reply.len() - 76);
    let mut body = body.to_vec();
    body[11] -= 1;
    let signed = [&[0, 32][..], &mac, &body, &variables(now)].concat();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    hmac::verify(&key, &signed, &record[38..70]).unwrap();
}

#[test]
fn rfc8945_5_2_wrong_keys_signatures_and_times_are_told() {
    let server = with_key("");
    let error = |octets: &[u8]| {
        let asked = question("host-1 A").asked;
        let reply = server.answer(octets, &asked).unwrap();
        Message::from_vec(&reply).unwrap();
        // Of the record: the code stands before the length of what follows it.
        let other = if reply[reply.len() - 8..reply.len() - 6] == [0, 6] { 6 } else { 0 };
        (reply[3] & 15, reply[reply.len() - other - 3])
    };
    let now = u64::from(question("host-1 A").asked.now);
    let signed = |secret: &[u8], time: u64| {
        let mut octets = question("host-1 A").octets;
        sign(&mut octets, secret, time);
        octets
    };
    assert_eq!(error(&signed(b"another secret, another secret.", now)), (9, 16));
    assert_eq!(error(&signed(SECRET, now - 301)), (9, 18));
    let mut foreign = signed(SECRET, now);
    let at = foreign.len() - 76;
    foreign[at + 1] = b'y';
    assert_eq!(error(&foreign), (9, 17));
}

#[test]
fn a_transfer_that_needs_a_key_is_refused_without_it() {
    let (_live, _server, mut stream) = serve(with_key("transfer = { keys = [\"xfr\"] }"));
    assert_eq!(exchange(&mut stream, &question("@ AXFR").octets)[3] & 15, 5);
    let mut signed = question("@ AXFR").octets;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    sign(&mut signed, SECRET, now);
    let first = exchange(&mut stream, &signed);
    assert_eq!((first[3] & 15, first[11]), (0, 1), "signed");
    for (transfer, expected) in [
        ("transfer = {}", "the zone would be given to anybody"),
        ("transfer = { keys = [\"y\"] }", "tsig \"y\" is not defined"),
    ] {
        let problems = compile(&document(transfer), "").unwrap_err();
        assert!(problems.iter().any(|line| line.contains(expected)), "{problems:?}");
    }
}

#[test]
fn rfc1996_3_secondaries_are_told_of_a_zone_and_of_its_changes() {
    let secondary = UdpSocket::bind("127.0.0.1:0").unwrap();
    secondary.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let at = secondary.local_addr().unwrap();
    let text = document(&format!("transfer = {{ to = [\"127.0.0.0/8\"], notify = [\"{at}\"] }}"));
    let (live, _server, _stream) = serve(compile(&text, "").unwrap());
    let told = || {
        let mut octets = [0; 512];
        let (length, from) = secondary.recv_from(&mut octets).unwrap();
        assert_eq!(octets[2..4], [0x24, 0]);
        octets[2] |= 0x80;
        secondary.send_to(&octets[..length], from).unwrap();
    };
    told();
    let next = compile(&text.replace("serial = 7", "serial = 8"), "").unwrap();
    live.publish(next, ContentHash([1; 32]), "test", SystemTime::UNIX_EPOCH);
    told();
}

//! Keys of `[dns]` and `[zone]` that no other test turns: each is seen to change what is served.

use crate::{
    server::{Running, framed, reply, start},
    support::{ask, compile, question},
};
use std::{
    io::{Read, Write},
    time::Duration,
};

fn zone(more: &str) -> String {
    format!(
        "[zone.x]\nname = \"example.test\"\nns = [\"ns.other.test\"]\n\
         records = [\"www A 192.0.2.1\", \"$GENERATE 1-50 big A 10.0.0.$\"]\n{more}"
    )
}

const SOA: &str = "soa = { mname = \"ns.other.test\", rname = \"noc.other.test\", serial = 1 }\n";

#[test]
fn udp_size_is_the_most_that_a_reply_has_whatever_the_client_takes() {
    // Fifty addresses are some 850 octets.
    for (dns, size, truncated) in [
        ("", 1_232, false),
        ("udp_size = 512", 1_232, true),
        ("udp_size = 800", 4_096, true),
        ("udp_size = 900", 4_096, false),
        ("udp_size = 4096", 512, true),
    ] {
        let snapshot = compile(&format!("[dns]\n{dns}\n{}", zone(SOA)), "").unwrap();
        let reply = ask(&snapshot, &format!("big A size={size}"));
        assert_eq!(reply.metadata.truncation, truncated, "{dns} {size}");
    }
}

#[test]
fn numbers_of_the_soa_and_the_ttl_of_records_are_those_given() {
    let soa = "soa = { mname = \"ns.other.test\", rname = \"noc@other.test\", serial = 1, refresh = \"2h\", retry = \"10m\", \
               expire = \"3d\", minimum = \"90s\" }\n";
    let snapshot = compile(&zone(&format!("ttl = \"7m\"\n{soa}")), "").unwrap();
    let shown = |text: &str| ask(&snapshot, text).answers[0].to_string();
    assert_eq!(
        shown("@ SOA"),
        "example.test. 90 IN SOA ns.other.test. noc.other.test. 1 7200 600 259200 90".to_owned()
    );
    assert_eq!(shown("www A"), "www.example.test. 420 IN A 192.0.2.1");
    // RFC 2308 §5.
    assert_eq!(ask(&snapshot, "nope A").authorities[0].ttl, 90);
}

/// Replies to nine of the same questions.
fn replies_to_nine(server: &Running, text: &str) -> usize {
    let socket = server.udp();
    (0..9).for_each(|_| _ = socket.send(&question(text).octets).unwrap());
    // The last is of another kind: when it is there, all before it are.
    socket.send(&question("nope A").octets).unwrap();
    let mut got = 0;
    loop {
        let mut octets = [0; 512];
        let length = socket.recv(&mut octets).unwrap();
        if octets[..length][3] & 15 == 3 {
            return got;
        }
        got += 1;
    }
}

#[test]
fn whoever_is_exempt_is_not_limited() {
    for (exempt, replies) in [("", 1), (", exempt = [\"127.0.0.0/8\"]", 9), (", exempt = [\"10.0.0.0/8\"]", 1)] {
        let server = start(&format!("rate_limit = {{ responses = \"1/s\", slip = 0{exempt} }}"));
        assert_eq!(replies_to_nine(&server, "www A"), replies, "{exempt}");
    }
}

#[test]
fn rfc9018_4_nodes_of_one_secret_know_each_others_cookies_and_those_of_the_secret_before() {
    let folder = tempfile::tempdir().unwrap();
    let secret = |name: &str| format!("{{ file = \"{}\" }}", folder.path().join(name).display());
    for (name, text) in [("a", "00"), ("b", "11")] {
        std::fs::write(folder.path().join(name), text.repeat(16)).unwrap();
    }
    let node = |cookies: &str| start(&format!("{cookies}\nrate_limit = {{ responses = \"1/s\", slip = 0 }}"));
    let (a, b) = (secret("a"), secret("b"));
    let first = node(&format!("cookies = {{ secret = {a} }}"));
    let socket = first.udp();
    socket.send(&question("www A option=10:2464c4abcf10c957").octets).unwrap();
    let mut octets = [0; 512];
    let length = socket.recv(&mut octets).unwrap();
    let cookie = data_encoding::HEXLOWER.encode(&octets[length - 24..length]);
    let asked = format!("www A option=10:{cookie}");
    // Whose cookie is known is not limited (RFC 7873 §5.2.4).
    for (cookies, replies) in [
        (format!("cookies = {{ secret = {a} }}"), 9),
        (format!("cookies = {{ secret = {b} }}"), 1),
        (format!("cookies = {{ secret = {b}, also = [{a}] }}"), 9),
    ] {
        assert_eq!(replies_to_nine(&node(&cookies), &asked), replies, "{cookies}");
    }
}

#[test]
fn connections_over_the_cap_of_a_listener_are_closed_at_once() {
    let server = start("tcp = { max_connections = 3 }");
    let mut open: Vec<_> = (0..3).map(|_| server.tcp()).collect();
    for stream in &mut open {
        stream.write_all(&framed("www A")).unwrap();
        assert_eq!(reply(stream).answers.len(), 1);
    }
    assert_eq!(server.tcp().read(&mut [0; 16]).unwrap_or(0), 0);
    assert!(server.metric("portcullis_dns_connections_refused_total 1"));
}

#[test]
fn who_does_not_read_in_time_is_left() {
    let server = start("tcp = { write_timeout = \"100ms\", idle_timeout = \"1m\", first_timeout = \"1m\" }");
    let mut stream = server.tcp();
    stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    // Replies of 1,600 octets to questions of 40: what the kernels keep for both sides is full long before the end.
    let questions = framed("big A").repeat(1_000);
    let sent = (0..200).all(|_| stream.write_all(&questions).is_ok());
    assert!(!sent, "the server takes no more from who takes nothing from it, and closes");
}

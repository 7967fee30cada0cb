//! Keys by which requests and certificates are told apart, and keys that bound or sample, each with the difference that it makes.

use crate::support::{
    authority::Authority,
    client::{Client, tls, tls_config},
    eventually,
    gateway::Gateway,
    origin::Origin,
};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const LISTENER: &str = "[listener.http]\naddress = \"127.0.0.1:0\"\nclient_ip = { trust = [\"127.0.0.0/8\"], header = \"x-forwarded-for\" }\n";

async fn ask(gateway: &Gateway, head: &str) -> String {
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(format!("GET {head}\r\n\r\n")).await;
    client.response().await.text()
}

#[tokio::test]
async fn where_a_request_comes_from_and_what_is_merely_there_are_matches() {
    let gateway = Gateway::start(&format!(
        "{LISTENER}[route.any]\nrespond = {{ status = 200, body = \"any\" }}\n\
         [route.any.rule.inside]\nmatch.source = [\"10.0.0.0/8\", \"2001:db8::/32\"]\nrespond = {{ status = 200, body = \"inside\" }}\n\
         [route.any.rule.debug]\nmatch.query.debug.present = true\nrespond = {{ status = 200, body = \"debug\" }}\n\
         [route.any.rule.traced]\nmatch.headers.x-trace.present = true\nrespond = {{ status = 200, body = \"traced\" }}\n"
    ))
    .await;
    for (head, expected) in [
        ("/ HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.1.2.3", "inside"),
        ("/ HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 2001:db8::1", "inside"),
        ("/ HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1", "any"),
        ("/?debug HTTP/1.1\r\nHost: a", "debug"),
        ("/?debug=0 HTTP/1.1\r\nHost: a", "debug"),
        ("/?nodebug HTTP/1.1\r\nHost: a", "any"),
        ("/ HTTP/1.1\r\nHost: a\r\nX-Trace:", "traced"),
    ] {
        assert_eq!(ask(&gateway, head).await, expected, "{head}");
    }
}

#[tokio::test]
async fn parameters_that_are_to_be_masked_are_not_logged() {
    let gateway = Gateway::start(&format!(
        "{LISTENER}[telemetry]\naccess_log.mask = [\"session\"]\n[route.any]\nrespond = {{ status = 200 }}\n"
    ))
    .await;
    ask(&gateway, "/?session=hunter2&page=7&token=open HTTP/1.1\r\nHost: a").await;
    let record = eventually("it is recorded", async || gateway.records().pop()).await;
    assert_eq!(record["query"], "session=***&page=7&token=open", "these and no others");
}

#[tokio::test]
async fn a_certificate_is_served_for_the_hosts_that_it_is_given() {
    let (one, two, folder) = (Authority::new("one"), Authority::new("two"), tempfile::tempdir().unwrap());
    one.leaf(&["a.test", "b.test"]).write(folder.path(), "one");
    two.leaf(&["a.test", "b.test"]).write(folder.path(), "two");
    let certificate = |name: &str, hosts: &str| {
        format!(
            "[certificate.{name}]\ncert = {{ file = \"{name}.crt\" }}\nkey = {{ file = \"{name}.key\" }}\nhosts = [\"{hosts}\"]\n"
        )
    };
    let text = |first: &str, second: &str| {
        format!(
            "{}{}[listener.https]\naddress = \"127.0.0.1:0\"\nprotocol = \"https\"\n[route.r]\nrespond = {{ status = 200 }}\n",
            certificate("one", first),
            certificate("two", second)
        )
    };
    let mut gateway = Gateway::start_in(folder, &text("a.test", "b.test")).await;
    for (hosts, first) in [(["a.test", "b.test"], "a.test"), (["b.test", "a.test"], "b.test")] {
        assert_eq!(gateway.reload(&text(hosts[0], hosts[1])).await.0, 200);
        for name in ["a.test", "b.test"] {
            let ca = if name == first { &one } else { &two };
            let served = tls(gateway.addr("https"), name, tls_config(&ca.certificate_pem, &[])).await;
            assert!(served.is_ok(), "{name} when the first one is for {first}");
        }
    }
}

/// The SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113 §6.5.2) that a listener announces.
async fn announced_streams(gateway: &Gateway) -> u32 {
    let mut stream = TcpStream::connect(gateway.addr("http")).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "the first frame is SETTINGS");
    let mut settings = vec![0; usize::from(head[2])];
    stream.read_exact(&mut settings).await.unwrap();
    let value = settings.chunks(6).find(|setting| setting[..2] == [0, 3]).expect("a limit is announced");
    u32::from_be_bytes(value[2..].try_into().unwrap())
}

#[tokio::test]
async fn a_listener_limits_streams_and_bodies() {
    let origin = Origin::echo().await;
    for (limits, streams, statuses) in
        [("", 100, [200, 200]), ("limits = { streams = 7, body = \"1KiB\" }\n", 7, [200, 413])]
    {
        let gateway = Gateway::start(&format!(
            "{LISTENER}{limits}[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n",
            origin.addr
        ))
        .await;
        assert_eq!(announced_streams(&gateway).await, streams);
        for (length, expected) in [1024, 1025].into_iter().zip(statuses) {
            let mut client = Client::connect(gateway.addr("http")).await;
            client
                .send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{}", "b".repeat(length)))
                .await;
            assert_eq!(client.response().await.status, expected, "{limits} {length}");
        }
    }
}

#[tokio::test]
async fn copies_and_delays_come_as_often_as_their_percent_says() {
    let (origin, shadow) = (Origin::fixed("ok").await, Origin::fixed("ok").await);
    let gateway = Gateway::start(&format!(
        "{LISTENER}[upstream.app]\nendpoints = [\"{}\"]\n[upstream.shadow]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n\
         mirror = {{ upstream = \"shadow\", percent = \"25%\" }}\n\
         [route.app.rule.late]\npath = \"/late\"\nrespond = {{ status = 200 }}\nfault.delay = {{ time = \"100ms\", percent = \"50%\" }}\n",
        origin.addr, shadow.addr
    ))
    .await;
    let mut client = Client::connect(gateway.addr("http")).await;
    for _ in 0..400 {
        client.get("a", "/").await;
    }
    // Ten standard deviations: not bad luck.
    eventually("copies", async || (20..=190).contains(&shadow.requests().len()).then_some(())).await;
    let mut late = 0;
    for _ in 0..60 {
        let began = Instant::now();
        client.get("a", "/late").await;
        late += usize::from(began.elapsed() >= Duration::from_millis(100));
    }
    assert!((5..=55).contains(&late), "{late} of 60");
}

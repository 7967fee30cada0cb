//! Checks over TLS: names, and certificates that end soon.

use crate::endpoint::{Identity, h1, h2, probe};
use portcullis_health::{EndsSoon, Failure, Vitals};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn the_name_is_the_upstreams_unless_the_check_has_its_own() {
    let identity = Identity::new("probe.internal", 90);
    let (address, seen) = h1(OK, Some(identity.acceptor(&[]))).await;
    let run = async |json: &str| probe(address, identity.kind("shop.internal"), json).run().await.map(drop);
    assert_eq!(run("{}").await, Err(Failure::Tls), "the certificate is another name's");
    assert_eq!(run(r#"{"sni":"probe.internal"}"#).await, Ok(()));
    assert_eq!(run(r#"{"path":"/","sni":"probe.internal"}"#).await, Ok(()));
    assert_eq!(run(r#"{"path":"/","sni":"probe.internal","host":"a.b"}"#).await, Ok(()));
    let seen = seen.lock().unwrap();
    let hosts: Vec<_> = seen.iter().filter(|text| text.contains("Host: probe.internal\r\n")).collect();
    assert_eq!(hosts.len(), 1, "{seen:?}");
    assert!(seen.contains(&"sni probe.internal".to_owned()) && seen.last().unwrap().contains("Host: a.b\r\n"));
}

#[tokio::test]
async fn a_certificate_that_ends_soon_warns_or_fails() {
    let identity = Identity::new("shop.internal", 10);
    let (address, _) = h1(OK, Some(identity.acceptor(&[]))).await;
    let soon = |days| Ok(Vitals { ends_soon: Some(EndsSoon { days }) });
    for (rule, expected) in [
        (r#""5d""#, Ok(Vitals::default())),
        (r#""14d""#, soon(10)),
        (r#"{"within":"14d"}"#, soon(10)),
        (r#"{"within":"14d","action":"warn"}"#, soon(10)),
        (r#"{"within":"14d","action":"down"}"#, Err(Failure::Expires { days: 10 })),
        (r#"{"within":"10d","action":"down"}"#, Ok(Vitals::default())),
    ] {
        for more in ["", r#","path":"/""#] {
            let json = format!(r#"{{"tls_expiry":{rule}{more}}}"#);
            let outcome = probe(address, identity.kind("shop.internal"), &json).run().await;
            assert_eq!(outcome, expected, "{json}");
        }
    }
}

#[tokio::test]
async fn the_certificate_of_today_counts_not_that_of_a_resumed_session() {
    let identity = Identity::new("shop.internal", 90);
    let (address, _) = h1(OK, Some(identity.acceptor(&[]))).await;
    let json = r#"{"path":"/","tls_expiry":{"within":"14d","action":"down"}}"#;
    let probe = probe(address, identity.kind("shop.internal"), json);
    assert_eq!(probe.run().await, Ok(Vitals::default()));
    identity.show("shop.internal", 3);
    assert_eq!(probe.run().await, Err(Failure::Expires { days: 3 }));
}

#[tokio::test]
async fn h2_over_tls_is_what_alpn_says() {
    let identity = Identity::new("shop.internal", 90);
    let json = r#"{"path":"/","protocol":"h2"}"#;
    let reply = |_: &http::Request<()>, _: &[u8]| crate::endpoint::Reply { status: 200, ..Default::default() };
    let (address, _) = h2(reply, Some(identity.acceptor(&["h2"]))).await;
    assert!(probe(address, identity.kind("shop.internal"), json).run().await.is_ok());
    let (address, _) = h2(reply, Some(identity.acceptor(&[]))).await;
    assert_eq!(probe(address, identity.kind("shop.internal"), json).run().await, Err(Failure::Protocol));
    let (address, _) = h1(OK, Some(identity.acceptor(&["http/1.1"]))).await;
    assert_eq!(probe(address, identity.kind("shop.internal"), json).run().await, Err(Failure::Tls));
}

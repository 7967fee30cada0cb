//! grpc.health.v1, in clear and over TLS.

use crate::endpoint::{Identity, Reply, h2, probe};
use portcullis_health::{Failure, ProbeKind};

const OK: Option<Vec<(&str, &str)>> = None;

fn answer(body: &[u8], trailers: &[(&'static str, &'static str)]) -> Reply {
    Reply {
        status: 200,
        headers: vec![("content-type", "application/grpc")],
        body: body.to_vec(),
        trailers: Some(trailers.to_vec()),
    }
}

/// A server that knows itself and `shop.Cart`; the latter does not serve.
fn server(_: &http::Request<()>, asked: &[u8]) -> Reply {
    match asked {
        b"\0\0\0\0\0" => answer(b"\0\0\0\0\x02\x08\x01", &[("grpc-status", "0")]),
        b"\0\0\0\0\x0b\x0a\x09shop.Cart" => answer(b"\0\0\0\0\x02\x08\x02", &[("grpc-status", "0")]),
        _ => Reply {
            status: 200,
            headers: vec![("content-type", "application/grpc"), ("grpc-status", "5")],
            body: Vec::new(),
            trailers: OK,
        },
    }
}

#[tokio::test]
async fn a_service_is_asked_for_by_name_in_clear_and_over_tls() {
    let identity = Identity::new("shop.internal", 90);
    for tls in [false, true] {
        let acceptor = tls.then(|| identity.acceptor(&["h2", "http/1.1"]));
        let (address, seen) = h2(server, acceptor).await;
        for (json, expected) in [
            (r#"{"grpc":""}"#, Ok(())),
            (r#"{"grpc":"shop.Cart","host":"cart.internal"}"#, Err(Failure::NotServing)),
            (r#"{"grpc":"shop.Pay"}"#, Err(Failure::Grpc(5))),
        ] {
            let kind = if tls { identity.kind("shop.internal") } else { ProbeKind::Clear };
            assert_eq!(probe(address, kind, json).run().await.map(drop), expected, "{json} {tls}");
        }
        let seen = seen.lock().unwrap();
        let host = if tls { "shop.internal".to_owned() } else { address.to_string() };
        let path = "grpc.health.v1.Health/Check application/grpc trailers";
        assert_eq!(seen[0], format!("POST http://{host}/{path} [0, 0, 0, 0, 0]"));
        assert!(seen[1].starts_with(&format!("POST http://cart.internal/{path} ")), "{}", seen[1]);
    }
}

#[tokio::test]
async fn answers_that_are_not_grpcs_are_failures() {
    const GOOD: &[u8] = b"\0\0\0\0\x02\x08\x01";
    for (reply, expected) in [
        (answer(GOOD, &[("grpc-status", "0")]), Ok(())),
        (answer(GOOD, &[("grpc-status", "14")]), Err(Failure::Grpc(14))),
        (answer(GOOD, &[("grpc-status", "x")]), Err(Failure::Protocol)),
        (answer(GOOD, &[("x", "0")]), Err(Failure::Protocol)),
        (Reply { trailers: None, ..answer(GOOD, &[]) }, Err(Failure::Protocol)),
        (answer(b"", &[("grpc-status", "0")]), Err(Failure::Protocol)),
        (answer(b"\0\0\0\0\0", &[("grpc-status", "0")]), Err(Failure::NotServing)),
        (answer(b"\0\0\0\0\x02\x08\x03", &[("grpc-status", "0")]), Err(Failure::NotServing)),
        (answer(b"\x01\0\0\0\x02\x08\x01", &[("grpc-status", "0")]), Err(Failure::Protocol)),
        (answer(&[0; 5_000], &[("grpc-status", "0")]), Err(Failure::Protocol)),
        (Reply { status: 503, ..answer(GOOD, &[("grpc-status", "0")]) }, Err(Failure::Status(503))),
    ] {
        let (body, trailers) = (reply.body.clone(), reply.trailers.clone());
        let (address, _) = h2(move |_, _| reply.clone(), None).await;
        let outcome = probe(address, ProbeKind::Clear, r#"{"grpc":""}"#).run().await.map(drop);
        assert_eq!(outcome, expected, "{body:?} {trailers:?}");
    }
}

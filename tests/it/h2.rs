//! HTTP/2: the same pipeline as HTTP/1.1. Frames one by one are in `h2_frames.rs`, abuse is in `h2_attacks.rs`.

use crate::support::{
    client::{h2, h2_get},
    gateway::Gateway,
    origin::{Origin, ok},
};
use std::{
    sync::{Arc, Mutex, atomic::Ordering::SeqCst},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

async fn edge(origin: &Origin, extra: &str) -> Gateway {
    Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n{extra}\n[upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n",
        origin.addr
    ))
    .await
}

#[tokio::test]
async fn many_streams_share_a_connection_and_prior_knowledge_works() {
    let origin = Origin::echo().await;
    let gateway = edge(&origin, "").await;
    let sender = h2(TcpStream::connect(gateway.addr("http")).await.unwrap()).await;
    let requests = (0..80).map(|n| {
        let sender = sender.clone();
        tokio::spawn(async move { h2_get(&sender, &format!("http://a.test/{n}")).await })
    });
    for (n, request) in requests.collect::<Vec<_>>().into_iter().enumerate() {
        let (parts, body) = request.await.unwrap().unwrap();
        assert_eq!(parts.status, 200);
        assert!(String::from_utf8(body).unwrap().starts_with(&format!("GET /{n} HTTP/1.1")));
        assert!(parts.headers.get("connection").is_none());
    }
}

#[tokio::test]
async fn a_header_list_or_stream_beyond_the_limit_does_not_pass() {
    let origin = Origin::fixed("ok").await;
    let gateway = edge(&origin, "limits = { header = \"4KiB\", streams = 10 }").await;
    let sender = h2(TcpStream::connect(gateway.addr("http")).await.unwrap()).await;
    let mut ready = sender.clone().ready().await.unwrap();
    let request = http::Request::get("http://a.test/").header("x-big", "b".repeat(8000)).body(()).unwrap();
    let outcome = async { ready.send_request(request, true)?.0.await }.await;
    match outcome {
        Ok(response) => assert_eq!(response.status(), 431),
        Err(error) => assert!(error.is_reset() || error.is_go_away() || error.is_io(), "{error}"),
    }
}

#[tokio::test]
async fn trailers_and_bodies_pass_from_h2_to_h2() {
    // An h2c origin that answers as a gRPC server does: head, message, trailers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        let mut body = request.into_body();
                        let mut seen = 0;
                        while let Some(Ok(chunk)) = body.data().await {
                            seen += chunk.len();
                            let _ = body.flow_control().release_capacity(chunk.len());
                        }
                        let response =
                            http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                        let mut send = respond.send_response(response, false).unwrap();
                        send.send_data(bytes::Bytes::from(format!("saw {seen}")), false).unwrap();
                        let trailers =
                            http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
                        send.send_trailers(trailers).unwrap();
                    });
                }
            });
        }
    });
    let gateway = Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.grpc]\nendpoints = [\"{addr}\"]\nprotocol = \"h2c\"\n[route.grpc]\nupstream = \"grpc\"\n"
    ))
    .await;
    let mut sender = h2(TcpStream::connect(gateway.addr("http")).await.unwrap()).await.ready().await.unwrap();
    let request = http::Request::post("http://a.test/pkg.Svc/Call")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (response, mut send) = sender.send_request(request, false).unwrap();
    send.send_data(bytes::Bytes::from(vec![0; 1000]), true).unwrap();
    let response = tokio::time::timeout(Duration::from_secs(10), response).await.unwrap().unwrap();
    let mut body = response.into_body();
    let data = body.data().await.unwrap().unwrap();
    assert_eq!(data, "saw 1000");
    let trailers = body.trailers().await.unwrap().expect("trailers pass");
    assert_eq!(trailers.get("grpc-status").unwrap(), "0");
}

/// RFC 9112 §7.1: what is behind the last chunk is the next request. Over h2 the end of a body is often an empty frame.
#[tokio::test]
async fn a_body_of_unknown_length_is_ended_once_for_an_http_1_origin() {
    let all: Arc<Mutex<Vec<u8>>> = Arc::default();
    let log = all.clone();
    let origin = Origin::raw(move |mut stream| {
        let log = log.clone();
        async move {
            let mut octets = vec![0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut octets).await {
                log.lock().unwrap().extend(&octets[..length]);
                if log.lock().unwrap().ends_with(b"\r\n0\r\n\r\n") && stream.write_all(&ok("ok")).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let gateway = edge(&origin, "").await;
    let sender = h2(TcpStream::connect(gateway.addr("http")).await.unwrap()).await;
    for pieces in [&[][..], &["one"], &["one", "two"], &["", "one", ""]] {
        let request = http::Request::post("http://a/").body(()).unwrap();
        let (response, mut send) = sender.clone().ready().await.unwrap().send_request(request, false).unwrap();
        for piece in pieces {
            send.send_data(bytes::Bytes::from_static(piece.as_bytes()), false).unwrap();
        }
        send.send_data(bytes::Bytes::new(), true).unwrap();
        let response = tokio::time::timeout(Duration::from_secs(10), response).await.unwrap().unwrap();
        assert_eq!(response.status(), 200, "{pieces:?}");
        let mut body = response.into_body();
        while let Some(chunk) = body.data().await {
            chunk.unwrap();
        }
        let seen = String::from_utf8(std::mem::take(&mut *all.lock().unwrap())).unwrap();
        let chunks = seen.split_once("\r\n\r\n").expect("a head").1;
        assert_eq!(chunks.matches("0\r\n\r\n").count(), 1, "{pieces:?}: {seen}");
        assert!(chunks.ends_with("0\r\n\r\n"), "{pieces:?}: {seen}");
    }
    assert_eq!(origin.connections.load(SeqCst), 1, "the connection stays good");
}

#[tokio::test]
async fn cookies_in_several_fields_are_one_for_everybody_behind() {
    let origin = Origin::echo().await;
    let gateway = edge(
        &origin,
        "[route.beta]\nhosts = [\"a\"]\nmatch.cookies = { group = \"beta\" }\nrespond = { status = 200, body = \"beta\" }",
    )
    .await;
    let send = async |cookies: &[&str]| {
        let mut sender = h2(TcpStream::connect(gateway.addr("http")).await.unwrap()).await.ready().await.unwrap();
        let mut request = http::Request::get("http://a/");
        for cookie in cookies {
            request = request.header("cookie", *cookie);
        }
        let (response, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut text = Vec::new();
        while let Some(chunk) = body.data().await {
            text.extend(chunk.unwrap());
        }
        String::from_utf8(text).unwrap()
    };
    assert_eq!(send(&["a=1", "group=beta"]).await, "beta");
    send(&["a=1", "b=2", "c=3"]).await;
    assert_eq!(origin.last().all("cookie"), ["a=1; b=2; c=3"]);
}

/// Begins an upload and sends a few octets now and then, until the server has had enough; how long that took.
async fn trickle(addr: std::net::SocketAddr, path: &str, pause: Duration) -> Duration {
    let began = std::time::Instant::now();
    let mut sender = h2(TcpStream::connect(addr).await.unwrap()).await.ready().await.unwrap();
    let request = http::Request::post(format!("http://a{path}")).header("user-agent", "snail").body(()).unwrap();
    let (response, mut send) = sender.send_request(request, false).unwrap();
    let upload = async {
        while send.send_data(bytes::Bytes::from_static(b"0123456789"), false).is_ok() {
            tokio::time::sleep(pause).await;
        }
    };
    let cut = async {
        let error = response.await.expect_err("the stream is reset");
        assert!(error.is_reset(), "{error}");
    };
    tokio::select! {
        () = upload => {}
        () = cut => {}
        () = tokio::time::sleep(Duration::from_secs(20)) => panic!("{path} goes on"),
    }
    began.elapsed()
}

#[tokio::test]
async fn an_upload_that_rests_or_trickles_is_cut_and_told_in_the_log() {
    let origin = Origin::fixed("ok").await;
    let quick = edge(&origin, "limits = { body_timeout = \"300ms\" }").await;
    let rate = edge(&origin, "limits = { min_rate = \"1KiB\" }").await;
    let (rested, trickled, above) = tokio::join!(
        trickle(quick.addr("http"), "/rest?q=1", Duration::from_secs(30)),
        trickle(rate.addr("http"), "/trickle", Duration::from_millis(100)),
        async {
            // Twice the rate, for longer than the grace: 2 KiB a second.
            let mut sender = h2(TcpStream::connect(rate.addr("http")).await.unwrap()).await.ready().await.unwrap();
            let request = http::Request::post("http://a/above").body(()).unwrap();
            let (response, mut send) = sender.send_request(request, false).unwrap();
            for n in 0..32 {
                send.send_data(bytes::Bytes::from_static(&[b'x'; 410]), n == 31).unwrap();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            response.await.unwrap().status().as_u16()
        }
    );
    assert!(rested < Duration::from_secs(5), "{rested:?}");
    assert!(trickled >= Duration::from_secs(5), "the grace: {trickled:?}");
    assert_eq!(above, 200, "an honest client at twice the rate is served");
    for (gateway, path, query) in [(&quick, "/rest", "q=1"), (&rate, "/trickle", "")] {
        gateway.counts("portcullis_refusals_total", &["body_timeout"], 1.0).await;
        let record = gateway.recorded(path, |record| record["path"] == path).await;
        assert_eq!(record["reason"], "body_timeout", "{record}");
        assert_eq!((&record["ended_by"], &record["protocol"]), (&"client".into(), &"HTTP/2".into()), "{record}");
        assert_eq!((&record["method"], &record["user_agent"]), (&"POST".into(), &"snail".into()), "{record}");
        assert_eq!(record["query"].as_str().unwrap_or_default(), query, "{record}");
        assert!(record["bytes_in"].as_u64().unwrap() >= 10, "{record}");
        gateway.counts("portcullis_requests_active", &[], 0.0).await;
    }
}

#[tokio::test]
async fn over_http_1_a_trickling_upload_is_cut_too() {
    let origin = Origin::fixed("ok").await;
    let gateway = edge(&origin, "limits = { min_rate = \"1KiB\" }").await;
    let mut stream = TcpStream::connect(gateway.addr("http")).await.unwrap();
    stream.write_all(b"POST /trickle HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n").await.unwrap();
    let began = std::time::Instant::now();
    let (mut read, mut write) = stream.split();
    let upload = async {
        while write.write_all(b"0123456789").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let answer = async {
        let mut text = String::new();
        let _ = read.read_to_string(&mut text).await;
        text
    };
    let text = tokio::select! {
        text = answer => text,
        () = upload => String::new(),
        () = tokio::time::sleep(Duration::from_secs(20)) => panic!("the upload goes on"),
    };
    assert!(began.elapsed() >= Duration::from_secs(5), "the grace: {:?}", began.elapsed());
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    gateway.counts("portcullis_refusals_total", &["body_timeout"], 1.0).await;
}

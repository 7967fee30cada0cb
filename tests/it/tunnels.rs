//! Layer 4: bytes by listener, TLS by name, unix sockets, IPv6.

use crate::support::{
    authority::Authority,
    client::{Client, tls, tls_config},
    gateway::Gateway,
    origin::Origin,
};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
};

#[tokio::test]
async fn tcp_is_carried_byte_for_byte_with_a_proxy_header_when_asked() {
    let echo = Origin::raw(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let gateway = Gateway::start(&format!(
        "[listener.pg]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n[listener.pp]\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n[upstream.a]\nendpoints = [\"{0}\"]\n[upstream.b]\nendpoints = [\"{0}\"]\nproxy_protocol = \"v2\"\n[tcp_route.a]\nlisteners = [\"pg\"]\nupstream = \"a\"\n[tcp_route.b]\nlisteners = [\"pp\"]\nupstream = \"b\"\n",
        echo.addr
    ))
    .await;
    let mut stream = TcpStream::connect(gateway.addr("pg")).await.unwrap();
    let data: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
    let (mut read, mut write) = stream.split();
    let (sent, received) = tokio::join!(
        async {
            write.write_all(&data).await.unwrap();
            write.shutdown().await
        },
        async {
            let mut all = Vec::new();
            read.read_to_end(&mut all).await.unwrap();
            all
        }
    );
    sent.unwrap();
    assert_eq!(received, data);
    let mut stream = TcpStream::connect(gateway.addr("pp")).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let mut header = [0; 29];
    stream.read_exact(&mut header).await.unwrap();
    assert_eq!((&header[..12], header[28]), (&b"\r\n\r\n\0\r\nQUIT\n"[..], b'x'));
}

#[tokio::test]
async fn tls_is_passed_through_unopened_by_its_name() {
    let (inner, name) = (Authority::new("inner"), "legacy.test");
    let leaf = inner.leaf(&[name]);
    let addr = tls_server(&leaf).await;
    let gateway = Gateway::start(&format!(
        "[listener.tls]\naddress = \"127.0.0.1:0\"\nprotocol = \"tls\"\n[upstream.legacy]\nendpoints = [\"{addr}\"]\n[tls_route.legacy]\nlisteners = [\"tls\"]\nsni = [\"{name}\", \"*.more.test\"]\nupstream = \"legacy\"\n"
    ))
    .await;
    // The client verifies the origin's own certificate: nobody opened the TLS in between.
    let mut stream = tls(gateway.addr("tls"), name, tls_config(&inner.certificate_pem, &[])).await.unwrap();
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"inner");
    let unknown = tls(gateway.addr("tls"), "other.test", tls_config(&inner.certificate_pem, &[])).await.unwrap_err();
    assert!(unknown.to_string().contains("UnrecognisedName"), "{unknown}");
    let mut plain = Client::connect(gateway.addr("tls")).await;
    let _ = plain.try_send("GET / HTTP/1.1\r\nHost: legacy.test\r\n\r\n").await;
    assert!(plain.closed(Duration::from_secs(5)).await);
}

async fn tls_server(leaf: &crate::support::authority::Leaf) -> std::net::SocketAddr {
    let acceptor = leaf.acceptor(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut tls) = acceptor.accept(stream).await else { return };
                let _ = tls.write_all(b"inner").await;
                let _ = tls.flush().await;
                let _ = tls.read(&mut [0; 1]).await;
            });
        }
    });
    addr
}

#[tokio::test]
async fn unix_sockets_and_ipv6_serve_and_are_dialled() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("app.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut all = Vec::new();
                while stream.read_buf(&mut all).await.is_ok_and(|read| read > 0) {
                    while let Some(at) = crate::support::origin::find(&all, b"\r\n\r\n") {
                        all.drain(..at + 4);
                        let _ = stream.write_all(&crate::support::origin::ok("by unix")).await;
                    }
                }
            });
        }
    });
    let gateway = Gateway::start_in(
        folder,
        &format!(
            "[listener.unix]\naddress = \"unix:front.sock\"\nprotocol = \"http\"\n[listener.six]\naddress = \"[::1]:0\"\n[upstream.app]\nendpoints = [\"unix:{}\"]\n[route.app]\nupstream = \"app\"\n",
            socket.display()
        ),
    )
    .await;
    let mut client = Client::over(UnixStream::connect(gateway.path().join("front.sock")).await.unwrap());
    for _ in 0..3 {
        assert_eq!(client.get("a", "/").await.text(), "by unix");
    }
    let mut client = Client::connect(gateway.addr("six")).await;
    assert_eq!(client.get("a", "/").await.text(), "by unix");
}

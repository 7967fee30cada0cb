//! One flow from its first octet to its last, by the public interface alone, as a listener would drive it.
#![allow(clippy::unwrap_used)]

use portcullis_config::Context;
use portcullis_egress::{
    AddressPolicy, AnswerTable, Binding, Bound, Caller, DestinationSpec, DialLimits, EgressPolicy, Facts, FirstWord,
    Moved, OwnAddresses, PipePool, Reason, Refusal, Request, Resolver, SNIFF_MAX, Target, TunnelEnd, bind, dial, relay,
    sniff,
};
use portcullis_names::ObjectName;
use portcullis_policy::AccessSpec;
use portcullis_wire::{
    Cursor, HeadLimits, Parse,
    proxy_request::{self, ProxyRequest},
};
use std::{
    collections::BTreeMap,
    future::pending,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

#[derive(serde::Deserialize)]
struct Document {
    destination: BTreeMap<ObjectName, DestinationSpec>,
    access: BTreeMap<ObjectName, AccessSpec>,
}

struct Gateway {
    policy: EgressPolicy,
    addresses: AddressPolicy,
    resolver: Resolver,
    pipes: PipePool,
    moved: Moved,
    now: Instant,
    wall: SystemTime,
}

/// A gateway in front of one origin that echoes; its names all lead to loopback, `meta.test` to the metadata service.
fn gateway(port: u16, own: SocketAddr) -> Gateway {
    let text = format!(
        "[destination.echo]\nhosts=[\"echo.test\",\"meta.test\",\"gone.test\"]\nports=[{port}]\nprivate_addresses=[\"127.0.0.0/8\"]\n\
         [destination.open]\nhosts=[\"self.test\"]\nports=[{}]\nprivate_addresses=[\"127.0.0.0/8\"]\n\
         [access.all]\nfrom=[\"127.0.0.0/8\"]\nto=[\"destination:echo\",\"destination:open\"]\naction=\"allow\"\n",
        own.port()
    );
    let document: Document = toml::from_str(&text).unwrap();
    let (mut cx, wall) = (Context::default(), SystemTime::now());
    let policy = EgressPolicy::compile(&document.destination, &document.access, &[], wall, &mut cx);
    assert!(!cx.report().has_errors());
    let table = AnswerTable::default()
        .with("echo.test", &[&[[10, 0, 0, 9].into(), [127, 0, 0, 1].into()]])
        .with("self.test", &[&[[127, 0, 0, 1].into()]])
        .with("meta.test", &[&[[169, 254, 169, 254].into()]]);
    Gateway {
        addresses: AddressPolicy::new(policy.denied_addresses().clone(), OwnAddresses::new([], [own])),
        policy,
        resolver: Resolver::from_table(table),
        pipes: PipePool::new(1 << 20),
        moved: Moved::default(),
        now: Instant::now(),
        wall,
    }
}

impl Gateway {
    async fn serve(&self, mut client: TcpStream) -> Result<TunnelEnd, Reason> {
        let mut buffer = Vec::new();
        let mut cursor = Cursor::default();
        let (head, len) = loop {
            match proxy_request::parse(&buffer, &HeadLimits::default(), &mut cursor).map_err(|_| Reason::BadTarget)? {
                Parse::Complete { head, len } => break (head, len),
                Parse::Incomplete => assert_ne!(client.read_buf(&mut buffer).await.unwrap(), 0),
            }
        };
        let mut early = buffer.split_off(len);
        let ProxyRequest::Connect(connect) = head else { panic!("no CONNECT") };
        let origin = match self.open(&connect, &client).await {
            Ok(origin) => origin,
            Err(reason) => {
                let refusal = Refusal::new(reason, "r1");
                let head = format!(
                    "HTTP/1.1 {} Refused\r\nproxy-status: {}\r\n\r\n",
                    refusal.status(),
                    refusal.proxy_status()
                );
                client.write_all((head + &refusal.body()).as_bytes()).await.unwrap();
                return Err(reason);
            }
        };
        let (permit, resolved, mut origin) = origin;
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
        let first = loop {
            match sniff(&early) {
                Parse::Complete { head, .. } => break head,
                Parse::Incomplete => assert_ne!(client.read_buf(&mut early).await.unwrap(), 0),
            }
            assert!(early.len() <= 2 * SNIFF_MAX);
        };
        let _: Bound = match bind(permit, &first, &resolved) {
            Binding::Bound(bound) | Binding::Reported(bound, _) => bound,
            Binding::Refused(reason) => return Err(reason),
        };
        origin.write_all(&early).await.unwrap();
        Ok(relay(client, origin, &self.pipes, &self.moved, Duration::from_secs(60), pending()).await)
    }

    async fn open(
        &self,
        connect: &proxy_request::ConnectHead,
        client: &TcpStream,
    ) -> Result<(portcullis_egress::Permit, portcullis_egress::Resolved, TcpStream), Reason> {
        let target = Target::parse(connect.authority())?;
        let caller = Caller::from_address(client.peer_addr().unwrap().ip());
        let decision = self.policy.decide(&Facts { caller, target: &target, request: Request::Unseen }, self.wall);
        self.policy.count(&decision);
        let permit = decision.permit()?;
        let resolved = self.resolver.resolve(permit.target().host(), self.now).await?;
        let checked = resolved
            .checked(&self.addresses, permit.dial_port(), &permit.private_ranges())
            .map_err(|refusal| refusal.reason())?;
        let dialled = dial(&checked, &DialLimits::default(), FirstWord::Ready).await?;
        Ok((permit, resolved, dialled.stream))
    }
}

fn hello(name: &str) -> Vec<u8> {
    portcullis_tls::install_provider();
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(portcullis_tls::system_client(), name).unwrap();
    let mut octets = Vec::new();
    client.write_tls(&mut octets).unwrap();
    octets
}

/// What the client got back, and how the gateway saw it end.
async fn run(head: &str, first: &[u8], pieces: usize) -> (String, Result<u64, Reason>) {
    let origin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = origin.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = origin.accept().await.unwrap();
        let mut all = Vec::new();
        let _: std::io::Result<usize> = stream.read_to_end(&mut all).await;
        let _: std::io::Result<()> = stream.write_all(format!("echo of {}", all.len()).as_bytes()).await;
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap();
    let gateway = Arc::new(gateway(port, own));
    let mut client = TcpStream::connect(own).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let served = tokio::spawn({
        let gateway = gateway.clone();
        async move { gateway.serve(stream).await }
    });
    let head = head.replace("PORT", &port.to_string()).replace("OWN", &own.port().to_string());
    client.write_all(head.as_bytes()).await.unwrap();
    for piece in first.chunks(first.len().div_ceil(pieces).max(1)) {
        if client.write_all(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let _: std::io::Result<()> = client.shutdown().await;
    let mut back = Vec::new();
    let _: std::io::Result<usize> = client.read_to_end(&mut back).await;
    let end = served.await.unwrap().map(|end| {
        assert!(matches!(end, TunnelEnd::Finished), "{end:?}");
        gateway.moved.down.load(Ordering::Relaxed)
    });
    (String::from_utf8_lossy(&back).into_owned(), end)
}

#[tokio::test]
async fn a_tunnel_to_an_allowed_name_carries_its_hello_however_it_is_cut() {
    let hello = hello("echo.test");
    for (head, pieces) in [
        ("CONNECT echo.test:PORT HTTP/1.1\r\nHost: echo.test\r\nConnection: close\r\n\r\n", 1),
        ("CONNECT echo.test:PORT HTTP/1.0\r\n\r\n", 7),
        ("CONNECT ECHO.test.:PORT HTTP/1.1\r\nHost: x\r\n\r\n", hello.len()),
    ] {
        let (back, end) = run(head, &hello, pieces).await;
        assert!(back.starts_with("HTTP/1.1 200 ") && back.ends_with(&format!("echo of {}", hello.len())), "{back}");
        assert!(end.unwrap() > 8);
    }
}

#[tokio::test]
async fn what_is_not_allowed_is_refused_with_its_reason() {
    for (head, first, reason) in [
        ("CONNECT other.test:PORT HTTP/1.1\r\nHost: echo.test\r\n\r\n", hello("other.test"), Reason::NoDestination),
        ("CONNECT echo.test:1 HTTP/1.1\r\n\r\n", hello("echo.test"), Reason::Port),
        ("CONNECT 2130706433:PORT HTTP/1.1\r\n\r\n", Vec::new(), Reason::NumericHost),
        ("CONNECT meta.test:PORT HTTP/1.1\r\n\r\n", hello("meta.test"), Reason::PrivateAddress),
        ("CONNECT gone.test:PORT HTTP/1.1\r\n\r\n", hello("gone.test"), Reason::NameUnknown),
        ("CONNECT self.test:OWN HTTP/1.1\r\n\r\n", hello("self.test"), Reason::OwnAddress),
        ("CONNECT echo.test:PORT HTTP/1.1\r\n\r\n", hello("evil.test"), Reason::SniMismatch),
        ("CONNECT echo.test:PORT HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n".to_vec(), Reason::ProtocolMismatch),
    ] {
        let head = head.replace("\r\n\r\n", "\r\nX: y\r\n\r\n");
        let (back, end) = run(&head, &first, 1).await;
        assert_eq!(end.unwrap_err(), reason, "{head}");
        assert!(!back.contains("echo of"), "{head}: {back}");
        let told = back.starts_with("HTTP/1.1 200") || back.contains(&format!("\"reason\":\"{}\"", reason.as_str()));
        // What the client had sent on its own may reset the answer away.
        assert!(told || back.is_empty(), "{head}: {back}");
    }
}

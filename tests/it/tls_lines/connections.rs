//! A connection's life around its handshake: slow and silent clients, ends, what is asked for later; and certificates that change.

use super::{
    OK,
    lab::{Lab, certificate, listener},
};
use crate::support::{
    authority::{Authority, Leaf},
    cases::Cases,
    client::{Client, tls, tls_config},
    eventually,
    gateway::Gateway,
    hello::{Answer, Hello, answer},
    origin::Origin,
    s_client::{s_client, s_client_after},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};

pub(super) fn add(lab: &Arc<Lab>, cases: &mut Cases) {
    let lab = || lab.clone();
    cases.case("certificates: a chain is sent whole", chain(lab()));
    cases.case("certificates: one swapped under handshakes fails none", swap());
    cases.case("certificates: a reload with a wrong key is refused, the old one is served on", wrong_key_at_reload());
    cases.case("sessions: none survives a change of whom the listener trusts", trust_changes());
    cases.case("silence: nothing at all is cut in the handshake's time", cut(lab(), Vec::new(), None));
    cases.case("silence: half a hello is cut in the handshake's time", cut(lab(), half_hello(), None));
    cases.case("silence: after the server's hello it is cut too", cut(lab(), Hello::tls12().records(), None));
    cases.case("silence: a hello in drops is cut in the same time", drops(lab()));
    cases.case("hello: octet by octet, and all that follows", octet_by_octet(lab()));
    cases.case("group: X25519MLKEM768 alone", hybrid(lab()));
    cases.case("renegotiation: a client's wish is refused", renegotiation(lab()));
    cases.case("1.3: new keys at a client's wish", key_update(lab()));
    cases.case("1.3: no early data is offered, and none is taken", early_data(lab()));
    for last in LAST_WORDS {
        cases.case(format!("ends: close_notify comes before the end of {}", last.0), close_notify(lab(), last));
    }
    cases.case("ends: a client that distrusts is told apart and harms nobody", distrust(lab()));
    cases.case("ends: a client that leaves in the middle harms nobody", leaves(lab()));
    cases.case("names: a host nobody serves, on a connection for another, is misdirected", misdirected(lab()));
    cases.case("many: two hundred handshakes at a time", many(lab()));
}

async fn chain(lab: Arc<Lab>) {
    let arguments = format!("-servername chain.test -showcerts -CAfile {} -verify_return_error", lab.path("ca.pem"));
    let told = s_client(lab.addr("https"), &arguments).await;
    told.must_be_served().must_have("Verify return code: 0 (ok)");
    assert_eq!(told.0.matches("-----BEGIN CERTIFICATE-----").count(), 2, "the leaf and what issued it: {}", told.0);
}

fn half_hello() -> Vec<u8> {
    let mut octets = Hello::tls12().records();
    octets.truncate(octets.len() / 2);
    octets
}

/// The listener gives its handshakes 600 ms.
async fn cut(lab: Arc<Lab>, octets: Vec<u8>, pause: Option<Duration>) {
    let mut stream = TcpStream::connect(lab.addr("short")).await.unwrap();
    let (mut read, mut write) = stream.split();
    let began = Instant::now();
    let talk = async {
        match pause {
            None => _ = write.write_all(&octets).await,
            Some(pause) => {
                for octet in &octets {
                    if write.write_all(&[*octet]).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
        std::future::pending::<()>().await;
    };
    let mut heard = Vec::new();
    tokio::select! {
        () = talk => {}
        _ = read.read_to_end(&mut heard) => {}
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(500) && took < Duration::from_secs(8), "cut after {took:?}");
    // The connection may be gone a moment before it is counted.
    eventually("it is counted", async || {
        let counted = lab.gateway.metric("portcullis_tls_handshakes_failed_total", &["\"short\"", "timeout"]).await;
        (counted >= 1.0).then_some(())
    })
    .await;
}

async fn drops(lab: Arc<Lab>) {
    cut(
        lab,
        Hello::tls12().with(|hello| hello.more.push((21, vec![0; 300]))).records(),
        Some(Duration::from_millis(50)),
    )
    .await;
}

/// Hands each octet to the socket by itself.
struct Drops(TcpStream);

impl AsyncRead for Drops {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Drops {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &bytes[..bytes.len().min(1)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

async fn octet_by_octet(lab: Arc<Lab>) {
    let stream = TcpStream::connect(lab.addr("https")).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let connector = tokio_rustls::TlsConnector::from(tls_config(&ca(&lab), &[]));
    let stream = connector.connect(ServerName::try_from("a.test").unwrap(), Drops(stream)).await.unwrap();
    assert_eq!(Client::over(stream).get("a.test", "/").await.status, 200);
}

fn ca(lab: &Lab) -> String {
    std::fs::read_to_string(lab.path("ca.pem")).unwrap()
}

async fn hybrid(lab: Arc<Lab>) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca(&lab).as_bytes()).unwrap()).unwrap();
    let provider = rustls::crypto::CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        ..aws_lc_rs::default_provider()
    };
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client = Client::tls(lab.addr("https"), "a.test", Arc::new(config)).await.unwrap();
    assert_eq!(client.get("a.test", "/").await.status, 200);
}

async fn renegotiation(lab: Arc<Lab>) {
    let told = s_client_after(lab.addr("https"), "-tls1_2", "R", "RENEGOTIATING").await;
    told.must_have("RENEGOTIATING").must_have("no renegotiation").must_not_have(OK);
}

async fn key_update(lab: Arc<Lab>) {
    for letter in ["k", "K"] {
        let told = s_client_after(lab.addr("https"), "-tls1_3", letter, "KEYUPDATE").await;
        told.must_have("KEYUPDATE").must_be_served();
    }
}

async fn early_data(lab: Arc<Lab>) {
    let (session, data) = (lab.path("early.session"), lab.path("early.data"));
    std::fs::write(&data, "GET /early HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
    let first = s_client(lab.addr("https"), &format!("-tls1_3 -sess_out {session}")).await;
    first.must_be_served().must_have("Max Early Data: 0").must_have("Early data was not sent");
    let told = s_client(lab.addr("https"), &format!("-tls1_3 -sess_in {session} -early_data {data}")).await;
    told.must_have("Reused, TLSv1.3").must_not_have("Early data was accepted").must_be_served();
    // A client that sends it all the same is served without it.
    let hello = Hello::tls13().with(|hello| hello.more.insert(0, (42, Vec::new())));
    let mut stream = TcpStream::connect(lab.addr("https")).await.unwrap();
    stream.write_all(&hello.records()).await.unwrap();
    stream.write_all(&[&[23, 3, 3, 0, 40][..], &[5; 40]].concat()).await.unwrap();
    assert!(matches!(answer(&mut stream).await, Answer::Hello(hello) if hello.suite == 0x1301));
}

/// What ends a connection of each protocol in order: `Connection: close`, and GOAWAY by the client (RFC 9113 §6.8).
const LAST_WORDS: [(&str, &[u8]); 2] = [
    ("http/1.1", b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n"),
    ("h2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0"),
];

async fn close_notify(lab: Arc<Lab>, (alpn, octets): (&'static str, &'static [u8])) {
    let mut stream = tls(lab.addr("https"), "a.test", tls_config(&ca(&lab), &[alpn])).await.unwrap();
    stream.write_all(octets).await.unwrap();
    stream.flush().await.unwrap();
    let mut told = Vec::new();
    // rustls reports an end without close_notify as an error.
    let end = tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut told)).await;
    assert!(matches!(end, Ok(Ok(1..))), "{end:?} after {:?}", String::from_utf8_lossy(&told));
}

async fn distrust(lab: Arc<Lab>) {
    let stranger = Authority::new("stranger");
    let config = tls_config(&stranger.certificate_pem, &[]);
    assert!(tls(lab.addr("https"), "a.test", config).await.is_err());
    eventually("the alert is counted", async || {
        let counted = lab.gateway.metric("portcullis_tls_handshakes_failed_total", &["\"https\"", "\"alert\""]).await;
        (counted >= 1.0).then_some(())
    })
    .await;
    assert!(s_client(lab.addr("https"), "").await.has(OK));
}

async fn leaves(lab: Arc<Lab>) {
    for octets in [Vec::new(), half_hello(), Hello::tls12().records(), Hello::tls13().records()] {
        let mut stream = TcpStream::connect(lab.addr("https")).await.unwrap();
        stream.write_all(&octets).await.unwrap();
        // With unread octets on its way this is a reset.
        drop(stream);
    }
    let mut stream = tls(lab.addr("https"), "a.test", tls_config(&ca(&lab), &[])).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.t").await.unwrap();
    stream.flush().await.unwrap();
    drop(stream);
    assert!(s_client(lab.addr("https"), "").await.has(OK));
}

async fn misdirected(lab: Arc<Lab>) {
    let mut client = Client::tls(lab.addr("https"), "a.test", tls_config(&ca(&lab), &[])).await.unwrap();
    assert_eq!(client.get("elsewhere.test", "/").await.status, 421);
    let mut client = Client::tls(lab.addr("https"), "a.test", tls_config(&ca(&lab), &[])).await.unwrap();
    assert_eq!(client.get("A.TEST", "/").await.status, 200);
}

async fn many(lab: Arc<Lab>) {
    let config = tls_config(&ca(&lab), &[]);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (addr, config) = (lab.addr("https"), config.clone());
        clients
            .spawn(async move { Client::tls(addr, "a.test", config).await.unwrap().get("a.test", "/").await.status });
    }
    assert!(clients.join_all().await.iter().all(|status| *status == 200));
}

/// A gateway of its own: what it serves is changed under way.
async fn changing(ca: &Authority, more: &str) -> (Gateway, Origin, String) {
    let (origin, folder) = (Origin::fixed("ok").await, tempfile::tempdir().unwrap());
    ca.leaf(&["a.test"]).write(folder.path(), "ec");
    for (name, authority) in [("one", Authority::new("one")), ("two", Authority::new("two"))] {
        std::fs::write(folder.path().join(format!("{name}.crt")), &authority.certificate_pem).unwrap();
        authority.leaf(&["spiffe://corp/x"]).write(folder.path(), &format!("of-{name}"));
    }
    let config = format!(
        "{}[trust.one]\nca = {{ file = \"one.crt\" }}\n[trust.two]\nca = {{ file = \"two.crt\" }}\n{}\n\
         [upstream.app]\nendpoints = [\"{}\"]\n[route.app]\nupstream = \"app\"\n",
        certificate("ec"),
        listener("https", "\"ec\"", more),
        origin.addr
    );
    (Gateway::start_in(folder, &config).await, origin, config)
}

async fn swap() {
    let authorities = [Authority::new("first"), Authority::new("second")];
    let (gateway, _origin, _) = changing(&authorities[0], "").await;
    let both = authorities.each_ref().map(|authority| authority.certificate_pem.as_str()).concat();
    let (stop, good) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for alpn in [&[][..], &["h2"], &["http/1.1"]] {
        let (stop, good, addr, both) = (stop.clone(), good.clone(), gateway.addr("https"), both.clone());
        clients.spawn(async move {
            while !stop.load(SeqCst) {
                // A configuration of its own each time: none of them resumes.
                tls(addr, "a.test", tls_config(&both, alpn)).await.expect("a handshake during the swap");
                good.fetch_add(1, SeqCst);
            }
        });
    }
    for round in 1..=4 {
        let authority = &authorities[round % 2];
        authority.leaf(&["a.test"]).write(gateway.path(), "ec");
        eventually("the new certificate is served", async || {
            tls(gateway.addr("https"), "a.test", tls_config(&authority.certificate_pem, &[])).await.ok()
        })
        .await;
    }
    stop.store(true, SeqCst);
    clients.join_all().await;
    assert!(good.load(SeqCst) > 20, "{good:?} handshakes are too few to tell");
}

async fn wrong_key_at_reload() {
    let ca = Authority::new("ca");
    let (mut gateway, _origin, config) = changing(&ca, "").await;
    let (one, other) = (ca.leaf(&["a.test"]), ca.leaf(&["a.test"]));
    Leaf { key_pem: other.key_pem, ..one }.write(gateway.path(), "ec");
    let (status, why) = gateway.reload(&config).await;
    assert!(status >= 400 && why.to_string().contains("does not belong"), "{status} {why}");
    let config = tls_config(&ca.certificate_pem, &[]);
    assert_eq!(Client::tls(gateway.addr("https"), "a.test", config).await.unwrap().get("a", "/").await.status, 200);
}

async fn trust_changes() {
    let ca = Authority::new("ca");
    let required = |trust: &str| format!("tls = {{ client_auth = \"required\", trust = \"{trust}\" }}");
    let (mut gateway, _origin, config) = changing(&ca, &required("one")).await;
    let path = |name: &str| gateway.path().join(name).display().to_string();
    let (file, certificate, key) = (path("session"), path("of-one.crt"), path("of-one.key"));
    for version in ["-tls1_2", "-tls1_3"] {
        let addr: SocketAddr = gateway.addr("https");
        let first = format!("{version} -cert {certificate} -key {key} -sess_out {file}");
        s_client(addr, &first).await.must_be_served();
        s_client(addr, &format!("{version} -sess_in {file}")).await.must_have("Reused, ").must_be_served();
        assert_eq!(gateway.reload(&config.replace("trust = \"one\"", "trust = \"two\"")).await.0, 200);
        s_client(gateway.addr("https"), &format!("{version} -sess_in {file}")).await.must_be_refused(116);
        assert_eq!(gateway.reload(&config).await.0, 200);
    }
}

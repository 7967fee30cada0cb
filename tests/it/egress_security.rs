//! Ways around the policy, one by one, each of them closed: hellos, names, addresses, answers of name servers, smuggling.
//!
//! Beside those of `egress.rs` (other names inside, hellos in pieces, numeric hosts, mapped addresses) and of the crates' own tests.

use crate::support::{
    client::{Client, Response, tls_config},
    eventually,
    gateway::Gateway,
    origin::{Origin, ok},
    outside::Outside,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

fn config(outside: &Outside, folder: &std::path::Path, keys: &str) -> String {
    let (secure, clear) = (outside.tls.port(), outside.clear.addr.port());
    format!(
        "{}[listener.out]\naddress = \"127.0.0.1:0\"\nprotocol = \"proxy\"\nlimits = {{ connections_per_ip = 5000 }}\n\
         [destination.secure]\nhosts = [\"allowed.test\", \"*.one.test\", \"**.many.test\"]\nports = [{secure}]\n\
         private_addresses = [\"127.0.0.0/8\"]\n{keys}\n\
         [destination.plain]\nhosts = [\"plain.test\"]\nports = [{clear}]\nprotocol = \"http\"\n\
         private_addresses = [\"127.0.0.0/8\"]\n\
         [destination.public]\nhosts = [\"public.test\"]\nports = [{secure}]\n\
         [access.all]\nfrom = [\"*\"]\nto = [\"destination:secure\", \"destination:plain\", \"destination:public\"]\naction = \"allow\"\n",
        outside.config(folder),
    )
}

async fn start(outside: &Outside, keys: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let config = config(outside, folder.path(), keys);
    Gateway::start_in(folder, &config).await
}

async fn connect(gateway: &Gateway, target: &str) -> Response {
    let mut client = Client::connect(gateway.addr("out")).await;
    client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    client.try_response(true).await.unwrap()
}

fn reason(refused: &Response) -> String {
    let status = refused.header("proxy-status").unwrap_or_default();
    status.split("reason=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default().to_owned()
}

/// A CONNECT to allowed.test that was answered with 200.
async fn opened(gateway: &Gateway, outside: &Outside) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.addr("out")).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(format!("CONNECT allowed.test:{} HTTP/1.1\r\n\r\n", outside.tls.port()).as_bytes()).await.unwrap();
    let mut answer = [0; 39];
    stream.read_exact(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    stream
}

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &u16::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
}

/// `server_name` with these names (RFC 6066 §3).
fn server_names(names: &[&str]) -> Vec<u8> {
    let entries: Vec<u8> = names
        .iter()
        .flat_map(|name| [&[0][..], &u16::try_from(name.len()).unwrap().to_be_bytes(), name.as_bytes()].concat())
        .collect();
    extension(0, &[&u16::try_from(entries.len()).unwrap().to_be_bytes()[..], &entries].concat())
}

/// A ClientHello of TLS 1.2 with these extensions, in one record.
fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    let extensions = extensions.concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    [&[22, 3, 1][..], &u16::try_from(message.len()).unwrap().to_be_bytes(), &message].concat()
}

/// How the gateway answered a first flight: its alert, or what the origin sent.
async fn told(gateway: &Gateway, outside: &Outside, first: &[u8]) -> Vec<u8> {
    let mut stream = opened(gateway, outside).await;
    stream.write_all(first).await.unwrap();
    let mut left = [0; 7];
    match tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut left)).await.expect("an answer") {
        Ok(_) => left.to_vec(),
        Err(_) => Vec::new(),
    }
}

const DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

#[tokio::test]
async fn every_odd_hello_has_its_decision() {
    let outside = Outside::start(&["allowed.test"]).await;
    let gateway = start(&outside, "").await;
    let ours = || server_names(&["allowed.test"]);
    for (before, (first, expected)) in [
        (hello(&[]), "sni_missing"),
        (hello(&[extension(0xff01, &[0])]), "sni_missing"),
        (hello(&[server_names(&["127.0.0.1"])]), "sni_address"),
        (hello(&[server_names(&["allowed.test", "other.test"])]), "hello_malformed"),
        (hello(&[ours(), ours()]), "hello_malformed"),
        (hello(&[ours(), server_names(&["other.test"])]), "hello_malformed"),
        (hello(&[server_names(&["allowed.test\0.other.test"])]), "hello_malformed"),
        (hello(&[server_names(&["x.allowed.test"])]), "sni_mismatch"),
        (hello(&[ours(), extension(0xfe0d, &[0; 64])]), "ech"),
        (hello(&[extension(0xffce, &[0; 64]), ours()]), "ech"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(told(&gateway, &outside, &first).await, DENIED, "{expected}");
        let last = eventually("its record", async || {
            let records = gateway.records().into_iter().filter(|record| record["status"] == 403);
            Some(records.collect::<Vec<_>>()).filter(|records| records.len() > before)?.pop()
        })
        .await;
        assert_eq!((&last["reason"], &last["destination"]), (&expected.into(), &"secure".into()));
    }
    assert_eq!(
        told(&gateway, &outside, &hello(&[server_names(&["ALLOWED.Test"])])).await[..1],
        [21],
        "case is no difference"
    );
}

/// haproxy's reading of hellos, one at a time: what it logs as `req.ssl_sni`.
struct Judge {
    folder: tempfile::TempDir,
    log: tokio::net::UnixDatagram,
    _haproxy: tokio::process::Child,
}

impl Judge {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let config = format!(
            "global\n log {path}/log len 2048 local0\ndefaults\n mode tcp\n log global\n timeout client 30s\n\
             frontend hellos\n bind unix@{path}/hellos\n tcp-request inspect-delay 20s\n\
             tcp-request content capture req.ssl_sni len 400\n tcp-request content reject\n\
             log-format \"sni=<%[capture.req.hdr(0)]>\"\n"
        );
        std::fs::write(folder.path().join("judge.cfg"), config).unwrap();
        let log = tokio::net::UnixDatagram::bind(folder.path().join("log")).unwrap();
        let mut haproxy = tokio::process::Command::new("haproxy");
        let haproxy = haproxy.args(["-db", "-q", "-f"]).arg(folder.path().join("judge.cfg")).kill_on_drop(true);
        let judge = Self { _haproxy: haproxy.spawn().unwrap(), folder, log };
        eventually("haproxy listens", async || judge.connect().await.ok()).await;
        // That connection said nothing.
        assert_eq!(judge.record().await, None);
        judge
    }

    async fn connect(&self) -> std::io::Result<tokio::net::UnixStream> {
        tokio::net::UnixStream::connect(self.folder.path().join("hellos")).await
    }

    async fn record(&self) -> Option<String> {
        let mut line = [0; 2048];
        let length = tokio::time::timeout(Duration::from_secs(30), self.log.recv(&mut line)).await.unwrap().unwrap();
        let line = String::from_utf8_lossy(&line[..length]).into_owned();
        let name = line.split_once("sni=<").unwrap().1.split_once('>').unwrap().0.to_owned();
        Some(name).filter(|name| !name.is_empty() && name != "-")
    }

    async fn reads(&self, octets: &[u8]) -> Option<String> {
        let mut stream = self.connect().await.unwrap();
        stream.write_all(octets).await.unwrap();
        // No more comes: what is not a whole hello by now is none.
        stream.shutdown().await.unwrap();
        self.record().await
    }
}

#[tokio::test]
async fn haproxy_reads_no_other_name_than_we_do() {
    if !crate::support::have("haproxy") {
        return;
    }
    let judge = Judge::start().await;
    let named = |names: &[&str]| hello(&[server_names(names)]);
    let whole = named(&["a.test"]);
    // RFC 6066 §3: `name_type` of the first is not that of a host.
    let other_type = extension(0, &[&[0, 18, 7, 0, 6][..], b"b.test", &[0, 0, 6], b"a.test"].concat());
    let filled = extension(0, &[&[0, 9, 0, 0, 6][..], b"a.test", b"more"].concat());
    let long = ["a".repeat(60).as_str(); 4].join(".");
    let mut both = 0;
    for (octets, read) in [
        (whole.clone(), Some("a.test")),
        (named(&["A.Test."]), Some("a.test")),
        (named(&[&long]), Some(long.as_str())),
        (named(&["192.0.2.1"]), Some("192.0.2.1")),
        (hello(&[extension(0x0a0a, &[]), server_names(&["a.test"]), extension(0xff01, &[0])]), Some("a.test")),
        (hello(&[extension(21, &[0; 700]), server_names(&["a.test"])]), Some("a.test")),
        ([&whole[..], &[23, 3, 3, 0, 1, 0]].concat(), Some("a.test")),
        (hello(&[]), None),
        (named(&[]), None),
        (named(&[""]), None),
        (named(&["a.test", "b.test"]), None),
        (hello(&[server_names(&["a.test"]), server_names(&["b.test"])]), None),
        (hello(&[other_type]), None),
        (hello(&[filled]), None),
        (named(&["a.test\0.b.test"]), None),
        (named(&["a.test.."]), None),
        (whole[..whole.len() - 1].to_vec(), None),
    ] {
        let ours = match portcullis_wire::client_hello::peek(&octets) {
            Ok(portcullis_wire::Parse::Complete { head, .. }) => head.sni,
            Ok(portcullis_wire::Parse::Incomplete) | Err(_) => None,
        };
        assert_eq!(ours.as_deref(), read, "{octets:02x?}");
        let theirs = judge.reads(&octets).await;
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            let theirs = theirs.strip_suffix('.').unwrap_or(&theirs).to_ascii_lowercase();
            assert_eq!(ours, theirs, "{octets:02x?}");
            both += 1;
        }
    }
    // Of several records it is no judge: it takes the header of the second for a part of what it reads. Those are put beside
    // others in crates/wire/tests/hello_differential.rs.
    assert!(both >= 7, "both read a name {both} times");
}

#[tokio::test]
async fn a_hidden_name_is_taken_as_the_destination_says() {
    let outside = Outside::start(&["allowed.test"]).await;
    // GREASE and the real thing look the same on purpose (RFC 9849 §6.2).
    let hidden = |name: &str| hello(&[server_names(&[name]), extension(0xfe0d, &[0; 64])]);
    for (policy, outer, passes) in [
        ("deny", "allowed.test", false),
        ("outer_listed", "allowed.test", true),
        ("outer_listed", "front.test", false),
        ("allow", "allowed.test", true),
        ("allow", "front.test", true),
    ] {
        let gateway = start(&outside, &format!("ech = \"{policy}\"")).await;
        let answer = told(&gateway, &outside, &hidden(outer)).await;
        // What passes is answered by the origin, which wants more than this hello has: handshake_failure and the like.
        assert_eq!(answer != DENIED, passes, "{policy} {outer}: {answer:?}");
        if !passes {
            eventually("the refusal", async || gateway.records().into_iter().find(|record| record["status"] == 403))
                .await;
        }
    }
}

#[tokio::test]
async fn real_hellos_of_tls_1_2_and_in_two_records_pass() {
    let outside = Outside::start(&["allowed.test"]).await;
    let gateway = start(&outside, "").await;
    // An old client.
    let mut roots = rustls::RootCertStore::empty();
    let ca = rustls::pki_types::pem::PemObject::from_pem_slice(outside.ca.certificate_pem.as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let old = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(old));
    let inner = connector.connect("allowed.test".try_into().unwrap(), opened(&gateway, &outside).await).await.unwrap();
    assert_eq!(inner.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
    assert_eq!(Client::over(inner).get("allowed.test", "/").await.status, 200);
    // One hello, cut in the middle of its name into two records, which are sent apart.
    let config = tls_config(&outside.ca.certificate_pem, &[]);
    let mut session = rustls::ClientConnection::new(config, "allowed.test".try_into().unwrap()).unwrap();
    let mut whole = Vec::new();
    session.write_tls(&mut whole).unwrap();
    let name = whole.windows(12).position(|window| window == b"allowed.test").unwrap() + 5;
    let record =
        |octets: &[u8]| [&[22, 3, 1][..], &u16::try_from(octets.len()).unwrap().to_be_bytes(), octets].concat();
    let mut stream = opened(&gateway, &outside).await;
    stream.write_all(&record(&whole[5..name])).await.unwrap();
    tokio::task::yield_now().await;
    stream.write_all(&record(&whole[name..])).await.unwrap();
    let mut back = [0; 3];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(back, [22, 3, 3]);
}

#[tokio::test]
async fn hosts_have_one_spelling_and_wildcards_their_depth() {
    let outside = Outside::start(&["allowed.test", "a.one.test", "a.many.test", "b.a.many.test"]).await;
    let gateway = start(&outside, "").await;
    let port = outside.tls.port();
    for (host, status, expected) in [
        ("allowed.test", 200, ""),
        ("Allowed.TEST.", 200, ""),
        ("allowed.test..", 400, "bad_target"),
        ("[allowed.test]", 400, "bad_target"),
        ("allowed%2etest", 400, "bad_target"),
        ("allowed.test%00", 400, "bad_target"),
        ("user@allowed.test", 400, "bad_target"),
        ("xn--llowed-8ta.test", 403, "no_destination"),
        ("0177.0.0.1", 400, "numeric_host"),
        ("127.1", 400, "numeric_host"),
        ("0x7f000001", 400, "numeric_host"),
        ("127.0.0.1.", 400, "numeric_host"),
        ("1.2.3.4.5", 400, "numeric_host"),
        ("[::1%25lo]", 400, "bad_target"),
        ("[fe80::1%eth0]", 400, "bad_target"),
        ("::1", 400, "bad_target"),
        ("169.254.169.254", 403, "no_destination"),
        ("[fd00:ec2::254]", 403, "no_destination"),
        ("a.one.test", 200, ""),
        ("b.a.one.test", 403, "no_destination"),
        ("one.test", 403, "no_destination"),
        ("a.many.test", 200, ""),
        ("b.a.many.test", 200, ""),
        ("many.test", 403, "no_destination"),
        ("evilmany.test", 403, "no_destination"),
    ] {
        let answer = connect(&gateway, &format!("{host}:{port}")).await;
        assert_eq!(answer.status, status, "{host}");
        // What is no authority at all is refused by the reader of heads, before there is a policy to give a reason.
        let reason = reason(&answer);
        assert!(reason == expected || (status == 400 && reason.is_empty()), "{host}: {reason}");
    }
    // What is no ASCII is no host, in whatever script its digits are; the reader of heads says so.
    for host in ["\u{ff11}\u{ff12}\u{ff17}.0.0.1", "\u{430}llowed.test", "allowed\u{3002}test"] {
        assert_eq!(connect(&gateway, &format!("{host}:{port}")).await.status, 400, "{host}");
    }
    assert!(outside.requests().is_empty());
}

#[tokio::test]
async fn no_answer_of_a_name_server_leads_to_where_the_destination_may_not_be() {
    let outside = Outside::start(&["allowed.test"]).await;
    let gateway = start(&outside, "").await;
    let port = outside.tls.port();
    for (addresses, expected) in [
        (&["10.0.0.1"][..], "private_address"),
        (&["127.0.0.1"], "private_address"),
        (&["169.254.169.254"], "private_address"),
        (&["100.100.100.200"], "private_address"),
        (&["168.63.129.16"], "private_address"),
        (&["0.0.0.0"], "private_address"),
        (&["255.255.255.255"], "private_address"),
        (&["::1"], "private_address"),
        (&["::ffff:169.254.169.254"], "private_address"),
        (&["::a9fe:a9fe"], "private_address"),
        (&["64:ff9b::a9fe:a9fe"], "private_address"),
        (&["64:ff9b:1::a00:1"], "private_address"),
        (&["2002:a00:1::1"], "private_address"),
        (&["2001::a00:1"], "private_address"),
        (&["fd00:ec2::254"], "private_address"),
        (&["fe80::1"], "private_address"),
        (&["fec0::1"], "private_address"),
        (&["ff02::1"], "private_address"),
        (&["2606:4700::200:5efe:a00:1"], "private_address"),
        (&["10.0.0.1", "192.168.0.1", "::1"], "private_address"),
        (&[], "name_unknown"),
    ] {
        // A fresh gateway forgets what was resolved before; here a fresh name does.
        let name = format!("n{}.many.test", addresses.join("-").replace([':', '.'], "x"));
        outside.point(&name, addresses);
        let answer = connect(&gateway, &format!("{name}:{port}")).await;
        let expected = if addresses == ["127.0.0.1"] { "" } else { expected };
        assert_eq!(reason(&answer), expected, "{addresses:?}");
    }
    outside.alias("alias.many.test", "inside.corp", "10.1.2.3");
    outside.fail("broken.many.test");
    for (name, status, expected) in
        [("alias.many.test", 403, "private_address"), ("broken.many.test", 502, "resolve_failed")]
    {
        let answer = connect(&gateway, &format!("{name}:{port}")).await;
        assert_eq!((answer.status, reason(&answer).as_str()), (status, expected), "{name}");
    }
    // One bad answer among many good ones is never dialled and does not spoil them.
    let mut many: Vec<String> = (1..60).map(|last| format!("127.0.1.{last}")).collect();
    many.push("10.0.0.1".to_owned());
    many.insert(0, "127.0.0.1".to_owned());
    outside.point("long.many.test", &many.iter().map(String::as_str).collect::<Vec<_>>());
    eventually("the good one is found", async || {
        (connect(&gateway, &format!("long.many.test:{port}")).await.status == 200).then_some(())
    })
    .await;
    let dialled = gateway.records().into_iter().filter_map(|record| record["endpoint"].as_str().map(str::to_owned));
    assert!(dialled.into_iter().all(|endpoint| endpoint.starts_with("127.0.")));
}

#[tokio::test]
async fn a_silent_name_server_is_given_up() {
    let outside = Outside::start(&["allowed.test"]).await;
    let gateway = start(&outside, "").await;
    outside.silence("silent.many.test");
    let answer = connect(&gateway, &format!("silent.many.test:{}", outside.tls.port())).await;
    assert_eq!((answer.status, reason(&answer).as_str()), (504, "resolve_timeout"));
}

#[tokio::test]
async fn answers_that_change_between_check_and_use_change_nothing() {
    let outside = Outside::start(&["allowed.test"]).await;
    let gateway = start(&outside, "").await;
    let port = outside.tls.port();
    // Good for no time at all, and every second one is another's.
    outside.alternate("turns.many.test", &["10.0.0.1", "127.0.0.1"]);
    let mut outcomes = Vec::new();
    for _ in 0..20 {
        let answer = connect(&gateway, &format!("turns.many.test:{port}")).await;
        outcomes.push((answer.status, reason(&answer)));
    }
    outcomes.dedup();
    assert!(outcomes.len() == 1, "what was checked is believed for a while: {outcomes:?}");
    let (status, why) = outcomes.pop().unwrap();
    assert!(status == 200 || (status, why.as_str()) == (403, "private_address"), "{status} {why}");
    let dialled = gateway.records().into_iter().filter_map(|record| record["endpoint"].as_str().map(str::to_owned));
    assert!(dialled.into_iter().all(|endpoint| endpoint == format!("127.0.0.1:{port}")));
}

#[tokio::test]
async fn what_is_smuggled_behind_a_request_is_nobodys_request() {
    let outside = Outside::start(&["allowed.test", "plain.test"]).await;
    let gateway = start(&outside, "").await;
    let (secure, clear) = (outside.tls.port(), outside.clear.addr.port());
    let inner = format!("GET http://plain.test:{clear}/smuggled HTTP/1.1\r\nHost: plain.test:{clear}\r\n\r\n");
    // Behind a CONNECT that is refused: the connection ends, and nobody reads on.
    let mut client = Client::connect(gateway.addr("out")).await;
    client.send(format!("CONNECT nowhere.test:1 HTTP/1.1\r\n\r\n{inner}")).await;
    assert_eq!(client.response().await.status, 403);
    assert!(client.closed(Duration::from_secs(5)).await);
    // Behind one that is accepted: octets of the tunnel, which must be a hello.
    let mut client = Client::connect(gateway.addr("out")).await;
    client.send(format!("CONNECT allowed.test:{secure} HTTP/1.1\r\n\r\n{inner}")).await;
    assert_eq!(client.try_response(true).await.unwrap().status, 200);
    assert!(client.closed(Duration::from_secs(5)).await);
    for head in [
        format!("CONNECT allowed.test:{secure} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("CONNECT allowed.test:{secure} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{inner}", inner.len()),
        format!(
            "POST http://plain.test:{clear}/ HTTP/1.1\r\nHost: plain.test:{clear}\r\nContent-Length: 4\r\n\
             Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"
        ),
        format!(
            "POST http://plain.test:{clear}/ HTTP/1.1\r\nHost: plain.test:{clear}\r\nContent-Length: 0\r\n\
             Content-Length: 5\r\n\r\n{inner}"
        ),
        format!("CONNECT\tallowed.test:{secure} HTTP/1.1\r\n\r\n"),
        format!("CONNECT allowed.test:{secure} HTTP/1.1\n\n{inner}"),
        format!("CONNECT http://allowed.test:{secure} HTTP/1.1\r\n\r\n"),
    ] {
        let mut client = Client::connect(gateway.addr("out")).await;
        client.send(&head).await;
        let answer = client.response().await;
        assert_eq!(answer.status, 400, "{head}");
        assert!(client.closed(Duration::from_secs(5)).await, "{head}");
    }
    assert!(outside.clear.requests().iter().all(|seen| seen.path() != "/smuggled"), "{:?}", outside.clear.requests());
}

#[tokio::test]
async fn a_redirect_leads_nowhere_that_the_policy_does_not() {
    let outside = Outside::start(&["allowed.test", "plain.test"]).await;
    let away = Origin::start(|_| {
        b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest/meta-data/\r\nContent-Length: 0\r\n\r\n"
            .to_vec()
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let config = config(&outside, folder.path(), "").replace(
        &format!("ports = [{}]\nprotocol = \"http\"", outside.clear.addr.port()),
        &format!("ports = [{}]\nprotocol = \"http\"", away.addr.port()),
    );
    let gateway = Gateway::start_in(folder, &config).await;
    let mut client = Client::connect(gateway.addr("out")).await;
    let host = format!("plain.test:{}", away.addr.port());
    client.send(format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    let answer = client.response().await;
    let location = answer.header("location").unwrap().to_owned();
    assert_eq!((answer.status, location.as_str()), (302, "http://169.254.169.254/latest/meta-data/"));
    client.send(format!("GET {location} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n")).await;
    assert_eq!(reason(&client.response().await), "no_destination");
}

#[tokio::test]
async fn a_quota_of_tunnels_holds_exactly_when_all_come_at_once() {
    let outside = Outside::start(&["allowed.test"]).await;
    let gateway =
        Arc::new(start(&outside, "tunnels = { max = 32, key = \"destination\" }\nprotocol = \"opaque\"").await);
    let target = format!("allowed.test:{}", outside.tls.port());
    let barrier = Arc::new(tokio::sync::Barrier::new(64));
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (gateway, target, barrier) = (gateway.clone(), target.clone(), barrier.clone());
        all.spawn(async move {
            let mut client = Client::connect(gateway.addr("out")).await;
            barrier.wait().await;
            client.send(format!("CONNECT {target} HTTP/1.1\r\n\r\n")).await;
            (client.try_response(true).await.unwrap().status, client)
        });
    }
    let (mut open, mut refused) = (Vec::new(), 0);
    while let Some(done) = all.join_next().await {
        match done.unwrap() {
            (200, client) => open.push(client),
            (429, _) => refused += 1,
            (status, _) => panic!("{status}"),
        }
    }
    assert_eq!((open.len(), refused), (32, 32));
}

#[tokio::test]
async fn a_token_endpoint_that_is_slow_or_wrong_or_gone_gives_no_request_away() {
    let outside = Outside::start(&["allowed.test"]).await;
    let slow = Origin::raw(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let wrong = Origin::start(|_| ok("<html>welcome</html>")).await;
    let basic = Origin::start(|_| ok("{\"access_token\":\"x\",\"token_type\":\"mac\"}")).await;
    let broken = Origin::start(|_| b"HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n".to_vec()).await;
    let away = Origin::start(|_| {
        b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n".to_vec()
    })
    .await;
    for url in [
        format!("http://{}/", wrong.addr),
        format!("http://{}/", basic.addr),
        format!("http://{}/", broken.addr),
        format!("http://{}/", away.addr),
        "http://127.0.0.1:1/".to_owned(),
        format!("http://{}/", slow.addr),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("canary"), "s3cret").unwrap();
        let table = format!(
            "[credential.key]\noauth2 = {{ token_url = \"{url}\", client_id = \"a\", client_secret = {{ file = \"canary\" }}, \
             private_addresses = [\"127.0.0.0/8\"] }}\n"
        );
        let keys = "tls = \"originate\"\ntrust = \"outside\"\ncredential = \"key\"";
        let config = [config(&outside, folder.path(), keys), table].concat();
        let gateway = Gateway::start_in(folder, &config).await;
        let mut client = Client::connect(gateway.addr("out")).await;
        client.send("GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\n\r\n").await;
        let answer = client.response().await;
        assert_eq!((answer.status, reason(&answer).as_str()), (502, "credential"), "{url}");
    }
    assert!(outside.requests().is_empty());
}

#[tokio::test]
async fn secrets_are_exchanged_while_requests_run() {
    let outside = Outside::start(&["allowed.test"]).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("canary"), "key-0").unwrap();
    let keys = "tls = \"originate\"\ntrust = \"outside\"\ncredential = \"key\"";
    let table = "[credential.key]\nheader = { name = \"x-key\", value = { file = \"canary\" } }\n";
    let config = [config(&outside, folder.path(), keys).as_str(), table].concat();
    let gateway = Gateway::start_in(folder, &config).await;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let ask = async || {
        let mut client = Client::connect(gateway.addr("out")).await;
        let mut asked = 0_u32;
        while !stop.load(std::sync::atomic::Ordering::SeqCst) {
            client.send("GET http://allowed.test/ HTTP/1.1\r\nHost: allowed.test\r\nX-Key: mine\r\n\r\n").await;
            let response = client.response().await;
            assert_eq!(response.status, 200);
            asked += 1;
            // Ten thousand are served on one connection, which a quick machine asks before the keys have gone round.
            if response.header("connection") == Some("close") {
                client = Client::connect(gateway.addr("out")).await;
            }
        }
        asked
    };
    let exchange = async {
        for round in 1..6 {
            let key = format!("key-{round}");
            std::fs::write(gateway.path().join("canary"), &key).unwrap();
            // The watcher sees it by itself; nobody asks for a reload.
            eventually("the new key is sent", async || {
                outside.requests().last().is_some_and(|seen| seen.all("x-key") == [key.as_str()]).then_some(())
            })
            .await;
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
    };
    let (one, two, ()) = tokio::join!(ask(), ask(), exchange);
    assert!(one > 0 && two > 0);
    assert!(outside.requests().iter().all(|seen| seen.all("x-key").len() == 1 && seen.header("x-key") != Some("mine")));
}

//! Requests that are under way while the policy changes under them, wherever the gateway sees requests: downloads that do not end,
//! and WebSockets.

use crate::support::{
    authority::Authority,
    client::{Io, h2, tls_config},
    gateway::Gateway,
    outside::Outside,
};
use std::{net::SocketAddr, path::Path, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const LONG: Duration = Duration::from_secs(20);

/// Origins in the clear and inside TLS whose answers do not end.
struct Endless {
    outside: Outside,
    clear: SocketAddr,
    tls: SocketAddr,
}

impl Endless {
    async fn start() -> Self {
        let outside = Outside::start(&["clear.test", "far.test", "deep.test"]).await;
        let acceptor = outside.ca.leaf(&["far.test", "deep.test"]).acceptor(&[]);
        let (clear, tls) = (listen(None).await, listen(Some(acceptor)).await);
        Self { outside, clear, tls }
    }

    /// `rules`: the tables of access. Both paths are of one destination.
    fn config(&self, folder: &Path, drain: &str, rules: &str) -> String {
        let egress = self.outside.config(folder).replace(
            "[egress]\n",
            &format!("[egress]\ndrain = \"{drain}\"\ninspect = {{ certificate = {{ file = \"signer.crt\" }}, key = {{ file = \"signer.key\" }} }}\n"),
        );
        let destination = |name: &str, port: u16, keys: &str| {
            format!(
                "[destination.{name}]\nhosts = [\"{name}.test\"]\nports = [{port}]\nprivate_addresses = [\"127.0.0.0/8\"]\n{keys}\n"
            )
        };
        format!(
            "{egress}[listener.out]\naddress = \"127.0.0.1:0\"\nprotocol = \"proxy\"\n{}{}{}{rules}",
            destination("clear", self.clear.port(), "protocol = \"http\""),
            destination("far", self.tls.port(), "tls = \"originate\"\ntrust = \"outside\""),
            destination("deep", self.tls.port(), "tls = \"inspect\"\ntrust = \"outside\""),
        )
    }

    async fn gateway(&self, drain: &str, rules: &str) -> Gateway {
        let folder = tempfile::tempdir().unwrap();
        let signer = Authority::new("inspection");
        std::fs::write(folder.path().join("signer.crt"), &signer.certificate_pem).unwrap();
        std::fs::write(folder.path().join("signer.key"), &signer.key_pem).unwrap();
        let config = self.config(folder.path(), drain, rules);
        Gateway::start_in(folder, &config).await
    }
}

async fn listen(tls: Option<tokio_rustls::TlsAcceptor>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                match tls {
                    None => go_on(stream).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => go_on(stream).await,
                        Err(_) => None,
                    },
                }
            });
        }
    });
    address
}

/// A chunk now and then; to the wish for a WebSocket 101, and then what it is told.
async fn go_on(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    if String::from_utf8_lossy(&head).to_ascii_lowercase().contains("upgrade: websocket") {
        stream.write_all(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await.ok()?;
        let mut octets = [0; 64];
        loop {
            let read = stream.read(&mut octets).await.ok().filter(|read| *read > 0)?;
            stream.write_all(&octets[..read]).await.ok()?;
        }
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.ok()?;
    loop {
        stream.write_all(b"4\r\ntick\r\n").await.ok()?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// By which way a request goes out.
#[derive(Debug, Clone, Copy)]
enum Way {
    Absolute,
    Tunnel,
    Originate,
    Inspect,
}

impl Way {
    fn destination(self) -> &'static str {
        match self {
            Self::Absolute | Self::Tunnel => "clear",
            Self::Originate => "far",
            Self::Inspect => "deep",
        }
    }

    fn target(self, endless: &Endless) -> String {
        let port = match self {
            Self::Absolute | Self::Tunnel => endless.clear.port(),
            Self::Originate | Self::Inspect => endless.tls.port(),
        };
        format!("{}.test:{port}", self.destination())
    }

    /// A stream on which requests can be written, and what stands before their paths.
    async fn enter(self, endless: &Endless, gateway: &Gateway, alpn: &[&str]) -> (Box<dyn Io>, String) {
        let mut stream = TcpStream::connect(gateway.addr("out")).await.unwrap();
        let target = self.target(endless);
        if let Self::Absolute | Self::Originate = self {
            return (Box::new(stream), format!("http://{target}"));
        }
        stream.write_all(format!("CONNECT {target} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = [0; 39];
        stream.read_exact(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{self:?}");
        if let Self::Tunnel = self {
            return (Box::new(stream), String::new());
        }
        let ca = std::fs::read_to_string(gateway.path().join("signer.crt")).unwrap();
        let connector = tokio_rustls::TlsConnector::from(tls_config(&ca, alpn));
        let stream = connector.connect("deep.test".try_into().unwrap(), stream).await.unwrap();
        (Box::new(stream), String::new())
    }

    async fn begin(self, endless: &Endless, gateway: &Gateway, path: &str, what: What) -> Exchange {
        let (mut stream, before) = self.enter(endless, gateway, &["http/1.1"]).await;
        let wish = match what {
            What::Download => "",
            What::WebSocket => "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        };
        let head = format!("GET {before}{path} HTTP/1.1\r\nHost: {}\r\n{wish}\r\n", self.target(endless));
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut exchange = Exchange { stream, what };
        assert!(exchange.read().await.is_some_and(|text| text.starts_with("HTTP/1.1 ")), "{self:?} {path}");
        assert!(exchange.goes_on().await, "{self:?} {path}");
        exchange
    }
}

#[derive(Debug, Clone, Copy)]
enum What {
    Download,
    WebSocket,
}

struct Exchange {
    stream: Box<dyn Io>,
    what: What,
}

impl Exchange {
    /// `None`: it is over.
    async fn read(&mut self) -> Option<String> {
        let mut octets = [0; 4096];
        let read = timeout(LONG, self.stream.read(&mut octets)).await.expect("something happens").ok()?;
        (read > 0).then(|| String::from_utf8_lossy(&octets[..read]).into_owned())
    }

    async fn goes_on(&mut self) -> bool {
        if let What::WebSocket = self.what
            && self.stream.write_all(b"ping").await.is_err()
        {
            return false;
        }
        self.read().await.is_some()
    }

    async fn ends(&mut self) {
        let until_it_ends = async { while self.read().await.is_some() {} };
        timeout(LONG, until_it_ends).await.expect("it is cut");
    }
}

fn rule(name: &str, keys: &str) -> String {
    format!(
        "[access.{name}]\nfrom = [\"*\"]\nto = [\"destination:clear\", \"destination:far\", \"destination:deep\"]\naction = \"allow\"\n\
         match = {{ path = \"/{name}\" }}\n{keys}"
    )
}

#[tokio::test]
async fn a_new_policy_ends_the_requests_that_it_forbids_and_no_others() {
    let endless = Endless::start().await;
    let (stays, both) = (rule("stays", ""), format!("{}{}", rule("stays", ""), rule("goes", "")));
    for way in [Way::Absolute, Way::Tunnel, Way::Originate, Way::Inspect] {
        for what in [What::Download, What::WebSocket] {
            let mut gateway = endless.gateway("200ms", &both).await;
            let mut one = way.begin(&endless, &gateway, "/stays", what).await;
            let mut other = way.begin(&endless, &gateway, "/goes", what).await;
            let narrowed = endless.config(gateway.path(), "200ms", &stays);
            assert_eq!(gateway.reload(&narrowed).await.0, 200);
            other.ends().await;
            let counted = [way.destination(), "policy_changed"];
            gateway.counts("portcullis_egress_refusals_total", &counted, 1.0).await;
            let record = gateway.recorded("the end", |record| record["path"] == "/goes").await;
            assert_eq!(record["reason"], "policy_changed", "{way:?} {what:?}: {record}");
            assert!(one.goes_on().await && one.goes_on().await, "{way:?} {what:?}");
        }
    }
}

#[tokio::test]
async fn streams_of_one_connection_are_asked_about_one_by_one() {
    let endless = Endless::start().await;
    let (stays, both) = (rule("stays", ""), format!("{}{}", rule("stays", ""), rule("goes", "")));
    let mut gateway = endless.gateway("200ms", &both).await;
    let (stream, _) = Way::Inspect.enter(&endless, &gateway, &["h2"]).await;
    let sender = h2(stream).await;
    let begin = async |path: &str| {
        let uri = format!("https://{}{path}", Way::Inspect.target(&endless));
        let request = http::Request::get(uri).body(()).unwrap();
        let (response, _) = sender.clone().ready().await.unwrap().send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert!(body.data().await.unwrap().is_ok(), "{path}");
        body
    };
    let (mut one, mut other) = (begin("/stays").await, begin("/goes").await);
    assert_eq!(gateway.reload(&endless.config(gateway.path(), "200ms", &stays)).await.0, 200);
    let until_it_ends = async {
        while let Some(Ok(chunk)) = other.data().await {
            let _ = other.flow_control().release_capacity(chunk.len());
        }
    };
    timeout(LONG, until_it_ends).await.expect("the stream is reset");
    for _ in 0..20 {
        let chunk = timeout(LONG, one.data()).await.expect("it goes on").unwrap().unwrap();
        let _ = one.flow_control().release_capacity(chunk.len());
    }
}

#[tokio::test]
async fn the_end_of_a_grant_is_the_end_of_its_requests() {
    let endless = Endless::start().await;
    let both = format!("{}{}", rule("stays", ""), rule("goes", ""));
    let mut gateway = endless.gateway("200ms", &both).await;
    let mut one = Way::Absolute.begin(&endless, &gateway, "/stays", What::Download).await;
    let mut other = Way::Absolute.begin(&endless, &gateway, "/goes", What::WebSocket).await;
    // An end that is given while they are under way: however slow the machine is, they have begun.
    let soon = time::OffsetDateTime::now_utc() + Duration::from_secs(2);
    let soon = soon.format(&time::format_description::well_known::Rfc3339).unwrap();
    let ending = format!("{}{}", rule("stays", ""), rule("goes", &format!("until = \"{soon}\"\n")));
    assert_eq!(gateway.reload(&endless.config(gateway.path(), "200ms", &ending)).await.0, 200);
    other.ends().await;
    gateway.counts("portcullis_egress_refusals_total", &["clear", "expired"], 1.0).await;
    assert!(one.goes_on().await);
}

#[tokio::test]
async fn a_policy_that_takes_a_request_back_within_the_window_saves_it() {
    let endless = Endless::start().await;
    let (stays, both) = (rule("stays", ""), format!("{}{}", rule("stays", ""), rule("goes", "")));
    let mut gateway = endless.gateway("1h", &both).await;
    let mut goes = Way::Originate.begin(&endless, &gateway, "/goes", What::WebSocket).await;
    for rules in [&stays, &both] {
        let config = endless.config(gateway.path(), "1h", rules);
        assert_eq!(gateway.reload(&config).await.0, 200);
        assert!(goes.goes_on().await, "the window is an hour");
    }
}

//! An internet of the test's own: a name server, an origin that speaks TLS and one that does not, all on loopback.

use super::{
    authority::Authority,
    origin::{Origin, Seen, ok, serve},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex},
};
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;

/// Everything behind the gateway. The origins echo what they saw.
pub(crate) struct Outside {
    /// Where names are asked for.
    pub names: SocketAddr,
    pub ca: Authority,
    /// Speaks https.
    pub tls: SocketAddr,
    /// What it was asked.
    pub seen: Arc<Mutex<Vec<Seen>>>,
    /// Speaks http.
    pub clear: Origin,
    answers: Answers,
}

type Answers = Arc<Mutex<BTreeMap<String, Answer>>>;

/// What the name server says of a name.
#[derive(Debug, Clone)]
enum Answer {
    Addresses(Vec<IpAddr>),
    /// One after the other, and again.
    Turns(Vec<IpAddr>),
    Alias(String, IpAddr),
    ServerFailure,
    Silence,
}

impl Outside {
    /// Every one of `names` leads to loopback and is in the origin's certificate.
    pub(crate) async fn start(names: &[&str]) -> Self {
        let ca = Authority::new("outside");
        let leaf = ca.leaf(names);
        let chain = CertificateDer::pem_slice_iter(leaf.certificate_pem.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients(&ca))
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tls = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let log = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, log) = (acceptor.clone(), log.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let shown = stream.get_ref().1.peer_certificates().is_some();
                        let word = if shown { "certified" } else { "secretly" };
                        serve(stream, &|seen: &Seen| answered(word, seen), &log).await;
                    }
                });
            }
        });
        let answers = Answers::default();
        let outside =
            Self { names: name_server(answers.clone()).await, ca, tls, seen, clear: Origin::echo().await, answers };
        for name in names {
            outside.point(name, &["127.0.0.1"]);
        }
        outside
    }

    /// From now on the name leads there; the answer is good for no time at all.
    pub(crate) fn point(&self, name: &str, addresses: &[&str]) {
        self.says(name, Answer::Addresses(parsed(addresses)));
    }

    /// Each question is given the next of these addresses.
    pub(crate) fn alternate(&self, name: &str, addresses: &[&str]) {
        self.says(name, Answer::Turns(parsed(addresses)));
    }

    /// The name is another name for one that has this address.
    pub(crate) fn alias(&self, name: &str, target: &str, address: &str) {
        self.says(name, Answer::Alias(target.to_owned(), address.parse().unwrap()));
    }

    /// The name server cannot tell.
    pub(crate) fn fail(&self, name: &str) {
        self.says(name, Answer::ServerFailure);
    }

    /// The name server says nothing.
    pub(crate) fn silence(&self, name: &str) {
        self.says(name, Answer::Silence);
    }

    fn says(&self, name: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(name.to_owned(), answer);
    }

    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The tables that make a gateway ask our name server; and `outside.crt`, which signs for the origin, in `folder`.
    pub(crate) fn config(&self, folder: &Path) -> String {
        std::fs::write(folder.join("outside.crt"), &self.ca.certificate_pem).unwrap();
        format!(
            "[egress]\nresolver = \"fake\"\n[discovery.fake]\ndns = {{ servers = [\"{}\"] }}\n\
             [trust.outside]\nca = {{ file = \"outside.crt\" }}\n",
            self.names
        )
    }
}

/// Whoever shows a certificate of the same authority is told so; nobody has to.
fn clients(ca: &Authority) -> Arc<dyn rustls::server::danger::ClientCertVerifier> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.certificate_pem.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    verifier.allow_unauthenticated().build().unwrap()
}

/// The request line and the names of the fields, no values; `/away` sends to another host.
fn answered(word: &str, seen: &Seen) -> Vec<u8> {
    if seen.path() == "/away" {
        let location = "http://other.test/there";
        return format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n").into_bytes();
    }
    ok(&format!("{word} {}", seen.line()))
}

fn parsed(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

async fn name_server(answers: Answers) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let own = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            let reply = answer(&query[..length], &mut answers.lock().unwrap());
            if let Some(reply) = reply {
                let _ = socket.send_to(&reply, from).await;
            }
        }
    });
    own
}

/// RFC 1035 §4: the question again, and its addresses of the family that is asked for; NXDOMAIN for a name nobody has.
fn answer(query: &[u8], answers: &mut BTreeMap<String, Answer>) -> Option<Vec<u8>> {
    let (mut labels, mut at) = (Vec::new(), 12);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_ascii_lowercase());
        at = end;
    }
    let (question_end, kind) = (at + 5, query[at + 2]);
    let (code, alias, addresses) = match answers.get_mut(&labels.join(".")) {
        None => (0x83, None, Vec::new()),
        Some(Answer::Silence) => return None,
        Some(Answer::ServerFailure) => (0x82, None, Vec::new()),
        Some(Answer::Addresses(addresses)) => (0x80, None, addresses.clone()),
        Some(Answer::Turns(addresses)) => {
            // Both families are asked for; a turn is one question for IPv4.
            if kind == 1 {
                addresses.rotate_left(1);
            }
            (0x80, None, addresses.first().copied().into_iter().collect())
        }
        Some(Answer::Alias(target, address)) => (0x80, Some(target.clone()), vec![*address]),
    };
    let fits = |address: &IpAddr| (kind == 1 && address.is_ipv4()) || (kind == 28 && address.is_ipv6());
    let addresses: Vec<IpAddr> = addresses.into_iter().filter(fits).collect();
    let mut reply = query[..2].to_vec();
    let count = addresses.len() + usize::from(alias.is_some());
    reply.extend([0x85, code, 0, 1, 0, u8::try_from(count).unwrap(), 0, 0, 0, 0]);
    reply.extend(&query[12..question_end]);
    let mut owner = [0xc0, 12];
    if let Some(target) = alias {
        let name: Vec<u8> = target
            .split('.')
            .flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat())
            .chain([0])
            .collect();
        reply.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 0, 0, u8::try_from(name.len()).unwrap()]);
        owner = [0xc0, u8::try_from(reply.len()).unwrap()];
        reply.extend(name);
    }
    for address in addresses {
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        reply.extend(owner);
        reply.extend([0, kind, 0, 1, 0, 0, 0, 0, 0, u8::try_from(octets.len()).unwrap()]);
        reply.extend(octets);
    }
    Some(reply)
}

//! Keys of `discover` and `[discovery]`, each with the difference that it makes.

use crate::support::{
    client::Client,
    eventually,
    gateway::Gateway,
    origin::{Origin, ok},
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::net::{TcpListener, UdpSocket};

/// A name server with one name. `answers`: its addresses, for a second each. When it was asked for A is written down.
struct Names {
    address: SocketAddr,
    answers: Arc<Mutex<Vec<IpAddr>>>,
    asked: Arc<Mutex<Vec<Instant>>>,
}

impl Names {
    async fn start(answers: Vec<IpAddr>, speaks: Speech) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (answers, asked) = (Arc::new(Mutex::new(answers)), Arc::<Mutex<Vec<Instant>>>::default());
        let (known, log) = (answers.clone(), asked.clone());
        tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query).await {
                let reply = answer(&query[..length], &known.lock().unwrap());
                if reply.1 == 1 {
                    log.lock().unwrap().push(Instant::now());
                }
                if speaks == Speech::Late {
                    tokio::time::sleep(Duration::from_millis(750)).await;
                }
                if speaks != Speech::No {
                    let _ = socket.send_to(&reply.0, from).await;
                }
            }
        });
        Self { address, answers, asked }
    }

    fn asked(&self) -> Vec<Instant> {
        self.asked.lock().unwrap().clone()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Speech {
    Yes,
    No,
    /// After three quarters of a second.
    Late,
}

/// RFC 1035 §4: the question again, its addresses of the type that is asked for, and that type.
fn answer(query: &[u8], addresses: &[IpAddr]) -> (Vec<u8>, u8) {
    let name_end = 12 + query[12..].iter().position(|octet| *octet == 0).unwrap();
    let (question_end, kind) = (name_end + 5, query[name_end + 2]);
    let fits = |address: &&IpAddr| if address.is_ipv4() { kind == 1 } else { kind == 28 };
    let addresses: Vec<_> = addresses.iter().filter(fits).collect();
    let mut reply = query[..2].to_vec();
    reply.extend([0x85, 0x80, 0, 1, 0, u8::try_from(addresses.len()).unwrap(), 0, 0, 0, 0]);
    reply.extend(&query[12..question_end]);
    for address in addresses {
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        reply.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 1, 0, u8::try_from(octets.len()).unwrap()]);
        reply.extend(octets);
    }
    (reply, kind)
}

async fn edge(names: &Names, port: u16, dns: &str, discover: &str) -> Gateway {
    Gateway::start(&format!(
        "[listener.http]\naddress = \"127.0.0.1:0\"\n[discovery.lab]\ndns = {{ servers = [\"{}\"]{dns} }}\n\
         [upstream.app]\ndiscover = {{ dns = \"app.test:{port}\", through = \"lab\"{discover} }}\n[route.app]\nupstream = \"app\"\n",
        names.address
    ))
    .await
}

async fn status(gateway: &Gateway) -> u16 {
    Client::connect(gateway.addr("http")).await.get("a", "/").await.status
}

#[tokio::test]
async fn a_name_that_is_gone_keeps_its_endpoints_for_its_grace() {
    let origin = Origin::fixed("ok").await;
    let names = Names::start(vec![Ipv4Addr::LOCALHOST.into()], Speech::Yes).await;
    let discover = |grace: &str| format!(", family = \"ipv4\"{grace}");
    let short = edge(&names, origin.addr.port(), ", min_ttl = \"100ms\"", &discover(", grace = \"200ms\"")).await;
    let long = edge(&names, origin.addr.port(), ", min_ttl = \"100ms\"", &discover("")).await;
    assert_eq!((status(&short).await, status(&long).await), (200, 200));
    names.answers.lock().unwrap().clear();
    eventually("it is gone", async || (status(&short).await == 503).then_some(())).await;
    assert_eq!(status(&long).await, 200);
}

#[tokio::test]
async fn only_addresses_of_the_wanted_family_are_endpoints() {
    let four = Origin::fixed("four").await;
    let port = four.addr.port();
    let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await else {
        eprintln!("NOT CHECKED: there is no IPv6 here, or its port {port} is taken");
        return;
    };
    let _six = Origin::on(listener, |_| ok("six"));
    let names = Names::start(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()], Speech::Yes).await;
    for (family, expected) in
        [(", family = \"ipv4\"", &["four"][..]), (", family = \"ipv6\"", &["six"]), ("", &["four", "six"])]
    {
        let gateway = edge(&names, port, "", &format!("{family} }}\nbalance = {{ policy = \"round_robin\"")).await;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..6 {
            seen.insert(Client::connect(gateway.addr("http")).await.get("a", "/").await.text());
        }
        assert!(seen.iter().map(String::as_str).eq(expected.iter().copied()), "{family}: {seen:?}");
    }
}

#[tokio::test]
async fn a_question_is_tried_so_often_and_each_try_has_its_time() {
    // What comes before the first pause: tries of one question.
    let tries = async |dns: &str| {
        let names = Names::start(Vec::new(), Speech::No).await;
        let gateway = edge(&names, 80, dns, ", family = \"ipv4\"").await;
        eventually("it was asked", async || (!names.asked().is_empty()).then_some(())).await;
        tokio::time::sleep(Duration::from_millis(900)).await;
        drop(gateway);
        names.asked()
    };
    let once = tries(", attempts = 1, timeout = \"200ms\"").await.len();
    let often = tries(", attempts = 4, timeout = \"200ms\"").await.len();
    assert!(once <= 2 && often >= 4, "{once} and {often}");
    let origin = Origin::fixed("ok").await;
    for (timeout, expected) in [("100ms", 503), ("20s", 200)] {
        let late = Names::start(vec![Ipv4Addr::LOCALHOST.into()], Speech::Late).await;
        let dns = format!(", attempts = 1, timeout = \"{timeout}\"");
        let gateway = edge(&late, origin.addr.port(), &dns, ", family = \"ipv4\"").await;
        if expected == 200 {
            eventually("it is found", async || (status(&gateway).await == 200).then_some(())).await;
        } else {
            eventually("it was asked again", async || (late.asked().len() >= 2).then_some(())).await;
            assert_eq!(status(&gateway).await, 503);
        }
    }
}

#[tokio::test]
async fn min_ttl_keeps_an_answer_longer_than_it_says() {
    let asked = async |dns: &str| {
        let origin = Origin::fixed("ok").await;
        let names = Names::start(vec![Ipv4Addr::LOCALHOST.into()], Speech::Yes).await;
        let _gateway = edge(&names, origin.addr.port(), dns, ", family = \"ipv4\"").await;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        names.asked().len()
    };
    let (obeyed, kept) = (asked("").await, asked(", min_ttl = \"1h\"").await);
    assert!(obeyed >= 2 && kept == 1, "{obeyed} and {kept}");
}

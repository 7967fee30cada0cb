//! A DNS server that says what it is told to, over UDP and TCP on one port.

use hickory_resolver::proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{CNAME, SOA, SRV},
    },
};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    sync::watch,
    task::JoinHandle,
};

/// What is said to one question.
#[derive(Debug, Clone)]
pub(crate) enum Say {
    Records(Vec<Record>),
    /// Over UDP that there is more; over TCP these.
    Truncated(Vec<Record>),
    NoSuchName,
    Code(ResponseCode),
    Silence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Udp,
    Tcp,
}

#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) question: (String, RecordType),
    pub(crate) over: Over,
    pub(crate) at: Instant,
}

#[derive(Default)]
struct Zone {
    say: HashMap<(String, RecordType), Say>,
    heard: Vec<Heard>,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    count: watch::Receiver<usize>,
    tasks: [JoinHandle<()>; 2],
}

impl Server {
    pub(crate) async fn start() -> Self {
        let (udp, tcp) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let zone = Arc::new(Mutex::new(Zone::default()));
        let (counter, count) = watch::channel(0);
        let counter = Arc::new(counter);
        let tasks = [
            tokio::spawn(serve_udp(udp, zone.clone(), counter.clone())),
            tokio::spawn(serve_tcp(tcp, zone.clone(), counter)),
        ];
        Self { address, zone, count, tasks }
    }

    /// A name without an entry exists and has nothing.
    pub(crate) fn set(&self, name: &str, kind: RecordType, say: Say) {
        self.zone.lock().unwrap().say.insert((format!("{name}."), kind), say);
    }

    pub(crate) fn addresses(&self, name: &str, addresses: &[&str], ttl: u32) {
        self.set(name, RecordType::A, Say::Records(records(name, addresses, ttl)));
    }

    pub(crate) fn heard(&self, name: &str, kind: RecordType) -> Vec<Heard> {
        let question = (format!("{name}."), kind);
        self.zone.lock().unwrap().heard.iter().filter(|heard| heard.question == question).cloned().collect()
    }

    /// Waits until so many questions were heard in all.
    pub(crate) async fn heard_in_all(&mut self, count: usize) {
        let heard = self.count.wait_for(|heard| *heard >= count);
        tokio::time::timeout(Duration::from_secs(20), heard).await.expect("too few questions").unwrap();
    }

    pub(crate) fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Its port answers nobody from now on.
    pub(crate) fn stop(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::from_ascii(format!("{text}.")).unwrap()
}

pub(crate) fn records(owner: &str, addresses: &[&str], ttl: u32) -> Vec<Record> {
    let data = addresses.iter().map(|address| match address.parse().unwrap() {
        IpAddr::V4(address) => RData::A(address.into()),
        IpAddr::V6(address) => RData::AAAA(address.into()),
    });
    data.map(|data| Record::from_rdata(name(owner), ttl, data)).collect()
}

pub(crate) fn alias(owner: &str, target: &str, ttl: u32) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
}

pub(crate) fn service(owner: &str, (priority, weight, port, target): (u16, u16, u16, &str), ttl: u32) -> Record {
    Record::from_rdata(name(owner), ttl, RData::SRV(SRV::new(priority, weight, port, name(target))))
}

async fn serve_udp(socket: UdpSocket, zone: Arc<Mutex<Zone>>, counter: Arc<watch::Sender<usize>>) {
    let mut buffer = [0; 4096];
    while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
        if let Some(reply) = reply(&buffer[..length], Over::Udp, &zone, &counter) {
            let _ = socket.send_to(&reply, client).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Mutex<Zone>>, counter: Arc<watch::Sender<usize>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let (zone, counter) = (zone.clone(), counter.clone());
        tokio::spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut query = vec![0; usize::from(length)];
                if stream.read_exact(&mut query).await.is_err() {
                    return;
                }
                if let Some(reply) = reply(&query, Over::Tcp, &zone, &counter) {
                    let _ = stream.write_u16(u16::try_from(reply.len()).unwrap()).await;
                    let _ = stream.write_all(&reply).await;
                }
            }
        });
    }
}

fn reply(query: &[u8], over: Over, zone: &Mutex<Zone>, counter: &watch::Sender<usize>) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).unwrap();
    let asked = query.queries.first().unwrap().clone();
    let question = (asked.name().to_ascii().to_lowercase(), asked.query_type());
    let say = {
        let mut zone = zone.lock().unwrap();
        zone.heard.push(Heard { question: question.clone(), over, at: Instant::now() });
        zone.say.get(&question).cloned().unwrap_or(Say::Records(Vec::new()))
    };
    counter.send_modify(|count| *count += 1);
    let mut reply = Message::response(query.metadata.id, OpCode::Query);
    reply.add_query(asked.clone());
    reply.metadata.recursion_available = true;
    let soa = || {
        let soa = SOA::new(name("ns"), name("noc"), 1, 60, 60, 60, 1);
        Record::from_rdata(name("internal"), 1, RData::SOA(soa))
    };
    match (say, over) {
        (Say::Silence, _) => return None,
        (Say::NoSuchName, _) => {
            reply.metadata.response_code = ResponseCode::NXDomain;
            reply.add_authority(soa());
        }
        (Say::Code(code), _) => reply.metadata.response_code = code,
        (Say::Truncated(_), Over::Udp) => reply.metadata.truncation = true,
        (Say::Records(records), _) if records.is_empty() => drop(reply.add_authority(soa())),
        (Say::Records(records) | Say::Truncated(records), _) => drop(reply.add_answers(records)),
    }
    Some(reply.to_vec().unwrap())
}

//! Questions to a DNS server, and clients that ask all the time.

use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};
use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::io::AsyncReadExt;

pub(crate) const LISTENER: &str =
    "[listener.dns]\naddress = \"127.0.0.1:0\"\nprotocol = \"dns\"\n[dns]\nrate_limit = { mode = \"off\" }\n";

pub(crate) fn zone(address: &str) -> String {
    format!(
        "{LISTENER}[zone.x]\nname = \"example.test\"\nns = [\"ns1.example.test\"]\n\
         soa = {{ mname = \"ns1.example.test\", rname = \"noc.example.test\" }}\n\
         records = [\"ns1 60 A 127.0.0.1\", \"www 60 A {address}\", \"$GENERATE 1-60 big 60 A 192.0.2.$\"]\n"
    )
}

pub(crate) fn query(id: u16, name: &str, of_type: RecordType) -> Vec<u8> {
    let mut query = Message::query();
    query.metadata.id = id;
    // As stub resolvers ask; a validator says what it found (RFC 6840 §5.7).
    (query.metadata.recursion_desired, query.metadata.authentic_data) = (true, true);
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), of_type));
    query.to_vec().unwrap()
}

pub(crate) fn socket(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

/// A child that ends sends a signal, and a read with a timeout is not begun anew by the system (signal(7)).
pub(crate) fn receive(socket: &UdpSocket, reply: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match socket.recv(reply) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

pub(crate) fn try_ask(socket: &UdpSocket, id: u16, name: &str, of_type: RecordType) -> Option<Message> {
    socket.send(&query(id, name, of_type)).ok()?;
    let mut reply = [0; 4_096];
    let length = receive(socket, &mut reply).ok()?;
    let reply = Message::from_vec(&reply[..length]).unwrap();
    assert_eq!(reply.metadata.id, id);
    Some(reply)
}

pub(crate) fn ask(server: SocketAddr, name: &str, of_type: RecordType) -> Message {
    try_ask(&socket(server), 7, name, of_type).expect("a reply")
}

/// The data of an answer's records.
pub(crate) fn answer(server: SocketAddr, name: &str, of_type: RecordType) -> Vec<String> {
    ask(server, name, of_type).answers.iter().map(|record| record.data.to_string()).collect()
}

pub(crate) fn framed(id: u16, name: &str, of_type: RecordType) -> Vec<u8> {
    let octets = query(id, name, of_type);
    [&(octets.len() as u16).to_be_bytes()[..], &octets].concat()
}

pub(crate) async fn read_framed(stream: &mut (impl AsyncReadExt + Unpin)) -> Message {
    let length = stream.read_u16().await.unwrap();
    let mut octets = vec![0; usize::from(length)];
    stream.read_exact(&mut octets).await.unwrap();
    Message::from_vec(&octets).unwrap()
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// Clients that ask one query after the other until told to stop: how many were asked, and how many got no reply.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    pub(crate) asked: Arc<AtomicUsize>,
    lost: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(server: SocketAddr, clients: usize) -> Self {
        let (stop, asked, lost) = (Arc::default(), Arc::default(), Arc::default());
        let load = Self { stop, asked, lost, threads: Vec::new() };
        let threads = (0..clients).map(|_| {
            let (stop, asked, lost) = (load.stop.clone(), load.asked.clone(), load.lost.clone());
            std::thread::spawn(move || {
                let socket = socket(server);
                let mut id = 0u16;
                while !stop.load(SeqCst) {
                    id = id.wrapping_add(1);
                    let reply = try_ask(&socket, id, "www.example.test.", RecordType::A);
                    let good = reply.is_some_and(|reply| reply.answers.len() == 1);
                    asked.fetch_add(1, SeqCst);
                    lost.fetch_add(usize::from(!good), SeqCst);
                }
            })
        });
        let threads = threads.collect();
        Self { threads, ..load }
    }

    /// Asked and lost.
    pub(crate) fn end(self) -> (usize, usize) {
        self.stop.store(true, SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        (self.asked.load(SeqCst), self.lost.load(SeqCst))
    }
}

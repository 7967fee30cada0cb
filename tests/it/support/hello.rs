//! A ClientHello written octet by octet, for offers that no client at hand makes any more, and what a server says to it.

use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// What is offered. [`Hello::tls12`] and [`Hello::tls13`] are served; a case changes one thing of them.
#[derive(Debug, Clone)]
pub(crate) struct Hello {
    pub version: u16,
    /// Of `supported_versions`; empty: no such extension.
    pub versions: Vec<u16>,
    pub suites: Vec<u16>,
    pub compressions: Vec<u8>,
    pub server_name: Option<Vec<u8>>,
    pub groups: Vec<u16>,
    /// Signature schemes; empty: no such extension.
    pub schemes: Vec<u16>,
    pub session: Vec<u8>,
    /// Other extensions: type and content.
    pub more: Vec<(u16, Vec<u8>)>,
}

/// The first that a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Hello(ServerHello),
    Alert(u8),
    Closed,
    Silence,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerHello {
    pub version: u16,
    pub random: Vec<u8>,
    pub session: Vec<u8>,
    pub suite: u16,
    pub compression: u8,
    pub extensions: Vec<u16>,
}

/// RFC 8446 §4.1.3: this random says "retry".
const RETRY: [u8; 4] = [0xcf, 0x21, 0xad, 0x74];

impl Hello {
    pub(crate) fn tls12() -> Self {
        Self {
            version: 0x0303,
            versions: Vec::new(),
            suites: vec![0xc02b, 0xc02f],
            compressions: vec![0],
            server_name: Some(b"a.test".to_vec()),
            groups: vec![0x001d, 0x0017],
            schemes: vec![0x0403, 0x0804, 0x0401],
            session: Vec::new(),
            // Point formats and extended master secret.
            more: vec![(11, vec![1, 0]), (23, Vec::new())],
        }
    }

    pub(crate) fn tls13() -> Self {
        // A share of X25519 that is not on the curve's small subgroup.
        let share = [&[0x00, 0x24, 0x00, 0x1d, 0x00, 0x20][..], &[9; 32]].concat();
        Self {
            versions: vec![0x0304],
            suites: vec![0x1301],
            session: vec![7; 32],
            more: vec![(51, share)],
            ..Self::tls12()
        }
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The handshake message.
    pub(crate) fn message(&self) -> Vec<u8> {
        let mut body = self.version.to_be_bytes().to_vec();
        body.extend([0x42; 32]);
        body.extend(vec8(&self.session));
        body.extend(vec16(&numbers(&self.suites)));
        body.extend(vec8(&self.compressions));
        let extensions = self.extensions();
        if !extensions.is_empty() {
            body.extend(vec16(&extensions));
        }
        [&[1][..], &u32::try_from(body.len()).unwrap().to_be_bytes()[1..], &body].concat()
    }

    /// The message in as few records as hold it.
    pub(crate) fn records(&self) -> Vec<u8> {
        self.records_of(1 << 14)
    }

    /// The message in records of `size` octets.
    pub(crate) fn records_of(&self, size: usize) -> Vec<u8> {
        self.message().chunks(size).flat_map(|part| [&[22, 3, 1][..], &vec16(part)].concat()).collect()
    }

    fn extensions(&self) -> Vec<u8> {
        // SSL 3 knows of none.
        if self.version <= 0x0300 {
            return Vec::new();
        }
        let mut list: Vec<(u16, Vec<u8>)> = Vec::new();
        if let Some(name) = &self.server_name {
            list.push((0, vec16(&[&[0][..], &vec16(name)].concat())));
        }
        if !self.groups.is_empty() {
            list.push((10, vec16(&numbers(&self.groups))));
        }
        if !self.schemes.is_empty() {
            list.push((13, vec16(&numbers(&self.schemes))));
        }
        if !self.versions.is_empty() {
            list.push((43, vec8(&numbers(&self.versions))));
        }
        list.extend(self.more.iter().cloned());
        list.into_iter().flat_map(|(kind, content)| [&kind.to_be_bytes()[..], &vec16(&content)].concat()).collect()
    }
}

fn numbers(list: &[u16]) -> Vec<u8> {
    list.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn vec8(content: &[u8]) -> Vec<u8> {
    [&[u8::try_from(content.len()).unwrap()], content].concat()
}

fn vec16(content: &[u8]) -> Vec<u8> {
    [&u16::try_from(content.len()).unwrap().to_be_bytes()[..], content].concat()
}

/// Sends octets on a connection of their own, and gives the first answer.
pub(crate) async fn ask(addr: SocketAddr, octets: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    // A server that refuses early may not take all of it.
    let _ = stream.write_all(octets).await;
    answer(&mut stream).await
}

/// The first answer on a connection.
pub(crate) async fn answer(stream: &mut TcpStream) -> Answer {
    let mut handshake = Vec::new();
    loop {
        let mut head = [0; 5];
        match timeout(Duration::from_secs(10), stream.read_exact(&mut head)).await {
            Err(_) => return Answer::Silence,
            Ok(Err(_)) => return Answer::Closed,
            Ok(Ok(_)) => {}
        }
        let mut content = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        if stream.read_exact(&mut content).await.is_err() {
            return Answer::Closed;
        }
        match head[0] {
            21 => return Answer::Alert(content[1]),
            22 => handshake.extend(content),
            other => panic!("a record of type {other} came first"),
        }
        if let Some(hello) = ServerHello::read(&handshake) {
            return Answer::Hello(hello);
        }
    }
}

impl ServerHello {
    fn read(message: &[u8]) -> Option<Self> {
        let length = usize::from(u16::from_be_bytes([*message.get(2)?, *message.get(3)?]));
        let body = message.get(4..4 + length)?;
        assert_eq!(message[0], 2, "the first message of a server is its hello");
        let session = 35 + usize::from(body[34]);
        let mut extensions = Vec::new();
        let mut rest = body.get(session + 5..).unwrap_or_default();
        while rest.len() >= 4 {
            extensions.push(u16::from_be_bytes([rest[0], rest[1]]));
            rest = rest.get(4 + usize::from(u16::from_be_bytes([rest[2], rest[3]]))..).unwrap_or_default();
        }
        Some(Self {
            version: u16::from_be_bytes([body[0], body[1]]),
            random: body[2..34].to_vec(),
            session: body[35..session].to_vec(),
            suite: u16::from_be_bytes([body[session], body[session + 1]]),
            compression: body[session + 2],
            extensions,
        })
    }

    pub(crate) fn is_retry(&self) -> bool {
        self.random.starts_with(&RETRY)
    }
}

impl Answer {
    /// The hello, or a panic that says what came instead.
    pub(crate) fn hello(self) -> ServerHello {
        match self {
            Self::Hello(hello) => hello,
            other => panic!("not served: {other:?}"),
        }
    }
}

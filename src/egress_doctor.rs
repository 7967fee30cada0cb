//! `portcullis egress doctor`: run where applications run, it tries the ways around the gateway and says which are open.
//!
//! Proves only what it tries, from where it is started; closing them is the packet filter's work (`conf/egress/`).

use anyhow::Result;
use std::{
    fmt,
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    process::ExitCode,
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(2);
/// Of every cloud (RFC 3927 range); its answers are credentials.
const METADATA: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);
/// An exit code of its own: the command worked, and the answer is bad news.
const OPEN: u8 = 1;

/// What came of one try.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    Closed(String),
    Open(String),
    /// Neither was shown.
    Unclear(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(how) => write!(f, "closed   {how}"),
            Self::Open(how) => write!(f, "OPEN     {how}"),
            Self::Unclear(how) => write!(f, "unclear  {how}"),
        }
    }
}

/// Prints each finding; exit code 1 when a way is open.
pub(crate) fn run(proxy: SocketAddr, outside: &[SocketAddr], name: &str) -> Result<ExitCode> {
    let mut findings = Vec::new();
    for address in outside {
        let at = |port| SocketAddr::new(address.ip(), port);
        findings.push((format!("tcp {address} without the gateway"), direct(*address)));
        findings.push((format!("tcp {} (another port)", at(8443)), direct(at(8443))));
        findings.push((format!("tcp {} (DNS over TLS)", at(853)), direct(at(853))));
        findings.push((format!("udp {} (QUIC)", at(address.port())), quic(*address)));
        findings.push((format!("udp {} (DNS)", at(53)), dns(at(53), name)));
    }
    findings.push((format!("tcp {METADATA} (cloud metadata)"), direct(METADATA)));
    findings
        .push(("the gateway, to a host without a rule".to_owned(), through(proxy, "portcullis-doctor.invalid:443")));
    findings.push(("the gateway, to cloud metadata".to_owned(), through(proxy, &METADATA.to_string())));
    findings.push(("the gateway, to itself".to_owned(), through(proxy, &proxy.to_string())));
    let mut code = ExitCode::SUCCESS;
    for (what, finding) in &findings {
        println!("{finding}  {what}");
        if matches!(finding, Finding::Open(_)) {
            code = ExitCode::from(OPEN);
        }
    }
    Ok(code)
}

fn direct(address: SocketAddr) -> Finding {
    match TcpStream::connect_timeout(&address, PATIENCE) {
        Ok(_) => Finding::Open("it takes connections".to_owned()),
        Err(error) => Finding::Closed(error.to_string()),
    }
}

/// A packet of a version that nobody speaks: every QUIC server answers with those that it does (RFC 9000 §6.1).
fn quic(address: SocketAddr) -> Finding {
    let mut packet = vec![0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0];
    packet.resize(1_200, 0);
    datagram(address, &packet)
}

/// A question for the name's A record, with recursion (RFC 1035 §4).
fn dns(address: SocketAddr, name: &str) -> Finding {
    let mut question = vec![0x50, 0x43, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        // A label has at most 63 octets.
        let label = &label.as_bytes()[..label.len().min(63)];
        question.push(label.len() as u8);
        question.extend(label);
    }
    question.extend([0, 0, 1, 0, 1]);
    datagram(address, &question)
}

fn datagram(address: SocketAddr, packet: &[u8]) -> Finding {
    let exchange = || -> std::io::Result<()> {
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(packet)?;
        socket.recv(&mut [0; 1_500]).map(drop)
    };
    match exchange() {
        Ok(()) => Finding::Open("it answers".to_owned()),
        // Dropped, or nobody there: a filter that rejects lets QUIC clients fall back at once, and is told apart.
        Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
            Finding::Unclear("no answer: dropped, or nobody is there; rejecting is quicker for clients".to_owned())
        }
        Err(error) => Finding::Closed(error.to_string()),
    }
}

/// What must be refused by the gateway's policy.
fn through(proxy: SocketAddr, target: &str) -> Finding {
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&proxy, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE * 5))?;
        write!(stream, "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")?;
        let mut answer = [0; 512];
        let length = stream.read(&mut answer)?;
        let answer = String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned();
        Ok(answer.lines().next().unwrap_or_default().to_owned())
    };
    match exchange() {
        Ok(line) if line.split(' ').nth(1).is_some_and(|status| status.starts_with('2')) => Finding::Open(line),
        Ok(line) if line.starts_with("HTTP/") => Finding::Closed(line),
        Ok(line) => Finding::Unclear(format!("a strange answer: {line}")),
        Err(error) => Finding::Unclear(format!("the gateway cannot be asked: {error}")),
    }
}

//! `portcullis egress doctor`: run where applications run, it tries the ways around the gateway and says which are open.
//!
//! Proves only what it tries, from where it is started; closing them is the packet filter's work (`conf/egress/`).

use anyhow::Result;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    fmt,
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::unix::process::CommandExt,
    process::{Command, ExitCode, Stdio},
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

/// What is tried, and from where.
#[derive(Debug)]
pub(crate) struct Questions {
    pub(crate) proxy: SocketAddr,
    pub(crate) outside: Vec<SocketAddr>,
    pub(crate) name: String,
    /// Whose ids an application might take to look like a proxy.
    pub(crate) uids: Vec<u32>,
}

/// Prints each finding; exit code 1 when a way is open.
pub(crate) fn run(questions: &Questions) -> Result<ExitCode> {
    let Questions { proxy, outside, name, uids } = questions;
    let proxy = *proxy;
    let mut findings = Vec::new();
    for address in outside {
        let at = |port| SocketAddr::new(address.ip(), port);
        findings.push((format!("tcp {address} without the gateway"), direct(*address)));
        findings.push((format!("tcp {} (another port)", at(8443)), direct(at(8443))));
        findings.push((format!("tcp {} (DNS over TLS)", at(853)), direct(at(853))));
        findings.push((format!("udp {} (QUIC)", at(address.port())), quic(*address)));
        findings.push((format!("udp {} (DNS)", at(53)), dns(at(53), name)));
        findings.push((format!("tcp {} (DNS)", at(53)), direct(at(53))));
        findings.push((format!("icmp {} (echo, which carries tunnels)", address.ip()), ping(*address)));
        for uid in uids {
            findings.push((format!("tcp {address} as user {uid} (a proxy's own id)"), spoofed(*address, *uid)));
        }
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

/// The same connection, made by a process with another user's id: rules that let "the proxy's user" pass let it pass too.
fn spoofed(address: SocketAddr, uid: u32) -> Finding {
    let own = std::env::current_exe().and_then(|program| {
        Command::new(program)
            .args(["egress", "doctor", "--proxy", &address.to_string(), "--only-connect"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .uid(uid)
            .status()
    });
    match own {
        Ok(status) if status.success() => Finding::Open("it takes connections".to_owned()),
        Ok(_) => Finding::Closed("no connection".to_owned()),
        // EPERM is the change of the id; EACCES would be that this program cannot be read by that user.
        Err(error) if error.raw_os_error() == Some(1) => {
            Finding::Closed(format!("no process here may become that user: {error}"))
        }
        Err(error) => Finding::Unclear(format!("it could not be tried: {error}")),
    }
}

/// Exit code 0 when a connection is made: the question that is asked as another user.
pub(crate) fn only_connect(address: SocketAddr) -> ExitCode {
    match direct(address) {
        Finding::Open(_) => ExitCode::SUCCESS,
        Finding::Closed(_) | Finding::Unclear(_) => ExitCode::from(OPEN),
    }
}

/// An echo request (RFC 792, RFC 4443 §4.1), on a socket for just that, or a raw one where such are not given.
fn ping(address: SocketAddr) -> Finding {
    let (domain, protocol, kind) = match address {
        SocketAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
        SocketAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
    };
    let socket =
        Socket::new(domain, Type::DGRAM, Some(protocol)).or_else(|_| Socket::new(domain, Type::RAW, Some(protocol)));
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => return Finding::Closed(format!("no socket for it: {error}")),
    };
    let mut packet = [kind, 0, 0, 0, 0x50, 0x43, 0, 1];
    if address.is_ipv4() {
        // RFC 1071; of ICMPv6 the kernel makes it, because the addresses are a part of it.
        let sum: u32 =
            packet.chunks(2).map(|pair| pair.iter().fold(0, |sum, octet| sum << 8 | u32::from(*octet))).sum();
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    let exchange = || -> io::Result<()> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(&SocketAddr::new(address.ip(), 0).into())?;
        socket.send(&packet)?;
        (&socket).read(&mut [0; 256]).map(drop)
    };
    answered(exchange())
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
    answered(exchange())
}

fn answered(exchange: io::Result<()>) -> Finding {
    match exchange {
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

//! Raw HTTP/1 requests, each with the one thing that may become of it, judged by what arrives at an origin that reads to the
//! letter of RFC 9112: SAFE is a request that nobody behind us can read otherwise than we did, CONFORMS one that got the answer
//! that the RFC asks for. After each comes a second request on the same connection: whoever mistakes where the first one ends
//! takes the second for something else.

use crate::h1_strict::edge;
use crate::h1_table::{Case, Expected, Then, cases};
use crate::support::{client::Client, gateway::Gateway, origin::Origin};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Sent after each case.
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";

/// What came to the origin: whole requests, and what is none.
#[derive(Default)]
struct Record {
    whole: Vec<(String, Vec<u8>)>,
    wrong: Vec<String>,
}

#[tokio::test]
async fn each_raw_request_is_read_one_way_and_answered_as_the_rfc_asks() {
    let record: Arc<Mutex<Record>> = Arc::default();
    let own = record.clone();
    let origin = Origin::raw(move |stream| read_to_the_letter(stream, own.clone())).await;
    let gateway = edge(&origin).await;
    let cases = cases();
    let mut names = BTreeSet::new();
    for case in &cases {
        assert!(names.insert(&case.name), "two cases are named {}", case.name);
    }
    assert!(cases.len() >= 309, "{}", cases.len());
    let (mut unsafe_ones, mut others) = (Vec::new(), Vec::new());
    for case in &cases {
        let answer = ask(&gateway, case).await;
        let arrived = std::mem::take(&mut *record.lock().unwrap());
        unsafe_ones.extend(danger(case, &arrived).map(|why| format!("{}: {why}", case.name)));
        others.extend(answer.err().map(|why| format!("{}: {why}", case.name)));
    }
    let late = std::mem::take(&mut *record.lock().unwrap());
    assert!(late.whole.is_empty(), "arrived after its answer: {:?}", late.whole);
    let all = cases.len();
    println!("h1 requests: SAFE {} of {all}, CONFORMS {} of {all}", all - unsafe_ones.len(), all - others.len());
    assert!(unsafe_ones.is_empty() && others.is_empty(), "not safe: {unsafe_ones:#?}\nnot conforming: {others:#?}");
}

/// Sends the case and the next request; whether the answers are those that were expected.
async fn ask(gateway: &Gateway, case: &Case) -> Result<(), String> {
    let mut client = Client::connect(gateway.addr("http")).await;
    // Whoever is refused early may find the connection closed before all is out.
    let _ = client.try_send([&case.raw[..], NEXT.as_bytes()].concat()).await;
    let mut answer = client.try_response(false).await.ok_or("no answer")?;
    if answer.status == 100 {
        answer = client.try_response(false).await.ok_or("no answer after 100")?;
    }
    let closes = match &case.expected {
        Expected::Refused { statuses, then } => {
            let wanted = statuses.contains(&answer.status);
            wanted.then_some(()).ok_or(format!("{} instead of {statuses:?}", answer.status))?;
            *then == Then::End
        }
        Expected::Served { then, .. } => {
            (answer.status == 200).then_some(()).ok_or(format!("{} instead of 200", answer.status))?;
            *then == Then::End
        }
    };
    if !closes {
        let next = client.try_response(false).await.ok_or("no answer to the next request")?;
        return (next.status == 200).then_some(()).ok_or(format!("the next request: {}", next.status));
    }
    match client.try_response(false).await {
        Some(more) => Err(format!("another answer: {}", more.status)),
        None => client.closed(Duration::from_secs(5)).await.then_some(()).ok_or("left open".to_owned()),
    }
}

/// Why what arrived is not what was sent, if so.
fn danger(case: &Case, arrived: &Record) -> Option<String> {
    if let Some(wrong) = arrived.wrong.first() {
        return Some(wrong.clone());
    }
    let found: Vec<(&str, &[u8])> = arrived.whole.iter().map(|(line, body)| (line.as_str(), &body[..])).collect();
    let next = ("GET /next HTTP/1.1", &b""[..]);
    let as_sent = match &case.expected {
        Expected::Refused { then: Then::End, .. } => found.is_empty(),
        Expected::Refused { then: Then::Next, .. } => found == [next],
        Expected::Served { line, body, then: Then::Next } => found == [(line.as_str(), &body[..]), next],
        Expected::Served { line, body, then: Then::End } => found == [(line.as_str(), &body[..])],
    };
    (!as_sent).then(|| format!("arrived: {found:?}"))
}

/// An origin that knows one reading only, and notes whatever has none.
async fn read_to_the_letter(mut stream: TcpStream, record: Arc<Mutex<Record>>) {
    let mut bytes = Vec::new();
    loop {
        match whole_request(&bytes) {
            Ok(Some((line, body, used))) => {
                bytes.drain(..used);
                let is_head = line.starts_with("HEAD ");
                record.lock().unwrap().whole.push((line, body));
                let body = if is_head { "" } else { "ok" };
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{body}");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Ok(None) => match stream.read_buf(&mut bytes).await {
                // What broke off is nobody's request.
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            },
            Err(wrong) => {
                return record.lock().unwrap().wrong.push(format!("{wrong}: {:?}", String::from_utf8_lossy(&bytes)));
            }
        }
    }
}

type Request = (String, Vec<u8>, usize);

/// The first request in `bytes`, its line, its body and its length; `None` as long as more may come.
fn whole_request(bytes: &[u8]) -> Result<Option<Request>, String> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head: Vec<char> = bytes[..end].iter().map(|octet| char::from(*octet)).collect();
    let head: String = head.into_iter().collect();
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default().to_owned();
    let (mut hosts, mut framing) = (0, Vec::new());
    for field in lines {
        let (name, value) = field.split_once(':').ok_or("a field without a colon")?;
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)) {
            return Err(format!("a name that is no token: {name:?}"));
        }
        if value.chars().any(|c| (c.is_ascii_control() && c != '\t') || c == '\u{7f}') {
            return Err(format!("a control in a value: {value:?}"));
        }
        match name.to_ascii_lowercase().as_str() {
            "host" => hosts += 1,
            "content-length" | "transfer-encoding" => {
                framing.push((name.to_ascii_lowercase(), value.trim().to_owned()))
            }
            "keep-alive" | "proxy-connection" | "x-hop" | "http2-settings" => {
                return Err(format!("{name} is of one hop"));
            }
            _ => {}
        }
    }
    if hosts != 1
        || line.split(' ').count() != 3
        || !line.ends_with(" HTTP/1.1")
        || line.contains(|c: char| c.is_ascii_control())
    {
        return Err("not one line with one host".to_owned());
    }
    let rest = &bytes[end + 4..];
    let framing: Vec<(&str, &str)> = framing.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let body = match framing[..] {
        [] => Some((Vec::new(), 0)),
        [("content-length", digits)] if digits.bytes().all(|octet| octet.is_ascii_digit()) => {
            let length = digits.parse().map_err(|_| "a length that is no number")?;
            rest.get(..length).map(|body| (body.to_vec(), length))
        }
        [("transfer-encoding", "chunked")] => chunks(rest)?,
        _ => return Err(format!("framed in no single way: {framing:?}")),
    };
    Ok(body.map(|(body, used)| (line, body, end + 4 + used)))
}

fn chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(length) = bytes[at..].windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let size = String::from_utf8_lossy(&bytes[at..at + length]).into_owned();
        let is_size = !size.is_empty() && size.len() < 16 && size.bytes().all(|octet| octet.is_ascii_hexdigit());
        let size =
            usize::from_str_radix(&size, 16).ok().filter(|_| is_size).ok_or(format!("a chunk of size {size:?}"))?;
        at += length + 2;
        if size == 0 {
            return trailers(&bytes[at..]).map(|end| end.map(|end| (body, at + end)));
        }
        let Some(chunk) = bytes.get(at..at + size + 2) else { return Ok(None) };
        if !chunk.ends_with(b"\r\n") {
            return Err("a chunk that does not end".to_owned());
        }
        body.extend_from_slice(&chunk[..size]);
        at += size + 2;
    }
}

/// Where the trailers end.
fn trailers(bytes: &[u8]) -> Result<Option<usize>, String> {
    let mut at = 0;
    loop {
        let Some(length) = bytes[at..].windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let line = String::from_utf8_lossy(&bytes[at..at + length]).into_owned();
        at += length + 2;
        if line.is_empty() {
            return Ok(Some(at));
        }
        let name =
            line.split_once(':').map(|(name, _)| name.to_ascii_lowercase()).ok_or("a trailer without a colon")?;
        if ["host", "content-length", "transfer-encoding"].contains(&name.as_str()) {
            return Err(format!("a trailer that frames: {line}"));
        }
    }
}

/// Somebody else's corpus: a file with a payload a line, escaped as Python writes octets (`\r\n`, `\x00`). It says nothing of what
/// is right, so only SAFE is judged: what arrives has one reading, and nothing arrives that the client got no answer to.
#[tokio::test]
async fn payloads_of_another_corpus_are_read_one_way() {
    let Some(file) = std::env::var_os("PORTCULLIS_H1_CORPUS") else {
        return eprintln!("NOT CHECKED: PORTCULLIS_H1_CORPUS names no file of payloads");
    };
    let text = std::fs::read_to_string(file).unwrap();
    let record: Arc<Mutex<Record>> = Arc::default();
    let own = record.clone();
    let origin = Origin::raw(move |stream| read_to_the_letter(stream, own.clone())).await;
    let gateway = edge(&origin).await;
    let mut unsafe_ones = Vec::new();
    for line in text.lines() {
        let mut client = Client::connect(gateway.addr("http")).await;
        let _ = client.try_send([unescaped(line), NEXT.into()].concat()).await;
        let mut served = 0;
        while let Ok(Some(answer)) = tokio::time::timeout(Duration::from_secs(1), client.try_response(false)).await {
            served += usize::from(answer.status == 200);
        }
        let arrived = std::mem::take(&mut *record.lock().unwrap());
        if !arrived.wrong.is_empty() || arrived.whole.len() != served {
            unsafe_ones.push(format!("{line}: {served} answers, {:?}, {:?}", arrived.whole, arrived.wrong));
        }
    }
    println!("h1 corpus: SAFE {} of {}", text.lines().count() - unsafe_ones.len(), text.lines().count());
    assert!(unsafe_ones.is_empty(), "{unsafe_ones:#?}");
}

fn unescaped(line: &str) -> Vec<u8> {
    let (mut octets, mut rest) = (Vec::new(), line.chars());
    while let Some(c) = rest.next() {
        match (c, if c == '\\' { rest.next() } else { None }) {
            ('\\', Some('r')) => octets.push(b'\r'),
            ('\\', Some('n')) => octets.push(b'\n'),
            ('\\', Some('t')) => octets.push(b'\t'),
            ('\\', Some('x')) => {
                let digits: String = rest.by_ref().take(2).collect();
                octets.push(u8::from_str_radix(&digits, 16).unwrap());
            }
            (_, Some(other)) => octets.extend(other.to_string().bytes()),
            (plain, None) => octets.extend(plain.to_string().bytes()),
        }
    }
    octets
}

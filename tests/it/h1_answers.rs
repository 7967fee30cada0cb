//! Answers of an origin that no honest one gives, octet by octet. Whatever it says, a client sees one answer to one request:
//! never two, never octets that belong to none, never a 200 made of garbage; and the next request is answered rightly.

use crate::support::{
    client::{Client, Response, h2, h2_get},
    gateway::Gateway,
    origin::{Origin, Seen, find, read_request},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// What a client is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// 502: there was no answer.
    NoAnswer,
    /// Status and body: what of it is an answer.
    Answer(u16, &'static str),
    /// An answer whose end never comes: it may have begun, but is not ended as if it were whole.
    Broken,
    /// The status and the fields of an answer without a body.
    Bodiless(u16),
}

/// What the origin does when it has said all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Goes,
    Stays,
}

struct Case {
    name: &'static str,
    clause: &'static str,
    method: &'static str,
    says: Vec<u8>,
    then: Then,
    told: Told,
}

fn case(name: &'static str, clause: &'static str, says: impl AsRef<[u8]>, told: Told) -> Case {
    Case { name, clause, method: "GET", says: says.as_ref().to_vec(), then: Then::Stays, told }
}

impl Case {
    fn and_goes(self) -> Self {
        Self { then: Then::Goes, ..self }
    }

    fn asked_by_head(self) -> Self {
        Self { method: "HEAD", ..self }
    }
}

use Told::{Answer, Bodiless, Broken, NoAnswer};

/// An answer with these fields and this body.
fn answer(fields: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}")
}

/// What no client may ever see: it stands wherever a case has octets that are no part of an answer.
const SMUGGLED: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled";

fn cases() -> Vec<Case> {
    [
        status_lines(),
        lengths(),
        codings(),
        chunks(),
        fields(),
        sizes(),
        interim(),
        bodiless(),
        cut_short(),
        behind(),
        private(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn status_lines() -> Vec<Case> {
    let line =
        |name, line: &str| case(name, "9112 §4", format!("{line}\r\nContent-Length: 8\r\n\r\nsmuggled"), NoAnswer);
    vec![
        case("garbage", "9112 §4", b"\x16\x03\x01\x02smuggled\r\n\r\n", NoAnswer),
        case("garbage, and the end", "9112 §4", b"smuggled", NoAnswer).and_goes(),
        case("text without a head", "9112 §4", "<html>smuggled</html>\r\n", NoAnswer).and_goes(),
        case("nothing but the end", "9112 §8", "", NoAnswer).and_goes(),
        case("an empty line", "9112 §4", "\r\n\r\nsmuggled", NoAnswer).and_goes(),
        case("fields without a status line", "9112 §4", "Content-Length: 8\r\n\r\nsmuggled", NoAnswer),
        case("an empty line before the status line", "9112 §4", format!("\r\n{SMUGGLED}"), NoAnswer),
        line("a status of four digits", "HTTP/1.1 1000 OK"),
        line("a status of two digits", "HTTP/1.1 99 OK"),
        line("a status with a letter", "HTTP/1.1 2x0 OK"),
        line("a status below 100", "HTTP/1.1 099 OK"),
        line("a status of 600", "HTTP/1.1 600 OK"),
        line("a negative status", "HTTP/1.1 -20 OK"),
        line("a status with a sign", "HTTP/1.1 +20 OK"),
        line("no status", "HTTP/1.1"),
        line("two spaces before the status", "HTTP/1.1  200 OK"),
        line("a tab before the status", "HTTP/1.1\t200 OK"),
        line("a status run into its reason", "HTTP/1.1 200OK"),
        line("HTTP/2.0", "HTTP/2.0 200 OK"),
        line("HTTP/0.9", "HTTP/0.9 200 OK"),
        line("HTTP/1.10", "HTTP/1.10 200 OK"),
        line("another protocol", "ICY 200 OK"),
        line("a name in small letters", "http/1.1 200 OK"),
        line("NUL in the reason", "HTTP/1.1 200 O\0K"),
        line("CR in the reason", "HTTP/1.1 200 O\rK"),
        case("lines that end in LF", "9112 §2.2", "HTTP/1.1 200 OK\nContent-Length: 8\n\nsmuggled", NoAnswer),
        case("no reason", "9112 §4", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", Answer(200, "ok")),
        case("an HTTP/1.0 answer until the end", "9112 §6.3", "HTTP/1.0 200 OK\r\n\r\nold", Answer(200, "old"))
            .and_goes(),
    ]
}

fn lengths() -> Vec<Case> {
    let length = |name, value: &str| {
        case(name, "9110 §8.6", answer(&format!("Content-Length: {value}\r\n"), "smuggled"), NoAnswer)
    };
    vec![
        length("a list of two lengths", "3, 7"),
        length("a list of one length twice", "8, 8"),
        length("a negative length", "-8"),
        length("a length with a sign", "+8"),
        length("a length in hexadecimal", "0x8"),
        length("a length with a space in it", "8 8"),
        length("a length that is a word", "eight"),
        length("an empty length", ""),
        length("a length beyond 64 bits", "99999999999999999999"),
        length("a length with a decimal point", "8.0"),
        case(
            "two lengths that differ",
            "9112 §6.3",
            answer("Content-Length: 3\r\nContent-Length: 8\r\n", "smuggled"),
            NoAnswer,
        ),
        case(
            "one length twice",
            "9112 §6.3",
            answer("Content-Length: 8\r\nContent-Length: 8\r\n", "smuggled"),
            NoAnswer,
        ),
    ]
}

fn codings() -> Vec<Case> {
    let coded = |name, fields: &str| case(name, "9112 §6.1", answer(fields, "8\r\nsmuggled\r\n0\r\n\r\n"), NoAnswer);
    vec![
        coded("a length beside chunks", "Content-Length: 8\r\nTransfer-Encoding: chunked\r\n"),
        coded("chunks beside a length", "Transfer-Encoding: chunked\r\nContent-Length: 23\r\n"),
        coded("chunks that are not last", "Transfer-Encoding: chunked, gzip\r\n"),
        coded("chunks twice in a list", "Transfer-Encoding: chunked, chunked\r\n"),
        coded("chunks twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        coded("a coding that nobody knows", "Transfer-Encoding: xchunked\r\n"),
        coded("identity", "Transfer-Encoding: identity\r\n"),
        coded("an empty list member", "Transfer-Encoding: ,chunked\r\n"),
        coded("a vertical tab before chunked", "Transfer-Encoding: \x0bchunked\r\n"),
        case(
            "chunks in HTTP/1.0",
            "9112 §6.1",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nsmuggled\r\n0\r\n\r\n",
            NoAnswer,
        ),
    ]
}

fn chunks() -> Vec<Case> {
    let chunked =
        |name, clause, body: &str, told| case(name, clause, answer("Transfer-Encoding: chunked\r\n", body), told);
    let broken = |name, body: &str| chunked(name, "9112 §7.1", body, Broken);
    let long = format!("2;{}\r\nok\r\n0\r\n\r\n", "e".repeat(300_000));
    vec![
        broken("a chunk's size with 0x", "0x8\r\nsmuggled\r\n0\r\n\r\n"),
        broken("a negative chunk", "-8\r\nsmuggled\r\n0\r\n\r\n"),
        broken("an empty chunk's size", "\r\nsmuggled\r\n0\r\n\r\n"),
        broken("a chunk's size beyond 64 bits", "fffffffffffffffff\r\nsmuggled"),
        broken("a chunk's size that ends in LF", "8\nsmuggled\n0\n\n"),
        broken("a space before a chunk's size", " 8\r\nsmuggled\r\n0\r\n\r\n"),
        broken("a chunk longer than its size", "2\r\nok!\r\n0\r\n\r\n"),
        chunked("a chunk's extension of 300 kB", "9112 §7.1.1", &long, Broken),
        chunked("a chunk's extension with a bare CR", "9112 §7.1.1", "2;a\rb\r\nok\r\n0\r\n\r\n", Broken),
        chunked("a chunk's extension", "9112 §7.1.1", "2;a=\"b\"\r\nok\r\n0\r\n\r\n", Answer(200, "ok")),
        chunked("trailers", "9112 §7.1.2", "2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n", Answer(200, "ok")),
        chunked("trailers without a colon", "9112 §7.1.2", "2\r\nok\r\n0\r\nsmuggled\r\n\r\n", Broken),
        chunked("trailers that frame", "9110 §6.5.1", "2\r\nok\r\n0\r\nContent-Length: 8\r\n\r\n", Broken),
        chunked(
            "trailers of 300 kB",
            "9112 §7.1.2",
            &format!("2\r\nok\r\n0\r\nx: {}\r\n\r\n", "t".repeat(300_000)),
            Broken,
        ),
    ]
}

fn fields() -> Vec<Case> {
    let field = |name, clause, line: &str| {
        case(name, clause, answer(&format!("{line}\r\nContent-Length: 8\r\n"), "smuggled"), NoAnswer)
    };
    vec![
        field("NUL in a value", "9110 §5.5", "X: a\0b"),
        field("CR in a value", "9110 §5.5", "X: a\rb"),
        field("LF in a value", "9112 §2.2", "X: a\nb"),
        field("a control octet in a value", "9110 §5.5", "X: a\x01b"),
        field("NUL in a name", "9112 §5", "X\0: a"),
        field("a space before the colon", "9112 §5.1", "X : a"),
        field("a space before the length's colon", "9112 §5.1", "Content-Length : 3"),
        field("a folded line", "9112 §5.2", "X: a\r\n b"),
        field("a length in a folded line", "9112 §5.2", "X: a\r\n\tContent-Length: 3"),
        field("a first line that begins with a space", "9112 §2.2", " X: a"),
        field("no colon", "9112 §5", "smuggled"),
        field("an empty name", "9112 §5", ": a"),
        field("a name with a slash", "9110 §5.1", "a/b: c"),
    ]
}

fn sizes() -> Vec<Case> {
    let long = format!("X: {}\r\n", "v".repeat(100_000));
    let many = "X: v\r\n".repeat(1_000);
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "X: v\r\n".repeat(200_000));
    vec![
        case("a field of 100 kB", "9112 §5", answer(&format!("{long}Content-Length: 8\r\n"), "smuggled"), NoAnswer),
        case("a thousand fields", "9112 §5", answer(&format!("{many}Content-Length: 8\r\n"), "smuggled"), NoAnswer),
        case("a head without end", "9112 §5", endless, NoAnswer),
        case("a status line without end", "9112 §4", format!("HTTP/1.1 200 {}", "K".repeat(200_000)), NoAnswer),
    ]
}

fn interim() -> Vec<Case> {
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let fine = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    vec![
        case(
            "100 that nobody asked for",
            "9110 §15.2.1",
            format!("HTTP/1.1 100 Continue\r\n\r\n{fine}"),
            Answer(200, "ok"),
        ),
        case("hints before the answer", "8297 §2", format!("{early}{early}{fine}"), Answer(200, "ok")),
        case(
            "102 with a length",
            "9110 §8.6",
            format!("HTTP/1.1 102 Processing\r\nContent-Length: 8\r\n\r\n{fine}"),
            Answer(200, "ok"),
        ),
        case("hints and then the end", "9110 §15.2", early, NoAnswer).and_goes(),
        case("hints and then garbage", "9110 §15.2", format!("{early}smuggled\r\n\r\n"), NoAnswer),
        case("hints without end", "9110 §15.2", early.repeat(20_000), NoAnswer),
        case(
            "a switch that nobody asked for",
            "9110 §15.2.2",
            format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n{SMUGGLED}"),
            NoAnswer,
        ),
    ]
}

fn bodiless() -> Vec<Case> {
    vec![
        case(
            "204 with a length and a body",
            "9112 §6.3",
            "HTTP/1.1 204 No Content\r\nContent-Length: 8\r\n\r\nsmuggled",
            Bodiless(204),
        ),
        case(
            "204 with chunks",
            "9112 §6.3",
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nsmuggled\r\n0\r\n\r\n",
            Bodiless(204),
        ),
        case(
            "204 with another answer behind it",
            "9112 §6.3",
            format!("HTTP/1.1 204 No Content\r\n\r\n{SMUGGLED}"),
            Bodiless(204),
        ),
        case(
            "304 with a body",
            "9112 §6.3",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 8\r\n\r\nsmuggled",
            Bodiless(304),
        ),
        case("HEAD with a body", "9112 §6.3", answer("Content-Length: 8\r\n", "smuggled"), Bodiless(200))
            .asked_by_head(),
        case(
            "HEAD with chunks",
            "9112 §6.3",
            answer("Transfer-Encoding: chunked\r\n", "8\r\nsmuggled\r\n0\r\n\r\n"),
            Bodiless(200),
        )
        .asked_by_head(),
        case(
            "HEAD with another answer behind it",
            "9112 §9.2",
            format!("{}{SMUGGLED}", answer("Content-Length: 8\r\n", "")),
            Bodiless(200),
        )
        .asked_by_head(),
    ]
}

fn cut_short() -> Vec<Case> {
    let large = "x".repeat(100_000);
    vec![
        case("a head cut short", "9112 §8", "HTTP/1.1 200 OK\r\nContent-Le", NoAnswer).and_goes(),
        case("a small body cut short", "9112 §8", answer("Content-Length: 8\r\n", "cut"), NoAnswer).and_goes(),
        case("a large body cut short", "9112 §8", answer("Content-Length: 100001\r\n", &large), Broken).and_goes(),
        case("chunks cut short in a chunk", "9112 §8", answer("Transfer-Encoding: chunked\r\n", "8\r\ncut"), Broken)
            .and_goes(),
        case(
            "chunks cut short between two",
            "9112 §8",
            answer("Transfer-Encoding: chunked\r\n", "3\r\ncut\r\n"),
            Broken,
        )
        .and_goes(),
        case(
            "chunks cut short before the last line",
            "9112 §8",
            answer("Transfer-Encoding: chunked\r\n", "3\r\ncut\r\n0\r\n"),
            Broken,
        )
        .and_goes(),
    ]
}

/// A whole answer, and then what nobody asked for.
fn behind() -> Vec<Case> {
    let fine = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let empty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let chunked = answer("Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n");
    vec![
        case("another answer behind a body", "9112 §9.2", format!("{fine}{SMUGGLED}"), NoAnswer),
        case("text behind a body", "9112 §6.3", format!("{fine}smuggled"), NoAnswer),
        case("another answer behind an empty one", "9112 §9.2", format!("{empty}{SMUGGLED}"), Answer(200, "")),
        case("another answer behind the last chunk", "9112 §9.2", format!("{chunked}{SMUGGLED}"), Broken),
        case("an empty line behind a body", "9112 §2.2", format!("{fine}\r\n"), NoAnswer),
    ]
}

/// Fields that are between the origin and us.
fn private() -> Vec<Case> {
    let fields = "Connection: X-Smuggled, keep-alive\r\nX-Smuggled: smuggled\r\nKeep-Alive: smuggled\r\nProxy-Connection: smuggled\r\nContent-Length: 2\r\n";
    vec![
        case("fields that Connection names", "9110 §7.6.1", answer(fields, "ok"), Answer(200, "ok")),
        case(
            "an offer of another protocol",
            "9110 §7.8",
            answer("Connection: Upgrade\r\nUpgrade: smuggled\r\nContent-Length: 2\r\n", "ok"),
            Answer(200, "ok"),
        ),
    ]
}

/// `/N` is answered as the case says, everything else as it should be.
async fn origin(cases: &Arc<Vec<Case>>) -> Origin {
    let cases = cases.clone();
    Origin::raw(move |mut stream| {
        let cases = cases.clone();
        async move {
            let mut buffer = Vec::new();
            while let Some(seen) = read_request(&mut stream, &mut buffer).await {
                let case = number(&seen).and_then(|number| cases.get(number));
                let right = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\nright {}",
                    6 + seen.path().len(),
                    seen.path()
                );
                let says = case.map_or(right.as_bytes(), |case| &case.says);
                if stream.write_all(says).await.is_err() || case.is_some_and(|case| case.then == Then::Goes) {
                    return;
                }
            }
        }
    })
    .await
}

fn number(seen: &Seen) -> Option<usize> {
    seen.path().strip_prefix('/')?.parse().ok()
}

/// All octets that a client is given for one request that ends its connection.
async fn all_octets(gateway: &Gateway, method: &str, path: &str, connection: &str) -> Result<Vec<u8>, String> {
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\n\r\n")).await;
    let mut all = Vec::new();
    let reading = client.stream.read_to_end(&mut all);
    match tokio::time::timeout(Duration::from_secs(15), reading).await {
        Ok(_) => Ok(all),
        Err(_) => Err(format!("no end, but {:.200}", String::from_utf8_lossy(&all))),
    }
}

/// What the octets are, read as strictly as by a client that looks for one answer only.
fn as_told(mut octets: &[u8]) -> Result<(u16, Vec<u8>, bool), String> {
    // Interim answers may be passed on (RFC 9110 §15.2).
    while octets.starts_with(b"HTTP/1.1 1")
        && let Some(end) = find(octets, b"\r\n\r\n")
    {
        octets = &octets[end + 4..];
    }
    let whole = String::from_utf8_lossy(octets).into_owned();
    if whole.matches("HTTP/1.").count() > 1 {
        return Err(format!("two answers: {whole:.200}"));
    }
    if whole.to_ascii_lowercase().contains("smuggled") {
        return Err(format!("octets of no answer: {whole:.400}"));
    }
    let head = find(octets, b"\r\n\r\n").ok_or_else(|| format!("no head: {whole:.200}"))?;
    let (head, body) = (whole[..head].to_ascii_lowercase(), &octets[head + 4..]);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no status")?;
    let field =
        |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned));
    if field("transfer-encoding").is_some() {
        let (body, ended) = unchunk(body);
        return Ok((status, body, ended));
    }
    let length = field("content-length").map(|length| length.parse::<usize>().unwrap());
    Ok((status, body.to_vec(), length.is_none_or(|length| length == body.len())))
}

fn unchunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(line) = find(rest, b"\r\n") {
        let Ok(size) = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16) else { break };
        if size == 0 {
            return (body, find(&rest[line..], b"\r\n\r\n").is_some());
        }
        let Some(chunk) = rest.get(line + 2..line + 2 + size) else { break };
        body.extend(chunk);
        rest = rest.get(line + 4 + size..).unwrap_or_default();
    }
    (body, false)
}

/// The final response, behind those that may be passed on before it.
async fn last_word(client: &mut Client, to_head: bool) -> Option<Response> {
    loop {
        let response = client.try_response(to_head).await?;
        if response.status >= 200 {
            return Some(response);
        }
    }
}

/// Carried by the lane, and by the engine, which takes what Connection names a field in.
async fn by_either_way(gateway: &Gateway, number: usize, case: &Case) -> Result<(), String> {
    alone(gateway, number, case, "close").await?;
    alone(gateway, number, case, "close, x-nothing").await.map_err(|error| format!("by the engine {error}"))?;
    followed(gateway, number, case).await?;
    over_h2(gateway, number, case).await
}

async fn alone(gateway: &Gateway, number: usize, case: &Case, connection: &str) -> Result<(), String> {
    let octets = all_octets(gateway, case.method, &format!("/{number}"), connection).await?;
    let fits = match case.told {
        // Nothing of the head may have been sent when its body failed.
        Broken if octets.is_empty() => true,
        told => {
            let (status, body, ended) = as_told(&octets)?;
            match told {
                NoAnswer => status == 502 && ended,
                Answer(wanted, text) => status == wanted && body == text.as_bytes() && ended,
                Bodiless(wanted) => status == wanted && body.is_empty(),
                Broken => status == 502 || !ended,
            }
        }
    };
    if !fits {
        return Err(format!("not {:?} but {:.300}", case.told, String::from_utf8_lossy(&octets)));
    }
    Ok(())
}

/// The same on a connection that stays, and then three requests that the same endpoint answers.
async fn followed(gateway: &Gateway, number: usize, case: &Case) -> Result<(), String> {
    let mut client = Client::connect(gateway.addr("http")).await;
    client.send(format!("{} /{number} HTTP/1.1\r\nHost: a\r\n\r\n", case.method)).await;
    let first = last_word(&mut client, case.method == "HEAD").await;
    for turn in 0..3 {
        let path = format!("/{number}/{turn}");
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let closes = first.as_ref().is_none_or(|first| first.header("connection") == Some("close"));
        if turn == 0 && (closes || client.try_send(&request).await.is_err()) || turn > 0 {
            client = Client::connect(gateway.addr("http")).await;
            client.send(&request).await;
        }
        let mut next = last_word(&mut client, false).await;
        if next.is_none() && turn == 0 {
            client = Client::connect(gateway.addr("http")).await;
            client.send(&request).await;
            next = last_word(&mut client, false).await;
        }
        let next = next.ok_or_else(|| format!("no answer to the next request {turn}"))?;
        if next.status != 200 || next.text() != format!("right {path}") {
            return Err(format!("the next request {turn} is answered {} {:.200}", next.head, next.text()));
        }
    }
    Ok(())
}

/// A client of h2 is told the same.
async fn over_h2(gateway: &Gateway, number: usize, case: &Case) -> Result<(), String> {
    if case.method == "HEAD" {
        return Ok(());
    }
    let sender = h2(TcpStream::connect(gateway.addr("http")).await.unwrap()).await;
    let outcome = h2_get(&sender, &format!("http://a/{number}")).await;
    let fits = match (&outcome, case.told) {
        (Ok((parts, _)), NoAnswer) => parts.status == 502,
        (Ok((parts, body)), Answer(status, text)) => parts.status == status && body == text.as_bytes(),
        (Ok((parts, body)), Bodiless(status)) => parts.status == status && body.is_empty(),
        (Ok((parts, _)), Broken) => parts.status == 502,
        (Err(error), told) => told == Broken && error.is_reset(),
    };
    let smuggled = matches!(&outcome, Ok((parts, body))
        if find(body, b"smuggled").is_some() || parts.headers.values().any(|value| value == "smuggled"));
    if !fits || smuggled {
        return Err(format!("over h2 not {:?} but {outcome:.300?}", case.told));
    }
    let (parts, body) = h2_get(&sender, &format!("http://a/{number}/h2")).await.map_err(|error| error.to_string())?;
    if parts.status != 200 || body != format!("right /{number}/h2").as_bytes() {
        return Err(format!("the next request over h2 is answered {parts:?}"));
    }
    Ok(())
}

#[tokio::test]
async fn whatever_an_origin_says_a_client_sees_one_answer_to_one_request() {
    let cases = Arc::new(cases());
    let all = cases.len();
    assert!(all >= 30, "{all} cases");
    let origin = origin(&cases).await;
    // An upstream for each, so that no case meets another's connections.
    let upstreams = (0..all).map(|number| {
        format!(
            "[upstream.u{number}]\nendpoints = [\"{}\"]\noutlier.max_ejected = \"0%\"\n\
             [route.app.rule.r{number}]\npath = \"/{number}\"\nupstream = \"u{number}\"\n",
            origin.addr
        )
    });
    let rest = "[route.app]\nupstream = \"u0\"\n[listener.http]\naddress = \"127.0.0.1:0\"\n";
    let gateway = Arc::new(Gateway::start(&format!("{rest}{}", upstreams.collect::<String>())).await);
    let mut running = JoinSet::new();
    for number in 0..all {
        let (gateway, cases) = (gateway.clone(), cases.clone());
        running.spawn(async move {
            let case = &cases[number];
            let outcome = by_either_way(&gateway, number, case).await;
            outcome.err().map(|instead| format!("{} [{}]: {instead}", case.name, case.clause))
        });
    }
    let failed: Vec<String> = running.join_all().await.into_iter().flatten().collect();
    println!("answers of origins: {} of {all}", all - failed.len());
    assert!(failed.is_empty(), "{} of {all}; otherwise went:\n{}", all - failed.len(), failed.join("\n"));
}

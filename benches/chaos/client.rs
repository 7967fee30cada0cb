//! The clients: a request every so often, whatever became of those before, and what each of them saw.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

/// Number of a request, from 0; every fifth is a POST.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id(pub(crate) usize);

/// How a request ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Good,
    Status(u16),
    /// Octets without a status line.
    NotHttp,
    /// The connection ended within the answer, or before it.
    Cut,
    /// A whole 200 that is not what the origin sends.
    WrongBody,
    Timeout,
    NotConnected,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) id: Id,
    pub(crate) began: Instant,
    pub(crate) took: Duration,
    pub(crate) verdict: Verdict,
}

/// When each request was sent.
#[derive(Debug, Default)]
pub(crate) struct Sent(Mutex<Vec<Instant>>);

/// A client gives up after this long.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);
const POST_EVERY: usize = 5;
const ANSWER_MAX: usize = 64 * 1024;

impl Id {
    pub(crate) fn is_post(self) -> bool {
        self.0.is_multiple_of(POST_EVERY)
    }
}

impl Sent {
    pub(crate) fn when(&self, id: Id) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id.0).copied()
    }

    fn next(&self) -> Id {
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sent.push(Instant::now());
        Id(sent.len() - 1)
    }
}

/// What a well origin answers: a thousand octets that no other request has.
pub(crate) fn body_for(id: Id) -> String {
    format!("{:020}", id.0).repeat(50)
}

pub(crate) fn sent_body(id: Id) -> String {
    format!("{:010}", id.0).repeat(20)
}

/// The value of a field in a head.
pub(crate) fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// Asks `rate` times a second until told to stop; gives all outcomes when the last one is known.
pub(crate) async fn drive(
    target: SocketAddr,
    rate: u32,
    sent: Arc<Sent>,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    mut stop: watch::Receiver<bool>,
) {
    let idle: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    let mut requests = JoinSet::new();
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        let (id, idle, outcomes) = (sent.next(), idle.clone(), outcomes.clone());
        requests.spawn(async move {
            let began = Instant::now();
            let verdict = timeout(TIMEOUT, ask(target, id, &idle)).await.unwrap_or(Verdict::Timeout);
            let outcome = Outcome { id, began, took: began.elapsed(), verdict };
            outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
        });
        while requests.try_join_next().is_some() {}
    }
    while requests.join_next().await.is_some() {}
}

async fn ask(target: SocketAddr, id: Id, idle: &Mutex<Vec<TcpStream>>) -> Verdict {
    let kept = idle.lock().unwrap_or_else(PoisonError::into_inner).pop().filter(is_open);
    let stream = match kept {
        Some(stream) => stream,
        None => match TcpStream::connect(target).await {
            Ok(stream) => stream,
            Err(_) => return Verdict::NotConnected,
        },
    };
    match exchange(stream, id).await {
        Ok((verdict, kept)) => {
            idle.lock().unwrap_or_else(PoisonError::into_inner).extend(kept);
            verdict
        }
        Err(_) => Verdict::Cut,
    }
}

/// A proxy may close a connection that rests; that is no failure of a request not yet sent.
fn is_open(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0; 1]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

async fn exchange(mut stream: TcpStream, id: Id) -> io::Result<(Verdict, Option<TcpStream>)> {
    let path = format!("/{}", id.0);
    let request = match id.is_post() {
        false => format!("GET {path} HTTP/1.1\r\nHost: chaos\r\n\r\n"),
        true => {
            let body = sent_body(id);
            format!("POST {path} HTTP/1.1\r\nHost: chaos\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        }
    };
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let end = loop {
        if let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if answer.len() > ANSWER_MAX || stream.read_buf(&mut answer).await? == 0 {
            return Ok((Verdict::Cut, None));
        }
    };
    let head = String::from_utf8_lossy(answer.get(..end).unwrap_or_default()).into_owned();
    let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|status| status.parse().ok());
    let Some(status) = status else { return Ok((Verdict::NotHttp, None)) };
    if status != 200 {
        return Ok((Verdict::Status(status), None));
    }
    let Some(length) = field(&head, "content-length").and_then(|value| value.parse::<usize>().ok()) else {
        return Ok((Verdict::WrongBody, None));
    };
    let total = end + 4 + length.min(ANSWER_MAX);
    while answer.len() < total {
        if stream.read_buf(&mut answer).await? == 0 {
            return Ok((Verdict::Cut, None));
        }
    }
    if answer.get(end + 4..) != Some(body_for(id).as_bytes()) {
        return Ok((Verdict::WrongBody, None));
    }
    let closes = field(&head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok((Verdict::Good, (!closes).then_some(stream)))
}

//! A span for each exchange that is sampled, sent to a collector by OTLP over HTTP in JSON
//! (https://opentelemetry.io/docs/specs/otlp/#otlphttp).
//!
//! The data path only puts a span into a bounded queue, and drops it when that is full; one thread encodes and sends. Bodies,
//! cookies and header fields are in no span. Whose trace it is, is the policy's to say.

use portcullis_names::Percent;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    fmt,
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant, SystemTime},
};

/// `[telemetry] tracing = { … }`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TracingSpec {
    /// The collector: `"http://127.0.0.1:4318"`. Without a path, `/v1/traces` is meant. An agent on this machine takes spans in
    /// the clear, and knows the way on.
    pub otlp: String,
    /// Share of the traces begun here that are sampled (default 1%). Who sends a trace has decided already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<Percent>,
}

/// Where spans go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    /// `host:port`.
    authority: String,
    path: String,
}

/// Why a text is no collector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no collector like \"http://127.0.0.1:4318\"")]
pub struct NotACollector(String);

/// One hop of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub trace: u128,
    pub span: u64,
    pub parent: Option<u64>,
    pub name: String,
    pub began: SystemTime,
    pub took: Duration,
    /// Whether it went wrong, and with which reason of ours.
    pub failed: Option<&'static str>,
    /// By the names of the semantic conventions where they have one.
    pub text: Vec<(&'static str, String)>,
    pub numbers: Vec<(&'static str, i64)>,
}

/// Samples and sends. Cheap to share; its thread begins with the first span and ends with the last handle.
#[derive(Debug)]
pub struct Tracer {
    collector: Collector,
    sample: Percent,
    /// Of the resource.
    service: String,
    queue: OnceLock<Option<Mutex<SyncSender<Span>>>>,
    counts: Arc<Counts>,
}

/// What became of spans.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    dropped: AtomicU64,
}

const SAMPLE: Percent = Percent::from_whole(1);
/// Spans of 1 to 2 KiB each.
const QUEUE: usize = 4_096;
const BATCH: usize = 256;
/// A batch that is not full is sent after this.
const LINGER: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(3);
const ANSWER_MAX_BYTES: u64 = 64 << 10;
const TEXT_MAX_BYTES: usize = 1_024;

impl Collector {
    pub fn parse(text: &str) -> Result<Self, NotACollector> {
        let wrong = || NotACollector(text.chars().take(80).collect());
        let rest = text.strip_prefix("http://").ok_or_else(wrong)?;
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let plain = text.len() <= 2_048 && text.bytes().all(|b| b.is_ascii_graphic());
        let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
        if !plain || host.is_empty() || host.contains('@') || port.parse::<u16>().ok().is_none_or(|port| port == 0) {
            return Err(wrong());
        }
        let path = if path.len() <= 1 { "/v1/traces" } else { path };
        Ok(Self { authority: authority.to_owned(), path: path.to_owned() })
    }
}

impl Tracer {
    pub fn new(spec: &TracingSpec, service: &str) -> Result<Self, NotACollector> {
        Ok(Self {
            collector: Collector::parse(&spec.otlp)?,
            sample: spec.sample.unwrap_or(SAMPLE),
            service: service.to_owned(),
            queue: OnceLock::new(),
            counts: Arc::default(),
        })
    }

    /// Whether `other` does the same: then it is kept over a reload, with its queue.
    pub fn is_like(&self, other: &Self) -> bool {
        self.collector == other.collector && self.sample == other.sample && self.service == other.service
    }

    /// Whether a trace that begins here is sampled.
    pub fn samples(&self, draw: u64) -> bool {
        self.sample.takes(draw)
    }

    /// Never waits: a span that has no place is dropped.
    pub fn record(&self, span: Span) {
        let queue = self.queue.get_or_init(|| {
            let (queue, spans) = sync_channel(QUEUE);
            let (collector, service, counts) = (self.collector.clone(), self.service.clone(), self.counts.clone());
            let thread = std::thread::Builder::new().name("spans".to_owned());
            thread.spawn(move || send_all(&spans, &collector, &service, &counts)).ok()?;
            Some(Mutex::new(queue))
        });
        let sent = queue.as_ref().is_some_and(|queue| {
            let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.try_send(span).is_ok()
        });
        if !sent {
            self.counts.dropped.fetch_add(1, Relaxed);
        }
    }

    /// (sent, dropped).
    pub fn counts(&self) -> (u64, u64) {
        (self.counts.sent.load(Relaxed), self.counts.dropped.load(Relaxed))
    }
}

fn send_all(spans: &Receiver<Span>, collector: &Collector, service: &str, counts: &Counts) {
    let mut trouble = false;
    while let Ok(first) = spans.recv() {
        let mut batch = vec![first];
        let until = Instant::now() + LINGER;
        while batch.len() < BATCH {
            match spans.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(span) => batch.push(span),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        let body = encode(&batch, service).to_string();
        let count = u64::try_from(batch.len()).unwrap_or_default();
        match post(collector, &body) {
            Ok(()) => {
                counts.sent.fetch_add(count, Relaxed);
                trouble = false;
            }
            Err(error) => {
                counts.dropped.fetch_add(count, Relaxed);
                // Once when it begins: a collector that is away is no reason to fill the log.
                if !std::mem::replace(&mut trouble, true) {
                    tracing::warn!(%error, collector = collector.authority, "spans cannot be sent and are dropped");
                }
            }
        }
    }
}

/// One connection for each batch: two a second at most until queues fill.
fn post(collector: &Collector, body: &str) -> std::io::Result<()> {
    let mut last = std::io::Error::other("the name has no address");
    for address in collector.authority.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => return exchange(stream, collector, body),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn exchange(mut stream: TcpStream, collector: &Collector, body: &str) -> std::io::Result<()> {
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        collector.path,
        collector.authority,
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX_BYTES).read_to_end(&mut answer)?;
    // OTLP/HTTP §Response: only 200 is success.
    match answer.get(9..12) {
        Some(b"200") => Ok(()),
        Some(status) => Err(std::io::Error::other(format!("status {}", String::from_utf8_lossy(status)))),
        None => Err(std::io::Error::other("no HTTP answer")),
    }
}

/// OTLP's JSON: ids in hexadecimal, 64-bit numbers as text.
fn encode(spans: &[Span], service: &str) -> Value {
    let nanos = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos().to_string();
    let spans = spans.iter().map(|span| {
        let text = span.text.iter().map(|(key, value)| json!({ "key": key, "value": { "stringValue": clip(value) } }));
        let numbers =
            span.numbers.iter().map(|(key, value)| json!({ "key": key, "value": { "intValue": value.to_string() } }));
        json!({
            "traceId": format!("{:032x}", span.trace),
            "spanId": format!("{:016x}", span.span),
            "parentSpanId": span.parent.map(|parent| format!("{parent:016x}")).unwrap_or_default(),
            "name": clip(&span.name),
            // SERVER.
            "kind": 2,
            "startTimeUnixNano": nanos(span.began),
            "endTimeUnixNano": nanos(span.began + span.took),
            "attributes": text.chain(numbers).collect::<Vec<_>>(),
            "status": match span.failed {
                Some(why) => json!({ "code": 2, "message": why }),
                None => json!({}),
            },
        })
    });
    let spans: Vec<_> = spans.collect();
    json!({ "resourceSpans": [{
        "resource": { "attributes": [{ "key": "service.name", "value": { "stringValue": service } }] },
        "scopeSpans": [{ "scope": { "name": "portcullis" }, "spans": spans }],
    }] })
}

fn clip(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_MAX_BYTES)).unwrap_or_default()
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn span(number: u64) -> Span {
        Span {
            trace: 0xabc,
            span: number,
            parent: Some(7),
            name: "GET shop".to_owned(),
            began: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
            took: Duration::from_millis(5),
            failed: Some("no_route"),
            text: vec![("url.path", "x".repeat(5_000))],
            numbers: vec![("http.response.status_code", 404)],
        }
    }

    fn tracer(otlp: String) -> Tracer {
        Tracer::new(&TracingSpec { otlp, sample: None }, "cart").unwrap()
    }

    #[test]
    fn a_batch_is_what_a_collector_reads() {
        let batch = encode(&[span(1)], "cart");
        assert_eq!(batch["resourceSpans"][0]["resource"]["attributes"][0]["value"]["stringValue"], "cart");
        let span = &batch["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        for (key, value) in [
            ("traceId", "00000000000000000000000000000abc"),
            ("spanId", "0000000000000001"),
            ("parentSpanId", "0000000000000007"),
            ("startTimeUnixNano", "1000000000"),
            ("endTimeUnixNano", "1005000000"),
        ] {
            assert_eq!(span[key], value, "{key}");
        }
        assert_eq!(span["attributes"][0]["value"]["stringValue"].as_str().unwrap().len(), TEXT_MAX_BYTES);
        assert_eq!(span["attributes"][1]["value"]["intValue"], "404");
        assert_eq!(span["status"]["message"], "no_route");
    }

    #[test]
    fn a_collector_that_takes_nothing_makes_nobody_wait() {
        // It listens and never accepts what is sent.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let tracer = tracer(format!("http://{}", silent.local_addr().unwrap()));
        let began = Instant::now();
        let many = QUEUE + 2 * BATCH;
        (0..many).for_each(|number| tracer.record(span(number as u64)));
        assert!(began.elapsed() < TIMEOUT, "{:?}", began.elapsed());
        let (sent, dropped) = tracer.counts();
        assert!(sent == 0 && dropped > 0, "{sent} {dropped}");
    }

    #[test]
    fn a_collector_is_a_clear_url_with_a_port() {
        for (text, read) in [
            ("http://127.0.0.1:4318", Some("http://127.0.0.1:4318/v1/traces")),
            ("http://collector:4318/", Some("http://collector:4318/v1/traces")),
            ("http://[::1]:4318/x", Some("http://[::1]:4318/x")),
            ("https://collector:4318", None),
            ("http://collector", None),
            ("http://:4318", None),
            ("http://u@c:4318", None),
            ("http://c:0", None),
            ("http://c:1/a b", None),
            ("c:1", None),
        ] {
            assert_eq!(Collector::parse(text).ok().map(|url| url.to_string()).as_deref(), read, "{text}");
        }
    }
}

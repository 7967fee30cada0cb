//! One line a request, written by one thread that the data path never waits for.

use crate::{AccessLogSpec, AccessLogTarget, LogFormat, metrics::Metrics};
use portcullis_config::{Context, Path, nearest};
use portcullis_names::Percent;
use std::{
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    time::SystemTime,
};
use time::OffsetDateTime;

/// Everything known of one exchange when it ended.
#[derive(Debug, Default)]
pub struct Record<'r> {
    pub request_id: &'r str,
    pub trace_id: Option<u128>,
    pub listener: &'r str,
    pub client: Option<std::net::IpAddr>,
    pub peer: Option<std::net::SocketAddr>,
    pub protocol: &'r str,
    pub tls_version: Option<&'r str>,
    pub tls_cipher: Option<&'r str>,
    pub sni: Option<&'r str>,
    pub identity: Option<&'r str>,
    /// Who asks, once that was found out: consumer, subject of the token, or name in the certificate that a rule asks for.
    pub subject: Option<&'r str>,
    pub method: &'r str,
    pub host: &'r str,
    pub path: &'r str,
    pub query: Option<&'r str>,
    pub status: u16,
    pub route: Option<&'r str>,
    pub upstream: Option<&'r str>,
    /// Egress: the rule of `[access]` that decided.
    pub rule: Option<&'r str>,
    /// Egress: the `[destination]`. Of a sidecar: who is called.
    pub destination: Option<&'r str>,
    /// Of a sidecar: who calls.
    pub source: Option<&'r str>,
    /// Of a sidecar: `mtls`, `app_tls` or `plain`.
    pub security: Option<&'r str>,
    /// Of a sidecar: what `[access]` said.
    pub verdict: Option<&'r str>,
    pub endpoint: Option<String>,
    pub attempts: u32,
    /// Why it failed: a closed set.
    pub reason: Option<&'r str>,
    /// Who ended it.
    pub ended_by: Option<&'r str>,
    /// In which stage.
    pub stage: Option<&'r str>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration_us: u64,
    pub upstream_us: Option<u64>,
    pub user_agent: Option<&'r [u8]>,
    pub referer: Option<&'r [u8]>,
}

const FIELDS: [&str; 35] = [
    "time",
    "request_id",
    "trace_id",
    "listener",
    "client",
    "peer",
    "protocol",
    "tls_version",
    "tls_cipher",
    "sni",
    "identity",
    "subject",
    "method",
    "host",
    "path",
    "query",
    "status",
    "route",
    "upstream",
    "rule",
    "destination",
    "source",
    "security",
    "verdict",
    "endpoint",
    "attempts",
    "reason",
    "ended_by",
    "stage",
    "bytes_in",
    "bytes_out",
    "duration_ms",
    "upstream_ms",
    "user_agent",
    "referer",
];

/// How records are written; part of a snapshot.
#[derive(Debug, Clone)]
pub struct LogPlan {
    pub target: AccessLogTarget,
    format: LogFormat,
    sample: Percent,
    /// A bit per field of [`FIELDS`].
    fields: u64,
    mask: Vec<String>,
}

/// The queue to the writer; clones share it.
#[derive(Debug, Clone)]
pub struct AccessLog {
    queue: Sender<Job>,
    /// Octets of the lines in the queue.
    waiting: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

enum Job {
    Line(Vec<u8>),
    Open(AccessLogTarget),
    Reopen,
    Flush(SyncSender<()>),
}

/// Octets that may wait for the writer: seconds of a busy core. The queue grows with its lines and shrinks with them, so
/// that an idle process holds none of it.
const WAITING_MAX: usize = 32 << 20;

impl LogPlan {
    pub fn compile(spec: Option<&AccessLogSpec>, at: &Path, cx: &mut Context) -> Self {
        let default = AccessLogSpec::default();
        let spec = spec.unwrap_or(&default);
        let mut fields = u64::MAX;
        if let Some(wanted) = &spec.fields {
            fields = 0;
            for (index, field) in wanted.iter().enumerate() {
                match FIELDS.iter().position(|known| known == field) {
                    Some(bit) => fields |= 1 << bit,
                    None => {
                        let problem = cx.error(
                            &at.key("fields").index(index),
                            format!("`{field}` is not a field of the access log; known: {}", FIELDS.join(", ")),
                        );
                        if let Some(best) = nearest(field, FIELDS) {
                            problem.help(format!("did you mean `{best}`?"));
                        }
                    }
                }
            }
        }
        let target = match spec.to.clone().unwrap_or(AccessLogTarget::Stdout) {
            AccessLogTarget::File(file) => AccessLogTarget::File(cx.resolve(&at.key("to"), &file)),
            other => other,
        };
        let mask = spec
            .mask
            .clone()
            .unwrap_or_else(|| ["token", "key", "password", "secret", "code"].map(str::to_owned).to_vec());
        Self {
            target,
            format: spec.format.unwrap_or(LogFormat::Json),
            sample: spec.sample.unwrap_or(Percent::ALL),
            fields,
            mask,
        }
    }

    /// Whether an exchange is written at all. Failures always are.
    pub fn takes(&self, record_is_failure: bool, draw: u64) -> bool {
        self.target != AccessLogTarget::Off && (record_is_failure || self.sample.takes(draw))
    }

    fn has(&self, field: &str) -> bool {
        FIELDS.iter().position(|known| *known == field).is_some_and(|bit| self.fields & 1 << bit != 0)
    }
}

impl AccessLog {
    /// Starts the writer. It ends when the last handle is dropped.
    pub fn start(target: AccessLogTarget, metrics: Arc<Metrics>) -> io::Result<Self> {
        let (queue, jobs) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let (counted, counts) = (waiting.clone(), metrics.clone());
        let write = move || Writer::new(target, counted, counts).run(&jobs);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(write)?;
        Ok(Self { queue, waiting, metrics })
    }

    /// Queues a whole line, or drops and counts it when the writer is behind: a log never stops traffic.
    pub fn write_line(&self, line: Vec<u8>) {
        let len = line.len();
        if self.waiting.fetch_add(len, Relaxed).saturating_add(len) > WAITING_MAX
            || self.queue.send(Job::Line(line)).is_err()
        {
            self.waiting.fetch_sub(len, Relaxed);
            self.metrics.log_dropped().inc();
        }
    }

    /// Queues a record, as [`Self::write_line`] does.
    pub fn write(&self, plan: &LogPlan, record: &Record<'_>) {
        let mut line = Vec::with_capacity(512);
        encode(plan, record, SystemTime::now().into(), &mut line);
        self.write_line(line);
    }

    /// From now on write there.
    pub fn open(&self, target: AccessLogTarget) {
        let _ = self.queue.send(Job::Open(target));
    }

    /// Opens the file anew under the same name: what logrotate wants.
    pub fn reopen(&self) {
        let _ = self.queue.send(Job::Reopen);
    }

    /// Waits until all that was queued is written.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.queue.send(Job::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(std::time::Duration::from_secs(2));
        }
    }
}

struct Writer {
    waiting: Arc<AtomicUsize>,
    target: AccessLogTarget,
    out: Option<Box<dyn Write>>,
    metrics: Arc<Metrics>,
    /// Lines lost since it could last be written.
    lost: u64,
    /// The last line that got out is not whole.
    torn: bool,
}

impl Writer {
    fn new(target: AccessLogTarget, waiting: Arc<AtomicUsize>, metrics: Arc<Metrics>) -> Self {
        let mut writer = Self { waiting, target, out: None, metrics, lost: 0, torn: false };
        writer.open();
        writer
    }

    fn open(&mut self) {
        self.out = match &self.target {
            AccessLogTarget::Off => None,
            AccessLogTarget::Stdout => Some(Box::new(io::stdout())),
            AccessLogTarget::Stderr => Some(Box::new(io::stderr())),
            AccessLogTarget::File(path) => match open_file(path) {
                Ok(file) => Some(Box::new(file)),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "access log cannot be opened");
                    None
                }
            },
        };
    }

    fn run(mut self, jobs: &Receiver<Job>) {
        let mut batch = Vec::with_capacity(64 * 1024);
        while let Ok(job) = jobs.recv() {
            let mut next = Some(job);
            let mut flushed = Vec::new();
            while let Some(job) = next {
                match job {
                    Job::Line(line) => {
                        self.waiting.fetch_sub(line.len(), Relaxed);
                        batch.extend_from_slice(&line);
                    }
                    Job::Open(target) => {
                        self.put(&mut batch);
                        if target != self.target {
                            self.target = target;
                            self.open();
                        }
                    }
                    Job::Reopen => {
                        self.put(&mut batch);
                        self.open();
                    }
                    Job::Flush(done) => flushed.push(done),
                }
                next = if batch.len() < 48 * 1024 { jobs.try_recv().ok() } else { None };
            }
            self.put(&mut batch);
            for done in flushed {
                let _ = done.try_send(());
            }
        }
    }

    /// A full disk loses lines and nothing else; the next batch tries again. Its beginning and its end are told, each line
    /// that is lost is counted.
    fn put(&mut self, batch: &mut Vec<u8>) {
        let Some(out) = self.out.as_mut().filter(|_| !batch.is_empty()) else { return batch.clear() };
        let mut rest = batch.as_slice();
        let mut end: &[u8] = if self.torn { b"\n" } else { b"" };
        let outcome = write_on(out.as_mut(), &mut end).and_then(|()| write_on(out.as_mut(), &mut rest));
        self.torn &= !end.is_empty();
        let written = batch.len().saturating_sub(rest.len());
        self.torn = batch.get(..written).and_then(<[u8]>::last).map_or(self.torn, |last| *last != b'\n');
        match outcome {
            Ok(()) if self.lost > 0 => {
                tracing::info!(lost_lines = self.lost, "access log is written again");
                self.lost = 0;
            }
            Ok(()) => {}
            Err(error) => {
                if self.lost == 0 {
                    tracing::error!(%error, "access log cannot be written; lines are lost");
                }
                let lost = rest.iter().filter(|octet| **octet == b'\n').count() as u64;
                self.metrics.log_dropped().inc_by(lost);
                self.lost = self.lost.saturating_add(lost);
            }
        }
        batch.clear();
    }
}

/// Writes all of it; `rest` is what was not written when that fails.
fn write_on(out: &mut dyn Write, rest: &mut &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => *rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    out.flush()
}

fn open_file(path: &PathBuf) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// The time of a line (RFC 3339).
pub fn now_text() -> String {
    text_of(SystemTime::now().into())
}

fn text_of(now: OffsetDateTime) -> String {
    let (hour, minute, second, ms) = now.to_hms_milli();
    let (year, month, day) = (now.year(), u8::from(now.month()), now.day());
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

fn encode(plan: &LogPlan, record: &Record<'_>, now: OffsetDateTime, line: &mut Vec<u8>) {
    let mut encoder = Encoder { plan, line, first: true };
    encoder.begin();
    encoder.text("time", text_of(now).as_bytes());
    encoder.text("request_id", record.request_id.as_bytes());
    if let Some(trace) = record.trace_id {
        encoder.text("trace_id", format!("{trace:032x}").as_bytes());
    }
    encoder.text("listener", record.listener.as_bytes());
    encoder.maybe("client", record.client.map(|client| client.to_string()));
    encoder.maybe("peer", record.peer.map(|peer| peer.to_string()));
    encoder.text("protocol", record.protocol.as_bytes());
    for (name, value) in [
        ("tls_version", record.tls_version),
        ("tls_cipher", record.tls_cipher),
        ("sni", record.sni),
        ("identity", record.identity),
        ("subject", record.subject),
    ] {
        encoder.maybe(name, value);
    }
    encoder.text("method", record.method.as_bytes());
    encoder.text("host", record.host.as_bytes());
    encoder.text("path", record.path.as_bytes());
    if let Some(query) = record.query {
        encoder.text("query", masked(query, &plan.mask).as_bytes());
    }
    encoder.number("status", u64::from(record.status));
    encoder.maybe("route", record.route);
    encoder.maybe("upstream", record.upstream);
    encoder.maybe("rule", record.rule);
    encoder.maybe("destination", record.destination);
    encoder.maybe("source", record.source);
    encoder.maybe("security", record.security);
    encoder.maybe("verdict", record.verdict);
    encoder.maybe("endpoint", record.endpoint.as_deref());
    if record.attempts > 0 {
        encoder.number("attempts", u64::from(record.attempts));
    }
    for (name, value) in [("reason", record.reason), ("ended_by", record.ended_by), ("stage", record.stage)] {
        encoder.maybe(name, value);
    }
    encoder.number("bytes_in", record.bytes_in);
    encoder.number("bytes_out", record.bytes_out);
    encoder.millis("duration_ms", record.duration_us);
    if let Some(upstream) = record.upstream_us {
        encoder.millis("upstream_ms", upstream);
    }
    for (name, value) in [("user_agent", record.user_agent), ("referer", record.referer)] {
        if let Some(value) = value {
            encoder.text(name, value);
        }
    }
    encoder.end();
}

/// Values of secret-bearing parameters are blotted out.
fn masked(query: &str, mask: &[String]) -> String {
    let pair = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if mask.iter().any(|masked| masked.eq_ignore_ascii_case(name)) => format!("{name}=***"),
        _ => pair.to_owned(),
    };
    query.split('&').map(pair).collect::<Vec<_>>().join("&")
}

struct Encoder<'e> {
    plan: &'e LogPlan,
    line: &'e mut Vec<u8>,
    first: bool,
}

impl Encoder<'_> {
    fn begin(&mut self) {
        if self.plan.format == LogFormat::Json {
            self.line.push(b'{');
        }
    }

    fn end(&mut self) {
        if self.plan.format == LogFormat::Json {
            self.line.push(b'}');
        }
        self.line.push(b'\n');
    }

    fn name(&mut self, name: &str) -> bool {
        if !self.plan.has(name) {
            return false;
        }
        let json = self.plan.format == LogFormat::Json;
        if !std::mem::replace(&mut self.first, false) {
            self.line.push(if json { b',' } else { b' ' });
        }
        if json {
            self.line.push(b'"');
        }
        self.line.extend_from_slice(name.as_bytes());
        self.line.extend_from_slice(if json { b"\":" } else { b"=" });
        true
    }

    fn maybe(&mut self, name: &str, value: Option<impl AsRef<str>>) {
        if let Some(value) = value {
            self.text(name, value.as_ref().as_bytes());
        }
    }

    /// In both formats quoted and escaped, so that no value can end its field or its line.
    fn text(&mut self, name: &str, value: &[u8]) {
        const VALUE_MAX: usize = 2048;
        if !self.name(name) {
            return;
        }
        self.line.push(b'"');
        let value = value.get(..value.len().min(VALUE_MAX)).unwrap_or_default();
        for c in String::from_utf8_lossy(value).chars() {
            match c {
                '"' => self.line.extend_from_slice(b"\\\""),
                '\\' => self.line.extend_from_slice(b"\\\\"),
                c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                    let mut escape = String::new();
                    let _ = write!(escape, "\\u{:04x}", u32::from(c));
                    self.line.extend_from_slice(escape.as_bytes());
                }
                c => {
                    let mut utf8 = [0; 4];
                    self.line.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
                }
            }
        }
        self.line.push(b'"');
    }

    fn number(&mut self, name: &str, value: u64) {
        if self.name(name) {
            self.line.extend_from_slice(value.to_string().as_bytes());
        }
    }

    fn millis(&mut self, name: &str, micros: u64) {
        if self.name(name) {
            self.line.extend_from_slice(format!("{}.{:03}", micros / 1000, micros % 1000).as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(spec: &str, record: &Record<'_>) -> String {
        let spec: AccessLogSpec = serde_json::from_str(spec).unwrap();
        let plan = LogPlan::compile(Some(&spec), &Path::root(), &mut Context::default());
        let mut line = Vec::new();
        encode(&plan, record, OffsetDateTime::UNIX_EPOCH, &mut line);
        String::from_utf8(line).unwrap()
    }

    /// A disk with so much room.
    struct Disk(Arc<std::sync::Mutex<(Vec<u8>, usize)>>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (kept, room) = &mut *self.0.lock().unwrap();
            let taken = bytes.len().min(*room);
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            *room -= taken;
            kept.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_costs_lines_that_are_counted_and_no_line_is_glued_to_another() {
        let disk = Arc::new(std::sync::Mutex::new((Vec::new(), 10)));
        let metrics = Arc::new(Metrics::new());
        let mut writer = Writer::new(AccessLogTarget::Off, Arc::default(), metrics.clone());
        writer.out = Some(Box::new(Disk(disk.clone())));
        let mut put = |text: &str| writer.put(&mut text.as_bytes().to_vec());
        put("first\n");
        put("second\nthird\n");
        put("fourth\n");
        assert_eq!(metrics.log_dropped().get(), 3);
        disk.lock().unwrap().1 = 1000;
        put("fifth\n");
        put("sixth\n");
        assert_eq!(metrics.log_dropped().get(), 3);
        assert_eq!(String::from_utf8_lossy(&disk.lock().unwrap().0), "first\nseco\nfifth\nsixth\n");
    }

    #[test]
    fn a_hostile_value_stays_inside_its_field() {
        let record = Record {
            path: "/\"\\\n",
            user_agent: Some(b"a\r\n{\"status\":200}\x1b[31m\xff"),
            status: 404,
            ..Record::default()
        };
        let json = line("{}", &record);
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((parsed["path"].as_str(), parsed["status"].as_u64()), (Some("/\"\\\n"), Some(404)));
        assert_eq!(json.matches('\n').count(), 1);
        let text = line(r#"{"format":"text"}"#, &record);
        assert!(text.matches('\n').count() == 1 && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn only_chosen_fields_are_written_and_secrets_are_blotted_out() {
        let record = Record { query: Some("a=1&Token=xyz"), method: "GET", status: 200, ..Record::default() };
        assert_eq!(line(r#"{"fields":["status","query"]}"#, &record), "{\"query\":\"a=1&Token=***\",\"status\":200}\n");
        assert_eq!(line(r#"{"fields":["method"],"format":"text"}"#, &record), "method=\"GET\"\n");
    }

    #[test]
    fn sampling_keeps_failures() {
        let spec: AccessLogSpec = serde_json::from_str(r#"{"sample":"0%"}"#).unwrap();
        let plan = LogPlan::compile(Some(&spec), &Path::root(), &mut Context::default());
        assert!(!plan.takes(false, 5) && plan.takes(true, 5));
    }

    #[test]
    fn lines_reach_the_file_and_follow_its_name_after_a_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("logs/access.log");
        let log = AccessLog::start(AccessLogTarget::File(file.clone()), Arc::default()).unwrap();
        let plan = LogPlan::compile(None, &Path::root(), &mut Context::default());
        log.write(&plan, &Record::default());
        log.flush();
        std::fs::rename(&file, folder.path().join("old")).unwrap();
        log.reopen();
        log.write(&plan, &Record::default());
        log.write(&plan, &Record::default());
        log.flush();
        assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 2);
    }

    #[test]
    fn a_writer_that_stands_still_costs_lines_and_never_the_caller() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let metrics = Arc::<Metrics>::default();
        // Opening a pipe for writing waits for its reader, so the writer has not even begun.
        let log = AccessLog::start(AccessLogTarget::File(pipe.clone()), metrics.clone()).unwrap();
        let line = [vec![b'x'; 1 << 20], b"\n".to_vec()].concat();
        for _ in 0..40 {
            log.write_line(line.clone());
        }
        let kept = WAITING_MAX / line.len();
        assert_eq!(metrics.log_dropped().get(), (40 - kept) as u64);
        let read = std::thread::spawn(move || std::fs::read_to_string(pipe).unwrap().lines().count());
        drop(log);
        assert_eq!(read.join().unwrap(), kept, "what was queued is written once the writer can");
    }
}

//! CPU time of whole transactions with our own rules: `cargo bench -p portcullis-waf`; with the OWASP Core Rule Set:
//! `PORTCULLIS_CRS=<checkout> cargo bench -p portcullis-waf`.
//!
//! Processor time of the thread, not wall time: the best of several rounds, so that a busy machine does not count.
//! `PORTCULLIS_BENCH` names the cases to run, by a part of their names. With `PORTCULLIS_CALLS=n` each runs n times and
//! nothing is timed: for tools that count instructions.

use portcullis_waf::{Connection, Disk, Source, Waf};
use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::Duration,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 9;

const ENGINE: &str = r#"
SecRuleEngine On
SecRequestBodyAccess On
SecRequestBodyJsonDepthLimit 512
SecResponseBodyAccess On
SecResponseBodyMimeType text/plain text/html text/xml application/json
SecRule REQUEST_HEADERS:Content-Type "^application/json" \
    "id:200001,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"
"#;

fn main() {
    let folder = std::env::var_os("PORTCULLIS_CRS").map(PathBuf::from);
    println!(
        "rules: {}",
        folder.as_deref().map_or("our own (PORTCULLIS_CRS names others)".into(), Path::to_string_lossy)
    );
    let (before, started, wall) = (resident_kb(), cpu(), std::time::Instant::now());
    let waf = compile(folder.as_deref());
    println!(
        "compile              {:>9.1} ms CPU of the caller, {:.1} ms wall, {} rules",
        (cpu() - started).as_secs_f64() * 1e3,
        wall.elapsed().as_secs_f64() * 1e3,
        waf.rule_count()
    );
    let warming = std::time::Instant::now();
    waf.warm(&[("blocking_paranoia_level", "1")]);
    println!(
        "prefilter            {:>9.1} ms (wall), {:.1} MB",
        warming.elapsed().as_secs_f64() * 1e3,
        waf.prefilter_bytes() as f64 / 1048576.0
    );
    settle(&waf);
    println!("memory, PL1          {:>9.1} MB", (resident_kb() - before) as f64 / 1024.0);
    let cases = [
        ("benign GET", get("garden+chair"), false),
        ("strange GET", get("garden+chair"), true),
        ("2 kB form", form(), false),
        ("10 kB JSON", json(), false),
        ("SQLi GET", get("1%27+or+%271%27%3D%271"), false),
    ];
    let only = std::env::var("PORTCULLIS_BENCH").unwrap_or_default();
    for level in ["1", "4"] {
        for (name, request, strangers) in cases.iter().filter(|(name, ..)| format!("{name} PL{level}").contains(&only))
        {
            let visits = Visits::new(request, *strangers);
            let first = cpu();
            let matched = visits.next(&waf, level, Part::Whole);
            let first = cpu() - first;
            let best = |part| measure(|| visits.next(&waf, level, part));
            println!(
                "{name:<12} PL{level} {:>9.1} us request, {:>9.1} us with response, {matched} matches, first {:.1} ms",
                best(Part::Request),
                best(Part::Whole),
                first.as_secs_f64() * 1e3,
            );
        }
    }
    for level in ["1", "4"] {
        for (name, request) in hostile().iter().filter(|(name, _)| format!("hostile {name} PL{level}").contains(&only))
        {
            let visits = Visits::new(request, false);
            let best = measure(|| visits.next(&waf, level, Part::Request));
            println!("hostile {name:<12} PL{level} {:>9.2} ms for {} kB", best / 1e3, request.body.len() / 1000);
        }
    }
    println!("prefilter            {:>9.1} MB", waf.prefilter_bytes() as f64 / 1048576.0);
    println!("memory after all     {:>9.1} MB", (resident_kb() - before) as f64 / 1024.0);
}

/// Lets the allocator hand back what compiling used: it waits a second, and then for a page to be freed.
fn settle(waf: &Waf) {
    if calls().is_some() {
        return;
    }
    std::thread::sleep(Duration::from_millis(1_200));
    let request = json();
    Visits::new(&request, false).next(waf, "1", Part::Whole);
}

/// Requests made to be expensive, as large as the default limits let them be.
fn hostile() -> [(&'static str, Request); 6] {
    let form = |unit: &str, count: usize| Request {
        method: "POST",
        uri: "/".into(),
        content_type: Some("application/x-www-form-urlencoded"),
        body: format!("q={}", unit.repeat(count)),
    };
    let arguments = (0..10_000).map(|n| format!("a{n}='{n}&")).collect();
    let brackets = "[".repeat(1 << 20);
    [
        ("commands", form(";cat $(a|b)", 10_000)),
        ("many quotes", form("' or '1'='1", 10_000)),
        ("semicolons", form("a;", 60_000)),
        ("tags", form("<a b=c ", 16_000)),
        ("arguments", Request { body: arguments, ..form("", 0) }),
        ("brackets", Request { content_type: Some("application/json"), body: brackets, ..form("", 0) }),
    ]
}

fn compile(folder: Option<&Path>) -> Waf {
    let text = |text: &str| Source::Text { name: "engine".to_owned(), text: text.to_owned() };
    let sources = match folder {
        Some(folder) => vec![
            text(ENGINE),
            Source::File(folder.join("crs-setup.conf.example")),
            Source::File(folder.join("rules/*.conf")),
        ],
        None => vec![
            text("SecRuleEngine On\n"),
            Source::File(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../waf-rules/*.conf")),
        ],
    };
    Waf::compile(&sources, &Disk).unwrap_or_else(|errors| panic!("{} errors, the first: {}", errors.len(), errors[0]))
}

struct Request {
    method: &'static str,
    /// A `@` in it is a number that is another one for each client.
    uri: String,
    content_type: Option<&'static str>,
    body: String,
}

fn get(search: &str) -> Request {
    Request {
        method: "GET",
        uri: format!("/shop/products/list?page=@&sort=price_asc&q={search}&ref=newsletter-2026"),
        content_type: None,
        body: String::new(),
    }
}

fn form() -> Request {
    let mut body = String::new();
    for n in 0..70 {
        let _ = write!(body, "{}field_{n}=Some+ordinary+value+{n}", if n == 0 { "" } else { "&" });
    }
    Request {
        method: "POST",
        uri: "/account/profile".into(),
        content_type: Some("application/x-www-form-urlencoded"),
        body,
    }
}

fn json() -> Request {
    let mut body = String::from("{\"order\":{\"items\":[");
    for n in 0..41 {
        let _ = write!(
            body,
            "{}{{\"sku\":\"AB-{n}-XL\",\"name\":\"Garden chair {n}\",\"price\":{n}.95,\"count\":{n},\"gift\":false,\"color\":\"dark green\",\"id\":\"0f8fad5b-d9cb-469f-a165-70867728950e\",\"note\":\"Please leave it with the neighbour on the left.\"}}",
            if n == 0 { "" } else { "," }
        );
    }
    body.push_str("]}}");
    Request { method: "POST", uri: "/api/v2/orders".into(), content_type: Some("application/json"), body }
}

/// Who sends a request: as on a real site, the browsers are few and the visitors many, so that names and the headers in
/// which a browser describes itself recur, and targets, referrers and cookies do not.
struct Client {
    number: usize,
    headers: [(&'static str, String); 10],
}

/// So many visitors come in turn.
const VISITORS: usize = 512;

const BROWSERS: [&str; 6] = [
    "(X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "(Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/125.0.0.0 Safari/537.36",
    "(Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4.1 Safari/605.1.15",
    "(iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 Safari/604.1",
    "(X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0",
    "(Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36",
];

const LANGUAGES: [&str; 4] = ["en-GB,en;q=0.7,de;q=0.3", "de-DE,de;q=0.9,en;q=0.8", "fr", "en-US,en;q=0.5"];

/// `strangers` have browsers that nobody else has.
fn clients(strangers: bool) -> Vec<Client> {
    let client = |number: usize| {
        let own = if strangers { format!(" build/{number}") } else { String::new() };
        let texts = [
            ("Host", "shop.example.com".to_owned()),
            ("User-Agent", format!("Mozilla/5.0 {}{own}", BROWSERS[number % 6])),
            ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8".into()),
            ("Accept-Language", format!("{}{own}", LANGUAGES[number % 4]).replace(" build/", ",q")),
            ("Accept-Encoding", "gzip, deflate, br".into()),
            ("Referer", format!("https://shop.example.com/shop/products?page={number}")),
            (
                "Cookie",
                format!(
                    "session={:016x}7a5a36dedd4bea25; theme=dark; lang=en; cart=3-17-{number}; consent=2026-11-01",
                    (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
                ),
            ),
            ("Upgrade-Insecure-Requests", "1".into()),
            ("Sec-Fetch-Mode", "navigate".into()),
            ("Sec-Fetch-Site", "same-origin".into()),
        ];
        Client { number, headers: texts }
    };
    (0..if strangers { 8 * VISITORS } else { VISITORS }).map(client).collect()
}

const PAGE: &[u8] =
    b"<!doctype html><html><head><title>Garden chairs</title></head><body><p>Three chairs.</p></body></html>";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Request,
    Whole,
}

/// A request as one client after the other sends it.
struct Visits<'r> {
    request: &'r Request,
    clients: Vec<(Client, String)>,
    next: std::cell::Cell<usize>,
}

impl<'r> Visits<'r> {
    fn new(request: &'r Request, strangers: bool) -> Self {
        let uri = |client: &Client| request.uri.replace('@', &client.number.to_string());
        let with_uri = |client| {
            let uri = uri(&client);
            (client, uri)
        };
        Self { request, clients: clients(strangers).into_iter().map(with_uri).collect(), next: std::cell::Cell::new(0) }
    }

    fn next(&self, waf: &Waf, level: &str, part: Part) -> usize {
        let at = self.next.replace(self.next.get() + 1) % self.clients.len();
        let (client, uri) = &self.clients[at];
        run(waf, self.request, client, uri, level, part)
    }
}

/// Runs a transaction and says how many rules matched.
fn run(waf: &Waf, request: &Request, client: &Client, uri: &str, level: &str, part: Part) -> usize {
    let mut transaction = waf.transaction(Connection {
        client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        client_port: 40_000,
        server: IpAddr::V4(Ipv4Addr::LOCALHOST),
        server_port: 443,
        unique_id: String::new(),
        now: Duration::from_secs(1_700_000_000),
    });
    transaction.set_tx("blocking_paranoia_level", level);
    transaction.request_line(request.method.as_bytes(), uri.as_bytes(), b"HTTP/1.1");
    for (name, value) in &client.headers {
        transaction.request_header(name.as_bytes(), value.as_bytes());
    }
    if let Some(content_type) = request.content_type {
        transaction.request_header(b"Content-Type", content_type.as_bytes());
        transaction.request_header(b"Content-Length", request.body.len().to_string().as_bytes());
    }
    transaction.request_headers_done();
    transaction.request_body_chunk(request.body.as_bytes());
    let refused = transaction.request_body_done().is_some();
    if part == Part::Whole && !refused {
        transaction.response_line(200, b"HTTP/1.1");
        transaction.response_header(b"Content-Type", b"text/html; charset=utf-8");
        transaction.response_header(b"Server", b"app");
        transaction.response_headers_done();
        transaction.response_body_chunk(PAGE);
        transaction.response_body_done();
    }
    transaction.finish().matches.len()
}

/// Microseconds of one call: the best round.
fn measure(mut call: impl FnMut() -> usize) -> f64 {
    if let Some(calls) = calls() {
        (0..calls).for_each(|_| _ = std::hint::black_box(call()));
        return 0.0;
    }
    let probe = cpu();
    (0..5).for_each(|_| _ = std::hint::black_box(call()));
    let each = ((cpu() - probe) / 5).max(Duration::from_nanos(100));
    // Rounds of some 60 ms.
    let calls = (60_000_000 / each.as_nanos()).clamp(1, 20_000) as u32;
    let round = |_| {
        let started = cpu();
        (0..calls).for_each(|_| _ = std::hint::black_box(call()));
        (cpu() - started) / calls
    };
    let rounds = std::env::var("PORTCULLIS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS);
    (0..rounds).map(round).min().unwrap_or_default().as_secs_f64() * 1e6
}

fn calls() -> Option<u32> {
    std::env::var("PORTCULLIS_CALLS").ok().and_then(|calls| calls.parse().ok())
}

fn cpu() -> Duration {
    // Valgrind does not know the system call as it is made here.
    if calls().is_some() {
        return Duration::ZERO;
    }
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

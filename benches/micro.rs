//! Micro-benches of what each request and each reload pays: `cargo bench --profile dist --bench micro`.

use portcullis_config::{Context, Document};
use portcullis_gateway::{RESERVED, Spec};
use portcullis_policy::{
    Facts, HeaderSink, Known, KnownGuards, Level, ListenerId, Lookup, RouteDefaults, RouteTable, Scheme,
    SecurityHeaders, UpstreamId,
};
use portcullis_wire::{Cursor, HeadLimits, parse_head};
use std::{
    collections::BTreeMap,
    fmt::Write,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

fn main() {
    divan::main();
}

const ROUTES: usize = 10_000;

fn document(routes: usize) -> String {
    let mut text =
        String::from("[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"127.0.0.1:1\"]\n");
    for n in 0..routes {
        let host = n / 10;
        let _ = writeln!(
            text,
            "[route.r{n}]\nhosts = [\"h{host}.example.com\"]\npath = \"/api/v{}\"\nupstream = \"app\"",
            n % 10
        );
    }
    text
}

fn spec(text: &str) -> (Spec, Context) {
    let (document, report) = Document::parse("bench.toml", text);
    let (spec, cx) = Arc::new(document).read::<Spec>(report, RESERVED);
    (spec.expect("the bench's document is right"), cx)
}

fn table(spec: &Spec, cx: &mut Context) -> RouteTable {
    let listeners = BTreeMap::from([("http".to_owned(), ListenerId(0))]);
    let upstreams = BTreeMap::from([("app".to_owned(), UpstreamId(0))]);
    let defaults = RouteDefaults { timeout: Duration::from_secs(60), security_headers: SecurityHeaders::Off };
    RouteTable::compile(
        &spec.route,
        &Known {
            listeners: &listeners,
            upstreams: &upstreams,
            geo: None,
            guards: KnownGuards::none(Instant::now()),
            demanded: &Level::default(),
        },
        defaults,
        cx,
    )
}

fn request(host: &str, path: &str) -> Facts {
    Facts {
        method: "GET".into(),
        host: host.into(),
        path: path.into(),
        query: None,
        headers: Vec::new(),
        client_ip: "192.0.2.1".parse().expect("an address"),
        listener: ListenerId(0),
        listener_name: "http".into(),
        scheme: Scheme::Http,
        identity: None,
        country: None,
        now: 0,
    }
}

/// The aim: under 1 µs.
#[divan::bench]
fn route_match_of_10_000(bencher: divan::Bencher<'_, '_>) {
    let (spec, mut cx) = spec(&document(ROUTES));
    let table = table(&spec, &mut cx);
    let request = request("h777.example.com", "/api/v7/items/17");
    assert!(matches!(table.find(&request), Lookup::Found(_)));
    bencher.bench_local(|| matches!(table.find(black_box(&request)), Lookup::Found(_)));
}

/// The aim: under 200 ms.
#[divan::bench(sample_count = 10)]
fn route_compile_of_10_000(bencher: divan::Bencher<'_, '_>) {
    let text = document(ROUTES);
    bencher.with_inputs(|| spec(&text)).bench_local_values(|(spec, mut cx)| table(&spec, &mut cx));
}

#[divan::bench(sample_count = 10)]
fn config_read_of_10_000(bencher: divan::Bencher<'_, '_>) {
    let text = document(ROUTES);
    bencher.bench_local(|| spec(black_box(&text)));
}

#[divan::bench]
fn head_parse_of_600_octets(bencher: divan::Bencher<'_, '_>) {
    let head = format!(
        "GET /shop/items/17?sort=price HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\nAccept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-GB,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nReferer: https://shop.example.com/shop\r\nCookie: session={}\r\nUpgrade-Insecure-Requests: 1\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\n\r\n",
        "x".repeat(100)
    );
    bencher
        .bench_local(|| parse_head(black_box(head.as_bytes()), &HeadLimits::default(), &mut Cursor::default()).is_ok());
}

struct Sink(Vec<(String, Vec<u8>)>);

impl HeaderSink for Sink {
    fn set(&mut self, name: &str, value: &[u8]) {
        self.0.push((name.to_owned(), value.to_vec()));
    }
    fn add(&mut self, name: &str, value: &[u8]) {
        self.set(name, value);
    }
    fn remove(&mut self, name: &str) {
        self.0.retain(|(have, _)| have != name);
    }
}

#[divan::bench]
fn header_edit_of_three_fields(bencher: divan::Bencher<'_, '_>) {
    let text = "[listener.http]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nendpoints = [\"127.0.0.1:1\"]\n[route.r]\nupstream = \"app\"\nrequest_headers = { set = { x-a = \"${client_ip}\", x-b = \"fixed\" }, remove = [\"x-c\"] }\n";
    let (spec, mut cx) = spec(text);
    let table = table(&spec, &mut cx);
    let request = request("a.test", "/");
    let plan = table.plans().next().expect("one route");
    bencher.bench_local(|| {
        let mut sink = Sink(Vec::new());
        plan.request_headers.apply(black_box(&request), &mut sink);
        sink.0.len()
    });
}

//! An ordinary request allocates nothing: the memory of a transaction stays with its thread.
//!
//! With our own rules, and with the Core Rule Set when `PORTCULLIS_CRS` names a checkout; without it the test says so.
#![allow(clippy::unwrap_used)]

use portcullis_waf::{Connection, Disk, Source, Waf};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// It has parentheses, so that `@detectSQLi` has to look.
const BROWSER: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36";

/// One test at a time: what the process holds is measured.
static ALONE: Mutex<()> = Mutex::new(());

/// Megabytes of a compiled rule set with the prefilter of one paranoia level.
const MEGABYTES: i64 = 60;

fn get(waf: &Waf, agent: &str) {
    let mut transaction = waf.transaction(Connection {
        client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        client_port: 1,
        server: IpAddr::V4(Ipv4Addr::LOCALHOST),
        server_port: 443,
        unique_id: String::new(),
        now: Duration::from_secs(1),
    });
    transaction.request_line(b"GET", b"/shop/products/list?page=2&sort=price_asc&q=garden+chair", b"HTTP/1.1");
    for (name, value) in [
        ("Host", "shop.example.com"),
        ("User-Agent", agent),
        ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
        ("Accept-Language", "en-GB,en;q=0.7,de;q=0.3"),
        ("Accept-Encoding", "gzip, deflate, br"),
        ("Referer", "https://shop.example.com/shop/products?page=1"),
        ("Cookie", "session=8f14e45fceea167a5a36dedd4bea2543; theme=dark; lang=en; cart=3-17-29"),
    ] {
        transaction.request_header(name.as_bytes(), value.as_bytes());
    }
    assert_eq!(transaction.request_headers_done(), None);
    assert_eq!(transaction.request_body_done(), None);
    transaction.response_line(200, b"HTTP/1.1");
    transaction.response_header(b"content-type", b"text/html");
    assert_eq!(transaction.response_headers_done(), None);
    assert_eq!(transaction.response_body_done(), None);
    assert!(transaction.finish().matches.is_empty());
}

fn text(name: &str, text: &str) -> Source {
    Source::Text { name: name.to_owned(), text: text.to_owned() }
}

/// All files of our own rules, or those whose names begin so.
fn own_rules(beginning: &str) -> Vec<Source> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../waf-rules");
    vec![
        text("engine", "SecRuleEngine On\nSecRequestBodyAccess On\n"),
        Source::File(folder.join(format!("{beginning}*.conf"))),
    ]
}

#[test]
fn an_ordinary_request_allocates_nothing_with_our_own_rules() {
    measure(&own_rules(""));
}

#[test]
fn an_ordinary_request_allocates_nothing_with_the_core_rule_set() {
    let Some(folder) = std::env::var_os("PORTCULLIS_CRS").map(PathBuf::from) else {
        println!("PORTCULLIS_CRS is not set: allocations were NOT counted with the Core Rule Set");
        return;
    };
    let engine = text("engine", "SecRuleEngine On\nSecRequestBodyAccess On\n");
    measure(&[engine, Source::File(folder.join("crs-setup.conf.example")), Source::File(folder.join("rules/*.conf"))]);
}

fn measure(sources: &[Source]) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut waf = None;
    let compiled = allocation_counter::measure(|| {
        waf = Waf::compile(sources, &Disk).ok();
        waf.as_ref().unwrap().warm(&[]);
    });
    let waf = waf.unwrap();
    let megabytes = compiled.bytes_current / 1_000_000;
    println!("compiled set: {megabytes} MB on this thread, prefilter {} MB", waf.prefilter_bytes() / 1_000_000);
    // The first requests let the regex caches and the transaction's memory grow.
    for agent in [BROWSER, "curl/8.5.0"] {
        (0..10).for_each(|_| get(&waf, agent));
        let counted = allocation_counter::measure(|| get(&waf, agent));
        println!("one GET by {agent}: {} allocations, {} bytes", counted.count_total, counted.bytes_total);
        assert_eq!(counted.count_total, 0, "{agent}: {} allocations", counted.count_total);
        assert_eq!(counted.count_current, 0, "something was not given back");
    }
    assert!(megabytes + i64::try_from(waf.prefilter_bytes() / 1_000_000).unwrap() <= MEGABYTES, "{megabytes} MB");
}

/// Sets that are compiled, used and dropped, as by so many reloads.
const RELOADS: usize = 100;

/// What the process may grow by from the tenth to the last; one set alone is several times as large.
const GROWTH_KIB: u64 = 8 << 10;

#[test]
fn a_hundred_reloads_leave_nothing_behind() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut settled = 0;
    for reload in 1..=RELOADS {
        let waf = Waf::compile(&own_rules("[12]"), &Disk).unwrap();
        get(&waf, BROWSER);
        drop(waf);
        if reload == RELOADS / 10 {
            settled = resident_kib();
        }
    }
    let grown = resident_kib().saturating_sub(settled);
    println!("{settled} KiB after {} reloads, {grown} KiB more after {RELOADS}", RELOADS / 10);
    assert!(settled > 0 && grown <= GROWTH_KIB, "{grown} KiB");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

//! Requests made to be expensive cost no more than their size earns, and what was not inspected is reported.
//!
//! With the Core Rule Set when `PORTCULLIS_CRS` names a checkout, else with a few rules of the same kinds.
#![allow(clippy::unwrap_used)]

use portcullis_waf::{Audit, Cause, Connection, Cut, Disk, Source, Waf};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const ENGINE: &str = r#"
SecRuleEngine On
SecRequestBodyAccess On
SecRequestBodyLimit 13107200
SecRequestBodyNoFilesLimit 1310720
SecRule REQUEST_HEADERS:Content-Type "^application/json" "id:200001,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"
"#;

const RULES: &str = r#"
SecRule ARGS|ARGS_NAMES|REQUEST_COOKIES|REQUEST_HEADERS "@rx (?i)<script[^>]*>[\s\S]*?" "id:1,phase:2,pass,t:none,t:urlDecodeUni,t:htmlEntityDecode,t:jsDecode"
SecRule ARGS|ARGS_NAMES|REQUEST_COOKIES "@detectSQLi" "id:2,phase:2,pass,t:none,t:urlDecodeUni"
SecRule ARGS "@rx ((?:[~!@#$%^&*()\-+={}\[\]|:;\"'<>][^~!@#$%^&*()\-+={}\[\]|:;\"'<>]*?){12})" "id:3,phase:2,pass,t:none"
SecRule ARGS "@rx (?:(?:a+)+b|(?:.*;){10}x)" "id:4,phase:2,pass,t:none,t:removeWhitespace"
"#;

fn waf() -> Waf {
    let text = |name: &str, text: &str| Source::Text { name: name.to_owned(), text: text.to_owned() };
    let sources = match std::env::var_os("PORTCULLIS_CRS").map(PathBuf::from) {
        Some(folder) => vec![
            text("engine", ENGINE),
            text("level", "SecAction \"id:900000,phase:1,pass,nolog,setvar:tx.blocking_paranoia_level=4\""),
            Source::File(folder.join("crs-setup.conf.example")),
            Source::File(folder.join("rules/*.conf")),
        ],
        None => {
            println!("PORTCULLIS_CRS is not set: hostile requests meet only a few rules");
            vec![text("engine", ENGINE), text("rules", RULES)]
        }
    };
    Waf::compile(&sources, &Disk).unwrap()
}

fn post(waf: &Waf, content_type: &str, cookie: &str, body: &[u8]) -> Audit {
    let mut transaction = waf.transaction(Connection {
        client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        client_port: 1,
        server: IpAddr::V4(Ipv4Addr::LOCALHOST),
        server_port: 80,
        unique_id: String::new(),
        now: Duration::from_secs(1),
    });
    transaction.set_mode(portcullis_waf::EngineMode::DetectionOnly);
    transaction.request_line(b"POST", b"/", b"HTTP/1.1");
    for (name, value) in [("Host", "a.example"), ("Content-Type", content_type), ("Cookie", cookie)] {
        transaction.request_header(name.as_bytes(), value.as_bytes());
    }
    transaction.request_headers_done();
    body.chunks(16_384).for_each(|chunk| _ = transaction.request_body_chunk(chunk));
    transaction.request_body_done();
    transaction.finish()
}

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

fn hostile() -> Vec<(&'static str, &'static str, String, Vec<u8>)> {
    let arguments = (0..10_000).fold(String::new(), |mut text, n| {
        let _ = write!(text, "a{n}='{n}&");
        text
    });
    let cookies = (0..9_000).fold(String::new(), |mut text, n| {
        let _ = write!(text, "c{n}=\"{n}; ");
        text
    });
    let members = (0..60_000).fold(String::from("["), |mut text, n| {
        let _ = write!(text, "{n},");
        text
    });
    let none = String::new;
    vec![
        ("1 MB of JSON brackets", JSON, none(), vec![b'['; 1 << 20]),
        ("JSON objects in objects", JSON, none(), b"{\"a\":".repeat(200_000)),
        ("60,000 JSON members", JSON, none(), members.into_bytes()),
        ("10,000 arguments", FORM, none(), arguments.into_bytes()),
        ("100 kB of cookies", FORM, cookies, Vec::new()),
        ("one cookie of 100 kB", FORM, format!("a={}", "'\"<(".repeat(25_000)), Vec::new()),
        ("a run of a", FORM, none(), [b"q=".to_vec(), vec![b'a'; 120_000]].concat()),
        ("many quotes", FORM, none(), [b"q=".to_vec(), b"' or '1'='1".repeat(10_000)].concat()),
        ("a word of dots", FORM, none(), [b"q='".to_vec(), b"a.".repeat(32_000)].concat()),
        ("semicolons", FORM, none(), [b"q=".to_vec(), b"a;".repeat(60_000)].concat()),
        ("escapes in escapes", FORM, none(), [b"q=".to_vec(), b"%2525u0025".repeat(12_000)].concat()),
        ("dots and slashes", FORM, none(), [b"q=".to_vec(), b"..%2f".repeat(24_000)].concat()),
        ("commands", FORM, none(), [b"q=".to_vec(), b";cat $(a|b)".repeat(10_000)].concat()),
        // Each ends some of what the prefilter looks for, and few the same.
        (
            "ends of words",
            FORM,
            none(),
            [b"q=".to_vec(), b"ssselectetcscripthptmleval(systemor".repeat(3_500)].concat(),
        ),
        ("tags", FORM, none(), [b"q=".to_vec(), b"<a b=c ".repeat(16_000)].concat()),
    ]
}

#[test]
fn hostile_requests_cost_what_their_size_earns() {
    let waf = waf();
    for (name, content_type, cookie, body) in hostile() {
        let started = Instant::now();
        let audit = post(&waf, content_type, &cookie, &body);
        let bytes = (body.len() + cookie.len()) as u64;
        println!(
            "{name}: {bytes} bytes, work {} ({} a byte), {:?}, cut {:?}",
            audit.work,
            audit.work / bytes.max(1),
            started.elapsed(),
            audit.cut
        );
        // The last test begun may take the account beyond its limit once.
        assert!(audit.work <= 100_000_000 + 64 * bytes, "{name}: {}", audit.work);
        assert!(audit.work <= 4_000_000 + 1_064 * bytes, "{name}: {}", audit.work);
    }
}

#[test]
fn what_was_cut_is_reported() {
    let waf = waf();
    let cut = |content_type: &str, cookie: &str, body: &[u8]| post(&waf, content_type, cookie, body).cut;
    let arguments = "a=1&".repeat(2_000);
    assert_eq!(cut(FORM, "", arguments.as_bytes()), [Cut::Arguments]);
    assert_eq!(cut(FORM, &"a=1;".repeat(2_000), b""), [Cut::Arguments]);
    assert_eq!(cut(JSON, "", format!("[{}1]", "1,".repeat(2_000)).as_bytes()), [Cut::Arguments]);
    assert_eq!(cut(FORM, "", &vec![b'a'; 2_000_000]), [Cut::RequestBody]);
    assert_eq!(cut(FORM, "", &[b"a='".to_vec(), b"a.".repeat(32_000)].concat()), [Cut::Words]);
    assert_eq!(cut(FORM, "", b"a=1"), []);
}

#[test]
fn a_transaction_that_costs_too_much_is_refused() {
    // Every argument against every rule, all of them backtracking: more than any size earns.
    let mut text = String::from("SecRuleEngine On\nSecRequestBodyAccess On\nSecRequestBodyNoFilesLimit 1310720\n");
    for n in 1..60 {
        let _ =
            writeln!(text, "SecRule ARGS \"@rx (?=a)a+(?!a)x{n}\" \"id:{n},phase:2,deny,nolog,t:none,t:urlDecodeUni\"");
    }
    let waf = Waf::compile(&[Source::Text { name: "slow".to_owned(), text }], &Disk).unwrap();
    let mut transaction = waf.transaction(Connection {
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        client_port: 1,
        server: IpAddr::V4(Ipv4Addr::LOCALHOST),
        server_port: 80,
        unique_id: String::new(),
        now: Duration::from_secs(1),
    });
    transaction.request_line(b"POST", b"/", b"HTTP/1.1");
    transaction.request_header(b"content-type", FORM.as_bytes());
    transaction.request_headers_done();
    transaction.request_body_chunk(&[b"q=".to_vec(), b"ba".repeat(40_000)].concat());
    let refused = transaction.request_body_done().unwrap();
    assert_eq!(refused.cause, Cause::Work);
    assert!(matches!(transaction.finish().cut.as_slice(), [Cut::Work { tests: 1.. }]));
}

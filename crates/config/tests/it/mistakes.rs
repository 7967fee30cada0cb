//! Mistakes in a document: each is found, in one run, in its place.

use crate::spec::{Spec, read};
use portcullis_config::{Colour, Context, Document, Path};
use std::sync::Arc;

/// A line of a document that has a mistake ends in `#! column` and a part of the message; of several, one each.
const SEEDED: &str = r#"
schema = "1"
identity.corp.issuer = "https://id"   #! 1 `identity` is not supported by this version
proces = 1                            #! 1 unknown key `proces` at the top
[process]
threads = 70000                       #! 11 expected a number from 0 to 65535, found 70000
drain = 30                            #! 9 expected a duration with a unit, like "250ms"
[certificate.shop]                    #! 14 `cert` is missing in `certificate.shop`
key = "hunter2"                       #! 7 a secret is never written here
[certificate.other]
cert = "a"
key = { vault = "a" }                 #! 9 unknown key `vault`
[listener.https]
address = ["a"]                       #! 11 expected a string, found an array
protocol = "htps"                     #! 12 `htps` is not one of
source = { chian = { trusted = 1 } }  #! 12 unknown key `chian`
[listener.dns]
address = ":53"
protocol = "udp"                      #! 12 `udp` is not supported by this version
source = { chain = { trusted = -1 } } #! 32 expected a number from 0 to 255
[listener.x]
address = ":54"
source = { header = "a b" }           #! 21 `a b` is not
[upstream.shop]
endpoints = [
  "10.0.0.11:8080",
  "10.0.0.12",                        #! 3 the port is missing
  { address = "10.0.0.13:80", wieght = 10 },   #! 31 unknown key `wieght`
  { weight = 1 },                     #! 3 `address` is missing
  5,                                  #! 3 expected an address to connect to
]
connect_timeout = "2 s"               #! 19 `2 s` is not a duration
check = { kind = "http", send = "x", path = "/" }    #! 26 unknown key `send`
ratio = "many"                        #! 9 expected a number, found a string
[upstream.empty]
endpoints = []                        #! 13 expected at least 1 item, found 0
check.kind = "htttp"                  #! 14 `htttp` is not one of http, tcp
[upstream.lost]                       #! 11 `endpoints` is missing
[route."sh op"]                       #! 8 `sh op` is not a name
[route.shop]
hosts = ["shop.example.com", "a..b"]  #! 30 `a..b` is not
waf.mode = "block"                    #! 1 `waf` is not supported
timeout = 1979-05-27                  #! 11 found a date
[route.shop.headers]
"x y" = "1"                           #! 1 `x y` is not
[route.shop.rule.api]
hosts = "shop"                        #! 9 expected an array of strings, found a string
upstrem = "shop"                      #! 1 unknown key `upstrem`
rule.deep.timeout = "5"               #! 21 the unit is missing
[route.other]
upstream = "nowhere"                  #! 12 upstream "nowhere" is not defined
"#;

/// A compile step like a service's own.
fn compile(spec: &Spec, cx: &mut Context) {
    for (name, route) in &spec.route {
        let at = Path::root().key("route").key(name);
        match &route.upstream {
            Some(upstream) if !spec.upstream.keys().any(|known| known.as_str() == upstream) => {
                cx.undefined(&at.key("upstream"), "upstream", upstream, spec.upstream.keys().map(|name| name.as_str()));
            }
            Some(_) => {}
            None => drop(cx.error(&at, "a route needs an upstream")),
        }
    }
}

fn check(text: &str) -> Vec<(usize, usize, String)> {
    let (spec, mut cx) = read(text);
    if let Some(spec) = &spec {
        compile(spec, &mut cx);
    }
    let (report, _) = cx.finish();
    let problems = report.problems().iter().map(|problem| {
        let place = problem.place.clone().unwrap_or_else(|| panic!("{} has no place", problem.message));
        (place.line, place.column, problem.message.clone())
    });
    problems.collect()
}

#[test]
fn every_seeded_mistake_is_reported_once_in_its_place() {
    let mut found = check(SEEDED);
    let seeded = SEEDED.lines().enumerate().filter_map(|(index, line)| {
        let (column, message) = line.split_once("#! ")?.1.split_once(' ')?;
        Some((index + 1, column.parse::<usize>().unwrap(), message))
    });
    let mut count = 0;
    for (line, column, message) in seeded {
        let at = found.iter().position(|(l, c, have)| (*l, *c) == (line, column) && have.contains(message));
        let Some(at) = at else { panic!("{line}:{column} {message} is not in {found:#?}") };
        found.remove(at);
        count += 1;
    }
    assert!(found.is_empty(), "beyond what was seeded: {found:#?}");
    assert!(count >= 20, "{count}");
}

#[test]
fn one_mistake_gives_one_message_with_a_way_out() {
    for (text, place, message, help) in [
        ("[upstrem.a]\nendpoints = [\"1.2.3.4:5\"]", (1, 2), "unknown key `upstrem`", Some("upstream")),
        ("[upstream.a]\nendpoint = [\"1.2.3.4:5\"]", (2, 1), "unknown key `endpoint`", Some("endpoints")),
        (
            "[listener.a]\naddress = \":1\"\nprotocol = \"HTTP\"",
            (3, 12),
            "is not one of http, tcp, https",
            Some("http"),
        ),
        ("[listener.a]\naddress = \":1\"\nsource = {}", (3, 1), "expected exactly one of header, chain", None),
        ("[listener.a]\naddress = \":1\"\nsource = \"anywher\"", (3, 10), "is not one of anywhere", Some("anywhere")),
        ("[listener.a]\naddress = \":1\"\nsource = 5", (3, 10), "expected \"anywhere\" or a table { header }", None),
        ("[listener.a]\naddress = \":1\"\nsource = { header = \"a\", chain.trusted = 1 }", (3, 1), "found 2", None),
        ("[upstream.a]\nendpoints = [{ address = \"1.2.3.4:5\", weight = 0 }]", (2, 48), "from 1 to 4294967295", None),
        (
            "[upstream.a]\nendpoints = [{ address = \"1.2.3.4:5\", weight = 5000000000 }]",
            (2, 48),
            "found 5000000000",
            None,
        ),
        (
            "[upstream.a]\nendpoints = [{ address = \"1.2.3.4:5\", weight = 99999999999999999999 }]",
            (2, 48),
            "expected a number",
            None,
        ),
        ("[upstream.a]\nendpoints = [\"1.2.3.4:5\"]\ncheck.path = \"/\"", (3, 1), "`kind` is missing", None),
        ("process = 5", (1, 11), "expected a table { drain, threads }", None),
        ("schema = \"2\"", (1, 10), "newer than this program", None),
        ("schema = 1", (1, 10), "expected the version of the language", None),
        ("[certificate.a]\ncert = \"x\"\nkey = {}", (3, 1), "expected exactly one of command, env, file", None),
        ("[certificate.a]\ncert = \"x\"\nkey = { env = \"A\", file = \"b\" }", (3, 1), "exactly one of", None),
        ("[certificate.a]\ncert = \"x\"\nkey.env = \"\"", (3, 11), "at least 1 character", None),
        ("[certificate.a]\ncert = \"x\"\nkey.command = []", (3, 15), "at least 1", None),
        ("[certificate.a]\ncert = \"x\"\nkey.command = \"/bin/vault kv\"", (3, 15), "an array of strings", None),
        ("[certificate.a]\ncert = \"x\"\nkey.command = [\"vault\", \"kv\"]", (3, 15), "begins with /", None),
        ("[certificate.a]\ncert = \"x\"\nkey.command = [\"/vault\", 5]", (3, 26), "expected a string", None),
    ] {
        let (spec, cx) = read(text);
        let (report, _) = cx.finish();
        let problems = report.problems();
        assert_eq!(problems.len(), 1, "{text}\n{}", report.render(Colour::Plain));
        let problem = problems.first().unwrap();
        let have = problem.place.clone().map(|place| (place.line, place.column));
        assert!(problem.message.contains(message), "{text}: {}", problem.message);
        assert_eq!(have, Some(place), "{text}: {}", problem.message);
        match help {
            Some(help) => assert_eq!(problem.help, Some(format!("did you mean `{help}`?")), "{text}"),
            None => assert_eq!(problem.help, None, "{text}"),
        }
        assert!(spec.is_some(), "{text}: the rest is not read");
    }
}

#[test]
fn what_is_right_is_read_and_says_nothing() {
    let (spec, cx) = read(
        r#"
        schema = "1"
        process = { threads = 4, drain = "30s" }
        certificate.a = { cert = "a", key.env = "KEY" }
        listener.a = { address = ":1", protocol = "https", source = "anywhere" }
        listener.b = { address = ":2", source = { chain = { trusted = 2 } } }
        listener.c = { address = ":3", source.header = "x-real-ip" }
        upstream.a = { endpoints = ["1.2.3.4:5", { address = "unix:/a", weight = 3 }], check = { kind = "tcp" }, ratio = 1 }
        route.a = { hosts = ["*.example.com"], headers = { "x-a" = "1" }, rule.b = { timeout = "1s", upstream = "a" } }
        "#,
    );
    let (report, _) = cx.finish();
    assert!(report.is_empty(), "{}", report.render(Colour::Plain));
    assert_eq!((report.exit_code(), report.summary().as_str()), (0, "no mistakes found"));
    let spec = spec.unwrap();
    assert_eq!(spec.upstream.values().next().unwrap().ratio, Some(1.0));
    assert_eq!(spec.listener.len(), 3);
}

#[test]
fn all_syntax_errors_of_all_files_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("a.toml"), "a = \nb = [1,\nc = 2\n[route.x\n").unwrap();
    std::fs::write(at("b.toml"), "[process]\nthreads = 1\nthreads = 2\n").unwrap();
    let (_, report) = Document::load(&[at("a.toml"), at("b.toml")]);
    let lines = |name: &str| {
        let places = report.problems().iter().filter_map(|problem| problem.place.clone());
        places.filter(|place| place.file.ends_with(name)).map(|place| place.line).collect::<Vec<_>>()
    };
    assert!(lines("a.toml").len() >= 2, "{}", report.render(Colour::Plain));
    assert_eq!(lines("b.toml"), [3], "{}", report.render(Colour::Plain));
}

#[test]
fn a_consequence_of_a_mistake_is_not_reported_as_another() {
    for text in [
        // The route lost its upstream because it is misspelt; the upstream is written, but wrongly.
        "[route.a]\nupstrem = \"u\"\n[upstream.u]\nendpoints = [\"1.2.3.4:5\"]",
        "[route.a]\nupstream = \"u\"\n[upstream.u]\nendpoints = 5",
        "[route.a]\nupstream = 7\n[upstream.u]\nendpoints = [\"1.2.3.4:5\"]",
    ] {
        assert_eq!(check(text).len(), 1, "{text}: {:?}", check(text));
    }
    let both = check("[route.a]\nupstream = \"x\"\ntimeout = 5\n[upstream.u]\nendpoints = [\"1.2.3.4:5\"]");
    assert_eq!(both.len(), 2, "an undefined name beside a wrong type: {both:?}");
}

#[test]
fn a_report_reads_like_a_compiler_s() {
    let (_, cx) = read("[upstream.shop]\nendpoints = [\n  { address = \"10.0.0.12:8080\", wieght = 10 },\n]\n");
    let (report, _) = cx.finish();
    let expected = "\
error: unknown key `wieght` in `upstream.shop.endpoints[0]`; known: address, weight
 --> edge.toml:3:33
  |
3 |   { address = \"10.0.0.12:8080\", wieght = 10 },
  |                                 ^^^^^^
  |
help: did you mean `weight`?

1 error
";
    assert_eq!(report.render(Colour::Plain), expected);
    assert!(report.render(Colour::Ansi).contains("\x1b["));
    assert_eq!(report.exit_code(), 1);
    assert_eq!(
        report.lines(),
        [
            "edge.toml:3:33: unknown key `wieght` in `upstream.shop.endpoints[0]`; known: address, weight (did you mean `weight`?)"
        ]
    );
    let json = report.to_json();
    assert_eq!(json.pointer("/problems/0/place/line").unwrap(), 3);
    assert_eq!(json.pointer("/problems/0/path").unwrap(), "upstream.shop.endpoints[0].wieght");
    assert_eq!(json.pointer("/summary").unwrap(), "1 error");
}

#[test]
fn a_conflict_shows_both_places() {
    let (document, report) = Document::parse("edge.toml", "[route.a]\nhosts = [\"x\"]\n[route.b]\nhosts = [\"x\"]\n");
    let mut cx = Context::new(Arc::new(document), report);
    let at = |name: &str| Path::root().key("route").key(name).key("hosts").index(0);
    cx.error(&at("b"), "host `x` is served twice").also(&at("a"), "first here").help("remove one");
    cx.warning(&Path::root().key("route").key("a"), "just so");
    let (report, _) = cx.finish();
    let text = report.render(Colour::Plain);
    for part in ["4 | hosts = [\"x\"]", "2 | hosts = [\"x\"]", "first here", "help: remove one", "1 error, 1 warning"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(text.find("just so") < text.find("served twice"), "in the order of the file:\n{text}");
}

#[test]
fn names_far_apart_suggest_nothing_and_long_lists_are_cut() {
    let (document, report) = Document::parse("edge.toml", "a = \"zzz\"\n");
    let mut cx = Context::new(Arc::new(document), report);
    let names: Vec<String> = (0..40).map(|n| format!("name-{n}")).collect();
    cx.undefined(&Path::root().key("a"), "upstream", "zzz", names.iter().map(String::as_str));
    cx.undefined(&Path::root().key("a"), "upstream", "zzz", []);
    let problems = cx.report().problems();
    assert_eq!(problems[0].help, None);
    assert!(problems[0].message.ends_with("… 40 in all)"), "{}", problems[0].message);
    assert!(problems[1].message.ends_with("(defined: none is)"), "{}", problems[1].message);
}

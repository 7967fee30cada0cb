//! Random edits to a valid document: whatever comes out, nothing panics and every report can be shown.

use crate::spec::read;
use portcullis_config::Colour;

const VALID: &str = r#"
schema = "1"
[process]
threads = 4
drain = "30s"
[certificate.a]
cert = "ä.crt"
key.file = "a.key"
[listener.a]
address = ":443"
protocol = "https"
source = { chain = { trusted = 2 } }
[upstream.a]
endpoints = ["1.2.3.4:5", { address = "[::1]:80", weight = 3 }]
check = { kind = "http", path = "/ö" }
ratio = 1.5
[route.a]
hosts = ["*.example.com", "example.com"]
headers = { "x-a" = "1" }
[route.a.rule.b]
upstream = "a"
timeout = "1s"
"#;

/// Pieces that mean something to TOML or to the language.
const PIECES: [&str; 24] = [
    "\"",
    "'",
    "\"\"\"",
    "[",
    "]",
    "[[",
    "{",
    "}",
    "=",
    ".",
    ",",
    "\n",
    "\r\n",
    "#",
    "0x",
    "1e400",
    "true",
    "99999999999999999999",
    "1979-05-27",
    "é",
    "\u{feff}",
    "\\",
    "[route.a]",
    "\0",
];

/// xorshift64*: the same edits in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit.max(1)
    }
}

fn edit(text: &mut Vec<char>, draw: &mut Draw) {
    let at = draw.below(text.len());
    match draw.below(5) {
        0 => drop(text.drain(at..(at + 1 + draw.below(8)).min(text.len()))),
        1 => {
            let piece: Vec<char> = PIECES[draw.below(PIECES.len())].chars().collect();
            text.splice(at..at, piece);
        }
        2 => text.swap(at, draw.below(VALID.chars().count()).min(at)),
        3 => {
            let end = (at + draw.below(40)).min(text.len());
            let copy = text[at..end].to_vec();
            let to = draw.below(text.len());
            text.splice(to..to, copy);
        }
        _ => text[at] = char::from(32 + draw.below(95) as u8),
    }
}

#[test]
fn random_edits_never_panic() {
    let mut draw = Draw(0x9E37_79B9_7F4A_7C15);
    for round in 0..3_000 {
        let mut text: Vec<char> = VALID.chars().collect();
        for _ in 0..=draw.below(6) {
            edit(&mut text, &mut draw);
        }
        let text: String = text.into_iter().collect();
        let (spec, cx) = read(&text);
        let (report, _) = cx.finish();
        assert!(spec.is_some() || report.has_errors(), "round {round} is refused without a reason:\n{text}");
        let shown = report.render(Colour::Plain);
        assert!(shown.ends_with(&format!("{}\n", report.summary())), "round {round}");
        assert_eq!(report.lines().len(), report.problems().len());
    }
}

//! The prefilter changes nothing but the time: with it and without it, the reports are the same.
//!
//! Over every request of the Core Rule Set's own tests, and over mutations of them. `PORTCULLIS_CRS` names a checkout;
//! without it the test says so and passes.
#![allow(clippy::unwrap_used)]

#[path = "crs/rules.rs"]
mod rules;
#[path = "crs/suite.rs"]
mod suite;

use portcullis_waf::{Audit, Cut, Waf, ftw::Exchange};
use std::path::PathBuf;

/// Mutations of each request, unless `PORTCULLIS_MUTATIONS` says otherwise.
const MUTATIONS: usize = 1;

#[test]
fn the_prefilter_changes_no_outcome() {
    let Some(folder) = std::env::var_os("PORTCULLIS_CRS").map(PathBuf::from) else {
        println!("PORTCULLIS_CRS is not set: plain and accelerated evaluation were NOT compared");
        return;
    };
    let mutations = std::env::var("PORTCULLIS_MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(MUTATIONS);
    let waf = rules::compile(&folder);
    let tests = suite::load(&folder.join("tests/regression/tests"));
    let mut draw = Draw(1);
    let (mut compared, mut differences) = (0, Vec::new());
    for test in &tests {
        for exchange in test.exchanges().unwrap() {
            let mutated = (0..mutations).map(|_| mutate(&exchange, &mut draw));
            for exchange in std::iter::once(exchange.clone()).chain(mutated) {
                compared += 1;
                differences
                    .extend(difference(&waf, &exchange).map(|difference| format!("{}: {difference}", test.name)));
            }
        }
    }
    differences.iter().take(20).for_each(|difference| println!("{difference}"));
    println!("{compared} exchanges compared, {} differ", differences.len());
    assert!(differences.is_empty(), "{} of {compared} exchanges differ", differences.len());
}

fn difference(waf: &Waf, exchange: &Exchange) -> Option<String> {
    let (mut quick, mut plain) = (exchange.play(suite::begin(waf)), plainly(waf, exchange));
    // What it cost may differ.
    (quick.work, plain.work) = (0, 0);
    // And what a detector left out of values that the prefilter knows to be none of its business.
    [&mut quick, &mut plain].into_iter().for_each(|audit| audit.cut.retain(|cut| *cut != Cut::Words));
    if quick == plain {
        return None;
    }
    let only = |one: &portcullis_waf::Audit, other: &portcullis_waf::Audit| -> Vec<u32> {
        one.matches.iter().filter(|own| !other.matches.contains(own)).map(|own| own.id).collect()
    };
    Some(format!(
        "only accelerated {:?}, only plain {:?}, scores {}, uri {}",
        only(&quick, &plain),
        only(&plain, &quick),
        quick.scores == plain.scores,
        exchange.request.uri.escape_ascii()
    ))
}

fn plainly(waf: &Waf, exchange: &Exchange) -> Audit {
    let mut transaction = suite::begin(waf);
    transaction.run_plainly();
    exchange.play(transaction)
}

/// Changes a few bytes of the target, of header values and of the body.
fn mutate(exchange: &Exchange, draw: &mut Draw) -> Exchange {
    let mut mutated = exchange.clone();
    change(&mut mutated.request.uri, draw);
    for (_, value) in &mut mutated.request.headers {
        if draw.below(3) == 0 {
            change(value, draw);
        }
    }
    change(&mut mutated.request.body, draw);
    change(&mut mutated.response_body, draw);
    mutated
}

const PIECES: [&[u8]; 40] = [
    b" ",
    b"'",
    b"\"",
    b"<",
    b">",
    b"(",
    b")",
    b";",
    b"--",
    b"/*",
    b"*/",
    b"%27",
    b"%u0027",
    b"\\",
    b"\\x41",
    b"&lt;",
    b"&#x3c;",
    b"../",
    b"..\\",
    b"\0",
    b"\xc2\xa0",
    b"\xff",
    b"union",
    b"select",
    b"script",
    b"=",
    b"&",
    b"|",
    b"`",
    b"$(",
    b"{{",
    b"cat",
    b"A",
    b"b",
    b"0",
    b".",
    b"/",
    b"+",
    b"%",
    b"\r\n",
];

fn change(text: &mut Vec<u8>, draw: &mut Draw) {
    if text.is_empty() {
        return;
    }
    for _ in 0..1 + draw.below(4) {
        let at = draw.below(text.len().max(1));
        match draw.below(5) {
            0 if at < text.len() => drop(text.remove(at)),
            1 if at < text.len() => text[at] ^= 0x20,
            2 => {
                let end = (at + draw.below(12)).min(text.len());
                let piece = text[at.min(end)..end].to_vec();
                let to = draw.below(text.len().max(1));
                text.splice(to..to, piece);
            }
            _ => {
                let piece = PIECES[draw.below(PIECES.len())];
                let at = at.min(text.len());
                text.splice(at..at, piece.iter().copied());
            }
        }
    }
}

/// A fixed generator (Knuth's constants): the test is the same every time.
struct Draw(u64);

impl Draw {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most
    }
}

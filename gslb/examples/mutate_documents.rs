//! Mutated verdict documents for as long as is wanted: `mutate_documents [MILLIONS]`. Ends with an error when an answer is wrong, or
//! when memory grows.

#![allow(clippy::unwrap_used)]

#[path = "../tests/it/documents.rs"]
#[allow(dead_code)]
mod documents;
#[path = "../tests/it/support.rs"]
#[allow(dead_code)]
mod support;

use std::time::Instant;

fn main() {
    let millions: f64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let count = (millions * 1e6) as u64;
    let pair = documents::pair();
    let mut random = fastrand::Rng::new();
    println!("{count} documents, seed {}", random.get_seed());
    let (begin, mut taken, mut warm) = (Instant::now(), 0u64, 0);
    for round in 0..count {
        let mut octets = pair.whole.clone();
        documents::mutate(&mut octets, &mut random);
        documents::renew(&mut octets, round);
        taken += u64::from(documents::hear(&pair, &octets, 2 + round / 1_000));
        documents::judge(&pair);
        if round == count / 10 {
            warm = resident_kib();
        }
    }
    let grown = resident_kib().saturating_sub(warm);
    println!("{taken} taken in {:.0?}; {warm} KiB after a tenth, {grown} KiB more at the end", begin.elapsed());
    assert!(grown < 16 << 10, "memory grows");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

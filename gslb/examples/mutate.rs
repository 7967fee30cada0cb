//! Mutated datagrams for as long as is wanted: `mutate [MILLIONS]`. Ends with an error when a reply is wrong, or when memory grows.

#![allow(clippy::unwrap_used)]

#[path = "../tests/it/mutations.rs"]
#[allow(dead_code)]
mod mutations;
#[path = "../tests/it/support.rs"]
#[allow(dead_code)]
mod support;

use std::time::Instant;

fn main() {
    let millions: f64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(10.0);
    let count = (millions * 1e6) as u64;
    let (server, seeds) = (mutations::server(), mutations::seeds());
    let mut random = fastrand::Rng::new();
    let seed = random.get_seed();
    println!("{count} datagrams, seed {seed}");
    let (begin, mut replies, mut warm) = (Instant::now(), 0u64, 0);
    for round in 0..count {
        let seed = &seeds[(round % seeds.len() as u64) as usize];
        let mut octets = seed.octets.clone();
        mutations::mutate(&mut octets, &mut random);
        let mut asked = seed.asked;
        // Signatures are kept in their time and made anew in the next: hours pass as well.
        asked.now = asked.now.wrapping_add((round / 1_000) as u32);
        asked.draw = round;
        if let Some(reply) = server.answer(&octets, &asked) {
            replies += 1;
            // The judge costs more than the answer.
            if round % 16 == 0 {
                mutations::judge(&octets, &reply, asked.transport);
            }
        }
        if round == count / 10 {
            warm = resident_kib();
        }
    }
    let grown = resident_kib().saturating_sub(warm);
    println!("{replies} replies in {:.0?}; {warm} KiB after a tenth, {grown} KiB more at the end", begin.elapsed());
    // Signatures that are kept have their own bound.
    assert!(grown < 48 << 10, "memory grows");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

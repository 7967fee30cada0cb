//! Large documents cost what their size costs, not its square.

use crate::spec::read;
use portcullis_config::Colour;
use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

fn routes(count: usize, line: &str) -> String {
    let mut text = "[upstream.u]\nendpoints = [\"1.2.3.4:5\"]\n".to_owned();
    for n in 0..count {
        write!(
            text,
            "[route.r{n}]\nhosts = [\"h{n}.example.com\"]\nupstream = \"u\"\n[route.r{n}.rule.api]\ntimeout = \"5s\"\n{line}\n"
        )
        .unwrap();
    }
    text
}

fn time(text: &str, errors: usize) -> Duration {
    let start = Instant::now();
    let (spec, cx) = read(text);
    let taken = start.elapsed();
    let (report, _) = cx.finish();
    assert_eq!(report.problems().len(), errors);
    assert!(spec.is_some());
    taken
}

#[test]
fn ten_thousand_routes_are_checked_and_read_at_once() {
    let taken = time(&routes(10_000, ""), 0);
    eprintln!("10,000 routes: {taken:?}");
    // An unoptimised build on a busy machine; the square of anything would be minutes.
    assert!(taken < Duration::from_secs(10), "{taken:?}");
}

#[test]
fn ten_thousand_mistakes_are_found_and_shown() {
    let text = routes(10_000, "upstrem = \"u\"");
    let taken = time(&text, 10_000);
    let start = Instant::now();
    let (_, cx) = read(&text);
    let shown = cx.finish().0.render(Colour::Plain);
    eprintln!("10,000 mistakes: {taken:?}, shown in {:?}", start.elapsed());
    assert!(shown.contains("… and 9000 more") && shown.ends_with("10000 errors\n"));
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

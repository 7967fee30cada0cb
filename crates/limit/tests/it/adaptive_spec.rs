//! What may be written as `concurrency`, and what is said of what may not.

use portcullis_config::{Document, Path};
use portcullis_limit::{Concurrency, ConcurrencySpec, Outcome};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

#[derive(serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Spec {
    concurrency: ConcurrencySpec,
}

fn compile(value: &str) -> Result<Concurrency, String> {
    let (document, report) = Document::parse("edge.toml", &format!("concurrency = {value}"));
    let (spec, mut cx) = Arc::new(document).read::<Spec>(report, &[]);
    let at = Path::root().key("concurrency");
    let limit = spec.and_then(|spec| spec.concurrency.compile(Instant::now(), 1, &at, &mut cx));
    let (report, _) = cx.finish();
    match limit.filter(|_| !report.has_errors()) {
        Some(limit) => Ok(limit),
        None => Err(report.lines().join("\n")),
    }
}

#[test]
fn a_number_and_a_table_without_more_are_fixed() {
    for value in ["500", "{ max = 500 }", "{ max = 500, adaptive = false }"] {
        let limit = compile(value).unwrap();
        assert!(matches!(limit, Concurrency::Fixed(_)), "{value}");
        assert_eq!((limit.max().get(), limit.limit()), (500, 500), "{value}");
    }
}

#[test]
fn absent_values_have_their_defaults_and_every_key_arrives() {
    let all = "{ max = 9, adaptive = true, min = 2, tolerance = \"50%\", measure_every = \"5m\" }";
    for (value, min, max, tolerance, secs) in [
        ("{ max = 500, adaptive = true }", 10, 500, 0.25, 60),
        ("{ max = 7, adaptive = true }", 7, 7, 0.25, 60),
        (all, 2, 9, 0.5, 300),
    ] {
        let Concurrency::Adaptive(limit) = compile(value).unwrap() else { panic!("{value} is fixed") };
        let plan = limit.plan();
        assert_eq!((plan.min.get(), plan.max.get(), plan.tolerance), (min, max, tolerance), "{value}");
        assert_eq!(plan.measure_every, Duration::from_secs(secs), "{value}");
    }
}

#[track_caller]
fn refused(value: &str, part: &str) {
    let lines = compile(value).unwrap_err();
    assert!(lines.contains(part), "{value} gave {lines}, without {part}");
}

#[test]
fn mistakes_are_named() {
    refused("0", "edge.toml");
    refused("-1", "edge.toml");
    refused("4294967296", "edge.toml");
    refused("\"500\"", "edge.toml");
    refused("true", "edge.toml");
    refused("{ adaptive = true }", "max");
    refused("{ max = 0 }", "max");
    refused("{ max = 5, adaptve = true }", "adaptive");
    refused("{ max = 5, adaptive = true, min = 6 }", "`min` (6) is above `max` (5)");
    refused("{ max = 5, adaptive = true, min = 0 }", "min");
    refused("{ max = 5, adaptive = true, tolerance = \"101%\" }", "more than 100%");
    refused("{ max = 5, adaptive = true, measure_every = \"999ms\" }", "every 1s at most");
    refused("{ max = 5, adaptive = true, measure_every = \"2h\" }", "every 1h at least");
    refused("{ max = 5, min = 2 }", "`min` has no effect without `adaptive = true`");
    refused("{ max = 5, adaptive = false, tolerance = \"9%\" }", "`tolerance` has no effect");
    refused("{ max = 5, measure_every = \"9s\" }", "`measure_every` has no effect");
}

#[test]
fn a_spec_is_written_as_it_was_read() {
    for value in ["500", r#"{"max":5,"adaptive":true,"min":2,"tolerance":"5%","measure_every":"9s"}"#] {
        let spec: ConcurrencySpec = serde_json::from_str(value).unwrap();
        assert_eq!(serde_json::to_string(&spec).unwrap(), value);
    }
}

#[test]
fn both_kinds_are_asked_in_one_way() {
    let now = Instant::now();
    for value in ["1", "{ max = 1, adaptive = true }"] {
        let limit = compile(value).unwrap();
        let mut permit = limit.try_acquire(now).unwrap();
        assert!(limit.try_acquire(now).is_none(), "{value}");
        permit.sample(now, Outcome::Answered);
        let mut after = compile(value).unwrap();
        after.carry_over(&limit);
        assert_eq!(after.taken(), 1, "{value}");
        permit.finish(now, Outcome::Answered);
        assert_eq!((after.taken(), limit.taken()), (0, 0), "{value}");
    }
}

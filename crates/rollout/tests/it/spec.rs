//! `[slo]` and `[rollout]` as text: what compiles, and what each mistake is told.

use portcullis_config::{Context, Document};
use portcullis_names::ObjectName;
use portcullis_rollout::{
    Effect, Known, OnFail, RolloutPlan, RolloutSpec, Slo, SloSpec, compile_rollouts, compile_slos,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

#[derive(Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Root {
    #[serde(default)]
    slo: BTreeMap<ObjectName, SloSpec>,
    #[serde(default)]
    rollout: BTreeMap<ObjectName, RolloutSpec>,
}

struct Compiled {
    slos: BTreeMap<ObjectName, Arc<Slo>>,
    rollouts: BTreeMap<ObjectName, Arc<RolloutPlan>>,
    problems: Vec<String>,
}

/// The world around: route `shop` sends to `shop`, route `cart` to `cart`; upstream `shop-v2` is nobody's yet.
fn compile(text: &str) -> Compiled {
    let name = |text: &str| text.parse::<ObjectName>().unwrap();
    let routes: BTreeMap<_, _> =
        [("shop", "shop"), ("cart", "cart")].map(|(route, to)| (name(route), BTreeSet::from([name(to)]))).into();
    let upstreams = ["cart", "shop", "shop-v2", "shop-v3"].map(name).into();
    let (document, report) = Document::parse("edge.toml", text);
    let (root, mut cx): (Option<Root>, Context) = Arc::new(document).read(report, &[]);
    let (mut slos, mut rollouts) = (BTreeMap::new(), BTreeMap::new());
    if let Some(root) = root {
        slos = compile_slos(&root.slo, &routes.keys().cloned().collect(), &mut cx);
        let known = Known { routes: &routes, upstreams: &upstreams, slos: &slos };
        rollouts = compile_rollouts(&root.rollout, &known, &mut cx);
    }
    let (report, _) = cx.finish();
    Compiled { slos, rollouts, problems: report.lines() }
}

const SLO: &str = "[slo.shop]\nroute = \"shop\"\navailability = \"99.9%\"\n\
                   latency = { target = \"99%\", under = \"300ms\" }\nwindow = \"30d\"\n";

fn rollout(extra: &str) -> String {
    format!(
        "{SLO}[slo.cart]\nroute = \"cart\"\navailability = \"99%\"\n\
             [rollout.shop-v2]\nroute = \"shop\"\nfrom = \"shop\"\nto = \"shop-v2\"\n{extra}\n"
    )
}

fn only(text: &str) -> Arc<RolloutPlan> {
    let mut compiled = compile(text);
    assert!(compiled.problems.is_empty(), "{text}\n{:#?}", compiled.problems);
    compiled.rollouts.pop_first().unwrap().1
}

#[test]
fn the_example_of_the_language_compiles() {
    let compiled = compile(&rollout(
        "steps = [\"1%\", \"5%\", \"25%\", \"50%\", \"100%\"]\nhold = \"10m\"\n\
         gate = { slo = \"shop\", min_requests = 500, max_burn = 2.0 }\non_fail = \"rollback\"",
    ));
    assert!(compiled.problems.is_empty(), "{:#?}", compiled.problems);
    let plan = compiled.rollouts.get("shop-v2").unwrap();
    assert_eq!((plan.steps.len(), plan.hold, plan.on_fail), (5, Duration::from_secs(600), OnFail::Rollback));
    assert_eq!((plan.gate.min_requests, plan.gate.max_burn), (500, 2.0));
    let slo = compiled.slos.get("shop").unwrap();
    assert_eq!(plan.gate.slo.as_ref(), Some(slo));
    assert_eq!((slo.window, slo.latency.unwrap().under), (Duration::from_secs(2_592_000), Duration::from_millis(300)));
}

#[test]
fn what_is_not_said_has_its_default() {
    let plan = only(&rollout(""));
    let steps: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
    assert_eq!(steps, ["1%", "5%", "25%", "50%", "100%"]);
    assert_eq!((plan.hold, plan.on_fail, plan.effect), (Duration::from_secs(600), OnFail::Rollback, Effect::Live));
    let gate = &plan.gate;
    assert_eq!((gate.min_requests, gate.max_burn), (100, 2.0));
    assert_eq!((gate.max_error_ratio_over_baseline, gate.max_latency_ratio), (2.0, 1.5));
    assert!(gate.slo.is_none() && plan.mirror_first.is_none());
}

#[test]
fn every_key_changes_the_plan() {
    let plain = only(&rollout(""));
    for extra in [
        "steps = [\"10%\", \"50%\"]",
        "hold = \"1h\"",
        "gate = { slo = \"shop\" }",
        "gate = { min_requests = 7 }",
        "gate = { slo = \"shop\", max_burn = 1 }",
        "gate = { max_error_ratio_over_baseline = 1.2 }",
        "gate = { max_latency_ratio = 3 }",
        "on_fail = \"pause\"",
        "mirror_first = {}",
        "dry_run = true",
    ] {
        assert_ne!(only(&rollout(extra)), plain, "{extra}");
    }
    let mirror = |text: &str| only(&rollout(text)).mirror_first.unwrap();
    assert_eq!(mirror("hold = \"2m\"\nmirror_first = {}").hold, Duration::from_secs(120));
    assert_eq!(mirror("mirror_first = { percent = \"20%\", hold = \"3m\" }").hold, Duration::from_secs(180));
    assert_eq!(mirror("mirror_first = { percent = \"20%\" }").percent.to_string(), "20%");
}

#[test]
fn a_rollout_that_cannot_work_is_told_why() {
    for (extra, expected) in [
        ("steps = []", "1 to 100 steps, not 0"),
        ("steps = [\"0%\", \"5%\"]", "a step of 0% moves nothing"),
        ("steps = [\"5%\", \"5%\"]", "step `5%` is not more than the one before it, `5%`"),
        ("steps = [\"5%\", \"1%\"]", "step `1%` is not more than the one before it, `5%`"),
        ("steps = [5]", "percentage"),
        ("hold = \"0s\"", "a hold of `0ms` is not between 100ms and 30d"),
        ("hold = \"31d\"", "a hold of `31d`"),
        ("gate = { slo = \"shpo\" }", "slo \"shpo\" is not defined (defined: cart, shop) (did you mean `shop`?)"),
        ("gate = { slo = \"cart\" }", "slo \"cart\" is of route \"cart\", and the rollout of \"shop\""),
        ("gate = { max_burn = 2.0 }", "`max_burn` has no effect without `slo`"),
        ("gate = { slo = \"shop\", max_burn = 0 }", "`max_burn` is 0, and not between 0.1 and 1000"),
        ("gate = { slo = \"shop\", max_burn = nan }", "expected a number, found NaN"),
        ("gate = { max_error_ratio_over_baseline = 0.5 }", "`max_error_ratio_over_baseline` is 0.5"),
        ("gate = { max_latency_ratio = 1.05 }", "`max_latency_ratio` is 1.05, and not between 1.15"),
        ("gate = { min_requests = 0 }", "min_requests"),
        ("gate = { max_bern = 2 }", "max_burn"),
        ("on_fail = \"panic\"", "rollback"),
        ("mirror_first = { percent = \"0%\" }", "a mirror of 0% copies nothing"),
        ("mirror_first = { hold = \"1ms\" }", "a hold of `1ms`"),
        ("[rollout.other]\nroute = \"shpo\"\nfrom = \"shop\"\nto = \"shop-v3\"", "route \"shpo\" is not defined"),
        ("[rollout.other]\nroute = \"cart\"\nfrom = \"crt\"\nto = \"shop-v3\"", "upstream \"crt\" is not defined"),
        ("[rollout.other]\nroute = \"cart\"\nfrom = \"cart\"\nto = \"cart-v2\"", "upstream \"cart-v2\" is not defined"),
        ("[rollout.other]\nroute = \"cart\"\nfrom = \"cart\"\nto = \"cart\"", "the new version is the old one"),
        (
            "[rollout.other]\nroute = \"cart\"\nfrom = \"shop\"\nto = \"shop-v3\"",
            "route \"cart\" does not send to upstream \"shop\" (it sends to cart)",
        ),
        ("[rollout.other]\nroute = \"cart\"\nfrom = \"shop\"\nto = \"cart\"", "sends to upstream \"cart\" by itself"),
        (
            "[rollout.other]\nroute = \"shop\"\nfrom = \"shop\"\nto = \"shop-v3\"",
            "rollouts \"other\" and \"shop-v2\" move the same requests of route \"shop\"",
        ),
    ] {
        let problems = compile(&rollout(extra)).problems;
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{extra}\n{problems:#?}");
    }
}

#[test]
fn an_objective_that_cannot_work_is_told_why() {
    for (text, expected) in [
        ("route = \"shop\"", "slo \"x\" promises nothing"),
        ("route = \"shpo\"\navailability = \"99%\"", "route \"shpo\" is not defined"),
        ("route = \"shop\"\navailability = \"100%\"", "a target of 100% leaves no error budget"),
        ("route = \"shop\"\navailability = \"0%\"", "a target of 0% is always met"),
        ("route = \"shop\"\nlatency = { target = \"100%\", under = \"1s\" }", "leaves no error budget"),
        ("route = \"shop\"\nlatency = { target = \"99%\", under = \"0s\" }", "no answer comes within no time"),
        ("route = \"shop\"\navailability = \"99%\"\nwindow = \"5m\"", "the window `5m` is not between 1h and 90d"),
        ("route = \"shop\"\navailability = \"99%\"\nwindow = \"91d\"", "the window `91d` is not between"),
        ("route = \"shop\"\navailability = 99", "percentage"),
    ] {
        let compiled = compile(&format!("[slo.x]\n{text}\n"));
        assert!(compiled.problems.iter().any(|problem| problem.contains(expected)), "{text}\n{:#?}", compiled.problems);
        assert!(compiled.slos.is_empty(), "{text}");
    }
}

#[test]
fn all_mistakes_are_found_in_one_run() {
    let problems = compile(
        "[slo.a]\nroute = \"nowhere\"\navailability = \"100%\"\nwindow = \"1s\"\n\
         [rollout.b]\nroute = \"gone\"\nfrom = \"old\"\nto = \"new\"\nsteps = [\"5%\", \"1%\"]\nhold = \"0s\"\n",
    )
    .problems;
    assert_eq!(problems.len(), 8, "{problems:#?}");
}

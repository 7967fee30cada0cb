//! Upstreams over simulated time: who gets requests when endpoints fail, come back, differ in weight, place and speed.
#![allow(clippy::unwrap_used)]

use portcullis_config::Context;
use portcullis_discover::Resolvers;
use portcullis_health::{EjectReason, Failure, HealthState, Override, TryOutcome};
use portcullis_names::ObjectName;
use portcullis_tls::{Certificates, Trusts};
use portcullis_upstream::{
    Cluster, Clusters, NotPicked, Pick, StickyToken, Surroundings, Tried, UpstreamSpec, Volunteer, Wish, hash_key,
};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

const OK: TryOutcome = TryOutcome::Answered { status: 200, micros: 1000 };
const BAD: TryOutcome = TryOutcome::Answered { status: 503, micros: 1000 };

struct Sim {
    start: Instant,
    now: Instant,
    draw: u64,
    clusters: Clusters,
}

impl Sim {
    fn new(json: &str) -> Self {
        let start = Instant::now();
        let clusters = compile(&format!(r#"{{"u":{json}}}"#), None, start).unwrap();
        Self { start, now: start, draw: 1, clusters }
    }

    fn reload(&mut self, json: &str) {
        self.clusters = compile(&format!(r#"{{"u":{json}}}"#), Some(&self.clusters), self.now).unwrap();
    }

    fn cluster(&self) -> &Arc<Cluster> {
        self.clusters.get(0).unwrap()
    }

    fn at(&mut self, seconds: u64) {
        self.now = self.start + Duration::from_secs(seconds);
    }

    fn wish(&mut self) -> Wish {
        self.draw = self.draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Wish::plain(self.draw, self.now)
    }

    fn pick(&mut self) -> Pick {
        let wish = self.wish();
        self.cluster().pick(wish, &mut Tried::default()).unwrap()
    }

    fn shares(&mut self, count: usize) -> Vec<usize> {
        let mut shares = vec![0; self.cluster().endpoints.len()];
        for _ in 0..count {
            shares[self.pick().index] += 1;
        }
        shares
    }

    fn state(&self, index: usize) -> HealthState {
        self.cluster().endpoints[index].state.state(self.now)
    }

    /// Requests until the endpoint is ejected; `outcome` is what it answers, the others answer well.
    fn fail_until_ejected(&mut self, failing: usize, outcome: TryOutcome, most: usize) -> Option<(EjectReason, usize)> {
        (1..=most).find_map(|count| {
            let pick = self.pick();
            let outcome = if pick.index == failing { outcome } else { OK };
            Some((self.cluster().record(&pick, outcome, self.now)?, count))
        })
    }

    fn down(&self, index: usize) {
        self.cluster().endpoints[index].state.observe(Err(Failure::Refused), 2, 3, self.now);
    }
}

fn compile(json: &str, previous: Option<&Clusters>, now: Instant) -> Result<Clusters, Vec<String>> {
    let specs: BTreeMap<ObjectName, UpstreamSpec> = serde_json::from_str(json).unwrap();
    let (certificates, trusts) = (Certificates::default(), Trusts::default());
    let resolvers = Resolvers::default();
    let around = Surroundings {
        resolvers: &resolvers,
        certificates: &certificates,
        trusts: &trusts,
        connect_timeout: Duration::from_secs(2),
        zone: Some("a"),
        previous,
        made_tls: &Default::default(),
        now,
    };
    let mut cx = Context::default();
    let clusters = Clusters::compile(&specs, around, &mut cx);
    if cx.report().has_errors() { Err(cx.report().lines()) } else { Ok(clusters) }
}

fn close(shares: &[usize], expected: &[usize]) {
    for (share, expected) in shares.iter().zip(expected) {
        let slack = expected / 8 + 15;
        assert!(share.abs_diff(*expected) <= slack, "{shares:?}");
    }
}

const THREE: &str = r#""endpoints":["10.0.0.1:1","10.0.0.2:1","10.0.0.3:1"]"#;

fn three(rest: &str) -> String {
    format!("{{{THREE}{}{rest}}}", if rest.is_empty() { "" } else { "," })
}

#[test]
fn every_policy_spreads_by_weight_when_all_is_quiet() {
    for policy in ["round_robin", "random", "least_request", "peak_ewma", "consistent_hash"] {
        let mut sim = Sim::new(&format!(
            r#"{{"endpoints":[{{"address":"10.0.0.1:1","weight":60}},{{"address":"10.0.0.2:1","weight":30}},{{"address":"10.0.0.3:1","weight":10}},{{"address":"10.0.0.4:1","weight":0}}],"balance":{{"policy":"{policy}"}}}}"#
        ));
        close(&sim.shares(3000), &[1800, 900, 300, 0]);
    }
}

#[test]
fn when_one_is_down_the_others_share_its_load_evenly() {
    for policy in ["round_robin", "random", "least_request", "peak_ewma", "consistent_hash"] {
        let mut sim = Sim::new(&three(&format!(r#""balance":{{"policy":"{policy}"}},"health_check":{{}}"#)));
        sim.down(0);
        close(&sim.shares(1000), &[0, 500, 500]);
    }
}

#[test]
fn least_request_avoids_the_busy_one() {
    let mut sim = Sim::new(&three(r#""balance":{"policy":"least_request"}"#));
    let force =
        |sim: &Sim, forced| (1..3).for_each(|index| sim.cluster().endpoints[index].state.force(forced, sim.now));
    force(&sim, Some(Override::Drained));
    let _held: Vec<_> = (0..20).map(|_| sim.pick()).collect();
    force(&sim, None);
    let shares = sim.shares(900);
    assert_eq!(shares[0], 0, "of two, the idle one is always better: {shares:?}");
}

#[test]
fn peak_ewma_avoids_the_slow_one_and_forgives() {
    let mut sim = Sim::new(&three(r#""balance":{"policy":"peak_ewma"}"#));
    let mut last = Vec::new();
    for round in 0..2000 {
        let slow = round < 1000;
        sim.now += Duration::from_millis(20);
        let pick = sim.pick();
        let micros = if slow && pick.index == 0 { 200_000 } else { 1000 };
        last.push(pick.index);
        sim.cluster().record(&pick, TryOutcome::Answered { status: 200, micros }, sim.now);
    }
    let share = |part: &[usize]| part.iter().filter(|index| **index == 0).count();
    assert!(share(&last[..1000]) < 20, "{}", share(&last[..1000]));
    for _ in 0..1000 {
        sim.now += Duration::from_millis(100);
        let pick = sim.pick();
        sim.cluster().record(&pick, OK, sim.now);
        last.push(pick.index);
    }
    assert!(share(&last[2500..]) > 100, "{}", share(&last[2500..]));
}

#[test]
fn a_key_stays_with_its_endpoint_and_comes_back_to_it() {
    for algorithm in ["maglev", "ring"] {
        let mut sim = Sim::new(&three(&format!(
            r#""balance":{{"policy":"consistent_hash","algorithm":"{algorithm}"}},"health_check":{{}}"#
        )));
        let owners = |sim: &mut Sim| -> Vec<usize> {
            (0..600_u64)
                .map(|key| {
                    let wish = Wish { hash: Some(hash_key(&key.to_le_bytes())), ..sim.wish() };
                    sim.cluster().pick(wish, &mut Tried::default()).unwrap().index
                })
                .collect()
        };
        let before = owners(&mut sim);
        assert_eq!(before, owners(&mut sim));
        sim.down(1);
        let without = owners(&mut sim);
        for (before, without) in before.iter().zip(&without) {
            assert!(if *before == 1 { *without != 1 } else { without == before });
        }
        for _ in 0..2 {
            sim.cluster().endpoints[1].state.observe(Ok(()), 2, 3, sim.now);
        }
        assert_eq!(before, owners(&mut sim));
    }
}

#[test]
fn a_hot_key_spills_over_when_loads_are_bounded() {
    for (bounded, others) in [("", false), (r#","load_factor":1.25"#, true)] {
        let mut sim = Sim::new(&three(&format!(r#""balance":{{"policy":"consistent_hash"{bounded}}}"#)));
        let held: Vec<_> = (0..90)
            .map(|_| {
                let wish = Wish { hash: Some(7), ..sim.wish() };
                sim.cluster().pick(wish, &mut Tried::default()).unwrap()
            })
            .collect();
        let most = (0..3).map(|index| held.iter().filter(|pick| pick.index == index).count()).max().unwrap();
        assert_eq!(most <= 38, others, "{most} of 90");
    }
}

#[test]
fn lower_priorities_take_what_the_first_cannot_carry() {
    let endpoints: Vec<String> =
        (1..=10).map(|n| format!(r#"{{"address":"10.0.0.{n}:1","priority":{}}}"#, u32::from(n > 5))).collect();
    let mut sim = Sim::new(&format!(r#"{{"endpoints":[{}],"health_check":{{}}}}"#, endpoints.join(",")));
    let first = |sim: &mut Sim| sim.shares(2000)[..5].iter().sum::<usize>();
    assert_eq!(first(&mut sim), 2000);
    sim.down(0);
    assert_eq!(first(&mut sim), 2000, "four of five times 1.4 is more than all");
    sim.down(1);
    sim.down(2);
    let share = first(&mut sim);
    assert!((1060..1180).contains(&share), "two of five times 1.4 is 56 %: {share}");
    sim.down(3);
    sim.down(4);
    assert_eq!(first(&mut sim), 0);
    for index in 5..10 {
        sim.down(index);
    }
    assert_eq!(first(&mut sim), 2000, "when all are down health is not believed");
}

#[test]
fn the_own_zone_comes_first_as_far_as_it_can_carry_the_load() {
    let endpoints: Vec<String> = (1..=6)
        .map(|n| format!(r#"{{"address":"10.0.0.{n}:1","zone":"{}"}}"#, if n <= 3 { "a" } else { "b" }))
        .collect();
    let mut sim = Sim::new(&format!(
        r#"{{"endpoints":[{}],"balance":{{"locality":"prefer"}},"health_check":{{}}}}"#,
        endpoints.join(",")
    ));
    let own = |sim: &mut Sim| sim.shares(2000)[..3].iter().sum::<usize>();
    assert_eq!(own(&mut sim), 2000);
    sim.down(0);
    sim.down(1);
    // A third times 1.4 stays, and a quarter of what goes out comes back to the one that is left.
    let share = own(&mut sim);
    assert!((1120..1280).contains(&share), "{share}");
    sim.down(2);
    assert_eq!(own(&mut sim), 0);
}

#[test]
fn a_new_endpoint_starts_slowly() {
    let mut sim = Sim::new(&three(r#""balance":{"policy":"round_robin","slow_start":"60s"}"#));
    sim.at(100);
    close(&sim.shares(900), &[300, 300, 300]);
    sim.reload(r#"{"endpoints":["10.0.0.1:1","10.0.0.2:1","10.0.0.3:1","10.0.0.4:1"],"balance":{"policy":"round_robin","slow_start":"60s"}}"#);
    let share = |sim: &mut Sim, seconds| {
        sim.at(seconds);
        sim.shares(3100)[3]
    };
    let (early, middle, late) = (share(&mut sim, 100), share(&mut sim, 130), share(&mut sim, 161));
    assert!((80..130).contains(&early), "{early}");
    assert!((400..490).contains(&middle), "{middle}");
    assert!((760..790).contains(&late), "{late}");
}

#[test]
fn failing_endpoints_are_ejected_by_the_rule_they_break() {
    for (outcome, reason) in [
        (TryOutcome::Answered { status: 500, micros: 1 }, EjectReason::Consecutive5xx),
        (BAD, EjectReason::ConsecutiveGateway),
        (TryOutcome::Broken, EjectReason::ConsecutiveGateway),
        (TryOutcome::NotConnected, EjectReason::ConsecutiveConnect),
    ] {
        let mut sim = Sim::new(&three(""));
        let (found, requests) = sim.fail_until_ejected(1, outcome, 100).unwrap();
        assert_eq!(found, reason);
        assert!(requests <= 15, "{requests}");
        assert_eq!(sim.state(1), HealthState::Ejected);
        close(&sim.shares(1000), &[500, 0, 500]);
    }
}

#[test]
fn one_trial_request_at_a_time_readmits_or_ejects_for_longer() {
    let mut sim = Sim::new(&three(r#""balance":{"policy":"round_robin"}"#));
    sim.fail_until_ejected(0, BAD, 100).unwrap();
    sim.at(4);
    assert_eq!(sim.shares(300)[0], 0);
    sim.at(5);
    assert_eq!(sim.state(0), HealthState::Trial);
    let held: Vec<_> = (0..30).map(|_| sim.pick()).collect();
    assert_eq!(held.iter().filter(|pick| pick.index == 0).count(), 1, "half open: one request finds out");
    let trial = held.into_iter().find(|pick| pick.index == 0).unwrap();
    assert_eq!(sim.cluster().record(&trial, BAD, sim.now), Some(EjectReason::Trial));
    drop(trial);
    sim.at(14);
    assert_eq!((sim.shares(300)[0], sim.state(0)), (0, HealthState::Ejected), "twice as long");
    sim.at(90);
    let trial = (0..100).map(|_| sim.pick()).find(|pick| pick.index == 0).unwrap();
    assert_eq!(sim.cluster().record(&trial, OK, sim.now), None);
    assert_eq!(sim.state(0), HealthState::Unknown);
    close(&sim.shares(300), &[100, 100, 100]);
}

#[test]
fn no_more_than_the_share_is_ejected_and_a_lone_endpoint_never() {
    let mut sim = Sim::new(&three(""));
    for _ in 0..300 {
        let pick = sim.pick();
        sim.cluster().record(&pick, BAD, sim.now);
    }
    assert_eq!((0..3).filter(|index| sim.state(*index) == HealthState::Ejected).count(), 1);
    let mut lone = Sim::new(r#"{"endpoints":["10.0.0.1:1"]}"#);
    assert_eq!(lone.fail_until_ejected(0, BAD, 100), None);
    let mut off = Sim::new(&three(r#""outlier":{"max_ejected":"0%"}"#));
    assert_eq!(off.fail_until_ejected(0, BAD, 100), None);
}

#[test]
fn an_interval_finds_the_slow_and_the_often_failing() {
    let mut sim = Sim::new(&three(
        r#""outlier":{"latency_factor":3.0,"success_rate":"80%","max_ejected":"100%"},"balance":{"policy":"round_robin"}"#,
    ));
    for round in 0..300 {
        let pick = sim.pick();
        let outcome = match pick.index {
            0 => TryOutcome::Answered { status: 200, micros: 50_000 },
            1 if round % 2 == 0 => TryOutcome::Answered { status: 500, micros: 1000 },
            _ => OK,
        };
        sim.cluster().record(&pick, outcome, sim.now);
    }
    let mut found = sim.cluster().judge_interval(sim.now);
    found.sort_by_key(|(index, _)| *index);
    assert_eq!(found, [(0, EjectReason::Latency), (1, EjectReason::SuccessRate)]);
    assert!(sim.cluster().judge_interval(sim.now).is_empty(), "sums begin anew");
}

#[test]
fn a_sticky_client_stays_through_drain_and_moves_when_it_must() {
    let mut sim = Sim::new(&three(r#""sticky":{"cookie":"s"},"health_check":{}"#));
    let first = sim.pick();
    let token = first.set_cookie.unwrap();
    let again = |sim: &mut Sim, token: StickyToken| {
        let wish = Wish { sticky: Some(token), ..sim.wish() };
        let pick = sim.cluster().pick(wish, &mut Tried::default()).unwrap();
        (pick.index, pick.set_cookie)
    };
    for _ in 0..20 {
        assert_eq!(again(&mut sim, token), (first.index, None));
    }
    let state = sim.cluster().endpoints[first.index].state.clone();
    state.force(Some(Override::Drained), sim.now);
    assert_eq!(again(&mut sim, token), (first.index, None), "a drained endpoint keeps those it has");
    assert!((0..50).all(|_| sim.pick().index != first.index), "and gets no new ones");
    state.force(Some(Override::Down), sim.now);
    let (index, cookie) = again(&mut sim, token);
    assert!(index != first.index && cookie.is_some_and(|new| new != token));
}

#[test]
fn the_breaker_bounds_requests_and_retries() {
    let mut sim = Sim::new(&three(r#""circuit_breaker":{"requests":5,"retries":2}"#));
    let held: Vec<_> = (0..5).map(|_| sim.pick()).collect();
    let wish = sim.wish();
    assert_eq!(sim.cluster().pick(wish, &mut Tried::default()).unwrap_err(), NotPicked::Overflow);
    drop(held);
    assert!(sim.cluster().pick(wish, &mut Tried::default()).is_ok());
    let retries: Vec<_> = (0..5).map_while(|_| sim.cluster().allow_retry(sim.now)).collect();
    assert_eq!(retries.len(), 2);
}

#[test]
fn state_survives_a_reload_and_weights_change_live() {
    let mut sim = Sim::new(&three(""));
    sim.fail_until_ejected(2, BAD, 100).unwrap();
    let held = sim.pick();
    sim.reload(r#"{"endpoints":[{"address":"10.0.0.1:1","weight":3},"10.0.0.2:1","10.0.0.3:1"]}"#);
    assert_eq!((sim.state(2), sim.cluster().load.requests.get()), (HealthState::Ejected, 1));
    drop(held);
    close(&sim.shares(1000), &[750, 250, 0]);
}

#[test]
fn mistakes_are_refused() {
    for json in [
        r#"{"u":{"endpoints":["10.0.0.1:1"],"balance":{"key":"client_ip"}}}"#,
        r#"{"u":{"endpoints":["10.0.0.1:1"],"balance":{"load_factor":2.0}}}"#,
        r#"{"u":{"endpoints":["10.0.0.1:1"],"balance":{"algorithm":"ring"}}}"#,
        r#"{"u":{"endpoints":["10.0.0.1:1"],"balance":{"policy":"consistent_hash","slow_start":"1s"}}}"#,
        r#"{"u":{"endpoints":["10.0.0.1:1"],"balance":{"locality":"prefer"}}}"#,
        r#"{"u":{"endpoints":["10.0.0.1:1"],"fallback":"v"}}"#,
        r#"{"u":{"endpoints":["10.0.0.1:1"],"fallback":"u"}}"#,
        r#"{"u":{"endpoints":["10.0.0.1:1"],"fallback":"v"},"v":{"endpoints":["10.0.0.1:1"],"fallback":"u"}}"#,
    ] {
        assert!(compile(json, None, Instant::now()).is_err(), "{json}");
    }
}

#[test]
fn only_volunteers_find_out_whether_an_endpoint_is_well_again() {
    let mut sim = Sim::new(&three(r#""balance":{"policy":"round_robin"}"#));
    sim.fail_until_ejected(0, BAD, 100).unwrap();
    sim.at(5);
    assert_eq!(sim.state(0), HealthState::Trial);
    for _ in 0..30 {
        let wish = Wish { volunteer: Volunteer::No, ..sim.wish() };
        let pick = sim.cluster().pick(wish, &mut Tried::default()).unwrap();
        assert_ne!(pick.index, 0);
    }
    let held: Vec<_> = (0..30).map(|_| sim.pick()).collect();
    assert_eq!(held.iter().filter(|pick| pick.index == 0).count(), 1);
    drop(held);
    sim.at(7);
    let picked: Vec<_> = (0..30)
        .map(|_| {
            let wish = Wish { volunteer: Volunteer::No, ..sim.wish() };
            sim.cluster().pick(wish, &mut Tried::default()).unwrap()
        })
        .collect();
    assert_eq!(picked.iter().filter(|pick| pick.index == 0).count(), 1, "nobody volunteered for two seconds");
}

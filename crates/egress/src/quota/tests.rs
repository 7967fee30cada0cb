use super::*;
use crate::{Caller, sample::noon};
use std::sync::Arc;

fn destination(limits: &str) -> Arc<Destination> {
    let policy = crate::sample::policy(&format!("[destination.a]\nhosts = [\"a.example\"]\n{limits}"));
    policy.destination("a").unwrap().clone()
}

fn callers() -> [CallerName; 2] {
    ["10.0.0.1", "10.0.0.2"].map(|address| Caller::from_address(address.parse().unwrap()).name())
}

fn start() -> Instant {
    Instant::now()
}

#[test]
fn a_rate_holds_each_caller_or_all_of_them() {
    let (start, [one, two]) = (start(), callers());
    for (key, second_caller_passes) in [("workload", true), ("destination", false)] {
        let destination = destination(&format!("rate_limit = {{ rate = \"2/s\", key = \"{key}\" }}"));
        let quotas = Quotas::new(start);
        let ask = |who: &CallerName, at: Duration| quotas.admit(&destination, who, start + at, noon());
        assert!(ask(&one, Duration::ZERO).is_ok() && ask(&one, Duration::ZERO).is_ok());
        let refusal = ask(&one, Duration::ZERO).unwrap_err();
        assert_eq!(refusal, QuotaRefusal { reason: Reason::RateLimited, retry_after: Duration::from_millis(500) });
        assert_eq!(ask(&two, Duration::ZERO).is_ok(), second_caller_passes, "{key}");
        assert!(ask(&one, Duration::from_secs(1)).is_ok());
    }
}

#[test]
fn a_budget_of_requests_lasts_for_its_window() {
    let (start, [one, two]) = (start(), callers());
    let destination = destination("budget = { requests = 3, per = \"1d\" }");
    let quotas = Quotas::new(start);
    let ask = |who: &CallerName, wall: Duration| quotas.admit(&destination, who, start, noon() + wall);
    for _ in 0..3 {
        assert!(ask(&one, Duration::from_secs(5)).is_ok());
    }
    let refusal = ask(&one, Duration::from_secs(86_390)).unwrap_err();
    assert_eq!(refusal, QuotaRefusal { reason: Reason::Quota, retry_after: Duration::from_secs(10) });
    assert!(ask(&two, Duration::from_secs(86_390)).is_ok());
    assert!(ask(&one, Duration::from_secs(86_400)).is_ok());
}

#[test]
fn octets_are_counted_after_they_moved_and_cut_what_goes_beyond() {
    let (start, [one, two]) = (start(), callers());
    let destination = destination("budget = { bytes = \"1KiB\", per = \"1h\", key = \"destination\" }");
    let quotas = Quotas::new(start);
    let spend = |who: &CallerName, octets| quotas.spend(&destination, who, octets, start, noon());
    assert_eq!(spend(&one, 1_000), Ok(()));
    assert!(quotas.admit(&destination, &two, start, noon()).is_ok());
    assert_eq!(spend(&two, 24), Err(Reason::Quota));
    assert_eq!(quotas.admit(&destination, &one, start, noon()).unwrap_err().reason, Reason::Quota);
    assert!(quotas.admit(&destination, &one, start, noon() + Duration::from_secs(3_600)).is_ok());
}

#[test]
fn tunnels_at_once_are_exactly_as_many_as_allowed_from_many_threads() {
    let destination = destination("tunnels = { max = 64 }");
    let quotas = Quotas::new(start());
    let [one, two] = callers();
    let held: Vec<TunnelPlace> = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| (0..64).filter_map(|_| quotas.open_tunnel(&destination, &one).ok()).collect::<Vec<_>>())
            })
            .collect();
        tries.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(held.len(), 64);
    assert_eq!(quotas.open_tunnel(&destination, &one).unwrap_err(), Reason::Tunnels);
    assert!(quotas.open_tunnel(&destination, &two).is_ok());
    drop(held);
    assert!(quotas.open_tunnel(&destination, &one).is_ok());
}

#[test]
fn without_limits_nothing_is_counted() {
    let (destination, quotas, [one, _]) = (destination(""), Quotas::new(start()), callers());
    for _ in 0..1_000 {
        assert!(quotas.admit(&destination, &one, start(), noon()).is_ok());
    }
    assert!(quotas.spend(&destination, &one, u64::MAX, start(), noon()).is_ok());
    assert!(quotas.rates.is_empty() && quotas.octets.is_empty() && quotas.requests.is_empty());
}

//! What was seen under rules that report, printed as the smallest configuration that would allow it.
//!
//! Hosts that the same callers reach in the same way share one destination. Wildcards are not guessed: that `a.x` and `b.x`
//! were seen says nothing about `c.x`.

use crate::{Caller, CallerName, FirstOctets, Protocol, Target};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

/// What was seen, once each. Ends at 10,000 pairs; [`Learned::overflowed`] tells that there was more.
#[derive(Debug, Default)]
pub struct Learned {
    seen: BTreeMap<(String, u16, &'static str), BTreeSet<CallerName>>,
    pairs: usize,
    overflowed: u64,
}

const SEEN_MAX: usize = 10_000;

impl Learned {
    pub fn observe(&mut self, caller: &Caller<'_>, target: &Target, first: &FirstOctets) {
        let protocol = match first {
            FirstOctets::Tls(_) => Protocol::Tls,
            FirstOctets::Http => Protocol::Http,
            FirstOctets::Ssh => Protocol::Ssh,
            FirstOctets::Postgres => Protocol::Postgres,
            FirstOctets::BrokenHello | FirstOctets::Unknown | FirstOctets::Silence => Protocol::Opaque,
        };
        let host = target.host().to_string().trim_matches(['[', ']']).to_owned();
        let (key, caller) = ((host, target.port(), word(protocol)), caller.name());
        if self.seen.get(&key).is_some_and(|callers| callers.contains(&caller)) {
            return;
        }
        if self.pairs >= SEEN_MAX {
            self.overflowed = self.overflowed.saturating_add(1);
            return;
        }
        self.pairs += 1;
        self.seen.entry(key).or_default().insert(caller);
    }

    /// Pairs that were not kept.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }

    pub fn to_toml(&self) -> String {
        // The same host, protocol and callers: one list of ports.
        let mut ports: BTreeMap<(&BTreeSet<CallerName>, &str, &str), BTreeSet<u16>> = BTreeMap::new();
        for ((host, port, protocol), callers) in &self.seen {
            ports.entry((callers, protocol, host)).or_default().insert(*port);
        }
        // The same callers, protocol and ports: one destination.
        let mut hosts: BTreeMap<(&BTreeSet<CallerName>, &str, BTreeSet<u16>), BTreeSet<&str>> = BTreeMap::new();
        for ((callers, protocol, host), ports) in ports {
            hosts.entry((callers, protocol, ports)).or_default().insert(host);
        }
        let mut text = String::new();
        for (number, ((callers, protocol, ports), hosts)) in hosts.into_iter().enumerate() {
            let name = format!("learned-{}", number + 1);
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            let _ = write!(
                text,
                "[destination.{name}]\nhosts    = [{}]\nports    = [{}]\nprotocol = \"{protocol}\"\n\n\
                 [access.{name}]\nfrom   = [{}]\nto     = [\"destination:{name}\"]\naction = \"allow\"\n\n",
                quoted(hosts.into_iter()),
                ports.join(", "),
                quoted(callers.iter().map(CallerName::as_str)),
            );
        }
        text
    }
}

fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tls => "tls",
        Protocol::Http => "http",
        Protocol::Ssh => "ssh",
        Protocol::Postgres => "postgres",
        Protocol::Opaque => "opaque",
    }
}

/// JSON's strings are TOML's, but for DEL, which is in no name here.
fn quoted<'t>(texts: impl Iterator<Item = &'t str>) -> String {
    texts.map(|text| serde_json::Value::from(text).to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Facts, Hello, Request, Verdict, protocol::Ech, sample};

    #[test]
    fn what_was_learnt_allows_exactly_what_was_seen() {
        let tls = FirstOctets::Tls(Hello { sni: None, ech: Ech::Absent });
        let user = |name| Caller { user: Some(name), ..Caller::from_address([10, 0, 0, 1].into()) };
        let lone = Caller::from_address("2001:db8::1".parse().unwrap());
        let seen = [
            (user("ci"), "a.example:443", &tls),
            (user("ci"), "b.example:443", &tls),
            (user("ci"), "b.example:8443", &tls),
            (user("ci"), "c.example:443", &tls),
            (user("o'\"x"), "c.example:443", &tls),
            (lone, "d.example:80", &FirstOctets::Http),
            (lone, "192.0.2.7:22", &FirstOctets::Ssh),
            (lone, "[2606::7]:9", &FirstOctets::Silence),
        ];
        let mut learned = Learned::default();
        for _ in 0..2 {
            seen.iter().for_each(|(caller, target, first)| {
                learned.observe(caller, &Target::parse(target).unwrap(), first);
            });
        }
        let text = learned.to_toml();
        let policy = sample::policy(&text);
        for (caller, target, _) in &seen {
            for (other, wanted) in seen.iter().map(|(other, at, _)| (other, at == target)).chain([(caller, true)]) {
                let target = Target::parse(target).unwrap();
                let facts = Facts { caller: *other, target: &target, request: Request::Unseen };
                let allowed = policy.decide(&facts, sample::noon()).verdict == Verdict::Allow;
                let was_seen =
                    wanted || seen.iter().any(|(who, at, _)| who.name() == other.name() && *at == target.to_string());
                assert_eq!(allowed, was_seen, "{} {target}\n{text}", other.name());
            }
        }
        assert_eq!(text.matches("[destination.").count(), 6, "{text}");
    }

    #[test]
    fn learning_has_an_end() {
        let mut learned = Learned::default();
        for n in 0..(SEEN_MAX + 5) {
            let target = Target::parse(&format!("h{n}.example:443")).unwrap();
            learned.observe(&Caller::from_address([10, 0, 0, 1].into()), &target, &FirstOctets::Http);
        }
        assert_eq!((learned.pairs, learned.overflowed()), (SEEN_MAX, 5));
    }
}

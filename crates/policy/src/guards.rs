//! What a request must pass before an upstream is picked, in one fixed order whatever the order in the files.
//!
//! Security accumulates: `[defaults]`, the route and the rule each add their checks, and a request passes all of them. Only
//! `relax` takes away what the levels above demand, and only what one of them lists in `may_relax`.

use crate::{Reason, Relaxable, RequestView, RouteWafSpec, WafWish, Wanted, key::write_part};
use portcullis_auth::{AuthNames, AuthRule, Authz, AuthzSpec, Consumers, Identity, IpRules, IpRulesSpec, RuleAuthSpec};
use portcullis_config::{Context, Path};
use portcullis_limit::{Concurrency, ConcurrencySpec, Key, RateLimit, RateLimitRefs};
use portcullis_names::{KeyPart, ObjectName};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
    time::Instant,
};

/// One check.
#[derive(Debug, Clone)]
pub enum Guard {
    Ip(Arc<IpRules>),
    RateLimit(Arc<RateLimit>),
    /// A preflight request (CORS) is answered here: browsers never send credentials with it.
    Preflight,
    Auth(Arc<AuthRule>),
    Authz(Arc<Authz>),
    Concurrency(Arc<Slots>),
}

/// So many requests of a route or rule at a time.
#[derive(Debug)]
pub struct Slots {
    pub owner: String,
    pub limit: Concurrency,
}

/// The checks of one rule, in the order in which they run.
#[derive(Debug, Default)]
pub struct Guards(Vec<Guard>);

/// Proof that a request passed every guard of its plan. Only a [`Gate`] makes it and picking an endpoint takes it, so a
/// forgotten check does not compile.
#[derive(Debug)]
pub struct Cleared(());

/// The way through the guards of one request.
#[derive(Debug)]
pub struct Gate<'g> {
    rest: std::slice::Iter<'g, Guard>,
}

impl Guards {
    /// Begins with what needs no rule: the body that the request announces fits.
    pub fn gate(&self, announced_body: Option<u64>, body_limit: u64) -> Result<Gate<'_>, Reason> {
        if announced_body.is_some_and(|announced| announced > body_limit) {
            return Err(Reason::BodyTooLarge);
        }
        Ok(Gate { rest: self.0.iter() })
    }

    pub fn iter(&self) -> impl Iterator<Item = &Guard> {
        self.0.iter()
    }
}

impl<'g> Gate<'g> {
    /// The next check to run; the caller goes no further when it is not passed.
    pub fn next_guard(&mut self) -> Option<&'g Guard> {
        self.rest.next()
    }

    /// The proof, when all were run. Fails closed.
    pub fn cleared(self) -> Result<Cleared, Reason> {
        if self.rest.len() == 0 { Ok(Cleared(())) } else { Err(Reason::Internal) }
    }
}

/// The guards that one level (`[defaults]`, a route, a rule) is written with.
#[derive(Debug, Clone, Copy, Default)]
pub struct GuardSpecs<'s> {
    pub ip: Option<&'s IpRulesSpec>,
    pub rate_limit: Option<&'s RateLimitRefs>,
    pub auth: Option<&'s RuleAuthSpec>,
    pub authz: Option<&'s AuthzSpec>,
    pub concurrency: Option<ConcurrencySpec>,
    pub waf: Option<&'s RouteWafSpec>,
    pub privacy: Option<&'s str>,
    pub api: Option<&'s str>,
    pub relax: &'s [Relaxable],
    pub may_relax: &'s [Relaxable],
}

/// The same compiled: shared by all rules below.
#[derive(Debug, Clone, Default)]
pub struct Level {
    ip: Vec<Arc<IpRules>>,
    auth: Vec<Arc<AuthRule>>,
    authz: Vec<Arc<Authz>>,
    rate_limits: Vec<Arc<RateLimit>>,
    slots: Vec<Arc<Slots>>,
    waf: Option<WafWish>,
    privacy: Wanted,
    api: Wanted,
    may_relax: Vec<Relaxable>,
}

/// What guards may refer to.
#[derive(Debug, Clone, Copy)]
pub struct KnownGuards<'k> {
    pub limits: &'k BTreeMap<ObjectName, Arc<RateLimit>>,
    pub stores: &'k BTreeSet<ObjectName>,
    pub names: AuthNames<'k>,
    pub previous: &'k CarriedGuards,
    pub now: Instant,
    /// For what must not happen everywhere at one moment.
    pub draw: u64,
}

/// State that goes on over a reload, by name.
#[derive(Debug, Default)]
pub struct CarriedGuards {
    pub limits: BTreeMap<String, Arc<RateLimit>>,
    slots: BTreeMap<String, Arc<Slots>>,
}

impl KnownGuards<'static> {
    /// Nothing is named, and nothing came before.
    pub fn none(now: Instant) -> Self {
        static PREVIOUS: CarriedGuards = CarriedGuards { limits: BTreeMap::new(), slots: BTreeMap::new() };
        static LIMITS: BTreeMap<ObjectName, Arc<RateLimit>> = BTreeMap::new();
        static STORES: BTreeSet<ObjectName> = BTreeSet::new();
        static IDENTITIES: BTreeMap<ObjectName, Arc<Identity>> = BTreeMap::new();
        static CONSUMERS: LazyLock<Arc<Consumers>> =
            LazyLock::new(|| Arc::new(Consumers::compile(&BTreeMap::new(), &Path::root(), &mut Context::default())));
        let names = AuthNames { identities: &IDENTITIES, consumers: &CONSUMERS };
        Self { limits: &LIMITS, stores: &STORES, names, previous: &PREVIOUS, now, draw: 0 }
    }
}

impl GuardSpecs<'_> {
    /// `owner` (`"shop"`, `"shop/api"`) names what has no name of its own. Adds to what the level above demands.
    pub fn compile(&self, owner: &str, above: &Level, known: KnownGuards<'_>, at: &Path, cx: &mut Context) -> Level {
        let mut level = above.clone();
        for (index, relaxed) in self.relax.iter().enumerate() {
            level.relax(*relaxed, &at.key("relax").index(index), cx);
        }
        if let Some(spec) = self.ip {
            level.ip.extend(spec.compile(&at.key("ip"), cx).map(Arc::new));
        }
        if let Some(spec) = self.auth {
            level.auth.extend(spec.compile(&at.key("auth"), known.names, cx).map(Arc::new));
        }
        if let Some(spec) = self.authz {
            level.authz.extend(spec.compile(&at.key("authz"), cx).map(Arc::new));
        }
        if let Some(refs) = self.rate_limit {
            let refer = portcullis_limit::Known {
                limits: known.limits,
                stores: known.stores,
                previous: &known.previous.limits,
            };
            level.rate_limits.extend(refs.compile(owner, &refer, known.now, &at.key("rate_limit"), cx));
        }
        if let Some(spec) = self.waf {
            let above = level.waf.take().unwrap_or_default();
            level.waf = Some(above.and(spec, &at.key("waf"), cx));
        }
        if let Some(name) = self.privacy {
            level.privacy.add(name, at.key("privacy"));
        }
        if let Some(name) = self.api {
            level.api.add(name, at.key("api"));
        }
        let concurrency =
            self.concurrency.and_then(|spec| spec.compile(known.now, known.draw, &at.key("concurrency"), cx));
        if let Some(mut limit) = concurrency {
            if let Some(previous) = known.previous.slots.get(owner) {
                limit.carry_over(&previous.limit);
            }
            level.slots.push(Arc::new(Slots { owner: owner.to_owned(), limit }));
        }
        level.may_relax.extend_from_slice(self.may_relax);
        level
    }
}

impl Level {
    fn relax(&mut self, relaxed: Relaxable, at: &Path, cx: &mut Context) {
        if !self.may_relax.contains(&relaxed) {
            cx.error(at, format!("nothing above permits to relax `{relaxed}`"))
                .help(format!("add it to `may_relax` of [defaults] or of the route: may_relax = [\"{relaxed}\"]"));
            return;
        }
        let dropped = match relaxed {
            Relaxable::Ip => std::mem::take(&mut self.ip).len(),
            Relaxable::Auth => std::mem::take(&mut self.auth).len(),
            Relaxable::Authz => std::mem::take(&mut self.authz).len(),
            Relaxable::RateLimit => std::mem::take(&mut self.rate_limits).len(),
            Relaxable::Waf => usize::from(self.waf.take().is_some()),
            Relaxable::Privacy => self.privacy.drop_all(),
            Relaxable::Api => self.api.drop_all(),
            Relaxable::Concurrency => std::mem::take(&mut self.slots).len(),
        };
        if dropped == 0 {
            cx.error(at, format!("there is no `{relaxed}` above to relax"));
        }
    }

    /// What is wanted of the WAF; `None`: nothing was said about it.
    pub(crate) fn waf(&self) -> Option<&WafWish> {
        self.waf.as_ref()
    }

    pub(crate) fn privacy(&self) -> &Wanted {
        &self.privacy
    }

    pub(crate) fn api(&self) -> &Wanted {
        &self.api
    }

    /// The innermost rule that takes tokens: whose claims `match.claims` speaks of.
    pub(crate) fn token_rule(&self) -> Option<&Arc<AuthRule>> {
        self.auth.iter().rev().find(|rule| rule.takes_tokens())
    }

    /// `preflight`: of a rule that speaks of CORS.
    pub(crate) fn guards(&self, preflight: Option<Guard>) -> Guards {
        let late = |limit: &&Arc<RateLimit>| needs_identity(limit);
        let early = self.rate_limits.iter().filter(|limit| !needs_identity(limit));
        let late = self.rate_limits.iter().filter(late);
        Guards(
            (self.ip.iter().cloned().map(Guard::Ip))
                .chain(early.cloned().map(Guard::RateLimit))
                .chain(preflight)
                .chain(self.auth.iter().cloned().map(Guard::Auth))
                .chain(late.cloned().map(Guard::RateLimit))
                .chain(self.authz.iter().cloned().map(Guard::Authz))
                .chain(self.slots.iter().cloned().map(Guard::Concurrency))
                .collect(),
        )
    }
}

impl CarriedGuards {
    pub(crate) fn keep(&mut self, guards: &Guards) {
        for guard in guards.iter() {
            match guard {
                Guard::RateLimit(limit) => {
                    self.limits.insert(limit.name().to_owned(), limit.clone());
                }
                Guard::Concurrency(slots) => {
                    self.slots.insert(slots.owner.clone(), slots.clone());
                }
                Guard::Ip(_) | Guard::Preflight | Guard::Auth(_) | Guard::Authz(_) => {}
            }
        }
    }
}

/// Whether it counts by what only authentication finds out.
fn needs_identity(limit: &RateLimit) -> bool {
    limit.key().parts().iter().any(|part| matches!(part, KeyPart::Consumer | KeyPart::Claim(_)))
}

/// Fills `key` with what `limit` counts this request by.
pub fn write_limit_key(limit: &RateLimit, request: &impl RequestView, key: &mut Key) {
    key.clear();
    for part in limit.key().parts() {
        write_part(part, request, |value| key.push(value));
    }
}

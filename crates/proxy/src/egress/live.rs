//! A published egress plan with what it needs at run time; and what lives on from plan to plan.

use super::{EgressPlan, spoken::Spoken};
use portcullis_egress::{
    AddressPolicy, Ejected, Learned, OwnAddresses, PipePool, Pools, Quotas, Resolver, ResolverError, TokenClient,
    Tokens,
};
use portcullis_names::ObjectName;
use portcullis_tls::system_client;
use portcullis_upstream::ClusterLoad;
use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::sync::watch;

/// What decides about flows now. Pinned by each of them.
#[derive(Debug)]
pub struct LiveEgress {
    pub plan: Arc<EgressPlan>,
    pub(crate) addresses: Arc<AddressPolicy>,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) token_client: TokenClient,
    pub state: Arc<EgressState>,
}

/// Counts and caches of the whole process.
#[derive(Debug)]
pub struct EgressState {
    pub(crate) quotas: Quotas,
    pub(crate) tokens: Tokens,
    pub(crate) pipes: PipePool,
    pub(crate) pools: Pools,
    pub(crate) spoken: Spoken,
    /// Connections of requests that no destination speaks for.
    pub(crate) load: Arc<ClusterLoad>,
    learned: Mutex<Learned>,
    /// Wakes every tunnel when another plan is published.
    changes: watch::Sender<u64>,
}

/// Three quarters of what the kernel gives an unprivileged user (`fs.pipe-user-pages-soft`, 64 MiB).
const PIPE_BYTES_MAX: usize = 48 << 20;

impl LiveEgress {
    /// `listeners`: every socket that this process listens on. What survives a reload comes from `previous`.
    pub fn new(
        plan: Arc<EgressPlan>,
        listeners: impl IntoIterator<Item = SocketAddr>,
        previous: Option<&Self>,
    ) -> Result<Self, ResolverError> {
        let kept = previous.filter(|previous| previous.plan.name_servers == plan.name_servers);
        let resolver = match (kept, &plan.name_servers) {
            (Some(previous), _) => previous.resolver.clone(),
            (None, Some(servers)) => Arc::new(Resolver::from_name_servers(servers)?),
            (None, None) => Arc::new(Resolver::from_system()?),
        };
        let own = OwnAddresses::new(interfaces().unwrap_or_default(), listeners);
        let addresses = Arc::new(AddressPolicy::new(plan.policy.denied_addresses().clone(), own));
        let token_client =
            TokenClient { resolver: resolver.clone(), addresses: addresses.clone(), tls: system_client() };
        let state = previous.map_or_else(|| Arc::new(EgressState::new()), |previous| previous.state.clone());
        Ok(Self { plan, addresses, resolver, token_client, state })
    }
}

impl LiveEgress {
    /// Interfaces come and go while a plan lives. What the kernel does not tell changes nothing.
    pub fn look_at_interfaces(&self) {
        if let Some(interfaces) = interfaces() {
            self.addresses.learn_interfaces(interfaces);
        }
    }

    /// Compares the addresses of each host; those that fall out are told.
    pub fn judge(&self, now: Instant) -> Vec<Ejected> {
        self.state.pools.judge(|destination| self.plan.policy.destination(destination.as_str()).is_some(), now)
    }
}

impl EgressState {
    /// How many addresses of each destination are left alone now.
    pub fn ejected(&self, now: Instant) -> Vec<(ObjectName, usize)> {
        self.pools.ejected(now)
    }

    fn new() -> Self {
        Self {
            quotas: Quotas::new(Instant::now()),
            tokens: Tokens::default(),
            pipes: PipePool::new(PIPE_BYTES_MAX),
            pools: Pools::default(),
            spoken: Spoken::default(),
            load: Arc::new(ClusterLoad::new(Instant::now())),
            learned: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// What was let through on report so far, as configuration.
    pub fn learned(&self) -> (String, u64) {
        let learned = self.lock_learned();
        (learned.to_toml(), learned.overflowed())
    }

    pub(crate) fn lock_learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called when another plan has been published.
    pub fn changed(&self) {
        self.changes.send_modify(|generation| *generation = generation.wrapping_add(1));
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// Every address of every interface. Where the kernel does not tell, only listeners are known to be ours; loopback and private
/// addresses are refused by their class all the same.
fn interfaces() -> Option<Vec<IpAddr>> {
    let found = nix::ifaddrs::getifaddrs().ok()?;
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    };
    Some(found.filter_map(address).collect())
}

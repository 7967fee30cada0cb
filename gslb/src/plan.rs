//! `[dns]` with every value settled.

use crate::{
    cookie::CookieSecrets,
    dnstap::Tap,
    rate_limit::{RateLimitMode, RateLimitPlan},
    spec::{CookiesSpec, DnsSpec, RateLimitSpec, RateLimitSwitch, TcpSpec},
    tsig::TsigKeys,
};
use portcullis_config::{Context, Path};
use portcullis_names::{Percent, Rate, SecretRef, TimeSpan};
use std::{
    hash::{BuildHasher, RandomState},
    num::NonZeroU32,
    time::Duration,
};

/// How all listeners serve.
#[derive(Debug)]
pub(crate) struct ServerPlan {
    /// Octets of the largest UDP reply.
    pub(crate) udp_size: u16,
    pub(crate) nsid: Option<Vec<u8>>,
    /// The same while too few nodes of the fleet are heard.
    pub(crate) nsid_isolated: Option<Vec<u8>>,
    pub(crate) cookies: CookieSecrets,
    /// RFC 7828 §3.1.
    pub(crate) keepalive_tenths: u16,
    pub(crate) rate_limit: RateLimitPlan,
    pub(crate) tcp: TcpPlan,
    pub(crate) log_sample: Percent,
    pub(crate) tsig: TsigKeys,
    /// A collector, and the share of queries that it is told of.
    pub(crate) dnstap: Option<(Tap, Percent)>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct TcpPlan {
    pub(crate) max_connections: usize,
    pub(crate) max_per_client: usize,
    pub(crate) idle: Duration,
    pub(crate) first_message: Duration,
    pub(crate) write: Duration,
}

/// DNS flag day 2020: what passes every path without fragments.
const UDP_SIZE: u16 = 1232;
const NSID_MAX: usize = 128;
const SECRETS_MAX: usize = 8;

impl ServerPlan {
    /// `previous` lends the cookie secret that was made at random.
    pub(crate) fn compile(
        spec: Option<&DnsSpec>,
        logged: Option<Percent>,
        previous: Option<&Self>,
        cx: &mut Context,
    ) -> Self {
        let at = Path::root().key("dns");
        let absent = DnsSpec::default();
        let spec = spec.unwrap_or(&absent);
        if spec.nsid.as_ref().is_some_and(|nsid| nsid.is_empty() || nsid.len() > NSID_MAX) {
            cx.error(&at.key("nsid"), format!("an nsid has 1 to {NSID_MAX} octets"));
        }
        let udp_size = spec.udp_size.unwrap_or(UDP_SIZE);
        if !(512..=4_096).contains(&udp_size) {
            cx.error(&at.key("udp_size"), "a UDP reply has at most 512 to 4096 octets (RFC 6891 §6.2.5)");
        }
        let tcp = tcp(spec.tcp.as_ref(), &at.key("tcp"), cx);
        Self {
            udp_size,
            nsid: spec.nsid.as_ref().map(|nsid| nsid.as_bytes().to_vec()),
            nsid_isolated: spec.nsid.as_ref().map(|nsid| format!("{nsid} (isolated)").into_bytes()),
            cookies: cookies(spec.cookies.as_ref(), previous.map(|plan| &plan.cookies), &at.key("cookies"), cx),
            keepalive_tenths: u16::try_from(tcp.idle.as_millis() / 100).unwrap_or(u16::MAX),
            rate_limit: rate_limit(spec.rate_limit.as_ref(), &at.key("rate_limit"), cx),
            tcp,
            log_sample: logged.unwrap_or(Percent::ALL),
            tsig: TsigKeys::compile(&spec.tsig, &at.key("tsig"), cx),
            dnstap: spec.dnstap.as_ref().map(|dnstap| {
                let socket = cx.resolve(&at.key("dnstap").key("to"), &dnstap.to);
                let before = previous.and_then(|plan| Some(&plan.dnstap.as_ref()?.0));
                let identity = spec.nsid.as_deref().unwrap_or_default();
                (Tap::new(&socket, identity.as_bytes(), before), dnstap.sample.unwrap_or(Percent::ALL))
            }),
        }
    }
}

fn cookies(spec: Option<&CookiesSpec>, previous: Option<&CookieSecrets>, at: &Path, cx: &mut Context) -> CookieSecrets {
    let mut secret = |secret: &SecretRef, at: &Path| {
        let octets = cx.secret(at, secret)?;
        let key = data_encoding::HEXLOWER_PERMISSIVE.decode(octets.trim_ascii()).ok();
        let key = key.and_then(|key| <[u8; 16]>::try_from(key).ok());
        if key.is_none() {
            cx.error(at, "a cookie secret is 32 hexadecimal digits (RFC 9018 §4.4)").help("openssl rand -hex 16");
        }
        key
    };
    let current = spec.and_then(|spec| spec.secret.as_ref()).and_then(|given| secret(given, &at.key("secret")));
    let also = spec.map_or(&[][..], |spec| &spec.also);
    let others = also.iter().enumerate().filter_map(|(index, given)| secret(given, &at.key("also").index(index)));
    let others: Vec<_> = others.take(SECRETS_MAX).collect();
    if also.len() > SECRETS_MAX {
        cx.error(&at.key("also"), format!("more than {SECRETS_MAX} secrets"));
    }
    let current = current.or_else(|| previous.map(|secrets| secrets.current)).unwrap_or_else(random_secret);
    CookieSecrets { current, others }
}

/// From the keys that the operating system gives hash tables: secret, and all that a cookie without shared secret needs.
fn random_secret() -> [u8; 16] {
    let mut secret = [0; 16];
    for half in secret.as_chunks_mut::<8>().0 {
        *half = RandomState::new().hash_one(0u8).to_ne_bytes();
    }
    secret
}

fn rate_limit(spec: Option<&RateLimitSpec>, at: &Path, cx: &mut Context) -> RateLimitPlan {
    let absent = RateLimitSpec::default();
    let spec = spec.unwrap_or(&absent);
    let per_second = spec.responses.map_or(200.0, Rate::per_second);
    if per_second < 1.0 {
        cx.error(&at.key("responses"), "less than one reply a second serves nobody")
            .help("mode = \"off\" to switch it off");
    }
    RateLimitPlan {
        mode: match spec.mode {
            None | Some(RateLimitSwitch::On) => RateLimitMode::On,
            Some(RateLimitSwitch::Off) => RateLimitMode::Off,
        },
        // The cast saturates.
        per_second: (per_second as u32).min(1_000_000),
        slip: spec.slip.unwrap_or(2),
        exempt: RateLimitPlan::exempt(&spec.exempt),
    }
}

fn tcp(spec: Option<&TcpSpec>, at: &Path, cx: &mut Context) -> TcpPlan {
    let absent = TcpSpec::default();
    let spec = spec.unwrap_or(&absent);
    let mut time = |key: &str, value: Option<TimeSpan>, default: u64| {
        if value.is_some_and(TimeSpan::is_zero) {
            cx.error(&at.key(key), format!("{key} cannot be zero"));
        }
        value.map_or(Duration::from_secs(default), TimeSpan::get)
    };
    TcpPlan {
        max_connections: spec.max_connections.map_or(1_000, NonZeroU32::get) as usize,
        max_per_client: spec.max_per_client.map_or(100, NonZeroU32::get) as usize,
        idle: time("idle_timeout", spec.idle_timeout, 10),
        first_message: time("first_timeout", spec.first_timeout, 3),
        write: time("write_timeout", spec.write_timeout, 5),
    }
}

//! Egress.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod address_class;
mod address_policy;
mod caller;
mod host;
mod host_rule;
mod reason;

pub use address_class::{AddressClass, SpecialRange, classify};
pub use address_policy::{AddressPolicy, AddressRefusal, Checked, OwnAddresses, PrivateRanges};
pub use caller::{Caller, CallerName, CallerPattern, NotACaller};
pub use host::{DnsName, Host, Target};
pub use host_rule::{HostRule, HostRuleError};
pub use reason::Reason;

//! Decides who is asking and whether they may: tokens, API keys, passwords, certificates, addresses, and the questions put
//! to an external authority.
//!
//! Everything but [`KeyClient`], [`KeyRefresher`] and [`AuthzClient`] is a plain function of what was configured, what the
//! request shows and `now`. Deliberately absent: routing, engines and their request types (an engine implements
//! [`AuthRequest`]), answers to clients, and the removal of credentials from what goes on.
//!
//! In the order of a request: [`IpRules::check`]; of each [`AuthRule`] from the outermost level to the innermost
//! [`AuthRule::begin`], whose [`Decision`] may first want keys or a password check awaited, then [`Authenticated::and`];
//! of each [`Authz`] [`AuthzClient::ask`], and [`Authz::on_failure`] where that failed. Every refusal has `as_str` for
//! metrics and logs, and `status`; [`AuthRule::challenges`] has the values of WWW-Authenticate.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod algorithm;
mod auth_refusal;
mod auth_request;
mod authz;
mod claims;
mod consumer_spec;
mod consumers;
mod http_url;
mod identity;
mod identity_spec;
mod ip_rules;
mod json_object;
mod jwt_refusal;
mod key_client;
mod key_refresher;
mod key_set;
mod password_hash;
mod password_turns;
mod refresh_plan;
mod rule;
mod rule_compile;
mod rule_spec;
#[cfg(test)]
mod signer;
mod unless_wrong;
mod verified_cache;

pub use algorithm::Algorithm;
pub use auth_refusal::AuthRefusal;
pub use auth_request::{AuthRequest, Presented, TlsNames};
pub use authz::{
    Authz, AuthzClient, AuthzDenial, AuthzEdit, AuthzEdits, AuthzFacts, AuthzFailure, AuthzProtocol, AuthzSpec,
    AuthzVerdict, EditHow, OnFail,
};
pub use claims::Claims;
pub use consumer_spec::{ConsumerBasicSpec, ConsumerKeySpec, ConsumerSpec};
pub use consumers::{Consumer, Consumers};
pub use http_url::{HttpUrl, Transport, UrlError};
pub use identity::{Identity, KeyPlace, KeySource};
pub use identity_spec::{IdentitySpec, JwksSpec};
pub use ip_rules::{IpRefusal, IpRules, IpRulesSpec};
pub use jwt_refusal::JwtRefusal;
pub use key_client::{FetchError, KeyClient};
pub use key_refresher::{KeyHandle, KeyRefresher, KeyStatus, RefreshClock, SystemClock};
pub use key_set::{KeyOrigin, KeySet, KeySetError};
pub use rule::{AuthRule, Authenticated, Decision, PasswordCheck};
pub use rule_compile::AuthNames;
pub use rule_spec::{ApiKeySpec, BasicSpec, ClaimValues, ClientCertSpec, RuleAuthSpec, TokenPlaceSpec};

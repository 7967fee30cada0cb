//! `health_check.tls_expiry`: how long an endpoint's certificate still lasts.

use crate::Failure;
use portcullis_config::{Context, Path};
use portcullis_names::TimeSpan;
use rustls::pki_types::CertificateDer;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, X509Certificate};

/// `"14d"`, or a table that says more.
#[derive(Debug, Clone, Serialize)]
pub struct ExpirySpec {
    pub within: TimeSpan,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<ExpiryAction>,
}

/// What a certificate that ends soon does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExpiryAction {
    /// A line in the log; the endpoint is as well as it was.
    Warn,
    /// The probe has failed.
    Down,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ExpiryTable {
    /// Certificates that end sooner than this end soon.
    within: TimeSpan,
    /// Default warn.
    action: Option<ExpiryAction>,
}

/// Compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpiryRule {
    pub within: Duration,
    pub action: ExpiryAction,
}

/// A certificate ends sooner than it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndsSoon {
    pub days: u32,
}

const DAY: Duration = Duration::from_secs(86_400);

impl ExpirySpec {
    pub(crate) fn compile(&self, at: &Path, cx: &mut Context) -> ExpiryRule {
        if self.within.is_zero() {
            cx.error(at, "an expired certificate is refused in any case").help("give a time like \"14d\"");
        }
        ExpiryRule { within: self.within.get(), action: self.action.unwrap_or(ExpiryAction::Warn) }
    }
}

impl ExpiryRule {
    /// Only the endpoint's own certificate counts: a chain may carry an old cross-signature that nobody needs.
    pub(crate) fn judge(
        self,
        chain: Option<&[CertificateDer<'_>]>,
        now: SystemTime,
    ) -> Result<Option<EndsSoon>, Failure> {
        let leaf = chain.and_then(<[_]>::first).ok_or(Failure::Tls)?;
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| Failure::Tls)?;
        let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let left = Duration::from_secs(end).saturating_sub(now);
        if left >= self.within {
            return Ok(None);
        }
        let days = u32::try_from(left.as_secs() / DAY.as_secs()).unwrap_or(u32::MAX);
        match self.action {
            ExpiryAction::Warn => Ok(Some(EndsSoon { days })),
            ExpiryAction::Down => Err(Failure::Expires { days }),
        }
    }
}

impl<'de> Deserialize<'de> for ExpirySpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = ExpirySpec;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a time like \"14d\", or { within, action }")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ExpirySpec, E> {
                Ok(ExpirySpec { within: text.parse().map_err(E::custom)?, action: None })
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<ExpirySpec, A::Error> {
                let table = ExpiryTable::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(ExpirySpec { within: table.within, action: table.action })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for ExpirySpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ExpirySpec".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let (short, table) = (generator.subschema_for::<TimeSpan>(), generator.subschema_for::<ExpiryTable>());
        schemars::json_schema!({ "anyOf": [short, table] })
    }
}

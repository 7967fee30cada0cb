//! Which hosts a destination has: exact names, `*.x`, `**.x`, and address ranges.
//!
//! Narrower than the host pattern of routes: here `*` is one label and no more, because each further label is a host that
//! somebody else may be able to create.

use crate::{DnsName, Host};
use portcullis_names::Cidr;
use std::{fmt, str::FromStr};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostRule {
    Exact(DnsName),
    /// `*.x`: exactly one label in front of the suffix.
    OneLabel(DnsName),
    /// `**.x`: one label or more.
    Below(DnsName),
    /// For targets that are addresses already.
    Addresses(Cidr),
}

/// Why a text is no host rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostRuleError {
    #[error(
        "`{0}` is not a host: expected a name, \"*.example.com\" (one label), \"**.example.com\" (any depth), \
         or an address range like \"203.0.113.0/24\""
    )]
    NotAHost(String),
    #[error("`{0}` would take hosts of strangers: everybody can register names below \"{1}\"")]
    PublicSuffix(String, String),
}

impl HostRule {
    /// Names below which anybody gets one are not a party that one can trust as a whole.
    pub(crate) fn check_public_suffix(&self) -> Result<(), HostRuleError> {
        let (Self::OneLabel(suffix) | Self::Below(suffix)) = self else { return Ok(()) };
        let text = suffix.as_str();
        if text.contains('.') && !SHARED_SUFFIXES.contains(&text) {
            return Ok(());
        }
        Err(HostRuleError::PublicSuffix(self.to_string(), text.to_owned()))
    }
}

/// The suffixes with a dot that operators meet most: registries, and clouds that hand out names to whoever asks. Not the
/// whole Public Suffix List, which changes weekly; a suffix that is missing here is a wide rule, not a hole.
const SHARED_SUFFIXES: [&str; 43] = [
    "ac.uk",
    "amazonaws.com",
    "appspot.com",
    "azure.com",
    "azureedge.net",
    "azurefd.net",
    "azurewebsites.net",
    "blob.core.windows.net",
    "blogspot.com",
    "cloudapp.net",
    "cloudflare.net",
    "cloudfront.net",
    "cloudfunctions.net",
    "co.in",
    "co.jp",
    "co.kr",
    "co.nz",
    "co.uk",
    "co.za",
    "com.ar",
    "com.au",
    "com.br",
    "com.cn",
    "com.mx",
    "com.tr",
    "core.windows.net",
    "fastly.net",
    "firebaseapp.com",
    "fly.dev",
    "github.io",
    "gitlab.io",
    "googleapis.com",
    "herokuapp.com",
    "netlify.app",
    "ngrok.io",
    "org.uk",
    "pages.dev",
    "run.app",
    "s3.amazonaws.com",
    "trafficmanager.net",
    "vercel.app",
    "web.app",
    "workers.dev",
];

impl FromStr for HostRule {
    type Err = HostRuleError;

    fn from_str(text: &str) -> Result<Self, HostRuleError> {
        let wrong = || HostRuleError::NotAHost(text.chars().take(80).collect());
        if let Ok(range) = text.parse::<Cidr>() {
            return Ok(Self::Addresses(range));
        }
        let name = |text: &str| match Host::parse(text) {
            Ok(Host::Name(name)) => Ok(name),
            Ok(Host::Address(_)) | Err(_) => Err(wrong()),
        };
        if let Some(suffix) = text.strip_prefix("**.") {
            return name(suffix).map(Self::Below);
        }
        match text.strip_prefix("*.") {
            Some(suffix) => name(suffix).map(Self::OneLabel),
            None => name(text).map(Self::Exact),
        }
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::OneLabel(suffix) => write!(f, "*.{suffix}"),
            Self::Below(suffix) => write!(f, "**.{suffix}"),
            Self::Addresses(range) => write!(f, "{range}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_rules_are_read_and_printed_back() {
        for (text, printed) in [
            ("API.example.com", Some("api.example.com")),
            ("*.example.com", Some("*.example.com")),
            ("**.Example.com.", Some("**.example.com")),
            ("203.0.113.0/24", Some("203.0.113.0/24")),
            ("203.0.113.7", Some("203.0.113.7/32")),
            ("2001:db8::/32", Some("2001:db8::/32")),
            ("*", None),
            ("**", None),
            ("*.", None),
            ("a*.example.com", None),
            ("a.*.com", None),
            ("*.*.com", None),
            ("***.com", None),
            ("*.1.2.3.4", None),
            ("api.example.com:443", None),
            ("https://api.example.com", None),
            ("2130706433", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<HostRule>().ok().map(|rule| rule.to_string()).as_deref(), printed, "{text}");
        }
    }

    #[test]
    fn wildcards_below_shared_suffixes_are_told_apart() {
        for (text, fine) in [
            ("*.example.com", true),
            ("**.s3.eu-west-1.amazonaws.com", true),
            ("example.co.uk", true),
            ("*.com", false),
            ("**.com", false),
            ("*.co.uk", false),
            ("**.github.io", false),
            ("*.local", false),
            ("com", true),
        ] {
            assert_eq!(text.parse::<HostRule>().unwrap().check_public_suffix().is_ok(), fine, "{text}");
        }
    }
}

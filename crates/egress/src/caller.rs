//! Who asks: what the listener knows of the other side, and the patterns of `from`.

use portcullis_names::{Cidr, SanPattern};
use std::{fmt, net::IpAddr, str::FromStr};

/// Everything that is known of who asks. What is not known is `None`, and matches no pattern.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// From the connection, or from a PROXY header that the listener trusts.
    pub address: IpAddr,
    /// Of the verified client certificate: exactly one URI name, a SPIFFE id.
    pub spiffe: Option<&'a str>,
    /// DNS names of the verified client certificate, in lower case.
    pub certificate_names: &'a [String],
    /// Of `Proxy-Authorization` or SOCKS, after its password was checked.
    pub user: Option<&'a str>,
    /// Of the process at the other end of a connection from this machine.
    pub uid: Option<u32>,
    /// Its control group, like `/system.slice/app.service`.
    pub cgroup: Option<&'a str>,
}

impl<'a> Caller<'a> {
    /// Nothing known but the address.
    pub fn from_address(address: IpAddr) -> Self {
        Self { address, spiffe: None, certificate_names: &[], user: None, uid: None, cgroup: None }
    }

    /// The strongest name there is: what limits count by and what logs and refusals show. The prefixes keep a user called
    /// like a certificate from being counted, or trusted, as one.
    pub fn name(&self) -> CallerName {
        let certificate = self.certificate_names.first();
        CallerName(match (self.spiffe, certificate, self.user, self.cgroup, self.uid) {
            (Some(spiffe), ..) => spiffe.to_owned(),
            (_, Some(name), ..) => format!("certificate:{name}"),
            (_, _, Some(user), ..) => format!("user:{user}"),
            (_, _, _, Some(cgroup), _) => format!("cgroup:{cgroup}"),
            (.., Some(uid)) => format!("uid:{uid}"),
            (.., None) => self.address.to_string(),
        })
    }
}

/// A caller as one text, in the spelling that `from` takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallerName(String);

impl CallerName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CallerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One entry of `from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallerPattern {
    /// `"*"`: whoever can reach the listener.
    Anybody,
    /// `"spiffe://corp/ns/pay/*"`.
    Spiffe(SanPattern),
    /// `"certificate:*.corp.example"`.
    Certificate(SanPattern),
    /// `"10.1.0.0/16"`.
    Addresses(Cidr),
    /// `"user:ci"`.
    User(String),
    /// `"uid:1000"`.
    Uid(u32),
    /// `"cgroup:/system.slice/app.service"`: the group and those below it.
    Cgroup(String),
}

/// Why a text is no pattern of callers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is nobody: expected \"spiffe://corp/ns/pay/*\", \"certificate:app.corp.example\", \"10.0.0.0/8\", \
     \"user:ci\", \"uid:1000\", \"cgroup:/system.slice/app.service\", or \"*\" for everybody"
)]
pub struct NotACaller(String);

impl CallerPattern {
    pub fn matches(&self, caller: &Caller<'_>) -> bool {
        match self {
            Self::Anybody => true,
            Self::Spiffe(pattern) => caller.spiffe.is_some_and(|uri| pattern.matches_uri(uri)),
            Self::Certificate(pattern) => caller.certificate_names.iter().any(|name| pattern.matches_dns(name)),
            Self::Addresses(range) => range.contains(caller.address),
            Self::User(name) => caller.user == Some(name.as_str()),
            Self::Uid(uid) => caller.uid == Some(*uid),
            Self::Cgroup(group) => caller.cgroup.and_then(|have| have.strip_prefix(group.as_str())).is_some_and(
                // Not `/app-evil` for `/app`.
                |rest| rest.is_empty() || rest.starts_with('/'),
            ),
        }
    }
}

impl FromStr for CallerPattern {
    type Err = NotACaller;

    fn from_str(text: &str) -> Result<Self, NotACaller> {
        let wrong = || NotACaller(text.chars().take(80).collect());
        if text == "*" {
            return Ok(Self::Anybody);
        }
        if text.starts_with("spiffe://") {
            return text.parse().map(Self::Spiffe).map_err(|_| wrong());
        }
        if let Ok(range) = text.parse() {
            return Ok(Self::Addresses(range));
        }
        let (kind, name) = text.split_once(':').ok_or_else(wrong)?;
        let is_plain = !name.is_empty() && !name.bytes().any(|b| b.is_ascii_control());
        match kind {
            "certificate" => match name.parse() {
                Ok(pattern @ SanPattern::Dns(_)) => Ok(Self::Certificate(pattern)),
                Ok(_) | Err(_) => Err(wrong()),
            },
            "user" if is_plain => Ok(Self::User(name.to_owned())),
            "uid" if name.bytes().all(|b| b.is_ascii_digit()) => name.parse().map(Self::Uid).map_err(|_| wrong()),
            "cgroup" if is_plain && name.starts_with('/') && name.len() > 1 => {
                Ok(Self::Cgroup(name.trim_end_matches('/').to_owned()))
            }
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller<'a>(names: &'a [String]) -> Caller<'a> {
        Caller {
            address: "10.1.2.3".parse().unwrap(),
            spiffe: Some("spiffe://corp/ns/pay/sa/api"),
            certificate_names: names,
            user: Some("ci"),
            uid: Some(1000),
            cgroup: Some("/system.slice/app.service/worker"),
        }
    }

    #[test]
    fn patterns_take_whom_they_name() {
        let names = ["app.corp.example".to_owned()];
        let nobody = Caller::from_address("203.0.113.9".parse().unwrap());
        for (pattern, takes) in [
            ("spiffe://corp/ns/pay/*", true),
            ("spiffe://corp/ns/pay/sa/api", true),
            ("spiffe://corp/ns/payroll/*", false),
            ("spiffe://other/ns/pay/*", false),
            ("certificate:app.corp.example", true),
            ("certificate:*.corp.example", true),
            ("certificate:corp.example", false),
            ("10.0.0.0/8", true),
            ("10.1.2.3", true),
            ("10.1.2.4", false),
            ("user:ci", true),
            ("user:CI", false),
            ("uid:1000", true),
            ("uid:0", false),
            ("cgroup:/system.slice/app.service", true),
            ("cgroup:/system.slice", true),
            ("cgroup:/system.slice/", true),
            ("cgroup:/system.slice/app", false),
        ] {
            let parsed: CallerPattern = pattern.parse().unwrap();
            assert_eq!(parsed.matches(&caller(&names)), takes, "{pattern}");
            assert!(!parsed.matches(&nobody), "{pattern} takes who is not known");
        }
        assert!(CallerPattern::Anybody.matches(&nobody));
    }

    #[test]
    fn what_names_nobody_is_refused() {
        for bad in [
            "",
            "all",
            "service:pay",
            "user:",
            "uid:",
            "uid:-1",
            "uid:x",
            "uid:99999999999",
            "cgroup:x",
            "cgroup:/",
            "certificate:*",
            "certificate:spiffe://a/b",
            "10.0.0.1/8",
            "spiffe://",
            "user:a\nb",
        ] {
            assert!(bad.parse::<CallerPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_caller_is_called_by_its_strongest_name() {
        let names = ["app.corp.example".to_owned()];
        let mut who = caller(&names);
        let mut seen = Vec::new();
        seen.push(who.name().to_string());
        who.spiffe = None;
        seen.push(who.name().to_string());
        who.certificate_names = &[];
        seen.push(who.name().to_string());
        who.user = None;
        seen.push(who.name().to_string());
        who.cgroup = None;
        seen.push(who.name().to_string());
        who.uid = None;
        seen.push(who.name().to_string());
        assert_eq!(
            seen,
            [
                "spiffe://corp/ns/pay/sa/api",
                "certificate:app.corp.example",
                "user:ci",
                "cgroup:/system.slice/app.service/worker",
                "uid:1000",
                "10.1.2.3"
            ]
        );
        for name in &seen {
            assert!(name.parse::<CallerPattern>().is_ok(), "{name} is no pattern");
        }
    }
}

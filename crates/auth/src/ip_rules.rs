//! `ip = { … }`: which addresses may ask. Sorted ranges, so a list of 100,000 costs one binary search.

use portcullis_config::{Context, Path};
use portcullis_names::{Cidr, CidrSet};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, path::PathBuf};

/// Addresses and prefixes that may pass, or may not; deny wins. With anything in `allow` or `allow_file`, nobody else may.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct IpRulesSpec {
    /// Addresses and prefixes that may pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<Cidr>>,
    /// Addresses and prefixes that may not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny: Option<Vec<Cidr>>,
    /// More of `allow`: one address or prefix on a line; `#` begins a comment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_file: Option<PathBuf>,
    /// More of `deny`, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny_file: Option<PathBuf>,
}

/// The lists, compiled.
#[derive(Debug, Clone)]
pub struct IpRules {
    /// `None`: everybody who is not denied.
    allow: Option<CidrSet>,
    deny: CidrSet,
}

/// Why an address may not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum IpRefusal {
    #[error("the address is denied")]
    Denied,
    #[error("the address is not among the allowed")]
    NotAllowed,
}

/// Wrong lines reported of one file; a file of another kind would fill the report.
const WRONG_LINES_SHOWN: usize = 5;

impl IpRefusal {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "ip_denied",
            Self::NotAllowed => "ip_not_allowed",
        }
    }

    pub const fn status(self) -> u16 {
        403
    }
}

impl IpRules {
    /// `::ffff:10.0.0.1` is `10.0.0.1`.
    pub fn check(&self, client: IpAddr) -> Result<(), IpRefusal> {
        if self.deny.contains(client) {
            return Err(IpRefusal::Denied);
        }
        match &self.allow {
            Some(allow) if !allow.contains(client) => Err(IpRefusal::NotAllowed),
            _ => Ok(()),
        }
    }
}

impl IpRulesSpec {
    /// `None` when something is wrong; all of it is then in the report.
    pub fn compile(&self, at: &Path, cx: &mut Context) -> Option<IpRules> {
        let says_allow = self.allow.is_some() || self.allow_file.is_some();
        if !says_allow && self.deny.is_none() && self.deny_file.is_none() {
            cx.error(at, "no address is named").help("say `allow`, `deny`, `allow_file` or `deny_file`");
            return None;
        }
        let allow = gather(self.allow.as_deref(), self.allow_file.as_deref(), &at.key("allow_file"), cx);
        let deny = gather(self.deny.as_deref(), self.deny_file.as_deref(), &at.key("deny_file"), cx);
        let (allow, deny) = (allow?, deny?);
        if says_allow && allow.is_empty() {
            // Fail closed would be an outage by a file cut short, fail open a hole: neither without being asked for.
            let key = if self.allow.is_some() { "allow" } else { "allow_file" };
            cx.error(&at.key(key), "the list is empty, so nobody could pass")
                .help("leave it out to allow everybody, or deny = [\"::/0\"] to allow nobody");
            return None;
        }
        Some(IpRules { allow: says_allow.then(|| CidrSet::new(&allow)), deny: CidrSet::new(&deny) })
    }
}

/// `None` when the file is wrong.
fn gather(written: Option<&[Cidr]>, file: Option<&std::path::Path>, at: &Path, cx: &mut Context) -> Option<Vec<Cidr>> {
    let mut prefixes = written.unwrap_or_default().to_vec();
    let Some(file) = file else { return Some(prefixes) };
    let bytes = cx.read(at, file)?;
    let mut wrong = 0_usize;
    for (index, line) in String::from_utf8_lossy(&bytes).lines().enumerate() {
        let text = line.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        match text.parse() {
            Ok(prefix) => prefixes.push(prefix),
            Err(error) => {
                wrong = wrong.saturating_add(1);
                if wrong <= WRONG_LINES_SHOWN {
                    let line = index.saturating_add(1);
                    cx.error(at, format!("{}, line {line}: {error}", file.display()));
                }
            }
        }
    }
    if wrong > WRONG_LINES_SHOWN {
        let more = wrong.saturating_sub(WRONG_LINES_SHOWN);
        cx.error(at, format!("{}: {more} more lines are wrong", file.display()));
    }
    if prefixes.is_empty() && wrong == 0 {
        cx.warning(at, format!("{}: there is no address in it", file.display()));
    }
    (wrong == 0).then_some(prefixes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn compile(spec: Value) -> (Option<IpRules>, Vec<String>) {
        let spec: IpRulesSpec = serde_json::from_value(spec).unwrap();
        let mut cx = Context::default();
        let rules = spec.compile(&Path::root(), &mut cx);
        (rules, cx.report().problems().iter().map(|problem| problem.message.clone()).collect())
    }

    #[test]
    fn deny_wins_and_allow_shuts_out_the_rest() {
        let allow = json!({ "allow": ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"] });
        let deny = json!({ "deny": ["10.0.0.0/8", "2001:db8::/32"] });
        let both = json!({ "allow": ["10.0.0.0/8"], "deny": ["10.1.0.0/16", "10.2.3.4"] });
        let inverse = json!({ "allow": ["10.1.0.0/16"], "deny": ["10.0.0.0/8"] });
        for (spec, address, expected) in [
            (&allow, "10.1.2.3", "ok"),
            (&allow, "::ffff:10.1.2.3", "ok"),
            (&allow, "192.0.2.7", "ok"),
            (&allow, "192.0.2.8", "ip_not_allowed"),
            (&allow, "2001:db8::1", "ok"),
            (&allow, "2001:db9::1", "ip_not_allowed"),
            (&allow, "::10.1.2.3", "ip_not_allowed"),
            (&allow, "::1", "ip_not_allowed"),
            (&deny, "10.1.2.3", "ip_denied"),
            (&deny, "::ffff:10.1.2.3", "ip_denied"),
            (&deny, "11.0.0.0", "ok"),
            (&deny, "9.255.255.255", "ok"),
            (&deny, "2001:db8:ffff::", "ip_denied"),
            (&deny, "::1", "ok"),
            (&both, "10.0.0.1", "ok"),
            (&both, "10.1.0.1", "ip_denied"),
            (&both, "10.2.3.4", "ip_denied"),
            (&both, "10.2.3.5", "ok"),
            (&both, "11.0.0.1", "ip_not_allowed"),
            (&inverse, "10.1.0.1", "ip_denied"),
            (&inverse, "11.0.0.1", "ip_not_allowed"),
            (&json!({ "deny": [] }), "1.2.3.4", "ok"),
            (&json!({ "deny": ["::/0"] }), "1.2.3.4", "ip_denied"),
            (&json!({ "deny": ["0.0.0.0/0"] }), "::1", "ok"),
            (&json!({ "deny": ["0.0.0.0/0"] }), "::ffff:1.2.3.4", "ip_denied"),
        ] {
            let rules = compile(spec.clone()).0.unwrap();
            let outcome = rules.check(address.parse().unwrap()).map_or_else(IpRefusal::as_str, |()| "ok");
            assert_eq!(outcome, expected, "{spec} {address}");
        }
    }

    #[test]
    fn lists_come_from_files_too() {
        let folder = tempfile::tempdir().unwrap();
        let file = |text: &str| {
            let file = folder.path().join(format!("{}.txt", text.len()));
            std::fs::write(&file, text).unwrap();
            file
        };
        let (rules, problems) = compile(json!({
            "allow": ["192.0.2.0/24"],
            "allow_file": file("# office\n10.0.0.0/8 # ten\n\n  2001:db8::/32\r\n"),
            "deny_file": file("10.6.6.6\n"),
        }));
        assert!(problems.is_empty(), "{problems:?}");
        let rules = rules.unwrap();
        for (address, ok) in
            [("10.0.0.1", true), ("192.0.2.1", true), ("2001:db8::", true), ("10.6.6.6", false), ("8.8.8.8", false)]
        {
            assert_eq!(rules.check(address.parse().unwrap()).is_ok(), ok, "{address}");
        }
        for (spec, message) in [
            (json!({}), "no address is named"),
            (json!({ "allow": [] }), "nobody could pass"),
            (json!({ "allow_file": file("# nothing\n") }), "nobody could pass"),
            (json!({ "allow_file": "/nonexistent/x" }), "cannot read"),
            (json!({ "deny_file": "/nonexistent/x" }), "cannot read"),
            (json!({ "deny_file": file("10.0.0.0/8\n10.0.0.1/8\n") }), "line 2"),
            (json!({ "deny_file": file(&"x\n".repeat(40)) }), "35 more lines"),
            (json!({ "deny_file": file("\u{0}\u{1}") }), "line 1"),
        ] {
            let (rules, problems) = compile(spec.clone());
            assert!(rules.is_none() && problems.iter().any(|found| found.contains(message)), "{spec}: {problems:?}");
        }
    }

    #[test]
    fn a_list_that_came_out_empty_is_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deny.txt");
        std::fs::write(&file, "# cut short").unwrap();
        let (rules, problems) = compile(json!({ "deny_file": file }));
        assert!(rules.is_some() && problems[0].contains("no address in it"), "{problems:?}");
    }

    #[test]
    fn a_hundred_thousand_prefixes_are_each_found() {
        let prefixes: Vec<String> =
            (0..100_000_u32).map(|at| format!("{}/31", std::net::Ipv4Addr::from(at * 4))).collect();
        let rules = compile(json!({ "deny": prefixes })).0.unwrap();
        for at in (0..400_000_u32).step_by(7) {
            let address = IpAddr::V4(at.into());
            assert_eq!(rules.check(address).is_err(), at % 4 < 2, "{address}");
        }
    }
}

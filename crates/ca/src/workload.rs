//! Whom a certificate is for: a service of a namespace.

use crate::CaError;
use portcullis_names::{SpiffeId, TrustDomain};
use std::{fmt, str::FromStr};

/// One segment of a SPIFFE id, and so a safe file name: no `/`, not `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Namespace(String);

/// `spiffe://DOMAIN/ns/NAMESPACE/sa/SERVICE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub namespace: Namespace,
    service: String,
    id: SpiffeId,
}

/// Of a namespace or a service. Longer ones fit no file name.
const MAX_BYTES: usize = 200;

impl Namespace {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Namespace {
    type Err = CaError;

    fn from_str(text: &str) -> Result<Self, CaError> {
        segment(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Workload {
    pub fn new(domain: &TrustDomain, namespace: Namespace, service: &str) -> Result<Self, CaError> {
        segment(service)?;
        let id = format!("{}/ns/{namespace}/sa/{service}", domain.id()).parse()?;
        Ok(Self { namespace, service: service.to_owned(), id })
    }

    pub fn service(&self) -> &str {
        &self.service
    }

    pub fn id(&self) -> &SpiffeId {
        &self.id
    }
}

/// The standard's own parser says what a segment is; a leading dot would hide the file.
fn segment(text: &str) -> Result<(), CaError> {
    let path = format!("spiffe://d/{text}").parse::<SpiffeId>()?;
    if text.contains('/') || text.starts_with(['.', '-']) || path.as_str().len() > MAX_BYTES {
        return Err(CaError::Unreadable {
            what: format!("the name `{}`", text.chars().take(60).collect::<String>()),
            why: "it must be one segment that begins with a letter or digit".to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_plain_segment() {
        let domain = "corp".parse().unwrap();
        let make = |namespace: &str, service: &str| Workload::new(&domain, namespace.parse()?, service);
        assert_eq!(make("acme.lab", "cart").unwrap().id().as_str(), "spiffe://corp/ns/acme.lab/sa/cart");
        for (namespace, service) in
            [("", "a"), ("a", ""), ("..", "a"), ("a/b", "c"), ("a", "b/c"), (".a", "b"), ("-a", "b"), ("a", "b c")]
        {
            assert!(make(namespace, service).is_err(), "{namespace} {service}");
        }
        assert!(make(&"x".repeat(MAX_BYTES), "a").is_err());
    }
}

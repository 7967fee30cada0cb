//! What can go wrong with an authority, by what the operator can do about it.

use std::path::PathBuf;

/// Every way in which the authority says no.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("{0}")]
    Name(#[from] portcullis_names::ParseError),
    #[error("a lifetime of {asked} is not possible for {what}: it is from {least} to {most}")]
    Life { what: &'static str, asked: portcullis_names::TimeSpan, least: &'static str, most: &'static str },
    #[error("{} is there already and is not overwritten; --replace makes a new one in its place", .0.display())]
    Exists(PathBuf),
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{} is missing: {way_out}", .path.display())]
    Missing { path: PathBuf, way_out: &'static str },
    #[error("{what} cannot be read: {why}")]
    Unreadable { what: String, why: String },
    #[error("the chain's first certificate is for another key than {}; sign the request that belongs to it", .0.display())]
    OtherKey(PathBuf),
    #[error("the chain is not one that peers would believe: {0}")]
    NotBelieved(String),
    #[error("the certificate names the trust domain {found}, this authority is of {own}")]
    OtherDomain { found: String, own: String },
    #[error("the intermediate of namespace {namespace} has less than an hour left; make a new one first")]
    Outlived { namespace: String },
    #[error("the token is no good: {0}")]
    Token(&'static str),
    #[error("the request is for {asked}, the caller may have {own}")]
    OtherId { asked: portcullis_names::SpiffeId, own: portcullis_names::SpiffeId },
    #[error("signing failed: {0}")]
    Signing(#[from] rcgen::Error),
}

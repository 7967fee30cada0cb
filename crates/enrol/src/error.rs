//! Why there is no new identity. The one in use is kept, whatever it is.

use portcullis_ca::CaError;
use portcullis_mesh::SvidError;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error(transparent)]
    Svid(#[from] SvidError),
    #[error(transparent)]
    Authority(#[from] CaError),
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{whom}: no connection: {source}")]
    Connect { whom: String, source: std::io::Error },
    #[error("{whom}: TLS failed: {source}")]
    Tls { whom: String, source: std::io::Error },
    #[error("{whom}: no answer within {}s", .seconds)]
    Timeout { whom: String, seconds: u64 },
    #[error("{whom}: no valid answer: {why}")]
    Protocol { whom: String, why: String },
    #[error("{whom} refuses: {why}")]
    Refused { whom: String, why: String },
    #[error("there is neither a valid identity nor a token to ask with; `portcullis ca token` makes one")]
    NothingToShow,
    #[cfg(not(feature = "workload-api"))]
    #[error("this program was built without the Workload API")]
    NotBuilt,
    #[error("{whom} gives no identity {own}; it gave {given}")]
    NotGiven { whom: String, own: String, given: String },
}

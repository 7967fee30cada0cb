//! Where an identity comes from. A closed set: a further source is a variant and its arm in `follower`.

use crate::AuthorityClient;
use portcullis_mesh::SvidFiles;
use std::path::PathBuf;

/// Equal sources are the same source: a reload that leaves one as it was does not disturb it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Something else writes them; they are followed as they change.
    Files(SvidFiles),
    /// The authority's endpoint, which signs for a key that is drawn here.
    Authority(AuthorityClient),
    /// A SPIFFE Workload API on a Unix socket.
    WorkloadApi(PathBuf),
}

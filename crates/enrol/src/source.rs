//! What every source of identities is to the rest of the program.

use crate::follower::Teller;
use portcullis_mesh::IdentitySource;
use std::path::PathBuf;

pub(crate) trait Source: Send + 'static {
    /// Tells each identity, or why there is none, for as long as its task runs.
    fn follow(self, teller: Teller) -> impl Future<Output = ()> + Send;
}

/// Whether this program has what the source needs: the Workload API is a feature of its build.
pub fn is_built(source: &IdentitySource) -> bool {
    cfg!(feature = "workload-api") || !matches!(source, IdentitySource::WorkloadApi(_))
}

#[cfg(feature = "workload-api")]
pub(crate) fn workload_api(socket: PathBuf) -> impl Source {
    crate::workload_api::WorkloadApi(socket)
}

#[cfg(not(feature = "workload-api"))]
pub(crate) fn workload_api(_: PathBuf) -> impl Source {
    NotBuilt
}

#[cfg(not(feature = "workload-api"))]
struct NotBuilt;

#[cfg(not(feature = "workload-api"))]
impl Source for NotBuilt {
    async fn follow(self, teller: Teller) {
        teller.tell(Err(crate::EnrolError::NotBuilt));
        std::future::pending().await
    }
}

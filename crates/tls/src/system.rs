//! A client that trusts what this machine trusts: for services that have no settings of their own.

use crate::{provider, trust::Trust};
use rustls::ClientConfig;
use std::sync::{Arc, LazyLock};

/// Verifies by the system's roots (`SSL_CERT_FILE` and `SSL_CERT_DIR` are obeyed), which are read once per process.
pub fn system_client() -> Arc<ClientConfig> {
    static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
        let builder = ClientConfig::builder_with_provider(provider());
        #[expect(
            clippy::expect_used,
            reason = "our own provider has suites for the default versions; a test builds it"
        )]
        let builder = builder.with_safe_default_protocol_versions().expect("the provider fits the default versions");
        Arc::new(builder.with_root_certificates(Trust::system().roots).with_no_client_auth())
    });
    CONFIG.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_can_be_built_and_is_built_once() {
        assert!(Arc::ptr_eq(&system_client(), &system_client()));
    }
}

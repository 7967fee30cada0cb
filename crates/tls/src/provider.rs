//! The one set of algorithms this program speaks TLS with. Every configuration of this crate is built with it by name,
//! never with the process's default.

use rustls::{
    CipherSuite,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite as suite, kx_group},
    },
};
use std::sync::{Arc, LazyLock};

/// X25519MLKEM768 first, then the classical groups; TLS 1.3 suites, and of TLS 1.2 only ECDHE with AEAD. There is no CBC
/// to switch on.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ours()));
    PROVIDER.clone()
}

/// Makes it the process's default. pingora brings a second one (ring); without this, which is taken would be an accident.
/// May be called more than once.
pub fn install_provider() {
    // An error means that one is installed already: by an earlier call in this process.
    let _ = CryptoProvider::install_default((*provider()).clone());
}

/// Whether it is a suite of TLS 1.3, of those that we speak.
pub(crate) fn is_of_13(suite: CipherSuite) -> bool {
    provider().cipher_suites.iter().any(|known| known.suite() == suite && known.tls13().is_some())
}

/// Written out: what an upgrade of rustls adds to its defaults is a decision of ours.
fn ours() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        ..aws_lc_rs::default_provider()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::NamedGroup;

    #[test]
    fn every_suite_is_aead_with_ephemeral_keys_and_the_hybrid_group_comes_first() {
        for suite in &provider().cipher_suites {
            let name = suite.suite().as_str().unwrap();
            assert!(name.contains("GCM") || name.contains("POLY1305"), "{name}");
            assert!(name.starts_with("TLS13_") || name.starts_with("TLS_ECDHE_"), "{name}");
        }
        let groups: Vec<_> = provider().kx_groups.iter().map(|group| group.name()).collect();
        let expected = [NamedGroup::X25519MLKEM768, NamedGroup::X25519, NamedGroup::secp256r1, NamedGroup::secp384r1];
        assert_eq!(groups, expected);
    }

    #[test]
    fn installing_twice_is_harmless() {
        install_provider();
        install_provider();
        let default = CryptoProvider::get_default().unwrap();
        assert_eq!(default.kx_groups[0].name(), NamedGroup::X25519MLKEM768);
    }
}

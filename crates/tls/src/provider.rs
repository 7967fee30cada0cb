//! The one set of algorithms this program speaks TLS with.

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use std::sync::{Arc, LazyLock};

/// X25519MLKEM768 first, then the classical groups; TLS 1.3 suites, and of TLS 1.2 only ECDHE with AEAD. There is no CBC
/// to switch on.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    PROVIDER.clone()
}

/// Makes it the process's default. pingora brings a second one (ring); without this, which is taken would be an accident.
pub fn install_provider() {
    // An error means that one is installed already: by an earlier call in this process.
    let _ = CryptoProvider::install_default((*provider()).clone());
}

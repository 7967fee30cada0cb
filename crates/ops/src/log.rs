//! The process's own log: what changed, to standard error.

use tracing_subscriber::{EnvFilter, fmt};

/// `PORTCULLIS_LOG` chooses levels (`debug`, `portcullis_proxy=debug`); default info, pingora's errors only: it logs each
/// client abort as an error, which would let clients write our log.
pub fn start() {
    let filter = EnvFilter::try_from_env("PORTCULLIS_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,pingora=off,pingora_core=off,pingora_proxy=off"));
    // An error means that a subscriber is set already: by a test.
    let _ = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .try_init();
}

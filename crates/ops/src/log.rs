//! The process's own log: what changed, to standard error.

use tracing_subscriber::{EnvFilter, fmt};

/// `PORTCULLIS_LOG` chooses levels (`debug`, `portcullis_proxy=debug`); default info. Of pingora nothing is written at any level: it
/// logs each client abort as an error, which would let clients write our log, and at its finer levels whole heads with all
/// credentials in them. Of the file watcher neither: it tells of each write beside the configuration, so a log that lies there
/// would tell of itself for ever.
pub fn start() {
    let mut filter = EnvFilter::try_from_env("PORTCULLIS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    for target in ["pingora", "pingora_core", "pingora_proxy", "pingora_http", "pingora_pool", "notify"] {
        if let Ok(directive) = format!("{target}=off").parse() {
            filter = filter.add_directive(directive);
        }
    }
    // An error means that a subscriber is set already: by a test.
    let _ = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .try_init();
}

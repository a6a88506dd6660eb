//! Logs: JSON lines on Lambda, text on a terminal; always on stderr, never a body, secret, token or URL query.

use tracing_subscriber::EnvFilter;

/// Writes JSON lines, for CloudWatch Logs.
pub fn json(filter: &str) {
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .init();
}

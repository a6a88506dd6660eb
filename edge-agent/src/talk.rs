//! What is said to people: on stderr, one line each; stdout is data.

use std::fmt::Display;
use std::io::Write as _;

/// Says one line.
pub(crate) fn say(line: impl Display) {
    // Nobody may be listening any more, and that is no reason to end.
    let _ = writeln!(std::io::stderr(), "edge-agent: {line}");
}

/// RFC 3339, UTC, to the millisecond.
pub(crate) fn rfc3339(millis: i64) -> String {
    use time::format_description::well_known::Rfc3339;
    time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

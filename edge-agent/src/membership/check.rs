//! When the agent shows its Linear token again: at start, then daily, and as soon as it is told that events are withheld.

use std::time::Duration;

use protocol::clock::{UnixMillis, elapsed};
use protocol::envelope::digest;
use serde::{Deserialize, Serialize};

/// How often the token is shown.
const INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// The shortest time between two checks because of withheld events: many can be withheld, of a team that the user never sees.
const WITHHELD_INTERVAL: Duration = Duration::from_secs(60);
/// How long an OAuth access token is shown. Linear's live for 24 hours (Linear's documentation, "OAuth 2.0 authentication"), and
/// the relay removes a worker whose token has expired.
const OAUTH_SHOWN_FOR: Duration = Duration::from_secs(23 * 3600);

/// A token that was shown, and accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shown {
    /// The token's SHA-256.
    digest: String,
    /// When it was accepted first.
    first_at: UnixMillis,
    /// When it was accepted last.
    pub(crate) last_at: UnixMillis,
}

impl Shown {
    /// A token that is accepted at `now`, after `previous`.
    pub(crate) fn new(token: &str, previous: Option<&Self>, now: UnixMillis) -> Self {
        let digest = digest(token.as_bytes());
        let same = previous.filter(|shown| shown.digest == digest);
        Self {
            first_at: same.map_or(now, |shown| shown.first_at),
            last_at: now,
            digest,
        }
    }
}

/// Whether this token can be shown: an OAuth access token that was accepted a day ago has expired.
pub(crate) fn can_show(token: &str, shown: Option<&Shown>, now: UnixMillis) -> bool {
    let is_key = token.starts_with("lin_api_");
    let is_old = shown.is_some_and(|shown| {
        shown.digest == digest(token.as_bytes()) && elapsed(shown.first_at, now) >= OAUTH_SHOWN_FOR
    });
    is_key || !is_old
}

/// When the token is shown next, after it was shown or tried at `last_at`.
pub(crate) fn due_at(last_at: UnixMillis, is_withheld: bool) -> UnixMillis {
    let interval = if is_withheld {
        WITHHELD_INTERVAL
    } else {
        INTERVAL
    };
    last_at + protocol::clock::millis(interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn an_oauth_token_is_shown_for_a_day_and_a_key_for_ever() {
        let shown = |token: &str| Shown::new(token, None, 0);
        for (token, shown, hours, expected) in [
            ("lin_oauth_x", None, 99, true),
            ("lin_oauth_x", Some(shown("lin_oauth_x")), 22, true),
            ("lin_oauth_x", Some(shown("lin_oauth_x")), 23, false),
            ("lin_oauth_y", Some(shown("lin_oauth_x")), 23, true),
            ("lin_api_x", Some(shown("lin_api_x")), 99, true),
        ] {
            let can = can_show(token, shown.as_ref(), hours * HOUR);
            assert_eq!(can, expected, "{token} after {hours} h");
        }
        let first = shown("lin_oauth_x");
        let again = Shown::new("lin_oauth_x", Some(&first), HOUR);
        assert_eq!((again.first_at, again.last_at), (0, HOUR));
        assert_eq!(Shown::new("lin_oauth_y", Some(&first), HOUR).first_at, HOUR);
    }

    #[test]
    fn a_check_is_due_daily_or_a_minute_later_if_events_are_withheld() {
        assert_eq!(due_at(5, false), 5 + 24 * HOUR);
        assert_eq!(due_at(5, true), 5 + 60_000);
    }
}

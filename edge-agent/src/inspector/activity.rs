//! The last hour in minutes: how many events arrived, and how long their handling took.

use protocol::clock::{UnixMillis, rfc3339};
use serde::Serialize;

/// How many minutes are shown.
const MINUTES: usize = 60;
const MINUTE: UnixMillis = 60_000;

/// One minute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Minute {
    /// When it began, RFC 3339.
    minute: String,
    deliveries: u64,
    /// The median time of their last attempts; none without any.
    milliseconds: Option<i64>,
}

/// When the first of the minutes before `now` began.
pub(super) fn first_minute(now: UnixMillis) -> UnixMillis {
    (now / MINUTE - (MINUTES as UnixMillis - 1)) * MINUTE
}

/// The minutes before `now`, the oldest first, from when events were received and how long their last attempts took.
pub(super) fn minutes(events: &[(UnixMillis, Option<i64>)], now: UnixMillis) -> Vec<Minute> {
    let since = first_minute(now);
    let mut minutes: Vec<(u64, Vec<i64>)> = vec![(0, Vec::new()); MINUTES];
    for (received_at, took_ms) in events {
        let at = usize::try_from((received_at - since).div_euclid(MINUTE));
        if let Some((deliveries, times)) = at.ok().and_then(|at| minutes.get_mut(at)) {
            *deliveries += 1;
            times.extend(took_ms);
        }
    }
    (minutes.into_iter().zip(0..))
        .map(|((deliveries, times), at)| Minute {
            minute: rfc3339(since + at * MINUTE),
            deliveries,
            milliseconds: median(times),
        })
        .collect()
}

/// The median of durations; none of none.
pub(super) fn median(mut times: Vec<i64>) -> Option<i64> {
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_minute_has_its_deliveries_and_the_median_of_their_times() {
        let now = 1_792_000_030_000;
        let this = now / MINUTE * MINUTE;
        let events = [
            (now, None),
            (this - 1, Some(5)),
            (this - 2, Some(1)),
            (this - 3, Some(9)),
            (first_minute(now), Some(7)),
            (first_minute(now) - 1, Some(1)),
            // The clock was set back.
            (now + 2 * MINUTE, Some(1)),
        ];
        let minutes = minutes(&events, now);
        let shown = |at: usize| (minutes[at].deliveries, minutes[at].milliseconds);
        assert_eq!(minutes.len(), 60);
        assert_eq!(shown(59), (1, None));
        assert_eq!(shown(58), (3, Some(5)));
        assert_eq!(shown(0), (1, Some(7)));
        assert_eq!(minutes.iter().map(|m| m.deliveries).sum::<u64>(), 5);
    }
}

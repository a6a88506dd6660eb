//! When a delivery is tried again, and when it is given up.
//!
//! Invariant: the wait comes from the message's age, not from its receive count, because a FIFO message that
//! waits behind another in the same batch is received without being tried.

use std::time::Duration;

/// The shortest and the longest wait between two attempts, before jitter.
pub(crate) const SHORTEST: Duration = Duration::from_secs(1);
/// See [`SHORTEST`].
pub(crate) const LONGEST: Duration = Duration::from_secs(3600);

/// How many unreachable attempts in a row mark a worker away, if they are at least [`AWAY_OVER`] apart.
const AWAY_AFTER: u64 = 3;
/// The shortest time between the first and the last of them.
const AWAY_OVER: Duration = Duration::from_secs(10);

/// The unreachable attempts of a worker in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnreachableAttempts {
    /// How many there were.
    pub count: u64,
    /// The time from the first to the last.
    pub over: Duration,
}

impl UnreachableAttempts {
    /// Whether they are enough to mark the worker away.
    pub(crate) fn are_enough(self) -> bool {
        self.count >= AWAY_AFTER && self.over >= AWAY_OVER
    }
}

/// The wait until the next attempt of a message of this `age`: the age itself between [`SHORTEST`] and [`LONGEST`],
/// plus or minus `jitter` fifths (-1 to 1), and at least what the worker asked for.
pub fn backoff(age: Duration, retry_after: Option<Duration>, jitter: f64) -> Duration {
    let wait = age.clamp(SHORTEST, LONGEST).mul_f64(1.0 + 0.2 * jitter);
    wait.max(retry_after.unwrap_or_default().min(LONGEST))
}

/// How long a delivery is retried.
#[derive(Debug, Clone, Copy)]
pub struct GiveUp {
    /// After failures that may pass.
    pub after: Duration,
    /// After answers that say the request itself is wrong: a plain 4xx.
    pub plain_4xx_after: Duration,
}

impl GiveUp {
    /// Whether a delivery of this age, answered with this status, is not retried any more.
    pub(crate) fn is_due(&self, age: Duration, status: Option<u16>) -> bool {
        let plain_4xx = status.is_some_and(|status| {
            (400..500).contains(&status) && !matches!(status, 408 | 409 | 425 | 429)
        });
        age >= if plain_4xx {
            self.plain_4xx_after.min(self.after)
        } else {
            self.after
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_the_age_between_a_second_and_an_hour() {
        assert_eq!(backoff(Duration::ZERO, None, 0.0), SECOND);
        assert_eq!(backoff(8 * SECOND, None, 0.0), 8 * SECOND);
        assert_eq!(backoff(9999 * SECOND, None, 0.0), LONGEST);
    }

    #[test]
    fn a_workers_retry_after_is_a_lower_bound_of_an_hour_at_most() {
        assert_eq!(backoff(SECOND, Some(30 * SECOND), 0.0), 30 * SECOND);
        assert_eq!(backoff(60 * SECOND, Some(SECOND), 0.0), 60 * SECOND);
        assert_eq!(backoff(SECOND, Some(99_999 * SECOND), 0.0), LONGEST);
    }

    #[test]
    fn a_message_is_tried_less_than_forty_times_in_six_hours() {
        let mut age = Duration::ZERO;
        let mut attempts = 0;
        while age < Duration::from_secs(6 * 3600) {
            attempts += 1;
            age += backoff(age, None, -1.0);
        }
        assert!(attempts < 40, "{attempts}");
    }

    #[test]
    fn three_unreachable_attempts_over_ten_seconds_mark_a_worker_away() {
        for (count, seconds, expected) in [(2, 99, false), (3, 9, false), (3, 10, true)] {
            let over = Duration::from_secs(seconds);
            assert_eq!(UnreachableAttempts { count, over }.are_enough(), expected);
        }
    }

    #[test]
    fn plain_4xx_are_given_up_sooner() {
        let give_up = GiveUp {
            after: 600 * SECOND,
            plain_4xx_after: 60 * SECOND,
        };
        for (status, age, expected) in [
            (Some(400), 59, false),
            (Some(400), 60, true),
            (Some(404), 60, true),
            (Some(408), 60, false),
            (Some(409), 60, false),
            (Some(425), 60, false),
            (Some(429), 599, false),
            (Some(500), 599, false),
            (Some(500), 600, true),
            (None, 600, true),
        ] {
            assert_eq!(
                give_up.is_due(age * SECOND, status),
                expected,
                "{status:?} {age}"
            );
        }
    }

    proptest! {
        #[test]
        fn waits_stay_in_bounds(age in 0_u64..1_000_000, retry_after in 0_u64..1_000_000, jitter in -1.0..=1.0) {
            let wait = backoff(Duration::from_secs(age), Some(Duration::from_secs(retry_after)), jitter);
            prop_assert!(wait >= SHORTEST.mul_f64(0.8));
            prop_assert!(wait <= LONGEST.mul_f64(1.2));
        }
    }
}

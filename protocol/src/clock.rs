//! The time as an argument: the system's clock, which a test can move forward, or the one of a runtime whose time is
//! simulated.
//!
//! Invariant: everything that depends on the time uses the one `Clock` of its process, so that a test that moves it
//! moves leases, ages, backoffs and visibility timeouts alike.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;

/// A point in time: milliseconds since the Unix epoch.
pub type UnixMillis = i64;

/// A point in time: whole seconds since the Unix epoch.
pub type UnixSeconds = i64;

/// A clock. Clones share the time.
#[derive(Debug, Clone)]
pub struct Clock {
    source: Source,
    ahead: watch::Sender<Duration>,
}

/// Where the time comes from.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// The system.
    System,
    /// Tokio's runtime, for which it was this time at this instant.
    Runtime(Duration, Instant),
}

impl Source {
    /// The time since the Unix epoch.
    fn now(self) -> Duration {
        match self {
            Self::System => (SystemTime::now().duration_since(UNIX_EPOCH)).unwrap_or_default(),
            Self::Runtime(began, at) => began + at.elapsed(),
        }
    }
}

/// The milliseconds of a duration.
pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The time from `from` to `to`; zero if `to` is the earlier one.
pub fn elapsed(from: UnixMillis, to: UnixMillis) -> Duration {
    Duration::from_millis(u64::try_from(to - from).unwrap_or_default())
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::of(Source::System)
    }

    /// The clock of Tokio's runtime, for which it is `now`. In a runtime whose time is paused it moves only when every task
    /// waits.
    pub fn of_runtime(now: UnixMillis) -> Self {
        let now = elapsed(0, now);
        Self::of(Source::Runtime(now, Instant::now()))
    }

    fn of(source: Source) -> Self {
        Self {
            source,
            ahead: watch::Sender::new(Duration::ZERO),
        }
    }

    /// The present time.
    pub fn millis(&self) -> UnixMillis {
        millis(self.source.now() + *self.ahead.borrow())
    }

    /// The present time in whole seconds.
    pub fn seconds(&self) -> UnixSeconds {
        self.millis() / 1000
    }

    /// Moves this clock and all its clones forward.
    pub fn advance(&self, by: Duration) {
        self.ahead.send_modify(|ahead| *ahead += by);
    }

    /// Waits until `due` has come, also when the clock is moved there.
    pub async fn until(&self, due: UnixMillis) {
        let mut moved = self.ahead.subscribe();
        loop {
            let left = due - self.millis();
            let Ok(left @ 1..) = u64::try_from(left) else {
                return;
            };
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(left)) => {}
                _ = moved.changed() => {}
            }
        }
    }
}

/// RFC 3339, UTC, to the millisecond.
pub fn rfc3339(at: UnixMillis) -> String {
    use time::format_description::well_known::Rfc3339;
    time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// The time that a text in RFC 3339 says.
pub fn parse_rfc3339(text: &str) -> Option<UnixMillis> {
    use time::format_description::well_known::Rfc3339;
    let at = time::OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_ends_when_the_clock_is_moved_past_it() {
        let clock = Clock::system();
        let hour = Duration::from_secs(3600);
        let due = clock.millis() + 3_600_000;
        let waiting = tokio::spawn({
            let clock = clock.clone();
            async move { clock.until(due).await }
        });
        clock.advance(hour);
        assert!(waiting.await.is_ok());
        assert!(clock.millis() >= due);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_of_a_runtime_moves_with_its_time_alone() {
        let clock = Clock::of_runtime(5_000);
        assert_eq!(clock.millis(), 5_000);
        clock.until(8_600_000).await;
        assert_eq!(clock.millis(), 8_600_000);
    }

    #[test]
    fn times_are_written_as_rfc_3339() {
        assert_eq!(rfc3339(1_795_168_200_540), "2026-11-20T09:50:00.54Z");
    }
}

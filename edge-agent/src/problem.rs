//! A problem that lasts: reported once, and again when it changes, and retried with backoff.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The current problem of one task.
#[derive(Debug)]
pub(crate) struct Problem {
    /// Empty while there is none.
    text: String,
    backoff: ExponentialBackoff,
}

fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(FIRST_WAIT)
        .with_max_delay(LONGEST_WAIT)
        .without_max_times()
        .build()
}

impl Problem {
    /// No problem yet.
    pub(crate) fn none() -> Self {
        Self {
            text: String::new(),
            backoff: backoff(),
        }
    }

    /// The problem occurs. Calls `report` if it is another one than before. Returns the wait until the next try. The waits
    /// grow until the problem ends, because its text may change with each try, as a program's last line does.
    pub(crate) fn occurs(&mut self, text: &str, report: impl FnOnce()) -> Duration {
        if self.text != text {
            report();
            text.clone_into(&mut self.text);
        }
        self.backoff.next().unwrap_or(LONGEST_WAIT)
    }

    /// The problem is over. Returns whether there was one.
    pub(crate) fn ends(&mut self) -> bool {
        self.backoff = backoff();
        !std::mem::take(&mut self.text).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_reported_when_it_changes_and_its_waits_double_up_to_a_minute() {
        let mut problem = Problem::none();
        let mut reports = 0;
        let mut occurs =
            |problem: &mut Problem, text| problem.occurs(text, || reports += 1).as_secs();
        let waits: Vec<_> = (0..8).map(|_| occurs(&mut problem, "one")).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(occurs(&mut problem, "another"), 60);
        assert!(problem.ends());
        assert!(!problem.ends());
        assert_eq!(occurs(&mut problem, "another"), 1);
        assert_eq!(reports, 3);
    }
}

//! The delivery policy: what becomes of a delivery and of its worker. Every rule is here, with its reason; `deliver`,
//! `health`, `register` and `mailbox` carry out what these functions decide.
//!
//! Invariant: nothing here does I/O, awaits, or reads a clock or a random source. Times, limits and randomness are arguments.
//!
//! | outcome of an attempt | then |
//! |---|---|
//! | delivered | the delivery is acknowledged |
//! | gone | the worker is removed |
//! | unreachable | three in a row over at least 10 s mark the worker away; until then the delivery is retried |
//! | rejected | the delivery is retried, and dead-lettered once it was retried long enough |
//!
//! What is retried is in backoff, and a worker has a bounded number of deliveries there: one with more is away. So is one
//! that goes on rejecting a delivery while many others, which are about the same thing, wait behind it.
//!
//! All waits and limits count from the first attempt and not from the event: what waited behind another delivery, or while
//! the relay was off, is tried as long as anything else.

use std::time::Duration;

use protocol::clock::{UnixMillis, elapsed, millis};
use protocol::messages::WorkerState;

use crate::outcome::Outcome;

/// The shortest and the longest wait between two attempts, before jitter.
pub(crate) const SHORTEST: Duration = Duration::from_secs(1);
/// See [`SHORTEST`].
pub(crate) const LONGEST: Duration = Duration::from_secs(3600);

/// How many unreachable attempts in a row mark a worker away, if they are at least [`AWAY_OVER`] apart.
const AWAY_AFTER: u64 = 3;
/// The shortest time between the first and the last of them.
const AWAY_OVER: Duration = Duration::from_secs(10);

/// When an away worker whose mailbox the relay delivers is probed first. Soon, because a receiver that restarts is back
/// within seconds.
pub(crate) const DRAIN_FIRST: Duration = Duration::from_secs(10);

/// A delivery may be rejected for this long while [`MANY_BEHIND`] others wait behind it.
const HOLDS_UP_FOR: Duration = Duration::from_secs(60);
/// Together with the rejected delivery, they fill a batch (`BatchSize` in template.yaml).
const MANY_BEHIND: usize = 9;
/// A rejected delivery that has been on the queue for this long marks its worker away: SQS deletes a message after 14 days.
const LONGEST_QUEUED: Duration = Duration::from_secs(7 * 24 * 3600);

/// How soon a drain looks for new mail of other groups, while all that it has seen waits behind what was rejected; and how many
/// times as long as the last look has taken that is at least, however much waits.
const DRAIN_AGAIN: Duration = Duration::from_secs(60);
const DRAIN_PAUSE: u32 = 20;

/// An agent renews every five minutes, and this much later it is not there.
const RENEWED_WITHIN: Duration = Duration::from_secs(7 * 60);

/// The time between two runs of `health`.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// When `health` probes an away worker first; then after twice that, and so on, up to every [`AWAY_LONGEST`].
const AWAY_FIRST: Duration = PROBE_INTERVAL;
const AWAY_LONGEST: Duration = Duration::from_secs(160 * 60);
/// The same for a live worker without deliveries.
const SILENT_FIRST: Duration = Duration::from_secs(3600);
const SILENT_LONGEST: Duration = Duration::from_secs(4 * 3600);

/// The unreachable attempts of a worker in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnreachableAttempts {
    /// How many there were.
    pub count: u64,
    /// The time from the first to the last.
    pub over: Duration,
    /// How many deliveries the worker has in backoff, the last one that failed included.
    pub in_backoff: u64,
}

impl UnreachableAttempts {
    /// Whether they are enough to mark the worker away.
    pub(crate) fn are_enough(self) -> bool {
        self.count >= AWAY_AFTER && self.over >= AWAY_OVER
    }

    /// Whether they leave the worker with more deliveries in backoff than it may have, which marks it away, too: one that
    /// is reached in between never has enough in a row.
    pub(crate) fn exceed(self, deliveries_in_backoff: u64) -> bool {
        self.in_backoff > deliveries_in_backoff
    }
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
    /// Whether a delivery that was tried for so long, and answered with this status, is not retried any more.
    fn is_due(&self, tried_for: Duration, status: Option<u16>) -> bool {
        let plain_4xx = status.is_some_and(|status| {
            (400..500).contains(&status) && !matches!(status, 408 | 409 | 425 | 429)
        });
        tried_for
            >= if plain_4xx {
                self.plain_4xx_after.min(self.after)
            } else {
                self.after
            }
    }
}

/// What becomes of a delivery when it is received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnReceipt {
    /// Its worker is removed.
    Drop,
    /// It is POSTed.
    Attempt,
    /// It goes into the mailbox: its worker is away or has no address.
    Park,
    /// Its worker is marked away, and it goes into the mailbox: the membership of the worker's user has to be checked first.
    MarkAway,
}

/// What becomes of a delivery for a worker in this state, whose membership check may be overdue; none if the worker is
/// removed. Whoever has left the workspace must not go on receiving for as long as the worker is renewed; and Linear being
/// down for a while must not cost anybody an event.
pub(crate) fn on_receipt(worker: Option<(WorkerState, bool)>) -> OnReceipt {
    match worker {
        None => OnReceipt::Drop,
        Some((WorkerState::Live, false)) => OnReceipt::Attempt,
        Some((WorkerState::Live, true)) => OnReceipt::MarkAway,
        Some((WorkerState::Away | WorkerState::Pull, _)) => OnReceipt::Park,
    }
}

/// Until when a worker's user, last checked then, counts as a member; none: for ever. A worker of a version that did not
/// record checks has none.
pub(crate) fn membership_due_at(
    checked_at: UnixMillis,
    membership: Option<Duration>,
) -> Option<UnixMillis> {
    membership
        .filter(|_| checked_at > 0)
        .map(|membership| checked_at + millis(membership))
}

/// Whether the check of a worker's user is overdue.
pub(crate) fn is_membership_overdue(
    checked_at: UnixMillis,
    membership: Option<Duration>,
    now: UnixMillis,
) -> bool {
    membership_due_at(checked_at, membership).is_some_and(|due_at| now >= due_at)
}

/// An attempt at a delivery.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt {
    /// What came of it.
    pub(crate) outcome: Outcome,
    /// The time since the first attempt at the delivery.
    pub(crate) tried_for: Duration,
    /// From -1 to 1, so that not everything is retried at once.
    pub(crate) jitter: f64,
}

/// What becomes of a delivery, and of its worker, after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterAttempt {
    /// It is delivered.
    Acknowledge,
    /// The worker wants nothing any more.
    RemoveWorker,
    /// The worker is not there. It is away once its attempts in a row [are enough](UnreachableAttempts::are_enough), or
    /// [exceed](UnreachableAttempts::exceed) the limit of those in backoff, or if the delivery `is_overdue`: an absent
    /// laptop is never a reason for a dead letter. Until then the delivery is retried after `wait`.
    Unreachable {
        /// It was retried for as long as anything is.
        is_overdue: bool,
        /// Until the next attempt.
        wait: Duration,
    },
    /// The worker rejects it. It is retried after this wait if the worker has room for another delivery in backoff. A
    /// worker without room is marked away as rejecting, so that it cannot fill the queue, which holds 120,000 messages in
    /// flight for everybody (SQS quotas, "FIFO queue").
    Retry(Duration),
    /// It was retried long enough. Its reason is the last outcome.
    DeadLetter,
}

/// What becomes of a delivery after an attempt.
pub(crate) fn after_attempt(attempt: Attempt, give_up: &GiveUp) -> AfterAttempt {
    let Attempt {
        outcome,
        tried_for,
        jitter,
    } = attempt;
    match outcome {
        Outcome::Delivered => AfterAttempt::Acknowledge,
        Outcome::Gone => AfterAttempt::RemoveWorker,
        Outcome::Unreachable(_) => AfterAttempt::Unreachable {
            is_overdue: give_up.is_due(tried_for, None),
            wait: backoff(tried_for, None, jitter),
        },
        Outcome::Rejected { .. } if give_up.is_due(tried_for, outcome.status()) => {
            AfterAttempt::DeadLetter
        }
        Outcome::Rejected { retry_after, .. } => {
            AfterAttempt::Retry(backoff(tried_for, retry_after, jitter))
        }
    }
}

/// The wait until the next attempt at a delivery that was tried for so long: as long again, between [`SHORTEST`] and
/// [`LONGEST`], plus or minus `jitter` fifths (-1 to 1), and at least what the worker asked for. It is in the whole seconds
/// that SQS counts.
pub fn backoff(tried_for: Duration, retry_after: Option<Duration>, jitter: f64) -> Duration {
    let wait = (tried_for.clamp(SHORTEST, LONGEST)).mul_f64(1.0 + 0.2 * jitter);
    let wait = wait.max(retry_after.unwrap_or_default().min(LONGEST));
    Duration::from_secs(wait.as_millis().div_ceil(1000) as u64)
}

/// A delivery that was rejected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rejected {
    /// The time since its first attempt.
    pub(crate) tried_for: Duration,
    /// The time since it was put on the queue.
    pub(crate) queued_for: Duration,
    /// How many deliveries of its batch wait behind it.
    pub(crate) behind: usize,
}

/// Whether a delivery that was rejected marks its worker away, though that has room for it in backoff. What waits behind it
/// is not counted, and would fill the queue; and behind others that were retried for hours, it would be deleted.
pub(crate) fn holds_up(rejected: Rejected) -> bool {
    rejected.tried_for >= HOLDS_UP_FOR
        && (rejected.behind >= MANY_BEHIND || rejected.queued_for >= LONGEST_QUEUED)
}

/// Whether the relay delivers a mailbox itself, as soon as its worker answers: the worker has an address and does not say
/// that it empties the mailbox.
pub(crate) fn is_drained(state: WorkerState, pulls: bool) -> bool {
    state == WorkerState::Away && !pulls
}

/// The wait until an away worker that is drained is probed again: as long as it is away, between [`DRAIN_FIRST`] and the
/// longest gap of `health`.
pub(crate) fn drain_wait(away_for: Duration) -> Duration {
    Duration::from_secs(away_for.clamp(DRAIN_FIRST, AWAY_LONGEST).as_secs())
}

/// The wait until the next attempt at an event that was attempted so often, and never answered, although pings are.
/// It doubles, so that a drain soon has time for what is behind many of them.
pub(crate) fn unanswered_wait(attempts: u64) -> Duration {
    let doubled = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
    let times = 1_u32.checked_shl(doubled).unwrap_or(u32::MAX);
    DRAIN_FIRST.saturating_mul(times).min(AWAY_LONGEST)
}

/// The wait until a drain looks again for new mail of other groups, after it has looked through the mailbox for so long.
pub(crate) fn drain_again(looked_for: Duration) -> Duration {
    DRAIN_AGAIN.max(looked_for * DRAIN_PAUSE)
}

/// What a probe says about a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterProbe {
    /// Nothing that has to be recorded.
    Nothing,
    /// It wants nothing any more.
    RemoveWorker,
    /// It is back, and nothing waits for it.
    MarkLive,
    /// It is back, and the relay delivers what waits for it. One that pulls was told by the probe to do so.
    Drain,
    /// It is there: earlier unreachable attempts count no more.
    ClearFailures,
    /// It is there, and rejected the probe.
    RecordRejection,
    /// It is not there, which counts as an unreachable attempt.
    CountUnreachable,
}

/// A worker when it was probed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Probed {
    /// Its state.
    pub(crate) state: WorkerState,
    /// Whether it empties its mailbox itself.
    pub(crate) pulls: bool,
    /// Whether its mailbox holds anything.
    pub(crate) waiting: bool,
    /// Whether there were unreachable attempts before.
    pub(crate) has_failures: bool,
}

/// What a probe with this outcome says.
pub(crate) fn after_probe(worker: Probed, outcome: Outcome) -> AfterProbe {
    match (worker.state, outcome) {
        (_, Outcome::Gone) => AfterProbe::RemoveWorker,
        // Whatever it answers, it is there. A receiver need not know what a ping is.
        (WorkerState::Away, Outcome::Delivered | Outcome::Rejected { .. })
            if worker.waiting && is_drained(worker.state, worker.pulls) =>
        {
            AfterProbe::Drain
        }
        (WorkerState::Away, Outcome::Delivered) if !worker.waiting => AfterProbe::MarkLive,
        (WorkerState::Live, Outcome::Delivered) if worker.has_failures => AfterProbe::ClearFailures,
        (WorkerState::Live, Outcome::Rejected { .. }) => AfterProbe::RecordRejection,
        (WorkerState::Live, Outcome::Unreachable(_)) => AfterProbe::CountUnreachable,
        _ => AfterProbe::Nothing,
    }
}

/// What an empty mailbox says about its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenEmpty {
    /// It has all that was parked, and its events are POSTed again.
    MarkLive,
    /// It has all that was parked, which is recorded.
    ClearWaiting,
    /// Nothing that is not recorded.
    Nothing,
}

/// What the empty mailbox of a worker in this state says; `is_recorded_waiting` is whether events are recorded to wait.
pub(crate) fn when_empty(state: WorkerState, is_recorded_waiting: bool) -> WhenEmpty {
    match state {
        WorkerState::Away => WhenEmpty::MarkLive,
        WorkerState::Live | WorkerState::Pull if is_recorded_waiting => WhenEmpty::ClearWaiting,
        WorkerState::Live | WorkerState::Pull => WhenEmpty::Nothing,
    }
}

/// Whether a run of `health` at `now` looks at a worker: one that is away since then, or paused, or a live one that had its last
/// delivery then.
pub(crate) fn is_probe_due(state: WorkerState, since: Option<UnixMillis>, now: UnixMillis) -> bool {
    let Some(since) = since else {
        return false;
    };
    let age = elapsed(since, now);
    match state {
        WorkerState::Live => is_due(age, SILENT_FIRST, SILENT_LONGEST),
        WorkerState::Away | WorkerState::Pull => is_due(age, AWAY_FIRST, AWAY_LONGEST),
    }
}

/// Whether a probe falls between the previous run and this one: `first` after the beginning, then each time after as long
/// again, at last every `longest`. So the gaps grow, and nothing has to be stored.
fn is_due(age: Duration, first: Duration, longest: Duration) -> bool {
    let (age, first, longest) = (age.as_secs(), first.as_secs(), longest.as_secs());
    let since_due = if age < first {
        return false;
    } else if age < longest {
        age - first * (1 << (age / first).ilog2())
    } else {
        age % longest
    };
    since_due < PROBE_INTERVAL.as_secs()
}

/// How long after its last written renewal a worker may be in use: a renewal is not written again within a hundredth of the lease.
pub(crate) fn in_use_for(lease: Duration) -> Duration {
    (lease / 100 + RENEWED_WITHIN).min(lease / 2)
}

/// Whether somebody uses a worker: it has renewed lately, and has not gone offline. Then another one of the same name does not take
/// its events by mistake.
pub(crate) fn is_in_use(
    state: WorkerState,
    is_paused: bool,
    lease: Duration,
    since_renewal: Duration,
) -> bool {
    let is_online = is_paused || state != WorkerState::Away;
    is_online && since_renewal < in_use_for(lease)
}

/// The state of a worker that registers. One with a mailbox, which can outlive its lease, gets what is in it first.
pub(crate) fn registered_state(
    has_address: bool,
    previous: Option<WorkerState>,
    has_mail: bool,
) -> WorkerState {
    match (has_address, previous) {
        (false, _) => WorkerState::Pull,
        (true, None) if has_mail => WorkerState::Away,
        (true, None) => WorkerState::Live,
        (true, Some(WorkerState::Pull)) => WorkerState::Away,
        (true, Some(state)) => state,
    }
}

/// The state that a renewal changes a worker to, if it changes it. `address` is whether it has one from now on, if the
/// renewal says.
pub(crate) fn renewed_state(
    state: WorkerState,
    address: Option<bool>,
    requested: Option<WorkerState>,
) -> Option<WorkerState> {
    match (address, state, requested) {
        (Some(false), WorkerState::Live | WorkerState::Away, _) => Some(WorkerState::Pull),
        (Some(true), WorkerState::Pull, _) => Some(WorkerState::Away),
        (_, WorkerState::Live, Some(WorkerState::Away)) => Some(WorkerState::Away),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use proptest::prelude::*;

    use super::*;
    use crate::outbound::SendError;
    use crate::outcome::UnreachableCause;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: u64 = 60;
    const GIVE_UP: GiveUp = GiveUp {
        after: Duration::from_secs(600),
        plain_4xx_after: Duration::from_secs(60),
    };

    fn unreachable(count: u64, over: Duration, in_backoff: u64) -> UnreachableAttempts {
        UnreachableAttempts {
            count,
            over,
            in_backoff,
        }
    }

    fn rejected(status: u16) -> Outcome {
        let status = StatusCode::from_u16(status).unwrap();
        Outcome::Rejected {
            status,
            retry_after: None,
        }
    }

    const UNREACHABLE: Outcome =
        Outcome::Unreachable(UnreachableCause::NoAnswer(SendError::Timeout));

    fn after(outcome: Outcome, tried_for: u64) -> AfterAttempt {
        let attempt = Attempt {
            outcome,
            tried_for: Duration::from_secs(tried_for),
            jitter: 0.0,
        };
        after_attempt(attempt, &GIVE_UP)
    }

    #[test]
    fn a_delivery_is_attempted_parked_or_dropped_by_its_workers_state() {
        for (state, expected) in [
            (None, OnReceipt::Drop),
            (Some((WorkerState::Live, false)), OnReceipt::Attempt),
            (Some((WorkerState::Live, true)), OnReceipt::MarkAway),
            (Some((WorkerState::Away, true)), OnReceipt::Park),
            (Some((WorkerState::Pull, false)), OnReceipt::Park),
        ] {
            assert_eq!(on_receipt(state), expected);
        }
    }

    #[test]
    fn each_outcome_has_its_consequence() {
        assert_eq!(after(Outcome::Delivered, 9), AfterAttempt::Acknowledge);
        assert_eq!(after(Outcome::Gone, 9), AfterAttempt::RemoveWorker);
        for (tried_for, is_overdue) in [(9, false), (600, true)] {
            let wait = Duration::from_secs(tried_for);
            let expected = AfterAttempt::Unreachable { is_overdue, wait };
            assert_eq!(after(UNREACHABLE, tried_for), expected);
        }
    }

    #[test]
    fn a_rejected_delivery_is_retried_and_a_plain_4xx_given_up_sooner() {
        for (status, tried_for, is_given_up) in [
            (400, 59, false),
            (400, 60, true),
            (401, 60, true),
            (408, 60, false),
            (409, 60, false),
            (425, 60, false),
            (429, 599, false),
            (500, 599, false),
            (500, 600, true),
        ] {
            let expected = if is_given_up {
                AfterAttempt::DeadLetter
            } else {
                AfterAttempt::Retry(Duration::from_secs(tried_for))
            };
            assert_eq!(after(rejected(status), tried_for), expected, "{status}");
        }
    }

    #[test]
    fn waits_double_the_time_tried_between_a_second_and_an_hour() {
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
    fn a_delivery_is_tried_less_than_forty_times_in_six_hours() {
        let mut tried_for = Duration::ZERO;
        let mut attempts = 0;
        while tried_for < Duration::from_secs(6 * 3600) {
            attempts += 1;
            tried_for += backoff(tried_for, None, -1.0);
        }
        assert!(attempts < 40, "{attempts}");
    }

    #[test]
    fn a_membership_is_overdue_so_long_after_its_last_check() {
        let day = Some(Duration::from_secs(86_400));
        for (checked_at, membership, now, expected) in [
            (1, day, 86_400_000, false),
            (1, day, 86_400_001, true),
            (1, None, i64::MAX, false),
            (0, day, i64::MAX, false),
        ] {
            let found = is_membership_overdue(checked_at, membership, now);
            assert_eq!(found, expected, "{checked_at} {now}");
        }
    }

    #[test]
    fn three_unreachable_attempts_over_ten_seconds_mark_a_worker_away() {
        for (count, seconds, expected) in [(2, 99, false), (3, 9, false), (3, 10, true)] {
            let over = Duration::from_secs(seconds);
            assert_eq!(unreachable(count, over, 1).are_enough(), expected);
        }
    }

    #[test]
    fn unreachable_deliveries_are_bounded_as_rejected_ones_are() {
        for (in_backoff, expected) in [(31, false), (32, false), (33, true)] {
            assert_eq!(
                unreachable(1, Duration::ZERO, in_backoff).exceed(32),
                expected
            );
        }
    }

    #[test]
    fn a_rejected_delivery_holds_up_others_after_a_minute() {
        const WEEK: u64 = 7 * 24 * 60;
        for (tried_for, queued_for, behind, expected) in [
            (59, 1, 9, false),
            (60, 1, 9, true),
            (60, 1, 8, false),
            (3600, 60, 8, false),
            (60, WEEK - 1, 0, false),
            (60, WEEK, 0, true),
            (59, WEEK, 0, false),
        ] {
            let rejected = Rejected {
                tried_for: Duration::from_secs(tried_for),
                queued_for: Duration::from_secs(queued_for * MINUTE),
                behind,
            };
            assert_eq!(holds_up(rejected), expected, "{rejected:?}");
        }
    }

    #[test]
    fn a_drained_worker_is_probed_after_ten_seconds_and_then_at_doubling_gaps() {
        let mut away_for = Duration::ZERO;
        let mut at = Vec::new();
        while away_for < Duration::from_secs(8 * 3600) {
            away_for += drain_wait(away_for);
            at.push(away_for.as_secs());
        }
        assert_eq!(at[..6], [10, 20, 40, 80, 160, 320]);
        let gaps: Vec<_> = at.windows(2).map(|w| w[1] - w[0]).collect();
        assert_eq!(gaps.last(), Some(&AWAY_LONGEST.as_secs()));
        for (state, pulls, expected) in [
            (WorkerState::Away, false, true),
            (WorkerState::Away, true, false),
            (WorkerState::Live, false, false),
            (WorkerState::Pull, false, false),
        ] {
            assert_eq!(is_drained(state, pulls), expected);
        }
    }

    #[test]
    fn a_probe_tells_who_is_back_and_who_is_gone() {
        use WorkerState::{Away, Live};
        let probed = |state, pulls, waiting, has_failures| Probed {
            state,
            pulls,
            waiting,
            has_failures,
        };
        let (error, delivered) = (rejected(400), Outcome::Delivered);
        for (worker, outcome, expected) in [
            (
                probed(Away, false, true, false),
                Outcome::Gone,
                AfterProbe::RemoveWorker,
            ),
            (
                probed(Live, true, false, false),
                Outcome::Gone,
                AfterProbe::RemoveWorker,
            ),
            (
                probed(Away, false, true, false),
                delivered,
                AfterProbe::Drain,
            ),
            (probed(Away, false, true, false), error, AfterProbe::Drain),
            (
                probed(Away, true, true, false),
                delivered,
                AfterProbe::Nothing,
            ),
            (
                probed(Away, true, false, false),
                delivered,
                AfterProbe::MarkLive,
            ),
            (
                probed(Away, false, false, false),
                delivered,
                AfterProbe::MarkLive,
            ),
            (probed(Away, true, false, false), error, AfterProbe::Nothing),
            (
                probed(Away, false, true, false),
                UNREACHABLE,
                AfterProbe::Nothing,
            ),
            (
                probed(Live, true, false, true),
                delivered,
                AfterProbe::ClearFailures,
            ),
            (
                probed(Live, true, false, false),
                delivered,
                AfterProbe::Nothing,
            ),
            (
                probed(Live, true, false, false),
                error,
                AfterProbe::RecordRejection,
            ),
            (
                probed(Live, true, false, false),
                UNREACHABLE,
                AfterProbe::CountUnreachable,
            ),
        ] {
            assert_eq!(
                after_probe(worker, outcome),
                expected,
                "{worker:?} {outcome:?}"
            );
        }
    }

    #[test]
    fn an_empty_mailbox_makes_an_away_worker_live_and_no_other() {
        for (state, waiting, expected) in [
            (WorkerState::Away, true, WhenEmpty::MarkLive),
            (WorkerState::Away, false, WhenEmpty::MarkLive),
            (WorkerState::Pull, true, WhenEmpty::ClearWaiting),
            (WorkerState::Pull, false, WhenEmpty::Nothing),
            (WorkerState::Live, true, WhenEmpty::ClearWaiting),
            (WorkerState::Live, false, WhenEmpty::Nothing),
        ] {
            assert_eq!(when_empty(state, waiting), expected);
        }
    }

    #[test]
    fn a_registration_and_a_renewal_decide_the_state() {
        use WorkerState::{Away, Live, Pull};
        for (has_address, previous, has_mail, expected) in [
            (false, None, false, Pull),
            (false, Some(Live), false, Pull),
            (true, None, false, Live),
            (true, None, true, Away),
            (true, Some(Pull), false, Away),
            (true, Some(Live), false, Live),
            (true, Some(Away), true, Away),
        ] {
            assert_eq!(registered_state(has_address, previous, has_mail), expected);
        }
        for (state, address, requested, expected) in [
            (Live, None, None, None),
            (Live, Some(true), None, None),
            (Live, Some(false), None, Some(Pull)),
            (Away, Some(false), None, Some(Pull)),
            (Pull, Some(true), None, Some(Away)),
            (Live, None, Some(Away), Some(Away)),
            (Pull, None, Some(Away), None),
            (Away, None, Some(Away), None),
        ] {
            assert_eq!(renewed_state(state, address, requested), expected);
        }
    }

    /// The minutes at which something that began at `offset` seconds before a run is due, in two days.
    fn due(offset: u64, first: Duration, longest: Duration) -> Vec<u64> {
        (0..2 * 24 * 12)
            .map(|run| offset + run * PROBE_INTERVAL.as_secs())
            .filter(|age| is_due(Duration::from_secs(*age), first, longest))
            .map(|age| age / MINUTE)
            .collect()
    }

    #[test]
    fn gaps_between_probes_grow_and_then_stay() {
        let away = due(0, AWAY_FIRST, AWAY_LONGEST);
        assert_eq!(away[..8], [5, 10, 20, 40, 80, 160, 320, 480]);
        let silent = due(0, SILENT_FIRST, SILENT_LONGEST);
        assert_eq!(silent[..5], [60, 120, 240, 480, 720]);
        // A pull worker has been away since then only if it is paused.
        assert!(is_probe_due(WorkerState::Pull, Some(0), 300_000));
        assert!(!is_probe_due(WorkerState::Pull, None, 300_000));
        assert!(!is_probe_due(WorkerState::Away, None, 300_000));
        assert!(is_probe_due(WorkerState::Away, Some(0), 300_000));
    }

    #[test]
    fn what_is_never_answered_is_attempted_at_doubling_gaps() {
        let waits =
            [0, 1, 2, 3, 10, 11, 40, u64::MAX].map(|attempts| unanswered_wait(attempts).as_secs());
        assert_eq!(waits, [10, 10, 20, 40, 5_120, 9_600, 9_600, 9_600]);
    }

    proptest! {
        #[test]
        fn each_probe_falls_into_one_run_whatever_the_offset(offset in 0_u64..300) {
            let away = due(offset, AWAY_FIRST, AWAY_LONGEST);
            // Five while the gap grows, then one every 160 minutes until the two days end.
            prop_assert_eq!(away.len(), 5 + 17);
        }

        #[test]
        fn waits_stay_in_bounds(tried_for in 0_u64..1_000_000, retry_after in 0_u64..1_000_000, jitter in -1.0..=1.0) {
            let wait = backoff(Duration::from_secs(tried_for), Some(Duration::from_secs(retry_after)), jitter);
            prop_assert!(wait >= SHORTEST.mul_f64(0.8));
            prop_assert!(wait <= LONGEST.mul_f64(1.2));
        }
    }

    #[test]
    fn a_worker_that_has_renewed_lately_and_is_not_offline_is_in_use() {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        // A hundredth of a week is 100.8 minutes.
        let week = minutes(7 * 24 * 60);
        for (state, paused, since, expected) in [
            (WorkerState::Live, false, minutes(0), true),
            (WorkerState::Pull, false, minutes(107), true),
            (WorkerState::Live, false, minutes(108), false),
            (WorkerState::Away, false, minutes(0), false),
            (WorkerState::Away, true, minutes(0), true),
        ] {
            let found = is_in_use(state, paused, week, since);
            assert_eq!(found, expected, "{state:?} {since:?}");
        }
        assert_eq!(in_use_for(minutes(6)), minutes(3));
    }
}

//! One attempt at handling an event, from the store to its record.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use protocol::clock::{UnixMillis, millis};

use crate::config::{Action, Config, OnStop, Rule};
use crate::handler::{self, Answer, Attempting, Clients, Outcome, Running};
use crate::output::{info, short, warn};
use crate::state::AgentState;
use crate::store::{Attempt, Content, DAMAGED, Event, Loaded, State, name};

/// The waits before the retries of a failed event, each from the end of the attempt before. A handler with more retries has the
/// last of them again and again. After the last retry, the event is *failed*.
const WAITS: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
    Duration::from_secs(600),
];

/// The longest of them.
pub(super) const LONGEST_WAIT: Duration = WAITS[WAITS.len() - 1];

/// How often a request is retried that its handler says is wrong. It holds back all later events of its ordering key meanwhile.
const REFUSED_RETRIES: u64 = 2;

/// How long retries of an event say that it was sent when it was first sent, so that a handler that knows bodies by their hash
/// knows it again. Linear's own SDK takes a body that is a minute old.
const STAMP_KEPT: Duration = Duration::from_secs(45);

/// What an attempt means for the event.
pub(super) enum Disposition {
    /// It is settled, and the next event of its ordering key waits for this long.
    Settled(Duration),
    /// It is retried, not before this time.
    Retry(UnixMillis),
    /// Its handler, which has this name, is absent.
    HandlerAbsent(String),
}

/// What an attempt needs.
pub(super) struct Handling {
    pub(super) state: Arc<AgentState>,
    pub(super) clients: Clients,
    pub(super) config: Arc<Config>,
    /// The commands that a stop ends.
    pub(super) running: Running,
    /// The handlers that are known to be absent.
    pub(super) absent: Vec<String>,
    /// When the events that are retried were first sent.
    pub(super) stamps: Stamps,
}

/// An attempt that has ended.
struct Ended {
    answer: Answer,
    /// The row of the attempt, if it was recorded when it began.
    begun: Option<i64>,
    /// How many there were before it, without those that a shutdown has interrupted.
    completed: u64,
    took_ms: i64,
}

/// When events were first sent, by their sequence.
#[derive(Debug, Clone, Default)]
pub(super) struct Stamps(Arc<Mutex<HashMap<i64, UnixMillis>>>);

impl Stamps {
    /// The time that an event sent at `now` bears.
    fn of(&self, sequence: i64, now: UnixMillis) -> UnixMillis {
        let mut stamps = self.0.lock();
        // One far in the future is of a clock that was set back since.
        stamps.retain(|_, stamp| (-1_000..=millis(STAMP_KEPT)).contains(&(now - *stamp)));
        *stamps.entry(sequence).or_insert(now)
    }
}

impl Handling {
    /// Handles the event with this sequence.
    pub(super) async fn handle(&self, sequence: i64) -> Disposition {
        let Loaded {
            content: Content { event, is_intact },
            attempts,
            completed,
        } = match self.state.store.load(sequence).await {
            Ok(Some(loaded)) => loaded,
            Ok(None) => return Disposition::Settled(Duration::ZERO),
            Err(error) => {
                self.state.record_store_result(Err(&error));
                return Disposition::Retry(self.state.clock.millis() + 1_000);
            }
        };
        let rules = &self.config.rules;
        let rule = handler::rule(rules, &event.kind, &event.action);
        let (Some(rule), true) = (rule, is_intact) else {
            let ended = Ended {
                answer: unhandled(is_intact),
                begun: None,
                completed,
                took_ms: 0,
            };
            return self.record(sequence, &event, None, ended).await;
        };
        let handler = rule.action.to_string();
        if self.absent.contains(&handler) {
            return Disposition::HandlerAbsent(handler);
        }
        let began = Instant::now();
        let mut begun = None;
        if let Action::Exec(_) = rule.action {
            if rule.action.presence().await.is_err() {
                return Disposition::HandlerAbsent(handler);
            }
            begun = Some(self.begin(sequence, &handler).await);
        }
        let attempting = Attempting {
            clients: &self.clients,
            insecure: rule.insecure,
            secret: (rule.linear_secret.as_ref()).or(self.config.linear_secret.as_ref()),
            headers: &rule.headers,
            attempt: attempts + 1,
            time_limit: rule.time_limit,
            stamp: self.stamps.of(sequence, self.state.clock.millis()),
            running: (rule.stop == OnStop::Terminate).then_some(&self.running),
            program: &self.state.program,
            shutdown: &self.state.shutdown,
        };
        let answer = rule.action.handle(&event, &attempting).await;
        if answer.outcome == Outcome::Absent {
            return Disposition::HandlerAbsent(handler);
        }
        let ended = Ended {
            answer,
            begun,
            completed,
            took_ms: millis(began.elapsed()),
        };
        self.record(sequence, &event, Some(rule), ended).await
    }

    /// Records that an attempt of a command begins. After `kill -9` of the agent it is known to have begun. An HTTP handler knows
    /// an event again by its id, and a further write would cost it more than the request.
    async fn begin(&self, sequence: i64, handler: &str) -> i64 {
        let attempt = Attempt {
            at: self.state.clock.millis(),
            took_ms: 0,
            handler: handler.to_owned(),
            outcome: "begun".to_owned(),
            result: "no end is recorded".to_owned(),
            answer: Vec::new(),
        };
        let store = &self.state.store;
        let begin = || store.begin(sequence, attempt.clone());
        self.state.write_until_stored(begin).await
    }

    /// Records the attempt, however long that takes, because an event that was handled must not be handled again.
    async fn record(
        &self,
        sequence: i64,
        event: &Event,
        rule: Option<&Rule>,
        ended: Ended,
    ) -> Disposition {
        let now = self.state.clock.millis();
        let Ended {
            answer,
            begun,
            completed,
            took_ms,
        } = ended;
        let retries = rule.and_then(|rule| rule.retries);
        let (state, outcome, due_at) = settle(&answer.outcome, completed, retries, now);
        let handler = rule.map_or_else(String::new, |rule| rule.action.to_string());
        let what = match rule {
            None => answer.result.clone(),
            Some(_) => format!("{handler} {} in {took_ms} ms", answer.result),
        };
        report(event, state, &what, due_at - now);
        let attempt = Attempt {
            at: now - took_ms,
            took_ms,
            handler,
            outcome: outcome.to_owned(),
            result: answer.result,
            answer: answer.body,
        };
        let store = &self.state.store;
        (self.state)
            .write_until_stored(|| store.record(sequence, attempt.clone(), begun, state, due_at))
            .await;
        match state {
            State::Waiting => Disposition::Retry(due_at),
            State::Done => Disposition::Settled(rule.map_or(Duration::ZERO, |rule| rule.pause)),
            State::Dropped | State::Failed => Disposition::Settled(Duration::ZERO),
        }
    }
}

/// The result for an event that no handler gets, because there is none for it or its content is damaged.
fn unhandled(is_intact: bool) -> Answer {
    let (outcome, result) = if is_intact {
        (Outcome::Dropped, "no handler is for it")
    } else {
        // What the relay has signed is not here any more.
        (Outcome::Failed, DAMAGED)
    };
    Answer {
        outcome,
        result: result.to_owned(),
        body: Vec::new(),
    }
}

/// Writes the result of an attempt.
fn report(event: &Event, state: State, what: &str, wait_ms: i64) {
    let named = name(&event.kind, &event.action);
    let id = short(&event.id);
    match state {
        State::Done | State::Dropped => info(format_args!("{named} {id}: {what}")),
        State::Waiting => warn(format_args!(
            "{named} {id}: {what}; again in {} s",
            wait_ms / 1000
        )),
        State::Failed => warn(format_args!(
            "{named} {id}: {what}; failed, and kept for `edge-agent replay {id}`"
        )),
    }
}

/// What an outcome means for an event with this many earlier attempts that were completed, whose handler has so many retries if that is set: its
/// state, the word for the attempt, and when it is due again.
fn settle(
    outcome: &Outcome,
    attempts: u64,
    retries: Option<u64>,
    now: UnixMillis,
) -> (State, &'static str, UnixMillis) {
    let retried = |otherwise: u64| {
        if attempts >= retries.unwrap_or(otherwise) {
            return (State::Failed, "retry", 0);
        }
        let nth = usize::try_from(attempts).unwrap_or(usize::MAX);
        let wait = WAITS[nth.min(WAITS.len() - 1)];
        (State::Waiting, "retry", now + millis(wait))
    };
    match outcome {
        Outcome::Done => (State::Done, "done", 0),
        Outcome::Dropped => (State::Dropped, "dropped", 0),
        Outcome::Failed => (State::Failed, "failed", 0),
        Outcome::Interrupted => (State::Waiting, "interrupted", now),
        Outcome::Retry | Outcome::Absent => retried(WAITS.len() as u64),
        Outcome::Refused => retried(REFUSED_RETRIES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_retried_after_1_5_30_120_and_600_seconds_and_then_it_has_failed() {
        assert_eq!(waits(&Outcome::Retry, None), [1, 5, 30, 120, 600]);
        assert_eq!(settle(&Outcome::Failed, 0, None, 0).0, State::Failed);
    }

    /// The waits before the retries, in seconds.
    fn waits(outcome: &Outcome, retries: Option<u64>) -> Vec<i64> {
        let mut waits = Vec::new();
        for attempts in 0..9 {
            match settle(outcome, attempts, retries, 1_000) {
                (State::Waiting, "retry", due_at) => waits.push((due_at - 1_000) / 1_000),
                (state, ..) => assert_eq!(state, State::Failed, "{attempts}"),
            }
        }
        waits
    }

    #[test]
    fn a_request_that_is_refused_has_two_short_retries_and_a_handler_can_have_its_own_number() {
        assert_eq!(waits(&Outcome::Refused, None), [1, 5]);
        assert!(waits(&Outcome::Refused, Some(0)).is_empty());
        let more = [1, 5, 30, 120, 600, 600, 600];
        assert_eq!(waits(&Outcome::Retry, Some(7)), more);
        assert_eq!(waits(&Outcome::Refused, Some(7)), more);
    }

    #[test]
    fn retries_within_45_seconds_bear_the_first_time() {
        let stamps = Stamps::default();
        let first = 1_000_000;
        for (after, expected) in [
            (0, 0),
            (6_000, 0),
            (45_000, 0),
            (45_001, 45_001),
            (50_000, 45_001),
        ] {
            assert_eq!(stamps.of(7, first + after), first + expected);
        }
        assert_eq!(stamps.of(8, first), first);
    }
}

//! One attempt at handling an event, from the store to its record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::clock::{UnixMillis, millis};

use crate::config::{Config, OnStop};
use crate::handler::{self, Answer, Attempting, Outcome, Running};
use crate::output::{info, warn};
use crate::state::AgentState;
use crate::store::{Attempt, Event, State, name};

/// The waits before the retries of a failed event, each from the end of the attempt before. After the last, it is *failed*.
const RETRIES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
    Duration::from_secs(600),
];

/// What an attempt means for the event.
pub(super) enum Disposition {
    /// It is settled.
    Settled,
    /// It is retried, not before this time.
    Retry(UnixMillis),
    /// Its handler, which has this name, is absent.
    HandlerAbsent(String),
}

/// What an attempt needs.
pub(super) struct Handling {
    pub(super) state: Arc<AgentState>,
    pub(super) client: reqwest::Client,
    pub(super) config: Arc<Config>,
    /// The commands that a stop ends.
    pub(super) running: Running,
    /// The handlers that are known to be absent.
    pub(super) absent: Vec<String>,
}

impl Handling {
    /// Handles the event with this sequence.
    pub(super) async fn handle(&self, sequence: i64) -> Disposition {
        let (event, attempts) = match self.state.store.load(sequence).await {
            Ok(Some(loaded)) => loaded,
            Ok(None) => return Disposition::Settled,
            Err(error) => {
                self.state.record_store_result(Err(&error));
                return Disposition::Retry(self.state.clock.millis() + 1_000);
            }
        };
        let rules = &self.config.rules;
        let Some(rule) = handler::rule(rules, &event.kind, &event.action) else {
            let answer = Answer {
                outcome: Outcome::Dropped,
                result: "no handler is for it".to_owned(),
                body: Vec::new(),
            };
            let began = Instant::now();
            return (self.record(sequence, &event, "", answer, attempts, began)).await;
        };
        let handler = rule.action.to_string();
        if self.absent.contains(&handler) {
            return Disposition::HandlerAbsent(handler);
        }
        let began = Instant::now();
        let attempting = Attempting {
            client: &self.client,
            secret: self.config.linear_secret.as_ref(),
            attempt: attempts + 1,
            time_limit: rule.time_limit,
            now: self.state.clock.millis(),
            running: (rule.stop == OnStop::Terminate).then_some(&self.running),
        };
        let answer = rule.action.handle(&event, &attempting).await;
        if answer.outcome == Outcome::Absent {
            return Disposition::HandlerAbsent(handler);
        }
        self.record(sequence, &event, &handler, answer, attempts, began)
            .await
    }

    /// Records the attempt, however long that takes, because an event that was handled must not be handled again.
    async fn record(
        &self,
        sequence: i64,
        event: &Event,
        handler: &str,
        answer: Answer,
        attempts: u64,
        began: Instant,
    ) -> Disposition {
        let now = self.state.clock.millis();
        let took_ms = millis(began.elapsed());
        let (state, outcome, due_at) = settle(&answer.outcome, attempts, now);
        let what = match (handler, &answer.result) {
            ("", result) => result.clone(),
            (handler, result) => format!("{handler} {result} in {took_ms} ms"),
        };
        report(event, state, &what, due_at - now);
        let attempt = Attempt {
            at: now - took_ms,
            took_ms,
            handler: handler.to_owned(),
            outcome: outcome.to_owned(),
            result: answer.result,
            answer: answer.body,
        };
        let store = &self.state.store;
        (self.state)
            .write_until_stored(|| store.record(sequence, attempt.clone(), state, due_at))
            .await;
        match state {
            State::Waiting => Disposition::Retry(due_at),
            State::Done | State::Dropped | State::Failed => Disposition::Settled,
        }
    }
}

/// Writes the result of an attempt.
fn report(event: &Event, state: State, what: &str, wait_ms: i64) {
    let named = name(&event.kind, &event.action);
    let id = &event.id;
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

/// What an outcome means for an event with this many earlier attempts: its state, the word for the attempt, and when it
/// is due again.
fn settle(outcome: &Outcome, attempts: u64, now: UnixMillis) -> (State, &'static str, UnixMillis) {
    match outcome {
        Outcome::Done => (State::Done, "done", 0),
        Outcome::Dropped => (State::Dropped, "dropped", 0),
        Outcome::Failed => (State::Failed, "failed", 0),
        Outcome::Retry | Outcome::Absent => {
            let retry = usize::try_from(attempts).ok().and_then(|n| RETRIES.get(n));
            match retry {
                Some(wait) => {
                    let wait = millis(*wait);
                    (State::Waiting, "retry", now + wait)
                }
                None => (State::Failed, "retry", 0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_retried_after_1_5_30_120_and_600_seconds_and_then_it_has_failed() {
        let mut waits = Vec::new();
        for attempts in 0..7 {
            match settle(&Outcome::Retry, attempts, 1_000) {
                (State::Waiting, "retry", due_at) => waits.push((due_at - 1_000) / 1_000),
                (state, ..) => assert_eq!(state, State::Failed, "{attempts}"),
            }
        }
        assert_eq!(waits, [1, 5, 30, 120, 600]);
        assert_eq!(settle(&Outcome::Failed, 0, 0).0, State::Failed);
    }
}

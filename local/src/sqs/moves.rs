//! Message moves: from a dead-letter queue to the queues that its messages came from, or to a named queue.
//!
//! Source: the SQS API reference, `StartMessageMoveTask`. Invariant: a message is in one of the two queues at
//! every moment, and in the same one after a restart.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::clock::UnixMillis;

use super::{Sqs, SqsError, State, arn, name_of};

/// A move, running or ended.
#[derive(Debug, Clone)]
pub(super) struct Move {
    pub(super) handle: String,
    pub(super) from: String,
    pub(super) to: Option<String>,
    pub(super) per_second: Option<u64>,
    pub(super) status: Status,
    pub(super) moved: u64,
    pub(super) to_move: u64,
    pub(super) started_at: UnixMillis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Running,
    Completed,
    Cancelled,
    /// The source queue of some messages is unknown or gone.
    Failed,
}

impl Status {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Cancelled => "CANCELLED",
            Self::Failed => "FAILED",
        }
    }
}

fn no_such_queue() -> SqsError {
    SqsError::no_such_resource(
        "The resource that you specified for the SourceArn parameter doesn't exist.",
    )
}

impl State {
    /// The queues whose dead-letter queue is `name`.
    pub(super) fn sources(&self, name: &str) -> Vec<String> {
        let target = arn(name);
        (self.queues.iter())
            .filter(|(_, queue)| {
                let redrive = queue.settings.redrive.as_ref();
                redrive.is_some_and(|redrive| redrive.dead_letter_target_arn == target)
            })
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Moves up to `limit` visible messages whose destination exists. Returns how many, and whether the move is complete.
    fn step(&mut self, at: usize, limit: usize, now: UnixMillis) -> (u64, bool) {
        let Move { from, to, .. } = self.moves[at].clone();
        let existing: BTreeSet<_> = self.queues.keys().cloned().collect();
        let Ok(queue) = self.queue(&from) else {
            return (0, true);
        };
        queue.end_timeouts(now);
        let movable: Vec<_> = (queue.messages())
            .filter(|(_, message)| message.flight.is_none())
            .filter_map(|(sequence, message)| {
                let to = to
                    .clone()
                    .or_else(|| name_of(message.source.as_deref()?).map(str::to_owned))?;
                existing.contains(&to).then_some((*sequence, to))
            })
            .take(limit)
            .collect();
        for (sequence, to) in &movable {
            self.relocate(&from, to, *sequence, None, now);
        }
        let moved = movable.len() as u64;
        (moved, movable.len() < limit)
    }
}

impl Sqs {
    /// Starts a move. Returns its handle.
    pub(super) fn start_move(
        &self,
        source_arn: &str,
        destination_arn: Option<&str>,
        per_second: Option<u64>,
    ) -> Result<String, SqsError> {
        let from = name_of(source_arn).ok_or_else(no_such_queue)?.to_owned();
        let to = destination_arn
            .map(|arn| name_of(arn).map(str::to_owned).ok_or_else(no_such_queue))
            .transpose()?;
        if per_second.is_some_and(|limit| !(1..=500).contains(&limit)) {
            return Err(SqsError::invalid_parameter(
                "Value for parameter MaxNumberOfMessagesPerSecond is invalid. Reason: Must be between 1 and 500.",
            ));
        }
        let handle = uuid::Uuid::new_v4().to_string();
        let at = {
            let now = self.now();
            let mut state = self.state();
            if !state.queues.contains_key(&from)
                || to.as_ref().is_some_and(|to| !state.queues.contains_key(to))
            {
                return Err(no_such_queue());
            }
            if to.as_ref() == Some(&from) {
                return Err(SqsError::invalid_parameter(
                    "Source queue and destination queue must not be the same.",
                ));
            }
            if state.sources(&from).is_empty() {
                return Err(SqsError::invalid_parameter(
                    "Source queue must be configured as a Dead Letter Queue.",
                ));
            }
            let running = |m: &Move| m.from == from && m.status == Status::Running;
            if state.moves.iter().any(running) {
                return Err(SqsError::unsupported(
                    "There is already a task running. Only one active task is allowed for a source queue arn at a given time.",
                ));
            }
            let to_move = state.queue(&from)?.depth().visible as u64;
            state.moves.push(Move {
                handle: handle.clone(),
                from,
                to,
                per_second,
                status: Status::Running,
                moved: 0,
                to_move,
                started_at: now,
            });
            state.moves.len() - 1
        };
        tokio::spawn(self.clone().run_move(at));
        Ok(handle)
    }

    async fn run_move(self, at: usize) {
        loop {
            let (done, limit) = {
                let now = self.now();
                let mut state = self.state();
                if state.moves[at].status != Status::Running {
                    return;
                }
                let limit = state.moves[at].per_second;
                let (moved, done) = state.step(at, limit.unwrap_or(500) as usize, now);
                state.moves[at].moved += moved;
                if done {
                    let all = state.moves[at].moved >= state.moves[at].to_move;
                    state.moves[at].status = if all {
                        Status::Completed
                    } else {
                        Status::Failed
                    };
                }
                (done, limit)
            };
            self.shared.changed.notify_waiters();
            if done {
                return;
            }
            match limit {
                Some(_) => tokio::time::sleep(Duration::from_secs(1)).await,
                None => tokio::task::yield_now().await,
            }
        }
    }

    /// The moves from a queue, the newest first.
    pub(super) fn moves(&self, source_arn: &str, limit: usize) -> Result<Vec<Move>, SqsError> {
        let from = name_of(source_arn).ok_or_else(no_such_queue)?;
        let mut state = self.state();
        state.queue(from).map_err(|_| no_such_queue())?;
        Ok((state.moves.iter().rev())
            .filter(|m| m.from == from)
            .take(limit)
            .cloned()
            .collect())
    }

    /// Cancels a running move. Returns how many messages it has moved.
    pub(super) fn cancel_move(&self, handle: &str) -> Result<u64, SqsError> {
        let mut state = self.state();
        let found = state.moves.iter_mut().find(|m| m.handle == handle);
        let task = found.ok_or_else(|| SqsError::no_such_resource("Task does not exist."))?;
        if task.status != Status::Running {
            return Err(SqsError::unsupported(
                "The task is not in active state and can't be cancelled.",
            ));
        }
        task.status = Status::Cancelled;
        Ok(task.moved)
    }

    /// The URLs of the queues whose dead-letter queue is `name`.
    pub(super) fn source_urls(&self, name: &str) -> Result<Vec<String>, SqsError> {
        let mut state = self.state();
        state.queue(name)?;
        Ok(state
            .sources(name)
            .iter()
            .map(|name| self.url(name))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use protocol::clock::Clock;

    use super::*;
    use crate::sqs::{Consumer, NewMessage};

    #[tokio::test(start_paused = true)]
    async fn a_move_to_a_queue_that_is_gone_fails_and_ends() {
        let clock = Clock::of_runtime(1_764_400_000_000);
        let sqs = Sqs::open(None, String::new(), clock.clone()).unwrap();
        let redrive = serde_json::json!({
            "deadLetterTargetArn": arn("dead.fifo"), "maxReceiveCount": 1,
        });
        for name in ["dead.fifo", "gone.fifo", "kept.fifo"] {
            let mut attributes = BTreeMap::from([("FifoQueue".to_owned(), "true".to_owned())]);
            if name != "dead.fifo" {
                attributes.insert("RedrivePolicy".to_owned(), redrive.to_string());
            }
            sqs.create_queue(name, attributes).await.unwrap();
        }
        let message = NewMessage {
            message_body: Some("{}".to_owned()),
            message_group_id: Some("g".to_owned()),
            message_deduplication_id: Some("1".to_owned()),
            ..NewMessage::default()
        };
        sqs.send("gone.fifo", vec![message]).await.unwrap();
        for _ in 0..2 {
            let received = sqs.receive("gone.fifo", 1, Some(0), None, Consumer::Elsewhere);
            received.await.unwrap();
        }
        sqs.delete_queue("gone.fifo").await.unwrap();
        let dead = arn("dead.fifo");
        sqs.start_move(&dead, None, Some(1)).unwrap();
        clock.until(clock.millis() + 5_000).await;
        let task = sqs.moves(&dead, 1).unwrap().remove(0);
        assert_eq!(
            (task.status, task.moved, task.to_move),
            (Status::Failed, 0, 1)
        );
        assert_eq!(sqs.depth("dead.fifo").unwrap().visible, 1);
    }
}

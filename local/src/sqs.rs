//! SQS for one machine: the FIFO queues that the relay and its operator use.
//!
//! awsJson1.0 over HTTP ([`wire`]), the same calls in process; queues with groups, deduplication, visibility,
//! long polling, redrive to a dead-letter queue and message moves, with the limits and errors of SQS. Standard queues,
//! delays, tags and permissions are not supported.
//!
//! Invariant: a call succeeds only after the journal has committed its changes. The deletions of the event source mapping
//! alone are committed later: what a crash undoes of them is delivered once more, under the same id.

mod error;
#[cfg(test)]
mod fuzz;
mod journal;
mod message;
mod moves;
mod queue;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use protocol::clock::{Clock, UnixMillis};
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

pub use error::SqsError;
pub use message::{Attribute, Message, NewMessage};
pub use queue::Depth;

use journal::{Change, Journal, committed};
use moves::Move;
use queue::{Handle, Key, Queue, Sent};

const ACCOUNT: &str = "000000000000";
const REGION: &str = "us-east-1";
/// The first sequence number of a start. It grows with the time, faster than messages can be sent, so that numbers grow over
/// restarts, too, even if no earlier message is left. It has as many digits as those of AWS.
fn first_sequence(now: UnixMillis) -> u64 {
    1_000_000_000_000_000_000 + u64::try_from(now).unwrap_or_default() * 100_000
}

/// The server. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Sqs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// A message may have become receivable.
    changed: Notify,
    clock: Clock,
    /// `http://<address>`, the beginning of every queue's URL.
    endpoint: String,
}

#[derive(Debug)]
pub(crate) struct State {
    queues: BTreeMap<String, Queue>,
    moves: Vec<Move>,
    next: u64,
    journal: Option<Journal>,
}

/// A received message.
#[derive(Debug, Clone)]
pub struct Received {
    /// The handle to delete it or to change its visibility.
    pub receipt_handle: String,
    /// `SequenceNumber`
    pub sequence: u64,
    /// The message.
    pub message: Message,
}

/// The consumer of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consumer {
    /// A part of this process. If the process ends, the messages that it had received are visible at the next start.
    Here,
    /// Another process, which may still be working when this one starts again.
    Elsewhere,
}

/// The result of a send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentMessage {
    /// Assigned by SQS.
    pub message_id: Uuid,
    /// `SequenceNumber`
    pub sequence: u64,
}

impl State {
    pub(crate) fn queue(&mut self, name: &str) -> Result<&mut Queue, SqsError> {
        self.queues
            .get_mut(name)
            .ok_or_else(|| SqsError::no_such_queue("The specified queue does not exist."))
    }

    fn journal(&self, change: impl FnOnce() -> Change) {
        if let Some(journal) = &self.journal {
            journal.append(change());
        }
    }

    fn written(&self) -> Option<oneshot::Receiver<()>> {
        self.journal.as_ref().map(Journal::written)
    }

    fn put_queue(&self, name: &str) {
        if let Some(queue) = self.queues.get(name) {
            self.journal(|| Change::PutQueue {
                name: name.to_owned(),
                attributes: serde_json::to_string(&queue.attributes).unwrap_or_default(),
                created_at: queue.created_at,
            });
        }
    }

    fn put(
        &mut self,
        name: &str,
        message: Message,
        sent: Option<(String, Sent)>,
        replaces: Option<u64>,
    ) -> Result<u64, SqsError> {
        let sequence = self.next;
        self.next += 1;
        self.journal(|| Change::Put {
            queue: name.to_owned(),
            sequence,
            message: Box::new(message.clone()),
            sent: sent.clone(),
            replaces,
        });
        let queue = self.queue(name)?;
        if let Some((key, sent)) = sent {
            queue.remember(Key::of(&key), sent);
        }
        queue.insert(sequence, message);
        Ok(sequence)
    }

    fn send(
        &mut self,
        name: &str,
        new: NewMessage,
        now: UnixMillis,
    ) -> Result<SentMessage, SqsError> {
        let queue = self.queue(name)?;
        let message = queue.accept(new, now)?;
        let key = queue.deduplication_key(&message.group, &message.deduplication_id);
        let sent = match queue.sent_before(Key::of(&key), now) {
            Some(sent) => sent,
            None => {
                let sent = Queue::sent(&message, self.next);
                self.put(name, message, Some((key, sent)), None)?;
                sent
            }
        };
        Ok(SentMessage {
            message_id: sent.message_id,
            sequence: sent.sequence,
        })
    }

    /// Moves a message to the end of another queue, where it is new but keeps its id and its content.
    fn relocate(
        &mut self,
        from: &str,
        to: &str,
        sequence: u64,
        source: Option<String>,
        now: UnixMillis,
    ) {
        if !self.queues.contains_key(to) {
            return;
        }
        let Ok(Some(mut message)) = self.queue(from).map(|queue| queue.remove(sequence)) else {
            return;
        };
        message.flight = None;
        message.received = 0;
        message.first_received_at = None;
        message.sent_at = now;
        message.source = source;
        let put = self.put(to, message, None, Some(sequence));
        debug_assert!(put.is_ok(), "the queue is there");
    }

    /// Receives messages. Also returns whether any was redriven to the dead-letter queue instead.
    fn receive(
        &mut self,
        name: &str,
        limit: usize,
        visibility_seconds: Option<i64>,
        consumer: Consumer,
        now: UnixMillis,
    ) -> Result<(Vec<Received>, bool), SqsError> {
        let arn = arn(name);
        let mut received = Vec::new();
        let mut redriven = false;
        while received.is_empty() {
            let queue = self.queue(name)?;
            queue.end_timeouts(now);
            let visibility_seconds =
                visibility_seconds.unwrap_or(queue.settings.visibility_seconds);
            let redrive = queue.settings.redrive.clone();
            let mut expired = Vec::new();
            let found = queue.receivable(limit, now, &mut expired);
            if found.is_empty() && expired.is_empty() {
                break;
            }
            for sequence in expired {
                self.queue(name)?.remove(sequence);
                self.journal(|| Change::Delete(sequence));
            }
            for sequence in found {
                let queue = self.queue(name)?;
                let too_often = redrive.as_ref().filter(|redrive| {
                    (queue.message(sequence))
                        .is_some_and(|m| m.received >= redrive.max_receive_count)
                });
                let to = too_often.and_then(|r| name_of(&r.dead_letter_target_arn));
                // If there is no such queue, the message stays and is received, as on AWS.
                if let Some(to) = to.filter(|to| *to != name && self.queues.contains_key(*to)) {
                    self.relocate(name, to, sequence, Some(arn.clone()), now);
                    redriven = true;
                    continue;
                }
                let queue = self.queue(name)?;
                let Some(handle) = queue.receive(sequence, visibility_seconds, now) else {
                    continue;
                };
                let Some(message) = queue.message(sequence).cloned() else {
                    continue;
                };
                self.flight(sequence, &message, consumer);
                received.push(Received {
                    receipt_handle: handle.to_string(),
                    sequence,
                    message,
                });
            }
        }
        Ok((received, redriven))
    }

    fn flight(&self, sequence: u64, message: &Message, consumer: Consumer) {
        self.journal(|| Change::Flight {
            sequence,
            received: message.received,
            first_received_at: message.first_received_at,
            received_at: message.received_at,
            flight: match consumer {
                Consumer::Here => None,
                Consumer::Elsewhere => message.flight.clone(),
            },
        });
    }
}

/// `arn:aws:sqs:<region>:<account>:<name>`
pub(crate) fn arn(name: &str) -> String {
    format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{name}")
}

fn name_of(arn: &str) -> Option<&str> {
    arn.strip_prefix("arn:aws:sqs:")?.rsplit(':').next()
}

impl Sqs {
    /// Opens the queues in `file`, or in memory. `endpoint` is the address for clients.
    ///
    /// # Errors
    ///
    /// The journal cannot be opened or read.
    pub fn open(file: Option<&Path>, endpoint: String, clock: Clock) -> anyhow::Result<Self> {
        let mut state = State {
            queues: BTreeMap::new(),
            moves: Vec::new(),
            next: first_sequence(clock.millis()),
            journal: None,
        };
        if let Some(file) = file {
            let (journal, restored) = Journal::open(file, clock.millis())?;
            state.queues = restored.queues;
            state.next = state.next.max(restored.next);
            state.journal = Some(journal);
        }
        Ok(Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                changed: Notify::new(),
                clock,
                endpoint,
            }),
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock()
    }

    fn now(&self) -> i64 {
        self.shared.clock.millis()
    }

    /// The URL of a queue.
    pub fn url(&self, name: &str) -> String {
        format!("{}/{ACCOUNT}/{name}", self.shared.endpoint)
    }

    /// Creates a queue. Creating the same queue again is no error.
    ///
    /// # Errors
    ///
    /// An attribute is invalid, the name exists with other attributes, or the journal cannot be written.
    pub async fn create_queue(
        &self,
        name: &str,
        attributes: BTreeMap<String, String>,
    ) -> Result<String, SqsError> {
        let is_name = name.strip_suffix(".fifo").is_some_and(|stem| {
            (1..=75).contains(&stem.len())
                && stem
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
        });
        if !is_name
            || attributes
                .get("FifoQueue")
                .is_none_or(|value| value != "true")
        {
            return Err(SqsError::invalid_parameter(
                "Only FIFO queues are supported here: the name has to be 1 to 75 of A-Z a-z 0-9 _ - and `.fifo`, and FifoQueue has to be true.",
            ));
        }
        let written = {
            let mut state = self.state();
            let new = Queue::new(attributes, self.now())?;
            match state.queues.get(name) {
                Some(queue) if queue.attributes == new.attributes => {}
                Some(_) => {
                    return Err(SqsError::queue_exists(
                        "A queue already exists with the same name and a different value for an attribute.",
                    ));
                }
                None => {
                    state.queues.insert(name.to_owned(), new);
                    state.put_queue(name);
                }
            }
            state.written()
        };
        committed(written).await?;
        Ok(self.url(name))
    }

    /// The attributes that a queue was created with, and those set since.
    ///
    /// # Errors
    ///
    /// The queue does not exist.
    pub fn attributes(&self, name: &str) -> Result<BTreeMap<String, String>, SqsError> {
        Ok(self.state().queue(name)?.attributes.clone())
    }

    /// Changes attributes of a queue. The others stay as they are.
    ///
    /// # Errors
    ///
    /// The queue does not exist, an attribute is invalid, or the journal cannot be written.
    pub async fn set_attributes(
        &self,
        name: &str,
        attributes: BTreeMap<String, String>,
    ) -> Result<(), SqsError> {
        let written = {
            let mut state = self.state();
            let queue = state.queue(name)?;
            let mut merged = queue.attributes.clone();
            merged.extend(attributes);
            queue.settings = queue::Settings::read(&merged)?;
            queue.attributes = merged;
            state.put_queue(name);
            state.written()
        };
        self.shared.changed.notify_waiters();
        committed(written).await
    }

    /// Deletes a queue and all that it holds.
    ///
    /// # Errors
    ///
    /// The queue does not exist, or the journal cannot be written.
    pub async fn delete_queue(&self, name: &str) -> Result<(), SqsError> {
        let written = {
            let mut state = self.state();
            state.queue(name)?;
            state.queues.remove(name);
            state.journal(|| Change::DropQueue(name.to_owned()));
            state.written()
        };
        committed(written).await
    }

    /// Deletes all messages of a queue.
    ///
    /// # Errors
    ///
    /// The queue does not exist, or the journal cannot be written.
    pub async fn purge(&self, name: &str) -> Result<(), SqsError> {
        let written = {
            let mut state = self.state();
            let all: Vec<u64> = state.queue(name)?.messages().map(|(s, _)| *s).collect();
            for sequence in all {
                state.queue(name)?.remove(sequence);
                state.journal(|| Change::Delete(sequence));
            }
            state.written()
        };
        committed(written).await
    }

    /// How many messages a queue holds.
    ///
    /// # Errors
    ///
    /// The queue does not exist.
    pub fn depth(&self, name: &str) -> Result<Depth, SqsError> {
        let now = self.now();
        let mut state = self.state();
        let queue = state.queue(name)?;
        queue.end_timeouts(now);
        Ok(queue.depth())
    }

    /// Sends messages, and returns the result of each by its id.
    ///
    /// # Errors
    ///
    /// The queue does not exist, or the journal cannot be written.
    pub async fn send(
        &self,
        name: &str,
        messages: Vec<NewMessage>,
    ) -> Result<Vec<(String, Result<SentMessage, SqsError>)>, SqsError> {
        let now = self.now();
        let (sent, written) = {
            let mut state = self.state();
            state.queue(name)?;
            if let Some(journal) = &state.journal {
                journal.accepts()?;
            }
            let sent = (messages.into_iter())
                .map(|mut message| {
                    let id = std::mem::take(&mut message.id);
                    (id, state.send(name, message, now))
                })
                .collect();
            (sent, state.written())
        };
        committed(written).await?;
        self.shared.changed.notify_waiters();
        Ok(sent)
    }

    /// Waits until at most so many groups have a message that can be received.
    ///
    /// # Errors
    ///
    /// The queue does not exist.
    pub(crate) async fn until_ready(&self, name: &str, most: usize) -> Result<(), SqsError> {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.state().queue(name)?.ready() <= most {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Receives up to `limit` messages, waiting up to `wait` seconds for the first.
    ///
    /// # Errors
    ///
    /// The queue does not exist, or the journal cannot be written.
    pub async fn receive(
        &self,
        name: &str,
        limit: usize,
        visibility_seconds: Option<i64>,
        wait_seconds: Option<i64>,
        consumer: Consumer,
    ) -> Result<Vec<Received>, SqsError> {
        let began = self.now();
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let (received, written, wake_at) = {
                let now = self.now();
                let mut state = self.state();
                let until =
                    began + wait_seconds.unwrap_or(state.queue(name)?.settings.wait_seconds) * 1000;
                let (received, redriven) =
                    state.receive(name, limit, visibility_seconds, consumer, now)?;
                if redriven {
                    self.shared.changed.notify_waiters();
                    changed.as_mut().enable();
                }
                let is_over = !received.is_empty() || now >= until;
                // A consumer that outlives this process must find its receive after the next start.
                let written = (is_over && consumer == Consumer::Elsewhere)
                    .then(|| state.written())
                    .flatten();
                let timeout = state.queue(name)?.next_timeout();
                let wake_at = timeout.map_or(until, |timeout| timeout.min(until));
                (received, written, (!is_over).then_some(wake_at))
            };
            let Some(wake_at) = wake_at else {
                committed(written).await?;
                return Ok(received);
            };
            tokio::select! {
                () = changed => {}
                () = self.shared.clock.until(wake_at) => {}
            }
        }
    }

    /// Deletes messages by their handles, and returns the result of each.
    ///
    /// # Errors
    ///
    /// The queue does not exist, or the journal cannot be written.
    pub async fn delete(
        &self,
        name: &str,
        handles: &[String],
    ) -> Result<Vec<Result<(), SqsError>>, SqsError> {
        let deleted = self.delete_soon(name, handles)?;
        self.flush().await?;
        Ok(deleted)
    }

    /// Waits until the journal has committed all changes so far.
    ///
    /// # Errors
    ///
    /// The journal cannot be written.
    pub(crate) async fn flush(&self) -> Result<(), SqsError> {
        let written = self.state().written();
        committed(written).await
    }

    /// As [`Self::delete`], for a consumer that need not know that the journal has it: if the process ends before, the messages
    /// are received once more.
    pub(crate) fn delete_soon(
        &self,
        name: &str,
        handles: &[String],
    ) -> Result<Vec<Result<(), SqsError>>, SqsError> {
        let now = self.now();
        let deleted = {
            let mut state = self.state();
            state.queue(name)?.end_timeouts(now);
            (handles.iter())
                .map(|handle| {
                    let handle = Handle::parse(handle)?;
                    if state.queue(name)?.delete(&handle)? {
                        state.journal(|| Change::Delete(handle.sequence));
                    }
                    Ok(())
                })
                .collect()
        };
        self.shared.changed.notify_waiters();
        Ok(deleted)
    }

    /// Changes visibility timeouts, in seconds, and returns the result of each.
    ///
    /// # Errors
    ///
    /// The queue does not exist, or the journal cannot be written.
    pub async fn change_visibility(
        &self,
        name: &str,
        changes: &[(String, i64)],
    ) -> Result<Vec<Result<(), SqsError>>, SqsError> {
        let now = self.now();
        let (changed, written) = {
            let mut state = self.state();
            state.queue(name)?.end_timeouts(now);
            let changed = (changes.iter())
                .map(|(handle, seconds)| {
                    let handle = Handle::parse(handle)?;
                    let queue = state.queue(name)?;
                    queue.change_visibility(&handle, *seconds, now)?;
                    if let Some(message) = queue.message(handle.sequence).cloned() {
                        // A change that was requested holds over a restart, whatever the consumer.
                        state.flight(handle.sequence, &message, Consumer::Elsewhere);
                    }
                    Ok(())
                })
                .collect();
            (changed, state.written())
        };
        committed(written).await?;
        self.shared.changed.notify_waiters();
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn there_is_room_again_when_messages_were_received_and_deleted() {
        let sqs = Sqs::open(None, String::new(), Clock::system()).unwrap();
        let name = "q.fifo";
        let fifo = BTreeMap::from([("FifoQueue".to_owned(), "true".to_owned())]);
        sqs.create_queue(name, fifo).await.unwrap();
        let messages = (0..3).map(|at| NewMessage {
            id: at.to_string(),
            message_body: Some("{}".to_owned()),
            message_group_id: Some(format!("group-{at}")),
            message_deduplication_id: Some(at.to_string()),
            ..NewMessage::default()
        });
        sqs.send(name, messages.collect()).await.unwrap();
        sqs.until_ready(name, 3).await.unwrap();
        let no_room = tokio::time::timeout(Duration::ZERO, sqs.until_ready(name, 2));
        assert!(no_room.await.is_err());
        let received = (sqs.receive(name, 1, None, None, Consumer::Here).await).unwrap();
        let waiting = sqs.until_ready(name, 1);
        let deleting = async {
            let more = sqs
                .receive(name, 1, None, None, Consumer::Here)
                .await
                .unwrap();
            let handles = [&received[0], &more[0]].map(|r| r.receipt_handle.clone());
            sqs.delete(name, &handles).await.unwrap();
        };
        let both = async { tokio::join!(waiting, deleting).0 };
        tokio::time::timeout(Duration::from_secs(60), both)
            .await
            .unwrap()
            .unwrap();
    }
}

//! One FIFO queue: its messages, those that are receivable, and those in flight.
//!
//! Invariants: while a message of a group is in flight, no other message of that group is received; within a group
//! the oldest message comes first; a message is not received twice within its visibility timeout; a deduplication id is
//! accepted once in five minutes. Time is an argument.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use protocol::clock::UnixMillis;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::error::SqsError;
use super::message::{Message, NewMessage};

/// How long a deduplication id is stored.
const DEDUPLICATION_MS: i64 = 5 * 60 * 1000;
/// The largest number of messages of a FIFO queue in flight.
pub(super) const MAX_IN_FLIGHT: usize = 120_000;
/// The longest visibility timeout, counted from the receive.
pub(super) const MAX_VISIBILITY_SECONDS: i64 = 12 * 3600;

/// A queue's settings from `CreateQueue` and `SetQueueAttributes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) visibility_seconds: i64,
    pub(super) retention_seconds: i64,
    pub(super) wait_seconds: i64,
    pub(super) content_based: bool,
    pub(super) per_group: bool,
    pub(super) redrive: Option<Redrive>,
}

/// `RedrivePolicy`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Redrive {
    pub(super) dead_letter_target_arn: String,
    #[serde(deserialize_with = "number_or_text")]
    pub(super) max_receive_count: u32,
}

/// Some clients write the count as text.
fn number_or_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u32),
        Text(String),
    }
    match Either::deserialize(deserializer)? {
        Either::Number(number) => Ok(number),
        Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

impl Settings {
    /// Parses a queue's attributes. Refuses unknown names and values out of range.
    pub(super) fn read(attributes: &BTreeMap<String, String>) -> Result<Self, SqsError> {
        let mut settings = Self {
            visibility_seconds: 30,
            retention_seconds: 345_600,
            wait_seconds: 0,
            content_based: false,
            per_group: false,
            redrive: None,
        };
        for (name, value) in attributes {
            let invalid = || {
                SqsError::invalid_attribute_value(format!(
                    "Invalid value for the parameter {name}."
                ))
            };
            let number = |range: std::ops::RangeInclusive<i64>| {
                let number = value.parse().map_err(|_| invalid())?;
                if range.contains(&number) {
                    Ok(number)
                } else {
                    Err(invalid())
                }
            };
            match name.as_str() {
                "VisibilityTimeout" => settings.visibility_seconds = number(0..=43_200)?,
                "MessageRetentionPeriod" => settings.retention_seconds = number(60..=1_209_600)?,
                "ReceiveMessageWaitTimeSeconds" => settings.wait_seconds = number(0..=20)?,
                "MaximumMessageSize" => drop(number(1024..=1_048_576)?),
                "KmsDataKeyReusePeriodSeconds" => drop(number(60..=86_400)?),
                // Delays are not supported.
                "DelaySeconds" => drop(number(0..=0)?),
                "FifoQueue" if value == "true" => {}
                "ContentBasedDeduplication" => {
                    settings.content_based = value.parse().map_err(|_| invalid())?;
                }
                "DeduplicationScope" => {
                    settings.per_group = match value.as_str() {
                        "messageGroup" => true,
                        "queue" => false,
                        _ => return Err(invalid()),
                    };
                }
                "FifoThroughputLimit"
                    if matches!(value.as_str(), "perQueue" | "perMessageGroupId") => {}
                "RedrivePolicy" if value.is_empty() => settings.redrive = None,
                "RedrivePolicy" => {
                    let redrive: Redrive = serde_json::from_str(value).map_err(|_| invalid())?;
                    if !(1..=1000).contains(&redrive.max_receive_count) {
                        return Err(invalid());
                    }
                    settings.redrive = Some(redrive);
                }
                "Policy" | "RedriveAllowPolicy" | "KmsMasterKeyId" | "SqsManagedSseEnabled" => {}
                "FifoQueue" | "FifoThroughputLimit" => return Err(invalid()),
                _ => {
                    return Err(SqsError::invalid_attribute_name(format!(
                        "Unknown Attribute {name}."
                    )));
                }
            }
        }
        Ok(settings)
    }
}

/// What a deduplication id and its scope are known by: half of their SHA-256. The texts of all messages of five minutes would take
/// more memory than all else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 16]);

impl Key {
    pub(super) fn of(text: &str) -> Self {
        let hash: [u8; 32] = Sha256::digest(text).into();
        let (half, _) = hash.split_first_chunk().expect("it is twice as long");
        Self(*half)
    }
}

/// A sent deduplication id.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) until: UnixMillis,
    pub(super) message_id: Uuid,
    pub(super) sequence: u64,
}

/// A parsed receipt handle: the message, and the receive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Handle {
    pub(super) sequence: u64,
    pub(super) nonce: String,
}

impl Handle {
    pub(super) fn parse(text: &str) -> Result<Self, SqsError> {
        text.split_once('.')
            .and_then(|(sequence, nonce)| {
                let is_nonce = nonce.len() == 32 && nonce.bytes().all(|b| b.is_ascii_hexdigit());
                let sequence = sequence.parse().ok()?;
                is_nonce.then(|| Self {
                    sequence,
                    nonce: nonce.to_owned(),
                })
            })
            .ok_or_else(|| {
                SqsError::invalid_handle(format!(
                    "The input receipt handle \"{text}\" is not a valid receipt handle."
                ))
            })
    }
}

impl std::fmt::Display for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.sequence, self.nonce)
    }
}

#[derive(Debug, Default)]
struct Group {
    waiting: BTreeSet<u64>,
    in_flight: usize,
}

/// A queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) settings: Settings,
    pub(super) created_at: UnixMillis,
    messages: BTreeMap<u64, Message>,
    groups: HashMap<String, Group>,
    /// The oldest waiting message of each group that has none in flight.
    ready: BTreeSet<u64>,
    /// By when they become visible again.
    in_flight: BTreeSet<(UnixMillis, u64)>,
    sent: HashMap<Key, Sent>,
    sent_in_order: VecDeque<(UnixMillis, Key)>,
}

/// How many messages a queue holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// The visible messages.
    pub visible: usize,
    /// The messages that were received and are neither deleted nor visible again.
    pub in_flight: usize,
}

impl Queue {
    pub(super) fn new(
        attributes: BTreeMap<String, String>,
        now: UnixMillis,
    ) -> Result<Self, SqsError> {
        Ok(Self {
            settings: Settings::read(&attributes)?,
            attributes,
            created_at: now,
            messages: BTreeMap::new(),
            groups: HashMap::new(),
            ready: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            sent: HashMap::new(),
            sent_in_order: VecDeque::new(),
        })
    }

    pub(super) fn depth(&self) -> Depth {
        Depth {
            visible: self.messages.len() - self.in_flight.len(),
            in_flight: self.in_flight.len(),
        }
    }

    /// How many groups have a message that can be received now.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// All messages, oldest first.
    pub(crate) fn messages(&self) -> impl Iterator<Item = (&u64, &Message)> {
        self.messages.iter()
    }

    pub(super) fn message(&self, sequence: u64) -> Option<&Message> {
        self.messages.get(&sequence)
    }

    /// The scope of deduplication: the queue, or the group.
    pub(super) fn deduplication_key(&self, group: &str, id: &str) -> String {
        if self.settings.per_group {
            format!("{group} {id}")
        } else {
            id.to_owned()
        }
    }

    /// The message that was sent with this key within the last five minutes.
    pub(super) fn sent_before(&mut self, key: Key, now: UnixMillis) -> Option<Sent> {
        while let Some((_, old)) = self.sent_in_order.pop_front_if(|(until, _)| *until <= now) {
            if self.sent.get(&old).is_some_and(|sent| sent.until <= now) {
                self.sent.remove(&old);
            }
        }
        self.sent.get(&key).copied()
    }

    /// Validates a message for this queue.
    pub(super) fn accept(&self, new: NewMessage, now: UnixMillis) -> Result<Message, SqsError> {
        let (_, group, deduplication_id) = new.validate(self.settings.content_based)?;
        Ok(Message {
            id: Uuid::new_v4(),
            group: group.to_owned(),
            deduplication_id,
            body: Arc::new(new.message_body.unwrap_or_default()),
            attributes: Arc::new(new.message_attributes),
            sent_at: now,
            received: 0,
            first_received_at: None,
            source: None,
            flight: None,
            received_at: 0,
        })
    }

    pub(super) fn remember(&mut self, key: Key, sent: Sent) {
        self.sent_in_order.push_back((sent.until, key));
        self.sent.insert(key, sent);
    }

    /// The deduplication entry of a message that was just sent.
    pub(super) fn sent(message: &Message, sequence: u64) -> Sent {
        Sent {
            until: message.sent_at + DEDUPLICATION_MS,
            message_id: message.id,
            sequence,
        }
    }

    /// Inserts a message, also one that was in flight when it was stored.
    pub(super) fn insert(&mut self, sequence: u64, message: Message) {
        let group = self.groups.entry(message.group.clone()).or_default();
        match &message.flight {
            Some((until, _)) => {
                self.in_flight.insert((*until, sequence));
                group.in_flight += 1;
                if let Some(head) = group.waiting.first() {
                    self.ready.remove(head);
                }
            }
            None => {
                if group.in_flight == 0 {
                    if let Some(head) = group.waiting.first() {
                        self.ready.remove(head);
                    }
                    group.waiting.insert(sequence);
                    self.ready.extend(group.waiting.first());
                } else {
                    group.waiting.insert(sequence);
                }
            }
        }
        self.messages.insert(sequence, message);
    }

    /// Removes a message.
    pub(super) fn remove(&mut self, sequence: u64) -> Option<Message> {
        let message = self.messages.remove(&sequence)?;
        let group = self.groups.get_mut(&message.group)?;
        if let Some((until, _)) = &message.flight {
            self.in_flight.remove(&(*until, sequence));
            group.in_flight -= 1;
        } else {
            self.ready.remove(&sequence);
            group.waiting.remove(&sequence);
        }
        if group.in_flight == 0 {
            self.ready.extend(group.waiting.first());
            if group.waiting.is_empty() {
                self.groups.remove(&message.group);
            }
        }
        Some(message)
    }

    /// Makes the messages visible whose visibility timeout has ended.
    pub(super) fn end_timeouts(&mut self, now: UnixMillis) {
        while let Some((until, sequence)) = self.in_flight.first().copied() {
            if until > now {
                return;
            }
            self.make_visible(sequence);
        }
    }

    fn make_visible(&mut self, sequence: u64) {
        if let Some(mut message) = self.remove(sequence) {
            message.flight = None;
            self.insert(sequence, message);
        }
    }

    /// When the next message becomes visible again.
    pub(super) fn next_timeout(&self) -> Option<i64> {
        self.in_flight.first().map(|(until, _)| *until)
    }

    /// The next messages that can be received. Those that are too old are added to `expired`.
    pub(super) fn receivable(
        &self,
        limit: usize,
        now: UnixMillis,
        expired: &mut Vec<u64>,
    ) -> Vec<u64> {
        let mut found = Vec::with_capacity(limit);
        let room = MAX_IN_FLIGHT.saturating_sub(self.in_flight.len());
        let limit = limit.min(room);
        for head in &self.ready {
            let Some(group) = self
                .messages
                .get(head)
                .and_then(|m| self.groups.get(&m.group))
            else {
                continue;
            };
            for sequence in &group.waiting {
                if found.len() == limit {
                    return found;
                }
                let too_old = self.messages.get(sequence).is_some_and(|message| {
                    message.sent_at + self.settings.retention_seconds * 1000 <= now
                });
                if too_old {
                    expired.push(*sequence);
                } else {
                    found.push(*sequence);
                }
            }
        }
        found
    }

    /// Counts a receive and puts the message in flight. Without a visibility timeout it stays visible.
    pub(super) fn receive(
        &mut self,
        sequence: u64,
        visibility_seconds: i64,
        now: UnixMillis,
    ) -> Option<Handle> {
        let mut message = self.remove(sequence)?;
        let nonce = Uuid::new_v4().simple().to_string();
        message.received += 1;
        message.first_received_at.get_or_insert(now);
        message.received_at = now;
        message.flight =
            (visibility_seconds > 0).then(|| (now + visibility_seconds * 1000, nonce.clone()));
        self.insert(sequence, message);
        Some(Handle { sequence, nonce })
    }

    /// Whether a handle's receive is the current one; none if the message is gone.
    fn holds(&self, handle: &Handle) -> Option<bool> {
        let message = self.messages.get(&handle.sequence)?;
        Some(matches!(&message.flight, Some((_, nonce)) if *nonce == handle.nonce))
    }

    /// Deletes a handle's message. Deleting it again is no error.
    pub(super) fn delete(&mut self, handle: &Handle) -> Result<bool, SqsError> {
        match self.holds(handle) {
            None => Ok(false),
            Some(true) => Ok(self.remove(handle.sequence).is_some()),
            Some(false) => Err(SqsError::invalid_parameter(format!(
                "Value {handle} for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired."
            ))),
        }
    }

    /// Changes the end of a visibility timeout. 0 ends it now.
    pub(super) fn change_visibility(
        &mut self,
        handle: &Handle,
        seconds: i64,
        now: UnixMillis,
    ) -> Result<(), SqsError> {
        if !(0..=MAX_VISIBILITY_SECONDS).contains(&seconds) {
            return Err(SqsError::invalid_parameter(format!(
                "Value {seconds} for parameter VisibilityTimeout is invalid. Reason: VisibilityTimeout must be an integer between 0 and {MAX_VISIBILITY_SECONDS}."
            )));
        }
        match self.holds(handle) {
            None => {
                return Err(SqsError::invalid_parameter(format!(
                    "Value {handle} for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available for visibility timeout change."
                )));
            }
            Some(false) => {
                return Err(SqsError::not_in_flight(
                    "The message referred to is not in flight.",
                ));
            }
            Some(true) => {}
        }
        let Some(mut message) = self.remove(handle.sequence) else {
            return Ok(());
        };
        let until = now + seconds * 1000;
        let allowed = until <= message.received_at + MAX_VISIBILITY_SECONDS * 1000;
        if allowed {
            message.flight = (seconds > 0).then(|| (until, handle.nonce.clone()));
        }
        self.insert(handle.sequence, message);
        if allowed {
            Ok(())
        } else {
            Err(SqsError::invalid_parameter(format!(
                "Value {seconds} for parameter VisibilityTimeout is invalid. Reason: Total VisibilityTimeout for the message is beyond the limit [{MAX_VISIBILITY_SECONDS} seconds]."
            )))
        }
    }
}

#[cfg(test)]
impl Queue {
    /// What is kept beside the messages is what they say.
    pub(super) fn assert_is_consistent(&self) {
        let (mut groups, mut in_flight) = (BTreeMap::<_, Group>::new(), BTreeSet::new());
        for (sequence, message) in &self.messages {
            let group = groups.entry(&message.group).or_default();
            if let Some((until, _)) = &message.flight {
                in_flight.insert((*until, *sequence));
                group.in_flight += 1;
            } else {
                group.waiting.insert(*sequence);
            }
        }
        assert_eq!(in_flight, self.in_flight);
        assert_eq!(groups.len(), self.groups.len());
        let mut ready = BTreeSet::new();
        for (name, group) in groups {
            let kept = &self.groups[name];
            assert_eq!(group.waiting, kept.waiting, "{name}");
            assert_eq!(group.in_flight, kept.in_flight, "{name}");
            if group.in_flight == 0 {
                ready.extend(group.waiting.first());
            }
        }
        assert_eq!(ready, self.ready);
    }
}

//! A delivery: one event for one worker, as it is on the queue.

use std::time::Duration;

use bytes::Bytes;
use protocol::clock::UnixMillis;

use crate::event::EventId;

/// How long a message can be on the queue and then on the dead-letter queue (SQS keeps it 14 days at most).
pub(crate) const QUEUED_FOR: Duration = Duration::from_secs(15 * 24 * 3600);

/// An event's body, or where it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Body {
    /// The raw body.
    Inline(Bytes),
    /// The raw body, compressed.
    Packed(Bytes),
    /// The digest under which the table holds the body.
    Stored(String),
}

/// One event for one worker, received from the queue.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// SQS's id of the message, which names it in a partial batch response.
    pub message_id: String,
    /// The receipt handle of this receive.
    pub receipt_handle: String,
    /// The FIFO group: worker and ordering key.
    pub group: String,
    /// The FIFO sequence number, which grows within a group.
    pub sequence: String,
    /// When the message was put on the queue.
    pub sent_at: UnixMillis,
    /// Whether there may be earlier attempts: the message was received before, or was redriven.
    pub may_be_tried: bool,
    /// The event's id.
    pub event: EventId,
    /// Linear's `organizationId`.
    pub workspace: String,
    /// The worker's id.
    pub worker: String,
    /// The event's type.
    pub kind: String,
    /// The event's action; may be empty.
    pub action: String,
    /// The ids of the event's teams, of which the worker's user has to see one; none if everybody may see it.
    pub teams: Vec<String>,
    /// The event's body, or where it is stored.
    pub body: Body,
}

/// The failed attempts of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedAttempts {
    /// How many there were.
    pub count: u64,
    /// When the first was made since the delivery was last put on the queue, or since its worker was back; none if none was.
    pub first_at: Option<UnixMillis>,
    /// When it is attempted again, if that is recorded here and not by the queue: while it is in a mailbox.
    pub due_at: Option<UnixMillis>,
}

/// Why a delivery is dead-lettered.
#[derive(Debug, Clone)]
pub struct DeadLetterReason {
    /// In words, with the status of the last answer, if there was one.
    pub text: String,
    /// When the first attempt was made.
    pub first_attempt_at: UnixMillis,
    /// Whose worker it is, if that is known.
    pub user: Option<String>,
}

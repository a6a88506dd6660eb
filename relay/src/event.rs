//! An event: a webhook of Linear, once its signature is verified.
//!
//! Invariant: `body` is the raw body, byte for byte.

use std::fmt;

use bytes::Bytes;
use protocol::clock::UnixMillis;
use protocol::envelope::{Audience, EndedAccess, Envelope, digest, is_identifier};

/// The largest body in bytes: a Lambda function cannot receive more in one request.
pub const MAX_BODY_BYTES: usize = 6 * 1024 * 1024;

/// `evt_<Linear-Delivery>`: the same over Linear's retries, over all attempts, and on the agent's side.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventId(String);

const PREFIX: &str = "evt_";

impl EventId {
    /// From the value of `Linear-Delivery`: 1 to 64 of `A-Z a-z 0-9 _ -`, as a UUID is.
    pub fn from_delivery(delivery: &str) -> Option<Self> {
        is_identifier(delivery).then(|| Self(format!("{PREFIX}{delivery}")))
    }

    /// From the text of an event id.
    pub fn parse(text: &str) -> Option<Self> {
        Self::from_delivery(text.strip_prefix(PREFIX)?)
    }

    /// With its prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value of `Linear-Delivery`.
    pub fn delivery(&self) -> &str {
        &self.0[PREFIX.len()..]
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An accepted webhook.
#[derive(Clone)]
pub struct Event {
    /// The event's id.
    pub id: EventId,
    /// Linear's `organizationId`.
    pub workspace: String,
    /// The body's `type`.
    pub kind: String,
    /// The body's `action`; empty if it has none.
    pub action: String,
    /// Events with the same key reach a worker in order. See [`protocol::envelope::Envelope::ordering_key`].
    pub ordering_key: String,
    /// Linear's timestamp; without one, when the event was received.
    pub sent_at: UnixMillis,
    /// Whom it concerns.
    pub audience: Audience<'static>,
    /// Whose access has ended by it.
    pub ended: Option<EndedAccess<'static>>,
    /// Whether the secret that signed it is valid for its workspace alone.
    pub is_bound: bool,
    /// The raw body.
    pub body: Bytes,
    /// SHA-256 of the raw body in hex: names the marker against replays and the stored body.
    pub digest: String,
}

impl Event {
    /// The event that a body is, once that is verified. `is_bound` is whether the secret that signed it is valid for its
    /// workspace alone.
    pub(crate) fn new(
        id: EventId,
        envelope: Envelope<'_>,
        body: &Bytes,
        is_bound: bool,
        received_at: UnixMillis,
    ) -> Self {
        Self {
            id,
            workspace: envelope.workspace.into_owned(),
            kind: envelope.kind.into_owned(),
            action: envelope.action.into_owned(),
            ordering_key: envelope.ordering_key,
            audience: envelope.audience.into_owned(),
            ended: envelope.ended.map(EndedAccess::into_owned),
            is_bound,
            #[expect(
                clippy::cast_possible_truncation,
                reason = "an accepted age is a few hours at most"
            )]
            sent_at: (envelope.sent_at_ms).map_or(received_at, |ms| ms as UnixMillis),
            digest: digest(body),
            body: body.clone(),
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("id", &self.id)
            .field("workspace", &self.workspace)
            .field("kind", &self.kind)
            .field("action", &self.action)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_id_is_linears_delivery_id_with_a_prefix() {
        let id = EventId::from_delivery("234d1a4e-b617-4388-90fe-adc3633d6b72");
        assert_eq!(
            id.as_ref().map(EventId::as_str),
            Some("evt_234d1a4e-b617-4388-90fe-adc3633d6b72")
        );
        assert_eq!(
            id,
            EventId::parse("evt_234d1a4e-b617-4388-90fe-adc3633d6b72")
        );
        for wrong in ["", "a.b", "a b", "ü", &"x".repeat(65)] {
            assert_eq!(EventId::from_delivery(wrong), None, "{wrong}");
        }
        assert_eq!(EventId::parse("234d1a4e"), None);
    }
}

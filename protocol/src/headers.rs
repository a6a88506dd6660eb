//! The header names on both wires, each written once.

/// Identifies the event, the same over all attempts (Standard Webhooks).
pub const WEBHOOK_ID: &str = "webhook-id";
/// When this attempt was signed, in seconds since the Unix epoch (Standard Webhooks).
pub const WEBHOOK_TIMESTAMP: &str = "webhook-timestamp";
/// One `v1,<base64>` for each active secret, separated by one space (Standard Webhooks).
pub const WEBHOOK_SIGNATURE: &str = "webhook-signature";
/// Proof in a response that the worker itself answered: one `v1,<base64>` for each active secret, separated by one space.
/// See [`crate::signature::receipt`].
pub const WEBHOOK_RECEIPT: &str = "webhook-receipt";
/// The event's type as Linear wrote it in the body.
pub const LINEAR_EVENT: &str = "linear-event";
/// Linear's own identifier of the event.
pub const LINEAR_DELIVERY: &str = "linear-delivery";
/// Hex HMAC-SHA256 of the raw body, from Linear to the relay.
pub const LINEAR_SIGNATURE: &str = "linear-signature";
/// When Linear sent the event, in milliseconds since the Unix epoch. It is not signed.
pub const LINEAR_TIMESTAMP: &str = "linear-timestamp";
/// The number of this attempt, from 1.
pub const EDGE_ATTEMPT: &str = "edge-attempt";
/// The id of the event of which this one is a copy that a developer edited; from `edge-agent` to a handler.
pub const EDGE_EDITED_FROM: &str = "edge-edited-from";

//! A delivery as it came, by POST or from the mailbox: the one path on which it is verified.
//!
//! Invariant: nothing is read from a body before its signature is known to be the relay's.

use std::collections::BTreeMap;

use protocol::headers::{EDGE_ATTEMPT, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use protocol::messages::Control;
use protocol::signature::{Secret, SignatureError, Signed, verify};
use serde::Deserialize;

use crate::store::Event;
use crate::talk::now;

/// What a verified delivery is.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// An event, to be stored.
    Event(Event),
    /// The relay itself speaks.
    Control(Control),
}

/// The fields that an event is told by.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    action: Option<String>,
    #[serde(default)]
    organization_id: String,
}

impl Delivery {
    /// Verifies form, age and digest, then reads what it is.
    pub(crate) fn verify(
        secrets: &[Secret],
        headers: BTreeMap<String, String>,
        body: Vec<u8>,
    ) -> Result<Self, SignatureError> {
        let header = |name: &str| headers.get(name).map_or("", String::as_str);
        let signed = Signed {
            id: header(WEBHOOK_ID),
            timestamp: header(WEBHOOK_TIMESTAMP),
            signature: header(WEBHOOK_SIGNATURE),
        };
        verify(secrets, signed, &body, now() / 1000)?;
        if let Ok(control) = serde_json::from_slice(&body) {
            return Ok(Self::Control(control));
        }
        let envelope: Envelope = serde_json::from_slice(&body).unwrap_or_default();
        Ok(Self::Event(Event {
            id: signed.id.to_owned(),
            kind: envelope.kind,
            action: envelope.action.unwrap_or_default(),
            workspace: envelope.organization_id,
            received_at: now(),
            attempt: header(EDGE_ATTEMPT).parse().unwrap_or(1),
            headers,
            body,
        }))
    }
}

//! A delivery as it came, by POST or from the mailbox: the one path on which it is verified.
//!
//! Invariant: nothing is read from a body before its signature is known to be the relay's.

use protocol::envelope;
use protocol::headers::{WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use protocol::messages::Control;
use protocol::signature::{Secret, SignatureError, Signed, verify};

use crate::store::{Event, Headers};

/// What a verified delivery is.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// An event, to be stored.
    Event(Event),
    /// The relay itself speaks.
    Control(Control),
}

/// The three headers that a signature is checked by.
pub(crate) fn signed(headers: &Headers) -> Signed<'_> {
    let header = |name: &str| headers.get(name).unwrap_or_default();
    Signed {
        id: header(WEBHOOK_ID),
        timestamp: header(WEBHOOK_TIMESTAMP),
        signature: header(WEBHOOK_SIGNATURE),
    }
}

impl Delivery {
    /// Verifies form, age and digest, then reads what it is; `now` in Unix milliseconds.
    pub(crate) fn verify(
        secrets: &[Secret],
        headers: Headers,
        body: Vec<u8>,
        now: i64,
    ) -> Result<Self, SignatureError> {
        let signed = signed(&headers);
        verify(secrets, signed, &body, now / 1000)?;
        if let Some(control) = control(&body) {
            return Ok(Self::Control(control));
        }
        let id = signed.id.to_owned();
        // The relay has read it before; a newer one may take what this agent cannot read.
        let envelope = std::str::from_utf8(&body).map(envelope::read);
        let (kind, action, workspace, ordering_key) = match envelope {
            Ok(Ok(read)) => (
                read.kind.into_owned(),
                read.action.into_owned(),
                read.workspace.into_owned(),
                read.ordering_key,
            ),
            _ => Default::default(),
        };
        Ok(Self::Event(Event {
            id,
            kind,
            action,
            workspace,
            ordering_key,
            received_at: now,
            headers,
            body,
        }))
    }
}

/// What the relay says is small: a large body is not read twice.
fn control(body: &[u8]) -> Option<Control> {
    if body.len() > 1024 {
        return None;
    }
    serde_json::from_slice(body).ok()
}

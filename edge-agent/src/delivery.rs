//! A delivery as it was received, by POST or from the mailbox, and its verification.
//!
//! Invariant: nothing is parsed before the signature is verified.

use protocol::clock::UnixMillis;
use protocol::envelope;
use protocol::headers::{WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
use protocol::messages::Control;
use protocol::signature::{Secret, SignatureError, Signed, verify, verify_form};

use crate::store::{Event, Headers};

/// A verified delivery.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// An event, which has to be stored.
    Event(Event),
    /// A message of the relay itself.
    Control(Control),
}

/// The three headers that belong to a signature.
pub(crate) fn signed(headers: &Headers) -> Signed<'_> {
    let header = |name: &str| headers.get(name).unwrap_or_default();
    Signed {
        id: header(WEBHOOK_ID),
        timestamp: header(WEBHOOK_TIMESTAMP),
        signature: header(WEBHOOK_SIGNATURE),
    }
}

impl Delivery {
    /// Verifies format, age and digest, then parses the body.
    pub(crate) fn verify(
        secrets: &[Secret],
        headers: Headers,
        body: Vec<u8>,
        now: UnixMillis,
    ) -> Result<Self, SignatureError> {
        verify(secrets, signed(&headers), &body, now / 1000)?;
        verify_id(signed(&headers).id)?;
        Ok(Self::read(headers, body, now))
    }

    /// Verifies format and digest, then parses the body. The age does not count: the relay has just answered with it, over a
    /// connection that nobody else can answer on, and this machine's clock may be wrong.
    pub(crate) fn verify_pulled(
        secrets: &[Secret],
        headers: Headers,
        body: Vec<u8>,
        now: UnixMillis,
    ) -> Result<Self, SignatureError> {
        let at = verify_form(signed(&headers))?;
        verify(secrets, signed(&headers), &body, at)?;
        verify_id(signed(&headers).id)?;
        Ok(Self::read(headers, body, now))
    }

    fn read(headers: Headers, body: Vec<u8>, now: UnixMillis) -> Self {
        if let Some(control) = control(&body) {
            return Self::Control(control);
        }
        let id = signed(&headers).id.to_owned();
        // A newer relay may accept a body that this agent cannot parse. It is stored all the same.
        let envelope = std::str::from_utf8(&body).map(envelope::parse);
        let (kind, action, workspace, ordering_key) = match envelope {
            Ok(Ok(read)) => (
                read.kind.into_owned(),
                read.action.into_owned(),
                read.workspace.into_owned(),
                line_key(read.ordering_key, read.is_stop),
            ),
            _ => Default::default(),
        };
        Self::Event(Event {
            id,
            kind,
            action,
            workspace,
            ordering_key,
            received_at: now,
            headers,
            body,
            edited_from: None,
        })
    }
}

/// An id is written into logs, headers and variables: it is short, and of printable ASCII.
fn verify_id(id: &str) -> Result<(), SignatureError> {
    if id.len() <= 256 && id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(SignatureError::Format {
        header: WEBHOOK_ID,
        wrong: "has to be at most 256 printable characters of ASCII, without a space",
    })
}

/// The ordering key that is stored. That of a stop is the one of its session, marked, so that a stop can be told from what it
/// stops. Other keys have no colon.
pub(crate) fn line_key(ordering_key: String, is_stop: bool) -> String {
    match is_stop {
        true => format!("{ordering_key}{STOP}"),
        false => ordering_key,
    }
}

const STOP: &str = ":stop";

/// The ordering key of what an event with this key stops, if it is a stop.
pub(crate) fn stopped_key(key: &str) -> Option<&str> {
    key.strip_suffix(STOP)
}

/// Parses a message of the relay. It is small, so a large body is not parsed twice.
fn control(body: &[u8]) -> Option<Control> {
    if body.len() > 1024 {
        return None;
    }
    serde_json::from_slice(body).ok()
}

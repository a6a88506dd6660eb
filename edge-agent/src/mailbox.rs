//! Empty the mailbox: store what waits, then acknowledge it with the next call.
//!
//! Invariant: an id is acknowledged only after its event is stored. The last, empty answer makes an away worker
//! live, so events keep their order.

use protocol::messages::Pull;

use crate::delivery::Delivery;
use crate::receiver::Shared;
use crate::registration::Registration;
use crate::relay::{CallError, Relay};
use crate::store::Headers;

/// Pulls until nothing waits; answers how many events there were.
pub(crate) async fn empty(
    relay: &Relay,
    registration: &Registration,
    shared: &Shared,
) -> Result<usize, CallError> {
    let mut pulled = 0;
    let mut ack = Vec::new();
    loop {
        let request = Pull {
            ack: std::mem::take(&mut ack),
            limit: None,
        };
        let mailbox = relay.pull(registration, &request).await?;
        if mailbox.events.is_empty() {
            return Ok(pulled);
        }
        let now = shared.clock.millis();
        let mut events = Vec::with_capacity(mailbox.events.len());
        let mut refused = None;
        for waiting in mailbox.events {
            let headers = (waiting.headers.into_iter())
                .map(|(name, value)| (name, value.into_bytes()))
                .collect();
            match Delivery::verify(
                &shared.secrets(now),
                Headers(headers),
                waiting.body.into_bytes(),
                now,
            ) {
                Ok(Delivery::Event(event)) => events.push(event),
                // Not an event, but acknowledged all the same.
                Ok(Delivery::Control(_)) => {}
                Err(error) => {
                    // What comes after it must wait, or it would overtake.
                    refused = Some(error);
                    break;
                }
            }
            ack.push(waiting.id);
        }
        if let (Some(error), true) = (refused, ack.is_empty()) {
            return Err(CallError::later(format!(
                "the oldest event in the mailbox does not verify: {error}"
            )));
        }
        pulled += events.len();
        let stored = shared.store.add(events).await;
        shared.note_store(stored.as_ref().map(|_| ()));
        stored.map_err(|error| CallError::later(format!("{error:#}")))?;
        shared.stored.notify_one();
    }
}

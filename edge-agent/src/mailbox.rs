//! Empties the mailbox: stores the events, then acknowledges them with the next call.
//!
//! Invariant: an event is acknowledged only after it is stored. The last, empty response makes an away worker live, so events
//! keep their order.

use protocol::messages::Pull;

use crate::delivery::Delivery;
use crate::registration::Registration;
use crate::relay::{CallError, Relay};
use crate::state::AgentState;
use crate::store::Headers;

/// Pulls until the mailbox is empty. Returns the number of events.
pub(crate) async fn empty(
    relay: &Relay,
    registration: &Registration,
    state: &AgentState,
) -> Result<usize, CallError> {
    let mut pulled = 0;
    let mut ack = Vec::new();
    loop {
        let request = Pull {
            ack: std::mem::take(&mut ack),
            limit: None,
        };
        let mailbox = relay.pull(registration, &request).await?;
        if mailbox.withheld > 0 {
            state.withheld.notify_one();
        }
        if mailbox.events.is_empty() {
            return Ok(pulled);
        }
        let now = state.clock.millis();
        let mut events = Vec::with_capacity(mailbox.events.len());
        let mut refused = None;
        for waiting in mailbox.events {
            let headers = (waiting.headers.into_iter())
                .map(|(name, value)| (name, value.into_bytes()))
                .collect();
            let (headers, body) = (Headers(headers), waiting.body.into_bytes());
            match Delivery::verify_pulled(&state.secrets(now), headers, body, now) {
                Ok(Delivery::Event(event)) => events.push(event),
                // It is not an event, but it has to leave the mailbox.
                Ok(Delivery::Control(_)) => {}
                Err(error) => {
                    // The events behind it must wait, or they would overtake it.
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
        let stored = state.store.add(events).await;
        state.record_store_result(stored.as_ref().map(|_| ()));
        stored.map_err(|error| CallError::later(format!("{error:#}")))?;
        state.stored.notify_one();
    }
}

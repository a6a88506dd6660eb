//! Empty the mailbox: store what waits, then acknowledge it with the next call.
//!
//! Invariant: an id is acknowledged only after its event is stored. The last, empty answer makes an away worker
//! live, so events keep their order.

use protocol::messages::Pull;

use crate::delivery::Delivery;
use crate::receiver::Shared;
use crate::registration::Registration;
use crate::relay::{CallError, Relay};
use crate::talk::say;

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
        let mut events = Vec::with_capacity(mailbox.events.len());
        for waiting in mailbox.events {
            match Delivery::verify(
                &shared.secrets(),
                waiting.headers,
                waiting.body.into_bytes(),
            ) {
                Ok(Delivery::Event(event)) => events.push(event),
                // Not an event, but acknowledged all the same.
                Ok(Delivery::Control(_)) => {}
                Err(error) => {
                    // What comes after it must wait, or it would overtake.
                    say(format_args!("an event in the mailbox was refused: {error}"));
                    break;
                }
            }
            ack.push(waiting.id);
        }
        if ack.is_empty() {
            return Err(CallError::Later {
                reason: "the oldest event in the mailbox does not verify".to_owned(),
                wait: None,
            });
        }
        pulled += events.len();
        (shared.store.add(events).await).map_err(|error| CallError::Later {
            reason: format!("{error:#}"),
            wait: None,
        })?;
        shared.stored.notify_one();
    }
}

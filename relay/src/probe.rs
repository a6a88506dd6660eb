//! A probe: a signed ping, which tells whether a worker is there.

use bytes::Bytes;
use protocol::clock::Clock;
use protocol::messages::Control;

use crate::outbound::{self, ClientError, Outbound};
use crate::outcome::Outcome;
use crate::worker::{self, Worker};

/// Sends a ping to a worker and logs what came of it.
///
/// # Errors
///
/// The ping's headers cannot be written.
pub(crate) async fn probe(
    outbound: &Outbound,
    clock: &Clock,
    worker: &Worker,
    ping: &Control,
) -> Result<Outcome, ClientError> {
    let body = serde_json::to_vec(ping).expect("a ping is a text and flags");
    let (id, signed_at) = (worker::ping_id(), clock.millis());
    let headers = outbound::headers(worker.ping_headers(&id, &body, signed_at))?;
    let url = worker.url.as_deref().unwrap_or_default();
    let answer = outbound.post(url, headers, Bytes::from(body)).await;
    let outcome = Outcome::of(answer, clock.millis(), |headers| {
        worker.has_answered(headers, &id, signed_at)
    });
    tracing::info!(
        worker = worker.id,
        workspace = worker.workspace,
        state = worker.state.as_str(),
        reason = outcome.reason(),
        outcome = outcome.name(),
        "probed worker {}: {}",
        worker.id,
        outcome.name()
    );
    Ok(outcome)
}

/// A ping that tells a worker what the relay has for it.
pub(crate) fn ping(worker: &Worker, waiting: bool) -> Control {
    Control::Ping {
        waiting,
        withheld: worker.withheld > 0,
    }
}

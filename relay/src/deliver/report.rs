//! The log line of an attempt, from which CloudWatch takes the metrics of attempts and deliveries.

use crate::delivery::Delivery;
use crate::outcome::Outcome;

/// Logs an attempt at a delivery, with the worker's owner if it failed. The latency is the time since the event was queued, in
/// milliseconds. A delivery from a mailbox has none: it would measure how long the worker was away.
pub(super) fn attempt(
    delivery: &Delivery,
    owner: Option<&str>,
    number: u64,
    outcome: Outcome,
    latency_ms: Option<i64>,
) {
    let is_delivered = outcome == Outcome::Delivered;
    // Short, because an account is billed for the bytes of its log, and most lines are this one. Of which workspace the event
    // is, the line of `ingest` says.
    tracing::info!(
        event = %delivery.event,
        workspace = (!is_delivered).then_some(delivery.workspace.as_str()),
        worker = delivery.worker,
        user = owner.filter(|_| !is_delivered),
        attempt = number,
        outcome = outcome.name(),
        reason = (!is_delivered).then(|| outcome.reason()),
        latency = latency_ms.filter(|_| is_delivered),
        "{}",
        if is_delivered { "delivered" } else { "could not deliver" }
    );
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;
    use serde_json::json;

    use super::*;
    use crate::delivery::Body;
    use crate::event::EventId;
    use crate::logging::tests::lines;

    fn delivery() -> Delivery {
        Delivery {
            message_id: String::new(),
            receipt_handle: String::new(),
            group: String::new(),
            sequence: String::new(),
            sent_at: 0,
            may_be_tried: false,
            event: EventId::parse("evt_1").unwrap(),
            workspace: "ws".to_owned(),
            worker: "wrk_1".to_owned(),
            kind: String::new(),
            action: String::new(),
            teams: Vec::new(),
            body: Body::Inline(Bytes::new()),
        }
    }

    #[test]
    fn an_attempt_is_one_line_and_has_a_latency_if_it_was_delivered_from_the_queue() {
        let (delivery, owner) = (delivery(), Some("ana@example.com"));
        let rejected = Outcome::Rejected {
            status: StatusCode::BAD_REQUEST,
            retry_after: None,
        };
        let lines = lines(|| {
            attempt(&delivery, owner, 1, Outcome::Delivered, Some(12));
            attempt(&delivery, owner, 2, Outcome::Delivered, None);
            attempt(&delivery, owner, 3, rejected, Some(13));
        });
        let expected = [
            json!({
                "level": "INFO", "message": "delivered", "event": "evt_1", "worker": "wrk_1",
                "attempt": 1, "outcome": "delivered", "latency": 12,
            }),
            json!({
                "level": "INFO", "message": "delivered", "event": "evt_1", "worker": "wrk_1",
                "attempt": 2, "outcome": "delivered",
            }),
            json!({
                "level": "INFO", "message": "could not deliver", "event": "evt_1", "workspace": "ws", "worker": "wrk_1",
                "user": "ana@example.com", "attempt": 3, "outcome": "rejected", "reason": "rejected: answered 400",
            }),
        ];
        assert_eq!(lines, expected);
    }
}

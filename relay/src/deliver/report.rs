//! The log lines and the metrics of a batch's attempts.

use parking_lot::Mutex;

use crate::delivery::Delivery;
use crate::metrics;
use crate::outcome::Outcome;
use crate::worker::Worker;

/// The outcomes of a batch's attempts, each with the time since its event was queued, in milliseconds. A delivery from a
/// mailbox has none: it says how long the worker was away.
#[derive(Debug, Default)]
pub(super) struct Report(Mutex<Vec<(Outcome, Option<i64>)>>);

impl Report {
    /// Logs an attempt and keeps its outcome for the metrics.
    pub(super) fn attempt(
        &self,
        worker: &Worker,
        delivery: &Delivery,
        attempt: u64,
        (outcome, latency_ms): (Outcome, Option<i64>),
    ) {
        let is_delivered = outcome == Outcome::Delivered;
        tracing::info!(
            event = %delivery.event,
            workspace = delivery.workspace,
            worker = delivery.worker,
            user = worker.owner().filter(|_| !is_delivered),
            attempt,
            outcome = outcome.name(),
            reason = (!is_delivered).then(|| outcome.reason()),
            latency = latency_ms.filter(|_| is_delivered),
            "{} event {}",
            if is_delivered { "delivered" } else { "could not deliver" },
            delivery.event
        );
        self.0.lock().push((outcome, latency_ms));
    }

    /// Emits the metrics: one line for each outcome, since the metadata of a metric is longer than the rest of a line, and
    /// CloudWatch bills by the byte. A batch that Lambda ends has its log lines, and no metrics.
    pub(super) fn emit(self) {
        let mut attempts = self.0.into_inner();
        attempts.sort_by_key(|(outcome, _)| outcome.name());
        for same in attempts.chunk_by(|(one, _), (other, _)| one.name() == other.name()) {
            let (outcome, _) = same[0];
            let is_delivered = outcome == Outcome::Delivered;
            let is_final = is_delivered || outcome == Outcome::Gone;
            let latencies: Vec<_> = same.iter().filter_map(|(_, latency)| *latency).collect();
            tracing::info!(
                target: metrics::TARGET,
                Attempts = same.len(),
                Deliveries = is_final.then_some(same.len()),
                Outcome = outcome.name(),
                DeliveryLatency = (is_delivered && !latencies.is_empty()).then(|| tracing::field::debug(&latencies)),
                "metrics of a batch"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use super::*;
    use crate::logging::tests::lines;

    #[test]
    fn each_outcome_of_a_batch_has_one_line_with_the_latencies_of_its_deliveries() {
        let rejected = |status| Outcome::Rejected {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
        };
        let attempts = vec![
            (Outcome::Delivered, Some(12)),
            (rejected(500), Some(13)),
            (Outcome::Gone, Some(14)),
            (Outcome::Delivered, Some(15)),
            (rejected(400), Some(16)),
        ];
        let lines = lines(|| Report(Mutex::new(attempts)).emit());
        let found = lines.iter().map(|line| {
            ["Outcome", "Attempts", "Deliveries", "DeliveryLatency"].map(|name| line[name].clone())
        });
        let none = json!(null);
        let expected = [
            [json!("delivered"), json!(2), json!(2), json!([12, 15])],
            [json!("gone"), json!(1), json!(1), none.clone()],
            [json!("rejected"), json!(2), none.clone(), none],
        ];
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }
}

//! How the agent is: what `edge-agent status` says, the last refusals, and the last hour.

use protocol::clock::rfc3339;
use serde::Serialize;

use super::Inspector;
use super::activity::{Minute, first_minute, median, minutes};
use crate::facts::StatusFacts;
use crate::health::why_unhealthy;

/// What `edge-agent status` says, and the last hour.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InspectorStatus {
    #[serde(flatten)]
    facts: StatusFacts,
    /// The deliveries that were refused last, the newest first.
    refusals: Vec<Refusal>,
    activity: Vec<Minute>,
    /// The median of the hour, in milliseconds.
    median_milliseconds: Option<i64>,
}

#[derive(Serialize)]
struct Refusal {
    /// RFC 3339.
    at: String,
    reason: String,
}

pub(super) async fn status_facts(inspector: &Inspector) -> anyhow::Result<InspectorStatus> {
    let state = &inspector.state;
    let status = inspector.report.status();
    let (events, last_event) = state.store.counts().await?;
    let why = why_unhealthy(Some(&status), Some(&state.store)).await?;
    let now = state.clock.millis();
    let hour = state.store.durations_since(first_minute(now)).await?;
    let refusals = state.refusals().into_iter().map(|(at, reason)| Refusal {
        at: rfc3339(at),
        reason,
    });
    Ok(InspectorStatus {
        facts: StatusFacts {
            running: true,
            healthy: why.is_none(),
            why,
            status: Some(status),
            worker_id: state.registration().map(|r| r.id().to_owned()),
            events,
            last_event: last_event.map(rfc3339),
            at_relay: inspector.worker.last(),
        },
        refusals: refusals.collect(),
        activity: minutes(&hour, now),
        median_milliseconds: median(hour.iter().filter_map(|(_, took_ms)| *took_ms).collect()),
    })
}

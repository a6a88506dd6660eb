//! How the agent is: what `edge-agent status` says, the last refusals, and the last hour.

use std::time::Duration;

use protocol::clock::{UnixMillis, rfc3339};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Inspector;
use super::activity::{Minute, first_minute, median, minutes};
use crate::facts::StatusFacts;
use crate::health::why_unhealthy;
use crate::report::Status;
use crate::state::AgentState;
use crate::store::Counts;

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

/// How long what was counted counts, whoever asks: it takes long where there are many events.
pub(super) const KEPT: Duration = Duration::from_secs(1);

/// What the store says.
#[derive(Clone)]
struct Counted {
    events: Counts,
    last_event: Option<UnixMillis>,
    why: Option<String>,
    activity: Vec<Minute>,
    median_milliseconds: Option<i64>,
}

/// What was counted last, and when.
#[derive(Default)]
pub(super) struct LastCount(Mutex<Option<(Instant, Counted)>>);

impl LastCount {
    async fn read(&self, state: &AgentState, status: &Status) -> anyhow::Result<Counted> {
        // Whoever comes meanwhile waits for the same result.
        let mut last = self.0.lock().await;
        if let Some((at, counted)) = &*last
            && at.elapsed() < KEPT
        {
            return Ok(counted.clone());
        }
        let counted = count(state, status).await?;
        *last = Some((Instant::now(), counted.clone()));
        Ok(counted)
    }
}

async fn count(state: &AgentState, status: &Status) -> anyhow::Result<Counted> {
    let (events, last_event) = state.store.counts().await?;
    let now = state.clock.millis();
    let hour = state.store.durations_since(first_minute(now)).await?;
    Ok(Counted {
        events,
        last_event,
        why: why_unhealthy(Some(status), Some(&state.store)).await?,
        activity: minutes(&hour, now),
        median_milliseconds: median(hour.iter().filter_map(|(_, took_ms)| *took_ms).collect()),
    })
}

pub(super) async fn status_facts(inspector: &Inspector) -> anyhow::Result<InspectorStatus> {
    let state = &inspector.state;
    let status = inspector.report.status();
    let Counted {
        events,
        last_event,
        why,
        activity,
        median_milliseconds,
    } = inspector.counted.read(state, &status).await?;
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
        activity,
        median_milliseconds,
    })
}

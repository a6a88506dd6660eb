//! Stands in for EventBridge Scheduler: runs `health` every five minutes, for all shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lambda_runtime::{Context, LambdaEvent};
use protocol::clock::{Clock, millis, rfc3339};
use relay::health::Health;
use relay::policy::PROBE_INTERVAL;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Runs `health` on its schedule until the shutdown.
pub(crate) async fn run(
    health: Arc<Health>,
    clock: Clock,
    runs: Arc<AtomicU64>,
    shutdown: CancellationToken,
) {
    let every = millis(PROBE_INTERVAL);
    let latest = || clock.millis() / every * every;
    let mut time = latest();
    loop {
        tokio::select! {
            () = clock.until(time + every) => {}
            () = shutdown.cancelled() => return,
        }
        // After a suspension of the machine, the runs that were missed are skipped.
        time = latest();
        let scheduled = json!({"time": rfc3339(time), "part": 0, "of": 1});
        let Ok(scheduled) = serde_json::from_value(scheduled) else {
            return;
        };
        let event = LambdaEvent::new(scheduled, Context::default());
        if let Err(error) = health::handle(&health, event).await {
            tracing::error!(%error, "health could not run");
        }
        runs.fetch_add(1, Ordering::Release);
    }
}

//! EventBridge Scheduler in front of `health`: every five minutes, one run for all shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lambda_runtime::{Context, LambdaEvent};
use relay::clock::{Clock, rfc3339};
use relay::health::{EVERY, Health};
use serde_json::json;
use tokio::sync::watch;

/// Runs `health` whenever its time has come, until `stop` says so.
pub(crate) async fn run(
    health: Arc<Health>,
    clock: Clock,
    runs: Arc<AtomicU64>,
    mut stop: watch::Receiver<bool>,
) {
    let every = i64::try_from(EVERY.as_millis()).unwrap_or(i64::MAX);
    loop {
        let next = (clock.millis() / every + 1) * every;
        tokio::select! {
            () = clock.until(next) => {}
            _ = stop.changed() => return,
        }
        // After a sleep: the time that it is now, none of those that have passed.
        let time = clock.millis() / every * every;
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

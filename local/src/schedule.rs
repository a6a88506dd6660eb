//! EventBridge Scheduler in front of `health`: every five minutes, one run for all shards.

use std::sync::Arc;

use lambda_runtime::{Context, LambdaEvent};
use relay::clock::{Clock, rfc3339};
use relay::health::{EVERY, Health};
use serde_json::json;
use tokio::sync::watch;

/// Runs `health` whenever its time has come, until `stop` says so.
pub(crate) async fn run(health: Arc<Health>, clock: Clock, mut stop: watch::Receiver<bool>) {
    let every = i64::try_from(EVERY.as_millis()).unwrap_or(i64::MAX);
    let mut last = clock.millis() / every;
    loop {
        tokio::select! {
            () = clock.until((last + 1) * every) => {}
            _ = stop.changed() => return,
        }
        // One run for each time that has passed, as the scheduler would have made.
        last += 1;
        let scheduled = json!({"time": rfc3339(last * every), "part": 0, "of": 1});
        let Ok(scheduled) = serde_json::from_value(scheduled) else {
            return;
        };
        let event = LambdaEvent::new(scheduled, Context::default());
        if let Err(error) = health::handle(&health, event).await {
            tracing::error!(%error, "health could not run");
        }
    }
}

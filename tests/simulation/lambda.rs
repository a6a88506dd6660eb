//! What calls `deliver` and `health`: the event source mapping and the schedule.

use std::sync::Arc;

use local::local_relay::QUEUE;
use local::sqs::{Consumer, Received};
use protocol::clock::millis;
use relay::health::ScheduledRun;
use relay::policy::PROBE_INTERVAL;

use crate::history::BatchFault;
use crate::wire::invocation;
use crate::world::World;

/// The event source mapping.
pub(crate) async fn deliver(world: Arc<World>) {
    loop {
        let sqs = &world.relay().sqs;
        let batch = sqs.receive(QUEUE, 10, None, Some(20), Consumer::Here).await;
        match batch {
            Ok(batch) if batch.is_empty() => {}
            Ok(batch) => drop(tokio::spawn(process(Arc::clone(&world), batch))),
            Err(_) => return,
        }
    }
}

async fn process(world: Arc<World>, batch: Vec<Received>) {
    let fault = world.wire.next_batch();
    let relay = world.relay();
    let done = invocation(relay.deliver(batch.clone())).await;
    if let (Some(Ok(done)), true) = (&done, !matches!(fault, Some(BatchFault::NotDeleted)))
        && !done.is_empty()
    {
        let _ = relay.sqs.delete(QUEUE, done).await;
    }
    if let Some(BatchFault::Twice) = fault {
        let _ = invocation(relay.deliver(batch)).await;
    }
}

/// The schedule of `health`: its parts that have workers.
pub(crate) async fn probe(world: Arc<World>) {
    let every = millis(PROBE_INTERVAL);
    let ids = world.machines.iter().map(|machine| machine.worker());
    let shard = |id: String| u32::from_str_radix(id.get(id.len() - 1..)?, 16).ok();
    let mut parts: Vec<_> = ids.filter_map(shard).collect();
    parts.sort_unstable();
    parts.dedup();
    loop {
        let next = (world.wire.clock.millis() / every + 1) * every;
        world.wire.clock.until(next).await;
        for part in &parts {
            let run = ScheduledRun::new(next, *part, 16);
            let health = Arc::clone(&world.relay().functions.health);
            if let Ok(run) = run {
                tokio::spawn(invocation(async move { health.run(run).await }));
            }
        }
    }
}

//! Runs a history and checks what it led to.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use lambda_http::Body;
use lambda_http::http::Request;
use local::local_relay::QUEUE;
use local::samples::WORKSPACE;
use local::sqs::{Consumer, Received};
use protocol::headers::{LINEAR_DELIVERY, LINEAR_SIGNATURE};
use protocol::linear_signature::sign;
use relay::health::ScheduledRun;
use relay::policy::PROBE_INTERVAL;
use serde_json::json;
use tokio::task::JoinSet;

use crate::history::{Action, AtLast, BatchFault, History, Step};
use crate::old_faults::OldFault;
use crate::places::{self, Places};
use crate::record::Posted;
use crate::wire::invocation;
use crate::world::{SECRET, World};

/// How long after its first attempt, and after each that failed, Linear posts a webhook again. Linear waits a minute, an
/// hour and six hours (Linear's documentation, "Webhooks").
const LINEAR_RETRIES: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_secs(60),
    Duration::from_secs(600),
];
/// How long Linear waits for an answer.
const LINEAR_WAITS: Duration = Duration::from_secs(5);
/// Nothing waits for longer once all is well: an hour of backoff with its jitter, what is blocked behind it, and a probe.
const SETTLED_WITHIN: Duration = Duration::from_secs(3 * 3600);
/// How long an event takes to a worker that is live and there, with every latency.
const LIVE_WITHIN: Duration = Duration::from_secs(10);
/// When it is checked first whether all has settled, and then after twice as long each time, up to the longest.
const FIRST_LOOK: Duration = Duration::from_secs(10);
const LONGEST_LOOK: Duration = Duration::from_secs(600);

/// What a history led to.
#[derive(Debug)]
pub(crate) struct Done {
    /// What is wrong, if anything is.
    pub(crate) violation: Option<String>,
    /// A digest of all that happened.
    pub(crate) digest: u64,
}

/// Runs a history in this thread.
pub(crate) fn run(
    history: &History,
    old_fault: Option<OldFault>,
    is_printed: bool,
) -> anyhow::Result<Done> {
    // The relay's jitter, and that of the AWS SDK.
    fastrand::seed(history.seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    runtime.block_on(async {
        let world = World::new(history, old_fault, is_printed).await?;
        let violation = live(&world, history)
            .await
            .err()
            .map(|error| format!("{error:#}"));
        let digest = world.wire.digest();
        Ok(Done { violation, digest })
    })
}

async fn live(world: &Arc<World>, history: &History) -> anyhow::Result<()> {
    let mut background = JoinSet::new();
    background.spawn(deliver(Arc::clone(world)));
    background.spawn(probe(Arc::clone(world)));
    let mut doing = JoinSet::new();
    take(world, history, &history.steps, &mut doing).await?;
    world.wire.calm();
    all_done(&mut doing).await?;
    for machine in &world.machines {
        machine.settle();
    }
    take(world, history, &history.finale, &mut doing).await?;
    all_done(&mut doing).await?;
    settle(world, history).await?;
    for about in 0..5 {
        post(Arc::clone(world), about).await;
    }
    tokio::time::sleep(LIVE_WITHIN).await;
    let places = Places::of_all(world).await?;
    check(world, &places)?;
    for (machine, places) in world.machines.iter().zip(&places) {
        if places.state.as_deref() == Some("live") && machine.spec.at_last == AtLast::There {
            let late = places.on_queue.iter().next();
            if let Some(event) = late {
                bail!(
                    "{}: {event} is on the queue although it is live and there",
                    machine.name()
                );
            }
        }
    }
    Ok(())
}

async fn all_done(doing: &mut JoinSet<()>) -> anyhow::Result<()> {
    while let Some(done) = doing.join_next().await {
        done?;
    }
    Ok(())
}

/// Takes one step after another. What each begins goes on meanwhile.
async fn take(
    world: &Arc<World>,
    history: &History,
    steps: &[Step],
    doing: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    for step in steps {
        tokio::time::sleep(step.after).await;
        is_bounded(world, history)?;
        world.wire.note(|| format!("{:?}", step.what));
        let world = Arc::clone(world);
        match step.what {
            Action::Post(about) => drop(doing.spawn(post(world, about))),
            Action::Machine(number, deed) => {
                doing.spawn(async move { world.machines[number].does(deed).await });
            }
        }
    }
    Ok(())
}

/// Waits until everything is where it has to be at last.
async fn settle(world: &Arc<World>, history: &History) -> anyhow::Result<()> {
    let (mut waited, mut look) = (Duration::ZERO, FIRST_LOOK);
    loop {
        let places = Places::of_all(world).await?;
        check(world, &places)?;
        is_bounded(world, history)?;
        let Some(unsettled) = unsettled(world, &places) else {
            return Ok(());
        };
        ensure!(
            waited < SETTLED_WITHIN,
            "{unsettled}, {} s after all is well",
            waited.as_secs()
        );
        tokio::time::sleep(look).await;
        waited += look;
        look = (2 * look).min(LONGEST_LOOK);
    }
}

/// No worker has more deliveries in backoff than it may have.
fn is_bounded(world: &World, history: &History) -> anyhow::Result<()> {
    let most = history.limits.deliveries_in_backoff;
    for (machine, count) in world.machines.iter().zip(places::in_backoff(world)?) {
        let name = machine.name();
        ensure!(
            count <= most,
            "{name}: {count} deliveries are in backoff, more than {most}"
        );
    }
    Ok(())
}

/// What is not where it has to be at last.
fn unsettled(world: &World, all: &[Places]) -> Option<String> {
    let record = world.wire.record.lock();
    for (number, (machine, places)) in world.machines.iter().zip(all).enumerate() {
        let name = machine.name();
        match machine.spec.at_last {
            AtLast::There => {
                let is_there = |e: &&Posted| {
                    !places.stored.contains_key(&e.id) && !places.dead.contains(&e.id)
                };
                if let Some(event) = record.due_to(number).find(is_there) {
                    return Some(format!("{name}: {} is not handled", event.id));
                }
                if !places.in_mailbox.is_empty() || !places.on_queue.is_empty() {
                    return Some(format!("{name}: something waits for it"));
                }
                if places.state.as_deref() == Some("away") {
                    return Some(format!("{name} is away"));
                }
            }
            AtLast::Absent(_) if !places.on_queue.is_empty() => {
                return Some(format!("{name}: something is on the queue for it"));
            }
            AtLast::Absent(_) => {
                let is_drained = machine.spec.kind.has_address() && !machine.spec.kind.pulls();
                if is_drained
                    && !places.in_mailbox.is_empty()
                    && !places.is_drained
                    && places.state.is_some()
                {
                    return Some(format!("{name}: nobody drains its mailbox"));
                }
            }
            AtLast::Rejecting(_) => {}
        }
    }
    None
}

/// What holds at every moment: each event is somewhere, and none has overtaken another.
fn check(world: &World, all: &[Places]) -> anyhow::Result<()> {
    let record = world.wire.record.lock();
    for (number, (machine, places)) in world.machines.iter().zip(all).enumerate() {
        let name = machine.name();
        let due: Vec<_> = record.due_to(number).collect();
        for event in &due {
            let id = &event.id;
            let is_somewhere = places.stored.contains_key(id)
                || places.in_mailbox.contains(id)
                || places.on_queue.contains(id)
                || places.dead.contains(id);
            ensure!(is_somewhere, "{name}: {id} is lost");
        }
        for (at, later) in due.iter().enumerate() {
            let Some(stored) = places.stored.get(&later.id) else {
                continue;
            };
            for earlier in due[..at].iter().filter(|earlier| earlier.is_before(later)) {
                match places.stored.get(&earlier.id) {
                    Some(before) if before < stored => {}
                    None if places.dead.contains(&earlier.id) => {}
                    _ => bail!("{name}: {} has overtaken {}", later.id, earlier.id),
                }
            }
        }
    }
    Ok(())
}

/// Linear posts an event, until it is answered 200.
async fn post(world: Arc<World>, about: u8) {
    let now = world.wire.clock.millis();
    let at = {
        let mut record = world.wire.record.lock();
        let at = record.events.len();
        // In no order, as Linear's are.
        let delivery = format!("{:08x}", (at as u32 + 1).wrapping_mul(0x9E37_79B1));
        record.events.push(Posted {
            id: format!("evt_{delivery}"),
            key: format!("i{about}"),
            posted_at: now,
            accepted_at: None,
        });
        at
    };
    let body = json!({
        "action": "update", "type": "Issue", "organizationId": WORKSPACE,
        "data": {"id": format!("i{about}"), "number": at}, "webhookTimestamp": now,
    })
    .to_string();
    let delivery = world.wire.record.lock().events[at].id.replace("evt_", "");
    for wait in LINEAR_RETRIES {
        tokio::time::sleep(wait).await;
        let request = Request::post("https://relay.example/webhooks/linear")
            .header(LINEAR_DELIVERY, &delivery)
            .header(LINEAR_SIGNATURE, sign(SECRET, body.as_bytes()))
            .body(Body::Text(body.clone()))
            .expect("this is a request");
        let ingest = Arc::clone(&world.relay().functions.ingest);
        let running = tokio::spawn(invocation(
            async move { ingest::handle(&ingest, request).await },
        ));
        let answered = tokio::time::timeout(LINEAR_WAITS, running).await;
        let status = match answered {
            Ok(Ok(Some(Ok(answer)))) => Some(answer.status().as_u16()),
            _ => None,
        };
        world
            .wire
            .note(|| format!("{delivery} was answered {status:?}"));
        if status == Some(200) {
            world.wire.record.lock().events[at].accepted_at = Some(world.wire.clock.millis());
            return;
        }
    }
}

/// The event source mapping.
async fn deliver(world: Arc<World>) {
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
async fn probe(world: Arc<World>) {
    let every = i64::try_from(PROBE_INTERVAL.as_millis()).unwrap_or(i64::MAX);
    let ids = world.machines.iter().map(|machine| machine.worker());
    let shard = |id: String| u32::from_str_radix(id.get(id.len() - 1..)?, 16).ok();
    let mut parts: Vec<_> = ids.filter_map(shard).collect();
    parts.sort_unstable();
    parts.dedup();
    loop {
        let next = (world.wire.clock.millis() / every + 1) * every;
        world.wire.clock.until(next).await;
        for part in &parts {
            let run = ScheduledRun::new(next, *part, 16).context("this is a part");
            let health = Arc::clone(&world.relay().functions.health);
            if let Ok(run) = run {
                tokio::spawn(invocation(async move { health.run(run).await }));
            }
        }
    }
}

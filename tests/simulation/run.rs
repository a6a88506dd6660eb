//! Runs a history and checks what it led to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use tokio::task::JoinSet;

use crate::check::{check, is_bounded, unsettled};
use crate::history::{Action, AtLast, History, Step};
use crate::lambda::{deliver, probe};
use crate::linear::post;
use crate::old_faults::OldFault;
use crate::places::Places;
use crate::sites::Site;
use crate::world::World;

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
    /// From which places of the code calls and requests came before all was calm.
    pub(crate) sites: BTreeSet<Site>,
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
        Ok(Done {
            violation,
            digest: world.wire.digest(),
            sites: world.wire.sites.seen(),
        })
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

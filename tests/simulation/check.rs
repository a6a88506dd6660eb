//! What has to hold: no event is lost or overtaken, no worker occupies the queue, and at last everything is where it belongs.

use anyhow::{bail, ensure};

use crate::history::{AtLast, BatchFault, History};
use crate::places::{self, Places};
use crate::record::Posted;
use crate::world::World;

/// What holds at every moment: each event is somewhere, and none has overtaken another.
pub(crate) fn check(world: &World, all: &[Places]) -> anyhow::Result<()> {
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

/// No worker has more deliveries in backoff than it may have. A batch that Lambda processes twice can put a delivery into
/// backoff and then park it, while its message is on the queue still.
pub(crate) fn is_bounded(world: &World, history: &History) -> anyhow::Result<()> {
    let is_twice = |(_, fault): &&(u64, BatchFault)| matches!(fault, BatchFault::Twice);
    let twice = history.batches.iter().filter(is_twice).count();
    let most = history.limits.deliveries_in_backoff + twice as u64;
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
pub(crate) fn unsettled(world: &World, all: &[Places]) -> Option<String> {
    let record = world.wire.record.lock();
    for (number, (machine, places)) in world.machines.iter().zip(all).enumerate() {
        let name = machine.name();
        match machine.spec.at_last {
            AtLast::There => {
                if places.state.is_none() {
                    return Some(format!("{name} is not registered"));
                }
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
            AtLast::Absent(_) | AtLast::Rejecting(_) => {
                let is_drained = machine.spec.kind.has_address() && !machine.spec.kind.pulls();
                if is_drained
                    && !places.in_mailbox.is_empty()
                    && !places.is_drained
                    && places.state.is_some()
                {
                    return Some(format!("{name}: nobody drains its mailbox"));
                }
            }
        }
    }
    None
}

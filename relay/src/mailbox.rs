//! Pull: returns the events in a worker's mailbox.
//!
//! Invariant: exactly the acknowledged events are deleted, the oldest events come first, and an away worker becomes live
//! only when its mailbox is empty, with nothing parked in between. A paused worker gets none.

use protocol::clock::Clock;
use protocol::messages::{Mailbox, Pull, PulledEvent, WorkerState};
use protocol::problem::Code;

use crate::error::Error;
use crate::policy::{self, WhenEmpty};
use crate::table::{ParkedEvent, Table, TableError, is_mail_id};
use crate::worker::Worker;

/// The largest number of events in a response, and of ids in an `ack`.
const LIMIT: usize = 100;

/// A response holds no more events after this many bytes of bodies, because the answer of a Lambda function is limited.
const RESPONSE_BYTES: usize = 3 * 1024 * 1024;

/// How often the mailbox is read again because something was parked meanwhile.
const TRIES: u32 = 5;

fn validate(pull: &Pull) -> Result<usize, Error> {
    let limit = pull.limit.map_or(LIMIT, |l| l as usize);
    if !(1..=LIMIT).contains(&limit) {
        return Err(Error::refused(
            Code::InvalidLimit,
            format!("`limit` has to be a whole number from 1 to {LIMIT}"),
        ));
    }
    if pull.ack.len() > LIMIT {
        return Err(Error::refused(
            Code::InvalidAck,
            format!("`ack` takes at most {LIMIT} ids"),
        ));
    }
    match pull.ack.iter().position(|id| !is_mail_id(id)) {
        None => Ok(limit),
        Some(at) => Err(Error::refused(
            Code::InvalidAck,
            format!("`ack[{at}]` is not the `id` of an event from this mailbox"),
        )),
    }
}

/// Deletes the acknowledged events, then returns the oldest.
pub(crate) async fn pull(
    table: &Table,
    clock: &Clock,
    mut worker: Worker,
    pull: &Pull,
) -> Result<Mailbox, Error> {
    let limit = validate(pull)?;
    let (workspace, id) = (worker.workspace.clone(), worker.id.clone());
    if !pull.ack.is_empty() {
        table.delete_parked(&workspace, &id, &pull.ack).await?;
    }
    // What is not recorded to wait does not: an empty look is the most frequent call of all, and costs no read.
    let mut may_wait = worker.waiting || !pull.ack.is_empty();
    for _ in 0..TRIES {
        if worker.paused {
            return Ok(Mailbox {
                state: worker.state,
                withheld: worker.withheld,
                events: Vec::new(),
            });
        }
        let parked = match may_wait {
            true => (table.oldest_visible(&worker, limit, RESPONSE_BYTES, None)).await?,
            false => Some(Vec::new()),
        };
        let pulled = match parked {
            Some(parked) if parked.is_empty() => {
                let state = settle_empty(table, &worker).await?;
                state.map(|state| (state, Vec::new()))
            }
            Some(parked) => {
                let events = sign_all(table, clock, &worker, parked).await?;
                if events.is_empty() {
                    continue;
                }
                let count = events.len();
                tracing::info!(
                    worker = id,
                    workspace,
                    Pulled = count,
                    "worker {id} pulled {count} events"
                );
                Some((worker.state, events))
            }
            None => None,
        };
        if let Some((state, events)) = pulled {
            return Ok(Mailbox {
                state,
                withheld: worker.withheld,
                events,
            });
        }
        // Something was parked, or the worker was changed, since it was read.
        worker = (table.worker(&workspace, &id).await?).ok_or_else(Error::worker_token_invalid)?;
        may_wait = true;
    }
    Err(Error::worker_changed())
}

/// Records that a mailbox is empty. Returns the worker's state, or none if something was parked meanwhile.
async fn settle_empty(table: &Table, worker: &Worker) -> Result<Option<WorkerState>, TableError> {
    match policy::when_empty(worker.state, worker.waiting) {
        WhenEmpty::MarkLive => {}
        WhenEmpty::ClearWaiting => {
            table.clear_waiting(worker).await?;
            return Ok(Some(worker.state));
        }
        WhenEmpty::Nothing => return Ok(Some(worker.state)),
    }
    if !table.mark_live(worker).await? {
        return Ok(None);
    }
    tracing::info!(
        worker = worker.id,
        workspace = worker.workspace,
        "worker {} is live: it has emptied its mailbox",
        worker.id
    );
    Ok(Some(WorkerState::Live))
}

/// The events with the headers of a delivery. An event without a body can never be delivered and is set aside.
async fn sign_all(
    table: &Table,
    clock: &Clock,
    worker: &Worker,
    parked: Vec<ParkedEvent>,
) -> Result<Vec<PulledEvent>, TableError> {
    let mut events: Vec<PulledEvent> = Vec::with_capacity(parked.len());
    let mut bytes = 0;
    for parked in parked {
        let Some(body) = read_body(table, &worker.workspace, &parked).await? else {
            tracing::error!(
                event = %parked.delivery.event,
                workspace = worker.workspace,
                worker = worker.id,
                user = worker.owner(),
                "event {} cannot be pulled and is set aside: its stored body is gone",
                parked.delivery.event
            );
            table.set_aside(worker, &parked.id).await?;
            continue;
        };
        if !events.is_empty() && bytes + body.len() > RESPONSE_BYTES {
            break;
        }
        bytes += body.len();
        let headers = worker.delivery_headers(
            &parked.delivery.event,
            &parked.delivery.kind,
            parked.attempt,
            body.as_bytes(),
            clock.millis(),
        );
        events.push(PulledEvent {
            id: parked.id,
            headers: (headers.into_iter())
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            body,
        });
    }
    Ok(events)
}

async fn read_body(
    table: &Table,
    workspace: &str,
    parked: &ParkedEvent,
) -> Result<Option<String>, TableError> {
    let bytes = table.body(workspace, &parked.delivery.body).await?;
    Ok(bytes.and_then(|bytes| String::from_utf8(bytes.into()).ok()))
}

//! What the operator sees and does: workers, and where events are. `edge-relay admin` is its command line.
//!
//! It uses the same table and queues as the functions, by the same rules: what is removed, paused or sent again here is as if
//! the worker itself, `deliver` or `ingest` had done it.

mod dead_letters;

use std::collections::BTreeMap;

use aws_sdk_dynamodb::Client as DynamoDb;
use aws_sdk_sqs::Client as Sqs;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use protocol::clock::Clock;
use protocol::envelope::{self, EnvelopeError};

pub use dead_letters::{Read, Selection};

use crate::access;
use crate::config::{LONGEST_MAILBOX, Resources};
use crate::delivery::QUEUED_FOR;
use crate::event::{Event, EventId};
use crate::queue::{OutgoingEvent, Queue, QueueError};
use crate::table::{Kept, Table, TableError};
use crate::worker::{self, Worker};

/// How many mailboxes are read at the same time.
const CONCURRENT_READS: usize = 16;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// DynamoDB failed.
    #[error(transparent)]
    Table(#[from] TableError),
    /// SQS failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The body is no event of Linear.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The body is not UTF-8.
    #[error("the body has to be UTF-8")]
    NotUtf8,
    /// The event belongs to another workspace than the worker.
    #[error("the event belongs to another workspace than the worker")]
    OtherWorkspace,
    /// The worker's user may not see the event.
    #[error(
        "the worker's user could not see the event's team at the last check, or the event is meant for another application"
    )]
    NotVisible,
    /// Another call changed the worker.
    #[error("the worker was changed at the same time; try again")]
    Changed,
}

/// What became of an event for a worker, as far as the table says.
#[derive(Debug, Clone)]
pub enum Trace {
    /// The table holds it.
    Kept(Kept),
    /// It was not for the worker: why, as in `GET {worker}`.
    NotFor(&'static str),
}

/// The operator's view of a relay.
#[derive(Debug)]
pub struct Admin {
    table: Table,
    queue: Queue,
    dead_letters: Queue,
    clock: Clock,
}

impl Admin {
    /// An `Admin` over the table and the queues of a relay.
    pub fn new(dynamodb: DynamoDb, sqs: Sqs, resources: Resources, clock: Clock) -> Self {
        Self {
            table: Table::new(dynamodb, resources.table, clock.clone()),
            queue: Queue::new(sqs.clone(), resources.queue),
            dead_letters: Queue::new(sqs, resources.dead_letters),
            clock,
        }
    }

    /// The workers of a workspace, or of all.
    ///
    /// # Errors
    ///
    /// AWS failed.
    pub async fn workers(&self, workspace: Option<&str>) -> Result<Vec<Worker>, AdminError> {
        let workspaces = match workspace {
            Some(workspace) => [workspace.to_owned()].into(),
            None => self.table.workspaces().await?,
        };
        let mut found = Vec::new();
        for workspace in workspaces {
            found.extend(self.table.workers(&workspace).await?);
        }
        Ok(found)
    }

    /// The worker with this id; none if there is none.
    ///
    /// # Errors
    ///
    /// AWS failed.
    pub async fn worker(&self, id: &str) -> Result<Option<Worker>, AdminError> {
        if !worker::is_id(id) {
            return Ok(None);
        }
        Ok(self.table.find_worker(id).await?)
    }

    /// The events that wait for a worker, the oldest first, and behind them those in backoff.
    ///
    /// # Errors
    ///
    /// AWS failed.
    pub async fn kept(&self, worker: &Worker) -> Result<Vec<Kept>, AdminError> {
        Ok(self.table.kept(worker).await?)
    }

    /// What became of an event for each of these workers. None says that it was delivered, is on the queue and was not tried, or
    /// never was for this worker: the table holds nothing of these.
    ///
    /// # Errors
    ///
    /// AWS failed.
    pub async fn trace(
        &self,
        workers: &[Worker],
        event: &EventId,
    ) -> Result<Vec<Option<Trace>>, AdminError> {
        let mut routed = BTreeMap::new();
        for Worker { workspace, .. } in workers {
            if !routed.contains_key(workspace) {
                let of_event = self.table.routed_event(workspace, event).await?;
                routed.insert(workspace, of_event);
            }
        }
        let traces = stream::iter(workers).map(|worker| async {
            let mut kept = self.table.kept(worker).await?.into_iter();
            if let Some(kept) = kept.find(|kept| kept.event == event.as_str()) {
                return Ok(Some(Trace::Kept(kept)));
            }
            let routed = routed[&worker.workspace].as_ref();
            let reason = routed.and_then(|r| access::reason(r, &worker.id, &worker.subscription));
            Ok(reason.map(|reason| Trace::NotFor(reason.as_str())))
        });
        traces.buffered(CONCURRENT_READS).try_collect().await
    }

    /// Removes a worker and its mailbox.
    ///
    /// # Errors
    ///
    /// Another call changed the worker, or AWS failed.
    pub async fn remove(&self, worker: &Worker) -> Result<(), AdminError> {
        changed(self.table.remove_worker(worker).await?)
    }

    /// Pauses a worker: its events are parked, and it gets none until it is resumed.
    ///
    /// # Errors
    ///
    /// Another call changed the worker, or AWS failed.
    pub async fn pause(&self, worker: &Worker) -> Result<(), AdminError> {
        changed(self.table.pause(worker).await?)
    }

    /// Resumes a paused worker, and has its mailbox delivered if the relay does that: also for one that is not paused any
    /// more, since an earlier call may have failed half-way.
    ///
    /// # Errors
    ///
    /// Another call changed the worker, or AWS failed.
    pub async fn resume(&self, worker: &Worker) -> Result<(), AdminError> {
        let mut resumed = worker.clone();
        if worker.paused {
            resumed.away_since = self.table.resume(worker).await?;
            changed(resumed.away_since.is_some())?;
            resumed.paused = false;
        }
        if resumed.is_drained() {
            let now = self.clock.millis();
            self.queue.request_drain(&resumed, now).await?;
        }
        Ok(())
    }

    /// The body of an event, if the table or the dead-letter queue holds a copy for a worker of this workspace.
    ///
    /// # Errors
    ///
    /// AWS failed.
    pub async fn body(
        &self,
        workspace: &str,
        event: &EventId,
    ) -> Result<Option<Bytes>, AdminError> {
        let mut stored = None;
        for worker in self.table.workers(workspace).await? {
            let kept = self.table.kept(&worker).await?;
            for kept in kept.iter().filter(|kept| kept.event == event.as_str()) {
                stored = stored.or(self.table.kept_body(&worker, kept).await?);
            }
            if stored.is_some() {
                break;
            }
        }
        if stored.is_none() {
            let selection = Selection {
                event: Some(event.to_string()),
                ..Selection::default()
            };
            let read = self.read_dead_letters(&selection, usize::MAX).await?;
            self.release(&read.letters).await;
            let mut letters = read.letters.iter();
            stored = (letters.find(|letter| letter.workspace() == Some(workspace)))
                .and_then(|letter| letter.body());
        }
        match stored {
            Some(body) => Ok(self.table.body(workspace, &body).await?),
            None => Ok(None),
        }
    }

    /// Puts an event on the queue for one worker, whether the worker wants it or not. A worker that knows its id already has
    /// to handle it once all the same.
    ///
    /// # Errors
    ///
    /// The body is no event of the worker's workspace, its user may not see it, or AWS failed.
    pub async fn resend(
        &self,
        id: EventId,
        worker: &Worker,
        body: &Bytes,
    ) -> Result<(), AdminError> {
        let text = std::str::from_utf8(body).map_err(|_| AdminError::NotUtf8)?;
        let event = Event::new(id, envelope::parse(text)?, body, false, self.clock.millis());
        if event.workspace != worker.workspace {
            return Err(AdminError::OtherWorkspace);
        }
        let recipient = access::recipient(&event, &worker.id, &worker.subscription)
            .ok_or(AdminError::NotVisible)?;
        // However long mailboxes keep an event here. The body may be another mailbox's, too, and must not go earlier.
        let keep = LONGEST_MAILBOX + QUEUED_FOR;
        let body = self.table.store_body(&event, 1, keep).await?;
        let entry = OutgoingEvent::new(&event, &body).entry(&recipient, 0);
        Ok((self.queue.send_again(entry, &worker::ping_id())).await?)
    }
}

/// That a change was made.
fn changed(is_done: bool) -> Result<(), AdminError> {
    if is_done {
        Ok(())
    } else {
        Err(AdminError::Changed)
    }
}

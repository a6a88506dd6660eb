//! Hand out what waits for a worker.
//!
//! Invariant: what is acknowledged is deleted, nothing else is; the oldest come first; an away worker becomes
//! live only when its mailbox is empty, with nothing parked in between.

use protocol::messages::{Mailbox, Pull, State, Waiting};

use crate::Error;
use crate::clock::Clock;
use crate::queue::Body;
use crate::table::{Mail, Table};
use crate::worker::Worker;

/// How many events one answer holds at most, and how many an `ack` names.
pub const LIMIT: usize = 100;

/// After how many bytes of bodies an answer holds no more events: a Lambda function's answer is limited too.
const BYTES: usize = 3 * 1024 * 1024;

/// How often a worker is looked at again because something was parked meanwhile.
const TRIES: u32 = 5;

/// Checks a pull's numbers and names.
pub fn check(pull: &Pull) -> Result<(), Error> {
    let limit = pull.limit.map_or(LIMIT, |l| l as usize);
    if !(1..=LIMIT).contains(&limit) {
        return Err(Error::bad_request(
            "invalid_limit",
            format!("`limit` has to be a whole number from 1 to {LIMIT}"),
        ));
    }
    if pull.ack.len() > LIMIT {
        return Err(Error::bad_request(
            "invalid_ack",
            format!("`ack` takes at most {LIMIT} ids"),
        ));
    }
    match pull.ack.iter().position(|id| !crate::table::is_mail_id(id)) {
        None => Ok(()),
        Some(at) => Err(Error::bad_request(
            "invalid_ack",
            format!("`ack[{at}]` is not the `id` of an event from this mailbox"),
        )),
    }
}

/// Deletes what is acknowledged, then answers with the oldest that wait.
pub async fn pull(
    table: &Table,
    clock: &Clock,
    mut worker: Worker,
    pull: &Pull,
) -> Result<Mailbox, Error> {
    check(pull)?;
    let (workspace, id) = (worker.workspace.clone(), worker.id.clone());
    if !pull.ack.is_empty() {
        table.delete_mail(&workspace, &id, &pull.ack).await?;
    }
    let limit = pull.limit.map_or(LIMIT, |l| l as usize);
    for _ in 0..TRIES {
        let mail = table.mail(&workspace, &id, limit, BYTES).await?;
        if !mail.is_empty() {
            let events = signed(table, clock, &worker, mail).await?;
            if events.is_empty() {
                continue;
            }
            tracing::info!(worker = id, workspace, Pulled = events.len(), "pulled");
            return Ok(Mailbox {
                state: worker.state,
                events,
            });
        }
        if worker.state != State::Away {
            if worker.waiting {
                table.emptied(&worker).await?;
            }
            return Ok(Mailbox {
                state: worker.state,
                events: Vec::new(),
            });
        }
        if table.wake(&worker).await? {
            tracing::info!(worker = id, workspace, "live again");
            return Ok(Mailbox {
                state: State::Live,
                events: Vec::new(),
            });
        }
        // Something was parked since the worker was read.
        worker =
            (table.worker(&workspace, &id).await?).ok_or_else(crate::register::token_invalid)?;
    }
    Err(crate::register::busy())
}

/// What a delivery of each would carry; an event whose body is gone can never be handed out, and goes.
async fn signed(
    table: &Table,
    clock: &Clock,
    worker: &Worker,
    mail: Vec<Mail>,
) -> Result<Vec<Waiting>, Error> {
    let mut events: Vec<Waiting> = Vec::with_capacity(mail.len());
    let mut together = 0;
    for mail in mail {
        let Some(body) = body(table, &worker.workspace, &mail).await? else {
            tracing::error!(event = %mail.event, worker = worker.id, "the stored body is gone");
            table
                .delete_mail(&worker.workspace, &worker.id, &[mail.id])
                .await?;
            continue;
        };
        if !events.is_empty() && together + body.len() > BYTES {
            break;
        }
        together += body.len();
        let now = clock.millis();
        let headers =
            worker.delivery_headers(&mail.event, &mail.kind, mail.attempt, body.as_bytes(), now);
        events.push(Waiting {
            id: mail.id,
            headers: (headers.into_iter())
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            body,
        });
    }
    Ok(events)
}

async fn body(table: &Table, workspace: &str, mail: &Mail) -> Result<Option<String>, Error> {
    let bytes = match &mail.body {
        Body::Inline(bytes) => Some(bytes.clone()),
        Body::Stored(digest) => table.body(workspace, digest).await?,
    };
    Ok(bytes.and_then(|bytes| String::from_utf8(bytes.into()).ok()))
}

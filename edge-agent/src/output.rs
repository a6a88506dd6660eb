//! Events as lines of JSON on stdout, in the order in which they were stored: what is done where no handler is named.
//!
//! The body is a JSON string, so that it is the raw body byte for byte, line breaks and all.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::Context as _;
use protocol::clock::rfc3339;
use protocol::headers::EDGE_ATTEMPT;
use serde::Serialize;
use tokio::sync::watch;

use crate::receiver::Shared;
use crate::store::{Event, Headers};

/// How many events are marked as printed together.
const BATCH: u32 = 100;
/// How often another process is asked after: `replay` writes into the store.
const OTHERS_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    action: &'a str,
    workspace: &'a str,
    received_at: String,
    attempt: u64,
    headers: BTreeMap<&'a str, String>,
    body: &'a str,
}

/// Prints what was not printed, then whatever is stored; ends with an error, or between two batches once `stop`
/// says so: what was printed is marked as such.
pub(crate) async fn run(shared: &Shared, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let mut after = 0;
    while !*stop.borrow() {
        let printed = match print(shared, &mut after).await {
            Ok(printed) => printed,
            Err(Trouble::Stdout(error)) => return Err(error),
            Err(Trouble::Store(error)) => {
                shared.note_store(Err(&error));
                after = 0;
                false
            }
        };
        if !printed {
            tokio::select! {
                () = shared.stored.notified() => {}
                _ = stop.changed() => {}
                () = tokio::time::sleep(OTHERS_EVERY) => {
                    if shared.store.changed_by_another().await.unwrap_or(true) {
                        after = 0;
                    }
                }
            }
        }
    }
    Ok(())
}

/// What keeps events from being printed: nobody takes them, which is the end, or they cannot be read, which passes.
enum Trouble {
    Stdout(anyhow::Error),
    Store(anyhow::Error),
}

/// Prints the next events after `after`; answers whether there were any.
async fn print(shared: &Shared, after: &mut i64) -> Result<bool, Trouble> {
    let waiting = (shared.store.waiting(*after, BATCH).await).map_err(Trouble::Store)?;
    if waiting.is_empty() {
        return Ok(false);
    }
    let mut lines = Vec::new();
    let mut printed = Vec::new();
    for waiting in waiting {
        let loaded = (shared.store.load(waiting.sequence).await).map_err(Trouble::Store)?;
        if let Some((event, _)) = loaded {
            write(&mut lines, &event).map_err(Trouble::Stdout)?;
            printed.push(waiting.sequence);
        }
        *after = waiting.sequence;
    }
    let written = tokio::task::spawn_blocking(move || {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&lines)?;
        stdout.flush()
    });
    (written.await.map_err(anyhow::Error::from))
        .and_then(|written| written.context("cannot write to stdout"))
        .map_err(Trouble::Stdout)?;
    let now = shared.clock.millis();
    while let Err(error) = shared.store.printed(printed.clone(), now).await {
        // Printed is printed, and must not be printed again.
        shared.note_store(Err(&error));
        tokio::time::sleep(OTHERS_EVERY).await;
    }
    Ok(true)
}

/// Writes an event as one line.
fn write(lines: &mut Vec<u8>, event: &Event) -> anyhow::Result<()> {
    let line = Line {
        id: &event.id,
        kind: &event.kind,
        action: &event.action,
        workspace: &event.workspace,
        received_at: rfc3339(event.received_at),
        attempt: (event.headers.get(EDGE_ATTEMPT))
            .and_then(|attempt| attempt.parse().ok())
            .unwrap_or(1),
        headers: joined(&event.headers),
        // The relay takes UTF-8 only.
        body: std::str::from_utf8(&event.body).context("a stored body is not UTF-8")?,
    };
    serde_json::to_writer(&mut *lines, &line)?;
    lines.push(b'\n');
    Ok(())
}

/// Several values of one name as one list (RFC 9110, section 5.3).
fn joined(headers: &Headers) -> BTreeMap<&str, String> {
    let mut joined: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in &headers.0 {
        let value = String::from_utf8_lossy(value);
        joined
            .entry(name)
            .and_modify(|values| {
                values.push_str(", ");
                values.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    joined
}

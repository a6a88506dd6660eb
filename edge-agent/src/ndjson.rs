//! Prints events as lines of JSON on stdout, in the order in which they were stored, if there is no handler.
//!
//! The body is a JSON string, so that it is the raw body byte for byte, line breaks and all.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::Context as _;
use protocol::clock::rfc3339;
use protocol::headers::EDGE_ATTEMPT;
use serde::Serialize;

use crate::state::AgentState;
use crate::store::{Event, Headers};

/// How many events are printed and marked as printed at once.
const BATCH: u32 = 100;
/// How often the store is checked for writes of another process, which `replay` makes.
const OTHER_WRITERS_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventLine<'a> {
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

/// Prints the events that were not printed before, then each that is stored. Ends with an error, or between two batches on
/// the shutdown, so that what was printed is marked as printed.
pub(crate) async fn run(state: &AgentState) -> anyhow::Result<()> {
    let mut after = 0;
    while !state.shutdown.is_cancelled() {
        let printed = match print(state, &mut after).await {
            Ok(printed) => printed,
            Err(PrintError::Stdout(error)) => return Err(error),
            Err(PrintError::Store(error)) => {
                state.record_store_result(Err(&error));
                after = 0;
                false
            }
        };
        if !printed {
            tokio::select! {
                () = state.stored.notified() => {}
                () = state.shutdown.cancelled() => {}
                () = tokio::time::sleep(OTHER_WRITERS_INTERVAL) => {
                    if state.store.changed_by_another().await.unwrap_or(true) {
                        after = 0;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Why events cannot be printed: stdout is closed, which is the end, or they cannot be read, which may pass.
enum PrintError {
    Stdout(anyhow::Error),
    Store(anyhow::Error),
}

/// Prints the next events after `after`. Returns whether there were any.
async fn print(state: &AgentState, after: &mut i64) -> Result<bool, PrintError> {
    let waiting = (state.store.waiting(*after, BATCH).await).map_err(PrintError::Store)?;
    if waiting.is_empty() {
        return Ok(false);
    }
    let mut lines = Vec::new();
    let mut printed = Vec::new();
    for waiting in waiting {
        let loaded = (state.store.load(waiting.sequence).await).map_err(PrintError::Store)?;
        if let Some((event, _)) = loaded {
            write(&mut lines, &event).map_err(PrintError::Stdout)?;
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
        .map_err(PrintError::Stdout)?;
    let now = state.clock.millis();
    // An event that is printed must not be printed again.
    (state.write_until_stored(|| state.store.mark_printed(printed.clone(), now))).await;
    Ok(true)
}

/// Writes an event as one line.
fn write(lines: &mut Vec<u8>, event: &Event) -> anyhow::Result<()> {
    let line = EventLine {
        id: &event.id,
        kind: &event.kind,
        action: &event.action,
        workspace: &event.workspace,
        received_at: rfc3339(event.received_at),
        attempt: (event.headers.get(EDGE_ATTEMPT))
            .and_then(|attempt| attempt.parse().ok())
            .unwrap_or(1),
        headers: joined(&event.headers),
        // The relay accepts only UTF-8.
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

//! Events as lines of JSON on stdout, in the order in which they were stored.
//!
//! The body is a JSON string, so that it is the raw body byte for byte, line breaks and all.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::Context as _;
use serde::Serialize;
use tokio::sync::watch;

use crate::receiver::Shared;
use crate::store::Event;
use crate::talk::{now, rfc3339};

const BATCH: u32 = 100;

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
    headers: &'a BTreeMap<String, String>,
    body: &'a str,
}

/// Prints what was not printed, then whatever is stored; ends with an error, or between two batches once `stop`
/// says so: what was printed is marked as such.
pub(crate) async fn run(shared: &Shared, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    loop {
        if *stop.borrow() {
            return Ok(());
        }
        let events = shared.store.unhandled(BATCH).await?;
        let Some((last, _)) = events.last() else {
            tokio::select! {
                () = shared.stored.notified() => {}
                _ = stop.changed() => {}
            }
            continue;
        };
        let last = *last;
        let mut lines = Vec::new();
        for (_, event) in &events {
            write(&mut lines, event)?;
        }
        tokio::task::spawn_blocking(move || {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&lines)?;
            stdout.flush()
        })
        .await?
        .context("cannot write to stdout")?;
        shared.store.handled(last, now()).await?;
    }
}

fn write(lines: &mut Vec<u8>, event: &Event) -> anyhow::Result<()> {
    let line = Line {
        id: &event.id,
        kind: &event.kind,
        action: &event.action,
        workspace: &event.workspace,
        received_at: rfc3339(event.received_at),
        attempt: event.attempt,
        headers: &event.headers,
        // The relay takes UTF-8 only.
        body: std::str::from_utf8(&event.body).context("a stored body is not UTF-8")?,
    };
    serde_json::to_writer(&mut *lines, &line)?;
    lines.push(b'\n');
    Ok(())
}

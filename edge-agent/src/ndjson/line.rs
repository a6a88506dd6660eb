//! An event as a line of JSON.

use std::collections::BTreeMap;

use anyhow::Context as _;
use protocol::clock::rfc3339;
use protocol::headers::EDGE_ATTEMPT;
use serde::Serialize;

use crate::store::{Event, Headers};

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

/// Writes an event as one line.
pub(super) fn write(lines: &mut Vec<u8>, event: &Event) -> anyhow::Result<()> {
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

//! `events`: shows what was received, and what became of it.

use std::time::Duration;

use clap::Args;
use protocol::clock::{UnixMillis, millis, rfc3339};
use serde::Serialize;

use super::{print, print_json};
use crate::config::Span;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::short;
use crate::printable::printable;
use crate::store::{Attempt, Event, Filter, Listed, State, Store, name};

/// How often `--follow` looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How many events are listed unless more are asked for.
const LIMIT: u32 = 50;

/// The arguments.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// One event, by its id or the beginning of it, with its attempts and what was answered
    #[arg(conflicts_with_all = ["failed", "since", "types", "follow", "limit"])]
    id: Option<String>,
    /// Only those that failed for good
    #[arg(long)]
    failed: bool,
    /// Only those received within this time: `10m`, `1h`, `7d`
    #[arg(long, value_name = "TIME")]
    since: Option<Span>,
    /// Only those of a type: `Issue`, `Comment.create`
    #[arg(long = "type", value_name = "GLOB", value_parser = pattern)]
    types: Option<String>,
    /// Go on with those that come
    #[arg(short, long)]
    follow: bool,
    /// The newest so many [default: 50; with --since, all]
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<u32>,
    /// Print the body, byte for byte, and nothing else; of several events, a line feed follows each
    #[arg(long)]
    body: bool,
}

/// Parses a pattern over types.
pub(crate) fn pattern(text: &str) -> Result<String, String> {
    if protocol::capability::is_pattern(text) {
        return Ok(text.to_owned());
    }
    Err(format!("use {}", protocol::capability::EXAMPLES))
}

/// The beginning of a time span that ends now.
pub(crate) fn since(context: &Context, span: Option<Span>) -> Option<UnixMillis> {
    let span = millis(span?.0);
    Some(context.clock.millis().saturating_sub(span))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventFacts<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    action: &'a str,
    workspace: &'a str,
    received_at: String,
    state: State,
    attempts: u64,
    /// When it is tried again, while it waits for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<String>,
    result: Option<&'a str>,
    size: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AttemptFacts<'a> {
    at: String,
    milliseconds: i64,
    handler: &'a str,
    outcome: &'a str,
    result: &'a str,
    answer: String,
}

#[derive(Serialize)]
struct Detail<'a> {
    #[serde(flatten)]
    facts: EventFacts<'a>,
    headers: Vec<(&'a str, String)>,
    tries: Vec<AttemptFacts<'a>>,
}

fn facts(event: &Listed) -> EventFacts<'_> {
    EventFacts {
        id: &event.id,
        kind: &event.kind,
        action: &event.action,
        workspace: &event.workspace,
        received_at: rfc3339(event.received_at),
        state: event.state,
        attempts: event.attempts,
        due_at: (event.state == State::Waiting && event.due_at > 0).then(|| rfc3339(event.due_at)),
        result: event.result.as_deref(),
        size: event.size,
    }
}

pub(crate) async fn run(context: &Context, arguments: Events) -> Result<(), Failure> {
    let store = context.store()?;
    if let Some(id) = arguments.id {
        return one(context, &store, id, arguments.body).await;
    }
    let limit = match (arguments.limit, arguments.since) {
        (None, None) => Some(LIMIT),
        (limit, _) => limit,
    };
    let filter = Filter {
        only_failed: arguments.failed,
        since: since(context, arguments.since),
        pattern: arguments.types,
        limit,
        ..Filter::default()
    };
    let found = store.list(filter.clone()).await?;
    if found.is_empty() && !arguments.follow {
        return Err(Failure::Unhealthy("no event matches".to_owned()));
    }
    let mut last = found.last().map_or(0, |event| event.sequence);
    show(context, &store, &found, arguments.body).await?;
    if !arguments.follow {
        return Ok(());
    }
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let newer = Filter {
            after: Some(last),
            limit: None,
            ..filter.clone()
        };
        let found = store.list(newer).await?;
        last = found.last().map_or(last, |event| event.sequence);
        show(context, &store, &found, arguments.body).await?;
    }
}

async fn show(
    context: &Context,
    store: &Store,
    events: &[Listed],
    bodies: bool,
) -> Result<(), Failure> {
    for event in events {
        if bodies {
            if let Some(event) = store.content(event.sequence).await? {
                print(&[&event.body[..], b"\n"].concat())?;
            }
        } else if context.json {
            print_json(&facts(event))?;
        } else {
            print(line(event).as_bytes())?;
        }
    }
    Ok(())
}

fn line(event: &Listed) -> String {
    let named = name(&event.kind, &event.action);
    let result = match (event.state, &event.result) {
        (State::Waiting, Some(result)) => {
            format!("{result}, again at {}", rfc3339(event.due_at))
        }
        (_, Some(result)) => result.clone(),
        (_, None) => String::new(),
    };
    let line = format!(
        "{:<24}  {}  {named:<32}  {:<7}  {result}",
        rfc3339(event.received_at),
        short(&event.id),
        event.state.as_str()
    );
    format!("{}\n", printable(line.trim_end()))
}

/// The one event whose id is this or begins with it.
pub(crate) async fn find(store: &Store, id: &str) -> Result<Listed, Failure> {
    let filter = Filter {
        id: Some(id.to_owned()),
        ..Filter::default()
    };
    let mut found = store.list(filter).await?;
    if let Some(at) = found.iter().position(|event| event.id == id) {
        return Ok(found.swap_remove(at));
    }
    match found.len() {
        0 => Err(Failure::Unhealthy(format!("there is no event `{id}` here"))),
        1 => Ok(found.remove(0)),
        count => Err(Failure::Configuration(format!(
            "the ids of {count} events begin with `{id}`: `{}`, `{}`, …",
            found[0].id, found[1].id
        ))),
    }
}

async fn one(context: &Context, store: &Store, id: String, body: bool) -> Result<(), Failure> {
    let event = &find(store, &id).await?;
    let Some(content) = store.content(event.sequence).await? else {
        return Err(Failure::Unhealthy(format!("there is no event `{id}` here")));
    };
    if body {
        return print(&content.body);
    }
    let attempts = store.attempts(event.sequence).await?;
    if context.json {
        return print_json(&Detail {
            facts: facts(event),
            headers: (content.headers.0.iter())
                .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value).into_owned()))
                .collect(),
            tries: attempts.iter().map(attempt_facts).collect(),
        });
    }
    print(&text(event, &content, &attempts))
}

fn attempt_facts(attempt: &Attempt) -> AttemptFacts<'_> {
    AttemptFacts {
        at: rfc3339(attempt.at),
        milliseconds: attempt.took_ms,
        handler: &attempt.handler,
        outcome: &attempt.outcome,
        result: &attempt.result,
        answer: String::from_utf8_lossy(&attempt.answer).into_owned(),
    }
}

fn text(event: &Listed, content: &Event, attempts: &[Attempt]) -> Vec<u8> {
    let mut text = line(event);
    text.push_str(&format!("  id: {}\n", event.id));
    for (name, value) in &content.headers.0 {
        let value = printable(&String::from_utf8_lossy(value));
        text.push_str(&format!("  {name}: {value}\n"));
    }
    text.push_str(&format!("  {} bytes (--body prints them)\n", event.size));
    for attempt in attempts {
        let at = rfc3339(attempt.at);
        let result = printable(&attempt.result);
        text.push_str(&format!(
            "{at:<24}  {} {result} in {} ms: {}\n",
            attempt.handler, attempt.took_ms, attempt.outcome
        ));
        for line in String::from_utf8_lossy(&attempt.answer).lines() {
            text.push_str(&format!("  | {}\n", printable(line)));
        }
    }
    text.into_bytes()
}

//! `events`: shows what was received, and what became of it.

use std::time::Duration;

use clap::Args;
use protocol::clock::{UnixMillis, millis};

use super::source::Source;
use super::{print, print_json};
use crate::config::Span;
use crate::context::Context;
use crate::facts::{Detail, EventFacts};
use crate::failure::Failure;
use crate::output::short;
use crate::printable::printable;
use crate::store::{Filter, State, name};

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

pub(crate) async fn run(context: &Context, arguments: Events) -> Result<(), Failure> {
    let source = Source::open(context)?;
    if let Some(id) = arguments.id {
        return one(context, &source, id, arguments.body).await;
    }
    let limit = match (arguments.limit, arguments.since) {
        (None, None) => Some(LIMIT),
        (limit, _) => limit,
    };
    let filter = Filter {
        state: arguments.failed.then_some(State::Failed),
        since: since(context, arguments.since),
        pattern: arguments.types,
        limit,
        ..Filter::default()
    };
    let found = source.list(&filter).await?;
    if found.is_empty() && !arguments.follow {
        return Err(Failure::Unhealthy("no event matches".to_owned()));
    }
    let mut last = found.last().map_or(0, |event| event.sequence);
    show(context, &source, &found, arguments.body).await?;
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
        let found = source.list(&newer).await?;
        last = found.last().map_or(last, |event| event.sequence);
        show(context, &source, &found, arguments.body).await?;
    }
}

async fn show(
    context: &Context,
    source: &Source,
    events: &[EventFacts],
    bodies: bool,
) -> Result<(), Failure> {
    for event in events {
        if bodies {
            if let Some(body) = source.body(event).await? {
                print(&[&body[..], b"\n"].concat())?;
            }
        } else if context.json {
            print_json(event)?;
        } else {
            print(line(event).as_bytes())?;
        }
    }
    Ok(())
}

fn line(event: &EventFacts) -> String {
    let named = name(&event.kind, &event.action);
    let result = match (&event.due_at, &event.result) {
        (Some(due_at), Some(result)) => format!("{result}, again at {due_at}"),
        (_, Some(result)) => result.clone(),
        (_, None) => String::new(),
    };
    let line = format!(
        "{:<24}  {}  {named:<32}  {:<7}  {result}",
        event.received_at,
        short(&event.id),
        event.state.as_str()
    );
    format!("{}\n", printable(line.trim_end()))
}

/// The one event whose id is this or begins with it.
pub(crate) async fn find(source: &Source, id: &str) -> Result<EventFacts, Failure> {
    let filter = Filter {
        id: Some(id.to_owned()),
        ..Filter::default()
    };
    let mut found = source.list(&filter).await?;
    if let Some(at) = found.iter().position(|event| event.id == id) {
        return Ok(found.swap_remove(at));
    }
    match found.len() {
        0 => Err(none(id)),
        1 => Ok(found.remove(0)),
        count => Err(Failure::Configuration(format!(
            "the ids of {count} events begin with `{id}`: `{}`, `{}`, …",
            found[0].id, found[1].id
        ))),
    }
}

fn none(id: &str) -> Failure {
    Failure::Unhealthy(format!("there is no event `{id}` here"))
}

async fn one(context: &Context, source: &Source, id: String, body: bool) -> Result<(), Failure> {
    let event = find(source, &id).await?;
    if body {
        let body = source.body(&event).await?;
        return print(&body.ok_or_else(|| none(&id))?);
    }
    let detail = source.detail(&event).await?.ok_or_else(|| none(&id))?;
    if context.json {
        return print_json(&detail);
    }
    print(text(&detail).as_bytes())
}

fn text(detail: &Detail) -> String {
    let event = &detail.facts;
    let mut text = line(event);
    text.push_str(&format!("  id: {}\n", event.id));
    for (name, value) in &detail.headers {
        text.push_str(&format!("  {}: {}\n", printable(name), printable(value)));
    }
    text.push_str(&format!("  {} bytes (--body prints them)\n", event.size));
    for attempt in &detail.tries {
        let result = printable(&attempt.result);
        text.push_str(&format!(
            "{:<24}  {} {result} in {} ms: {}\n",
            attempt.at, attempt.handler, attempt.milliseconds, attempt.outcome
        ));
        for line in attempt.answer.lines() {
            text.push_str(&format!("  | {}\n", printable(line)));
        }
    }
    text
}

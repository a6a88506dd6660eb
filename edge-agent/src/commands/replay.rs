//! `replay`: has events handled again by the agent, or with `--to` POSTs them to another target.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::events::{find, since};
use super::source::Source;
use super::{print, print_json};
use crate::config::{Action, Headers, Span};
use crate::context::Context;
use crate::facts::EventFacts;
use crate::failure::Failure;
use crate::handler::{Attempting, Clients, Outcome};
use crate::output::{hint, info};
use crate::printable::printable;
use crate::store::{Content, Filter, State, name};
use crate::target::Target;

/// How long a target may take.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// The arguments.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).multiple(true).args(["ids", "failed", "since"])))]
pub(crate) struct Replay {
    /// These events, by their ids or the beginnings of them
    #[arg(value_name = "ID", conflicts_with_all = ["failed", "since"])]
    ids: Vec<String>,
    /// Those that failed for good
    #[arg(long)]
    failed: bool,
    /// Those received within this time: `10m`, `1h`, `7d`
    #[arg(long, value_name = "TIME")]
    since: Option<Span>,
    /// Not the events whose ids this file has, one a line; `-` reads stdin
    #[arg(long, value_name = "FILE")]
    skip: Option<PathBuf>,
    /// POST them there now, in order, instead of handing them to the agent
    #[arg(long, value_name = "TARGET")]
    to: Option<Target>,
    /// Only say which
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReplayFacts<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    action: &'a str,
    /// What the target answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a str>,
}

pub(crate) async fn run(context: &Context, arguments: Replay) -> Result<(), Failure> {
    let source = Source::open(context)?;
    let mut events = Vec::new();
    for id in &arguments.ids {
        events.push(find(&source, id).await.map_err(|failure| match failure {
            Failure::Unhealthy(why) => Failure::Unhealthy(format!("{why}: nothing was replayed")),
            failure => failure,
        })?);
    }
    if events.is_empty() {
        let filter = Filter {
            state: arguments.failed.then_some(State::Failed),
            since: since(context, arguments.since),
            ..Filter::default()
        };
        events = source.list(&filter).await?;
    }
    if let Some(skip) = &arguments.skip {
        let skipped = read_ids(skip)?;
        events.retain(|event| !skipped.contains(&event.id));
    }
    if events.is_empty() {
        return Err(Failure::Unhealthy("no event matches".to_owned()));
    }
    match arguments.to {
        _ if arguments.dry_run => {
            for event in &events {
                show(context, event, None)?;
            }
            hint(format_args!("{} would be replayed", events.len()));
            Ok(())
        }
        Some(target) => post(context, &events, target).await,
        None => {
            replay(context, &source, &events).await?;
            for event in &events {
                show(context, event, None)?;
            }
            if context.directory.is_in_use() {
                info(format_args!("{} handed to the agent", events.len()));
            } else {
                hint("edge-agent is not running: they are handled once it is up");
            }
            Ok(())
        }
    }
}

fn read_ids(file: &Path) -> Result<HashSet<String>, Failure> {
    let read = if file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    let text = read.map_err(|error| {
        Failure::Configuration(format!("cannot read `{}`: {error}", file.display()))
    })?;
    Ok(text.lines().map(|line| line.trim().to_owned()).collect())
}

/// Has the agent handle events again, now or at its next start.
async fn replay(context: &Context, source: &Source, events: &[EventFacts]) -> Result<(), Failure> {
    if let Source::Agent(agent) = source {
        return agent.replay(events).await;
    }
    let sequences = events.iter().map(|event| event.sequence).collect();
    context.store_to_write()?.replay(sequences).await?;
    Ok(())
}

/// POSTs one event after another. A failure does not stop the others.
async fn post(context: &Context, events: &[EventFacts], target: Target) -> Result<(), Failure> {
    // The headers are needed byte for byte, which no JSON has.
    let store = context.store()?;
    let clients = Clients::default();
    let secret = context.settings.linear_secret()?;
    let action = Action::Http(target);
    let never = CancellationToken::new();
    let mut failed = 0;
    for listed in events {
        let Some(Content { event, .. }) = store.content(listed.sequence).await? else {
            continue;
        };
        let attempting = Attempting {
            clients: &clients,
            insecure: context.settings.insecure == Some(true),
            secret: secret.as_ref(),
            headers: &Headers::default(),
            attempt: 1,
            time_limit: TIME_LIMIT,
            stamp: context.clock.millis(),
            running: None,
            program: Path::new(""),
            shutdown: &never,
        };
        let answer = action.handle(&event, &attempting).await;
        if !matches!(answer.outcome, Outcome::Done | Outcome::Dropped) {
            failed += 1;
        }
        show(context, listed, Some(&answer.result))?;
    }
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::Failed(anyhow::anyhow!(
        "{failed} of {} were not taken by {action}",
        events.len()
    )))
}

fn show(context: &Context, event: &EventFacts, result: Option<&str>) -> Result<(), Failure> {
    if context.json {
        return print_json(&ReplayFacts {
            id: &event.id,
            kind: &event.kind,
            action: &event.action,
            result,
        });
    }
    let named = name(&event.kind, &event.action);
    let line = format!("{}  {named:<32}  {}", event.id, result.unwrap_or_default());
    print(format!("{}\n", printable(line.trim_end())).as_bytes())
}

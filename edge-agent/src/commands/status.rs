//! `status`: shows whether the agent runs, is registered and reachable, and what waits.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::clock::rfc3339;
use protocol::messages::Worker;
use serde::Serialize;

use super::{print, print_json};
use crate::context::Context;
use crate::failure::Failure;
use crate::membership::NEEDS_TOKEN;
use crate::printable::printable;
use crate::relay::Relay;
use crate::report::{self, Status};
use crate::store::{Counts, Store};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusFacts {
    running: bool,
    healthy: bool,
    #[serde(flatten)]
    status: Option<Status>,
    /// What the relay calls the worker.
    worker_id: Option<String>,
    /// Which types of events it is registered for; none: all, or the relay cannot be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    types: Option<Vec<String>>,
    events: Counts,
    /// When the last event was received, RFC 3339.
    last_event: Option<String>,
    /// How many events of the last day were not for this worker, by reason.
    not_delivered: BTreeMap<String, u64>,
    /// How many are withheld until the membership is checked.
    withheld: u64,
}

/// How long the relay may take to answer.
const TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let running = context.directory.is_in_use();
    let status = report::read(&context.directory.report()).filter(|_| running);
    let (events, last_event) = match context.store() {
        Ok(store) => store.counts().await?,
        Err(Failure::Unhealthy(_)) => (Counts::default(), None),
        Err(failure) => return Err(failure),
    };
    let failing = match (&status, context.store()) {
        (Some(status), Ok(store)) => failing(status, &store).await?,
        _ => None,
    };
    let unhealthy = unhealthy(status.as_ref()).or(failing);
    let worker = worker(context).await;
    let facts = StatusFacts {
        running,
        healthy: unhealthy.is_none(),
        status,
        worker_id: context.registration().ok().map(|r| r.id().to_owned()),
        types: worker
            .as_ref()
            .and_then(|worker| worker.capabilities.clone()),
        events,
        last_event: last_event.map(rfc3339),
        withheld: worker.as_ref().map_or(0, |worker| worker.withheld),
        not_delivered: worker
            .map(|worker| worker.not_delivered)
            .unwrap_or_default(),
    };
    if context.json {
        print_json(&facts)?;
    } else {
        let text = text(&facts);
        let lines = text.lines().map(|line| printable(line) + "\n");
        print(lines.collect::<String>().as_bytes())?;
    }
    unhealthy.map_or(Ok(()), |why| Err(Failure::Unhealthy(why)))
}

/// The worker as the relay knows it; none if it cannot be asked, which the running agent reports.
async fn worker(context: &Context) -> Option<Worker> {
    let registration = context.registration().ok()?;
    let relay = Relay::new(registration.relay.parse().ok()?).ok()?;
    let read = tokio::time::timeout(TIMEOUT, relay.read(&registration)).await;
    read.ok()?.ok()
}

/// A handler of the running agent whose last attempt failed, and how.
pub(super) async fn failing(status: &Status, store: &Store) -> anyhow::Result<Option<String>> {
    let last = store.last_attempts().await?;
    let failed = last.into_iter().find(|(handler, outcome, _)| {
        let is_configured = status
            .handlers
            .iter()
            .any(|known| known.handler == *handler);
        is_configured && matches!(outcome.as_str(), "retry" | "failed")
    });
    Ok(failed.map(|(handler, _, result)| format!("{handler} failed at its last event: {result}")))
}

/// Why events are not handled, if they are not.
fn unhealthy(status: Option<&Status>) -> Option<String> {
    let Some(status) = status else {
        return Some("edge-agent is not running: start it with `edge-agent up`".to_owned());
    };
    if let Some(problem) = &status.problem {
        return Some(problem.clone());
    }
    if status.clock_ahead_s != 0 {
        return Some(status.clock());
    }
    if let Some(refused) = &status.refused {
        return Some(format!("a delivery was refused at {refused}"));
    }
    if status.state.is_none() {
        return Some("it is not registered yet".to_owned());
    }
    (status.handlers.iter())
        .find(|handler| handler.is_there == Some(false))
        .map(|handler| {
            let why = handler.why.as_deref().unwrap_or_default();
            format!(
                "{} is not there: {why}; events wait for it",
                handler.handler
            )
        })
}

/// A line of what is shown.
fn line(text: &mut String, name: &str, value: &str) {
    text.push_str(&format!("{name:<10} {value}\n"));
}

fn text(facts: &StatusFacts) -> String {
    let mut text = String::new();
    match &facts.status {
        None => line(&mut text, "agent", "not running"),
        Some(status) => text.push_str(&running(status)),
    }
    if let Some(id) = &facts.worker_id {
        line(&mut text, "id", id);
    }
    if let Some(types) = &facts.types {
        line(&mut text, "types", &types.join(", "));
    }
    let Counts {
        waiting,
        done,
        dropped,
        failed,
    } = facts.events;
    line(
        &mut text,
        "events",
        &format!("{waiting} waiting, {done} done, {dropped} dropped, {failed} failed"),
    );
    if let Some(last) = &facts.last_event {
        line(&mut text, "last", last);
    }
    text.push_str(&not_delivered(facts));
    text
}

/// What the running agent reports.
fn running(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| line(&mut text, name, value);

    line(
        "agent",
        &format!(
            "running as process {} since {}, listening on {}",
            status.pid, status.started_at, status.listen
        ),
    );
    let workspace = status.workspace.as_deref().unwrap_or("-");
    let state = status.state.as_deref().unwrap_or("not registered");
    line(
        "worker",
        &format!("{} in workspace {workspace}: {state}", status.name),
    );
    let renewed = status.renewed_at.as_deref().unwrap_or("never");
    line(
        "relay",
        &format!("{}, last answered {renewed}", status.relay),
    );
    if status.clock_ahead_s != 0 {
        line("clock", &status.clock());
    }
    if let Some(refused) = &status.refused {
        line("refused", refused);
    }
    if let Some(due_at) = &status.membership_due_at {
        line("member", &format!("until {due_at}: {NEEDS_TOKEN}"));
    }
    if let Some(address) = &status.address {
        let tunnel = status.tunnel.as_deref().unwrap_or("your own");
        line("address", &format!("{address} ({tunnel})"));
    } else if let Some(tunnel) = &status.tunnel {
        line("address", &format!("none yet ({tunnel}): pulling"));
    } else {
        line("address", &format!("none: it asks every {}", status.poll));
    }
    for handler in &status.handlers {
        let is_there = match (handler.is_there, &handler.why) {
            (Some(true), _) => "there",
            (Some(false), why) => &format!("not there: {}", why.as_deref().unwrap_or("")),
            (None, _) => "not looked for yet",
        };
        line("handler", &format!("{}: {is_there}", handler.handler));
    }
    text
}

/// What the relay did not deliver, and why.
fn not_delivered(facts: &StatusFacts) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| line(&mut text, name, value);
    let reasons: Vec<_> = (facts.not_delivered.iter())
        .map(|(reason, count)| format!("{count} {}", reason))
        .collect();
    if !reasons.is_empty() {
        line(
            "not for it",
            &format!("{} in the last day", reasons.join(", ")),
        );
    }
    if facts.withheld > 0 {
        let count = facts.withheld;
        line(
            "withheld",
            &format!("{count} until the Linear token is shown again"),
        );
    }
    text
}

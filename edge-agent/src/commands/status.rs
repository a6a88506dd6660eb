//! `status`: shows whether the agent runs, is registered and reachable, and what waits.

use std::time::Duration;

use protocol::clock::rfc3339;
use protocol::messages::Worker;

use super::source::RunningAgent;
use super::{print, print_json};
use crate::context::Context;
use crate::facts::{AtRelay, StatusFacts};
use crate::failure::Failure;
use crate::health::why_unhealthy;
use crate::membership::NEEDS_TOKEN;
use crate::printable::printable;
use crate::relay::Relay;
use crate::report::{self, Status};
use crate::store::Counts;

/// How long the relay may take to answer.
const TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let facts = match RunningAgent::find(context)? {
        Some(agent) => agent.status().await?,
        None => facts(context).await?,
    };
    show(context, &facts)?;
    facts.why.map_or(Ok(()), |why| Err(Failure::Unhealthy(why)))
}

/// What is known without asking the agent: it does not run, or has no inspector.
async fn facts(context: &Context) -> Result<StatusFacts, Failure> {
    let running = context.directory.is_in_use();
    let status = report::read(&context.directory.report()).filter(|_| running);
    let store = match context.store() {
        Ok(store) => Some(store),
        Err(Failure::Unhealthy(_)) => None,
        Err(failure) => return Err(failure),
    };
    let (events, last_event) = match &store {
        Some(store) => store.counts().await?,
        None => (Counts::default(), None),
    };
    let why = why_unhealthy(status.as_ref(), store.as_ref()).await?;
    Ok(StatusFacts {
        running,
        healthy: why.is_none(),
        why,
        status,
        worker_id: context.registration().ok().map(|r| r.id().to_owned()),
        events,
        last_event: last_event.map(rfc3339),
        at_relay: worker(context).await.map(AtRelay::from),
    })
}

fn show(context: &Context, facts: &StatusFacts) -> Result<(), Failure> {
    if context.json {
        return print_json(facts);
    }
    let text = text(facts);
    let lines = text.lines().map(|line| printable(line) + "\n");
    print(lines.collect::<String>().as_bytes())
}

/// The worker as the relay knows it; none if it cannot be asked, which the running agent reports.
async fn worker(context: &Context) -> Option<Worker> {
    let registration = context.registration().ok()?;
    let relay = Relay::new(registration.relay.parse().ok()?).ok()?;
    let read = tokio::time::timeout(TIMEOUT, relay.read(&registration)).await;
    read.ok()?.ok()
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
    let types = (facts.at_relay.as_ref()).and_then(|at_relay| at_relay.types.as_ref());
    if let Some(types) = types {
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
    if let Some(at_relay) = &facts.at_relay {
        text.push_str(&not_delivered(at_relay));
    }
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
fn not_delivered(at_relay: &AtRelay) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| line(&mut text, name, value);
    let reasons: Vec<_> = (at_relay.not_delivered.iter())
        .map(|(reason, count)| format!("{count} {}", reason))
        .collect();
    if !reasons.is_empty() {
        line(
            "not for it",
            &format!("{} in the last day", reasons.join(", ")),
        );
    }
    if at_relay.withheld > 0 {
        let count = at_relay.withheld;
        line(
            "withheld",
            &format!("{count} until the Linear token is shown again"),
        );
    }
    text
}

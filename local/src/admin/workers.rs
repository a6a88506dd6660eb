//! The commands about workers and their events.

use std::path::Path;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use edge_agent::printable::printable;
use protocol::clock::rfc3339;
use protocol::messages;
use relay::admin::{Admin, Selection, Trace};
use relay::event::EventId;
use relay::queue::DeadLetter;
use relay::table::{Kept, Place};
use relay::worker::Worker;
use serde::Serialize;

use super::Answer;
use super::letters;
use super::show::Show;

/// How many of the events that wait for a worker are listed for people.
const LISTED: usize = 20;

/// A worker as `GET {worker}` shows it, and what the operator knows beside it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Facts {
    #[serde(flatten)]
    worker: messages::Worker,
    workspace: String,
    /// Without its query.
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_url: Option<String>,
    in_backoff: usize,
}

impl Facts {
    fn of(worker: &Worker) -> Self {
        Self {
            // When it is due depends on a setting of the functions.
            worker: worker.view(worker.waiting, None),
            workspace: worker.workspace.clone(),
            webhook_url: worker.url.as_deref().and_then(without_query),
            in_backoff: worker.in_backoff.len(),
        }
    }

    fn state(&self) -> String {
        let state = self.worker.state.as_str();
        match self.worker.away_reason {
            Some(reason) => format!("{state}: {}", reason.as_str()),
            None => state.to_owned(),
        }
    }

    fn user(&self) -> String {
        let user = self.worker.user.as_ref();
        user.map_or_else(|| "-".to_owned(), |user| user.email.clone())
    }

    fn last_error(&self) -> String {
        let error = self.worker.last_error.as_ref();
        error.map_or_else(String::new, |error| {
            format!("{} ({})", error.reason, error.at)
        })
    }
}

fn without_query(url: &str) -> Option<String> {
    let mut url = url::Url::parse(url).ok()?;
    url.set_query(None);
    Some(url.into())
}

fn is_of(worker: &Worker, user: &str) -> bool {
    let found = worker.subscription.user.as_ref();
    found.is_some_and(|found| found.email.eq_ignore_ascii_case(user) || found.id == user)
}

/// The workers of a user, of whom there has to be one.
pub(super) async fn of_user(admin: &Admin, user: &str) -> anyhow::Result<Vec<Worker>> {
    let mut found = admin.workers(None).await?;
    found.retain(|worker| is_of(worker, user));
    if found.is_empty() {
        bail!("no worker is of `{}`", printable(user));
    }
    Ok(found)
}

pub(super) async fn list(
    admin: &Admin,
    show: Show,
    workspace: Option<&str>,
    user: Option<&str>,
    away: bool,
) -> anyhow::Result<()> {
    let mut found = admin.workers(workspace).await?;
    found.retain(|worker| {
        let is_away = worker.state == messages::WorkerState::Away || worker.paused;
        user.is_none_or(|user| is_of(worker, user)) && (!away || is_away)
    });
    found.sort_by(|one, other| {
        let key = |worker: &Worker| (worker.workspace.clone(), worker.owner().map(str::to_owned));
        key(one).cmp(&key(other))
    });
    let rows: Vec<_> = found.iter().map(Facts::of).collect();
    let header = [
        "WORKER",
        "NAME",
        "USER",
        "WORKSPACE",
        "STATE",
        "WAITS",
        "LAST ERROR",
    ];
    show.rows(header, &rows, |row| {
        [
            row.worker.worker_id.clone(),
            row.worker.name.clone(),
            row.user(),
            row.workspace.clone(),
            row.state(),
            if row.worker.waiting { "yes" } else { "no" }.to_owned(),
            row.last_error(),
        ]
    })?;
    if rows.is_empty() {
        eprintln!("no worker");
    }
    Ok(())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    place: &'static str,
    event: String,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    failed_attempts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_until: Option<String>,
}

impl Event {
    fn of(kept: &Kept) -> Self {
        Self {
            place: kept.place.as_str(),
            event: kept.event.clone(),
            kind: kept.kind.clone(),
            failed_attempts: kept.attempts,
            next_attempt: kept.due_at.filter(|at| *at > 0).map(rfc3339),
            kept_until: kept.kept_until.map(|at| rfc3339(at * 1000)),
        }
    }

    /// What has happened with it, and what happens next.
    fn detail(&self) -> String {
        let failed = format!("{} failed attempts", self.failed_attempts);
        match self.next() {
            next if next.is_empty() => failed,
            next => format!("{failed}, {next}"),
        }
    }

    /// When something happens with it next.
    fn next(&self) -> String {
        match (&self.next_attempt, &self.kept_until) {
            (Some(at), _) => format!("tried again at {at}"),
            (None, Some(until)) => format!("kept until {until}"),
            (None, None) => String::new(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Detail<'a> {
    #[serde(flatten)]
    facts: &'a Facts,
    events: &'a [Event],
}

pub(super) async fn one(admin: &Admin, show: Show, worker: &Worker) -> anyhow::Result<()> {
    let facts = Facts::of(worker);
    let events: Vec<_> = admin.kept(worker).await?.iter().map(Event::of).collect();
    let waiting = |place: Place| events.iter().filter(|e| e.place == place.as_str()).count();
    let counts = [
        Place::Mailbox,
        Place::Backoff,
        Place::Withheld,
        Place::Aside,
    ]
    .map(|place| {
        let count = waiting(place);
        (count > 0).then(|| format!("{count} {}", place.as_str()))
    });
    let counts: Vec<_> = counts.into_iter().flatten().collect();
    let seen = &facts.worker;
    let subscription = [
        seen.capabilities.as_ref().map(|wanted| wanted.join(" ")),
        (seen.filter.as_ref().is_some_and(|f| f.mine)).then(|| "mine".to_owned()),
        (seen.filter.as_ref().and_then(|f| f.teams.as_ref()))
            .map(|teams| format!("teams {}", teams.join(" "))),
        seen.group.as_ref().map(|group| format!("group {group}")),
    ];
    let subscription: Vec<_> = subscription.into_iter().flatten().collect();
    let or = |parts: Vec<String>, none: &str| match parts.is_empty() {
        true => none.to_owned(),
        false => parts.join(", "),
    };
    show.facts(
        &Detail {
            facts: &facts,
            events: &events,
        },
        [
            ("worker", seen.worker_id.clone()),
            ("name", seen.name.clone()),
            ("user", facts.user()),
            ("workspace", facts.workspace.clone()),
            ("state", facts.state()),
            ("address", facts.webhook_url.clone().unwrap_or_default()),
            ("wants", or(subscription, "all events")),
            ("waits", or(counts, "nothing")),
            (
                "last delivery",
                seen.last_delivery.clone().unwrap_or_default(),
            ),
            ("last error", facts.last_error()),
            ("lease ends", seen.expires_at.clone()),
        ],
    )?;
    if show.json || events.is_empty() {
        return Ok(());
    }
    let header = ["", "EVENT", "TYPE", "FAILED", ""];
    show.rows(header, &events[..events.len().min(LISTED)], |event| {
        [
            event.place.to_owned(),
            event.event.clone(),
            event.kind.clone().unwrap_or_else(|| "-".to_owned()),
            event.failed_attempts.to_string(),
            event.next(),
        ]
    })?;
    if events.len() > LISTED {
        eprintln!("and {} more (`--json` has all)", events.len() - LISTED);
    }
    Ok(())
}

/// Where an event is for a worker.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Whereabouts {
    worker: String,
    name: String,
    user: String,
    workspace: String,
    place: &'static str,
    detail: String,
}

impl Whereabouts {
    fn of(worker: &Worker, place: &'static str, detail: String) -> Self {
        Self {
            worker: worker.id.clone(),
            name: worker.name.clone(),
            user: worker.owner().unwrap_or("-").to_owned(),
            workspace: worker.workspace.clone(),
            place,
            detail,
        }
    }

    /// Of a dead letter, whose worker may be removed meanwhile.
    fn dead(letter: &DeadLetter, worker: Option<&Worker>) -> Self {
        let text = |text: Option<&str>| text.unwrap_or("-").to_owned();
        let name = worker.map_or("removed", |worker| &worker.name);
        Self {
            worker: text(letter.worker()),
            name: name.to_owned(),
            user: text(letter.user()),
            workspace: text(letter.workspace()),
            place: "dead letter",
            detail: text(letter.reason()),
        }
    }
}

/// The deliveries of an event that the relay knows something of.
pub(super) async fn event(admin: &Admin, show: Show, event: &EventId) -> anyhow::Result<()> {
    let selection = Selection {
        event: Some(event.to_string()),
        ..Selection::default()
    };
    let read = admin.read_dead_letters(&selection, usize::MAX).await?;
    admin.release(&read.letters).await;
    let workers = admin.workers(None).await?;
    let of = |letter: &DeadLetter| {
        let worker = workers.iter().find(|w| Some(&*w.id) == letter.worker());
        Whereabouts::dead(letter, worker)
    };
    let mut rows: Vec<_> = read.letters.iter().map(of).collect();
    let mut silent = 0;
    for (worker, trace) in workers.iter().zip(admin.trace(&workers, event).await?) {
        let is_dead = rows.iter().any(|row| row.worker == worker.id);
        match trace {
            // It is in the list already.
            Some(Trace::Kept(kept)) if is_dead && kept.place == Place::GivenUp => {}
            Some(Trace::Kept(kept)) => {
                let event = Event::of(&kept);
                rows.push(Whereabouts::of(worker, event.place, event.detail()));
            }
            _ if is_dead => {}
            Some(Trace::NotFor(reason)) => {
                rows.push(Whereabouts::of(worker, "not for it", reason.to_owned()));
            }
            None => silent += 1,
        }
    }
    let header = ["WORKER", "NAME", "USER", "WORKSPACE", "PLACE", ""];
    show.rows(header, &rows, |row| {
        [
            row.worker.clone(),
            row.name.clone(),
            row.user.clone(),
            row.workspace.clone(),
            row.place.to_owned(),
            row.detail.clone(),
        ]
    })?;
    letters::tell_hidden(read.hidden);
    if silent > 0 {
        eprintln!(
            "nothing is kept of it for {silent} others: it was delivered, is on the queue and was not tried yet, or is not for \
             them; the log says which"
        );
    }
    Ok(())
}

pub(super) async fn remove(
    admin: &Admin,
    found: Vec<Worker>,
    answer: &Answer,
) -> anyhow::Result<()> {
    let names: Vec<_> = found
        .iter()
        .map(|worker| {
            let owner = worker.owner().unwrap_or("an unknown user");
            format!(
                "{} ({} of {})",
                worker.id,
                printable(&worker.name),
                printable(owner)
            )
        })
        .collect();
    answer.confirm(&format!(
        "Remove {} and what waits for them? It is lost.",
        names.join(", ")
    ))?;
    for worker in found {
        (admin.remove(&worker).await).with_context(|| format!("{} is not removed", worker.id))?;
        eprintln!("removed {}", worker.id);
    }
    Ok(())
}

pub(super) async fn resend(
    admin: &Admin,
    event: EventId,
    worker: &Worker,
    body: Option<&Path>,
) -> anyhow::Result<()> {
    let body = match body {
        Some(file) => {
            let read = std::fs::read(file);
            Bytes::from(read.with_context(|| format!("cannot read `{}`", file.display()))?)
        }
        None => (admin.body(&worker.workspace, &event).await?).with_context(|| {
            format!(
                "the relay has no copy of {event} any more: one that was delivered is on laptops alone; there, \
                 `edge-agent events {event} --body` prints it, for `--body FILE` here"
            )
        })?,
    };
    admin.resend(event.clone(), worker, &body).await?;
    eprintln!("{event} is on the queue for {}", worker.id);
    Ok(())
}

pub(super) async fn pause(admin: &Admin, worker: &Worker) -> anyhow::Result<()> {
    if worker.paused {
        bail!("{} is paused already", worker.id);
    }
    admin.pause(worker).await?;
    eprintln!(
        "paused {}: its events are parked until it is resumed",
        worker.id
    );
    Ok(())
}

pub(super) async fn resume(admin: &Admin, worker: &Worker) -> anyhow::Result<()> {
    if !worker.paused && !worker.is_drained() {
        bail!("{} is not paused", worker.id);
    }
    admin.resume(worker).await?;
    eprintln!(
        "resumed {}: it gets what was parked, an agent within five minutes",
        worker.id
    );
    Ok(())
}

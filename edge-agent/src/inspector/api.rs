//! The interface of the inspector: what the page and the commands use. `openapi.json` describes it.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use protocol::clock::parse_rfc3339;
use serde::{Deserialize, Serialize};

use super::changes::{Change, changes};
use super::edit::edited;
use super::problem::Problem;
use super::request::{EventId, MAX_BODY, MAX_REQUEST, Sent};
use super::status::{InspectorStatus, status_facts};
use super::verdict::{Verdict, verdict};
use super::{Inspector, stream};
use crate::facts::{Detail, EventFacts};
use crate::store::{Content, Filter, Listed, State as EventState, name};

const DESCRIPTION: &str = include_str!("openapi.json");
/// How many events a list has, unless another number is asked for, and at most.
const LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 500;
/// The largest body that is in an answer as text. Larger ones are for `GET /api/events/{id}/body`.
const SHOWN_BODY: usize = 1024 * 1024;

type Shared = State<Arc<Inspector>>;
type Answer<T> = Result<T, Problem>;

pub(super) fn routes() -> Router<Arc<Inspector>> {
    Router::new()
        .route("/api/events", get(list))
        .route("/api/events/{id}", get(detail))
        .route("/api/events/{id}/body", get(body))
        .route("/api/events/{id}/replay", post(replay))
        .route("/api/replay", post(replay_all))
        .route("/api/handler", post(set_paused))
        .route("/api/status", get(status))
        .route("/api/stream", get(stream::stream))
        .route("/api/openapi.json", get(description))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
}

/// Which events are listed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// What the id is or begins with.
    id: Option<String>,
    text: Option<String>,
    #[serde(rename = "type")]
    pattern: Option<String>,
    state: Option<EventState>,
    key: Option<String>,
    /// Received at or after, RFC 3339.
    since: Option<String>,
    before: Option<i64>,
    after: Option<i64>,
    limit: Option<u32>,
}

impl ListQuery {
    fn filter(self, limit: u32) -> Answer<Filter> {
        let pattern = self.pattern.filter(|pattern| !pattern.is_empty());
        if let Some(pattern) = &pattern
            && !protocol::capability::is_pattern(pattern)
        {
            let examples = protocol::capability::EXAMPLES;
            return Err(Problem::invalid(format!(
                "`type` is no pattern: use {examples}."
            )));
        }
        let since = self.since.map(|since| {
            parse_rfc3339(&since)
                .ok_or_else(|| Problem::invalid("`since` is not a time of RFC 3339."))
        });
        Ok(Filter {
            id: self.id,
            state: self.state,
            ordering_key: self.key,
            text: self.text.filter(|text| !text.is_empty()),
            since: since.transpose()?,
            after: self.after,
            before: self.before,
            pattern,
            limit: Some(limit),
        })
    }
}

/// Events, the newest first.
#[derive(Serialize)]
struct List {
    events: Vec<EventFacts>,
    /// Whether there are older ones.
    more: bool,
}

async fn list(
    State(inspector): Shared,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<Json<List>> {
    let Query(query) = query.map_err(|error| {
        let why = error.body_text();
        Problem::invalid(format!("{why}. See `GET /api/openapi.json`."))
    })?;
    let limit = query.limit.unwrap_or(LIMIT);
    if limit == 0 || limit > MAX_LIMIT {
        return Err(Problem::invalid(format!(
            "`limit` is a number from 1 to {MAX_LIMIT}."
        )));
    }
    // One more shows whether there are more.
    let mut found = inspector.state.store.list(query.filter(limit + 1)?).await?;
    let more = found.len() > limit as usize;
    if more {
        found.remove(0);
    }
    let events = found.into_iter().rev().map(EventFacts::from).collect();
    Ok(Json(List { events, more }))
}

/// One event with all that is known of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Inspected {
    #[serde(flatten)]
    detail: Detail,
    /// None of an edited copy, which nobody has signed, and without a registration.
    verdict: Option<Verdict>,
    /// SHA-256 of the body, hexadecimal.
    digest: String,
    /// Whether its content is what was stored.
    is_intact: bool,
    /// The body, if it is UTF-8 and not too large to be shown.
    body: Option<String>,
    changes: Vec<Change>,
}

async fn find(inspector: &Inspector, id: &str) -> Answer<Listed> {
    let found = inspector.state.store.find(id).await?;
    found.ok_or_else(|| Problem::no_such_event(id))
}

/// None if it was deleted meanwhile.
async fn content(inspector: &Inspector, listed: &Listed) -> Answer<Content> {
    let content = inspector.state.store.content(listed.sequence).await?;
    content.ok_or_else(|| Problem::no_such_event(&listed.id))
}

async fn detail(State(inspector): Shared, EventId(id): EventId) -> Answer<Json<Inspected>> {
    let store = &inspector.state.store;
    let listed = find(&inspector, &id).await?;
    let Content { event, is_intact } = content(&inspector, &listed).await?;
    let attempts = store.attempts(listed.sequence).await?;
    let registration = inspector.state.registration();
    let verdict = match &registration {
        Some(registration) if event.edited_from.is_none() => {
            Some(verdict(&registration.secrets, &event))
        }
        _ => None,
    };
    let detail = Detail::new(listed, &event, attempts);
    let digest = protocol::envelope::digest(&event.body);
    let changes = changes(&event.body);
    let body = (event.body.len() <= SHOWN_BODY).then_some(event.body);
    let body = body.and_then(|body| String::from_utf8(body).ok());
    Ok(Json(Inspected {
        detail,
        verdict,
        digest,
        is_intact,
        body,
        changes,
    }))
}

/// The body, byte for byte, as a file.
async fn body(State(inspector): Shared, EventId(id): EventId) -> Answer<Response> {
    let listed = find(&inspector, &id).await?;
    let Content { event, .. } = content(&inspector, &listed).await?;
    let named = format!("{}-{}", name(&event.kind, &event.action), event.id);
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let named: String = named
        .chars()
        .map(|c| if safe(c) { c } else { '_' })
        .collect();
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{named}.json\""),
        ),
    ];
    Ok((headers, event.body).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    body: String,
}

/// Has an event handled again, or an edited copy of it handled.
async fn replay(
    State(inspector): Shared,
    EventId(id): EventId,
    sent: Sent,
) -> Answer<(StatusCode, Json<EventFacts>)> {
    let state = &inspector.state;
    let listed = find(&inspector, &id).await?;
    let id = if sent.is_empty() {
        replay_stored(&inspector, vec![listed.sequence]).await?;
        id
    } else {
        let Edit { body } = sent.parse(r#"`{"body": "…"}`, or nothing"#)?;
        if body.len() > MAX_BODY {
            return Err(Problem::too_large("An event", MAX_BODY));
        }
        let Content { event, .. } = content(&inspector, &listed).await?;
        let copy = edited(event, body, state.clock.millis());
        let id = copy.id.clone();
        state.store.add(vec![copy]).await?;
        state.stored.notify_one();
        id
    };
    let facts = find(&inspector, &id).await?.into();
    Ok((StatusCode::ACCEPTED, Json(facts)))
}

/// What is being handled is recorded at its end, and would not be handled again.
async fn replay_stored(inspector: &Inspector, sequences: Vec<i64>) -> Answer<()> {
    let state = &inspector.state;
    let is_in_hand = {
        let in_hand = state.in_hand.lock();
        sequences.iter().any(|sequence| in_hand.contains(sequence))
    };
    if is_in_hand {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "being_handled",
            "An event is being handled, or is printed and not taken: try again afterwards.",
        ));
    }
    state.store.replay(sequences).await?;
    state.replayed.notify_one();
    Ok(())
}

/// Which events are handled again: these, or all that have failed.
#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Which {
    Ids { ids: Vec<String> },
    State { state: Failed },
}

/// Handling all other events again would repeat what was done.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Failed {
    Failed,
}

#[derive(Serialize)]
struct Replayed {
    replayed: usize,
}

/// Has several events handled again, all or none.
async fn replay_all(State(inspector): Shared, sent: Sent) -> Answer<(StatusCode, Json<Replayed>)> {
    let example = r#"`{"ids": ["…"]}` or `{"state": "failed"}`"#;
    let state = &inspector.state;
    let mut sequences = Vec::new();
    match sent.parse(example)? {
        Which::Ids { ids } => {
            for id in ids {
                sequences.push(find(&inspector, &id).await?.sequence);
            }
        }
        Which::State {
            state: Failed::Failed,
        } => {
            let filter = Filter {
                state: Some(EventState::Failed),
                ..Filter::default()
            };
            let failed = state.store.list(filter).await?;
            sequences.extend(failed.iter().map(|event| event.sequence));
        }
    }
    let replayed = sequences.len();
    replay_stored(&inspector, sequences).await?;
    Ok((StatusCode::ACCEPTED, Json(Replayed { replayed })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetPaused {
    paused: bool,
}

/// Pauses or resumes handling. A new start of the agent resumes it, too.
async fn set_paused(State(inspector): Shared, sent: Sent) -> Answer<Json<InspectorStatus>> {
    let SetPaused { paused } = sent.parse(r#"`{"paused": true}`"#)?;
    inspector.state.paused.send_replace(paused);
    inspector.report.change(|status| status.is_paused = paused);
    Ok(Json(status_facts(&inspector).await?))
}

async fn status(State(inspector): Shared) -> Answer<Json<InspectorStatus>> {
    Ok(Json(status_facts(&inspector).await?))
}

async fn description() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION).into_response()
}

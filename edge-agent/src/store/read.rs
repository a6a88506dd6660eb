//! The reads of the stored events, by the agent and by its commands.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use protocol::clock::UnixMillis;
use rusqlite::{OptionalExtension as _, Row, ToSql, params};

use super::{Attempt, Event, Headers, State, Store, Waiting, content_digest, name};
use crate::subject::Subject;

/// Which events are listed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// What the id is or begins with.
    pub(crate) id: Option<String>,
    pub(crate) state: Option<State>,
    /// With this ordering key.
    pub(crate) ordering_key: Option<String>,
    /// With this in the id, `type.action`, identifier or title, in any case.
    pub(crate) text: Option<String>,
    /// Received at or after.
    pub(crate) since: Option<UnixMillis>,
    /// Stored after this one.
    pub(crate) after: Option<i64>,
    /// Stored before this one.
    pub(crate) before: Option<i64>,
    pub(crate) pattern: Option<String>,
    /// At most this many, the newest.
    pub(crate) limit: Option<u32>,
}

/// An event that is to be handled.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) content: Content,
    pub(crate) attempts: u64,
    /// How many of them were not interrupted by a shutdown.
    pub(crate) completed: u64,
}

/// An event with its content, whatever its state.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) event: Event,
    /// Whether its content is what was stored.
    pub(crate) is_intact: bool,
}

/// An event as it is listed.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) sequence: i64,
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) action: String,
    pub(crate) workspace: String,
    pub(crate) received_at: UnixMillis,
    pub(crate) state: State,
    pub(crate) attempts: u64,
    pub(crate) due_at: UnixMillis,
    /// Length of the body.
    pub(crate) size: u64,
    /// The result of the last attempt.
    pub(crate) result: Option<String>,
    /// How long it took.
    pub(crate) took_ms: Option<i64>,
    pub(crate) ordering_key: String,
    pub(crate) subject: Subject,
    /// The event of which it is an edited copy.
    pub(crate) edited_from: Option<String>,
}

/// How many there are of each.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Counts {
    pub(crate) waiting: u64,
    pub(crate) done: u64,
    pub(crate) dropped: u64,
    pub(crate) failed: u64,
}

const LISTED: &str = "
    SELECT e.sequence, e.id, e.type, e.action, e.workspace, e.received_at, e.state, e.attempts, e.due_at,
           length(c.body), a.result, a.took, e.ordering_key, e.identifier, e.title, e.edited_from
    FROM event e JOIN content c USING (sequence)
    LEFT JOIN attempt a ON a.rowid = (SELECT max(rowid) FROM attempt WHERE sequence = e.sequence)";

/// What a search looks at: nothing but the events themselves.
const NAMED: &str = "SELECT e.sequence, e.id, e.type, e.action, e.identifier, e.title FROM event e";

/// The names of an event.
struct Named {
    id: String,
    kind: String,
    action: String,
    subject: Subject,
}

impl Named {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(1)?,
            kind: row.get(2)?,
            action: row.get(3)?,
            subject: Subject {
                identifier: row.get(4)?,
                title: row.get(5)?,
            },
        })
    }
}

fn listed(row: &Row<'_>) -> rusqlite::Result<Listed> {
    Ok(Listed {
        sequence: row.get(0)?,
        id: row.get(1)?,
        kind: row.get(2)?,
        action: row.get(3)?,
        workspace: row.get(4)?,
        received_at: row.get(5)?,
        state: State::parse(&row.get::<_, String>(6)?).unwrap_or(State::Failed),
        attempts: row.get(7)?,
        due_at: row.get(8)?,
        size: row.get(9)?,
        result: row.get(10)?,
        took_ms: row.get(11)?,
        ordering_key: row.get(12)?,
        subject: Subject {
            identifier: row.get(13)?,
            title: row.get(14)?,
        },
        edited_from: row.get(15)?,
    })
}

impl Filter {
    /// Whether an event has the text and the type.
    fn wants(&self, event: &Named) -> bool {
        let has_type = self.pattern.as_ref().is_none_or(|pattern| {
            let patterns = std::slice::from_ref(pattern);
            protocol::capability::wanted(Some(patterns), &event.kind, &event.action)
        });
        has_type && self.text.as_ref().is_none_or(|text| event.has_text(text))
    }
}

impl Named {
    fn has_text(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        let named = name(&self.kind, &self.action);
        let Subject { identifier, title } = &self.subject;
        [
            Some(&self.id),
            Some(&named),
            identifier.as_ref(),
            title.as_ref(),
        ]
        .into_iter()
        .flatten()
        .any(|part| part.to_lowercase().contains(&text))
    }
}

impl Store {
    /// The ordering key and the id of each event, in the order in which they were stored.
    pub(crate) fn ids(&self) -> anyhow::Result<Vec<(String, String)>> {
        let connection = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut read =
            connection.prepare_cached("SELECT ordering_key, id FROM event ORDER BY sequence")?;
        let rows = read.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The events that wait, in the order in which they were stored: at most `limit`, and those after `after`.
    pub(crate) async fn waiting(&self, after: i64, limit: u32) -> anyhow::Result<Vec<Waiting>> {
        self.read(move |connection| {
            let mut read = connection.prepare_cached(
                "SELECT sequence, ordering_key, due_at, CASE WHEN attempts > 0 THEN
                     (SELECT handler FROM attempt a WHERE a.sequence = e.sequence ORDER BY a.rowid DESC LIMIT 1) END
                 FROM event e INDEXED BY waiting WHERE state = 'waiting' AND sequence > ? ORDER BY sequence LIMIT ?",
            )?;
            let rows = read.query_map(params![after, limit], |row| {
                Ok(Waiting {
                    sequence: row.get(0)?,
                    ordering_key: row.get(1)?,
                    due_at: row.get(2)?,
                    tried: row.get(3)?,
                })
            })?;
            rows.collect()
        })
        .await
    }

    /// An event with its content, to be handled; none if it has been settled meanwhile.
    pub(crate) async fn load(&self, sequence: i64) -> anyhow::Result<Option<Loaded>> {
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT id, type, action, workspace, ordering_key, received_at, edited_from, headers, body, digest, attempts,
                         (SELECT count(*) FROM (SELECT outcome, row_number() OVER (ORDER BY a.rowid DESC) AS nth FROM attempt a
                              WHERE a.sequence = e.sequence) WHERE nth <= e.attempts AND outcome <> 'interrupted')
                     FROM event e JOIN content USING (sequence) WHERE sequence = ? AND state = 'waiting'",
                )?
                .query_row([sequence], |row| {
                    Ok(Loaded {
                        content: content(row)?,
                        attempts: row.get(10)?,
                        completed: row.get(11)?,
                    })
                })
                .optional()
        })
        .await
    }

    /// An event with its content, whatever its state.
    pub(crate) async fn content(&self, sequence: i64) -> anyhow::Result<Option<Content>> {
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT id, type, action, workspace, ordering_key, received_at, edited_from, headers, body, digest
                     FROM event JOIN content USING (sequence) WHERE sequence = ?",
                )?
                .query_row([sequence], content)
                .optional()
        })
        .await
    }

    /// Events in the order in which they were stored.
    pub(crate) async fn list(&self, filter: Filter) -> anyhow::Result<Vec<Listed>> {
        self.search(move |connection| {
            let mut conditions = vec!["1".to_owned()];
            let mut values: Vec<Box<dyn ToSql>> = Vec::new();
            if let Some(id) = &filter.id {
                // No LIKE: an id may hold its wildcards.
                conditions.push("substr(e.id, 1, length(?)) = ?".to_owned());
                values.push(Box::new(id.clone()));
                values.push(Box::new(id.clone()));
            }
            if let Some(state) = filter.state {
                conditions.push("e.state = ?".to_owned());
                values.push(Box::new(state.as_str()));
            }
            if let Some(key) = &filter.ordering_key {
                conditions.push("e.ordering_key = ?".to_owned());
                values.push(Box::new(key.clone()));
            }
            if let Some(before) = filter.before {
                conditions.push("e.sequence < ?".to_owned());
                values.push(Box::new(before));
            }
            if let Some(since) = filter.since {
                conditions.push("e.received_at >= ?".to_owned());
                values.push(Box::new(since));
            }
            if let Some(after) = filter.after {
                conditions.push("e.sequence > ?".to_owned());
                values.push(Box::new(after));
            }
            let mut read = connection.prepare(&format!(
                "{NAMED} WHERE {} ORDER BY e.sequence DESC",
                conditions.join(" AND ")
            ))?;
            let values: Vec<&dyn ToSql> = values.iter().map(AsRef::as_ref).collect();
            let mut rows = read.query(values.as_slice())?;
            let mut load = connection.prepare_cached(&format!("{LISTED} WHERE e.sequence = ?"))?;
            let limit = filter.limit.unwrap_or(u32::MAX) as usize;
            let mut found = Vec::new();
            while found.len() < limit
                && let Some(row) = rows.next()?
            {
                if filter.wants(&Named::read(row)?) {
                    found.extend(load.query_row([row.get::<_, i64>(0)?], listed).optional()?);
                }
            }
            found.reverse();
            Ok(found)
        })
        .await
    }

    /// The event with this id.
    pub(crate) async fn find(&self, id: &str) -> anyhow::Result<Option<Listed>> {
        let id = id.to_owned();
        self.search(move |connection| {
            (connection.prepare_cached(&format!("{LISTED} WHERE e.id = ?"))?)
                .query_row([id], listed)
                .optional()
        })
        .await
    }

    /// These events, as far as they are there.
    pub(crate) async fn listed(&self, sequences: BTreeSet<i64>) -> anyhow::Result<Vec<Listed>> {
        self.search(move |connection| {
            let mut read = connection.prepare_cached(&format!("{LISTED} WHERE e.sequence = ?"))?;
            let mut found = Vec::new();
            for sequence in sequences {
                found.extend(read.query_row([sequence], listed).optional()?);
            }
            Ok(found)
        })
        .await
    }

    /// When each event since a time was received, and how long its last attempt took, the newest first.
    pub(crate) async fn durations_since(
        &self,
        since: UnixMillis,
    ) -> anyhow::Result<Vec<(UnixMillis, Option<i64>)>> {
        self.search(move |connection| {
            let mut read = connection.prepare_cached(
                "SELECT received_at, (SELECT took FROM attempt a WHERE a.sequence = e.sequence ORDER BY a.rowid DESC LIMIT 1)
                 FROM event e ORDER BY sequence DESC",
            )?;
            // Events are stored as they are received: what is older comes after.
            let rows = read.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.take_while(|row| row.as_ref().map_or(true, |(at, _)| *at >= since))
                .collect()
        })
        .await
    }

    /// The attempts at an event, the first one first.
    pub(crate) async fn attempts(&self, sequence: i64) -> anyhow::Result<Vec<Attempt>> {
        self.search(move |connection| {
            let mut read = connection.prepare_cached(
                "SELECT at, took, handler, outcome, result, answer FROM attempt WHERE sequence = ? ORDER BY rowid",
            )?;
            let rows = read.query_map([sequence], |row| {
                Ok(Attempt {
                    at: row.get(0)?,
                    took_ms: row.get(1)?,
                    handler: row.get(2)?,
                    outcome: row.get(3)?,
                    result: row.get(4)?,
                    answer: row.get(5)?,
                })
            })?;
            rows.collect()
        })
        .await
    }

    /// The last attempt of each handler: its name, the outcome and the result.
    pub(crate) async fn last_attempts(&self) -> anyhow::Result<Vec<(String, String, String)>> {
        self.search(|connection| {
            // A column beside max() is of the row with the maximum (SQLite, "SELECT", bare columns in an aggregate query).
            let mut read = connection.prepare_cached(
                "SELECT handler, outcome, result, max(rowid) FROM attempt WHERE outcome != 'begun' GROUP BY handler",
            )?;
            let rows = read.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect()
        })
        .await
    }

    /// How many events there are of each state, and when the last one was received.
    pub(crate) async fn counts(&self) -> anyhow::Result<(Counts, Option<i64>)> {
        self.search(|connection| {
            let mut counts = Counts::default();
            let mut read =
                connection.prepare_cached("SELECT state, count(*) FROM event GROUP BY state")?;
            let mut rows = read.query([])?;
            while let Some(row) = rows.next()? {
                let count = row.get(1)?;
                match State::parse(&row.get::<_, String>(0)?) {
                    Some(State::Waiting) => counts.waiting = count,
                    Some(State::Done) => counts.done = count,
                    Some(State::Dropped) => counts.dropped = count,
                    Some(State::Failed) | None => counts.failed += count,
                }
            }
            let last = "SELECT received_at FROM event ORDER BY sequence DESC LIMIT 1";
            let last = connection
                .query_row(last, params![], |row| row.get(0))
                .optional()?;
            Ok((counts, last))
        })
        .await
    }
}

/// Whether headers and body are those that were stored; `true` if their digest was not.
fn content(row: &Row<'_>) -> rusqlite::Result<Content> {
    let event = event(row)?;
    let stored: Option<String> = row.get(9)?;
    let found = content_digest(row.get_ref(7)?.as_blob()?, &event.body);
    let is_intact = stored.is_none_or(|stored| stored == found);
    Ok(Content { event, is_intact })
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        id: row.get(0)?,
        kind: row.get(1)?,
        action: row.get(2)?,
        workspace: row.get(3)?,
        ordering_key: row.get(4)?,
        received_at: row.get(5)?,
        edited_from: row.get(6)?,
        headers: Headers::from_bytes(&row.get::<_, Vec<u8>>(7)?),
        body: row.get(8)?,
    })
}

//! The events, in SQLite.
//!
//! Invariant: an id is stored once; what [`Store::add`] answered is on the disk; an event is handed over in the
//! order in which it was stored, and again after a crash if it was not marked as handed over.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use rusqlite::{Connection, params};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS event (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, type TEXT NOT NULL,
        action TEXT NOT NULL, workspace TEXT NOT NULL, received_at INTEGER NOT NULL, attempt INTEGER NOT NULL,
        headers TEXT NOT NULL, body BLOB NOT NULL, handled_at INTEGER
    ) STRICT;
    CREATE INDEX IF NOT EXISTS unhandled ON event (sequence) WHERE handled_at IS NULL;
";

/// An event as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) action: String,
    pub(crate) workspace: String,
    /// Unix milliseconds.
    pub(crate) received_at: i64,
    pub(crate) attempt: u64,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// The events; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    connection: Arc<Mutex<Connection>>,
}

impl Store {
    /// Opens or creates the file.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let connection = Connection::open(path)
            .and_then(|connection| {
                connection.pragma_update(None, "journal_mode", "WAL")?;
                connection.pragma_update(None, "synchronous", "FULL")?;
                connection.execute_batch(SCHEMA)?;
                Ok(connection)
            })
            .with_context(|| format!("cannot open the events in `{}`", path.display()))?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
        })
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let connection = Arc::clone(&self.connection);
        tokio::task::spawn_blocking(move || {
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut connection)
        })
        .await?
        .context("cannot use the stored events")
    }

    /// Stores events, all or none; answers how many were new.
    pub(crate) async fn add(&self, events: Vec<Event>) -> anyhow::Result<usize> {
        self.with(move |connection| {
            let transaction = connection.transaction()?;
            let mut new = 0;
            for event in events {
                let headers = serde_json::to_string(&event.headers)
                    .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
                new += (transaction.prepare_cached(
                    "INSERT OR IGNORE INTO event (id, type, action, workspace, received_at, attempt, headers, body)
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                )?)
                .execute(params![
                    event.id,
                    event.kind,
                    event.action,
                    event.workspace,
                    event.received_at,
                    event.attempt,
                    headers,
                    event.body
                ])?;
            }
            transaction.commit()?;
            Ok(new)
        })
        .await
    }

    /// The oldest events that were not handed over.
    pub(crate) async fn unhandled(&self, limit: u32) -> anyhow::Result<Vec<(i64, Event)>> {
        self.with(move |connection| {
            let mut read = connection.prepare_cached(
                "SELECT sequence, id, type, action, workspace, received_at, attempt, headers, body FROM event
                 WHERE handled_at IS NULL ORDER BY sequence LIMIT ?",
            )?;
            let rows = read.query_map(params![limit], |row| {
                let headers: String = row.get(7)?;
                let event = Event {
                    id: row.get(1)?,
                    kind: row.get(2)?,
                    action: row.get(3)?,
                    workspace: row.get(4)?,
                    received_at: row.get(5)?,
                    attempt: row.get(6)?,
                    headers: serde_json::from_str(&headers).unwrap_or_default(),
                    body: row.get(8)?,
                };
                Ok((row.get(0)?, event))
            })?;
            rows.collect()
        })
        .await
    }

    /// Marks all up to `sequence` as handed over.
    pub(crate) async fn handled(&self, sequence: i64, now: i64) -> anyhow::Result<()> {
        self.with(move |connection| {
            connection
                .prepare_cached(
                    "UPDATE event SET handled_at = ?2 WHERE handled_at IS NULL AND sequence <= ?1",
                )?
                .execute(params![sequence, now])
                .map(drop)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str) -> Event {
        Event {
            id: id.to_owned(),
            kind: "Issue".to_owned(),
            action: "create".to_owned(),
            workspace: "w".to_owned(),
            received_at: 1,
            attempt: 1,
            headers: BTreeMap::from([("webhook-id".to_owned(), id.to_owned())]),
            body: b"{ \"a\": 1 }\n\xff".to_vec(),
        }
    }

    #[tokio::test]
    async fn an_id_is_stored_once_and_handed_over_in_order_also_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        let store = Store::open(&path).unwrap();
        assert_eq!(
            store
                .add(vec![event("a"), event("b"), event("a")])
                .await
                .unwrap(),
            2
        );
        assert_eq!(store.add(vec![event("b"), event("c")]).await.unwrap(), 1);
        let (first, _) = store.unhandled(10).await.unwrap()[0];
        store.handled(first, 5).await.unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        let left = store.unhandled(10).await.unwrap();
        let left: Vec<_> = left.into_iter().map(|(_, event)| event).collect();
        assert_eq!(left, [event("b"), event("c")]);
    }

    #[test]
    fn a_file_that_is_no_database_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        std::fs::write(
            &path,
            "not a database, but long enough to be looked at as one",
        )
        .unwrap();
        let error = format!("{:#}", Store::open(&path).unwrap_err());
        assert!(error.contains("events.db"), "{error}");
    }
}

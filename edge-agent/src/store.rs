//! The events, in SQLite: what was received, what became of it, and every attempt at handling it.
//!
//! Invariant: an id is stored once; whatever a write answered is on the disk. One thread writes: what gathers while
//! it commits goes into the next transaction together, so that a flood of deliveries does not wait for the disk one
//! by one.

mod event;
mod prune;
mod read;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use protocol::clock::UnixMillis;
use protocol::envelope::digest;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension as _, TransactionBehavior, params,
};
use tokio::sync::broadcast;

pub(crate) use event::{Attempt, Event, Headers, State, Waiting, name};
pub(crate) use read::{Content, Counts, Filter, Listed, Loaded};
use writer::Writer;

use crate::output::warn;
use crate::subject::Subject;
use crate::write_ahead_log::report_damage;

/// What is said of an event whose content the disk has changed.
pub(crate) const DAMAGED: &str = "what is stored of it is damaged, and is not handed over";

/// The version of the schema below.
const SCHEMA_VERSION: i64 = 3;
/// From this one on, a file is brought to it.
const OLDEST_VERSION: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE event (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, type TEXT NOT NULL,
        action TEXT NOT NULL, workspace TEXT NOT NULL, ordering_key TEXT NOT NULL, received_at INTEGER NOT NULL,
        state TEXT NOT NULL, attempts INTEGER NOT NULL, due_at INTEGER NOT NULL, finished_at INTEGER,
        identifier TEXT, title TEXT, edited_from TEXT
    ) STRICT;
    CREATE INDEX waiting ON event (sequence) WHERE state = 'waiting';
    CREATE INDEX ordered ON event (ordering_key, sequence);
    CREATE INDEX finished ON event (finished_at) WHERE finished_at IS NOT NULL;
    CREATE TABLE content (
        sequence INTEGER PRIMARY KEY, headers BLOB NOT NULL, body BLOB NOT NULL, digest TEXT
    ) STRICT;
    CREATE TABLE attempt (
        sequence INTEGER NOT NULL, at INTEGER NOT NULL, took INTEGER NOT NULL, handler TEXT NOT NULL,
        outcome TEXT NOT NULL, result TEXT NOT NULL, answer BLOB NOT NULL
    ) STRICT;
    CREATE INDEX attempts ON attempt (sequence);
    CREATE TABLE pruned (id TEXT PRIMARY KEY, at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// What brings a file of each version to the next one, from [`OLDEST_VERSION`] on. What was stored before has no digest, and
/// nothing of what it is about.
const MIGRATIONS: [&str; 2] = [
    "ALTER TABLE content ADD COLUMN digest TEXT;",
    "ALTER TABLE event ADD COLUMN identifier TEXT; ALTER TABLE event ADD COLUMN title TEXT;
     ALTER TABLE event ADD COLUMN edited_from TEXT; CREATE INDEX ordered ON event (ordering_key, sequence);",
];

/// The stored events. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    writer: Writer,
    /// For what the handling of events waits for.
    reader: Arc<Mutex<Connection>>,
    /// For people, whose searches take longer.
    searcher: Arc<Mutex<Connection>>,
    changes: broadcast::Sender<i64>,
}

/// How many changes a subscriber can be behind.
const CHANGES: usize = 1_024;

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

fn open_read_only(path: &Path) -> rusqlite::Result<Arc<Mutex<Connection>>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    Ok(Arc::new(Mutex::new(connection)))
}

fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}

async fn read_with<T: Send + 'static>(
    connection: &Arc<Mutex<Connection>>,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let connection = Arc::clone(connection);
    tokio::task::spawn_blocking(move || {
        work(&connection.lock().unwrap_or_else(PoisonError::into_inner))
    })
    .await?
    .context("cannot read the stored events")
}

/// Brings a file of an earlier version to this one's, if `migrates`.
fn migrate(connection: &mut Connection, migrates: bool) -> anyhow::Result<()> {
    let version = verify_version(connection)?;
    if version == SCHEMA_VERSION {
        return Ok(());
    }
    if !migrates {
        return verify_current(version);
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let passed = usize::try_from(version - OLDEST_VERSION)?;
    for migration in &MIGRATIONS[passed..] {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    Ok(transaction.commit()?)
}

/// Refuses a file that has to be migrated first: an agent of an earlier version may be running.
fn verify_current(version: i64) -> anyhow::Result<()> {
    anyhow::ensure!(
        version == SCHEMA_VERSION,
        "an earlier version has written it: start `edge-agent up` again first"
    );
    Ok(())
}

/// The version of a file, if this program can read or migrate it.
fn verify_version(connection: &Connection) -> anyhow::Result<i64> {
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    anyhow::ensure!(
        (OLDEST_VERSION..=SCHEMA_VERSION).contains(&version),
        "the file was written by another version of edge-agent (its form is {version}, this one's is \
         {SCHEMA_VERSION}): use that version, or move the file away"
    );
    Ok(version)
}

/// Whether SQLite cannot read the file.
pub(crate) fn is_damage(error: &anyhow::Error) -> bool {
    let code = error
        .downcast_ref::<rusqlite::Error>()
        .and_then(rusqlite::Error::sqlite_error_code);
    matches!(
        code,
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)
    )
}

/// Where a damaged file with this ending is kept.
fn aside(path: &Path, now: UnixMillis, ending: &str) -> PathBuf {
    path.with_extension(format!("damaged-{now}.{ending}"))
}

/// Warns of what a damaged log of the file loses. Nothing else may write the file meanwhile.
pub(crate) fn report_damaged_log(path: &Path, now: UnixMillis) {
    // SQLite would take a copy that is called `…db-wal` for the log of the file that is moved aside.
    if let Some(damage) = report_damage(path, &aside(path, now, "wal")) {
        warn(damage);
    }
}

/// Moves a damaged file aside. Returns its new path.
pub(crate) fn set_aside(path: &Path, now: UnixMillis) -> anyhow::Result<PathBuf> {
    let moved = aside(path, now, "db");
    std::fs::rename(path, &moved)
        .with_context(|| format!("cannot move the damaged `{}` away", path.display()))?;
    for ending in ["db-wal", "db-shm"] {
        let _ = std::fs::rename(path.with_extension(ending), aside(path, now, ending));
    }
    Ok(moved)
}

impl Store {
    /// Opens or creates the file. A damaged one is moved aside with a warning, so that events can be received again.
    pub(crate) fn open(path: &Path, now: UnixMillis) -> anyhow::Result<Self> {
        report_damaged_log(path, now);
        match Self::try_open(path, true) {
            Err(error) if is_damage(&error) => {
                let aside = set_aside(path, now)?;
                warn(format_args!(
                    "the events in `{}` are damaged: they are in `{}` now, and a new file is begun; \
                     what was stored there and not handled is not handled (`sqlite3 FILE .recover` may read it)",
                    path.display(),
                    aside.display()
                ));
                Self::try_open(path, true)
            }
            opened => opened,
        }
        .with_context(|| format!("cannot open the events in `{}`", path.display()))
    }

    /// Opens the file to read it alone, which needs no room on the disk.
    pub(crate) fn open_to_read(path: &Path) -> anyhow::Result<Self> {
        let connect = || {
            let connection = open_read_only(path)?;
            let version = {
                let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                verify_version(&connection)?
            };
            verify_current(version)?;
            anyhow::Ok(connection)
        };
        let connection =
            connect().with_context(|| format!("cannot open the events in `{}`", path.display()))?;
        Ok(Self {
            writer: Writer::Here(Arc::clone(&connection)),
            searcher: Arc::clone(&connection),
            reader: connection,
            changes: broadcast::Sender::new(1),
        })
    }

    /// Opens the file for a command beside `up`, which does not repair it.
    pub(crate) fn open_existing(path: &Path) -> anyhow::Result<Self> {
        Self::try_open(path, false)
            .with_context(|| format!("cannot open the events in `{}`", path.display()))
    }

    fn try_open(path: &Path, migrates: bool) -> anyhow::Result<Self> {
        let mut connection = connect(path)?;
        let is_empty = connection
            .query_row("SELECT 1 FROM sqlite_schema LIMIT 1", [], |_| Ok(()))
            .optional()?
            .is_none();
        if is_empty {
            create(&mut connection)?;
        } else {
            migrate(&mut connection, migrates)?;
        }
        Ok(Self {
            writer: Writer::start(connection)?,
            reader: open_read_only(path)?,
            searcher: open_read_only(path)?,
            changes: broadcast::Sender::new(CHANGES),
        })
    }

    /// Events in memory, read and written in the caller's thread.
    pub(crate) fn in_memory() -> anyhow::Result<Self> {
        let mut connection = Connection::open_in_memory()?;
        create(&mut connection)?;
        let connection = Arc::new(Mutex::new(connection));
        Ok(Self {
            writer: Writer::Here(Arc::clone(&connection)),
            searcher: Arc::clone(&connection),
            reader: connection,
            changes: broadcast::Sender::new(CHANGES),
        })
    }

    /// The sequences of the events that this process adds or changes from now on.
    pub(crate) fn changes(&self) -> broadcast::Receiver<i64> {
        self.changes.subscribe()
    }

    fn announce(&self, sequences: impl IntoIterator<Item = i64>) {
        for sequence in sequences {
            // An error means that there is no subscriber.
            let _ = self.changes.send(sequence);
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        read_with(&self.reader, work).await
    }

    /// As [`Self::read`], and nothing that handles events waits for it.
    async fn search<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        read_with(&self.searcher, work).await
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        (self.writer.run(work).await).context("cannot write to the stored events")
    }

    /// Stores events, all or none. Returns how many were new.
    pub(crate) async fn add(&self, events: Vec<Event>) -> anyhow::Result<usize> {
        let added = self.write(move |connection| {
            let mut added = Vec::new();
            for event in events {
                let subject = Subject::of(&event.body);
                let inserted = connection
                    .prepare_cached(
                        "INSERT OR IGNORE INTO event
                             (id, type, action, workspace, ordering_key, received_at, state, attempts, due_at,
                              identifier, title, edited_from)
                         SELECT ?1, ?2, ?3, ?4, ?5, ?6, 'waiting', 0, 0, ?7, ?8, ?9
                         WHERE NOT EXISTS (SELECT 1 FROM pruned WHERE id = ?1)",
                    )?
                    .execute(params![
                        event.id,
                        event.kind,
                        event.action,
                        event.workspace,
                        event.ordering_key,
                        event.received_at,
                        subject.identifier,
                        subject.title,
                        event.edited_from,
                    ])?;
                if inserted == 1 {
                    let sequence = connection.last_insert_rowid();
                    let headers = event.headers.to_bytes();
                    let digest = content_digest(&headers, &event.body);
                    connection
                        .prepare_cached("INSERT INTO content VALUES (?, ?, ?, ?)")?
                        .execute(params![sequence, headers, event.body, digest])?;
                    added.push(sequence);
                }
            }
            Ok(added)
        })
        .await?;
        let new = added.len();
        self.announce(added);
        Ok(new)
    }

    /// Records an attempt that begins. Returns its row, for [`Store::record`].
    pub(crate) async fn begin(&self, sequence: i64, attempt: Attempt) -> anyhow::Result<i64> {
        let begun = self
            .write(move |connection| {
                connection
                    .prepare_cached("UPDATE event SET attempts = attempts + 1 WHERE sequence = ?")?
                    .execute([sequence])?;
                write_attempt(connection, sequence, &attempt, None)
            })
            .await?;
        self.announce([sequence]);
        Ok(begun)
    }

    /// Records an attempt that has ended, in its row if it has one, and the event's state after it.
    pub(crate) async fn record(
        &self,
        sequence: i64,
        attempt: Attempt,
        begun: Option<i64>,
        state: State,
        due_at: UnixMillis,
    ) -> anyhow::Result<()> {
        self.write(move |connection| {
            let ended_at = attempt.at + attempt.took_ms;
            write_attempt(connection, sequence, &attempt, begun)?;
            connection
                .prepare_cached(
                    "UPDATE event SET state = ?2, attempts = attempts + ?3, due_at = ?4, finished_at = ?5
                     WHERE sequence = ?1",
                )?
                .execute(params![
                    sequence,
                    state.as_str(),
                    i64::from(begun.is_none()),
                    due_at,
                    (state != State::Waiting).then_some(ended_at)
                ])
                .map(drop)
        })
        .await?;
        self.announce([sequence]);
        Ok(())
    }

    /// Marks printed events as done.
    pub(crate) async fn mark_printed(
        &self,
        sequences: Vec<i64>,
        now: UnixMillis,
    ) -> anyhow::Result<()> {
        let marked = sequences.clone();
        self.write(move |connection| {
            let mut mark = connection.prepare_cached(
                "UPDATE event SET state = 'done', attempts = attempts + 1, finished_at = ?2 WHERE sequence = ?1",
            )?;
            for sequence in sequences {
                mark.execute(params![sequence, now])?;
            }
            Ok(())
        })
        .await?;
        self.announce(marked);
        Ok(())
    }

    /// Marks events to be handled as if they had just been received.
    pub(crate) async fn replay(&self, sequences: Vec<i64>) -> anyhow::Result<()> {
        let again = sequences.clone();
        self.write(move |connection| {
            let mut again = connection.prepare_cached(
                "UPDATE event SET state = 'waiting', attempts = 0, due_at = 0, finished_at = NULL
                 WHERE sequence = ?",
            )?;
            for sequence in sequences {
                again.execute([sequence])?;
            }
            Ok(())
        })
        .await?;
        self.announce(again);
        Ok(())
    }

    /// Whether another process has written since the last call.
    pub(crate) async fn changed_by_another(&self) -> anyhow::Result<bool> {
        self.writer.changed_by_another().await.map_err(Into::into)
    }
}

/// By which it is known that a disk has kept a content. SQLite does not notice a flipped bit in it.
fn content_digest(headers: &[u8], body: &[u8]) -> String {
    digest([digest(headers), digest(body)].concat().as_bytes())
}

/// Writes an attempt, in this row if it has one. Returns its row.
fn write_attempt(
    connection: &Connection,
    sequence: i64,
    attempt: &Attempt,
    row: Option<i64>,
) -> rusqlite::Result<i64> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO attempt (rowid, sequence, at, took, handler, outcome, result, answer)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            row,
            sequence,
            attempt.at,
            attempt.took_ms,
            attempt.handler,
            attempt.outcome,
            attempt.result,
            attempt.answer
        ])?;
    Ok(connection.last_insert_rowid())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn event(id: &str) -> Event {
        Event {
            id: id.to_owned(),
            kind: "Issue".to_owned(),
            action: "create".to_owned(),
            workspace: "w".to_owned(),
            ordering_key: "issue".to_owned(),
            received_at: 1,
            headers: Headers(vec![
                ("webhook-id".to_owned(), id.as_bytes().to_vec()),
                ("x-twice".to_owned(), b"a: b".to_vec()),
                ("x-twice".to_owned(), b"\xe4".to_vec()),
            ]),
            body: b"{ \"a\": 1 }\n\xff".to_vec(),
            edited_from: None,
        }
    }

    fn attempt(outcome: &str) -> Attempt {
        Attempt {
            at: 10,
            took_ms: 5,
            handler: "h".into(),
            outcome: outcome.into(),
            result: "200".into(),
            answer: b"ok".to_vec(),
        }
    }

    #[tokio::test]
    async fn an_id_is_stored_once_and_waits_until_it_is_settled_also_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        let store = Store::open(&path, 0).unwrap();
        let three = vec![event("a"), event("b"), event("a")];
        assert_eq!(store.add(three).await.unwrap(), 2);
        assert_eq!(store.add(vec![event("b"), event("c")]).await.unwrap(), 1);
        let waiting = store.waiting(0, u32::MAX).await.unwrap();
        assert_eq!(waiting.len(), 3);
        let first = waiting[0].sequence;
        store
            .record(first, attempt("done"), None, State::Done, 0)
            .await
            .unwrap();
        store
            .record(
                waiting[1].sequence,
                attempt("retry"),
                None,
                State::Waiting,
                99,
            )
            .await
            .unwrap();
        drop(store);
        let store = Store::open(&path, 0).unwrap();
        let waiting = store.waiting(0, u32::MAX).await.unwrap();
        assert_eq!(waiting.len(), 2);
        assert_eq!(waiting[0].due_at, 99);
        let loaded = store.load(waiting[0].sequence).await.unwrap().unwrap();
        assert_eq!((loaded.content.event, loaded.attempts), (event("b"), 1));
        assert!(loaded.content.is_intact);
        store.replay(vec![first]).await.unwrap();
        assert_eq!(store.waiting(0, u32::MAX).await.unwrap()[0].sequence, first);
        assert_eq!(store.attempts(first).await.unwrap(), [attempt("done")]);
    }

    #[tokio::test]
    async fn what_gathers_is_written_together_and_one_failure_spoils_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("events.db"), 0).unwrap();
        let mut writes = Vec::new();
        for at in 0..50 {
            let store = store.clone();
            writes.push(tokio::spawn(async move {
                if at == 25 {
                    let wrong =
                        |c: &Connection| c.execute("INSERT INTO pruned VALUES (NULL, 1)", []);
                    store.write(wrong).await.map(|_| 0)
                } else {
                    store.add(vec![event(&format!("{at}"))]).await
                }
            }));
        }
        let mut stored = 0;
        for write in writes {
            stored += write.await.unwrap().unwrap_or_default();
        }
        assert_eq!(stored, 49);
        assert_eq!(store.waiting(0, u32::MAX).await.unwrap().len(), 49);
    }

    #[tokio::test]
    async fn a_full_disk_refuses_and_the_store_goes_on_once_there_is_room() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("events.db"), 0).unwrap();
        let pages =
            |count: i64| move |c: &Connection| c.pragma_update(None, "max_page_count", count);
        store.write(pages(20)).await.unwrap();
        let mut large = event("a");
        large.body = vec![b'x'; 1_000_000];
        let error = store.add(vec![large.clone()]).await.unwrap_err();
        assert!(format!("{error:#}").contains("full"), "{error:#}");
        assert!(!is_damage(&error));
        assert_eq!(store.add(vec![event("b")]).await.unwrap(), 1);
        store.write(pages(1_000_000)).await.unwrap();
        assert_eq!(store.add(vec![large]).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_damaged_file_is_moved_away_and_a_new_one_is_begun() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        let damaged = "not a database, but long enough to be looked at as one";
        std::fs::write(&path, damaged).unwrap();
        let store = Store::open(&path, 7).unwrap();
        assert_eq!(store.add(vec![event("a")]).await.unwrap(), 1);
        let aside = directory.path().join("events.damaged-7.db");
        assert_eq!(std::fs::read_to_string(aside).unwrap(), damaged);
    }

    #[tokio::test]
    async fn a_flipped_bit_is_noticed_and_what_an_earlier_version_stored_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        let store = Store::open(&path, 0).unwrap();
        store.add(vec![event("a"), event("b")]).await.unwrap();
        let other = Connection::open(&path).unwrap();
        other
            .execute(
                "UPDATE content SET body = CAST('{ \"b\": 1 }' AS BLOB) WHERE sequence = 1",
                [],
            )
            .unwrap();
        assert!(!store.load(1).await.unwrap().unwrap().content.is_intact);
        assert!(store.load(2).await.unwrap().unwrap().content.is_intact);
        drop(store);
        other
            .execute_batch(
                "ALTER TABLE content DROP COLUMN digest; DROP INDEX ordered; ALTER TABLE event DROP COLUMN identifier;
                 ALTER TABLE event DROP COLUMN title; ALTER TABLE event DROP COLUMN edited_from; PRAGMA user_version = 1",
            )
            .unwrap();
        for refused in [Store::open_to_read(&path), Store::open_existing(&path)] {
            let error = format!("{:#}", refused.unwrap_err());
            assert!(error.contains("start `edge-agent up` again"), "{error}");
        }
        let store = Store::open(&path, 0).unwrap();
        assert!(store.load(1).await.unwrap().unwrap().content.is_intact);
        store.add(vec![event("c")]).await.unwrap();
        assert!(store.load(3).await.unwrap().unwrap().content.is_intact);
    }

    #[test]
    fn a_file_of_another_version_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch("CREATE TABLE event (a); PRAGMA user_version = 9")
            .unwrap();
        let error = format!("{:#}", Store::open(&path, 0).unwrap_err());
        assert!(error.contains("another version"), "{error}");
        assert!(error.contains("events.db"), "{error}");
    }

    #[tokio::test]
    async fn a_write_of_another_process_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        let store = Store::open(&path, 0).unwrap();
        store.add(vec![event("a")]).await.unwrap();
        assert!(!store.changed_by_another().await.unwrap());
        let other = Store::open(&path, 0).unwrap();
        other.replay(vec![1]).await.unwrap();
        assert!(store.changed_by_another().await.unwrap());
        assert!(!store.changed_by_another().await.unwrap());
    }
}

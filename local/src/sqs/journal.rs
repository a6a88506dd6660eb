//! The journal of the queues in SQLite, so that a restart loses nothing.
//!
//! Invariant: changes are written in the order in which they were made; [`Journal::written`] completes when
//! all earlier changes are committed and synced. One thread writes. The changes that arrive while it commits share the next
//! transaction, and those that nobody waits for are written with the next ones that somebody waits for, or after [`LATER`].
//!
//! While the file cannot be written, as on a full disk, whoever waits gets an error, and nothing more is accepted
//! ([`Journal::accepts`]). The transaction is tried again until it succeeds.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use protocol::clock::UnixMillis;
use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use super::error::SqsError;
use super::message::Message;
use super::queue::{Key, MAX_VISIBILITY_SECONDS, Queue, Sent};
use crate::stored::{self, IDLE, tidy};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS queue (name TEXT PRIMARY KEY, attributes TEXT NOT NULL, created_at INTEGER NOT NULL)
        STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS message (
        sequence INTEGER PRIMARY KEY, queue TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL,
        attributes TEXT NOT NULL, group_id TEXT NOT NULL, deduplication_id TEXT NOT NULL,
        sent_at INTEGER NOT NULL, received INTEGER NOT NULL, first_received_at INTEGER, source TEXT,
        visible_at INTEGER, nonce TEXT, received_at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS sent (
        queue TEXT NOT NULL, key TEXT NOT NULL, until INTEGER NOT NULL, message_id TEXT NOT NULL,
        sequence INTEGER NOT NULL, PRIMARY KEY (queue, key)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS sent_until ON sent (until);
";

/// How long a change can be unwritten that nobody waits for.
const LATER: Duration = Duration::from_millis(20);
/// How many such changes there can be.
const LATER_CHANGES: usize = 1000;

/// How long it waits before it tries a failed transaction again.
const RETRY: Duration = Duration::from_millis(500);

/// A change of the queues.
pub(super) enum Change {
    PutQueue {
        name: String,
        attributes: String,
        created_at: UnixMillis,
    },
    DropQueue(String),
    /// One change, so that a crash cannot separate its parts: both a message and its deduplication id are stored, or
    /// neither, and a moved message is in one queue.
    Put {
        queue: String,
        sequence: u64,
        message: Box<Message>,
        /// With the key as text.
        sent: Option<(String, Sent)>,
        replaces: Option<u64>,
    },
    /// A message was received, or its visibility was changed.
    Flight {
        sequence: u64,
        received: u32,
        first_received_at: Option<UnixMillis>,
        received_at: UnixMillis,
        flight: Option<(UnixMillis, String)>,
    },
    Delete(u64),
    Written(oneshot::Sender<()>),
}

/// Sends changes to the writer.
#[derive(Debug)]
pub(super) struct Journal {
    changes: mpsc::Sender<Change>,
    is_failing: Arc<AtomicBool>,
}

/// The stored queues, and the next free sequence number.
pub(super) struct Restored {
    pub(super) queues: BTreeMap<String, Queue>,
    pub(super) next: u64,
}

impl Journal {
    /// Opens or creates the file, reads what it holds, and starts the writer.
    pub(super) fn open(path: &Path, now: UnixMillis) -> anyhow::Result<(Self, Restored)> {
        stored::check(path)?;
        let connection = stored::open(path)
            .and_then(|connection| {
                connection.pragma_update(None, "journal_mode", "WAL")?;
                connection.pragma_update(None, "synchronous", "FULL")?;
                connection.execute_batch(SCHEMA)?;
                Ok(connection)
            })
            .with_context(|| format!("cannot open the queues in `{}`", path.display()))?;
        let restored = restore(&connection, now)
            .with_context(|| format!("cannot read the queues in `{}`", path.display()))?;
        let (changes, received) = mpsc::channel();
        let is_failing = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            connection,
            changes: received,
            is_failing: Arc::clone(&is_failing),
        };
        std::thread::Builder::new()
            .name("sqs-journal".to_owned())
            .spawn(move || writer.run())
            .context("cannot start the queues' writer")?;
        let journal = Self {
            changes,
            is_failing,
        };
        Ok((journal, restored))
    }

    /// Appends a change, which is written later.
    pub(super) fn append(&self, change: Change) {
        // The writer ends after its senders.
        let _ = self.changes.send(change);
    }

    /// Fails while the file cannot be written: what is accepted then is only in memory, and there would be ever more of it.
    pub(super) fn accepts(&self) -> Result<(), SqsError> {
        if self.is_failing.load(Ordering::Relaxed) {
            return Err(unwritten());
        }
        Ok(())
    }

    /// Completes once all earlier changes are on the disk.
    pub(super) fn written(&self) -> oneshot::Receiver<()> {
        let (done, written) = oneshot::channel();
        self.append(Change::Written(done));
        written
    }
}

/// Waits for [`Journal::written`].
pub(super) async fn committed(written: Option<oneshot::Receiver<()>>) -> Result<(), SqsError> {
    match written {
        None => Ok(()),
        Some(written) => written.await.map_err(|_| unwritten()),
    }
}

fn unwritten() -> SqsError {
    SqsError::internal("the file of the queues cannot be written now; see the log")
}

/// The changes of one transaction, and who waits for it.
#[derive(Default)]
struct Batch {
    changes: Vec<Option<Change>>,
    /// Where the last [`Change::Flight`] of a message is among the changes.
    flights: HashMap<u64, usize>,
    waiting: Vec<oneshot::Sender<()>>,
    /// When the latest message was sent.
    latest: Option<UnixMillis>,
}

impl Batch {
    /// Adds a change. A receive that is followed by another one, or by the end of its message, need not be written.
    fn add(&mut self, change: Change) {
        match &change {
            Change::Put { message, .. } => self.latest = Some(message.sent_at),
            Change::Flight { sequence, .. } => {
                let earlier = self.flights.insert(*sequence, self.changes.len());
                self.remove(earlier);
            }
            Change::Delete(sequence) => {
                let earlier = self.flights.remove(sequence);
                self.remove(earlier);
            }
            Change::PutQueue { .. } | Change::DropQueue(_) | Change::Written(_) => {}
        }
        match change {
            Change::Written(waiting) => self.waiting.push(waiting),
            change => self.changes.push(Some(change)),
        }
    }

    fn remove(&mut self, at: Option<usize>) {
        if let Some(at) = at {
            self.changes[at] = None;
        }
    }

    /// Collects changes until somebody waits for them, they are many, or the first is old enough.
    fn collect(first: Change, changes: &mpsc::Receiver<Change>) -> Self {
        let mut batch = Self::default();
        batch.add(first);
        let due_at = Instant::now() + LATER;
        while batch.waiting.is_empty() && batch.changes.len() < LATER_CHANGES {
            let left = due_at.saturating_duration_since(Instant::now());
            match changes.recv_timeout(left) {
                Ok(change) => batch.add(change),
                Err(_) => break,
            }
        }
        while let Ok(change) = changes.try_recv() {
            batch.add(change);
        }
        batch
    }

    fn commit(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        let transaction = connection.transaction()?;
        for change in self.changes.iter().flatten() {
            apply(&transaction, change)?;
        }
        if let Some(now) = self.latest {
            (transaction.prepare_cached("DELETE FROM sent WHERE until < ?")?)
                .execute(params![now])?;
        }
        transaction.commit()
    }
}

/// The one that writes the file.
struct Writer {
    connection: Connection,
    changes: mpsc::Receiver<Change>,
    is_failing: Arc<AtomicBool>,
}

impl Writer {
    /// Writes until nobody can make a change any more and all are written.
    fn run(mut self) {
        let mut until_tidied = IDLE;
        loop {
            let first = match self.changes.recv_timeout(until_tidied) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => {
                    until_tidied = tidy(&self.connection);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            until_tidied = IDLE;
            let mut batch = Batch::collect(first, &self.changes);
            if let Err(error) = batch.commit(&mut self.connection) {
                tracing::error!(%error, "the queues' file cannot be written: nothing is accepted until it can be");
                self.is_failing.store(true, Ordering::Relaxed);
                if !self.retry(&mut batch) {
                    return;
                }
                self.is_failing.store(false, Ordering::Relaxed);
                tracing::warn!("the queues' file can be written again");
            }
            for waiting in batch.waiting {
                let _ = waiting.send(());
            }
        }
    }

    /// Tries a failed transaction again, with what is changed meanwhile, until it succeeds. Returns whether it has before the
    /// process ends.
    fn retry(&mut self, batch: &mut Batch) -> bool {
        loop {
            // The callers that wait see their sender dropped.
            batch.waiting.clear();
            let due_at = Instant::now() + RETRY;
            loop {
                let left = due_at.saturating_duration_since(Instant::now());
                match self.changes.recv_timeout(left) {
                    Ok(change) => batch.add(change),
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return false,
                }
            }
            if batch.commit(&mut self.connection).is_ok() {
                return true;
            }
        }
    }
}

fn put_message(
    connection: &Connection,
    queue: &str,
    sequence: u64,
    message: &Message,
) -> rusqlite::Result<()> {
    let attributes = serde_json::to_string(&*message.attributes)
        .map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
    let (visible_at, nonce) = message
        .flight
        .as_ref()
        .map(|(at, nonce)| (at, nonce))
        .unzip();
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            sequence,
            queue,
            message.id.to_string(),
            message.body,
            attributes,
            message.group,
            message.deduplication_id,
            message.sent_at,
            message.received,
            message.first_received_at,
            message.source,
            visible_at,
            nonce,
            message.received_at
        ])
        .map(drop)
}

fn apply(connection: &Connection, change: &Change) -> rusqlite::Result<()> {
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        connection.prepare_cached(sql)?.execute(values).map(drop)
    };
    match change {
        Change::PutQueue {
            name,
            attributes,
            created_at,
        } => run(
            "INSERT OR REPLACE INTO queue VALUES (?, ?, ?)",
            params![name, attributes, created_at],
        ),
        Change::DropQueue(name) => {
            run("DELETE FROM queue WHERE name = ?", params![name])?;
            run("DELETE FROM message WHERE queue = ?", params![name])?;
            run("DELETE FROM sent WHERE queue = ?", params![name])
        }
        Change::Put {
            queue,
            sequence,
            message,
            sent,
            replaces,
        } => {
            put_message(connection, queue, *sequence, message)?;
            if let Some((key, sent)) = sent {
                let message_id = sent.message_id.to_string();
                run(
                    "INSERT OR REPLACE INTO sent VALUES (?, ?, ?, ?, ?)",
                    params![queue, key, sent.until, message_id, sent.sequence],
                )?;
            }
            match replaces {
                Some(old) => run("DELETE FROM message WHERE sequence = ?", params![old]),
                None => Ok(()),
            }
        }
        Change::Flight {
            sequence,
            received,
            first_received_at,
            received_at,
            flight,
        } => {
            let (visible_at, nonce) = flight.as_ref().map(|(at, nonce)| (at, nonce)).unzip();
            run(
                "UPDATE message SET received = ?2, first_received_at = ?3, received_at = ?4, visible_at = ?5,
                 nonce = ?6 WHERE sequence = ?1",
                params![sequence, received, first_received_at, received_at, visible_at, nonce],
            )
        }
        Change::Delete(sequence) => {
            run("DELETE FROM message WHERE sequence = ?", params![sequence])
        }
        Change::Written(_) => Ok(()),
    }
}

fn restore(connection: &Connection, now: UnixMillis) -> anyhow::Result<Restored> {
    connection.execute("DELETE FROM sent WHERE until <= ?", params![now])?;
    let mut queues = BTreeMap::new();
    let mut next = 1;
    let mut read = connection.prepare("SELECT name, attributes, created_at FROM queue")?;
    let mut rows = read.query([])?;
    while let Some(row) = rows.next()? {
        let attributes: String = row.get(1)?;
        let queue = Queue::new(serde_json::from_str(&attributes)?, row.get(2)?)?;
        queues.insert(row.get::<_, String>(0)?, queue);
    }
    let mut read = connection.prepare("SELECT * FROM message ORDER BY sequence")?;
    let mut rows = read.query([])?;
    while let Some(row) = rows.next()? {
        let sequence: u64 = row.get("sequence")?;
        next = next.max(sequence + 1);
        let attributes: String = row.get("attributes")?;
        let visible_at: Option<UnixMillis> = row.get("visible_at")?;
        // The clock may have been set back since it was written.
        let latest = now + MAX_VISIBILITY_SECONDS * 1000;
        let visible_at = visible_at.map(|at| at.min(latest));
        let nonce: Option<String> = row.get("nonce")?;
        let message = Message {
            id: row.get::<_, String>("id")?.parse()?,
            body: Arc::new(row.get("body")?),
            attributes: Arc::new(serde_json::from_str(&attributes)?),
            group: row.get("group_id")?,
            deduplication_id: row.get("deduplication_id")?,
            sent_at: row.get("sent_at")?,
            received: row.get("received")?,
            first_received_at: row.get("first_received_at")?,
            source: row.get("source")?,
            flight: visible_at.zip(nonce),
            received_at: row.get("received_at")?,
        };
        if let Some(queue) = queues.get_mut(&row.get::<_, String>("queue")?) {
            queue.insert(sequence, message);
        }
    }
    let mut read = connection
        .prepare("SELECT queue, key, until, message_id, sequence FROM sent ORDER BY until")?;
    let mut rows = read.query([])?;
    while let Some(row) = rows.next()? {
        let key = Key::of(&row.get::<_, String>(1)?);
        let sent = Sent {
            until: row.get(2)?,
            message_id: row.get::<_, String>(3)?.parse()?,
            sequence: row.get(4)?,
        };
        next = next.max(sent.sequence + 1);
        if let Some(queue) = queues.get_mut(&row.get::<_, String>(0)?) {
            queue.remember(key, sent);
        }
    }
    Ok(Restored { queues, next })
}

//! The thread that writes, or in a simulation the caller's.
//!
//! Invariant: a write succeeds only after its transaction is committed.

use std::sync::{Arc, Mutex, PoisonError, mpsc};

use rusqlite::Connection;
use tokio::sync::oneshot;

/// How many writes share a transaction at most.
const BATCH: usize = 512;

/// Sends the result of a write, once it is known whether its transaction was committed.
type SendResult = Box<dyn FnOnce(Result<(), rusqlite::Error>) + Send>;

/// A write within a transaction, or the reason why there is none. Returns whether it succeeded, and how to send its result.
type Job = Box<dyn FnOnce(Result<&Connection, rusqlite::Error>) -> (bool, SendResult) + Send>;

pub(super) enum Request {
    Write(Job),
    /// Asks for `PRAGMA data_version`, which only other connections' commits change.
    Version(oneshot::Sender<rusqlite::Result<bool>>),
}

/// Where writes are made.
#[derive(Debug, Clone)]
pub(super) enum Writer {
    /// In the thread, which ends with the last clone.
    Thread(mpsc::Sender<Request>),
    /// In the caller's thread.
    Here(Arc<Mutex<Connection>>),
}

/// The thread has ended, which only a panic can cause.
fn gone() -> rusqlite::Error {
    rusqlite::Error::InvalidQuery
}

impl Writer {
    pub(super) fn start(connection: Connection) -> std::io::Result<Self> {
        let (orders, received) = mpsc::channel();
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || run(&connection, &received))?;
        Ok(Self::Thread(orders))
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> rusqlite::Result<T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let result = connection.and_then(work);
            let is_ok = result.is_ok();
            let send: SendResult = Box::new(move |committed| {
                let _ = answer.send(result.and_then(|value| committed.map(|()| value)));
            });
            (is_ok, send)
        });
        match self {
            Self::Thread(orders) => orders.send(Request::Write(job)).map_err(|_| gone())?,
            Self::Here(connection) => {
                let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
                commit(&connection, vec![job]);
            }
        }
        answered.await.map_err(|_| gone())?
    }

    pub(super) async fn changed_by_another(&self) -> rusqlite::Result<bool> {
        let Self::Thread(orders) = self else {
            return Ok(false);
        };
        let (answer, answered) = oneshot::channel();
        orders.send(Request::Version(answer)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

fn run(connection: &Connection, orders: &mpsc::Receiver<Request>) {
    let mut version = data_version(connection).unwrap_or_default();
    while let Ok(first) = orders.recv() {
        let mut jobs = Vec::new();
        for order in std::iter::once(first).chain(orders.try_iter().take(BATCH - 1)) {
            match order {
                Request::Write(job) => jobs.push(job),
                Request::Version(answer) => {
                    let now = data_version(connection);
                    let changed = now.map(|now| std::mem::replace(&mut version, now) != now);
                    let _ = answer.send(changed);
                }
            }
        }
        if !jobs.is_empty() {
            commit(connection, jobs);
        }
    }
}

fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA data_version", [], |row| row.get(0))
}

/// Runs the writes in one transaction, each in a savepoint, and sends their results.
fn commit(connection: &Connection, jobs: Vec<Job>) {
    let mut failure = connection
        .execute_batch("BEGIN IMMEDIATE")
        .err()
        .map(TransactionError::new);
    let mut answers = Vec::with_capacity(jobs.len());
    for job in jobs {
        let (is_well, answer) = match &failure {
            Some(failure) => job(Err(failure.error())),
            None => {
                let begun = connection.execute_batch("SAVEPOINT one");
                job(begun.map(|()| connection))
            }
        };
        answers.push(answer);
        if failure.is_none() {
            let ended = connection.execute_batch(if is_well {
                "RELEASE one"
            } else {
                "ROLLBACK TO one; RELEASE one"
            });
            // A full disk may end the whole transaction. Then nothing of it is kept and nothing more is tried.
            failure = ended.err().map(TransactionError::new);
        }
    }
    let failure = failure.or_else(|| {
        connection
            .execute_batch("COMMIT")
            .err()
            .map(TransactionError::new)
    });
    if failure.is_some() && !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    for answer in answers {
        answer(
            failure
                .as_ref()
                .map_or(Ok(()), |failure| Err(failure.error())),
        );
    }
}

/// The error of all writes of a transaction.
struct TransactionError {
    code: rusqlite::ffi::Error,
    text: String,
}

impl TransactionError {
    #[expect(clippy::needless_pass_by_value, reason = "it takes the error's place")]
    fn new(error: rusqlite::Error) -> Self {
        let unknown = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR);
        Self {
            code: error.sqlite_error().copied().unwrap_or(unknown),
            text: error.to_string(),
        }
    }

    fn error(&self) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(self.code, Some(self.text.clone()))
    }
}

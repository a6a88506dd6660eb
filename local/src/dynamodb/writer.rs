//! The one writer of a table in a file.
//!
//! Invariant: no answer says what is not on the disk. SQLite commits here without waiting for the disk; the writer carries out
//! the calls that have arrived, waits for the disk once, and then answers all of them. A read is answered once what it may have
//! seen is on the disk ([`Writer::synced`]).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};

use anyhow::Context as _;
use axum::http::Response;
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::Changes;
use crate::stored::{IDLE, tidy};

/// How many calls wait for the disk together.
const GROUP: usize = 256;
/// How many calls can wait at all. Others wait for room, which takes no thread and no copy of their bodies.
const ROOM: usize = 1_024;

/// A call that changes the table.
struct Call {
    action: String,
    body: Vec<u8>,
    answered: oneshot::Sender<Response<Vec<u8>>>,
    _room: OwnedSemaphorePermit,
}

/// Sends calls to the writer, which ends after the last clone of this.
#[derive(Clone)]
pub(super) struct Writer {
    calls: mpsc::Sender<Call>,
    room: Arc<Semaphore>,
    /// How many calls were begun.
    begun: Arc<AtomicU64>,
    /// How many of them are on the disk.
    synced: watch::Receiver<u64>,
}

impl Writer {
    /// Starts the writer. `sync` returns once all commits are on the disk; `tidied` is another connection to the file.
    pub(super) fn start(
        changes: Changes,
        sync: impl FnMut() -> io::Result<()> + Send + 'static,
        tidied: Connection,
    ) -> anyhow::Result<Self> {
        let (calls, received) = mpsc::channel();
        let (synced, is_synced) = watch::channel(0);
        let begun = Arc::new(AtomicU64::new(0));
        let thread = Thread {
            changes,
            calls: received,
            sync,
            tidied,
            begun: Arc::clone(&begun),
            synced,
        };
        std::thread::Builder::new()
            .name("dynamodb".to_owned())
            .spawn(move || thread.run())
            .context("cannot start the table's writer")?;
        Ok(Self {
            calls,
            room: Arc::new(Semaphore::new(ROOM)),
            begun,
            synced: is_synced,
        })
    }

    /// Carries out a call. None if the writer has ended.
    pub(super) async fn call(&self, action: &str, body: &[u8]) -> Option<Response<Vec<u8>>> {
        let room = Arc::clone(&self.room).acquire_owned().await.ok()?;
        let (answered, answer) = oneshot::channel();
        let call = Call {
            action: action.to_owned(),
            body: body.to_vec(),
            answered,
            _room: room,
        };
        self.calls.send(call).ok()?;
        answer.await.ok()
    }

    /// How many calls were begun.
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::SeqCst)
    }

    /// Returns once so many calls are on the disk.
    pub(super) async fn synced(&self, begun: u64) {
        // It fails if the writer has ended, and with it the process.
        let _ = self
            .synced
            .clone()
            .wait_for(|synced| *synced >= begun)
            .await;
    }
}

struct Thread<S> {
    changes: Changes,
    calls: mpsc::Receiver<Call>,
    sync: S,
    tidied: Connection,
    begun: Arc<AtomicU64>,
    synced: watch::Sender<u64>,
}

impl<S: FnMut() -> io::Result<()>> Thread<S> {
    fn run(mut self) {
        let mut until_tidied = IDLE;
        loop {
            match self.calls.recv_timeout(until_tidied) {
                Ok(call) => {
                    self.group(call);
                    until_tidied = IDLE;
                }
                Err(RecvTimeoutError::Timeout) => until_tidied = tidy(&self.tidied),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Carries out this call and those that have arrived meanwhile.
    fn group(&mut self, first: Call) {
        let mut carried_out = Vec::new();
        let mut next = Some(first);
        while let Some(call) = next {
            self.begun.fetch_add(1, Ordering::SeqCst);
            let answer = self.changes.carry_out(&call.action, &call.body);
            carried_out.push((call.answered, answer));
            next = (carried_out.len() < GROUP)
                .then(|| self.calls.try_recv().ok())
                .flatten();
        }
        if let Err(error) = (self.sync)() {
            // What the disk has of the last commits is not known (fsync(2), EIO): only a new start reads it.
            tracing::error!(%error, "the table's file cannot be written to the disk: the process ends");
            std::process::exit(1);
        }
        self.synced.send_replace(self.begun.load(Ordering::SeqCst));
        for (answered, answer) in carried_out {
            let _ = answered.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protocol::clock::Clock;
    use serde_json::json;

    use super::super::{DynamoDb, TABLE};
    use super::*;

    fn put(at: usize) -> Vec<u8> {
        let item = json!({"pk": {"S": at.to_string()}, "sk": {"S": "s"}});
        json!({"TableName": TABLE, "Item": item})
            .to_string()
            .into_bytes()
    }

    #[tokio::test]
    async fn calls_that_wait_for_a_slow_disk_wait_together_and_reads_wait_for_what_they_saw() {
        let file = tempfile::tempdir().unwrap();
        let path = file.path().join("table.db");
        let changes = DynamoDb::open(Some(&path), Clock::system())
            .unwrap()
            .changes;
        let (disk, is_free) = mpsc::channel::<()>();
        let syncs = Arc::new(AtomicU64::new(0));
        let sync = {
            let syncs = Arc::clone(&syncs);
            move || {
                syncs.fetch_add(1, Ordering::SeqCst);
                let _ = is_free.recv();
                Ok(())
            }
        };
        let tidied = Connection::open(&path).unwrap();
        let writer = Writer::start(changes, sync, tidied).unwrap();
        let calls: Vec<_> = (0..100)
            .map(|at| {
                let writer = writer.clone();
                tokio::spawn(async move { writer.call("PutItem", &put(at)).await.unwrap() })
            })
            .collect();
        while writer.begun() == 0 {
            tokio::task::yield_now().await;
        }
        let read = writer.synced(writer.begun());
        tokio::pin!(read);
        let soon = Duration::from_millis(50);
        let waits = tokio::time::timeout(soon, &mut read).await;
        assert!(waits.is_err(), "it is not on the disk");
        drop(disk);
        read.await;
        for call in calls {
            assert_eq!(call.await.unwrap().status(), 200);
        }
        // Those that came during the first wait share the second.
        let syncs = syncs.load(Ordering::SeqCst);
        assert!(syncs < 20, "{syncs} waits for 100 calls");
    }
}

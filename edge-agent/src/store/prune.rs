//! Deletes handled events by age and by size.
//!
//! Invariant: an event that waits is never deleted, and an id is stored for longer than the relay could deliver it again.

use std::time::Duration;

use protocol::clock::{UnixMillis, millis};
use rusqlite::{Connection, params};

use super::Store;

/// How many events are deleted in one transaction, so that deliveries do not wait long.
const BATCH: u32 = 200;

/// How long the id of a deleted event is stored: a day longer than the relay can keep a parked event (`MAILBOX_SECONDS`).
const ID_LIFETIME: Duration = Duration::from_secs(31 * 86_400);

/// The bytes that are used in the file.
fn used(connection: &Connection) -> rusqlite::Result<u64> {
    let pragma =
        |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |r| r.get::<_, u64>(0));
    Ok((pragma("page_count")? - pragma("freelist_count")?) * pragma("page_size")?)
}

fn delete_batch(
    connection: &Connection,
    now: UnixMillis,
    finished_before: UnixMillis,
) -> rusqlite::Result<usize> {
    let mut find = connection.prepare_cached(
        "SELECT sequence FROM event WHERE finished_at IS NOT NULL AND finished_at < ? ORDER BY finished_at LIMIT ?",
    )?;
    let found: Vec<i64> = find
        .query_map(params![finished_before, BATCH], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for sequence in &found {
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO pruned SELECT id, ?2 FROM event WHERE sequence = ?1",
            )?
            .execute(params![sequence, now])?;
        for table in ["event", "content", "attempt"] {
            connection
                .prepare_cached(&format!("DELETE FROM {table} WHERE sequence = ?"))?
                .execute([sequence])?;
        }
    }
    Ok(found.len())
}

impl Store {
    /// Deletes events that were handled longer ago than `keep`, then the oldest until the rest fits into `keep_size` bytes.
    /// Returns how many it deleted.
    pub(crate) async fn prune(
        &self,
        now: UnixMillis,
        keep: Duration,
        keep_size: u64,
    ) -> anyhow::Result<usize> {
        let mut deleted = 0;
        loop {
            let batch = self
                .write(move |connection| {
                    let mut batch = delete_batch(connection, now, now - millis(keep))?;
                    if batch == 0 && used(connection)? > keep_size {
                        batch = delete_batch(connection, now, i64::MAX)?;
                    }
                    Ok(batch)
                })
                .await?;
            deleted += batch;
            if batch == 0 {
                break;
            }
        }
        self.write(move |connection| {
            connection.execute(
                "DELETE FROM pruned WHERE at < ?",
                [now - millis(ID_LIFETIME)],
            )
        })
        .await?;
        if deleted > 0 {
            self.write(|connection| {
                // It gives one page back with every step.
                let mut vacuum = connection.prepare("PRAGMA incremental_vacuum")?;
                let mut pages = vacuum.query([])?;
                while pages.next()?.is_some() {}
                Ok(())
            })
            .await?;
        }
        Ok(deleted)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::event;
    use super::super::{Attempt, State};
    use super::*;

    async fn settle(store: &Store, sequence: i64, at: i64, state: State) {
        let attempt = Attempt {
            at,
            took_ms: 0,
            handler: String::new(),
            outcome: String::new(),
            result: String::new(),
            answer: Vec::new(),
        };
        store
            .record(sequence, attempt, None, state, 0)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn what_is_old_goes_what_waits_stays_and_its_id_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("events.db"), 0).unwrap();
        let ids = ["old", "failed", "new", "waiting"];
        store.add(ids.map(event).to_vec()).await.unwrap();
        settle(&store, 1, 1_000, State::Done).await;
        settle(&store, 2, 1_000, State::Failed).await;
        settle(&store, 3, 90_000, State::Done).await;
        let keep = Duration::from_secs(60);
        assert_eq!(store.prune(100_000, keep, u64::MAX).await.unwrap(), 2);
        let left = store.list(super::super::Filter::default()).await.unwrap();
        assert_eq!(
            left.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(),
            ["new", "waiting"]
        );
        assert_eq!(store.add(vec![event("old")]).await.unwrap(), 0);
        let later = 100_000 + millis(ID_LIFETIME) + 1;
        store
            .prune(later, Duration::from_secs(u32::MAX.into()), u64::MAX)
            .await
            .unwrap();
        assert_eq!(store.add(vec![event("old")]).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn the_oldest_go_until_the_rest_has_room_and_the_room_is_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        let store = Store::open(&path, 0).unwrap();
        for at in 0..600_i64 {
            let mut large = event(&format!("{at}"));
            large.body = vec![b'x'; 10_000];
            store.add(vec![large]).await.unwrap();
            if at > 0 {
                settle(&store, at + 1, at, State::Done).await;
            }
        }
        let keep = Duration::from_secs(u32::MAX.into());
        let deleted = store.prune(0, keep, 3_000_000).await.unwrap();
        assert!((300..600).contains(&deleted), "{deleted}");
        let left = store.list(super::super::Filter::default()).await.unwrap();
        assert_eq!(left[0].id, "0", "what waits stays");
        assert_eq!(left.last().unwrap().id, "599");
        let unused = store.write(|connection| {
            connection.query_row("PRAGMA freelist_count", [], |row| row.get::<_, u64>(0))
        });
        assert_eq!(unused.await.unwrap(), 0, "the room is given back");
    }
}

//! What the two SQLite files of a data directory have in common: they are opened only if they are intact, and give back what
//! they do not use.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use edge_agent::write_ahead_log;
use rusqlite::{Connection, ErrorCode};

/// After how long without a write a file is tidied.
pub(crate) const IDLE: Duration = Duration::from_secs(1);
/// How many pages are given back at once. A write that comes meanwhile waits for this long.
const PAGES: u32 = 1_000;
/// `PRAGMA auto_vacuum`: pages are given back when that is asked for.
const INCREMENTAL: i64 = 2;

/// Opens a file, before any other connection does: one that is open would not know how pages are given back now.
pub(crate) fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    let mode: i64 = connection.pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
    if mode != INCREMENTAL {
        // A file that has tables takes this over when it is written anew.
        connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; VACUUM;")?;
    }
    Ok(connection)
}

/// Fails if a file is damaged. Says what is lost if its log is.
pub(crate) fn check(path: &Path) -> anyhow::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let copy = path.with_extension("db-wal-damaged");
    if let Some(damage) = write_ahead_log::report_damage(path, &copy) {
        tracing::warn!("{damage}");
    }
    let found = Connection::open(path).and_then(|connection| {
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))
    });
    let found = found.map_err(|error| {
        let what = match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => damaged(path),
            _ => format!("cannot read `{}`", path.display()),
        };
        anyhow::Error::new(error).context(what)
    })?;
    ensure!(
        found == "ok",
        "{}: {}",
        damaged(path),
        found.replace('\n', " ")
    );
    Ok(())
}

/// What is said of a damaged file.
pub(crate) fn damaged(path: &Path) -> String {
    format!(
        "`{}` is damaged: restore the data directory from a copy, or start with another one, where workers register again by \
         themselves",
        path.display()
    )
}

/// Gives back a part of what a file does not use, and empties its log. Returns after how long without a write there is more to
/// do.
pub(crate) fn tidy(connection: &Connection) -> Duration {
    match give_back(connection) {
        Ok(true) => Duration::ZERO,
        // Nothing is left, or a reader was in the way: after the next write.
        Ok(false) | Err(_) => Duration::MAX,
    }
}

/// Returns whether there is more.
fn give_back(connection: &Connection) -> rusqlite::Result<bool> {
    let mut vacuum = connection.prepare_cached(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
    let mut given_back = vacuum.query([])?;
    // Each step gives back one page.
    while given_back.next()?.is_some() {}
    drop(given_back);
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    let free: i64 = connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    Ok(free > 0)
}

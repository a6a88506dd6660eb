//! The write-ahead log of a SQLite file (<https://www.sqlite.org/fileformat2.html#walformat>). SQLite reads it up to the first
//! frame that is not as it was written, and drops all that follows without an error.

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// The beginning of a log whose checksums are over big-endian words.
const MAGIC_BIG_ENDIAN: u32 = 0x377f_0683;

/// Says, for people to read, what the log of a database loses because it is damaged, or that it cannot be read. Returns none if
/// the log is intact or absent.
///
/// A damaged log is copied. Then SQLite puts what is intact into the database and empties the log: otherwise what was lost would stay behind
/// the next transactions, and would be reported again.
pub fn report_damage(database: &Path, copy: &Path) -> Option<String> {
    let mut log = database.as_os_str().to_owned();
    log.push("-wal");
    let log = PathBuf::from(log);
    let damage = match damage(&log) {
        Ok(damage) => damage?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return Some(format!("`{}` cannot be read: {error}", log.display())),
    };
    let copied = match std::fs::copy(&log, copy) {
        Ok(_) => format!("it is copied to `{}`", copy.display()),
        Err(error) => {
            let _ = std::fs::remove_file(copy);
            format!("it could not be copied: {error}")
        }
    };
    // An error shows again when the database is opened.
    let _ = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .and_then(|database| database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
    Some(format!(
        "`{}` is damaged: {damage}; {copied}",
        log.display()
    ))
}

/// What is lost, if anything is. Frames of an earlier use of the file, which have another salt, do not count.
fn damage(log: &Path) -> io::Result<Option<String>> {
    let mut log = BufReader::new(std::fs::File::open(log)?);
    let mut header = [0; HEADER];
    if !read(&mut log, &mut header)? {
        return Ok(None);
    }
    let mut sums = Sums {
        is_big_endian: word(&header, 0) == MAGIC_BIG_ENDIAN,
        sums: (0, 0),
    };
    sums.add(&header[..24]);
    if sums.sums != (word(&header, 24), word(&header, 28)) {
        let damage = "all that was written since its last checkpoint is lost, acknowledged or not";
        return Ok(Some(damage.to_owned()));
    }
    let mut frame = vec![0; FRAME_HEADER + word(&header, 8) as usize];
    let (mut is_intact, mut lost) = (true, 0);
    while read(&mut log, &mut frame)? {
        if frame[8..16] != header[16..24] {
            is_intact = false;
            continue;
        }
        sums.add(&frame[..8]);
        sums.add(&frame[FRAME_HEADER..]);
        is_intact &= sums.sums == (word(&frame, 16), word(&frame, 20));
        let is_commit = word(&frame, 4) != 0;
        lost += usize::from(is_commit && !is_intact);
    }
    let damage = format!("its last {lost} transactions are lost, acknowledged or not");
    Ok((lost > 0).then_some(damage))
}

/// Fills the buffer. Returns whether the file was long enough.
fn read(log: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match log.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The checksum, over the header and all frames so far.
struct Sums {
    is_big_endian: bool,
    sums: (u32, u32),
}

impl Sums {
    fn add(&mut self, bytes: &[u8]) {
        let word = |at| {
            let word = word(bytes, at);
            if self.is_big_endian {
                word
            } else {
                word.swap_bytes()
            }
        };
        let (mut first, mut second) = self.sums;
        for at in (0..bytes.len()).step_by(8) {
            first = first.wrapping_add(word(at)).wrapping_add(second);
            second = second.wrapping_add(word(at + 4)).wrapping_add(first);
        }
        self.sums = (first, second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_reported_once_and_the_log_is_copied() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| directory.path().join(name);
        let connection = Connection::open(place("written.db")).unwrap();
        connection
            .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (a)")
            .unwrap();
        let insert = |connection: &Connection, number: i64| {
            let insert = "INSERT INTO t VALUES (?)";
            connection.execute(insert, [number]).unwrap();
        };
        (0..20).for_each(|number| insert(&connection, number));
        // As if the process had been killed.
        let (database, log, copy) = (place("some.db"), place("some.db-wal"), place("copy"));
        std::fs::copy(place("written.db"), &database).unwrap();
        let mut damaged = std::fs::read(place("written.db-wal")).unwrap();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        std::fs::write(&log, &damaged).unwrap();
        let said = report_damage(&database, &copy).unwrap();
        assert!(said.contains("is damaged: its last 1"), "{said}");
        assert_eq!(std::fs::read(&copy).unwrap(), damaged);
        let connection = Connection::open(&database).unwrap();
        (100..103).for_each(|number| insert(&connection, number));
        assert_eq!(report_damage(&database, &copy), None);
    }

    #[test]
    fn what_follows_damage_is_counted_and_an_intact_log_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("some.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .unwrap();
        connection.execute_batch("CREATE TABLE t (a)").unwrap();
        let write = |count| {
            for at in 0..count {
                connection
                    .execute("INSERT INTO t VALUES (?)", [at])
                    .unwrap();
            }
        };
        write(20);
        // The log is begun anew, over frames of its first use.
        connection
            .query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))
            .unwrap();
        write(10);
        let log = directory.path().join("some.db-wal");
        assert_eq!(damage(&log).unwrap(), None);
        let intact = std::fs::read(&log).unwrap();
        let frame = FRAME_HEADER + word(&intact, 8) as usize;
        for (at, lost) in [
            (HEADER + frame * 9 + 30, "its last 1 "),
            (HEADER + frame * 5 + 9, "its last 4 "),
            (HEADER + frame * 5 + 20, "its last 5 "),
            (HEADER + 1, "its last 10 "),
            (12, "all "),
            (0, "all "),
        ] {
            let mut damaged = intact.clone();
            damaged[at] ^= 1;
            std::fs::write(&log, damaged).unwrap();
            let found = damage(&log).unwrap().unwrap();
            assert!(found.starts_with(lost), "{at}: {found}");
        }
        let torn = &intact[..HEADER + frame * 5 + 100];
        std::fs::write(&log, torn).unwrap();
        assert_eq!(damage(&log).unwrap(), None, "what was never whole");
    }
}

//! Messages for people, one line each on stderr. Stdout is data.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use anstream::ColorChoice;
use parking_lot::Mutex;
use protocol::clock::{Clock, rfc3339};

use crate::printable::printable;

/// How many messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Volume {
    /// None: a simulation runs thousands of agents.
    Silent,
    /// Only those that a person should look at.
    Quiet,
    /// Also what happens.
    Normal,
    /// Also how it happens.
    Verbose,
}

/// Set once, before the first message: a level for messages, not a setting that code depends on.
static VOLUME: AtomicU8 = AtomicU8::new(Volume::Normal as u8);

/// Whether lines begin with the time. The daemon's do: they are read later.
static HAS_TIMES: AtomicBool = AtomicBool::new(false);

/// Sets how many messages are written, and whether in colour.
pub(crate) fn set(volume: Volume, color: ColorChoice) {
    VOLUME.store(volume as u8, Ordering::Relaxed);
    color.write_global();
}

/// Set once, before the first message, under a service manager that keeps no log of its own.
static LOG: Mutex<Option<Log>> = Mutex::new(None);

/// How large a log becomes. Then it is the older one, and the one before that goes.
const LOG_BYTES: u64 = 10_000_000;

/// From now on lines go to this file.
pub(crate) fn log_to(file: PathBuf) {
    *LOG.lock() = Some(Log(file));
}

struct Log(PathBuf);

impl Log {
    /// Appends a line. A failure is no reason to end.
    fn write(&self, line: &str) {
        let size = std::fs::metadata(&self.0).map_or(0, |file| file.len());
        if size > LOG_BYTES {
            let _ = std::fs::rename(&self.0, self.0.with_extension("old.log"));
        }
        let file = OpenOptions::new().create(true).append(true).open(&self.0);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

/// From now on lines begin with the time.
pub(crate) fn with_times() {
    HAS_TIMES.store(true, Ordering::Relaxed);
}

/// As much of an id as tells it from others and leaves room on a line. The commands take it for the whole.
pub(crate) fn short(id: &str) -> &str {
    id.get(..17).unwrap_or(id)
}

fn line(volume: Volume, prefix: &str, line: impl Display) {
    if VOLUME.load(Ordering::Relaxed) >= volume as u8 {
        let line = printable(&line.to_string());
        let begin = if HAS_TIMES.load(Ordering::Relaxed) {
            rfc3339(Clock::system().seconds() * 1000)
        } else {
            "edge-agent:".to_owned()
        };
        if let Some(log) = LOG.lock().as_mut() {
            log.write(
                &anstream::adapter::strip_str(&format!("{begin} {prefix}{line}\n")).to_string(),
            );
            return;
        }
        // A closed stderr is no reason to end.
        let _ = writeln!(anstream::stderr(), "{begin} {prefix}{line}");
    }
}

/// Writes what happened.
pub(crate) fn info(text: impl Display) {
    line(Volume::Normal, "", text);
}

/// Writes how it happened, with `-v`.
pub(crate) fn verbose(text: impl Display) {
    line(Volume::Verbose, "", text);
}

/// Writes what a person should look at.
pub(crate) fn warn(text: impl Display) {
    line(Volume::Quiet, "\x1b[33mwarning:\x1b[0m ", text);
}

/// Writes why the program ends.
pub(crate) fn error(text: impl Display) {
    line(Volume::Quiet, "\x1b[31merror:\x1b[0m ", text);
}

/// Writes what can be done about it.
pub(crate) fn hint(text: impl Display) {
    line(Volume::Normal, "\x1b[36mhint:\x1b[0m ", text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_two_files_of_a_bounded_size() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log(directory.path().join("edge-agent.log"));
        let line = "x".repeat(1_000_000);
        for _ in 0..35 {
            log.write(&line);
        }
        let sizes: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|file| file.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 2);
        assert!(
            sizes.iter().all(|size| *size <= LOG_BYTES + 1_000_000),
            "{sizes:?}"
        );
    }
}

//! Messages for people, one line each on stderr. Stdout is data.

use std::fmt::Display;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use anstream::ColorChoice;
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

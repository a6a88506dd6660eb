//! Messages for people, one line each on stderr. Stdout is data.

use std::fmt::Display;
use std::io::Write as _;
use std::sync::atomic::{AtomicU8, Ordering};

use anstream::ColorChoice;

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

/// Sets how many messages are written, and whether in colour.
pub(crate) fn set(volume: Volume, color: ColorChoice) {
    VOLUME.store(volume as u8, Ordering::Relaxed);
    color.write_global();
}

fn line(volume: Volume, prefix: &str, line: impl Display) {
    if VOLUME.load(Ordering::Relaxed) >= volume as u8 {
        let line = printable(&line.to_string());
        // A closed stderr is no reason to end.
        let _ = writeln!(anstream::stderr(), "edge-agent: {prefix}{line}");
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

//! What is said to people: on stderr, one line each; stdout is data.

use std::fmt::Display;
use std::io::Write as _;
use std::sync::atomic::{AtomicU8, Ordering};

use anstream::ColorChoice;

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Volume {
    /// Only what a person should look at.
    Quiet,
    /// What happens.
    Normal,
    /// How, too.
    Verbose,
}

/// Set once, before anything is said; a logger's level, not a setting that code decides by.
static VOLUME: AtomicU8 = AtomicU8::new(Volume::Normal as u8);

/// Decides how much is said, and in which colours.
pub(crate) fn set(volume: Volume, color: ColorChoice) {
    VOLUME.store(volume as u8, Ordering::Relaxed);
    color.write_global();
}

fn line(volume: Volume, prefix: &str, line: impl Display) {
    if VOLUME.load(Ordering::Relaxed) >= volume as u8 {
        // Nobody may be listening any more, and that is no reason to end.
        let _ = writeln!(anstream::stderr(), "edge-agent: {prefix}{line}");
    }
}

/// Says what happened.
pub(crate) fn say(text: impl Display) {
    line(Volume::Normal, "", text);
}

/// Says how it happened: for whoever asked with `-v`.
pub(crate) fn detail(text: impl Display) {
    line(Volume::Verbose, "", text);
}

/// Says what a person should look at.
pub(crate) fn warn(text: impl Display) {
    line(Volume::Quiet, "\x1b[33mwarning:\x1b[0m ", text);
}

/// Says why the program ends.
pub(crate) fn error(text: impl Display) {
    line(Volume::Quiet, "\x1b[31merror:\x1b[0m ", text);
}

/// Says what could be done about it.
pub(crate) fn hint(text: impl Display) {
    line(Volume::Normal, "\x1b[36mhint:\x1b[0m ", text);
}

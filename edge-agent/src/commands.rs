//! The commands beside `up`. Each reads what `up` stores, or calls the relay.

pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod forget;
pub(crate) mod init;
pub(crate) mod inspect;
pub(crate) mod replay;
pub(crate) mod send;
pub(crate) mod service;
mod source;
pub(crate) mod status;
pub(crate) mod verify;

use std::io::{ErrorKind, Write as _};

use anyhow::Context as _;
use serde::Serialize;

use crate::failure::Failure;

/// Writes to stdout. A reader that has closed it is no error.
pub(crate) fn print(text: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written.context("cannot write to stdout")?),
    }
}

/// Writes one line of JSON to stdout.
pub(crate) fn print_json(facts: &impl Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_vec(facts).context("cannot write JSON")?;
    line.push(b'\n');
    print(&line)
}

//! The commands beside `up`: each reads what `up` keeps, or asks the relay.

pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod forget;
pub(crate) mod init;
pub(crate) mod replay;
pub(crate) mod send;
pub(crate) mod service;
pub(crate) mod status;
pub(crate) mod verify;

use std::io::{ErrorKind, Write as _};

use anyhow::Context as _;
use serde::Serialize;

use crate::cli::Context;
use crate::failure::Failure;
use crate::registration::Registration;
use crate::store::Store;

/// Writes to stdout; whoever reads may have read enough.
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

impl Context {
    /// The events, if any were ever stored.
    fn store(&self) -> Result<Store, Failure> {
        let path = self.home.events();
        if !path.exists() {
            return Err(Failure::Unhealthy(format!(
                "there are no events in `{}`: `edge-agent up` receives them",
                self.home.directory().display()
            )));
        }
        Ok(Store::open_existing(&path)?)
    }

    fn registration(&self) -> Result<Registration, Failure> {
        Registration::read(&self.home.registration())?.ok_or_else(|| {
            Failure::Unhealthy(format!(
                "there is no registration in `{}`: `edge-agent up` registers",
                self.home.directory().display()
            ))
        })
    }
}

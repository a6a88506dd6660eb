//! Which relays get the Linear token: those that the user has named, and not those that a project's file alone names, since a
//! project can be somebody else's.

use std::io::{IsTerminal as _, Write as _};

use url::Url;

use crate::config::Config;
use crate::data_directory::DataDirectory;
use crate::failure::Failure;
use crate::registration::Registration;

/// Refuses a relay that a project's file alone names and that is not known yet. On a terminal, the user is asked.
pub(crate) fn verify(directory: &DataDirectory, config: &Config) -> Result<(), Failure> {
    let (Some(file), false) = (&config.project, config.trust_project) else {
        return Ok(());
    };
    let registration = Registration::read(&directory.registration())?;
    let is_registered = registration.is_some_and(|known| known.relay == config.relay.as_str());
    if is_registered || is_named(directory, &config.relay) {
        return Ok(());
    }
    let relay = &config.relay;
    let file = file.display();
    let question =
        format!("`{file}` names the relay {relay}, which gets your Linear token. Is it yours?");
    match ask(&question) {
        Some(true) => name(directory, relay),
        Some(false) => Err(Failure::Configuration("nothing was sent to it".to_owned())),
        None => Err(Failure::Configuration(format!(
            "`{file}` alone names the relay {relay}, which would get your Linear token: if it is yours, use `--trust-project`, \
             or name it by `--relay`"
        ))),
    }
}

/// Remembers a relay that the user has named.
pub(crate) fn name(directory: &DataDirectory, relay: &Url) -> Result<(), Failure> {
    if is_named(directory, relay) {
        return Ok(());
    }
    let mut all = named(directory);
    all.push_str(&format!("{relay}\n"));
    directory.write_private(&directory.relays(), all.as_bytes())
}

fn named(directory: &DataDirectory) -> String {
    std::fs::read_to_string(directory.relays()).unwrap_or_default()
}

fn is_named(directory: &DataDirectory, relay: &Url) -> bool {
    named(directory).lines().any(|line| line == relay.as_str())
}

/// Asks a question on the terminal; none if there is no terminal.
pub(crate) fn ask(question: &str) -> Option<bool> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return None;
    }
    let question = crate::printable::printable(question);
    let _ = write!(anstream::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).ok()?;
    Some(matches!(answer.trim(), "y" | "Y" | "yes"))
}

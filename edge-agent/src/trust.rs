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
    // A project that names the directory can have put a registration there.
    let registration = match config.project_has_data {
        true => None,
        false => Registration::read(&directory.registration())?,
    };
    let is_registered = registration.is_some_and(|known| known.relay == config.relay.as_str());
    if is_registered || is_named(&config.relay) {
        return Ok(());
    }
    let relay = &config.relay;
    let file = file.display();
    let question =
        format!("`{file}` names the relay {relay}, which gets your Linear token. Is it yours?");
    match ask(&question) {
        Some(true) => name(relay),
        Some(false) => Err(Failure::Configuration("nothing was sent to it".to_owned())),
        None => Err(Failure::Configuration(format!(
            "`{file}` alone names the relay {relay}, which would get your Linear token: if it is yours, use `--trust-project`, \
             or name it by `--relay`"
        ))),
    }
}

/// Remembers a relay that the user has named: in the user's own directory, whatever directory a project names.
pub(crate) fn name(relay: &Url) -> Result<(), Failure> {
    if is_named(relay) {
        return Ok(());
    }
    let directory = DataDirectory::new(None)?;
    let all = format!("{}{relay}\n", named());
    directory.write_private(&directory.relays(), all.as_bytes())
}

fn named() -> String {
    let directory = DataDirectory::new(None).ok();
    directory
        .and_then(|directory| std::fs::read_to_string(directory.relays()).ok())
        .unwrap_or_default()
}

fn is_named(relay: &Url) -> bool {
    named().lines().any(|line| line == relay.as_str())
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

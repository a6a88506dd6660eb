//! `forget`: removes the worker and its mailbox from the relay, and the registration from this machine.

use super::print_json;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::info;
use crate::relay::{CallError, Relay};

pub(crate) async fn run(context: &Context) -> Result<(), Failure> {
    let registration = context.registration()?;
    if context.directory.is_in_use() {
        return Err(Failure::Configuration(
            "edge-agent runs, and would register again: stop it first (`edge-agent service uninstall`, if it is a service)"
                .to_owned(),
        ));
    }
    let _lock = context.directory.lock()?;
    let base = url::Url::parse(&registration.relay).map_err(anyhow::Error::from)?;
    let relay = Relay::new(base)?;
    let was_there = match relay.remove(&registration).await {
        Ok(()) => true,
        Err(error) if error.is_unknown_worker() || error.is_replaced() => false,
        Err(CallError::Refused(problem)) => {
            return Err(Failure::Refused(format!(
                "the relay refused: {}",
                problem.detail
            )));
        }
        Err(CallError::Later { reason, .. }) => {
            return Err(Failure::Failed(anyhow::anyhow!(
                "{reason}; nothing was removed"
            )));
        }
    };
    let file = context.directory.registration();
    std::fs::remove_file(&file)
        .map_err(|error| anyhow::anyhow!("cannot remove `{}`: {error}", file.display()))?;
    if context.json {
        print_json(&serde_json::json!({ "worker": registration.name, "removed": was_there }))?;
    }
    info(if was_there {
        format!(
            "`{}` and what waited for it are gone from the relay",
            registration.name
        )
    } else {
        format!("the relay did not know `{}` any more", registration.name)
    });
    info("the events received so far are still here");
    Ok(())
}

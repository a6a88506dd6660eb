//! Whether events are received and handled, and if not, why.

use crate::report::Status;
use crate::store::Store;

/// Why events are not received or not handled, if they are not. `status` is that of the running agent.
pub(crate) async fn why_unhealthy(
    status: Option<&Status>,
    store: Option<&Store>,
) -> anyhow::Result<Option<String>> {
    let why = unhealthy(status);
    match (&why, status, store) {
        (None, Some(status), Some(store)) => failing(status, store).await,
        _ => Ok(why),
    }
}

/// A handler of the running agent whose last attempt failed, and how.
pub(crate) async fn failing(status: &Status, store: &Store) -> anyhow::Result<Option<String>> {
    let last = store.last_attempts().await?;
    let failed = last.into_iter().find(|(handler, outcome, _)| {
        let is_configured = status
            .handlers
            .iter()
            .any(|known| known.handler == *handler);
        is_configured && matches!(outcome.as_str(), "retry" | "failed")
    });
    Ok(failed.map(|(handler, _, result)| format!("{handler} failed at its last event: {result}")))
}

/// Why events are not handled, if they are not.
fn unhealthy(status: Option<&Status>) -> Option<String> {
    let Some(status) = status else {
        return Some("edge-agent is not running: start it with `edge-agent up`".to_owned());
    };
    if let Some(problem) = &status.problem {
        return Some(problem.clone());
    }
    if status.clock_ahead_s != 0 {
        return Some(status.clock());
    }
    if let Some(refused) = &status.refused {
        return Some(format!("a delivery was refused at {refused}"));
    }
    if status.state.is_none() {
        return Some("it is not registered yet".to_owned());
    }
    (status.handlers.iter())
        .find(|handler| handler.is_there == Some(false))
        .map(|handler| {
            let why = handler.why.as_deref().unwrap_or_default();
            format!(
                "{} is not there: {why}; events wait for it",
                handler.handler
            )
        })
}

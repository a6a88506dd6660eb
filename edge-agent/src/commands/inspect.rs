//! `inspect`: prints the address of the inspector of the running agent, with its key.

use serde::Serialize;

use super::source::RunningAgent;
use super::{print, print_json};
use crate::context::Context;
use crate::failure::Failure;

#[derive(Serialize)]
struct InspectorFacts<'a> {
    address: &'a str,
}

pub(crate) fn run(context: &Context) -> Result<(), Failure> {
    let unhealthy = |why: &str| Failure::Unhealthy(why.to_owned());
    if !context.directory.is_in_use() {
        let why = "edge-agent is not running: start it with `edge-agent up`";
        return Err(unhealthy(why));
    }
    let agent = RunningAgent::find(context)?.ok_or_else(|| {
        unhealthy("the running edge-agent has no inspector: start it without `--inspect off`")
    })?;
    let address = agent.address_with_key();
    if context.json {
        return print_json(&InspectorFacts { address: &address });
    }
    print(format!("{address}\n").as_bytes())
}

//! `inspect`: prints the address of the inspector of the running agent, with its key.

use serde::Serialize;

use super::{print, print_json};
use crate::context::Context;
use crate::failure::Failure;
use crate::{inspector, report};

#[derive(Serialize)]
struct InspectorFacts<'a> {
    address: &'a str,
}

pub(crate) fn run(context: &Context) -> Result<(), Failure> {
    let unhealthy = |why: &str| Failure::Unhealthy(why.to_owned());
    let directory = &context.directory;
    let status = report::read(&directory.report())
        .filter(|_| directory.is_in_use())
        .ok_or_else(|| unhealthy("edge-agent is not running: start it with `edge-agent up`"))?;
    let address = (status.inspector)
        .and_then(|address| inspector::address_with_key(&address, &directory.inspector_key()))
        .ok_or_else(|| {
            unhealthy("the running edge-agent has no inspector: start it without `--inspect off`")
        })?;
    if context.json {
        return print_json(&InspectorFacts { address: &address });
    }
    print(format!("{address}\n").as_bytes())
}

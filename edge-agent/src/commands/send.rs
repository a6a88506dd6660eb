//! `send`: sends a signed delivery to the agent that runs here, as the relay does.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use protocol::clock::UnixMillis;
use protocol::envelope;
use protocol::headers::{
    EDGE_ATTEMPT, LINEAR_DELIVERY, LINEAR_EVENT, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP,
};
use protocol::problem::Problem;
use protocol::signature::{Secret, sign};

use super::print_json;
use crate::context::Context;
use crate::failure::Failure;
use crate::handler::linear::stamped;
use crate::output::{hint, info};
use crate::registration::Registration;
use crate::report::{self, Status};
use crate::samples::{self, SAMPLES};

/// The arguments.
#[derive(Debug, Args)]
pub(crate) struct Send {
    /// A body to send as it is; `-` reads stdin [default: a sample]
    #[arg(value_name = "FILE", conflicts_with = "kind")]
    file: Option<PathBuf>,
    /// Which sample: `Issue.create`, `Comment`, `AgentSessionEvent.prompted`
    #[arg(long = "type", value_name = "T", default_value = "Issue.create", value_parser = sample)]
    kind: &'static str,
}

fn sample(name: &str) -> Result<&'static str, String> {
    samples::find(name).ok_or_else(|| {
        let known: Vec<_> = SAMPLES.iter().map(|(name, _)| *name).collect();
        format!("there are samples of {}", known.join(", "))
    })
}

/// The status and the registration of the agent that runs here.
pub(super) fn running(context: &Context) -> Result<(Status, Registration), Failure> {
    let status =
        report::read(&context.directory.report()).filter(|_| context.directory.is_in_use());
    let status = status.ok_or_else(|| {
        Failure::Unhealthy("edge-agent is not running: start it with `edge-agent up`".to_owned())
    })?;
    Ok((status, context.registration()?))
}

/// The headers of a signature as the relay makes it.
pub(super) fn signed(
    registration: &Registration,
    id: &str,
    body: &[u8],
    now: UnixMillis,
) -> [(&'static str, String); 4] {
    let secrets = [&registration.secrets.current];
    [
        (WEBHOOK_ID, id.to_owned()),
        (WEBHOOK_TIMESTAMP, (now / 1000).to_string()),
        (WEBHOOK_SIGNATURE, sign(secrets, id, now / 1000, body)),
        (EDGE_ATTEMPT, "1".to_owned()),
    ]
}

pub(crate) async fn run(context: &Context, arguments: Send) -> Result<(), Failure> {
    let body = match &arguments.file {
        None => stamped(arguments.kind.trim_end().as_bytes(), context.clock.millis()),
        Some(file) => read_body(file)?,
    };
    let (status, registration) = running(context)?;
    let random = Secret::generate().expose();
    let id = format!("evt_sent-{}", &envelope::digest(random.as_bytes())[..24]);
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(30))
        .build()
        .map_err(anyhow::Error::from)?;
    let mut request = client.post(format!("http://{}/webhook", status.listen));
    for (name, value) in signed(&registration, &id, &body, context.clock.millis()) {
        request = request.header(name, value);
    }
    let kind = std::str::from_utf8(&body)
        .ok()
        .and_then(|body| envelope::parse(body).ok())
        .map_or_else(String::new, |read| read.kind.into_owned());
    let answer = request
        .header(LINEAR_EVENT, kind)
        .header(LINEAR_DELIVERY, &id["evt_".len()..])
        .header("content-type", "application/json; charset=utf-8")
        .header(
            "user-agent",
            concat!("edge-relay/", env!("CARGO_PKG_VERSION")),
        )
        .body(body)
        .send()
        .await
        .context("the agent cannot be reached")?;
    let answered = answer.status();
    if !answered.is_success() {
        let problem = answer.json::<Problem>().await;
        let detail = problem.map_or_else(|_| answered.to_string(), |problem| problem.detail);
        return Err(Failure::Failed(anyhow::anyhow!(
            "the agent did not take it: {detail}"
        )));
    }
    if context.json {
        print_json(&serde_json::json!({ "id": id, "status": answered.as_u16() }))?;
    } else {
        super::print(format!("{id}\n").as_bytes())?;
    }
    info("verified and stored");
    hint(format_args!(
        "`edge-agent events {id}` tells what became of it"
    ));
    Ok(())
}

fn read_body(file: &std::path::Path) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().read_to_end(&mut body).map(drop)
    } else {
        std::fs::read(file).map(|read| body = read)
    };
    read.map_err(|error| {
        Failure::Configuration(format!("cannot read `{}`: {error}", file.display()))
    })?;
    if std::str::from_utf8(&body).is_err() {
        return Err(Failure::Configuration(
            "a body has to be UTF-8, as the relay's are".to_owned(),
        ));
    }
    Ok(body)
}

//! `doctor`: checks everything between Linear and the user's code, and advises what to do.

use std::time::Duration;

use protocol::messages::{Control, WorkerState};
use serde::Serialize;
use url::Url;

use super::send::signed;
use super::{print, print_json};
use crate::config::{Config, Route, Settings};
use crate::context::Context;
use crate::failure::Failure;
use crate::health::failing;
use crate::printable::printable;
use crate::registration::Registration;
use crate::relay::{CallError, Relay};
use crate::report::{self, Status};
use crate::target::is_on_loopback;
use crate::tunnel::Program;

/// How far this clock may be from the relay's: signatures are taken within 300 s.
const CLOCK_SKEW_SECONDS: i64 = 60;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Check {
    check: &'static str,
    is_well: bool,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

#[derive(Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn well(&mut self, check: &'static str, found: impl Into<String>) {
        self.0.push(Check {
            check,
            is_well: true,
            found: found.into(),
            advice: None,
        });
    }

    fn wrong(&mut self, check: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.0.push(Check {
            check,
            is_well: false,
            found: found.into(),
            advice: Some(advice.into()),
        });
    }
}

pub(crate) async fn run(context: &Context, flags: Settings) -> Result<(), Failure> {
    let mut checks = Checks::default();
    let config = flags
        .over(context.settings.clone())
        .config(context.file.clone());
    let config = match config {
        Ok(config) => {
            let from = config.file.as_ref().map_or_else(
                || "flags and environment alone".to_owned(),
                |file| file.display().to_string(),
            );
            checks.well("configuration", from);
            Some(config)
        }
        Err(error) => {
            checks.wrong(
                "configuration",
                error.to_string(),
                "`edge-agent init` writes one that is right",
            );
            None
        }
    };
    let status =
        report::read(&context.directory.report()).filter(|_| context.directory.is_in_use());
    match &status {
        Some(status) => checks.well("agent", format!("running as process {}", status.pid)),
        None => checks.wrong(
            "agent",
            "not running",
            "start it: `edge-agent up`, or `edge-agent service install`",
        ),
    }
    let registration = registration(context, &mut checks);
    if let Some(registration) = &registration {
        relay(context, registration, &mut checks).await?;
    }
    match (&status, &config) {
        (Some(status), _) => running(context, status, &mut checks).await?,
        (None, Some(config)) => {
            tunnel(config, &mut checks);
            handlers(config, &mut checks).await;
        }
        (None, None) => {}
    }
    if let (Some(status), Some(registration)) = (&status, &registration) {
        around(context, config.as_ref(), status, registration, &mut checks).await?;
    }
    tell(context, &checks)
}

fn registration(context: &Context, checks: &mut Checks) -> Option<Registration> {
    let registration = Registration::read(&context.directory.registration());
    match registration {
        Ok(Some(registration)) => {
            checks.well(
                "registration",
                format!(
                    "`{}` in workspace `{}`",
                    registration.name, registration.workspace.name
                ),
            );
            Some(registration)
        }
        Ok(None) => {
            checks.wrong(
                "registration",
                "none",
                "set LINEAR_TOKEN and start `edge-agent up`: it registers",
            );
            None
        }
        Err(error) => {
            checks.wrong("registration", error.to_string(), "as it says");
            None
        }
    }
}

fn tell(context: &Context, checks: &Checks) -> Result<(), Failure> {
    if context.json {
        print_json(&checks.0)?;
    } else {
        let mut text = String::new();
        for check in &checks.0 {
            let mark = if check.is_well { "ok   " } else { "WRONG" };
            let found = printable(&check.found);
            text.push_str(&format!("{mark}  {:<13} {found}\n", check.check));
            if let Some(advice) = &check.advice {
                text.push_str(&format!("{:21}{}\n", "", printable(advice)));
            }
        }
        print(text.as_bytes())?;
    }
    match checks.0.iter().filter(|check| !check.is_well).count() {
        0 => Ok(()),
        wrong => Err(Failure::Unhealthy(format!(
            "{wrong} of {} checks failed",
            checks.0.len()
        ))),
    }
}

/// Checks the relay, the worker's state there, and the clock.
async fn relay(
    context: &Context,
    registration: &Registration,
    checks: &mut Checks,
) -> Result<(), Failure> {
    let base = Url::parse(&registration.relay).map_err(anyhow::Error::from)?;
    let relay = Relay::new(base)?;
    let worker = match relay.read(registration).await {
        Ok(worker) => worker,
        Err(CallError::Refused(problem)) => {
            checks.wrong(
                "relay",
                problem.detail,
                "start `edge-agent up` with LINEAR_TOKEN: it registers again",
            );
            return Ok(());
        }
        Err(CallError::Later { reason, .. }) => {
            checks.wrong(
                "relay",
                reason,
                "check `relay`, the network, and HTTPS_PROXY; a private CA goes into the system's trust store, or SSL_CERT_FILE",
            );
            return Ok(());
        }
    };
    let mut found = match worker.state {
        WorkerState::Pull => format!("`{}` is a pull worker", worker.name),
        state => format!("`{}` is {}", worker.name, state.as_str()),
    };
    if worker.waiting {
        found.push_str(", and mail waits for it");
    }
    match (&worker.last_error, worker.state) {
        (Some(error), WorkerState::Away) => checks.wrong(
            "relay",
            format!(
                "{found}; the last attempt failed at {}: {}",
                error.at, error.reason
            ),
            "start `edge-agent up`: it pulls what waits, and is live again",
        ),
        _ => checks.well("relay", found),
    }
    if let Some(date) = relay.date() {
        let skew = (context.clock.millis() - date) / 1000;
        if skew.abs() <= CLOCK_SKEW_SECONDS {
            checks.well("clock", "as the relay's");
        } else {
            checks.wrong(
                "clock",
                format!(
                    "{} s {} the relay's",
                    skew.abs(),
                    if skew > 0 { "ahead of" } else { "behind" }
                ),
                "set this machine's clock by NTP: deliveries are refused more than 300 s off",
            );
        }
    }
    Ok(())
}

/// What the running agent reports: it may have been started with other settings than these.
async fn running(context: &Context, status: &Status, checks: &mut Checks) -> Result<(), Failure> {
    match (&status.address, &status.tunnel) {
        (Some(address), _) => checks.well("address", address),
        (None, Some(tunnel)) => checks.wrong(
            "address",
            format!("{tunnel} has none yet"),
            "see what `edge-agent up -v` says of it: it may need a login",
        ),
        (None, None) => checks.well("address", format!("none: it asks every {}", status.poll)),
    }
    if let Some(problem) = &status.problem {
        checks.wrong("problem", problem, "see what `edge-agent up` says");
    }
    if let Some(refused) = &status.refused {
        checks.wrong(
            "deliveries",
            format!("one was refused at {refused}"),
            "if nothing else comes: it may have been a stranger's; if events are missing, see what `edge-agent up` says",
        );
    }
    if status.handlers.is_empty() {
        checks.well("handler", "none: events are printed on stdout");
    }
    for handler in &status.handlers {
        match (&handler.is_there, &handler.why) {
            (Some(false), why) => checks.wrong(
                "handler",
                format!(
                    "{}: {}",
                    handler.handler,
                    why.as_deref().unwrap_or_default()
                ),
                "start it; events wait for it meanwhile",
            ),
            _ => checks.well("handler", &handler.handler),
        }
    }
    if let Some(failing) = failing(status, &context.store()?).await? {
        checks.wrong(
            "last event",
            failing,
            "`edge-agent events` has what it answered; `edge-agent replay --failed` hands it over again",
        );
    }
    Ok(())
}

fn tunnel(config: &Config, checks: &mut Checks) {
    match &config.route {
        Route::Pull => checks.well("address", format!("none: it asks every {}", config.poll)),
        Route::PublicUrl(url) => checks.well("address", report::shown(url)),
        Route::Tunnel(choice) => match Program::choose(*choice) {
            Err(error) => checks.wrong("address", error.to_string(), "as it says"),
            Ok(None) => checks.well("address", "no tunnel program is installed: it pulls"),
            Ok(Some(program)) => checks.well("address", format!("from {}", program.name())),
        },
    }
}

async fn handlers(config: &Config, checks: &mut Checks) {
    if config.rules.is_empty() {
        checks.well("handler", "none: events are printed on stdout");
    }
    for rule in &config.rules {
        match rule.action.presence().await {
            Ok(()) => checks.well("handler", format!("{} for {}", rule.action, rule.pattern)),
            Err(why) => checks.wrong(
                "handler",
                format!("{} for {}: {why}", rule.action, rule.pattern),
                "start it; events wait for it meanwhile",
            ),
        }
    }
}

/// Sends a signed ping to the public address if there is one, else to the receiver.
async fn around(
    context: &Context,
    config: Option<&Config>,
    status: &Status,
    registration: &Registration,
    checks: &mut Checks,
) -> Result<(), Failure> {
    let public = match (config.map(|config| &config.route), &status.address) {
        (Some(Route::PublicUrl(url)), Some(_)) => Some(url.to_string()),
        (_, address) => address.clone(),
    };
    let (what, url) = match public {
        Some(url) => ("through the public address", url),
        None => (
            "to the receiver",
            format!("http://{}/webhook", status.listen),
        ),
    };
    let body = serde_json::to_vec(&Control::Ping {
        waiting: false,
        withheld: false,
    })
    .map_err(anyhow::Error::from)?;
    let now = context.clock.millis();
    let mut client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(10));
    if url.parse().is_ok_and(|url| is_on_loopback(&url)) {
        client = client.no_proxy();
    }
    let client = client.build().map_err(anyhow::Error::from)?;
    let mut request = client.post(url);
    for (name, value) in signed(registration, "ping_doctor", &body, now) {
        request = request.header(name, value);
    }
    let began = std::time::Instant::now();
    match request.body(body).send().await {
        Ok(answer) if answer.status().is_success() => checks.well(
            "ping",
            format!(
                "a signed ping came round {what} in {} ms",
                began.elapsed().as_millis()
            ),
        ),
        Ok(answer) => checks.wrong(
            "ping",
            format!(
                "a signed ping {what} was answered {}",
                answer.status().as_u16()
            ),
            "see what `edge-agent up` says: which check failed",
        ),
        Err(error) => checks.wrong(
            "ping",
            format!(
                "a signed ping {what} did not come round: {}",
                crate::cause::root_cause(&error.without_url())
            ),
            "check the tunnel, and that it leads to where the agent listens",
        ),
    }
    Ok(())
}

//! Translates an event of the schedule, calls [`Health::run`], and responds with the number of workers.

use std::process::ExitCode;

use futures::join;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use protocol::clock::Clock;
use relay::aws::Clients;
use relay::config::{Deployment, HealthConfig, Resources, Settings, environment, verify_access};
use relay::health::{Health, ScheduledRun};
use relay::logging;
use relay::queue::Queue;
use relay::table::Table;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The schedule's event: its nominal time, and the part of the shards for this run.
#[derive(Debug, Deserialize)]
pub struct ScheduleEvent {
    /// RFC 3339; EventBridge Scheduler's `<aws.scheduler.scheduled-time>`.
    pub time: String,
    /// From 0.
    pub part: u32,
    /// How many parts there are.
    pub of: u32,
}

/// What the function is called with.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Event {
    /// `{"check":true}`, before a new version gets traffic: it has started, and that is all that is asked.
    Check {
        /// Always true.
        check: bool,
    },
    /// By the schedule.
    Scheduled(ScheduleEvent),
}

/// The response: how many workers there are.
#[derive(Debug, Default, Serialize)]
pub struct Counts {
    live: u64,
    away: u64,
    pull: u64,
    waiting: u64,
}

/// The settings that this function reads from its environment.
pub fn config(settings: &mut Settings<'_>) -> (Deployment, HealthConfig) {
    let deployment = Deployment::read(settings).with_queue(settings);
    (deployment, HealthConfig::read(settings))
}

/// Runs the function on Lambda, with the settings in the environment, until the process ends.
pub async fn run(clock: Clock) -> ExitCode {
    let mut settings = Settings::new(&environment);
    let (deployment, config) = config(&mut settings);
    logging::json();
    let serve = async {
        let (deployment, config) = settings.finish((deployment, config))?;
        let clients = Clients::new(&deployment.aws);
        let health = start(clients, deployment.resources, config, clock).await?;
        lambda_runtime::run(service_fn(|event: LambdaEvent<_>| handle(&health, event))).await
    };
    logging::exit_code(serve.await)
}

/// Wires the function and verifies that its resources are accessible.
///
/// # Errors
///
/// A resource is not accessible, or the certificate authorities of this machine cannot be read.
pub async fn start(
    clients: Clients,
    resources: Resources,
    config: HealthConfig,
    clock: Clock,
) -> Result<Health, Error> {
    let table = Table::new(clients.dynamodb, resources.table, clock.clone());
    let queue = Queue::new(clients.sqs, resources.queue);
    let (table_access, queue_access) = join!(table.verify_access(), queue.verify_access());
    verify_access([
        ("TABLE_NAME", table_access.map_err(Into::into)),
        ("QUEUE_URL", queue_access.map_err(Into::into)),
    ])?;
    Ok(Health::new(&config, clients.network, table, queue, clock)?)
}

/// Runs once; a check counts nobody.
///
/// # Errors
///
/// The event is malformed, or the workers could not be read.
pub async fn handle(health: &Health, event: LambdaEvent<Event>) -> Result<Counts, Error> {
    let ScheduleEvent { time, part, of } = match event.payload {
        Event::Check { .. } => return Ok(Counts::default()),
        Event::Scheduled(event) => event,
    };
    let at = OffsetDateTime::parse(&time, &Rfc3339)
        .map_err(|_| "`time` has to be a moment in the form of RFC 3339")?;
    let run = ScheduledRun::new(at.unix_timestamp() * 1000, part, of)?;
    let counts = health.run(run).await?;
    Ok(Counts {
        live: counts.live,
        away: counts.away,
        pull: counts.pull,
        waiting: counts.waiting,
    })
}

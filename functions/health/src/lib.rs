//! A run of the schedule in, [`Health::tick`], how many workers there are out.

use lambda_runtime::{Error, LambdaEvent};
use relay::aws::Clients;
use relay::clock::Clock;
use relay::config::{ConfigError, HealthConfig, Places, Settings, Uses, usable};
use relay::health::{Health, Tick};
use relay::table::Table;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What the schedule says: its own moment, and which part of the shards this run is for.
#[derive(Debug, Deserialize)]
pub struct Scheduled {
    /// RFC 3339; EventBridge Scheduler's `<aws.scheduler.scheduled-time>`.
    pub time: String,
    /// From 0.
    pub part: u32,
    /// How many parts there are.
    pub of: u32,
}

/// What a run answers.
#[derive(Debug, Serialize)]
pub struct Answer {
    live: u64,
    away: u64,
    pull: u64,
    waiting: u64,
}

/// What this function reads from its environment.
pub fn config(settings: &mut Settings<'_>) -> (Places, HealthConfig) {
    (
        Places::read(settings, Uses::default()),
        HealthConfig::read(settings),
    )
}

/// Everything that a run needs, once it is known to be usable.
pub async fn start(places: Places, config: HealthConfig) -> Result<Health, Error> {
    let clients = Clients::new(&places.aws);
    let clock = Clock::system();
    let table = Table::new(clients.dynamodb, places.table, clock.clone());
    check(&table).await?;
    Ok(Health::new(&config, table, clock)?)
}

/// Whether everything can be used.
pub async fn check(table: &Table) -> Result<(), ConfigError> {
    usable([("TABLE_NAME", table.check().await)])
}

/// Runs once.
pub async fn handle(health: &Health, event: LambdaEvent<Scheduled>) -> Result<Answer, Error> {
    let Scheduled { time, part, of } = event.payload;
    let at = OffsetDateTime::parse(&time, &Rfc3339)
        .map_err(|_| "`time` has to be a moment in the form of RFC 3339")?;
    let at = at.unix_timestamp() * 1000;
    let roll = health.tick(Tick::new(at, part, of)?).await?;
    Ok(Answer {
        live: roll.live,
        away: roll.away,
        pull: roll.pull,
        waiting: roll.waiting,
    })
}

//! Runs `ingest` on Lambda.

use lambda_http::{Error, Request, run, service_fn};
use relay::aws::Clients;
use relay::clock::Clock;
use relay::config::{IngestConfig, Places, Settings, environment};
use relay::ingest::Ingest;
use relay::queue::Queue;
use relay::table::Table;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    relay::logging::json("info");
    let mut settings = Settings::new(&environment);
    let places = Places::read(&mut settings, true, false);
    let config = IngestConfig::read(&mut settings);
    let (places, config) = settings.finish((places, config))?;
    let clients = Clients::from_environment().await;
    let clock = Clock::system();
    let table = Table::new(clients.dynamodb, places.table, clock.clone());
    let ingest = Ingest::new(config, table, Queue::new(clients.sqs, places.queue), clock);
    run(service_fn(|request: Request| {
        ingest::handle(&ingest, request)
    }))
    .await
}

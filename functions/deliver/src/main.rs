//! Runs `deliver` on Lambda.

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use relay::aws::Clients;
use relay::clock::Clock;
use relay::config::{DeliverConfig, Places, Settings, environment};
use relay::deliver::Deliver;
use relay::outbound::Reach;
use relay::queue::Queue;
use relay::table::Table;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    relay::logging::json("info");
    let mut settings = Settings::new(&environment);
    let places = Places::read(&mut settings, true, true);
    let config = DeliverConfig::read(&mut settings, Reach::Public);
    let (places, config) = settings.finish((places, config))?;
    let clients = Clients::from_environment().await;
    let clock = Clock::system();
    let table = Table::new(clients.dynamodb, places.table, clock.clone());
    let queue = Queue::new(clients.sqs.clone(), places.queue);
    let dead_letters = Queue::new(clients.sqs, places.dead_letters);
    let deliver = Deliver::new(config, table, queue, dead_letters, clock)?;
    run(service_fn(|event: LambdaEvent<_>| {
        deliver::handle(&deliver, event)
    }))
    .await
}

//! Runs `register` on Lambda.

use lambda_http::{Error, Request, run, service_fn};
use relay::aws::Clients;
use relay::clock::Clock;
use relay::config::{Places, RegisterConfig, Settings, environment};
use relay::outbound::Reach;
use relay::register::Register;
use relay::table::Table;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    relay::logging::json("info");
    let mut settings = Settings::new(&environment);
    let places = Places::read(&mut settings, false, false);
    let config = RegisterConfig::read(&mut settings, Reach::Public);
    let (places, config) = settings.finish((places, config))?;
    let clients = Clients::from_environment().await;
    let clock = Clock::system();
    let table = Table::new(clients.dynamodb, places.table, clock.clone());
    let register = Register::new(config, table, clock)?;
    run(service_fn(|request: Request| {
        register::handle(&register, request)
    }))
    .await
}

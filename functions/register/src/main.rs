//! Runs `register` on Lambda.

use std::process::ExitCode;

use lambda_http::{Request, run, service_fn};
use protocol::clock::Clock;
use relay::aws::Clients;
use relay::config::{Settings, environment};
use relay::logging;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut settings = Settings::new(&environment);
    let (deployment, config) = register::config(&mut settings);
    logging::json();
    let serve = async {
        let (deployment, config) = settings.finish((deployment, config))?;
        let clients = Clients::new(&deployment.aws);
        let clock = Clock::system();
        let register = register::start(clients, deployment.resources, config, clock).await?;
        run(service_fn(|request: Request| {
            register::handle(&register, request)
        }))
        .await
    };
    logging::exit_code(serve.await)
}
